//! `chat.json`: what training has settled about chats with a tokenizer.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::files::Document;

/// Settings of chats. prepare-data writes them beside the tokenizer; train hands them on with the adapters, fuse with the
/// fused model. Who generates must follow them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChatSettings {
    /// Tokens that end trained turns, but are not among the model's end tokens.
    pub end_tokens: Vec<u32>,
    /// Arguments of the chat template, such as `enable_thinking`.
    pub template_arguments: Map<String, Value>,
    /// Date that the chat template prints as today's, `YYYY-MM-DD`; empty for none.
    pub template_date: String,
}

impl ChatSettings {
    /// Returns whether nothing is settled; then there is no file.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Document for ChatSettings {
    const FILE: &'static str = "chat.json";
    const STAGE: &'static str = "prepare-data";
}
