//! Command line of `select-best`.

use std::path::PathBuf;
use std::process::ExitCode;

use select_best::Config;
use stage::{CommonArgs, Context as _, Run, bad_input};

/// Choose the checkpoint with the lowest loss on the whole validation split
#[derive(clap::Parser)]
struct Args {
    /// Artifact of `train` with the checkpoints
    #[arg(long, value_name = "ARTIFACT")]
    train: PathBuf,
    /// Artifact of `validate` with their losses
    #[arg(long, value_name = "ARTIFACT")]
    validate: PathBuf,
    #[command(flatten)]
    common: CommonArgs,
}

fn main() -> ExitCode {
    stage::main(
        |args: Args| {
            let mut run = Run::<Config>::new(&args.common)?;
            let train = run.input("train", &args.train, "checkpoints")?;
            let validate = run.input("validate", &args.validate, "losses.json")?;
            run.execute(|job, config| {
                let choice = select_best::run(train.path(), validate.path(), config, job.out())
                    .map_err(|error| if error.is_about_input() { bad_input(error) } else { error.into() })
                    .map_err(stage::Error::from)
                    .context("choosing a checkpoint")?;
                job.metric("step", choice.step as f64);
                job.metric("loss", choice.loss);
                job.metric("base_loss", choice.base_loss);
                tracing::info!("{}", choice.reason);
                Ok(())
            })
        },
        |args| &args.common,
    )
}
