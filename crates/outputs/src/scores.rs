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
    /// Name of the split.
    pub split: String,
    /// Text scores of answers that know nothing, such as the copied source: `floors[floor][metric]`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub floors: BTreeMap<String, BTreeMap<String, f64>>,
}

/// Scores of one model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelScores {
    /// Number of prompts answered.
    pub generated_rows: u64,
    /// Mean loss in nats per target.
    pub loss: f64,
    /// e to the loss.
    pub perplexity: f64,
    /// Number of targets.
    pub tokens: u64,
    /// Scores of the answers by metric, such as `bleu`; empty if nothing was generated.
    #[serde(flatten)]
    pub text: BTreeMap<String, f64>,
}

/// One row of the test split, in `predictions.jsonl`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Id of the row.
    pub id: String,
    /// Loss of the row by name of the model.
    #[serde(default)]
    pub losses: BTreeMap<String, RowLoss>,
    /// Answers by name of the model; `None` where a model failed on the row.
    #[serde(default)]
    pub predictions: BTreeMap<String, Option<String>>,
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
