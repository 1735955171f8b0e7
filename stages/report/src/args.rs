//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use outputs::REPORT;

/// Write the results of a pipeline as one self-contained page
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    /// Other pages.
    #[command(subcommand)]
    pub page: Option<PageArgs>,
    /// Artifact of evaluate
    #[arg(long, value_name = "ARTIFACT", required = true)]
    pub evaluate: Option<PathBuf>,
    /// Artifact of train
    #[arg(long, value_name = "ARTIFACT", required = true)]
    pub train: Option<PathBuf>,
    /// Artifact of validate
    #[arg(long, value_name = "ARTIFACT", required = true)]
    pub validate: Option<PathBuf>,
    /// Artifact of select-best
    #[arg(long, value_name = "ARTIFACT", required = true)]
    pub select_best: Option<PathBuf>,
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

/// Pages that are no artifacts.
#[derive(Debug, Subcommand)]
pub enum PageArgs {
    /// Write a page that compares the reports of several runs
    Compare(CompareArgs),
    /// Write a page about the runs of a sweep: what differs beyond noise, and which settings are best
    Sweep(SweepArgs),
    /// Write a page about a dataset: its rows token by token, lengths, duplicates, leaks, writing systems
    Data(DataArgs),
}

/// Arguments of `report compare`.
#[derive(Debug, clap::Args)]
pub struct CompareArgs {
    /// Artifact of report, name of a label, or folder with `report.path` (such as build/haw-eng/demo); NAME=RUN names it
    #[arg(value_name = "RUN", required = true)]
    pub runs: Vec<String>,
    /// File to write
    #[arg(long, value_name = "FILE", default_value = "build/compare.html")]
    pub out: PathBuf,
    /// Store in which labels are looked up
    #[arg(long, value_name = "DIR", env = "ASHLAR_STORE", default_value = "artifacts")]
    pub store: PathBuf,
}

/// Arguments of `report sweep`.
#[derive(Debug, clap::Args)]
pub struct SweepArgs {
    /// `sweep.json` that `sweep` wrote, such as build/sweeps/lr-rank/sweep.json
    #[arg(value_name = "FILE")]
    pub record: PathBuf,
    /// File to write (default: `sweep.html` beside it)
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Store with the artifacts of evaluate
    #[arg(long, value_name = "DIR", env = "ASHLAR_STORE", default_value = "artifacts")]
    pub store: PathBuf,
}

/// Arguments of `report data`.
#[derive(Debug, clap::Args)]
pub struct DataArgs {
    /// Artifact of prepare-data, or name of its label
    #[arg(value_name = "ARTIFACT")]
    pub dataset: PathBuf,
    /// Artifact of import-model, for rows beyond its context
    #[arg(long, value_name = "ARTIFACT")]
    pub model: Option<PathBuf>,
    /// Number of rows of each split to show token by token
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub rows: usize,
    /// File to write
    #[arg(long, value_name = "FILE", default_value_os_t = format!("build/data-{REPORT}").into())]
    pub out: PathBuf,
    /// Store in which labels are looked up
    #[arg(long, value_name = "DIR", env = "ASHLAR_STORE", default_value = "artifacts")]
    pub store: PathBuf,
}
