//! What can go wrong between this machine and a hub.

/// Why a request failed for good.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An environment variable cannot be used.
    #[error("{problem}\nhint: {hint}")]
    Settings {
        /// What is wrong.
        problem: String,
        /// What to do.
        hint: String,
    },

    /// The hub answered, but not with what was asked for.
    #[error("{problem}\nhint: {hint}")]
    Refused {
        /// What was asked and what came back.
        problem: String,
        /// What to do.
        hint: String,
    },

    /// The hub could not be reached, or went away for good.
    #[error("`{id}`: {problem}\nhint: run the same command again when the network is there")]
    Unreachable {
        /// The repository.
        id: String,
        /// What failed, after how many attempts.
        problem: String,
    },

    /// A signal asked to stop.
    #[error("interrupted; the same command goes on where this one stopped")]
    Interrupted,

    /// A file could not be read or written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}
