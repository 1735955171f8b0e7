//! Command line of the stage `fuse`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use failure::Result;
use fuse::{Config, Inputs};
use stage::{Input, Run};

/// Merge trained adapters into their base model
#[derive(Parser)]
struct Args {
    /// Artifact with the base model, or a model folder
    #[arg(long, value_name = "ARTIFACT")]
    model: PathBuf,
    /// Artifact with the adapters, or a folder in the format of mlx-lm or PEFT
    #[arg(long, value_name = "ARTIFACT")]
    adapters: PathBuf,
    /// Artifact with the dataset; its validation split measures the cost of fusing
    #[arg(long, value_name = "ARTIFACT")]
    dataset: PathBuf,
    #[command(flatten)]
    memory: stage::MemoryArgs,
    /// What to do with packed weights.
    #[command(flatten)]
    unpack: stage::UnpackArgs,
    #[command(flatten)]
    common: stage::CommonArgs,
}

fn main() -> ExitCode {
    stage::main(|args: Args| body(&args), |args| &args.common)
}

fn body(args: &Args) -> Result<()> {
    let mut run = Run::<Config>::new(&args.common)?;
    let model = run.input_or_folder("model", &args.model, "model", models::FOLDER_FILES)?;
    let adapters = run.input_or_folder("adapters", &args.adapters, "adapters", tuner::ADAPTER_FILES)?;
    let tokens = run.input("tokens", &args.dataset, "tokens")?;
    let origin = fuse::optional_input(&mut run, "origin", &model, &args.model, outputs::IMPORT)?;
    let stats = fuse::optional_input(&mut run, "stats", &tokens, &args.dataset, outputs::STATS)?;
    let rows = fuse::optional_input(&mut run, "rows", &tokens, &args.dataset, outputs::ROWS)?;
    run.expect_bytes(fuse::expected_bytes(&model, run.config()));
    let backend = mlx_ext::init(&mlx_ext::Options::for_model(args.memory.max_memory, &args.unpack.unpack))?;
    run.numerics(backend.numerics(run.config().dtype.name(&backend)));
    run.execute(|job, config| {
        mlx_ext::warn_if_slow()?;
        let inputs = Inputs {
            model: model.path(),
            adapters: adapters.path(),
            tokens: tokens.path(),
            origin: origin.as_ref().map(Input::path),
            stats: stats.as_ref().map(Input::path),
            rows: rows.as_ref().map(Input::path),
        };
        fuse::run_job(&inputs, config, &backend, job)
    })
}
