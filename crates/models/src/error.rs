//! What can be wrong with a model folder.

use std::path::PathBuf;

/// An error of loading or running a model.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A JSON file does not parse or lacks what a model needs.
    #[error("`{path}`: {reason}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// The model's architecture is not one of ours.
    #[error("`{path}`: model_type `{model_type}` is not supported\nhint: supported are {}", supported.join(", "))]
    Unsupported {
        /// The `config.json`.
        path: PathBuf,
        /// What it says.
        model_type: String,
        /// What it could say.
        supported: Vec<&'static str>,
    },
    /// A weight file is not valid safetensors.
    #[error("`{path}`: {reason}\nhint: the file may be cut short; fetch it again")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Tensors are missing, unknown or of another shape; every one is named.
    #[error(
        "`{path}` does not hold the weights that its config.json describes:\n{}\n\
         hint: take config.json and weights from the same model, and convert the weights again if they were renamed",
        problems.join("\n")
    )]
    Weights {
        /// The model folder.
        path: PathBuf,
        /// One line a tensor.
        problems: Vec<String>,
    },
    /// What the head gave for a token is not a number.
    #[error(
        "the model gives no probabilities after {tokens} tokens\nhint: the weights may be damaged, or too large for the type it computes in"
    )]
    NoProbabilities {
        /// Tokens read before.
        tokens: usize,
    },
    /// MLX refused an operation.
    #[error(transparent)]
    Mlx(#[from] mlx_ext::Error),
}

impl Error {
    /// Tells whether the model folder is to blame, and not the machine or this program.
    pub fn is_bad_input(&self) -> bool {
        !matches!(self, Self::Io(_) | Self::Mlx(_))
    }
}

impl From<mlx_rs::error::Exception> for Error {
    fn from(exception: mlx_rs::error::Exception) -> Self {
        Self::Mlx(exception.into())
    }
}

/// The result of an operation on a model.
pub type Result<T, E = Error> = std::result::Result<T, E>;
