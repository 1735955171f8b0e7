//! What can stop a training run.

use std::path::PathBuf;

/// An error of training, scoring or an adapter's files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The model cannot be loaded or run.
    #[error(transparent)]
    Model(#[from] models::Error),
    /// The dataset cannot be read.
    #[error(transparent)]
    Dataset(#[from] dataset::Error),
    /// Settings that do not fit the model or each other.
    #[error("{0}")]
    Settings(String),
    /// An adapter does not fit its model or is not one.
    #[error("`{path}`: {reason}")]
    Adapter {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The loss or a gradient is no longer a number.
    #[error(
        "step {step} diverged: {what}; its rows were {rows:?} of the training split\n\
         hint: lower `learning_rate`, lengthen `warmup_steps`, or lower `max_gradient_norm`; {kept}"
    )]
    Diverged {
        /// The step, counted from 1.
        step: usize,
        /// What is no longer a finite number, and what it is instead.
        what: String,
        /// Numbers of the rows in the step, counted from 0.
        rows: Vec<u32>,
        /// What there is to go back to.
        kept: String,
    },
    /// A model that scores a row with something that is not a number.
    #[error("the loss of row {row} of the {split} split is {value}\nhint: the weights hold NaN or infinity")]
    NotFinite {
        /// The split.
        split: String,
        /// The row, counted from 0.
        row: u32,
        /// What it was.
        value: f64,
    },
    /// A row with a token that the model has no embedding for.
    #[error(
        "row {row} of the {split} split holds the token {token}, the model only knows 0 to {}\n\
         hint: make the dataset with this model's own tokenizer (`prepare-data --tokenizer`)",
        vocabulary - 1
    )]
    UnknownToken {
        /// The split.
        split: String,
        /// The row, counted from 0.
        row: usize,
        /// The token.
        token: u32,
        /// How many tokens the model knows.
        vocabulary: u32,
    },
    /// A split without a single target to train or score on.
    #[error(
        "the {split} split holds no row with a trained token\nhint: check `loss_on` and `max_tokens` of prepare-data"
    )]
    NothingToLearn {
        /// The split.
        split: String,
    },
}

impl Error {
    /// Tells whether a model, adapters or a dataset is to blame, and not settings, the machine or this program.
    pub fn is_bad_input(&self) -> bool {
        match self {
            Self::Io(_) | Self::Settings(_) | Self::Diverged { .. } => false,
            Self::Model(error) => error.is_bad_input(),
            Self::Dataset(error) => error.is_bad_input(),
            Self::Adapter { .. }
            | Self::NotFinite { .. }
            | Self::UnknownToken { .. }
            | Self::NothingToLearn { .. } => true,
        }
    }
}

/// Tells whether `cause`, one of an error's causes, says that a model, adapters or a dataset is to blame.
pub fn is_bad_input(cause: &(dyn std::error::Error + 'static)) -> bool {
    let tuner = cause.downcast_ref::<Error>().is_some_and(Error::is_bad_input);
    let model = || cause.downcast_ref::<models::Error>().is_some_and(models::Error::is_bad_input);
    let dataset = || cause.downcast_ref::<dataset::Error>().is_some_and(dataset::Error::is_bad_input);
    tuner || model() || dataset()
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

/// The result of an operation of training.
pub type Result<T, E = Error> = std::result::Result<T, E>;
