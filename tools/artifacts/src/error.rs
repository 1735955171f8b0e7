//! Errors of the program, with their kinds and hints.

use std::path::{Path, PathBuf};

use artifact::TreeHash;
use failure::{Failure, Kind};

/// Result with [`Error`].
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of one of the commands.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file-system operation failed; the message names the path.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The store or an artifact is at fault.
    #[error(transparent)]
    Artifact(#[from] artifact::Error),
    /// No artifact has this name.
    #[error("no artifact `{name}` in the store `{}`", store.display())]
    NotFound {
        /// As given on the command line.
        name: String,
        /// The store that was searched.
        store: PathBuf,
    },
    /// The folder of the store holds no store.
    #[error("{}", no_store(root, *is_folder))]
    NoStore {
        /// The folder.
        root: PathBuf,
        /// Whether it exists.
        is_folder: bool,
    },
    /// Several artifacts begin with this name.
    #[error("`{name}` names {} artifacts: {}", found.len(), shortened(found))]
    Ambiguous {
        /// As given on the command line.
        name: String,
        /// Their names.
        found: Vec<String>,
    },
    /// A file is not what a command expects.
    #[error("`{}` {reason}", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// The end of a sentence about it.
        reason: String,
    },
    /// A place to push to or pull from is at fault.
    #[error("`{place}`: {problem}")]
    Remote {
        /// Its address.
        place: String,
        /// The problem.
        problem: String,
        /// One thing to do.
        hint: Option<String>,
    },
    /// A place to pull from does not hold what is wanted.
    #[error("`{place}`: {problem}")]
    NotThere {
        /// Its address.
        place: String,
        /// The problem.
        problem: String,
        /// One thing to do.
        hint: &'static str,
    },
    /// A file is not a key that can sign.
    #[error("`{}` {reason}", path.display())]
    BadKey {
        /// The file.
        path: PathBuf,
        /// The end of a sentence about it.
        reason: String,
    },
    /// The environment has an unusable setting of the network.
    #[error(transparent)]
    Network(#[from] network::Error),
    /// Two artifacts have the same key and other bytes.
    #[error("`{there}` and `{}` have the same key, but other bytes ({} and {})", here.display(), trees.0.short(), trees.1.short())]
    Different {
        /// The artifact at the other place.
        there: String,
        /// The artifact in the store.
        here: PathBuf,
        /// Their tree hashes.
        trees: (TreeHash, TreeHash),
    },
    /// An artifact was made from something else than what now has the key of its input.
    #[error(
        "`{consumer}` was not made from `{origin}`: its input `{role}` had the same key but different content"
    )]
    Contradiction {
        /// The artifact that was made.
        consumer: String,
        /// The artifact with the key of its input.
        origin: String,
        /// Role of the input.
        role: String,
    },
    /// An artifact at the place to pull from is damaged.
    #[error("`{place}` is damaged: {reason}")]
    DamagedThere {
        /// The artifact, or a file of it.
        place: String,
        /// The first difference.
        reason: String,
    },
    /// An artifact that was made again has other bytes.
    #[error(
        "`{}` was not reproduced: `{}` has the tree {} instead of {}",
        old.display(), new.display(), trees.1.short(), trees.0.short()
    )]
    NotReproduced {
        /// The artifact.
        old: PathBuf,
        /// The artifact that was made in its place.
        new: PathBuf,
        /// Their tree hashes.
        trees: (TreeHash, TreeHash),
        /// Whether the numerics differ.
        other_machine: bool,
    },
    /// Nobody said where plain files are.
    #[error("input `{role}` was made from plain files with the tree hash {}, and none of --files has it", tree.short())]
    NoFiles {
        /// Role of the input.
        role: String,
        /// Hash of the files.
        tree: TreeHash,
    },
    /// Flags that do not go together.
    #[error("{0}")]
    Usage(String),
    /// A folder of pointers is not there.
    #[error("there is no folder `{}`, so it is not known what pipelines point at", folder.display())]
    NoPointers {
        /// The folder.
        folder: PathBuf,
    },
    /// Times cannot be compared.
    #[error("the clock ({now}) {reason}: `{name}` was used at {used}")]
    Clock {
        /// Current time.
        now: String,
        /// The suspicion, as the rest of a sentence.
        reason: &'static str,
        /// The artifact that was used last.
        name: String,
        /// When it was used.
        used: String,
    },
    /// An artifact that gc keeps cannot be read.
    #[error("cannot tell what `{}` was made from, which must be kept: {reason}", path.display())]
    UnknownOrigin {
        /// The artifact.
        path: PathBuf,
        /// Kind of the failure to read it.
        kind: Kind,
        /// The failure.
        reason: String,
    },
    /// A signal asked the program to stop.
    #[error("interrupted")]
    Stopped {
        /// Number of the signal.
        signal: i32,
    },
}

