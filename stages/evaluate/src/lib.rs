//! Scores models on the test split, side by side: the loss of every row, and the answers to its prompts.
//!
//! Writes `metrics.json`, `predictions.jsonl` and, if asked, `token_losses.jsonl`. Intervals and the comparison of models
//! are left to `report`, the formulas of the scores to [`metrics`].

mod args;
mod config;
mod evaluate;
mod files;
mod inputs;
mod outcome;
mod program;
mod scores;

pub use args::{Args, NamedPath};
pub use config::Config;
pub use evaluate::evaluate;
pub use inputs::{DatasetFolders, NamedModel};
pub use program::program;
