//! `run.json`: the figures of a report for programs, such as the one that compares runs.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::files::Document;
use crate::stages;

/// Figures of one run of the pipeline.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Heading of the report.
    pub title: String,
    /// Name of the split that was scored.
    pub split: String,
    /// Number of its rows.
    pub rows: u64,
    /// The model that the run made, if another one was scored beside the base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuned: Option<String>,
    /// Scores by name, such as `chrf`, in the order of the report.
    pub scores: IndexMap<String, RunScore>,
    /// Settings by stage, defaults included.
    pub settings: BTreeMap<String, Value>,
    /// Keys by stage.
    pub keys: BTreeMap<String, String>,
    /// Step of the chosen checkpoint.
    pub chosen_step: u64,
    /// Steps taken.
    pub steps: u64,
    /// Why training ended, if it ended early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
    /// Parameters that were trained.
    pub trainable_parameters: u64,
    /// Targets trained.
    pub trained_tokens: u64,
    /// Smoothed training loss: steps and nats per target.
    pub training: Vec<[f64; 2]>,
    /// Loss of the checkpoints on the whole validation split: steps and nats per target.
    pub validation: Vec<[f64; 2]>,
}

/// One score of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunScore {
    /// Name for readers.
    pub title: String,
    /// Whether a higher value is better; absent if neither direction is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub higher_is_better: Option<bool>,
    /// Value and interval by model.
    pub models: IndexMap<String, RunValue>,
}

/// One score of one model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct RunValue {
    /// The score.
    pub value: f64,
    /// Ends of its interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
    /// Change against the base, and the ends of its interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<[f64; 3]>,
}

impl Document for RunRecord {
    const FILE: &'static str = stages::RUN;
    const STAGE: &'static str = "report";
}
