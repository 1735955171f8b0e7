//! Errors of choosing a checkpoint.

use std::io;
use std::path::PathBuf;

use failure::{Failure, Kind};

/// Why no checkpoint was chosen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read or written; the message names it.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A file cannot be copied.
    #[error("cannot copy `{}` to `{}`", from.display(), to.display())]
    Copy {
        /// The file.
        from: PathBuf,
        /// The path of the copy.
        to: PathBuf,
        /// Why the copy failed.
        source: io::Error,
    },
    /// `losses.json` cannot be read, or `choice.json` cannot be written.
    #[error(transparent)]
    Output(#[from] outputs::Error),
    /// The losses do not allow a choice.
    #[error("`{}`: {reason}", path.display())]
    Losses {
        /// The file.
        path: PathBuf,
        /// Why they do not.
        reason: String,
    },
    /// The answers do not allow a choice.
    #[error("`{}`: {reason}", path.display())]
    Answers {
        /// The file.
        path: PathBuf,
        /// Why they do not.
        reason: String,
    },
    /// The losses are those of other checkpoints.
    #[error("the losses are not of these checkpoints: {reason}")]
    Mismatch {
        /// The steps that only one side has.
        reason: String,
    },
    /// A folder is not a checkpoint.
    #[error("checkpoint `{}` {reason}", path.display())]
    Checkpoint {
        /// The folder.
        path: PathBuf,
        /// Why it is not one.
        reason: String,
    },
    /// The interval of the gap cannot be computed.
    #[error("cannot compare the two best checkpoints")]
    Bootstrap(#[source] metrics::Error),
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Io(error) | Self::Copy { source: error, .. } => Kind::of_io(error),
            Self::Output(error) => error.kind(),
            Self::Bootstrap(error) => error.kind(),
            Self::Losses { .. } | Self::Answers { .. } | Self::Mismatch { .. } | Self::Checkpoint { .. } => {
                Kind::BadInput
            }
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Mismatch { .. } => Some("run `validate` again with the same `--train` artifact".to_owned()),
            Self::Answers { .. } => Some(
                "run `validate` with `answered_rows` above 0, and with `--encoder` for similarity".to_owned(),
            ),
            Self::Output(error) => error.hint(),
            _ => None,
        }
    }
}
