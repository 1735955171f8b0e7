//! Kinds of failure and their exit codes.

use std::io;

use rustix::io::Errno;

use crate::chain::causes;

/// The kind of a failure, which decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any other failure (exit 1).
    Failed,
    /// The command line or a setting is wrong (exit 2).
    Usage,
    /// A model does not pass its gate (exit 20); the artifact is published.
    GateFailed,
    /// The content of an input is wrong (exit 65).
    BadInput,
    /// Running again produced different bytes (exit 70).
    Nondeterministic,
    /// No space, a quota, a read-only file system or an I/O error (exit 74).
    Storage,
    /// Another process holds a lock (exit 75).
    Locked,
    /// A signal asked the program to stop (exit 128 + signal).
    Interrupted {
        /// Number of the signal.
        signal: i32,
    },
    /// The exit code is the answer, as for `--plan`; nothing is printed.
    Status(u8),
}

impl Kind {
    /// Returns the exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::GateFailed => 20,
            Self::BadInput => 65,
            Self::Nondeterministic => 70,
            Self::Storage => 74,
            Self::Locked => 75,
            Self::Interrupted { signal } => 128 + signal as u8,
            Self::Status(code) => code,
        }
    }

    /// Returns the kind of an I/O error, by its number or that of an I/O error it wraps, and never by its text. Invalid data, such
    /// as bytes that are not UTF-8, is bad input.
    pub fn of_io(error: &io::Error) -> Self {
        const STORAGE: [io::ErrorKind; 4] = [
            io::ErrorKind::StorageFull,
            io::ErrorKind::QuotaExceeded,
            io::ErrorKind::ReadOnlyFilesystem,
            io::ErrorKind::FileTooLarge,
        ];
        let is_storage = |error: &io::Error| {
            error.raw_os_error() == Some(Errno::IO.raw_os_error()) || STORAGE.contains(&error.kind())
        };
        // `fs-err` wraps the system's error to add the path.
        let mut causes = causes(error).filter_map(|cause| cause.downcast_ref());
        if causes.any(is_storage) {
            Self::Storage
        } else if error.kind() == io::ErrorKind::InvalidData {
            Self::BadInput
        } else {
            Self::Failed
        }
    }

    /// Returns the hint for failures of this kind that bring none.
    pub(crate) fn default_hint(self) -> Option<&'static str> {
        match self {
            Self::Storage => Some("free some space, then run the same command again"),
            Self::Locked => Some("wait until it has finished, or raise `--lock-wait`"),
            _ => None,
        }
    }
}
