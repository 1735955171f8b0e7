//! Errors of an upload.

use std::io;

use failure::{Failure, Kind};

/// Error of an upload.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The artifact cannot be uploaded.
    #[error("`{place}`: {reason}")]
    Input {
        /// The artifact or file.
        place: String,
        /// The problem.
        reason: String,
        /// The remedy.
        hint: String,
    },

    /// The artifact cannot be opened.
    #[error(transparent)]
    Artifact(artifact::Error),

    /// The command line or the environment is wrong.
    #[error("{reason}")]
    Settings {
        /// The problem.
        reason: String,
        /// The remedy.
        hint: String,
    },

    /// The hub refused, or could not be reached.
    #[error(transparent)]
    Hub(#[from] hub::Error),

    /// The scores could not be read.
    #[error(transparent)]
    Outputs(#[from] outputs::Error),

    /// A file could not be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Input { .. } => Kind::BadInput,
            Self::Artifact(error) => error.kind(),
            Self::Settings { .. } => Kind::Usage,
            Self::Hub(error) => error.kind(),
            Self::Outputs(error) => error.kind(),
            Self::Io(error) => Failure::kind(error),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Input { hint, .. } | Self::Settings { hint, .. } => Some(hint.clone()),
            Self::Artifact(artifact::Error::NotAnArtifact { .. }) => {
                Some("give the artifact of `fuse`".to_owned())
            }
            Self::Artifact(error) => error.hint(),
            Self::Hub(error) => error.hint(),
            Self::Outputs(error) => error.hint(),
            Self::Io(_) => None,
        }
    }
}
