//! Finding the assistant's turns in a rendered conversation.
//!
//! A template may rewrite its input: trim it, drop earlier reasoning, or merge the system message into the first turn.
//! So the first messages, rendered alone, need not give the beginning of the whole text. A turn is found by what changes
//! when only that turn changes:
//!
//! 1. A template with `generation` blocks marks the generated text.
//! 2. Otherwise the conversation is rendered again with a marker instead of the turn's content. Text before the first
//!    difference precedes the turn; text after the last difference follows it.
//! 3. If the text begins with the prompt that asks the model for the turn, the turn begins at the end of that prompt:
//!    the model has to write whatever the template puts between the prompt and the content.
//! 4. If the marker does not appear exactly once (tool calls without content, templates that inspect the content), the
//!    messages up to and including the turn are rendered alone; the turn ends where that text ends.
//!
//! A turn includes its end: the first end token after the content, otherwise the last special token before the next
//! message, otherwise all text up to the next message.

use std::ops::Range;

use serde_json::Value;

use crate::error::Result;
use crate::template::{ChatTemplate, Conversation, Rendered};

/// One assistant turn in the rendered text, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Text that the model generates, without the end of the turn.
    pub(crate) content: Range<usize>,
    /// Start of the next message, if known.
    pub(crate) tail: Option<usize>,
}

/// Renders a conversation, or only its first messages.
pub(crate) struct Renderer<'a> {
    pub(crate) template: &'a ChatTemplate,
    pub(crate) tools: Option<&'a Value>,
}

impl Renderer<'_> {
    pub(crate) fn render(&self, messages: &[Value], add_generation_prompt: bool) -> Result<Rendered> {
        self.template.render_full(&Conversation { messages, tools: self.tools, add_generation_prompt })
    }

    /// Finds every assistant turn of `messages` in `full`, the rendered conversation.
    pub(crate) fn turns(&self, messages: &[Value], full: &Rendered) -> Vec<Turn> {
        if let Some(ranges) = &full.generation {
            return ranges.iter().map(|range| Turn { content: range.clone(), tail: None }).collect();
        }
        let mut turns: Vec<Turn> = Vec::new();
        for (index, message) in messages.iter().enumerate() {
            if is_assistant(message) {
                let from = turns.last().map_or(0, |turn| turn.content.end);
                turns.push(self.turn(messages, index, &full.text, from));
            }
        }
        turns
    }

    fn turn(&self, messages: &[Value], index: usize, full: &str, from: usize) -> Turn {
        // A template may refuse the first messages alone. Then they cannot help to find the turn.
        let render_first = |count: usize, add_generation_prompt: bool| {
            let rendered = self.render(&messages[..count], add_generation_prompt).ok();
            rendered.map(|rendered| rendered.text)
        };
        let prompt_end =
            render_first(index, true).filter(|prompt| full.starts_with(prompt.as_str())).map(|p| p.len());
        let through = render_first(index + 1, false);
        let last = index + 1 == messages.len();
        let tail = if last {
            Some(full.len())
        } else {
            through.as_ref().filter(|t| full.starts_with(t.as_str())).map(String::len)
        };
        let marked = self.by_marker(messages, index, full);
        let start = prompt_end
            .into_iter()
            .chain(marked.as_ref().map(|range| range.start))
            .min()
            .or_else(|| through.as_ref().map(|through| common_prefix(through, full)))
            .unwrap_or(full.len());
        let end = match (marked, tail, through) {
            (Some(range), ..) => range.end,
            (None, Some(tail), _) => tail,
            (None, None, Some(through)) => common_prefix(&through, full),
            (None, None, None) => start,
        };
        let start = start.max(from);
        Turn { content: start..end.max(start), tail: tail.filter(|&tail| tail >= end) }
    }

    /// Finds the content of a message by rendering with a marker instead of it.
    fn by_marker(&self, messages: &[Value], index: usize, full: &str) -> Option<Range<usize>> {
        if !messages[index].get("content").is_some_and(Value::is_string) {
            return None;
        }
        let marker = (0xE000..0xF8FFu32).filter_map(char::from_u32).find(|&letter| !full.contains(letter))?;
        let mut messages = messages.to_vec();
        messages[index]["content"] = Value::String(marker.to_string());
        let Ok(other) = self.render(&messages, false) else { return None };
        if other.text.matches(marker).count() != 1 {
            return None;
        }
        let before = common_prefix(full, &other.text);
        let after = common_suffix(&full[before..], &other.text[before..]);
        Some(before..full.len() - after)
    }
}

pub(crate) fn is_assistant(message: &Value) -> bool {
    message.get("role").and_then(Value::as_str) == Some("assistant")
}

fn common_prefix(left: &str, right: &str) -> usize {
    let same = left.chars().zip(right.chars()).take_while(|(l, r)| l == r);
    same.map(|(letter, _)| letter.len_utf8()).sum()
}

fn common_suffix(left: &str, right: &str) -> usize {
    let same = left.chars().rev().zip(right.chars().rev()).take_while(|(l, r)| l == r);
    same.map(|(letter, _)| letter.len_utf8()).sum()
}
