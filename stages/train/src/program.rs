//! From the command line to an artifact, a plan, or a learning rate.

use std::io::Write as _;
use std::path::PathBuf;
use std::rc::Rc;

use mlx_ext::Backend;
use models::Section;
use outputs::Stop;
use stage::{Error, Input, Job, KeyedRun, Result, Run, Segment, StopFlag};
use tuner::{DistrustMode, Ranks};

use crate::args::Args;
use crate::config::{Config, CurriculumName};
use crate::earlier;
use crate::finder::find_learning_rate;
use crate::inputs::Inputs;
use crate::memory::Estimate;
use crate::progress::Progress;
use crate::ranks;
use crate::reuse::{LENGTH_SETTINGS, describe_reuse};
use crate::run::{self, Saving, Sharing};

/// The inputs as they were opened.
struct Opened {
    model: Input,
    tokens: Input,
    rows: Option<Input>,
    losses: Option<Input>,
}

impl Opened {
    fn open(run: &mut Run<Config>, args: &Args) -> Result<Self> {
        let model = run.input_or_folder("model", &args.model, outputs::MODEL, models::FOLDER_FILES)?;
        let tokens = run.input("tokens", &args.dataset, outputs::TOKENS)?;
        let ordered_by_loss = run.config().curriculum == CurriculumName::Loss;
        let needs_rows = ordered_by_loss || run.config().distrust != DistrustMode::Off;
        let rows = needs_rows.then(|| run.input("rows", &args.dataset, outputs::ROWS)).transpose()?;
        let losses = match &args.losses {
            Some(path) if ordered_by_loss && path.is_file() => Some(run.input_folder("losses", path)?),
            Some(path) if ordered_by_loss => Some(run.input("losses", path, outputs::LOSSES)?),
            Some(_) => return Err(Error::usage("`--losses` needs curriculum = \"loss\"")),
            None if ordered_by_loss => {
                return Err(Error::usage("curriculum = \"loss\" needs the losses of the training rows")
                    .hinted("name their file with `--losses`"));
            }
            None => None,
        };
        Ok(Self { model, tokens, rows, losses })
    }

    fn inputs<'a>(&'a self, shorter: &'a [PathBuf], segment: Option<&'a Segment>) -> Inputs<'a> {
        Inputs {
            model: self.model.path(),
            tokens: self.tokens.path(),
            rows: self.rows.as_ref().map(Input::path),
            losses: self.losses.as_ref().map(Input::path),
            shorter,
            segment,
        }
    }
}

/// Runs the program: trains, plans, or finds a learning rate.
///
/// # Errors
///
/// Fails when an input or a setting is wrong, when the run does not fit into memory, when training diverges, and when another
/// rank of the run fails or is lost.
pub fn program(args: &Args) -> Result<()> {
    match ranks::join()? {
        Some(ranks) => ranks::end(&ranks, run_stage(args, Some(&ranks))),
        None => run_stage(args, None),
    }
}

/// Runs the stage, as rank 0 or on its own, or assists rank 0.
fn run_stage(args: &Args, ranks: Option<&Rc<Ranks>>) -> Result<()> {
    if ranks.is_none() && args.shard_layers {
        return Err(Error::usage(
            "`--shard-layers` shares a model between several ranks, but there is only this process",
        )
        .hinted("start it with `mpirun -n 2`, or with `MLX_HOSTFILE` and `MLX_RANK`"));
    }
    if ranks.is_some() && args.finder.find_learning_rate {
        return Err(Error::usage("`--find-learning-rate` runs in one process")
            .hinted("start it without `mpirun` and without `MLX_HOSTFILE`"));
    }
    let mut run = Run::<Config>::new(&args.common)?;
    let opened = Opened::open(&mut run, args)?;
    let backend = mlx_ext::init(
        &mlx_ext::Options::with_max_gigabytes(args.memory.max_memory)
            .unpacking(run.config().unpack)
            .multiplying(run.config().products),
    )?;
    run.numerics(backend.numerics(run.config().dtype.name(&backend)));
    if let Some(stop_at) = args.stop_at {
        run.stop_at(&stop_at.to_string());
    }
    ranks::choose_slices(&mut run, ranks.map(Rc::as_ref), args.shard_layers)?;
    let run = run.with_key()?;
    if let Some(ranks) = ranks {
        ranks.agree("key (settings, inputs or kind of machine)", &run.key().to_string())?;
        ranks.agree("`--shard-layers`", if args.shard_layers { "yes" } else { "no" })?;
        if !args.shard_layers {
            ranks::warn_about_idle(ranks, run.config());
        }
        if !ranks.is_first() {
            return assist(args, run, &opened, &backend, ranks);
        }
    }
    let segment = args.resume_from.as_deref().map(|segment| run.segment(segment)).transpose()?;
    // A published run needs no other one.
    let shorter = if run.may_exist()? { Vec::new() } else { run.relatives(&LENGTH_SETTINGS)? };
    let inputs = opened.inputs(&shorter, segment.as_ref());
    if args.finder.find_learning_rate {
        // The finder computes whole micro-batches.
        let unsliced = Config { slices: 1, ..run.config().clone() };
        estimate(args, &inputs, &unsliced, &backend, None)?.check(backend.memory_limit)?;
        let (stop, out) = (StopFlag::default(), args.common.out.as_deref());
        let rate = find_learning_rate(&inputs, run.config(), &backend, &args.finder, out, stop)?;
        return Ok(writeln!(std::io::stdout(), "{rate:e}")?);
    }
    execute(args, run, &inputs, &backend, ranks)
}

