//! The parts of a mixture: how many training rows each has, one part after another.

use std::path::Path;

use dataset::{Error, MixtureParts, Result};

use crate::config::Config;
use crate::stats::Stats;

/// Counts the training rows of each part, in the order of the parts' names, which is that of the rows.
pub(crate) struct Parts(MixtureParts);

impl Parts {
    pub(crate) fn new(config: &Config) -> Self {
        Self(MixtureParts { parts: config.mixture.keys().map(|name| (name.clone(), 0)).collect() })
    }

    pub(crate) fn count(&mut self, part: Option<&str>) {
        if let Some((_, rows)) = self.0.parts.iter_mut().find(|(name, _)| Some(name.as_str()) == part) {
            *rows += 1;
        }
    }

    pub(crate) fn discount(&mut self, part: Option<usize>) {
        if let Some(part) = part {
            self.0.parts[part].1 -= 1;
        }
    }

    /// The number of the part of each training row.
    pub(crate) fn of_rows(&self) -> impl Iterator<Item = Option<usize>> + use<> {
        let parts = self.0.parts.clone().into_iter().enumerate();
        parts.flat_map(|(part, (_, rows))| std::iter::repeat_n(Some(part), rows))
    }

    /// Writes them beside the tokens, if there are any.
    pub(crate) fn write(self, out: &Path, stats: &mut Stats) -> Result<()> {
        let Self(parts) = self;
        if parts.parts.is_empty() {
            return Ok(());
        }
        if let Some((name, _)) = parts.parts.iter().find(|(_, rows)| *rows == 0) {
            return Err(Error::Rows {
                reason: format!("the part `{name}` of the mixture has no training row"),
                hint: "give it more rows, loosen `where` or `max_tokens`, or leave it out".into(),
            });
        }
        parts.write(&out.join("tokens"))?;
        let train = stats.splits.entry("train").or_default();
        train.part_rows = parts.parts.into_iter().map(|(name, rows)| (name, rows as u64)).collect();
        Ok(())
    }
}
