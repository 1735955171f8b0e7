//! The models and the dataset that are evaluated.

use std::path::{Path, PathBuf};

use dataset::{Split, StoredRow, TextTokenizer};
use failure::{Context, Error, Result};
use outputs::ModelSource;

use crate::config::{Config, EndpointSettings};
use crate::rows::{Row, Rows};

/// Name of the split that is scored.
pub(crate) const SPLIT: &str = "test";

/// A model with the name that the scores use.
#[derive(Debug, Clone)]
pub struct NamedModel {
    /// Name in the scores.
    pub name: String,
    /// Folder of the model.
    pub folder: PathBuf,
    /// Folder of adapters to load with it.
    pub adapters: Option<PathBuf>,
    /// Source of the model.
    pub source: ModelSource,
}

/// Something that answers prompts, with the name that the scores use.
#[derive(Debug, Clone)]
pub enum Subject {
    /// A model that runs here.
    Model(NamedModel),
    /// A file with answers.
    Predictions {
        /// Name in the scores.
        name: String,
        /// The file.
        file: PathBuf,
    },
    /// A model behind an endpoint.
    Endpoint {
        /// Name in the scores.
        name: String,
        /// Connection settings.
        settings: EndpointSettings,
    },
}

impl Subject {
    /// Returns the name in the scores.
    pub fn name(&self) -> &str {
        match self {
            Self::Model(model) => &model.name,
            Self::Predictions { name, .. } | Self::Endpoint { name, .. } => name,
        }
    }
}

/// Folders of a dataset.
#[derive(Debug, Clone, Copy)]
pub struct DatasetFolders<'a> {
    /// The rows as text.
    pub rows: &'a Path,
    /// The rows as tokens.
    pub tokens: &'a Path,
    /// The tokenizer.
    pub tokenizer: &'a Path,
}

/// The test split, opened.
pub(crate) struct TestSplit {
    pub(crate) tokens: Split,
    pub(crate) tokenizer: TextTokenizer,
}

impl TestSplit {
    /// Opens the split and its rows.
    pub(crate) fn open(folders: DatasetFolders<'_>, config: &Config) -> Result<(Self, Rows)> {
        let tokens = Split::open(&folders.tokens.join(format!("{SPLIT}.safetensors")))
            .context("opening the test split")?;
        let path = folders.rows.join(format!("{SPLIT}.jsonl"));
        let rows = dataset::read_rows(&path)?.collect::<dataset::Result<Vec<StoredRow>>>()?;
        if !config.endpoints.is_empty() {
            refuse_unknown_questions(&path, &rows)?;
        }
        let rows: Vec<Row> = rows.into_iter().map(Row::from).collect();
        dataset::check_rows(&path, rows.len(), tokens.len())?;
        let tokenizer = TextTokenizer::open(folders.tokenizer).context("opening the tokenizer")?;
        let can_ask = |&row: &usize| rows[row].has_reference && tokens.row(row).prompt_length > 0;
        let asked = (0..rows.len()).filter(can_ask).take(limit(config)).collect();
        Ok((Self { tokens, tokenizer }, Rows { split: SPLIT.to_owned(), all: rows, asked }))
    }

    /// Returns the prompts of rows, as tokens.
    pub(crate) fn prompts(&self, asked: &[usize]) -> Vec<Vec<u32>> {
        let prompt = |&row: &usize| {
            let row = self.tokens.row(row);
            row.tokens[..row.prompt_length].to_vec()
        };
        asked.iter().map(prompt).collect()
    }

    /// Returns the targets of a row; its first token is never predicted.
    pub(crate) fn targets(&self, row: usize) -> Vec<u32> {
        let row = self.tokens.row(row);
        let pairs = row.tokens.iter().zip(row.trained).skip(1);
        pairs.filter(|(_, flag)| dataset::is_target(**flag)).map(|(&token, _)| token).collect()
    }
}

/// Refuses rows that do not say which message is the reference, because an endpoint would be shown the expected answer.
fn refuse_unknown_questions(path: &Path, rows: &[StoredRow]) -> Result<()> {
    let is_unknown =
        |row: &&StoredRow| row.asked_message.is_none() && row.reference.is_some() && row.messages.is_some();
    let Some(row) = rows.iter().find(is_unknown) else { return Ok(()) };
    let message =
        format!("`{}`: row `{}` does not say which message is its reference", path.display(), row.id);
    Err(Error::bad_input(message).hinted("make the dataset again with this version of `prepare-data`"))
}

/// Returns the most prompts to answer.
pub(crate) fn limit(config: &Config) -> usize {
    if config.generated_rows == 0 { usize::MAX } else { config.generated_rows }
}
