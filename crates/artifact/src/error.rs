//! What can go wrong with artifacts and stores.

use std::fmt;
use std::io;
use std::path::PathBuf;

use failure::{Failure, Kind};

/// Number of the signal that Ctrl-C sends; a caller that knows which signal arrived says so itself.
const SIGINT: i32 = 2;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error about an artifact, its parts or the store that holds it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused; the message names the path.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The path does not hold an artifact at all.
    #[error("`{}` is not an artifact: {reason}", path.display())]
    NotAnArtifact {
        /// Where one was looked for.
        path: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// The artifact was damaged after it was published.
    #[error("artifact `{}` is damaged: {reason}", path.display())]
    Damaged {
        /// The artifact's folder.
        path: PathBuf,
        /// The first difference found.
        reason: String,
    },
    /// The artifact was written in a format this version does not know.
    #[error("`{}` has the unknown schema `{found}`, expected `{expected}`", path.display())]
    UnknownSchema {
        /// The file that names it.
        path: PathBuf,
        /// The schema in the file.
        found: String,
        /// The schema this version reads.
        expected: &'static str,
    },
    /// A folder holds something that cannot be part of an artifact.
    #[error("cannot hash `{}`: {reason}", path.display())]
    Tree {
        /// The offending file or folder.
        path: PathBuf,
        /// Which rule it breaks.
        reason: String,
    },
    /// A value is outside the domain of keys.
    #[error("`{pointer}` cannot be part of a key: {reason}")]
    KeyDomain {
        /// JSON pointer (without the leading slash) of the value.
        pointer: String,
        /// Which rule it breaks.
        reason: String,
    },
    /// A name is not a valid name of a stage, slug, ref or output.
    #[error("`{name}` is not a valid {what}: {reason}")]
    BadName {
        /// The name as given.
        name: String,
        /// What it should name.
        what: &'static str,
        /// The rule.
        reason: &'static str,
    },
    /// JSON that cannot be read.
    #[error("cannot parse `{}`: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// Files that must not be published.
    #[error("refused to publish: {0}")]
    Payload(Refused),
    /// Someone else holds the lock and the wait is over.
    #[error("another process works on `{what}`{holder}")]
    Locked {
        /// Stage and short key.
        what: String,
        /// Who, if known; starts with a space.
        holder: String,
    },
    /// The wait for a lock was given up because the process was asked to stop.
    #[error("stopped while waiting for a lock")]
    Stopped,
    /// Too little space to begin.
    #[error("too little space at `{}`: {free_bytes} bytes free, {needed_bytes} needed", path.display())]
    NoSpace {
        /// A path on the file system.
        path: PathBuf,
        /// Bytes wanted before work begins.
        needed_bytes: u64,
        /// Bytes free.
        free_bytes: u64,
    },
    /// No such ref, or one that names nothing.
    #[error("ref `{name}` {reason}")]
    Ref {
        /// The name of the ref.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The output folder is in use.
    #[error("`{}` {reason}", path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
        /// What it holds.
        reason: String,
    },
    /// A check that the caller asked for before publishing failed.
    #[error(transparent)]
    Precondition(Box<dyn std::error::Error + Send + Sync>),
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Io(error) => Kind::of_io(error),
            Self::NotAnArtifact { .. }
            | Self::Damaged { .. }
            | Self::UnknownSchema { .. }
            | Self::Tree { .. }
            | Self::Json { .. }
            | Self::Ref { .. } => Kind::BadInput,
            Self::KeyDomain { .. } | Self::BadName { .. } | Self::Occupied { .. } => Kind::Usage,
            Self::Payload(_) | Self::Precondition(_) => Kind::Failed,
            Self::Locked { .. } => Kind::Locked,
            Self::Stopped => Kind::Interrupted { signal: SIGINT },
            Self::NoSpace { .. } => Kind::Storage,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NotAnArtifact { .. } => "give the folder that a stage printed",
            Self::Damaged { .. } => "delete that folder and run the stage that made it again",
            Self::UnknownSchema { .. } => "use the version of Ashlar that wrote it, or another `--store`",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// Every file that was refused, with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused(pub Vec<(String, String)>);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (file, reason)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}`{file}` {reason}")?;
        }
        Ok(())
    }
}

pub(crate) fn tree_error(path: impl Into<PathBuf>, reason: impl Into<String>) -> Error {
    Error::Tree { path: path.into(), reason: reason.into() }
}

pub(crate) fn damaged(path: impl Into<PathBuf>, reason: impl Into<String>) -> Error {
    Error::Damaged { path: path.into(), reason: reason.into() }
}
