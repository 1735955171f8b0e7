//! Writes what a pipeline run came to as one self-contained page.
//!
//! [`run`] takes the folders of finished artifacts and writes `report.html`, `plots/*.svg` and `summary.txt`. The page needs no
//! network, no script and no other file; it holds no clock, host or path, so the same artifacts give the same bytes.
//! What a reader looks for first stands first: the result in a sentence, the scores of the fused model beside the
//! base's with intervals and floors, the loss curves, translations side by side, then what ran with which settings.
//!
//! Not here: measuring anything with a model (evaluate and validate did), opening and verifying artifacts, and the
//! scores themselves, which come from [`metrics`].
//!
//! ```no_run
//! use report::{Config, Inputs};
//!
//! let inputs = Inputs {
//!     evaluate: "artifacts/evaluate/3f2a…-test".into(),
//!     train: "artifacts/train/91bc…-lora".into(),
//!     validate: "artifacts/validate/0c77…-full".into(),
//!     select_best: "artifacts/select-best/ab12…-loss".into(),
//!     ..Inputs::default()
//! };
//! let summary = report::run(&inputs, &Config::default(), "out".as_ref())?;
//! assert!(summary.headline.contains("perplexity"));
//! # Ok::<(), report::Error>(())
//! ```

mod config;
mod curves;
mod dataset;
mod error;
mod headline;
mod number;
mod page;
mod results;
mod samples;
mod scores;
mod settings;
mod source;
mod stages;

use std::path::Path;

pub use config::Config;
pub use error::Error;
pub use source::Inputs;

/// What a report says, for the terminal.
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
pub fn run(inputs: &Inputs, config: &Config, out: &Path) -> Result<Summary, Error> {
    let contents = source::Contents::read(inputs)?;
    let table = scores::Table::compute(&contents, config)?;
    let charts = curves::charts(&contents, config);
    let page = page::write(&contents, &table, &charts, config)?;
    fs_err::create_dir_all(out)?;
    fs_err::write(out.join("report.html"), page)?;
    if !charts.is_empty() {
        fs_err::create_dir_all(out.join("plots"))?;
    }
    for (chart, size) in &charts {
        fs_err::write(
            out.join("plots").join(format!("{}.svg", chart.name)),
            chart.draw_alone(*size).to_string(),
        )?;
    }
    let summary =
        Summary { headline: headline::sentence(&contents, &table), table: headline::terminal(&table) };
    fs_err::write(out.join("summary.txt"), format!("{}\n\n{}", summary.headline, summary.table))?;
    Ok(summary)
}
