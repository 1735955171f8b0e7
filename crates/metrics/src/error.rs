//! Errors of computing a score.

use failure::{Failure, Kind};

/// Why a score cannot be computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Two systems were compared on different numbers of rows.
    #[error("paired scores need the same rows: {left} rows against {right}")]
    RowsDiffer {
        /// Number of rows of the first system.
        left: usize,
        /// Number of rows of the second system.
        right: usize,
    },
    /// The corpus has no rows.
    #[error("no rows to score")]
    NoRows,
    /// A score is NaN or infinite.
    #[error("the score of row {row} is not finite")]
    NotFinite {
        /// Index of the row, counted from 0.
        row: usize,
    },
    /// A setting of the bootstrap is out of range.
    #[error("bootstrap setting `{name}` is out of range: expected {expected}")]
    Setting {
        /// Name of the setting.
        name: &'static str,
        /// The range in words.
        expected: &'static str,
    },
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::RowsDiffer { .. } | Self::NoRows | Self::NotFinite { .. } => Kind::BadInput,
            Self::Setting { .. } => Kind::Usage,
        }
    }
}