/// Waits until rank 0 trains, and computes this rank's part.
fn assist(
    args: &Args,
    run: KeyedRun<Config>,
    opened: &Opened,
    backend: &Backend,
    ranks: &Rc<Ranks>,
) -> Result<()> {
    if let Some(code) = ranks.wait_for_begin()? {
        return ranks::status(code);
    }
    let inputs = opened.inputs(&[], None);
    run.assist(|config| {
        estimate(args, &inputs, config, backend, Some(ranks))?.check(backend.memory_limit)?;
        let stop = StopFlag::default();
        let mut progress = Progress::new(stop, None);
        progress.share();
        let unhurried = stop.unhurried();
        let sharing = Sharing { ranks, blocks: args.shard_layers };
        let summary = run::assist(sharing, &inputs, config, backend, args.stop_at, &mut progress)?;
        drop(unhurried);
        let is_interrupted = summary.stop == Stop::Interrupted && stop.requested().is_some();
        if is_interrupted { Err(stop.interrupted()) } else { Ok(()) }
    })
}

/// Plans or trains.
fn execute(
    args: &Args,
    mut run: KeyedRun<Config>,
    inputs: &Inputs<'_>,
    backend: &Backend,
    ranks: Option<&Rc<Ranks>>,
) -> Result<()> {
    let estimate = estimate(args, inputs, run.config(), backend, ranks)?;
    let bytes = planned_bytes(&estimate, inputs, run.config(), args.keep_last)?;
    run.expect_bytes(bytes);
    run.expect_state_bytes(bytes);
    run.expect_memory(estimate.total() as u64, backend.memory_limit as u64);
    let of = if args.shard_layers { " on rank 0" } else { "" };
    run.note(format!("needs about {estimate}{of}"));
    if models::is_packed(inputs.model)? {
        let unpacking = backend.unpacking(run.config().dtype.on(backend));
        let what = if unpacking.resident { "are unpacked once" } else { "stay packed" };
        run.note(format!("packed weights {what}: {}", unpacking.reason));
    }
    if args.common.plan {
        let advice = estimate.advice(backend.memory_limit);
        let work = run.resume_dir()?;
        let reuse = describe_reuse(inputs, run.config(), args.stop_at, work.as_deref())?;
        advice.into_iter().chain(reuse).for_each(|line| run.note(line));
    }
    run.execute(|job, config| {
        if let Some(ranks) = ranks {
            ranks.begin();
        }
        estimate.check(backend.memory_limit)?;
        mlx_ext::warn_if_slow()?;
        train(args, job, inputs, config, backend, ranks)
    })
}

/// Estimates the memory of this process.
fn estimate(
    args: &Args,
    inputs: &Inputs<'_>,
    config: &Config,
    backend: &Backend,
    ranks: Option<&Rc<Ranks>>,
) -> Result<Estimate> {
    let ranks = ranks.filter(|_| args.shard_layers);
    let section = ranks.map_or(Section::WHOLE, |ranks| ranks.section());
    Estimate::of_section(inputs, config, backend, section)
}

