//! Rows as stored in a dataset: one JSON object per line.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use fs_err::File;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Place, REMAKE, Result};
use crate::hash::Hash;
use crate::message::without_training_flags;

/// A stored row. Fields are written in the order of their names; fields without a value are left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoredRow {
    /// Index of the message that `reference` is from; absent without messages that the model writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked_message: Option<usize>,
    /// Trust in the row's source, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_weight: Option<f64>,
    /// Fields that scores can be divided by, as text.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, String>,
    /// Rows of one group are in one split.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Name of the row.
    pub id: String,
    /// The text that the prompt asks about, if the layout or a template tells it apart from the instruction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// Messages of the conversation; absent for plain text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<Value>>,
    /// Text that asks a model for the last turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Spread of the row's sources in bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prov_entropy: Option<f64>,
    /// The expected last turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// File and line of the row.
    pub source: String,
    /// Plain text; absent for a conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Functions that the model may call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<Value>,
    /// Factor of the row's loss; absent for 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<f32>,
}

impl StoredRow {
    /// Returns the messages that precede the reference, without training flags. Returns all messages if the row has no
    /// reference.
    pub fn asking_messages(&self) -> Vec<Value> {
        let messages = self.messages.as_deref().unwrap_or_default();
        let end = self.asked_message.unwrap_or(messages.len()).min(messages.len());
        messages[..end].iter().cloned().map(without_training_flags).collect()
    }

    /// Returns a hash of the messages or the text, for finding rows with the same content.
    pub fn content_hash(&self) -> u64 {
        let content = (&self.messages, &self.text, &self.tools);
        Hash::of(&serde_json::to_vec(&content).expect("rows are valid JSON"))
    }

    /// Returns a hash of the id.
    pub fn id_hash(&self) -> u64 {
        Hash::of(self.id.as_bytes())
    }
}

/// Writes rows, one per line.
#[derive(Debug)]
pub struct RowWriter {
    file: BufWriter<File>,
}

impl RowWriter {
    /// Creates `path`.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be written.
    pub fn create(path: &Path) -> Result<Self> {
        Ok(Self { file: BufWriter::new(File::create(path)?) })
    }

    /// Adds a row.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be written.
    pub fn push(&mut self, row: &StoredRow) -> Result<()> {
        serde_json::to_writer(&mut self.file, row).map_err(std::io::Error::from)?;
        Ok(self.file.write_all(b"\n")?)
    }

    /// Flushes the file.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be written.
    pub fn finish(mut self) -> Result<()> {
        Ok(self.file.flush()?)
    }
}

/// Reads the rows of a dataset, one at a time.
///
/// # Errors
///
/// Fails when the file cannot be opened. An item fails when its line is not what [`RowWriter`] writes.
pub fn read_rows(path: &Path) -> Result<impl Iterator<Item = Result<StoredRow>> + use<>> {
    let file = files::open(path).map_err(Error::unreadable(path))?;
    let path = path.to_owned();
    let lines = BufReader::new(file).lines();
    Ok(lines.zip(1..).map(move |(text, line)| {
        let text = text.map_err(Error::unreadable(&path))?;
        serde_json::from_str(&text).map_err(|error| Error::Row {
            place: Place { file: path.clone(), line, column: Some(error.column() as u64) },
            reason: format!("not a stored row: {error}"),
            hint: REMAKE.into(),
        })
    }))
}

/// Checks that the file `path` has as many rows as the tokens of its split.
///
/// # Errors
///
/// Fails when the numbers differ.
pub fn check_rows(path: &Path, rows: usize, tokens: usize) -> Result<()> {
    if rows == tokens {
        return Ok(());
    }
    let reason = format!("it has {rows} rows, but the tokens of the split have {tokens}");
    Err(Error::File { path: path.to_owned(), reason, hint: REMAKE.into() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn messages_that_ask_end_before_the_reference() {
        let message = |role: &str, text: &str| json!({"role": role, "content": text});
        let mut flagged = message("assistant", "Aloha");
        flagged["weight"] = 0.into();
        let messages = vec![message("user", "a"), flagged, message("user", "b"), message("assistant", "c")];
        let row = |asked_message| StoredRow {
            asked_message,
            messages: Some(messages.clone()),
            ..StoredRow::default()
        };
        let plain = [message("user", "a"), message("assistant", "Aloha"), message("user", "b")];
        assert_eq!(row(Some(3)).asking_messages(), plain);
        assert_eq!(row(Some(1)).asking_messages(), plain[..1]);
        assert_eq!(row(None).asking_messages().len(), 4);
        assert!(StoredRow::default().asking_messages().is_empty());
    }

    #[test]
    fn rows_without_tokens_are_refused() {
        assert!(check_rows(Path::new("test.jsonl"), 2, 2).is_ok());
        let error = check_rows(Path::new("test.jsonl"), 3, 2).unwrap_err().to_string();
        assert_eq!(error, "`test.jsonl`: it has 3 rows, but the tokens of the split have 2");
    }

    #[test]
    fn rows_come_back_and_keys_are_sorted() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("rows.jsonl");
        let row = StoredRow {
            id: "a".into(),
            source: "x.jsonl:1".into(),
            text: Some("kāne\n".into()),
            weight: Some(0.5),
            ..StoredRow::default()
        };
        let mut writer = RowWriter::create(&path)?;
        writer.push(&row)?;
        writer.push(&row)?;
        writer.finish()?;
        let text = fs_err::read_to_string(&path)?;
        let line = r#"{"id":"a","source":"x.jsonl:1","text":"kāne\n","weight":0.5}"#;
        assert_eq!(text, format!("{line}\n{line}\n"));
        assert_eq!(read_rows(&path)?.collect::<Result<Vec<_>>>()?, [row.clone(), row]);
        fs_err::write(&path, "{\"id\":\"a\"\n")?;
        assert!(read_rows(&path)?.next().unwrap().unwrap_err().to_string().contains("rows.jsonl:1"));
        Ok(())
    }
}
