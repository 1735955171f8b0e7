//! Command line of the stage `fuse`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use fuse::{Config, Inputs};

/// Work trained adapters into their base model
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Artifact with the base model, or a model folder
    #[arg(long, value_name = "ARTIFACT")]
    model: PathBuf,
    /// Artifact with the adapters, or a folder in the format of mlx-lm or PEFT
    #[arg(long, value_name = "ARTIFACT")]
    adapters: PathBuf,
    /// Artifact with the dataset, whose validation split measures what fusing costs
    #[arg(long, value_name = "ARTIFACT")]
    dataset: PathBuf,
    #[command(flatten)]
    common: stage::CommonArgs,
}

fn main() -> ExitCode {
    stage::main(|args: Args| body(&args), |args: &Args| &args.common)
}

fn body(args: &Args) -> stage::Result<()> {
    let mut run = stage::Run::<Config>::new(&args.common)?;
    let model = run.input_or_folder("model", &args.model, "model", "config.json")?;
    let adapters = run.input_or_folder("adapters", &args.adapters, "adapters", "adapter_config.json")?;
    let tokens = run.input("tokens", &args.dataset, "tokens")?;
    // What the card tells of the base model and the data; an artifact of another stage may lack it.
    let mut beside = |role: &str, input: &stage::Input, locator: &std::path::Path, name: &str| {
        let is_there = input.artifact().is_some() && input.manifest().outputs.contains_key(name);
        is_there.then(|| run.input(role, locator, name)).transpose()
    };
    let origin = beside("origin", &model, &args.model, "import.json")?;
    let stats = beside("stats", &tokens, &args.dataset, "stats.json")?;
    let rows = beside("rows", &tokens, &args.dataset, "rows")?;
    let backend = mlx_ext::init(&mlx_ext::Options::default())?;
    run.numerics(backend.numerics(run.config().dtype.name(&backend)));
    run.execute(|job, config| {
        mlx_ext::warn_if_slow()?;
        let inputs = Inputs {
            model: model.path(),
            adapters: adapters.path(),
            tokens: tokens.path(),
            origin: origin.as_ref().map(stage::Input::path),
            stats: stats.as_ref().map(stage::Input::path),
            rows: rows.as_ref().map(stage::Input::path),
        };
        let cost = fuse::run(&inputs, config, &backend, job.out())?;
        tracing::info!(
            "validation loss {:.4} with the adapter, {:.4} fused; logits within {:.1e}",
            cost.adapter_loss,
            cost.fused_loss,
            cost.max_logit_difference
        );
        job.metric("adapter_loss", cost.adapter_loss);
        job.metric("fused_loss", cost.fused_loss);
        Ok(())
    })
}