/// Estimates how many bytes a run writes: its checkpoints, and the resume states that it keeps.
///
/// Parameters and moments are a state. A checkpoint is the parameters: no more than a state, and no more than the gradients.
fn planned_bytes(estimate: &Estimate, inputs: &Inputs<'_>, config: &Config, keep_last: usize) -> Result<u64> {
    let steps = match config.steps {
        0 => {
            let rows = inputs.open_split("train")?.len();
            let rows_of_step = config.batch_size.saturating_mul(config.accumulation);
            config.epochs.saturating_mul(rows.div_ceil(rows_of_step))
        }
        steps => steps,
    };
    let checkpoints = checkpoint_count(steps, config.checkpoint_every, config.validation_every);
    let states = keep_last.min(steps).saturating_add(1);
    let checkpoint = estimate.trained.min(estimate.gradients);
    Ok(estimate.trained.saturating_mul(states).saturating_add(checkpoint.saturating_mul(checkpoints)) as u64)
}

/// Returns the number of checkpoints of a run: after every multiple of either number of steps (0 for none), and after the last step.
fn checkpoint_count(steps: usize, checkpoint_every: usize, validation_every: usize) -> usize {
    let multiples = |every: usize| steps.checked_div(every).unwrap_or(0);
    // The smallest number of steps that is a multiple of both.
    let both = checkpoint_every
        .checked_mul(validation_every / common_divisor(checkpoint_every, validation_every).max(1));
    let is_due =
        [checkpoint_every, validation_every].iter().any(|&every| every > 0 && steps.is_multiple_of(every));
    let last = usize::from(!is_due);
    multiples(checkpoint_every) - both.map_or(0, multiples) + multiples(validation_every) + last
}

/// Returns the greatest common divisor.
fn common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

/// Trains with a progress bar, and reports how the run ended.
fn train(
    args: &Args,
    job: &mut Job,
    inputs: &Inputs<'_>,
    config: &Config,
    backend: &Backend,
    ranks: Option<&Rc<Ranks>>,
) -> Result<()> {
    let mut progress = Progress::new(job.stop(), Some(job.telemetry_dir().join("timing.jsonl")));
    progress.follow(&job.resume_dir().join(outputs::METRICS));
    if ranks.is_some() {
        progress.share();
    }
    if args.gradient_norms {
        progress.record_group_norms();
    }
    let saving = Saving {
        save_every: args.save_every.max(1),
        keep_last: args.keep_last,
        stop_at: args.stop_at,
        prefetch: args.prefetch,
        work: job.resume_dir(),
        out: job.out(),
    };
    // Ranks stop together, however long the slowest of them takes.
    let unhurried = ranks.map(|_| job.stop().unhurried());
    let sharing = ranks.map(|ranks| Sharing { ranks, blocks: args.shard_layers });
    let summary = run::run_on(sharing, inputs, config, backend, saving, &mut progress)?;
    drop(unhurried);
    progress.finish();
    if !progress.is_from_the_start() {
        job.resumed();
        if let Some(artifact) = earlier::read(job.resume_dir())? {
            job.resumed_from(artifact);
        }
    }
    match &summary.stop {
        Stop::Interrupted if job.out().join(stage::SEGMENT_OUTPUT).exists() => {
            tracing::info!("this segment ends after step {}", summary.steps);
        }
        Stop::Interrupted if !job.is_resumable() => return Err(job.stop().interrupted_without_state()),
        Stop::Interrupted => {
            tracing::info!("saved a resume state after step {}", summary.steps);
            return Err(job.stop().interrupted());
        }
        Stop::Early(reason) => tracing::info!("stopped early after step {}: {reason}", summary.steps),
        Stop::Finished => {}
    }
    job.metric("steps", summary.steps as f64);
    job.metric("trained_tokens", summary.trained_tokens as f64);
    job.summary(progress.summary(summary.steps));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_are_counted_as_training_writes_them() {
        for steps in 1..40 {
            for checkpoint_every in 1..12 {
                for validation_every in 0..12 {
                    let is_due = |step: &usize| {
                        step.is_multiple_of(checkpoint_every)
                            || (validation_every > 0 && step.is_multiple_of(validation_every))
                            || *step == steps
                    };
                    let written = (1..=steps).filter(is_due).count();
                    let counted = checkpoint_count(steps, checkpoint_every, validation_every);
                    assert_eq!(counted, written, "{steps} {checkpoint_every} {validation_every}");
                }
            }
        }
        assert_eq!(checkpoint_count(usize::MAX, usize::MAX, usize::MAX - 1), 2);
        assert_eq!(checkpoint_count(usize::MAX, 1, 3), usize::MAX);
    }
}
