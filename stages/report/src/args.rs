//! The command line.

use std::path::PathBuf;

use clap::Parser;

/// Write the results of a pipeline as one self-contained page
#[derive(Debug, Parser)]
#[command(version)]
pub struct Args {
    /// Artifact of evaluate
    #[arg(long, value_name = "ARTIFACT")]
    pub evaluate: PathBuf,
    /// Artifact of train
    #[arg(long, value_name = "ARTIFACT")]
    pub train: PathBuf,
    /// Artifact of validate
    #[arg(long, value_name = "ARTIFACT")]
    pub validate: PathBuf,
    /// Artifact of select-best
    #[arg(long, value_name = "ARTIFACT")]
    pub select_best: PathBuf,
    /// Artifact of fuse
    #[arg(long, value_name = "ARTIFACT")]
    pub fuse: Option<PathBuf>,
    /// Artifact of prepare-data
    #[arg(long, value_name = "ARTIFACT")]
    pub prepare_data: Option<PathBuf>,
    /// Artifact of import-model
    #[arg(long, value_name = "ARTIFACT")]
    pub import_model: Option<PathBuf>,
    /// Flags of every stage.
    #[command(flatten)]
    pub common: stage::CommonArgs,
}
