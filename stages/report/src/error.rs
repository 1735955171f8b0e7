//! Errors of writing a report.

use failure::{Failure, Kind};

/// Why a report cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A manifest is not valid.
    #[error(transparent)]
    Artifact(#[from] artifact::Error),
    /// A file is not what its stage writes.
    #[error(transparent)]
    Output(#[from] outputs::Error),
    /// Tokens, rows or a tokenizer cannot be read.
    #[error(transparent)]
    Dataset(#[from] dataset::Error),
    /// A file is not JSON.
    #[error("`{}` is not JSON", path.display())]
    Json {
        /// The file.
        path: std::path::PathBuf,
        /// Error of the parser.
        source: serde_json::Error,
    },
    /// A table cannot be written as CSV.
    #[error("the results cannot be written as CSV")]
    Csv(#[from] csv::Error),
    /// An artifact was made by another stage than its flag names.
    #[error("the `{stage}` artifact was made by stage `{found}`")]
    WrongStage {
        /// Stage that the flag names.
        stage: &'static str,
        /// Stage that the manifest names.
        found: String,
    },
    /// Two artifacts, or two files of one, contradict each other.
    #[error("`{file}` of the `{stage}` artifact {problem}")]
    Contradiction {
        /// Stage of the artifact.
        stage: &'static str,
        /// File in the artifact.
        file: &'static str,
        /// The contradiction, as the end of a sentence.
        problem: String,
    },
    /// A score cannot be computed.
    #[error(transparent)]
    Score(#[from] metrics::Error),
    /// The settings of a stage cannot be written as TOML.
    #[error("settings of stage `{stage}` cannot be written as TOML")]
    Settings {
        /// Stage whose settings they are.
        stage: String,
        /// Error of the writer.
        #[source]
        source: toml::ser::Error,
    },
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Io(error) => Kind::of_io(error),
            Self::Artifact(error) => error.kind(),
            Self::Output(error) => error.kind(),
            Self::Dataset(error) => error.kind(),
            Self::Json { .. } | Self::WrongStage { .. } | Self::Contradiction { .. } | Self::Score(_) => {
                Kind::BadInput
            }
            Self::Csv(_) | Self::Settings { .. } => Kind::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Artifact(error) => error.hint(),
            Self::Output(error) => error.hint(),
            Self::Dataset(error) => error.hint(),
            Self::WrongStage { stage, .. } => {
                Some(format!("give `--{stage}` an artifact of stage `{stage}`"))
            }
            Self::Contradiction { stage, .. } => Some(format!(
                "give artifacts of one pipeline; run `{stage}` and the stages after it again if they are"
            )),
            Self::Io(_) | Self::Json { .. } | Self::Csv(_) | Self::Score(_) | Self::Settings { .. } => None,
        }
    }
}
