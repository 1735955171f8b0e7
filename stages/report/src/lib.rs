//! Writes the results of a pipeline as one self-contained page.
//!
//! [`write`] reads the folders of finished artifacts and writes `report.html`, `report.md`, `results.csv`, `run.json`,
//! `plots/*.svg` and `summary.txt`. The page loads nothing: no network and no other file; its script only sorts and filters,
//! and the page is complete without it. What it contains is the same for the same artifacts: no time, host or path. A second
//! copy of the page, with times, memory and cache hits, goes to a folder that no hash covers.
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
//! let summary = report::write(&inputs, &Config::default(), "out".as_ref(), None)?;
//! assert!(summary.headline.contains("perplexity"));
//! # Ok::<(), report::Error>(())
//! ```

mod args;
mod compare;
mod computed;
mod config;
mod context;
mod curves;
mod data;
mod data_page;
mod diff;
mod error;
mod examples;
mod exports;
mod headline;
mod lineage;
mod markdown;
mod measured;
mod number;
mod page;
mod parts;
mod program;
mod record;
mod report;
mod reproduce;
mod results;
mod scores;
mod settings;
mod source;
mod stages;
mod statistics;
mod sweep;
mod times;
mod tokens;
mod verdict;
mod write;

pub use args::Args;
pub use config::Config;
pub use error::Error;
pub use program::program;
pub use source::Inputs;
pub use write::{Aside, Summary, write};
