//! Everything that can stop an import, each with what to do about it.

use std::path::PathBuf;

/// Why a model was not imported.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings name no model, or more than one, or in a way that cannot be read.
    #[error("{problem}\nhint: {hint}")]
    Settings {
        /// What is wrong.
        problem: String,
        /// What to do.
        hint: String,
    },

    /// The folder or repository holds no model in the layout that we read.
    #[error("`{place}`: {problem}\nhint: {hint}")]
    Layout {
        /// The folder or file.
        place: String,
        /// What is wrong.
        problem: String,
        /// What to do.
        hint: String,
    },

    /// The model is of a kind that no crate here can run.
    #[error("`{}`: `model_type` is `{model_type}`, which is not supported\nhint: supported are {}", path.display(), supported())]
    ModelType {
        /// The `config.json`.
        path: PathBuf,
        /// What it says.
        model_type: String,
    },

    /// A JSON file does not parse, or is not what its name promises.
    #[error("`{}`: {problem}\nhint: {hint}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column where known.
        problem: String,
        /// What to do.
        hint: &'static str,
    },

    /// A safetensors file lies about its content, or does not hold all of it.
    #[error("`{}`: {problem}\nhint: the file is damaged or was not made by a safetensors writer; get it again from its source", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the tensor where there is one.
        problem: String,
    },

    /// A tensor holds values that are no numbers.
    #[error("`{}`: NaN or infinity in tensor `{tensor}`\nhint: the weights are damaged, or overflowed where they were made; get the model again, or take it in another type such as bfloat16", path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },

    /// The index and the weight files do not tell the same story.
    #[error("`{}`: {problem}\nhint: {hint}", path.display())]
    Index {
        /// The index file.
        path: PathBuf,
        /// What is wrong, with the tensor or shard.
        problem: String,
        /// What to do.
        hint: &'static str,
    },

    /// A file has other bytes than were promised.
    #[error("`{place}`: sha256 is `{actual}`, expected `{expected}` ({promised_by})\nhint: {hint}")]
    Hash {
        /// The file, or the address it came from.
        place: String,
        /// What was promised.
        expected: String,
        /// What came.
        actual: String,
        /// Who promised.
        promised_by: &'static str,
        /// What to do.
        hint: String,
    },

    /// The hub answered, but not with the model.
    #[error("{problem}\nhint: {hint}")]
    Hub {
        /// What was asked and what came back.
        problem: String,
        /// What to do.
        hint: String,
    },

    /// The hub could not be reached, or went away for good.
    #[error("`{id}`: {problem}\nhint: {}", use_a_folder())]
    Unreachable {
        /// The repository.
        id: String,
        /// What failed, after how many attempts.
        problem: String,
    },

    /// Going online is forbidden, and what there is on this machine is not enough.
    #[error("`{id}`: {problem}, and `HF_HUB_OFFLINE` forbids the network\nhint: {}", use_a_folder())]
    Offline {
        /// The repository.
        id: String,
        /// What is missing.
        problem: String,
    },

    /// A signal asked to stop; what was downloaded stays for the next run.
    #[error("interrupted; the same command goes on where this one stopped")]
    Interrupted,

    /// Weights could not be packed or unpacked.
    #[error(transparent)]
    Model(#[from] models::Error),

    /// A file could not be read or written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Error {
    /// Returns whether the model itself is at fault, rather than this machine or the network.
    pub fn is_bad_input(&self) -> bool {
        match self {
            Self::Layout { .. }
            | Self::ModelType { .. }
            | Self::Json { .. }
            | Self::Weights { .. }
            | Self::NotFinite { .. }
            | Self::Index { .. }
            | Self::Hash { .. } => true,
            Self::Settings { .. }
            | Self::Hub { .. }
            | Self::Unreachable { .. }
            | Self::Offline { .. }
            | Self::Interrupted
            | Self::Io(_) => false,
            Self::Model(error) => error.is_bad_input(),
        }
    }

    /// Returns whether the command line or the settings file is at fault.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Settings { .. })
    }
}

impl From<hub::Error> for Error {
    fn from(error: hub::Error) -> Self {
        match error {
            hub::Error::Settings { problem, hint } => Self::Settings { problem, hint },
            hub::Error::Refused { problem, hint } => Self::Hub { problem, hint },
            hub::Error::Unreachable { id, problem } => Self::Unreachable { id, problem },
            hub::Error::Interrupted => Self::Interrupted,
            hub::Error::Io(error) => Self::Io(error),
        }
    }
}

fn supported() -> String {
    crate::SUPPORTED_MODEL_TYPES.map(|name| format!("`{name}`")).join(", ")
}

/// The remedy for every kind of "not reachable".
fn use_a_folder() -> &'static str {
    "to use a model that is already on this machine, give its folder: `make pipeline MODEL_DIR=/path/to/model`, \
     or `import-model --model-dir /path/to/model`; a hub cache is found through `HF_HOME`"
}

/// What to do when a downloaded or copied JSON file is broken.
pub(crate) const GET_AGAIN: &str = "the file is damaged; get it again from its source";
