//! Writing the page, the plots and the summary.

use std::path::Path;

use crate::config::Config;
use crate::error::Error;
use crate::source::{Contents, Inputs};
use crate::{curves, headline, page, scores};

/// Result of a report, for the terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The result in one sentence.
    pub headline: String,
    /// The score table in columns, each line ended.
    pub table: String,
}

/// Reads the artifacts and writes `report.html`, `plots/` and `summary.txt` into `out`.
///
/// # Errors
///
/// Fails when a file is missing, is not what its stage writes, or holds a number that is not finite.
pub fn write(inputs: &Inputs, config: &Config, out: &Path) -> Result<Summary, Error> {
    let contents = Contents::read(inputs)?;
    let table = scores::Table::compute(&contents, config)?;
    let charts = curves::charts(&contents, config);
    let page = page::write(&contents, &table, &charts, config)?;
    fs_err::create_dir_all(out)?;
    fs_err::write(out.join(outputs::REPORT), page)?;
    if !charts.is_empty() {
        fs_err::create_dir_all(out.join("plots"))?;
    }
    for (chart, size) in &charts {
        fs_err::write(
            out.join("plots").join(format!("{}.svg", chart.name)),
            chart.draw_alone(*size).to_string(),
        )?;
    }
    let sentences = [Some(headline::sentence(&contents, &table)), curves::stopped_early(&contents)];
    let headline = sentences.into_iter().flatten().collect::<Vec<_>>().join("; ");
    let summary = Summary { headline, table: headline::terminal(&table) };
    fs_err::write(out.join(outputs::SUMMARY_TEXT), format!("{}\n\n{}", summary.headline, summary.table))?;
    Ok(summary)
}
