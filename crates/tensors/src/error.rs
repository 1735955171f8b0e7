//! Why a file cannot be read as tensors.

use std::io;

use failure::{Failure, Kind};

/// Why a file cannot be read as tensors.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The header contradicts itself or the file; the reason names the tensor where there is one.
    #[error("{0}")]
    Content(String),
}

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Io(error) => Kind::of_io(error),
            Self::Content(_) => Kind::BadInput,
        }
    }
}
