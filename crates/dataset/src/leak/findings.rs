//! Results of a leak check.

use outputs::{Leak, LeakKind};

/// Number of leaks that [`Findings`] lists; all are counted.
pub const LISTED: usize = 100;

/// Kind of match of a checked row with the training rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Match {
    pub(super) kind: LeakKind,
    /// Share of the side's shingles that match, in thousandths.
    pub(super) per_mille: u32,
    /// Number of the training row; `None` if only all training rows together have the text.
    pub(super) train_row: Option<u32>,
}

/// Leaks and the training rows that cause them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Findings {
    /// Number of checked rows that leak.
    pub count: u64,
    /// The first [`LISTED`] of them, in the order in which they were added.
    pub leaks: Vec<Leak>,
    /// Numbers of the training rows, counted from 0, in which a checked row occurs; sorted.
    pub train_rows: Vec<u32>,
}
