//! What can be wrong with the artifacts a report is made from.

/// Why a report cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A file is not the JSON it should be, or holds a number that is not finite.
    #[error("`{file}` of the `{role}` artifact cannot be read{}", at_line(*line))]
    Json {
        /// Role of the artifact.
        role: &'static str,
        /// File within the artifact.
        file: &'static str,
        /// Line, from 1, where the file holds one object a line.
        line: Option<usize>,
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
    /// The artifact in a role comes from another stage.
    #[error(
        "the `{role}` artifact was made by stage `{stage}`\nhint: give `--{role}` an artifact of stage `{role}`"
    )]
    WrongStage {
        /// Role of the artifact.
        role: &'static str,
        /// Stage its manifest names.
        stage: String,
    },
    /// Two files of an artifact, or two artifacts, contradict each other.
    #[error("`{file}` of the `{role}` artifact {problem}")]
    Contradiction {
        /// Role of the artifact.
        role: &'static str,
        /// File within the artifact.
        file: &'static str,
        /// What is wrong, as the end of a sentence.
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
        /// What the writer says.
        #[source]
        source: toml::ser::Error,
    },
}

fn at_line(line: Option<usize>) -> String {
    line.map(|line| format!(", line {line}")).unwrap_or_default()
}
