//! Output files of evaluate: scores per model, answers, and losses per row and per target.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::files::{Document, Line};
use crate::losses::RowLoss;
use crate::stages;

/// Scores of every model, in `metrics.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Scores by name of the model, in the order of evaluate's command line: the first model is the reference.
    pub models: IndexMap<String, ModelScores>,
    /// Number of rows in the split.
    pub rows: u64,
    /// Name of the split; `external` for rows that come from files of scores or answers.
    pub split: String,
    /// Text scores of answers that know nothing, such as the copied source: `floors[floor][metric]`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub floors: BTreeMap<String, BTreeMap<String, f64>>,
    /// Ends of the intervals of the floors: `floor_intervals[floor][metric]`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub floor_intervals: BTreeMap<String, BTreeMap<String, [f64; 2]>>,
    /// Every metric that occurs in this file, in the order in which they are shown.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub metrics: IndexMap<String, MetricInfo>,
    /// Settings of the intervals; absent if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statistics: Option<Statistics>,
    /// Every pair of models; `against` comes earlier in `models`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub comparisons: Vec<Comparison>,
    /// Scores of parts of the rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subgroups: Vec<Subgroup>,
    /// Verdict of the gate, if one is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<Gate>,
}

/// Scores of one model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelScores {
    /// Kind of model.
    #[serde(default)]
    pub source: ModelSource,
    /// Number of prompts answered.
    pub generated_rows: u64,
    /// Mean loss in nats per target; absent for answers that were made elsewhere.
    #[serde(default, deserialize_with = "number", skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// e to the loss.
    #[serde(default, deserialize_with = "number", skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<f64>,
    /// Number of targets.
    #[serde(default)]
    pub tokens: u64,
    /// Ends of the interval of every score, by metric, `loss` and `perplexity` included.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub intervals: BTreeMap<String, [f64; 2]>,
    /// Rows without an answer or a score, which count as 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_rows: Vec<FailedRow>,
    /// Number of answers that are empty.
    #[serde(default)]
    pub empty_answers: u64,
    /// Number of answers that were cut off by the limit of tokens.
    #[serde(default)]
    pub unfinished_answers: u64,
    /// Number of answers without the text that `extract` looks for.
    #[serde(default)]
    pub not_extracted: u64,
    /// Scores of the answers by metric, such as `bleu`; empty if nothing was generated.
    #[serde(flatten)]
    pub text: BTreeMap<String, f64>,
}

/// Reads a number that may be absent, but not null: JSON writers turn NaN and infinity into null.
fn number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    f64::deserialize(deserializer).map(Some)
}

/// Kind of model that was scored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelSource {
    /// Model folder.
    #[default]
    Model,
    /// Adapters, loaded with the first model.
    Adapters,
    /// Checkpoint of a training run, loaded with the first model.
    Checkpoint,
    /// File with answers.
    Predictions,
    /// File with scores.
    Scores,
    /// Model behind a chat completions endpoint.
    Endpoint,
}

/// Row that a model failed on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedRow {
    /// Id of the row.
    pub id: String,
    /// Why there is no answer or score.
    pub reason: String,
}

/// Description of a metric.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetricInfo {
    /// Name for people, such as `chrF++`.
    pub title: String,
    /// Better direction.
    pub better: Direction,
    /// sacreBLEU's signature, if the metric has one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub signature: String,
}

/// Direction in which a score is better.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Higher is better.
    #[default]
    Higher,
    /// Lower is better.
    Lower,
    /// Neither: the score describes the answers.
    Neither,
}

/// Settings of the intervals.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    /// Number of times that the rows or groups were drawn with replacement.
    pub resamples: u64,
    /// Share of the drawn values inside an interval.
    pub confidence: f64,
    /// Seed of the draws.
    pub seed: u64,
    /// Unit that was drawn: `row` or `group`.
    pub unit: String,
    /// Number of them among the answered rows.
    pub units: u64,
}

/// Two models on the same rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The model.
    pub model: String,
    /// The model it is compared with.
    pub against: String,
    /// Whether no answer differs and no loss differs by more than rounding: training changed nothing.
    pub identical: bool,
    /// Differences by metric: the score of `model` minus that of `against`.
    pub metrics: IndexMap<String, Difference>,
}

