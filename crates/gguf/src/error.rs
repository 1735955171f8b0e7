//! Why a file cannot be read as GGUF.

use std::io;

use failure::{Failure, Kind};

/// Why a file cannot be read as GGUF.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The header contradicts itself or the file; the reason names the key or tensor where there is one.
    #[error("{0}")]
    Content(String),
    /// The file uses a feature that is not supported.
    #[error("{0}")]
    Unsupported(String),
}

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Io(error) => Kind::of_io(error),
            Self::Content(_) | Self::Unsupported(_) => Kind::BadInput,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Io(_) => None,
            Self::Content(_) => {
                Some("the file is damaged or is not a GGUF file; download or copy it again".to_owned())
            }
            Self::Unsupported(_) => {
                Some("use a file in one of the supported formats, or the original model".to_owned())
            }
        }
    }
}
