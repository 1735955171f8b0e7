//! Settings of the leak check.

use serde::{Deserialize, Serialize};

/// Amount of text that must match.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Number of words in a shingle.
    pub words: usize,
    /// Share of a side's shingles that makes an overlap, above 0 and at most 1.
    pub overlap: f64,
    /// Share of the training rows above which a shingle is common and does not count; never fewer than 20 rows.
    pub common: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { words: 8, overlap: 0.5, common: 0.02 }
    }
}
