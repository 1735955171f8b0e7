//! Errors about artifacts and stores, with their kinds and hints.

use std::fmt;
use std::io;
use std::path::PathBuf;

use failure::{Failure, Kind};

/// Number of the signal that Ctrl-C sends; a caller that knows which signal arrived says so itself.
const SIGINT: i32 = 2;

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error about an artifact, its parts or the store that holds it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file-system operation failed; the message names the path.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The path is not an artifact.
    #[error("`{}` is not an artifact: {reason}", path.display())]
    NotAnArtifact {
        /// The path.
        path: PathBuf,
        /// Why it is not an artifact.
        reason: String,
    },
    /// The artifact was damaged after it was published.
    #[error("artifact `{}` is damaged: {reason}", path.display())]
    Damaged {
        /// The artifact's folder.
        path: PathBuf,
        /// The first difference.
        reason: String,
    },
    /// The artifact or store has a format that this version does not know.
    #[error("`{}` has the unknown schema `{found}`, expected `{expected}`", path.display())]
    UnknownSchema {
        /// The file that names it.
        path: PathBuf,
        /// The schema in the file.
        found: String,
        /// The schema that this version reads.
        expected: &'static str,
    },
    /// A folder contains something that cannot be part of an artifact.
    #[error("cannot hash `{}`: {reason}", path.display())]
    Tree {
        /// The offending file or folder.
        path: PathBuf,
        /// The rule that is broken.
        reason: String,
    },
    /// A value is outside the domain of keys.
    #[error("`{pointer}` cannot be part of a key: {reason}")]
    KeyDomain {
        /// JSON pointer (without the leading slash) of the value.
        pointer: String,
        /// The rule that is broken.
        reason: String,
    },
    /// A name is not a valid name of a stage, slug, ref or output.
    #[error("`{name}` is not a valid {what}: {reason}")]
    BadName {
        /// The name.
        name: String,
        /// The kind of name.
        what: &'static str,
        /// The rule.
        reason: &'static str,
    },
    /// A file is not the JSON that it should be.
    #[error("cannot parse `{}`: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Message of the parser, with line and column.
        source: serde_json::Error,
    },
    /// Files that must not be published.
    #[error("refused to publish: {0}")]
    Payload(Refused),
    /// Another process holds the lock, and the wait is over.
    #[error("another process works on `{what}`{holder}")]
    Locked {
        /// Stage and short key.
        what: String,
        /// Description of the process, with a leading space; empty if unknown.
        holder: String,
    },
    /// Another process has locked the folder of an artifact, and the wait is over.
    #[error("another process has locked `{}`", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The process was asked to stop while it waited for a lock.
    #[error("stopped while waiting for a lock")]
    Stopped,
    /// There is too little free space to start.
    #[error("too little space at `{}`: {free_bytes} bytes free, {needed_bytes} needed", path.display())]
    NoSpace {
        /// A path on the file system.
        path: PathBuf,
        /// Bytes that must be free.
        needed_bytes: u64,
        /// Bytes free.
        free_bytes: u64,
    },
    /// The file `STORE` is not that of a store.
    #[error("`{}` does not say that its folder is a store: {source}", path.display())]
    StoreFile {
        /// The file.
        path: PathBuf,
        /// Message of the parser, with line and column.
        source: serde_json::Error,
    },
    /// The file of a ref does not name an artifact.
    #[error("ref `{name}` is malformed: `{}` is not a line `STAGE KEY TREE`", path.display())]
    MalformedRef {
        /// The name of the ref.
        name: String,
        /// Its file.
        path: PathBuf,
    },
    /// Another ref has the same name in other letters, which is the same file on some file systems.
    #[error("the name `{name}` differs only in case from the existing ref `{existing}`")]
    RefCase {
        /// The new name.
        name: String,
        /// The name of the existing ref.
        existing: String,
    },
    /// The artifact of a ref is not in the store.
    #[error("ref `{name}` {reason}")]
    Ref {
        /// The name of the ref.
        name: String,
        /// The problem, as the rest of a sentence.
        reason: String,
    },
    /// The output folder is in use.
    #[error("`{}` {reason}", path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
        /// Why it cannot be used.
        reason: String,
    },
    /// A folder of a store is a link.
    #[error("`{}` is a link, and a store follows no links in it", path.display())]
    Linked {
        /// The link.
        path: PathBuf,
    },
    /// A check of the caller failed just before publishing.
    #[error(transparent)]
    Precondition(failure::Error),
}

impl Error {
    /// Returns whether the error says that an artifact is not what was published, rather than that it cannot be read.
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Damaged { .. } | Self::NotAnArtifact { .. } | Self::Json { .. } | Self::Tree { .. }
        )
    }
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
            | Self::StoreFile { .. }
            | Self::MalformedRef { .. }
            | Self::Linked { .. }
            | Self::Ref { .. } => Kind::BadInput,
            Self::KeyDomain { .. } | Self::BadName { .. } | Self::RefCase { .. } | Self::Occupied { .. } => {
                Kind::Usage
            }
            Self::Precondition(error) => error.kind(),
            Self::Payload(_) => Kind::Failed,
            Self::Locked { .. } | Self::InUse { .. } => Kind::Locked,
            Self::Stopped => Kind::Interrupted { signal: SIGINT },
            Self::NoSpace { .. } => Kind::Storage,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NotAnArtifact { .. } => "give the folder that a stage printed",
            Self::Damaged { .. } => "delete that folder and run the stage that made it again",
            Self::InUse { .. } => {
                "run the same command again when that process has finished; `fuser -v FOLDER` lists the processes \
                 that have the folder open"
            }
            Self::UnknownSchema { .. } => "use the version of Ashlar that wrote it, or another `--store`",
            Self::Linked { .. } => {
                "put the folder itself there: link or mount the whole store, not a folder in it"
            }
            Self::StoreFile { .. } => {
                "delete that file, and the next run writes it again; or give another `--store`"
            }
            Self::MalformedRef { name, .. } => {
                return Some(format!(
                    "delete that file; to label the artifact again, run its stage again with `--label {name}`"
                ));
            }
            Self::RefCase { existing, .. } => {
                return Some(format!(
                    "use `--label {existing}`, or delete the file `refs/{existing}` of the store"
                ));
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// The refused files (or metrics), each with the reason.
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
