//! Command line of the stage `train`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use train::{Config, CurriculumName, FinderArgs, Inputs, Progress, Saving, StopAt};
use tuner::{DistrustMode, Stop};

/// Fine-tune a model on a dataset
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Artifact with the base model, or a model folder
    #[arg(long, value_name = "ARTIFACT")]
    model: PathBuf,
    /// Artifact with the dataset
    #[arg(long, value_name = "ARTIFACT")]
    dataset: PathBuf,
    /// Losses of the training rows, for curriculum = "loss": a file of JSON lines with `id` and `loss`, or the
    /// artifact of `validate`
    #[arg(long, value_name = "FILE")]
    losses: Option<PathBuf>,
    /// Save a state to go on from every so many steps
    #[arg(long, value_name = "STEPS", default_value_t = 25)]
    save_every: usize,
    /// Keep so many of those states; checkpoints for others are never deleted
    #[arg(long, value_name = "STATES", default_value_t = 2)]
    keep_last: usize,
    /// Stop after this step, or after part I of N, and make an artifact to go on from
    #[arg(long, value_name = "STEP|I/N")]
    stop_at: Option<StopAt>,
    /// Go on from the artifact of a run that was told to stop on the way
    #[arg(long, value_name = "ARTIFACT")]
    resume_from: Option<PathBuf>,
    /// Make the rows of so many steps ready ahead of time, on a thread of its own; it changes no byte
    #[arg(long, value_name = "STEPS", default_value_t = 2)]
    prefetch: usize,
    /// Record the gradient norm of every block, the head, the embedding and the last norm at each report, in
    /// `telemetry/`; it changes no byte of the result
    #[arg(long)]
    gradient_norms: bool,
    /// Most memory to take, in gigabytes; 80 % of what is available unless given
    #[arg(long, value_name = "GB")]
    max_memory: Option<f64>,
    #[command(flatten)]
    finder: FinderArgs,
    #[command(flatten)]
    common: stage::CommonArgs,
}

fn main() -> ExitCode {
    stage::main(|args: Args| body(&args), |args: &Args| &args.common)
}

fn body(args: &Args) -> stage::Result<()> {
    let mut run = stage::Run::<Config>::new(&args.common)?;
    let model = if args.model.join("config.json").is_file() {
        run.input_folder("model", &args.model)?
    } else {
        run.input("model", &args.model, "model")?
    };
    let tokens = run.input("tokens", &args.dataset, "tokens")?;
    let ordered_by_loss = run.config().curriculum == CurriculumName::Loss;
    let rows = match run.config().distrust {
        DistrustMode::Off if !ordered_by_loss => None,
        _ => Some(run.input("rows", &args.dataset, "rows")?),
    };
    let losses = match &args.losses {
        Some(path) if ordered_by_loss && path.is_file() => Some(run.input_folder("losses", path)?),
        Some(path) if ordered_by_loss => Some(run.input("losses", path, "losses.json")?),
        Some(_) => return Err(stage::Error::usage("`--losses` needs curriculum = \"loss\"")),
        None if ordered_by_loss => {
            return Err(stage::Error::usage("curriculum = \"loss\" needs the losses")
                .hinted("name their file with `--losses`"));
        }
        None => None,
    };
    let backend = mlx_ext::init(&mlx_ext::Options::with_max_gigabytes(args.max_memory))?;
    run.numerics(backend.numerics(run.config().dtype.name(&backend)));
    if let Some(stop_at) = args.stop_at {
        run.stop_at(&stop_at.to_string());
    }
    let mut run = run.with_key()?;
    let part = args.resume_from.as_deref().map(|part| run.segment(part)).transpose()?;
    let shorter = run.relatives(&train::LENGTH_SETTINGS)?;
    let inputs = Inputs {
        model: model.path(),
        tokens: tokens.path(),
        rows: rows.as_ref().map(stage::Input::path),
        losses: losses.as_ref().map(stage::Input::path),
        shorter: &shorter,
        part: part.as_deref(),
    };
    if args.finder.find_learning_rate {
        let (stop, out) = (stage::StopFlag::default(), args.common.out.as_deref());
        let rate = train::find_learning_rate(&inputs, run.config(), &backend, &args.finder, out, stop)?;
        return Ok(writeln!(std::io::stdout(), "{rate:e}")?);
    }
    let estimate = train::Estimate::new(&inputs, run.config(), &backend)?;
    run.note(format!("needs about {estimate}"));
    if args.common.plan {
        estimate.advice(backend.memory_limit).into_iter().for_each(|line| run.note(line));
        train::describe_reuse(&inputs, run.config())?.into_iter().for_each(|line| run.note(line));
    }
    run.execute(|job, config| {
        estimate.check(backend.memory_limit)?;
        mlx_ext::warn_if_slow()?;
        let mut progress = Progress::new(job.stop(), Some(job.telemetry_dir().join("timing.jsonl")));
        progress.follow(&job.resume_dir().join("metrics.jsonl"));
        if args.gradient_norms {
            progress.record_group_norms();
        }
        let folders = (job.resume_dir(), job.out());
        let saving = Saving {
            every: args.save_every.max(1),
            keep_last: args.keep_last,
            stop_at: args.stop_at,
            prefetch: args.prefetch,
        };
        let summary = train::run(&inputs, config, &backend, saving, folders, &mut progress)?;
        progress.finish();
        match &summary.stop {
            Stop::Interrupted if job.out().join(stage::SEGMENT_OUTPUT).exists() => {
                tracing::info!("this part ends after step {}", summary.step);
            }
            Stop::Interrupted => {
                tracing::info!("saved after step {}; the same command goes on from there", summary.step);
                job.stop().check()?;
            }
            Stop::Early(reason) => tracing::info!("stopped after step {}: {reason}", summary.step),
            Stop::Finished => {}
        }
        job.metric("steps", summary.step as f64);
        job.metric("trained_tokens", summary.trained_tokens as f64);
        Ok(())
    })
}
