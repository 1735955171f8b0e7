//! `answers.jsonl`: what every checkpoint answers to prompts of the validation split.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::files::Line;
use crate::stages;

/// Answers to one prompt, by step; step 0 is the base model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CheckpointAnswers {
    /// Group of the row, whose rows are drawn together; absent for a row on its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Id of the row.
    pub id: String,
    /// Expected answer.
    pub reference: String,
    /// Answers by step.
    pub answers: BTreeMap<u64, String>,
    /// Steps whose answers were cut off by the limit of tokens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unfinished: Vec<u64>,
    /// Similarity of meaning to the reference, by step, if an encoder was given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub similarity: BTreeMap<u64, f64>,
}

impl Line for CheckpointAnswers {
    const FILE: &'static str = stages::ANSWERS;
    const STAGE: &'static str = "validate";
}
