//! Failures of requests to a hub.

use failure::{Failure, Kind};

/// Why a request failed for good.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An environment variable is unusable.
    #[error("{reason}")]
    Settings {
        /// The variable and what is wrong with its value.
        reason: String,
        /// The hint.
        hint: String,
    },

    /// The hub refused the request or gave an answer that makes no sense.
    #[error("{reason}")]
    Refused {
        /// The request and the answer.
        reason: String,
        /// The hint.
        hint: String,
    },

    /// The hub did not answer, or stopped answering.
    #[error("`{id}`: {reason}")]
    Unreachable {
        /// The repository.
        id: String,
        /// The last failure and the number of attempts.
        reason: String,
    },

    /// A signal asked the program to stop.
    #[error("interrupted; the same command resumes where this one stopped")]
    Interrupted {
        /// Number of the signal.
        signal: i32,
    },

    /// A file could not be read or written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl From<network::Error> for Error {
    fn from(network::Error { reason, hint }: network::Error) -> Self {
        Self::Settings { reason, hint }
    }
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Settings { .. } => Kind::Usage,
            Self::Refused { .. } | Self::Unreachable { .. } => Kind::Failed,
            Self::Interrupted { signal } => Kind::Interrupted { signal: *signal },
            Self::Io(error) => Failure::kind(error),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Settings { hint, .. } | Self::Refused { hint, .. } => Some(hint.clone()),
            Self::Unreachable { .. } => Some("run the same command again once the network is back".into()),
            Self::Interrupted { .. } | Self::Io(_) => None,
        }
    }
}
