//! Command line: everything that does not change the bytes of the result, except the inputs.

use std::path::PathBuf;

use clap::Parser;
use stage::{CommonArgs, MemoryArgs};
use tuner::TrainingSettings;

use crate::finder::FinderArgs;
use crate::segment::StopAt;

/// Fine-tune a model on a dataset
#[derive(Debug, Parser)]
#[command(version)]
pub struct Args {
    /// Artifact with the base model, or a model folder
    #[arg(long, value_name = "ARTIFACT")]
    pub model: PathBuf,
    /// Artifact with the dataset
    #[arg(long, value_name = "ARTIFACT")]
    pub dataset: PathBuf,
    /// Losses of the training rows, for curriculum = "loss": an artifact of `validate`, or a file of JSON lines with `id`
    /// and `loss`
    #[arg(long, value_name = "FILE")]
    pub losses: Option<PathBuf>,
    /// Save a resume state every N steps
    #[arg(long, value_name = "N", default_value_t = TrainingSettings::default().save_every)]
    pub save_every: usize,
    /// Number of resume states to keep; checkpoints are never deleted
    #[arg(long, value_name = "N", default_value_t = TrainingSettings::default().keep_last)]
    pub keep_last: usize,
    /// Stop after this step, or after part I of N, and publish a segment for --resume-from
    #[arg(long, value_name = "STEP|I/N")]
    pub stop_at: Option<StopAt>,
    /// Resume from a segment, the artifact of a run with --stop-at
    #[arg(long, value_name = "ARTIFACT")]
    pub resume_from: Option<PathBuf>,
    /// Prepare the rows of N steps in advance on another thread (does not change the result)
    #[arg(long, value_name = "N", default_value_t = TrainingSettings::default().prefetch)]
    pub prefetch: usize,
    /// Divide the blocks of the model among the ranks, instead of the rows of a step: less memory per rank, but no less time
    /// (does not change the result)
    #[arg(long)]
    pub shard_layers: bool,
    /// Record the gradient norm of each block, the head, the embedding and the final norm in `telemetry/` at every report
    /// (does not change the result)
    #[arg(long)]
    pub gradient_norms: bool,
    /// Limit of the memory.
    #[command(flatten)]
    pub memory: MemoryArgs,
    /// Flags of the learning-rate finder.
    #[command(flatten)]
    pub finder: FinderArgs,
    /// Flags of every stage.
    #[command(flatten)]
    pub common: CommonArgs,
}
