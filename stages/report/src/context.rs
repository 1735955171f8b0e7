//! Rows with more tokens than the model's context.

use std::collections::BTreeMap;
use std::path::Path;

use chart::markup::{Element, classed, element};
use dataset::Split;
use outputs::SPLITS;
use serde_json::Value;

use crate::error::Error;
use crate::number;

/// Rows of each split that are longer than the model's context.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Context {
    /// The context in tokens.
    pub(crate) tokens: u64,
    splits: BTreeMap<&'static str, Beyond>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Beyond {
    rows: u64,
    longest: u64,
}

impl Context {
    /// Reads the context from the model and the lengths from the dataset; `None` if either is unknown.
    ///
    /// # Errors
    ///
    /// Fails when the model's `config.json` or a token file is damaged.
    pub(crate) fn read(model: &Path, dataset: &Path) -> Result<Option<Self>, Error> {
        let path = model.join("data").join(outputs::MODEL).join("config.json");
        if !path.exists() {
            return Ok(None);
        }
        let text = fs_err::read(&path)?;
        let config: Value = serde_json::from_slice(&text).map_err(|source| Error::Json { path, source })?;
        let part = config.get("text_config").filter(|part| part.is_object()).unwrap_or(&config);
        let Some(tokens) =
            part.get("max_position_embeddings").and_then(Value::as_u64).filter(|&tokens| tokens > 0)
        else {
            return Ok(None);
        };
        let mut context = Self { tokens, splits: BTreeMap::new() };
        for split in SPLITS {
            let file = token_file(dataset, split);
            if !file.exists() {
                return Ok(None);
            }
            let rows = Split::open(&file)?;
            context.add(split, (0..rows.len()).map(|row| rows.row_length(row) as u64));
        }
        Ok(Some(context))
    }

    fn add(&mut self, split: &'static str, lengths: impl Iterator<Item = u64>) {
        let beyond = self.splits.entry(split).or_default();
        for length in lengths.filter(|length| *length > self.tokens) {
            beyond.rows += 1;
            beyond.longest = beyond.longest.max(length);
        }
    }

    /// Returns the number of rows of `split` beyond the context.
    pub(crate) fn beyond(&self, split: &str) -> u64 {
        self.splits.get(split).map_or(0, |beyond| beyond.rows)
    }

    /// Returns a warning; `None` if every row fits.
    pub(crate) fn callout(&self) -> Option<Element> {
        let found: Vec<String> = self
            .splits
            .iter()
            .filter(|(_, beyond)| beyond.rows > 0)
            .map(|(split, beyond)| {
                format!(
                    "{} of {split} (the longest has {})",
                    number::counted(beyond.rows, "row"),
                    number::counted(beyond.longest, "token")
                )
            })
            .collect();
        (!found.is_empty()).then(|| {
            let context = number::counted(self.tokens, "token");
            classed("div", "callout")
                .child(element("h3").text("Rows beyond the context"))
                .child(element("p").text(format!(
                    "{} are longer than the model's context of {context}. They were used whole; a `max_tokens` of at most {} \
                     in prepare-data truncates or leaves them out.",
                    found.join(", "),
                    self.tokens
                )))
        })
    }
}

/// Returns the token file of a split in an artifact of prepare-data.
pub(crate) fn token_file(dataset: &Path, split: &str) -> std::path::PathBuf {
    dataset.join("data").join(outputs::TOKENS).join(format!("{split}.safetensors"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rows_beyond_the_context_are_counted() {
        let mut context = Context { tokens: 512, ..Context::default() };
        context.add("test", [3, 512].into_iter());
        assert!(context.callout().is_none());
        context.add("train", [3, 512, 513, 700].into_iter());
        assert_eq!((context.beyond("train"), context.beyond("test")), (2, 0));
        let text = context.callout().expect("two rows are longer").to_string();
        assert!(text.contains("2 rows of train (the longest has 700 tokens)"), "{text}");
    }
}
