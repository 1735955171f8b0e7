//! Everything that can stop an upload.

/// Why a model was not uploaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The artifact is not one to upload.
    #[error("`{place}`: {problem}\nhint: {hint}")]
    Input {
        /// The artifact or file.
        place: String,
        /// What is wrong.
        problem: String,
        /// What to do.
        hint: String,
    },

    /// The command line asks for something that cannot be.
    #[error("{problem}\nhint: {hint}")]
    Settings {
        /// What is wrong.
        problem: String,
        /// What to do.
        hint: String,
    },

    /// The hub refused, or could not be reached.
    #[error(transparent)]
    Hub(#[from] hub::Error),

    /// A file could not be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Error {
    /// Returns whether the model itself is at fault, rather than the hub or the network.
    pub fn is_bad_input(&self) -> bool {
        matches!(self, Self::Input { .. })
    }

    /// Returns whether the command line or the environment is at fault.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Settings { .. } | Self::Hub(hub::Error::Settings { .. }))
    }
}