impl Error {
    /// Returns whether the error says that an artifact is damaged, rather than that it cannot be read now.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            Self::Artifact(error) => error.is_damage(),
            // A manifest that is missing, a pipe or not UTF-8.
            Self::Io(error) => {
                matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::InvalidData)
            }
            _ => false,
        }
    }
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Io(error) => Kind::of_io(error),
            Self::Artifact(error) => error.kind(),
            Self::Network(error) => error.kind(),
            Self::NotFound { .. }
            | Self::NoStore { .. }
            | Self::NotThere { .. }
            | Self::BadKey { .. }
            | Self::Ambiguous { .. }
            | Self::BadFile { .. }
            | Self::NoFiles { .. }
            | Self::Contradiction { .. }
            | Self::DamagedThere { .. } => Kind::BadInput,
            Self::Clock { .. } | Self::Remote { .. } => Kind::Failed,
            Self::Different { .. } | Self::NotReproduced { .. } => Kind::Nondeterministic,
            Self::Usage(_) | Self::NoPointers { .. } => Kind::Usage,
            Self::UnknownOrigin { kind, .. } => *kind,
            Self::Stopped { signal } => Kind::Interrupted { signal: *signal },
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Artifact(error) => error.hint(),
            Self::Network(error) => error.hint(),
            Self::NotFound { .. } => Some(
                "`artifacts ls` lists them; give a folder, a label, STAGE, or at least the first 4 digits of a key"
                    .to_owned(),
            ),
            Self::NoStore { .. } => Some(
                "check --store (STORE of make); the first stage that runs, or `artifacts pull`, makes the store".to_owned(),
            ),
            Self::NotThere { hint, .. } => Some((*hint).to_owned()),
            Self::BadKey { .. } => Some(
                "give the private key as PEM; \
                 `openssl ecparam -name prime256v1 -genkey -noout -out key.pem` makes one"
                    .to_owned(),
            ),
            Self::Ambiguous { .. } => Some("give more digits of the key, or STAGE/KEY".to_owned()),
            Self::NoPointers { .. } => Some(
                "name the folder with --pointers (BUILD of make); if there is none, add --no-pointers to gc (NO_POINTERS=1 to make)"
                    .to_owned(),
            ),
            Self::Clock { .. } => Some("set the clock, or add --trust-clock if it is right".to_owned()),
            Self::Remote { hint, .. } => hint.clone(),
            Self::Different { .. } => {
                Some("the stage is not deterministic: run it with --check, and keep only one of the two".to_owned())
            }
            Self::Contradiction { consumer, .. } => Some(format!(
                "delete `{consumer}` and run its stage again, or bring back the artifact that it was made from"
            )),
            Self::DamagedThere { .. } => {
                Some("delete that artifact there, and push it again from a store that has it".to_owned())
            }
            Self::NotReproduced { other_machine: true, .. } => Some(
                "the numerics differ (`artifacts diff` shows them): bytes are promised for equal numerics only".to_owned(),
            ),
            Self::NotReproduced { .. } => Some("`artifacts diff` shows which files differ".to_owned()),
            Self::NoFiles { .. } => Some("add --files with the folder or file that the input was read from".to_owned()),
            Self::UnknownOrigin { .. } => Some(
                "run gc again, with the version of Ashlar that wrote the artifact if that is another; if the artifact is damaged, \
                 `artifacts verify --quarantine` moves it away"
                    .to_owned(),
            ),
            Self::Usage(_) | Self::Io(_) | Self::BadFile { .. } | Self::Stopped { .. } => None,
        }
    }
}

/// Lists names, but only the first of many.
fn shortened(names: &[String]) -> String {
    /// Number of names that are listed.
    const LISTED: usize = 5;
    let end = if names.len() > LISTED { ", …" } else { "" };
    format!("{}{end}", names[..names.len().min(LISTED)].join(", "))
}

/// Says that a folder holds no store, or is not there.
fn no_store(root: &Path, is_folder: bool) -> String {
    let root = root.display();
    if is_folder {
        format!("`{root}` is not a store: it has neither artifacts nor a file `STORE`")
    } else {
        format!("there is no store `{root}` yet")
    }
}

/// Makes an error about a file.
pub(crate) fn bad_file(path: impl Into<PathBuf>, reason: impl Into<String>) -> Error {
    Error::BadFile { path: path.into(), reason: reason.into() }
}

/// An I/O error with the files that it is about; the error number stays in its source.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Named {
    /// Message with the operation and the files.
    pub(crate) message: String,
    /// The error of the operating system.
    pub(crate) source: std::io::Error,
}
