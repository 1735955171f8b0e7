//! Scores the base model and every checkpoint of a training run on the validation split, and writes `losses.json` and
//! `changes.json`; if asked, it also lets each of them answer prompts, and writes `answers.jsonl`.
//!
//! The scores of each checkpoint are a unit in the store, so after a longer training run only its new checkpoints are
//! scored. Choosing a checkpoint is left to `select-best`.

mod answers;
mod args;
mod candidates;
mod config;
mod program;
mod score;

pub use answers::{Questions, write_answers};
pub use args::Args;
pub use candidates::{ADAPTER_CONFIG, Candidate, candidates, foreign_candidates};
pub use config::Config;
pub use program::program;
pub use score::{CheckpointScore, Scorer, read_answers, read_score, write_losses};
