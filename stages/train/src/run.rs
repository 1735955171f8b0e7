//! One training run, from opened inputs to its outputs.

use std::path::Path;
use std::rc::Rc;

use dataset::Split;
use failure::Result;
use mlx_ext::Backend;
use models::Section;
use outputs::{Stop, Summary};
use tuner::{BatchOrder, Observer, Ranks, Splits, Trainable, Trainer, TrainingSettings};

use crate::config::Config;
use crate::inputs::Inputs;
use crate::segment::{StopAt, StopAtObserver};
use crate::{batch_order, context, distrust, layout, reuse, segment};

/// How often a run saves, where it stops, and how far it prepares rows in advance: nothing that changes the
/// result.
#[derive(Debug, Clone, Copy)]
pub struct Saving<'a> {
    /// Steps between resume states.
    pub save_every: usize,
    /// Number of resume states to keep.
    pub keep_last: usize,
    /// Where to stop and write a segment.
    pub stop_at: Option<StopAt>,
    /// Steps whose rows are prepared in advance.
    pub prefetch: usize,
    /// Folder that survives the process, for resume states.
    pub work: &'a Path,
    /// Folder for the outputs.
    pub out: &'a Path,
}

/// Trains in `saving.work` and writes the outputs to `saving.out`.
///
/// An interrupted run leaves `out` empty. With `stop_at`, `out` receives a segment, even if training had already finished.
///
/// # Errors
///
/// Fails when an input does not fit the settings, and when a loss, a gradient or a parameter is not finite.
pub fn run(
    inputs: &Inputs<'_>,
    config: &Config,
    backend: &Backend,
    saving: Saving<'_>,
    observer: &mut dyn Observer,
) -> Result<Summary> {
    run_on(None, inputs, config, backend, saving, observer)
}

/// What the ranks of a run share.
#[derive(Clone, Copy)]
pub(crate) struct Sharing<'a> {
    pub(crate) ranks: &'a Rc<Ranks>,
    /// Whether they share the blocks of the model instead of the rows of a step.
    pub(crate) blocks: bool,
}

impl Sharing<'_> {
    /// Returns what this process runs of the model.
    pub(crate) fn section(self) -> Section {
        if self.blocks { self.ranks.section() } else { Section::WHOLE }
    }
}

/// As [`run`], on rank 0 of several.
pub(crate) fn run_on(
    sharing: Option<Sharing<'_>>,
    inputs: &Inputs<'_>,
    config: &Config,
    backend: &Backend,
    saving: Saving<'_>,
    observer: &mut dyn Observer,
) -> Result<Summary> {
    let mut prepared = Prepared::new(sharing, inputs, config, backend)?;
    log_trainable(prepared.trainer.trainable());
    prepared.settings.save_every = saving.save_every;
    prepared.settings.keep_last = saving.keep_last;
    prepared.settings.prefetch = saving.prefetch;
    let steps = prepared.settings.steps;
    let end = saving.stop_at.map_or(steps, |stop_at| stop_at.step(steps));
    let earlier = inputs.segment.map(|segment| segment::adopt(segment, saving.work)).transpose()?;
    if earlier.is_none()
        && let Some(steps) = reuse::adopt(inputs.shorter, config, &prepared.settings, end, saving.work)?
    {
        tracing::info!("resuming from a published run of {steps} steps");
    }
    let has_reached_end =
        |earlier: &Summary| earlier.stop != Stop::Interrupted || earlier.steps >= end as u64;
    let (summary, is_complete) = if let Some(summary) = earlier.filter(has_reached_end) {
        (summary, true)
    } else {
        let mut observer = StopAtObserver::new(observer, saving.stop_at);
        let summary = prepared.train(saving.work, &mut observer)?;
        let is_complete = summary.stop != Stop::Interrupted || observer.is_reached();
        (summary, is_complete)
    };
    if let Some(Sharing { ranks, .. }) = sharing {
        ranks.release();
    }
    match saving.stop_at {
        Some(_) if is_complete => {
            layout::write_outputs(
                saving.work,
                &saving.out.join(stage::SEGMENT_OUTPUT),
                &summary,
                inputs.tokens,
            )?;
        }
        None if is_complete => layout::write_outputs(saving.work, saving.out, &summary, inputs.tokens)?,
        _ => {}
    }
    Ok(summary)
}

/// Computes this rank's part of every step of a run whose files rank 0 writes.
pub(crate) fn assist(
    sharing: Sharing<'_>,
    inputs: &Inputs<'_>,
    config: &Config,
    backend: &Backend,
    stop_at: Option<StopAt>,
    observer: &mut dyn Observer,
) -> Result<Summary> {
    let mut prepared = Prepared::new(Some(sharing), inputs, config, backend)?;
    let mut observer = StopAtObserver::new(observer, stop_at);
    // No folder: nothing is written here.
    prepared.train(Path::new(""), &mut observer)
}

/// What every rank needs for training.
struct Prepared {
    train: Split,
    validation: Split,
    trainer: Trainer,
    order: BatchOrder,
    settings: TrainingSettings,
}

impl Prepared {
    fn new(
        sharing: Option<Sharing<'_>>,
        inputs: &Inputs<'_>,
        config: &Config,
        backend: &Backend,
    ) -> Result<Self> {
        let train = inputs.open_split("train")?;
        let validation = inputs.open_split("validation")?;
        let splits = [("train", &train), ("validation", &validation)];
        let is_first = sharing.is_none_or(|sharing| sharing.ranks.is_first());
        if is_first {
            context::warn_about_long_rows(inputs.model, &splits)?;
        }
        let section = sharing.map_or(Section::WHOLE, Sharing::section);
        let mut trainer = inputs.trainer(config, backend, section, &splits)?;
        match sharing {
            Some(Sharing { ranks, blocks: true }) => trainer.shard(Rc::clone(ranks))?,
            Some(Sharing { ranks, blocks: false }) => trainer.set_ranks(Rc::clone(ranks)),
            None => {}
        }
        let mut order = batch_order::of_split(inputs, config, &train)?;
        let settings = config.training_settings(&mut order, distrust::of_rows(inputs, config)?);
        if let Some(warning) = config.shortened_warmup(settings.steps).filter(|_| is_first) {
            tracing::warn!("{warning}");
        }
        Ok(Self { train, validation, trainer, order, settings })
    }

    fn train(&mut self, folder: &Path, observer: &mut dyn Observer) -> Result<Summary> {
        let splits = Splits { train: &self.train, validation: &self.validation };
        let (trainer, order) = (&mut self.trainer, &mut self.order);
        Ok(tuner::train(trainer, order, splits, &self.settings, folder, observer)?)
    }
}

fn log_trainable(trainable: &Trainable) {
    let total = trainable.trainable + trainable.frozen;
    let share = 100.0 * trainable.trainable as f64 / total as f64;
    tracing::info!("training {} of {total} parameters ({share:.2}%)", trainable.trainable);
}
