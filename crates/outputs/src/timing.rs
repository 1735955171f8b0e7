//! `timing.jsonl` in the telemetry of train, and `times.json` in that of report: how long it took, outside every hash.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::files::{Document, Line};
use crate::stages;

/// One line of train's `timing.jsonl`. Fields that a version of train does not record are absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TimingLine {
    /// Steps so far.
    pub step: u64,
    /// Seconds since this process began to train.
    pub seconds: f64,
    /// Mean number of targets per second since then.
    pub tokens_per_second: f64,
    /// Bytes that MLX uses.
    pub active_bytes: Option<u64>,
    /// Most bytes that MLX has used.
    pub peak_bytes: Option<u64>,
    /// Bytes of the process that are in memory.
    pub resident_bytes: Option<u64>,
}

/// Time and memory that the stages of a report took.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Times {
    /// By name of the stage.
    pub stages: BTreeMap<String, StageTimes>,
    /// Processor, memory and system that trained, in words.
    pub machine: Option<String>,
    /// Targets per second over the whole training.
    pub tokens_per_second: Option<f64>,
}

/// Time and memory that one stage took when it made its artifact.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StageTimes {
    /// Start time, in UTC.
    pub start: Option<String>,
    /// End time, in UTC.
    pub end: Option<String>,
    /// Seconds it took.
    pub wall_seconds: Option<f64>,
    /// Seconds of processor time.
    pub cpu_seconds: Option<f64>,
    /// Most memory of the process.
    pub peak_memory_bytes: Option<u64>,
    /// Whether it resumed from an earlier run.
    pub resumed: bool,
    /// Whether the artifact was made before this run of the pipeline; unknown if the pipeline did not give its start.
    pub reused: Option<bool>,
}

impl Line for TimingLine {
    const FILE: &'static str = stages::TIMING;
    const STAGE: &'static str = "train";
}

impl Document for Times {
    const FILE: &'static str = stages::TIMES;
    const STAGE: &'static str = "report";
}
