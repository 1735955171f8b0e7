//! What a leak check finds.

use serde::{Deserialize, Serialize};

/// Leaks that a [`Report`] describes one by one; all are counted.
pub const LISTED: usize = 100;

/// What kind of leak it is, the plainest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The whole row is in training.
    Exact,
    /// A side lies inside a training row, or has a training row's side inside it.
    Contained,
    /// Much of a side is in training.
    Overlap,
}

/// The training row with which a row under test agrees most: kind, share in thousandths, number.
pub(super) type Best = (Kind, u32, Option<u32>);

/// A row under test and the training row it agrees with most.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Leak {
    /// Kind of leak.
    pub kind: Kind,
    /// Share of the runs of the side that agree, to three digits.
    pub overlap: f64,
    /// The row under test.
    pub row: String,
    /// Where that row came from.
    pub source: String,
    /// Its split, or `held_out`.
    pub split: String,
    /// The training row, absent if only all of them together have the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_row: Option<String>,
    /// Where the training row came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_source: Option<String>,
}

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// How many rows under test leak.
    pub count: u64,
    /// The first [`LISTED`] of them, in the order in which they were added.
    pub leaks: Vec<Leak>,
    /// Training rows, counted from 0, that a row under test occurs in by itself; sorted.
    pub train_rows: Vec<u32>,
}
