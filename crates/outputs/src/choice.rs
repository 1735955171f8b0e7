//! `choice.json`: the checkpoint that select-best chose.

use serde::{Deserialize, Serialize};

use crate::files::Document;
use crate::stages;

/// The chosen checkpoint and how it compares with the others.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Step of the chosen checkpoint.
    pub step: u64,
    /// Its validation loss, in nats per target.
    pub loss: f64,
    /// Validation loss of the base model.
    pub base_loss: f64,
    /// Metric of the answers that decided; absent if the loss did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// Its score for the chosen checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Its score for the base model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_score: Option<f64>,
    /// All checkpoints, by step.
    pub candidates: Vec<Candidate>,
    /// The second best, if there is one.
    pub runner_up: Option<Candidate>,
    /// Loss of the runner-up minus that of the chosen checkpoint; with a metric, how much better the chosen one is.
    pub gap: Option<f64>,
    /// Bootstrap interval of the gap over the rows of the split.
    pub gap_interval: Option<[f64; 2]>,
    /// Whether the interval of the gap includes zero.
    pub within_noise: bool,
    /// The choice in one sentence.
    pub reason: String,
}

/// A checkpoint that was considered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Its step.
    pub step: u64,
    /// Its validation loss, in nats per target.
    pub loss: f64,
    /// Its score in the metric that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
}

impl Document for Choice {
    const FILE: &'static str = stages::CHOICE;
    const STAGE: &'static str = "select-best";
}
