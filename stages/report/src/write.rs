//! Writing the files of a report.

use std::path::Path;

use outputs::Document as _;

use crate::config::Config;
use crate::error::Error;
use crate::report::Report;
use crate::source::{Contents, Inputs};
use crate::times::Telemetry;
use crate::{computed, curves, headline, markdown, measured, record, verdict};

/// Result of a report, for the terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The result in one sentence.
    pub headline: String,
    /// The score table in columns, each line ended.
    pub table: String,
}

/// Folder for files that no hash covers.
#[derive(Debug, Clone, Copy)]
pub struct Aside<'a> {
    /// The folder.
    pub folder: &'a Path,
    /// When this run of the pipeline began, as in provenance.
    pub since: Option<&'a str>,
}

/// Reads the artifacts and writes the files of the report into `out`; the page with times goes `aside`.
///
/// # Errors
///
/// Fails when a file is missing, is not what its stage writes, or holds a number that is not finite.
pub fn write(
    inputs: &Inputs,
    config: &Config,
    out: &Path,
    aside: Option<Aside<'_>>,
) -> Result<Summary, Error> {
    let contents = Contents::read(inputs)?;
    let table = if contents.scores.metrics.is_empty() {
        computed::table(&contents, config)?
    } else {
        measured::table(&contents)
    };
    let charts = curves::charts(&contents, config);
    let verdict = verdict::verdict(&contents, &table);
    let report = Report { inputs, contents: &contents, table: &table, verdict, charts: &charts, config };
    fs_err::create_dir_all(out)?;
    fs_err::write(out.join(outputs::REPORT), report.write(None)?)?;
    fs_err::write(out.join(outputs::REPORT_MARKDOWN), markdown::write(&report))?;
    fs_err::write(out.join(outputs::RESULTS), record::csv(&table)?)?;
    record::record(&report).write(out)?;
    if !charts.is_empty() {
        fs_err::create_dir_all(out.join("plots"))?;
    }
    for (chart, size) in &charts {
        fs_err::write(
            out.join("plots").join(format!("{}.svg", chart.name)),
            chart.draw_alone(*size).to_string(),
        )?;
    }
    if let Some(Aside { folder, since }) = aside {
        let telemetry = Telemetry::read(&inputs.folders(), since);
        if !telemetry.is_empty() {
            fs_err::create_dir_all(folder)?;
            fs_err::write(folder.join(outputs::REPORT), report.write(Some(&telemetry))?)?;
            telemetry.write(folder)?;
        }
    }
    let sentences = [Some(headline::sentence(&contents, &table)), curves::stopped_early(&contents)];
    let headline = sentences.into_iter().flatten().collect::<Vec<_>>().join("; ");
    let summary = Summary { headline, table: headline::terminal(&table) };
    fs_err::write(out.join(outputs::SUMMARY_TEXT), format!("{}\n\n{}", summary.headline, summary.table))?;
    Ok(summary)
}
