//! The report page, from its parts.

use chart::{Chart, Size};

use crate::config::Config;
use crate::error::Error;
use crate::page::Page;
use crate::scores::Table;
use crate::source::{Contents, Inputs};
use crate::times::Telemetry;
use crate::verdict::Verdict;
use crate::{curves, data, examples, exports, reproduce, results, stages, statistics, tokens};

/// Contents of a report.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    pub(crate) inputs: &'a Inputs,
    pub(crate) contents: &'a Contents,
    pub(crate) table: &'a Table,
    pub(crate) verdict: Option<Verdict>,
    pub(crate) charts: &'a [(Chart, Size)],
    pub(crate) config: &'a Config,
}

impl Report<'_> {
    /// Writes the page; with `telemetry`, times and memory are on it.
    ///
    /// # Errors
    ///
    /// Fails when tokens cannot be read, or a number is not finite.
    pub(crate) fn write(&self, telemetry: Option<&Telemetry>) -> Result<String, Error> {
        let Self { inputs, contents, table, config, .. } = self;
        let mut sections = vec![results::scores(contents, table)];
        sections.extend(statistics::section(contents));
        sections.extend(exports::section(contents));
        sections.extend(curves::section(contents, self.charts, config)?);
        sections.extend(examples::sections(
            contents,
            table,
            config.samples as usize,
            config.regressions as usize,
        ));
        if let Some(folder) = &inputs.prepare_data {
            sections.extend(tokens::section(folder, config.token_rows as usize)?);
        }
        sections
            .extend(contents.dataset.as_ref().map(|stats| data::section(stats, contents.context.as_ref())));
        sections.extend(telemetry.map(Telemetry::section));
        sections.push(stages::section(contents, telemetry));
        sections.push(reproduce::section(contents)?);
        let foot = if telemetry.is_some() {
            "Made by Ashlar. The page in the folder data has the same figures without times, and is covered by the hashes."
        } else {
            "Made by Ashlar. The same artifacts and settings produce an identical page."
        };
        let page = Page {
            title: results::title(contents, config),
            header: results::head(contents, table, self.verdict.as_ref(), config),
            sections,
            foot: foot.to_owned(),
        };
        Ok(page.write())
    }
}
