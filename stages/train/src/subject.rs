//! What the learning-rate finder trains: the model, the rows and their weights, as in training.

use dataset::Split;
use failure::Result;
use mlx_ext::Backend;
use models::Section;
use stage::StopFlag;
use tuner::{Batch, Distrust, MicroBatch, Trainer};

use crate::config::Config;
use crate::inputs::Inputs;

/// What the ramp and the probes train, and with which settings.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) inputs: &'a Inputs<'a>,
    pub(crate) config: &'a Config,
    pub(crate) backend: &'a Backend,
    /// Distrust losses of the training rows.
    pub(crate) distrust: Option<&'a Distrust>,
    pub(crate) stop: StopFlag,
}

impl Subject<'_> {
    /// Makes a trainer of the untrained model for the rows of `train`.
    pub(crate) fn trainer(&self, train: &Split) -> Result<Trainer> {
        self.inputs.trainer(self.config, self.backend, Section::WHOLE, &[("train", train)])
    }

    /// Returns a micro-batch with the weights that its rows have in training.
    pub(crate) fn batch(&self, train: &Split, micro_batch: &MicroBatch) -> Batch {
        let factors = self.distrust.and_then(Distrust::factors);
        Batch::of_micro_batch(train, micro_batch, self.config.pad_to(), factors)
    }
}
