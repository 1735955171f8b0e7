//! Output files of train: `metrics.jsonl` and `summary.json`.

use serde::{Deserialize, Serialize};

use crate::files::{Document, Line};
use crate::stages;

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected `step` with finite `train_loss` or `validation_loss`")]
pub enum MetricsLine {
    /// Training since the line before.
    Train(TrainLine),
    /// One validation.
    Validation(ValidationLine),
}

/// Means over the steps since the last such line.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainLine {
    /// Amount that the additive distrust loss would add to `train_loss`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distrust_loss: Option<f64>,
    /// Epochs, as a fraction of rows.
    pub epoch: f64,
    /// Global norm of the gradient of the last step, before clipping.
    pub gradient_norm: f32,
    /// Learning rate of the last step.
    pub learning_rate: f64,
    /// Steps so far.
    pub step: u64,
    /// Mean loss in nats per target.
    pub train_loss: f64,
    /// Targets trained so far.
    pub trained_tokens: u64,
}

/// Loss on the validation split during training.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ValidationLine {
    /// Steps so far.
    pub step: u64,
    /// Mean loss in nats per target.
    pub validation_loss: f64,
    /// Number of targets.
    pub validation_tokens: u64,
}

impl Line for MetricsLine {
    const FILE: &'static str = stages::METRICS;
    const STAGE: &'static str = "train";
}

impl MetricsLine {
    /// Returns the steps so far.
    pub fn step(&self) -> u64 {
        match self {
            Self::Train(line) => line.step,
            Self::Validation(line) => line.step,
        }
    }
}

/// Result of a training run, in `summary.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Parameters that were not trained.
    pub frozen_parameters: u64,
    /// Steps taken.
    pub steps: u64,
    /// Why training ended.
    pub stop: Stop,
    /// Parameters that were trained.
    pub trainable_parameters: u64,
    /// Targets trained.
    pub trained_tokens: u64,
}

/// Why training ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "reason")]
pub enum Stop {
    /// All steps were taken.
    Finished,
    /// A rule of early stopping applied; the reason says which.
    Early(String),
    /// The run was asked to stop; its resume state is saved.
    Interrupted,
}

impl Document for Summary {
    const FILE: &'static str = stages::SUMMARY;
    const STAGE: &'static str = "train";
}