/// Difference of a score between two models, with its paired bootstrap interval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Score of the model minus that of the other.
    pub value: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
    /// Rows on which the model is better.
    pub wins: u64,
    /// Rows on which both are equal.
    pub ties: u64,
    /// Rows on which the model is worse.
    pub losses: u64,
    /// Verdict of the interval; absent where neither direction is better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
}

/// Verdict of an interval on a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Better beyond noise.
    Better,
    /// Worse beyond noise.
    Worse,
    /// The interval includes 0, or there are too few rows to tell.
    WithinNoise,
}

/// Scores of the rows that have something in common.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Subgroup {
    /// Criterion that divides the rows: `length`, `group` or the name of a column.
    pub by: String,
    /// Value of these rows.
    pub value: String,
    /// Number of rows.
    pub rows: u64,
    /// Scores by model and metric.
    pub scores: IndexMap<String, BTreeMap<String, f64>>,
    /// Ends of the intervals by model and metric.
    pub intervals: IndexMap<String, BTreeMap<String, [f64; 2]>>,
    /// Every other model against the first.
    pub comparisons: Vec<Comparison>,
}

/// Verdict of the gate.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    /// Whether the model passes.
    pub passed: bool,
    /// The model.
    pub model: String,
    /// The model it must beat.
    pub against: String,
    /// Metric of the task.
    pub metric: String,
    /// Smallest gain that is asked for, in units of the metric.
    pub min_gain: f64,
    /// Gain in the metric: positive is better, whichever direction the metric has.
    pub gain: Difference,
    /// Whether the model differs from the other at all.
    pub changed: bool,
    /// Result on the guard set, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<Guard>,
    /// Everything that is wrong, one sentence each; empty if the model passes.
    pub reasons: Vec<String>,
}

/// Losses on text that training was not about.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Guard {
    /// Name of the guard set.
    pub name: String,
    /// Number of rows.
    pub rows: u64,
    /// Number of targets.
    pub tokens: u64,
    /// Largest rise of the loss that is allowed, in nats per target.
    pub max_loss: f64,
    /// Loss of the model it must beat, in nats per target.
    pub against_loss: f64,
    /// Loss of the model.
    pub loss: f64,
    /// Rise of the loss, with its interval over rows; wins are rows with a lower loss.
    pub rise: Difference,
}

/// One row of the test split, in `predictions.jsonl`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Id of the row.
    pub id: String,
    /// Group of the row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Loss of the row by name of the model.
    #[serde(default)]
    pub losses: BTreeMap<String, RowLoss>,
    /// Answers by name of the model; `None` where a model failed on the row.
    #[serde(default)]
    pub predictions: BTreeMap<String, Option<String>>,
    /// Texts that were scored, by name of the model, where `extract` found something other than the whole answer.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extracted: BTreeMap<String, String>,
    /// Why there is no answer, by name of the model.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failures: BTreeMap<String, String>,
    /// Names of the models whose answers were cut off by the limit of tokens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unfinished: Vec<String>,
    /// Scores of the row: `scores[metric][model]`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub scores: BTreeMap<String, BTreeMap<String, f64>>,
    /// Question, without the template around it.
    #[serde(default)]
    pub prompt: String,
    /// Expected answer.
    #[serde(default)]
    pub reference: String,
}

/// Losses of the targets of one row, in `token_losses.jsonl`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TokenLosses {
    /// Id of the row.
    pub id: String,
    /// Loss of each target in nats, by name of the model.
    pub losses: BTreeMap<String, Vec<f64>>,
    /// Perplexity of the row by name of the model; absent for a row without targets.
    pub perplexities: BTreeMap<String, f64>,
    /// The targets as token ids.
    pub targets: Vec<u32>,
    /// The targets as text, each decoded by itself.
    pub texts: Vec<String>,
}

impl Document for Scores {
    const FILE: &'static str = stages::SCORES;
    const STAGE: &'static str = "evaluate";

    fn check(&self) -> Result<(), String> {
        if self.models.is_empty() { Err("it names no model".to_owned()) } else { Ok(()) }
    }
}

impl Line for Prediction {
    const FILE: &'static str = stages::PREDICTIONS;
    const STAGE: &'static str = "evaluate";
}

impl Line for TokenLosses {
    const FILE: &'static str = stages::TOKEN_LOSSES;
    const STAGE: &'static str = "evaluate";
}
