//! Control tokens that the text of a row spells out, such as `<|im_end|>` in a user's message.
//!
//! A tokenizer reads them as the control tokens themselves, as transformers does: the text can then end a turn or begin
//! another.

use std::ops::Range;

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
    /// Whether a prompt and its completion become messages.
    has_template: bool,
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
        let has_template = tokenizer.chat_template().is_some();
        Self { finder, names, bos: tokenizer.bos().and_then(name), eos, has_template }
    }

    /// Returns the first control token in the text of `record`. A plain text may begin with the token that begins a text
    /// and end with one that ends it. So may a prompt with its completion, which are one text without a chat template.
    pub fn find(&self, record: &Record) -> Option<&str> {
        let find = |text: &str| self.finder.find(text).map(|found| self.names[found.pattern()].as_str());
        match &record.shape {
            Shape::Text(text) => find(&text[self.inner(text)]),
            Shape::Completion { prompt, completion } => {
                let (asked, answered) = self.inner_pair(prompt, completion);
                find(&prompt[asked]).or_else(|| find(&completion[answered]))
            }
            Shape::Chat { messages, tools } => {
                let in_message = |message: &Value| {
                    let texts = message.as_object()?.iter().filter(|(name, _)| *name != "role");
                    texts.into_iter().find_map(|(_, value)| find_in(value, &find))
                };
                let in_tools = || tools.as_ref().and_then(|tools| find_in(tools, &find));
                messages.iter().find_map(in_message).or_else(in_tools)
            }
        }
    }

    /// Escapes every control token in the text of `record`, except those that [`ControlTokens::find`] passes over.
    pub fn escape(&self, record: &mut Record) {
        match &mut record.shape {
            Shape::Text(text) => *text = self.escaped_inside(text, self.inner(text)),
            Shape::Completion { prompt, completion } => {
                let (asked, answered) = self.inner_pair(prompt, completion);
                *prompt = self.escaped_inside(prompt, asked);
                *completion = self.escaped_inside(completion, answered);
            }
            Shape::Chat { messages, tools } => {
                let fields = messages.iter_mut().filter_map(Value::as_object_mut).flatten();
                fields.filter(|(name, _)| *name != "role").for_each(|(_, value)| self.escape_value(value));
                if let Some(tools) = tools {
                    self.escape_value(tools);
                }
            }
        }
    }

    /// Returns the range of the text without a token that begins it and one that ends it.
    fn inner(&self, text: &str) -> Range<usize> {
        let start = self.start(text);
        start..start + self.end(&text[start..])
    }

    /// Returns the ranges of a prompt and its completion without a token that begins and one that ends the text that they make.
    fn inner_pair(&self, prompt: &str, completion: &str) -> (Range<usize>, Range<usize>) {
        if self.has_template {
            return (0..prompt.len(), 0..completion.len());
        }
        (self.start(prompt)..prompt.len(), 0..self.end(completion))
    }

    /// Returns the length of the token that begins the text.
    fn start(&self, text: &str) -> usize {
        self.bos.as_ref().filter(|bos| text.starts_with(bos.as_str())).map_or(0, String::len)
    }

    /// Returns the length of the text without the token that ends it.
    fn end(&self, text: &str) -> usize {
        self.eos.iter().find_map(|eos| text.strip_suffix(eos.as_str())).unwrap_or(text).len()
    }

    fn escaped_inside(&self, text: &str, inner: Range<usize>) -> String {
        let Range { start, end } = inner;
        format!("{}{}{}", &text[..start], self.escaped(&text[start..end]), &text[end..])
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
