//! Errors in the network settings.

use failure::{Failure, Kind};

/// A network setting in the environment cannot be used.
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
