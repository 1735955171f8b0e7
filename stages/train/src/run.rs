//! One training run, from opened inputs to its outputs.

use std::path::Path;

use dataset::Split;
use failure::{Context, Error, Required, Result};
use mlx_ext::Backend;
use outputs::{Stop, Summary};
use tuner::{BatchOrder, Distrust, DistrustMode, Observer, Splits, Trainable, Trainer, TrainingSettings};

use crate::config::Config;
use crate::inputs::Inputs;
use crate::segment::{StopAt, StopAtObserver};
use crate::{batch_order, layout, reuse, segment};

/// Where and how often a run saves, where it stops, and how far it prepares rows in advance: nothing that changes the
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
    let train = inputs.open_split("train")?;
    let validation = inputs.open_split("validation")?;
    let trainer = inputs.trainer(config, backend, &[("train", &train), ("validation", &validation)])?;
    log_trainable(trainer.trainable());
    let mut order = batch_order::of_split(inputs, config, &train)?;
    let settings = TrainingSettings {
        save_every: saving.save_every,
        keep_last: saving.keep_last,
        prefetch: saving.prefetch,
        ..config.training_settings(&mut order, distrust(inputs, config)?)
    };
    let splits = Splits { train: &train, validation: &validation };
    let (summary, is_complete) = train_from(inputs, config, trainer, order, splits, &settings, saving, observer)?;
    match saving.stop_at {
        Some(_) if is_complete => {
            layout::write_outputs(saving.work, &saving.out.join(stage::SEGMENT_OUTPUT), &summary)?;
        }
        None if is_complete => layout::write_outputs(saving.work, saving.out, &summary)?,
        _ => {}
    }
    Ok(summary)
}
