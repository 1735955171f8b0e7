//! Fine-tunes a model on a dataset: trains adapters or weights, with checkpoints and resume states along the way.
//!
//! The training loop is in `tuner`. This crate reads settings, opens inputs, shows progress and lays out the artifact:
//! `checkpoints/<step>/adapters`, `metrics.jsonl`, `state/` and `summary.json`. Start reading at [`run`].

mod args;
mod batch_order;
mod config;
mod context;
mod curve;
mod distrust;
mod earlier;
mod finder;
mod inputs;
mod layout;
mod losses;
mod memory;
mod probes;
mod program;
mod progress;
mod ranks;
mod reuse;
mod run;
mod segment;
mod subject;
mod suggestion;
mod tensorboard;

pub use args::Args;
pub use config::{Config, CurriculumName};
pub use finder::{FinderArgs, find_learning_rate};
pub use inputs::Inputs;
pub use memory::Estimate;
pub use program::program;
pub use progress::Progress;
pub use reuse::{LENGTH_SETTINGS, describe_reuse};
pub use run::{Saving, run};
pub use segment::StopAt;
pub use suggestion::{Finding, Point, suggest};
pub use tensorboard::TensorBoard;
