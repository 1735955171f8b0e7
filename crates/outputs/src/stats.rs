//! `stats.json`: what prepare-data kept, left out and found.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::files::Document;
use crate::stages;

/// A count, with the first of the things counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Number of them.
    pub count: u64,
    /// The first of them, with their places.
    pub examples: Vec<String>,
}

/// Statistics of a dataset.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Rows in the files, unusable ones included.
    pub rows_read: u64,
    /// Unusable rows, left out with `on_bad_row = "skip"`.
    pub bad_rows: Tally,
    /// Rows that do not meet the conditions.
    pub filtered_rows: u64,
    /// Rows held out of training and validation.
    pub held_out_rows: u64,
    /// Usable rows left out by `max_rows`.
    pub not_sampled_rows: u64,
    /// Rows with the id of an earlier row.
    #[serde(default)]
    pub duplicate_ids: Tally,
    /// Rows whose text was changed by `normalize`.
    #[serde(default)]
    pub normalized_rows: Tally,
    /// Rows whose text was changed by `trim`.
    #[serde(default)]
    pub trimmed_rows: Tally,
    /// Rows whose text spells out a control token.
    #[serde(default)]
    pub special_tokens: Tally,
    /// Statistics by name of the split.
    pub splits: BTreeMap<String, SplitStats>,
    /// Result of the leak check.
    pub leaks: LeakStats,
    /// Ends of trained turns of chats: number of turns by the text of the token that ends them; empty text for none.
    #[serde(default)]
    pub turn_ends: BTreeMap<String, TurnEnd>,
    /// Rows with a value in a key that the chat template does not read, by key.
    #[serde(default)]
    pub unread_keys: BTreeMap<String, u64>,
    /// Rows with messages whose text the chat template does not write, by the role of the messages.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unwritten_roles: BTreeMap<String, u64>,
}

/// An end of trained turns.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TurnEnd {
    /// The token; absent if no control token ends the turns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<u32>,
    /// Whether it is one of the model's end tokens.
    pub is_end_token: bool,
    /// Number of turns.
    pub turns: u64,
}

/// Statistics of one split.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SplitStats {
    /// Number of rows.
    pub rows: u64,
    /// Number of tokens.
    pub tokens: u64,
    /// Number of targets.
    pub trained_tokens: u64,
    /// Lengths of the rows.
    pub length: Lengths,
    /// Truncated rows.
    pub truncated: Tally,
    /// Rows left out because they are too long.
    pub too_long: Tally,
    /// Rows left out because they have no target.
    pub no_target: Tally,
    /// Rows with the text of an earlier row of the split; they are kept.
    #[serde(default)]
    pub duplicates: Tally,
    /// Rows whose tokens do not start with the tokens of their prompt.
    pub prompt_not_prefix: Tally,
    /// Turns excluded from the targets because the chat template renders them differently from what the
    /// model must generate; the examples are their rows.
    #[serde(default)]
    pub rewritten_turns: Tally,
    /// Turns excluded from the targets by a flag of their message.
    #[serde(default)]
    pub excluded_turns: u64,
    /// Number of groups with rows in this split.
    pub groups: u64,
    /// Rows by group, for validation and test with at most a thousand groups.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub group_rows: BTreeMap<String, u64>,
    /// Training rows by source of a mixture.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub part_rows: BTreeMap<String, u64>,
}

/// Percentiles of row lengths, in tokens per row: the smallest length that N percent of the rows do not exceed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Lengths {
    /// Shortest row.
    pub min: u64,
    /// Mean, rounded to one decimal.
    pub mean: f64,
    /// Median.
    pub p50: u64,
    /// 90th percentile.
    pub p90: u64,
    /// 95th percentile.
    pub p95: u64,
    /// 99th percentile.
    pub p99: u64,
    /// Longest row.
    pub max: u64,
}

/// Result of the leak check.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LeakStats {
    /// Rows of validation and test, and held-out rows, that were compared with training rows.
    pub checked_rows: u64,
    /// Number of them that leak.
    pub count: u64,
    /// The first hundred, in the order of the rows.
    pub rows: Vec<Leak>,
    /// Number that still leaks after `on_leak = "drop"`, because only several training rows together hold their text.
    pub remaining: u64,
    /// Training rows that were dropped because of a leak.
    pub dropped_train_rows: Tally,
    /// The same for test and held-out rows that occur in validation rows, which choose among checkpoints.
    #[serde(default)]
    pub in_validation: ValidationLeaks,
}

/// Result of comparing test and held-out rows with validation rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ValidationLeaks {
    /// Rows that were compared.
    pub checked_rows: u64,
    /// Number of them that occur in validation rows.
    pub count: u64,
    /// The first hundred; `train_row` and `train_source` are those of the validation row.
    pub rows: Vec<Leak>,
    /// Number that still does after `on_leak = "drop"`.
    pub remaining: u64,
    /// Validation rows that were dropped because of it.
    pub dropped_rows: Tally,
}

/// A held-out row and the training row it shares most text with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Leak {
    /// Kind of leak.
    pub kind: LeakKind,
    /// Share of the row's shingles that occur in training, rounded to three decimals.
    pub overlap: f64,
    /// Id of the row.
    pub row: String,
    /// File and line of the row.
    pub source: String,
    /// Split of the row, or `held_out`.
    pub split: String,
    /// Id of the training row; absent if only several training rows together hold the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_row: Option<String>,
    /// File and line of the training row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_source: Option<String>,
}

/// Kind of leak, the most certain first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LeakKind {
    /// The whole row occurs in training.
    Exact,
    /// The prompt or the answer is contained in a training row, or contains one.
    Contained,
    /// The whole prompt or the whole answer is that of a training row.
    Side,
    /// Much of the prompt or the answer occurs in training.
    Overlap,
}

impl Document for Stats {
    const FILE: &'static str = stages::STATS;
    const STAGE: &'static str = "prepare-data";
}
