//! The command line.

use std::path::PathBuf;

use clap::Parser;

/// Run the pipeline for many settings: a grid, random or model-based search, successive halving
///
/// Runs `make pipeline` for each member of `pipelines/sweeps/NAME.toml`. Stages whose settings and inputs are equal run once;
/// what the store has does not run again, so a sweep that was stopped or killed resumes where it was. Prints the path of its
/// record, `sweep.json`.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Args {
    /// Name of a file in `pipelines/sweeps`, or its path
    #[arg(value_name = "SWEEP")]
    pub sweep: String,
    /// Print members, shared work, time and memory, and run nothing
    #[arg(long)]
    pub plan: bool,
    /// Print the members as lines, a name and its settings for `make pipeline SET=…`, and run nothing
    #[arg(long, conflicts_with = "plan")]
    pub members: bool,
    /// Write the members as a Nix attribute set to FILE, and run nothing
    #[arg(long, value_name = "FILE", conflicts_with_all = ["plan", "members"])]
    pub nix: Option<PathBuf>,
    /// Write a Slurm script with one array task per run to FILE, and run nothing
    #[arg(long, value_name = "FILE", conflicts_with_all = ["plan", "members"])]
    pub slurm: Option<PathBuf>,
    /// Number of runs at the same time, if memory and cores allow
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    pub jobs: usize,
    /// Memory for all runs together, in GB (default: 80% of available memory)
    #[arg(long, value_name = "GB")]
    pub max_memory: Option<f64>,
    /// Number of times that a failed run is started again
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub retries: usize,
    /// Settings of the pipeline instead of those that the sweep names
    #[arg(long, value_name = "NAME")]
    pub pipeline: Option<String>,
    /// Preset of the model instead of the one that the sweep names
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// Set one setting of all members (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Pass a variable to make (repeatable)
    #[arg(long, value_name = "NAME=VALUE")]
    pub make: Vec<String>,
    /// Store artifacts in DIR
    #[arg(long, value_name = "DIR", env = "ASHLAR_STORE", default_value = "artifacts")]
    pub store: PathBuf,
    /// Keep logs, pointers and results in DIR/sweeps/NAME
    #[arg(long, value_name = "DIR", default_value = "build")]
    pub build: PathBuf,
    /// How much to print.
    #[command(flatten)]
    pub verbosity: stage::Verbosity,
}
