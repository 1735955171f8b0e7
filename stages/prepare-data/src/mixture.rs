//! Training rows of each mixture component.

use std::path::Path;

use dataset::{Error, MixtureComponent, MixtureComponents, Result};
use outputs::Stats;

use crate::config::Config;

/// Counts the training rows of each mixture component. Rows come in the order of the components' names.
pub(crate) struct ComponentRows(MixtureComponents);

impl ComponentRows {
    pub(crate) fn new(config: &Config) -> Self {
        let components =
            config.mixture.keys().map(|name| MixtureComponent { name: name.clone(), rows: 0 }).collect();
        Self(MixtureComponents { components })
    }

    /// Counts a training row of `component`.
    pub(crate) fn add(&mut self, component: Option<&str>) {
        if let Some(found) = self.0.components.iter_mut().find(|found| Some(found.name.as_str()) == component)
        {
            found.rows += 1;
        }
    }

    /// Takes back a training row of the component with index `component`.
    pub(crate) fn remove(&mut self, component: Option<usize>) {
        if let Some(component) = component {
            self.0.components[component].rows -= 1;
        }
    }

    /// Returns the index of the component of each training row.
    pub(crate) fn component_of_rows(&self) -> impl Iterator<Item = Option<usize>> + use<> {
        let rows: Vec<usize> = self.0.components.iter().map(|component| component.rows).collect();
        rows.into_iter().enumerate().flat_map(|(component, rows)| std::iter::repeat_n(Some(component), rows))
    }

    /// Writes the components beside the tokens, unless there are none.
    ///
    /// # Errors
    ///
    /// Fails when a component has no training rows or the file cannot be written.
    pub(crate) fn write(self, out: &Path, stats: &mut Stats) -> Result<()> {
        let Self(mixture) = self;
        if mixture.components.is_empty() {
            return Ok(());
        }
        if let Some(empty) = mixture.components.iter().find(|component| component.rows == 0) {
            return Err(Error::Rows {
                reason: format!("the mixture component `{}` has no training rows", empty.name),
                hint: "give it more rows, loosen `where` or `max_tokens`, or remove it from `mixture`".into(),
            });
        }
        mixture.write(&out.join(outputs::TOKENS))?;
        let train = stats.splits.entry("train".to_owned()).or_default();
        let rows = mixture.components.into_iter().map(|component| (component.name, component.rows as u64));
        train.part_rows = rows.collect();
        Ok(())
    }
}
