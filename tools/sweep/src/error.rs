//! Errors of the program, with their kinds and hints.

use std::io;
use std::path::PathBuf;

use failure::{Failure, Kind};

/// Result with [`Error`].
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a sweep.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file-system operation failed; the message names the path.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A file between programs is at fault.
    #[error(transparent)]
    Outputs(#[from] outputs::Error),
    /// The description of the sweep is wrong.
    #[error("`{place}`: {reason}")]
    Sweep {
        /// The file, with a line if it is known.
        place: String,
        /// The problem.
        reason: String,
        /// One thing to do.
        hint: Option<String>,
    },
    /// A setting cannot be passed to make.
    #[error("`{set}` cannot be passed as one word of `SET`")]
    Word {
        /// The setting and its value.
        set: String,
    },
    /// A path cannot be written in `sweep.json`, which holds text.
    #[error("`{}` (`{flag}`) is not UTF-8, which a sweep cannot record", path.display())]
    NotText {
        /// The flag that names it.
        flag: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// The members depend on results.
    #[error("the members of a sweep with `search = \"{search}\"` are chosen while it runs")]
    NotKnown {
        /// Kind of search.
        search: &'static str,
    },
    /// The program runs in another folder than the checkout.
    #[error("there is no `{}` here", file.display())]
    NoCheckout {
        /// A file of the checkout.
        file: PathBuf,
    },
    /// A program cannot be started.
    #[error("cannot start `{program}`")]
    Start {
        /// The program.
        program: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Planning a member failed.
    #[error("planning `{run}` failed:\n{said}")]
    Plan {
        /// Name of the run.
        run: String,
        /// What it printed.
        said: String,
    },
    /// Some runs failed.
    #[error("{} of {of} runs failed:\n{}", failed.len(), failed.join("\n"))]
    Failed {
        /// One line for each: its name and its log.
        failed: Vec<String>,
        /// Number of runs.
        of: usize,
    },
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Io(error) | Self::Start { source: error, .. } => Kind::of_io(error),
            Self::Outputs(error) => error.kind(),
            Self::Sweep { .. }
            | Self::Word { .. }
            | Self::NotText { .. }
            | Self::NotKnown { .. }
            | Self::NoCheckout { .. } => Kind::Usage,
            Self::Plan { .. } | Self::Failed { .. } => Kind::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Sweep { hint, .. } => hint.clone(),
            Self::Word { .. } => Some(
                "write the value without line breaks, double spaces, and ` NAME=` inside a text".to_owned(),
            ),
            Self::NotText { .. } => Some("use a folder whose name is UTF-8".to_owned()),
            Self::NotKnown { .. } => Some("use `search = \"grid\"` or `search = \"random\"`".to_owned()),
            Self::NoCheckout { .. } => Some("run `sweep` in the folder with the Makefile".to_owned()),
            Self::Start { program, .. } => Some(format!("install `{program}`, or add its folder to PATH")),
            Self::Failed { .. } => Some(
                "correct the cause and run the same command again: finished runs are not repeated".to_owned(),
            ),
            Self::Io(_) | Self::Outputs(_) | Self::Plan { .. } => None,
        }
    }
}
