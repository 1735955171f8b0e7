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
    /// The file holds only a part of a model.
    #[error("the file is part {} of {count} of a model", index.saturating_add(1))]
    Part {
        /// Number of the part, from 0.
        index: u64,
        /// Number of parts.
        count: u64,
    },
}

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Io(error) => Kind::of_io(error),
            Self::Content(_) | Self::Unsupported(_) | Self::Part { .. } => Kind::BadInput,
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
            Self::Part { .. } => Some(
                "merge the parts, and use the merged file: `llama-gguf-split --merge FIRST-PART.gguf MERGED.gguf`"
                    .to_owned(),
            ),
        }
    }
}
