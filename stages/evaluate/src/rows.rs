//! The rows that answers are scored on: those of the test split, or those of a file with answers.

use std::collections::BTreeMap;

use dataset::StoredRow;
use serde_json::Value;

/// A row with a reference, wherever it came from.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) group: Option<String>,
    /// Other columns of the dataset or of a file with answers, for subgroups.
    pub(crate) columns: BTreeMap<String, String>,
    /// The last user message, without the chat template around it.
    pub(crate) prompt: String,
    /// The text that the prompt asks about, without the instruction, if the row tells it apart; otherwise the prompt.
    pub(crate) source: String,
    /// The expected answer; empty if the row has none.
    pub(crate) reference: String,
    /// Whether the prompt can be answered and the answer compared.
    pub(crate) has_reference: bool,
    /// Messages that ask for the answer, for endpoints.
    pub(crate) messages: Vec<Value>,
    /// Functions that the model may call.
    pub(crate) tools: Option<Value>,
}

impl From<StoredRow> for Row {
    fn from(row: StoredRow) -> Self {
        let messages = row.asking_messages();
        let asked = messages.iter().rev().find(|message| message["role"] == "user");
        let prompt = asked.and_then(|message| message["content"].as_str()).map(str::to_owned).or(row.prompt);
        let prompt = prompt.unwrap_or_default();
        Self {
            id: row.id,
            group: row.group,
            source: row.input.unwrap_or_else(|| prompt.clone()),
            prompt,
            has_reference: row.reference.is_some(),
            reference: row.reference.unwrap_or_default(),
            messages,
            tools: row.tools,
            columns: row.columns,
        }
    }
}

/// The rows of an evaluation.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rows {
    /// Name of the split.
    pub(crate) split: String,
    pub(crate) all: Vec<Row>,
    /// Indices of the rows whose prompts are answered.
    pub(crate) asked: Vec<usize>,
}

impl Rows {
    /// Returns the references of the prompts.
    pub(crate) fn references(&self) -> Vec<&str> {
        self.asked.iter().map(|&row| self.all[row].reference.as_str()).collect()
    }

    /// Returns the source texts of the prompts, which a model could copy as its answer.
    pub(crate) fn sources(&self) -> Vec<&str> {
        self.asked.iter().map(|&row| self.all[row].source.as_str()).collect()
    }

    /// Returns the ids of all rows.
    pub(crate) fn ids(&self) -> Vec<&str> {
        self.all.iter().map(|row| row.id.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use dataset::as_messages;

    use super::*;

    #[test]
    fn the_source_is_the_text_without_the_instruction() {
        let messages = Some(as_messages("Translate the text: Aloha", "Hello"));
        let stored = StoredRow { messages, asked_message: Some(1), ..StoredRow::default() };
        let row = Row::from(stored.clone());
        assert_eq!(row.source, "Translate the text: Aloha");
        assert_eq!((row.messages.len(), row.has_reference), (1, false));
        let row = Row::from(StoredRow { input: Some("Aloha".to_owned()), ..stored });
        assert_eq!((row.source.as_str(), row.prompt.as_str()), ("Aloha", "Translate the text: Aloha"));
    }

    #[test]
    fn a_chat_that_goes_on_after_its_target_does_not_show_the_reference() {
        let mut messages = [as_messages("Aloha?", "Hello."), as_messages("Mahalo?", "Thanks.")].concat();
        messages[3]["weight"] = 0.into();
        let stored = StoredRow { messages: Some(messages), asked_message: Some(1), ..StoredRow::default() };
        let row = Row::from(stored.clone());
        assert_eq!((row.messages.len(), row.prompt.as_str(), row.source.as_str()), (1, "Aloha?", "Aloha?"));
        let later = Row::from(StoredRow { asked_message: Some(3), ..stored });
        assert_eq!((later.messages.len(), later.prompt.as_str()), (3, "Mahalo?"));
    }
}
