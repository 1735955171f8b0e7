//! Errors of scores.

/// Why a score cannot be computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Two systems were compared on different numbers of rows.
    #[error("paired scores need the same rows: `{left}` rows against `{right}`")]
    RowsDiffer {
        /// Rows of the first system.
        left: usize,
        /// Rows of the second system.
        right: usize,
    },
    /// There is nothing to score.
    #[error("no rows to score")]
    NoRows,
    /// A score is NaN or infinite.
    #[error("score of row `{row}` is not a finite number")]
    NotFinite {
        /// Position of the row, from 0.
        row: usize,
    },
    /// A bootstrap setting makes no sense.
    #[error("bootstrap setting `{name}` is out of range: {expected}")]
    Setting {
        /// Name of the setting.
        name: &'static str,
        /// What it may be.
        expected: &'static str,
    },
}
