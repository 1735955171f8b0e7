//! Control tokens that the text of a row spells out, such as `<|im_end|>` in a user's message.
//!
//! A tokenizer reads them as the control tokens themselves, as transformers does: the text can then end a turn or begin
//! another.

use aho_corasick::{AhoCorasick, MatchKind};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::record::{Record, Shape};
use crate::tokenizer::TextTokenizer;

/// Treatment of control tokens in the text of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnSpecial {
    /// Read them as control tokens, and count the rows.
    #[default]
    Allow,
    /// Write a zero-width space after their first character, so that they are text, and count the rows.
    Escape,
    /// Refuse the row.
    Error,
}

/// Inserted into an escaped control token.
const ZERO_WIDTH_SPACE: char = '\u{200B}';

/// Finds the control tokens of a tokenizer in text.
#[derive(Debug)]
pub struct ControlTokens {
    finder: AhoCorasick,
    names: Vec<String>,
    bos: Option<String>,
    eos: Vec<String>,
}

impl ControlTokens {
    /// Collects the control tokens of `tokenizer`.
    ///
    /// # Panics
    ///
    /// Panics if their names together exceed the limits of the automaton, which are gigabytes.
    pub fn new(tokenizer: &TextTokenizer) -> Self {
        let names = tokenizer.control_tokens();
        let mut builder = AhoCorasick::builder();
        let finder =
            builder.match_kind(MatchKind::LeftmostLongest).build(&names).expect("the names are short");
        let name = |id: u32| tokenizer.name_of(id);
        let eos = tokenizer.eos().iter().filter_map(|&id| name(id)).collect();
        Self { finder, names, bos: tokenizer.bos().and_then(name), eos }
    }

    /// Returns the first control token in the text of `record`. A plain text may begin with the token that begins a text
    /// and end with one that ends it.
    pub fn find(&self, record: &Record) -> Option<&str> {
        let find = |text: &str| self.finder.find(text).map(|found| self.names[found.pattern()].as_str());
        match &record.shape {
            Shape::Text(text) => find(self.inner(text)),
            Shape::Completion { prompt, completion } => {
                find(self.inner(prompt)).or_else(|| find(self.inner(completion)))
            }
            Shape::Chat { messages, .. } => messages.iter().find_map(|message| {
                let texts = message.as_object()?.iter().filter(|(name, _)| *name != "role");
                texts.into_iter().find_map(|(_, value)| find_in(value, &find))
            }),
        }
    }

    /// Escapes every control token in the text of `record`, except those that [`ControlTokens::find`] passes over.
    pub fn escape(&self, record: &mut Record) {
        match &mut record.shape {
            Shape::Text(text) => *text = self.escaped_inside(text),
            Shape::Completion { prompt, completion } => {
                *prompt = self.escaped_inside(prompt);
                *completion = self.escaped_inside(completion);
            }
            Shape::Chat { messages, .. } => {
                let fields = messages.iter_mut().filter_map(Value::as_object_mut).flatten();
                fields.filter(|(name, _)| *name != "role").for_each(|(_, value)| self.escape_value(value));
            }
        }
    }

    /// Returns the text without a token that begins it and one that ends it.
    fn inner<'t>(&self, text: &'t str) -> &'t str {
        let text = self.bos.as_ref().and_then(|bos| text.strip_prefix(bos.as_str())).unwrap_or(text);
        self.eos.iter().find_map(|eos| text.strip_suffix(eos.as_str())).unwrap_or(text)
    }

    fn escaped_inside(&self, text: &str) -> String {
        let inner = self.inner(text);
        let start = inner.as_ptr() as usize - text.as_ptr() as usize;
        let (before, after) = (&text[..start], &text[start + inner.len()..]);
        format!("{before}{}{after}", self.escaped(inner))
    }

    fn escaped(&self, text: &str) -> String {
        let mut escaped = String::with_capacity(text.len());
        self.finder.replace_all_with(text, &mut escaped, |_, name, out| {
            let first = name.chars().next().map_or(0, char::len_utf8);
            out.push_str(&name[..first]);
            out.push(ZERO_WIDTH_SPACE);
            out.push_str(&name[first..]);
            true
        });
        escaped
    }

    fn escape_value(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.escaped(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.escape_value(item)),
            Value::Object(fields) => fields.values_mut().for_each(|value| self.escape_value(value)),
            _ => {}
        }
    }
}

fn find_in<'n>(value: &Value, find: &impl Fn(&str) -> Option<&'n str>) -> Option<&'n str> {
    match value {
        Value::String(text) => find(text),
        Value::Array(items) => items.iter().find_map(|item| find_in(item, find)),
        Value::Object(fields) => fields.values().find_map(|value| find_in(value, find)),
        _ => None,
    }
}
