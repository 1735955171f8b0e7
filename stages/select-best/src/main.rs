//! Command line of the stage `select-best`.

use std::path::PathBuf;
use std::process::ExitCode;

use select_best::{Config, Inputs};
use stage::{CommonArgs, Context, Run};

/// Choose the checkpoint with the lowest loss, or the best answers, on the validation split
#[derive(clap::Parser)]
#[command(version)]
struct Args {
    /// Artifact of `train` with the checkpoints
    #[arg(long, value_name = "ARTIFACT")]
    train: PathBuf,
    /// Artifact of `validate` with their losses, and perhaps answers
    #[arg(long, value_name = "ARTIFACT")]
    validate: PathBuf,
    /// Artifact of `import-model` with the base model, to name it in the settings of the adapters
    #[arg(long, value_name = "ARTIFACT")]
    model: Option<PathBuf>,
    #[command(flatten)]
    common: CommonArgs,
}

fn main() -> ExitCode {
    stage::main(program, |args: &Args| &args.common)
}

#[expect(clippy::needless_pass_by_value, reason = "`stage::main` passes the arguments by value")]
fn program(args: Args) -> stage::Result<()> {
    let mut run = Run::<Config>::new(&args.common)?;
    let train = run.input("train", &args.train, outputs::CHECKPOINTS)?;
    let validate = run.input("validate", &args.validate, outputs::LOSSES)?;
    let answers = select_best::open_answers(&mut run, &args.validate)?;
    let origin = select_best::open_origin(&mut run, args.model.as_deref())?;
    run.expect_bytes(select_best::expected_bytes(&train, run.store()));
    run.execute(|job, config| {
        let inputs = Inputs {
            checkpoints: train.path(),
            losses: validate.path(),
            answers: answers.as_ref().map(stage::Input::path),
            origin: origin.as_ref().map(stage::Input::path),
        };
        let choice = select_best::run(inputs, config, job.out()).context("choosing a checkpoint")?;
        job.metric("step", choice.step as f64);
        job.metric("loss", choice.loss);
        job.metric("base_loss", choice.base_loss);
        tracing::info!("{}", choice.reason);
        job.summary(format!("step {}, validation loss {:.4}", choice.step, choice.loss));
        Ok(())
    })
}
