//! Command line of the stage `validate`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use serde_json::json;
use validate::{ADAPTER_CONFIG, Config, Scorer};

/// Score every checkpoint of a run on the whole validation split
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Artifact with the base model, or a model folder
    #[arg(long, value_name = "ARTIFACT")]
    model: PathBuf,
    /// Artifact with the dataset
    #[arg(long, value_name = "ARTIFACT")]
    dataset: PathBuf,
    /// Artifact with the run, or a folder of adapters in the format of mlx-lm or PEFT
    #[arg(long, value_name = "ARTIFACT")]
    train: PathBuf,
    #[command(flatten)]
    common: stage::CommonArgs,
}

fn main() -> ExitCode {
    stage::main(body, |args: &Args| &args.common)
}

#[expect(clippy::needless_pass_by_value, reason = "the stage hands its arguments over")]
fn body(args: Args) -> stage::Result<()> {
    let mut run = stage::Run::<Config>::new(&args.common)?;
    let model = run.input_or_folder("model", &args.model, "model", "config.json")?;
    let tokens = run.input("tokens", &args.dataset, "tokens")?;
    let rows = run.input("rows", &args.dataset, "rows")?;
    let checkpoints = run.input_or_folder("checkpoints", &args.train, "checkpoints", ADAPTER_CONFIG)?;
    let backend = mlx_ext::init(&mlx_ext::Options::default())?;
    run.numerics(backend.numerics(run.config().dtype.name(&backend)));
    run.execute(|job, config| {
        mlx_ext::warn_if_slow()?;
        let mut scorer = None;
        let mut scores = Vec::new();
        let foreign = tempfile::tempdir()?;
        let all = match checkpoints.artifact() {
            Some(_) => validate::candidates(checkpoints.path())?,
            None => validate::foreign_candidates(checkpoints.path(), foreign.path())?,
        };
        for candidate in all {
            job.stop().check()?;
            let adapters = candidate.adapters.as_deref().map(artifact::Bare::scan).transpose()?;
            let material = json!({
                "adapters": adapters.map_or_else(|| "none".to_owned(), |files| files.hash().to_string()),
                "config": config,
                "model": model.tree().to_string(),
                "tokens": tokens.tree().to_string(),
            });
            let folder = job.unit("validate-checkpoint", 1, material, |out| {
                if scorer.is_none() {
                    scorer = Some(Scorer::open(model.path(), tokens.path(), config, &backend)?);
                }
                scorer.as_ref().expect("set above").score(&candidate, out).map_err(stage::Error::from)
            })?;
            let score = validate::read_score(&folder)?;
            tracing::info!("step {:>6}: validation loss {:.4}", candidate.step, score.mean_loss());
            scores.push((candidate.step, score));
        }
        let best = scores.iter().map(|(_, score)| score.mean_loss()).fold(f64::INFINITY, f64::min);
        job.metric("best_loss", best);
        Ok(validate::write_losses(rows.path(), &scores, job.out())?)
    })
}
