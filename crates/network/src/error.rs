//! An unusable setting of the network.

use failure::{Failure, Kind};

/// An environment variable about the network is unusable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Error {
    /// The variable and what is wrong with its value.
    pub reason: String,
    /// The remedy.
    pub hint: String,
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        Kind::Usage
    }

    fn hint(&self) -> Option<String> {
        Some(self.hint.clone())
    }
}
