//! Scores models on the test split, side by side: the loss of every row, and the answers to its prompts.
//!
//! Besides models that run here, it scores answers from files and from chat completions endpoints, and compares scores that were
//! made elsewhere. Every score has an interval, every pair of subjects a comparison, and a gate may decide whether a model is
//! better on the task without being worse elsewhere.
//!
//! Writes `metrics.json`, `predictions.jsonl` and, if asked, `token_losses.jsonl`. The formulas of the scores are left to
//! [`metrics`], showing them to `report`.

mod answers;
mod args;
mod config;
mod endpoint;
mod evaluate;
mod external;
mod files;
mod gate;
mod guard;
mod inputs;
mod kept_answers;
mod kept_lines;
mod known;
mod outcome;
mod parts;
mod program;
mod rows;
mod scores;
mod similarity;
mod statistics;

pub use args::{Args, GateAction, NamedPath};
pub use config::{Config, EndpointSettings, Extract, GateSettings, Otherwise, Unit};
pub use evaluate::{Task, evaluate, evaluate_scores};
pub use guard::GuardSource;
pub use inputs::{DatasetFolders, NamedModel, Subject};
pub use program::program;
