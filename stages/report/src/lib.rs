//! Writes the results of a pipeline as one self-contained page.
//!
//! [`write`] reads the folders of finished artifacts and writes `report.html`, `plots/*.svg` and `summary.txt`. The page
//! loads nothing: no network, no script, no other file. It contains no time, host or path, so the same artifacts give
//! the same bytes. Order of the page: the result in a sentence, the scores of the fused model beside the base model with
//! intervals and floors, the loss curves, translations side by side, then the stages with their settings.
//!
//! Left to others: running models (evaluate and validate), verifying artifacts (`stage`), and scores ([`metrics`]).
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
//! let summary = report::write(&inputs, &Config::default(), "out".as_ref())?;
//! assert!(summary.headline.contains("perplexity"));
//! # Ok::<(), report::Error>(())
//! ```

mod args;
mod config;
mod curves;
mod dataset;
mod error;
mod headline;
mod lineage;
mod number;
mod page;
mod program;
mod results;
mod samples;
mod scores;
mod settings;
mod source;
mod stages;
mod write;

pub use args::Args;
pub use config::Config;
pub use error::Error;
pub use program::program;
pub use source::Inputs;
pub use write::{Summary, write};
