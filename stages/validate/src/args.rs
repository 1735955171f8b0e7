//! Command line: inputs, and flags that do not change the result.

use std::path::PathBuf;

use clap::Parser;
use stage::{CommonArgs, MemoryArgs, UnpackArgs};

/// Score every checkpoint of a training run on the validation split
#[derive(Debug, Parser)]
#[command(version)]
pub struct Args {
    /// Artifact with the base model, or a model folder
    #[arg(long, value_name = "ARTIFACT")]
    pub model: PathBuf,
    /// Artifact with the dataset
    #[arg(long, value_name = "ARTIFACT")]
    pub dataset: PathBuf,
    /// Artifact of `train`, or a folder of adapters in the format of mlx-lm or PEFT
    #[arg(long, value_name = "ARTIFACT")]
    pub train: PathBuf,
    /// Artifact or folder with a sentence encoder, to score the similarity of the answers
    #[arg(long, value_name = "ARTIFACT")]
    pub encoder: Option<PathBuf>,
    /// Limit of the memory.
    #[command(flatten)]
    pub memory: MemoryArgs,
    /// What to do with packed weights.
    #[command(flatten)]
    pub unpack: UnpackArgs,
    /// Flags of every stage.
    #[command(flatten)]
    pub common: CommonArgs,
}
