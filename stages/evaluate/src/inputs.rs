//! The models and the dataset that are evaluated.

use std::path::{Path, PathBuf};

use dataset::{Split, StoredRow, TextTokenizer};
use failure::{Context, Error, Result};

use crate::config::Config;

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
    pub(crate) rows: Vec<StoredRow>,
    pub(crate) tokens: Split,
    pub(crate) tokenizer: TextTokenizer,
    /// Indices of the rows whose prompts are answered.
    pub(crate) asked: Vec<usize>,
}

impl TestSplit {
    pub(crate) fn open(folders: DatasetFolders<'_>, config: &Config) -> Result<Self> {
        let tokens = Split::open(&folders.tokens.join(format!("{SPLIT}.safetensors")))
            .context("opening the test split")?;
        let path = folders.rows.join(format!("{SPLIT}.jsonl"));
        let rows = dataset::read_rows(&path)?.collect::<dataset::Result<Vec<_>>>()?;
        if rows.len() != tokens.len() {
            let (rows, tokens) = (rows.len(), tokens.len());
            return Err(Error::bad_input(format!(
                "`{}` has {rows} rows, but the tokens of the split have {tokens}",
                path.display()
            ))
            .hinted("prepare the dataset again"));
        }
        let tokenizer = TextTokenizer::open(folders.tokenizer).context("opening the tokenizer")?;
        let limit = if config.generated_rows == 0 { usize::MAX } else { config.generated_rows };
        let can_ask = |&row: &usize| rows[row].reference.is_some() && tokens.row(row).prompt_length > 0;
        let asked = (0..rows.len()).filter(can_ask).take(limit).collect();
        Ok(Self { rows, tokens, tokenizer, asked })
    }

    /// Returns the prompts to answer, as tokens.
    pub(crate) fn prompts(&self) -> Vec<Vec<u32>> {
        let prompt = |&row: &usize| {
            let row = self.tokens.row(row);
            row.tokens[..row.prompt_length].to_vec()
        };
        self.asked.iter().map(prompt).collect()
    }

    /// Returns the references of the prompts.
    pub(crate) fn references(&self) -> Vec<&str> {
        self.asked.iter().map(|&row| reference(&self.rows[row])).collect()
    }

    /// Returns the source texts of the prompts, which a model could copy as its answer.
    pub(crate) fn sources(&self) -> Vec<&str> {
        self.asked.iter().map(|&row| source_text(&self.rows[row])).collect()
    }

    /// Returns the targets of a row; its first token is never predicted.
    pub(crate) fn targets(&self, row: usize) -> Vec<u32> {
        let row = self.tokens.row(row);
        let pairs = row.tokens.iter().zip(row.trained).skip(1);
        pairs.filter(|(_, trained)| **trained != 0).map(|(&token, _)| token).collect()
    }
}

/// Returns the expected answer; empty if the row has none.
pub(crate) fn reference(row: &StoredRow) -> &str {
    row.reference.as_deref().unwrap_or_default()
}

/// Returns the text that the prompt asks about, without the instruction, if the row tells it apart; otherwise all of
/// [`asked_text`].
pub(crate) fn source_text(row: &StoredRow) -> &str {
    row.input.as_deref().unwrap_or_else(|| asked_text(row))
}

/// Returns the last user message, without the chat template around it.
pub(crate) fn asked_text(row: &StoredRow) -> &str {
    let messages = row.messages.as_deref().unwrap_or_default();
    let asked = messages.iter().rev().find(|message| message["role"] == "user");
    asked.and_then(|message| message["content"].as_str()).or(row.prompt.as_deref()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use dataset::as_messages;

    use super::*;

    #[test]
    fn the_source_is_the_text_without_the_instruction() {
        let messages = Some(as_messages("Translate the text: Aloha", "Hello"));
        let mut row = StoredRow { messages, ..StoredRow::default() };
        assert_eq!(source_text(&row), "Translate the text: Aloha");
        row.input = Some("Aloha".to_owned());
        assert_eq!((source_text(&row), asked_text(&row)), ("Aloha", "Translate the text: Aloha"));
    }
}
