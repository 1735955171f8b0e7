//! Errors of training, scoring and adapter files.

use std::io;
use std::path::PathBuf;

use failure::{Failure, Kind};

/// An error of training, scoring or reading an adapter.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The model cannot be loaded or run.
    #[error(transparent)]
    Model(#[from] models::Error),
    /// The dataset cannot be read.
    #[error(transparent)]
    Dataset(#[from] dataset::Error),
    /// Settings do not fit the model, the dataset or each other.
    #[error("{reason}")]
    Settings {
        /// The problem.
        reason: String,
        /// A remedy.
        hint: String,
    },
    /// A number is outside the range for which the distrust loss is defined.
    #[error("distrust loss: `{name}` is {value}, expected {range}")]
    OutOfRange {
        /// Name of the field or setting.
        name: &'static str,
        /// Its value.
        value: f64,
        /// The range in words.
        range: &'static str,
    },
    /// An adapter folder is damaged, does not fit the model, or uses features that are not supported.
    #[error("`{path}`: {reason}")]
    Adapter {
        /// The file or folder.
        path: PathBuf,
        /// The problem.
        reason: String,
        /// A remedy.
        hint: Option<String>,
    },
    /// A resume state is damaged.
    #[error("`{path}`: {reason}")]
    ResumeState {
        /// The file.
        path: PathBuf,
        /// The problem.
        reason: String,
    },
    /// Saved parameters or optimizer moments have other shapes than those of this model.
    #[error("the saved {what} do not fit the model and the optimizer")]
    OtherShapes {
        /// `parameters` or `moments`.
        what: &'static str,
    },
    /// A loss, a gradient or a parameter is not finite.
    #[error(
        "training diverged at step {step}: {reason}; its rows were {rows:?} of the training split; {kept}"
    )]
    Diverged {
        /// The step, counted from 1.
        step: usize,
        /// Which number is not finite.
        reason: String,
        /// Indices of the rows of the step, counted from 0.
        rows: Vec<u32>,
        /// The newest thing saved before the step.
        kept: String,
    },
    /// The ranks of a run cannot work together, or one of them is lost.
    #[error("{reason}")]
    Ranks {
        /// The problem, with the rank that has it.
        reason: String,
    },
    /// The model's loss on a row is not finite.
    #[error("the loss of row {row} of the {split} split is {value}")]
    NotFinite {
        /// Name of the split.
        split: String,
        /// Index of the row, counted from 0.
        row: u32,
        /// The loss.
        value: f64,
    },
    /// A row contains a token that the model has no embedding for.
    #[error(
        "row {row} of the {split} split has the token {token}, but the model's tokens are 0 to {}",
        vocabulary - 1
    )]
    UnknownToken {
        /// Name of the split.
        split: String,
        /// Index of the row, counted from 0.
        row: usize,
        /// The token.
        token: u32,
        /// Number of tokens of the model.
        vocabulary: u32,
    },
    /// A split has no rows.
    #[error("the {split} split has no rows")]
    EmptySplit {
        /// Name of the split.
        split: String,
    },
    /// A split has no targets.
    #[error("the {split} split has no targets")]
    NoTargets {
        /// Name of the split.
        split: String,
    },
}

impl Error {
    /// Makes an error about settings.
    pub(crate) fn settings(reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Settings { reason: reason.into(), hint: hint.into() }
    }
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Io(error) => Kind::of_io(error),
            Self::Model(error) => error.kind(),
            Self::Dataset(error) => error.kind(),
            Self::Settings { .. } => Kind::Usage,
            Self::ResumeState { .. }
            | Self::OtherShapes { .. }
            | Self::Diverged { .. }
            | Self::Ranks { .. } => Kind::Failed,
            Self::OutOfRange { .. }
            | Self::Adapter { .. }
            | Self::NotFinite { .. }
            | Self::UnknownToken { .. }
            | Self::EmptySplit { .. }
            | Self::NoTargets { .. } => Kind::BadInput,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Model(error) => return error.hint(),
            Self::Dataset(error) => return error.hint(),
            Self::Settings { hint, .. } => hint,
            Self::Adapter { hint, .. } => return hint.clone(),
            Self::Diverged { .. } => {
                "lower `learning_rate`, raise `warmup_steps`, or lower `max_gradient_norm`"
            }
            Self::Ranks { .. } => {
                "start the same program with the same arguments on every rank; the run resumes from its last state"
            }
            Self::NotFinite { .. } => "the weights contain NaN or infinity; use another checkpoint or model",
            Self::UnknownToken { .. } => {
                "make the dataset with this model's own tokenizer (`prepare-data --tokenizer`)"
            }
            Self::EmptySplit { split } => {
                return Some(format!(
                    "prepare the dataset again with `split.{split}` above 0, or with files for it in the setting `{split}`"
                ));
            }
            Self::NoTargets { .. } => "check `loss_on` and `max_tokens` of prepare-data",
            Self::Io(_) | Self::OutOfRange { .. } | Self::ResumeState { .. } | Self::OtherShapes { .. } => {
                return None;
            }
        };
        Some(hint.to_owned())
    }
}

impl From<mlx_ext::Error> for Error {
    fn from(error: mlx_ext::Error) -> Self {
        Self::Model(error.into())
    }
}

impl From<mlx_rs::error::Exception> for Error {
    fn from(exception: mlx_rs::error::Exception) -> Self {
        Self::Model(exception.into())
    }
}

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
