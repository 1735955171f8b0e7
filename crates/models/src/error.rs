//! Errors of loading and running a model.

use std::io;
use std::path::PathBuf;

use failure::{Failure, Kind};
use tensors::LFS_POINTER;

/// Error of loading or running a model.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A JSON file does not parse or lacks a required setting.
    #[error("`{path}`: {reason}")]
    Config {
        /// Path of the file.
        path: PathBuf,
        /// The problem and its place in the file.
        reason: String,
    },
    /// `config.json` has keys that this program does not follow.
    #[error("`{path}` describes a model that this program cannot compute:\n{}", problems.join("\n"))]
    Keys {
        /// Path of the file.
        path: PathBuf,
        /// One line per key.
        problems: Vec<String>,
    },
    /// A folder that should hold a model holds an adapter.
    #[error("`{folder}` holds an adapter{}, not a model", of_base(base.as_ref()))]
    IsAdapter {
        /// The folder.
        folder: PathBuf,
        /// The base model that the adapter names.
        base: Option<String>,
    },
    /// The architecture is not supported.
    #[error("`{path}`: model_type `{model_type}` is not supported")]
    Unsupported {
        /// Path of the `config.json`.
        path: PathBuf,
        /// The `model_type` in it.
        model_type: String,
        /// The supported values.
        supported: Vec<&'static str>,
    },
    /// A folder holds no weights.
    #[error("`{folder}` holds no model*.safetensors file")]
    NoWeights {
        /// The model folder.
        folder: PathBuf,
    },
    /// A weight file is not valid safetensors.
    #[error("`{path}`: {reason}")]
    File {
        /// Path of the file.
        path: PathBuf,
        /// The problem.
        reason: String,
    },
    /// A file of the model is a Git LFS pointer.
    #[error("`{path}` is {LFS_POINTER}")]
    LfsPointer {
        /// Path of the file.
        path: PathBuf,
    },
    /// Tensors are missing, unknown or have the wrong shape.
    #[error("`{path}` does not hold the weights that its config.json describes:\n{}", problems.join("\n"))]
    Weights {
        /// The model folder.
        path: PathBuf,
        /// One line per tensor, naming all of them.
        problems: Vec<String>,
    },
    /// A tensor has a type that is not computed with.
    #[error("`{path}`: tensor `{tensor}` has type {dtype:?}, which is not supported")]
    TensorType {
        /// The file or folder.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// Its type.
        dtype: tensors::Dtype,
    },
    /// Weights cannot be quantized or dequantized.
    #[error("`{path}`: {reason}")]
    Conversion {
        /// The file, or the tensor.
        path: PathBuf,
        /// The problem.
        reason: String,
        /// A remedy.
        hint: String,
    },
    /// A token has no embedding.
    #[error("token {token} has no embedding, as the model has {vocabulary} tokens")]
    UnknownToken {
        /// The token.
        token: u32,
        /// Number of tokens of the model.
        vocabulary: u32,
    },
    /// The head returned a logit that is not a number.
    #[error("the model gives no probabilities after {tokens} tokens")]
    NoProbabilities {
        /// Number of tokens read before.
        tokens: usize,
    },
    /// MLX refused an operation.
    #[error(transparent)]
    Mlx(#[from] mlx_ext::Error),
}

/// Returns the words that name an adapter's base model.
fn of_base(base: Option<&String>) -> String {
    base.map(|base| format!(" of the base model `{base}`")).unwrap_or_default()
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Io(source) => Failure::kind(source),
            Self::Mlx(source) => source.kind(),
            _ => Kind::BadInput,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Io(source) => return Failure::hint(source),
            Self::Mlx(source) => return source.hint(),
            Self::Config { .. } => {
                "correct that setting, or take config.json from where the weights came from"
            }
            Self::Conversion { hint, .. } => hint,
            Self::Unsupported { supported, .. } => {
                return Some(format!("supported model types: {}", supported.join(", ")));
            }
            Self::Keys { .. } => {
                "a key can change what the model computes; if these do not, remove them from a copy of config.json"
            }
            Self::IsAdapter { .. } => {
                "give the folder of the base model as the model, and this folder with `--adapters`"
            }
            Self::NoWeights { .. } => "pass the folder that holds the weights and config.json of a model",
            Self::LfsPointer { path } => return Some(tensors::lfs_hint(path)),
            Self::File { .. } => "the file may be truncated; download it again",
            Self::Weights { .. } => {
                "take config.json and weights from the same model; if tensors were renamed, convert the weights again"
            }
            Self::TensorType { .. } => {
                "use the original model; wide floats can be stored as float32: `model.float().save_pretrained(folder)` in transformers"
            }
            Self::UnknownToken { .. } => "take tokenizer and weights from the same model",
            Self::NoProbabilities { .. } => {
                "the weights may be damaged, or exceed the range of the dtype: try dtype = \"float32\""
            }
        };
        Some(hint.to_owned())
    }
}

impl From<mlx_rs::error::Exception> for Error {
    fn from(exception: mlx_rs::error::Exception) -> Self {
        Self::Mlx(exception.into())
    }
}

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
