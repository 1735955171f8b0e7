//! The assistant's turns in a rendered chat, from what the template writes for them.
//!
//! A template may rewrite its input: trim it, drop earlier reasoning, or merge the system message into the first turn. So a
//! turn is not searched for by its text. The template engine tells which text it wrote while it visited a message; that is
//! the turn with its header. The header is what the template adds when it asks for an answer.
//!
//! Templates that do not visit messages one by one are handled by rendering the chat with a marker instead of the content.
//!
//! A turn is *rewritten* if the model would have to write something else: the messages up to the turn, rendered alone, end
//! with other text than the turn has within the whole chat, as when reasoning is dropped; or the template's header asks for
//! more than the turn begins with. Empty blocks, such as `<think>` with nothing in it, make no difference.

use std::collections::BTreeSet;
use std::ops::Range;

use serde_json::Value;

use crate::chat::Chat;
use crate::error::Result;
use crate::message::is_assistant;
use crate::template::Rendered;
use crate::tokenizer::TextTokenizer;

/// One assistant turn in the rendered text, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Number of the message.
    pub(crate) message: usize,
    /// Text that the model writes, with the end of the turn and what the template writes after that.
    pub(crate) text: Range<usize>,
    /// Whether the model would have to write something else.
    pub(crate) is_rewritten: bool,
    /// Whether `text` ends where the message ends; otherwise the end token may follow.
    pub(crate) is_exact: bool,
}

/// Finds every assistant turn of a chat.
///
/// # Errors
///
/// Fails when the chat takes too much work.
pub(crate) fn turns(chat: &Chat<'_>, tokenizer: &TextTokenizer) -> Result<Vec<Turn>> {
    let mut turns: Vec<Turn> = Vec::new();
    for (index, message) in chat.messages.iter().enumerate() {
        if is_assistant(message) {
            let from = turns.last().map_or(0, |turn| turn.text.end);
            turns.push(turn(chat, index, from, tokenizer));
            chat.spend(chat.full.parts.len() as u64)?;
        }
    }
    Ok(turns)
}

fn turn(chat: &Chat<'_>, index: usize, from: usize, tokenizer: &TextTokenizer) -> Turn {
    let Some(written) = written(&chat.full, index) else { return by_marker(chat, index, from) };
    let prompt = chat.first(index, true).ok().map(|rendered| rendered.text);
    let start = start(chat, index, prompt.as_deref(), &written);
    let text = start.at.min(written.end)..written.end;
    let mut turn = Turn { message: index, text, is_rewritten: !start.is_asked_for, is_exact: true };
    if index + 1 < chat.messages.len() && !turn.is_rewritten {
        turn.is_rewritten = is_rewritten(chat, &turn, prompt.as_deref(), tokenizer);
    }
    turn
}

/// Returns the text that the template wrote for a message, if it wrote it in one piece.
fn written(rendered: &Rendered, message: usize) -> Option<Range<usize>> {
    let mut parts = rendered.parts.iter().filter(|part| part.message == message);
    let first = parts.next()?.range.clone();
    let end = parts.next_back().map_or(first.end, |part| part.range.end);
    let range = first.start..end;
    let is_whole = !rendered.parts.iter().any(|part| {
        part.message != message && part.range.start >= range.start && part.range.end <= range.end
    });
    is_whole.then_some(range)
}

/// Returns the text that the template wrote for a message that the model does not write, if it can be identified.
pub(crate) fn text_of(chat: &Chat<'_>, index: usize) -> Option<Range<usize>> {
    let content = content(&chat.messages[index]).trim();
    let has_content = |range: &Range<usize>| chat.full.text[range.clone()].contains(content);
    written(&chat.full, index).filter(has_content).or_else(|| marked_content(chat, index))
}

/// Where the model begins to write.
struct Start {
    at: usize,
    /// Whether the text before it is what the template asks with.
    is_asked_for: bool,
}

/// Finds where the model begins to write in the text written for a message.
fn start(chat: &Chat<'_>, index: usize, prompt: Option<&str>, written: &Range<usize>) -> Start {
    let full = &chat.full.text;
    let asked = |at| Start { at, is_asked_for: true };
    if let Some(prompt) = prompt.filter(|prompt| full.starts_with(*prompt) && prompt.len() <= written.end) {
        return asked(prompt.len());
    }
    let Some(header) = header(chat, index, prompt) else {
        // The template refuses to ask: what it writes before the content is the header.
        let content = by_marker(chat, index, 0).text.start;
        return asked(if written.contains(&content) { content } else { written.start });
    };
    let text = &full[written.clone()];
    if text.starts_with(&header) {
        return asked(written.start + header.len());
    }
    if full[..written.start].ends_with(&header) {
        return asked(written.start);
    }
    let same = common_prefix(text, &header);
    // The header ends with a tag or a line, never within a word.
    let same = header[..same].rfind(['>', ']', '\n', '|', ':']).map_or(0, |at| at + 1);
    Start { at: written.start + same, is_asked_for: without_empty_blocks(&header[same..]).trim().is_empty() }
}

/// Returns what the template adds to ask for message `index`.
fn header(chat: &Chat<'_>, index: usize, prompt: Option<&str>) -> Option<String> {
    let added = |prompt: &str, before: &str| prompt[common_prefix(prompt, before)..].to_owned();
    if let (Some(prompt), Ok(before)) = (prompt, chat.first(index, false)) {
        return Some(added(prompt, &before.text));
    }
    let prompt = chat.first(chat.messages.len(), true).ok()?;
    Some(added(&prompt.text, &chat.full.text))
}

/// Returns the text of a message's content, or the last part of it.
pub(crate) fn content(message: &Value) -> &str {
    match &message["content"] {
        Value::String(content) => content,
        Value::Array(parts) => parts.iter().rev().find_map(|part| part["text"].as_str()).unwrap_or_default(),
        _ => "",
    }
}

/// Returns whether the model would write another turn if the chat ended with it.
fn is_rewritten(chat: &Chat<'_>, turn: &Turn, prompt: Option<&str>, tokenizer: &TextTokenizer) -> bool {
    // A template may refuse the first messages alone; then there is nothing to compare.
    let Ok(alone) = chat.first(turn.message + 1, false) else { return false };
    let Some(written) = written(&alone, turn.message) else { return false };
    let cut = Chat { full: alone, messages: chat.messages[..=turn.message].to_vec(), ..chat.clone() };
    let begins = start(&cut, turn.message, prompt, &written);
    let wanted = &cut.full.text[begins.at.min(written.end)..written.end];
    let found = &chat.full.text[turn.text.clone()];
    let content = content(&chat.messages[turn.message]);
    let to_end = |text: &str| {
        let end = tokenizer.ending(text, content).map_or(text.len(), |ending| ending.end);
        without_empty_blocks(&text[..end]).trim().to_owned()
    };
    to_end(wanted) != to_end(found)
}

/// Finds a turn by rendering the chat with a marker instead of the content of a message.
fn by_marker(chat: &Chat<'_>, index: usize, from: usize) -> Turn {
    let full = &chat.full.text;
    // A template may refuse the first messages alone. Then they cannot help to find the turn.
    let first = |count: usize, ask: bool| chat.first(count, ask).ok().map(|rendered| rendered.text);
    let prompt_end = first(index, true).filter(|prompt| full.starts_with(prompt.as_str())).map(|p| p.len());
    let through = first(index + 1, false);
    let tail = if index + 1 == chat.messages.len() {
        Some(full.len())
    } else {
        through.as_ref().filter(|text| full.starts_with(text.as_str())).map(String::len)
    };
    let marked = marked_content(chat, index);
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
    let end = end.max(start);
    let tail = tail.filter(|&tail| tail >= end);
    Turn { message: index, text: start..tail.unwrap_or(end), is_rewritten: false, is_exact: tail.is_some() }
}

/// Returns the range of a message's content in the whole chat.
fn marked_content(chat: &Chat<'_>, index: usize) -> Option<Range<usize>> {
    let full = &chat.full.text;
    if !chat.messages[index].get("content").is_some_and(Value::is_string) {
        return None;
    }
    let private = '\u{E000}'..'\u{F8FF}';
    let used: BTreeSet<char> = full.chars().filter(|letter| private.contains(letter)).collect();
    let marker = private.into_iter().find(|letter| !used.contains(letter))?;
    let mut messages = chat.messages.clone();
    messages[index]["content"] = Value::String(marker.to_string());
    let other = Chat { messages, ..chat.clone() };
    let other = other.first(chat.messages.len(), false).ok()?.text;
    if other.matches(marker).count() != 1 {
        return None;
    }
    let before = common_prefix(full, &other);
    let after = common_suffix(&full[before..], &other[before..]);
    Some(before..full.len() - after)
}

/// Returns `text` without blocks that hold only white space, such as `<think>\n\n</think>`, and the space after them.
fn without_empty_blocks(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['<', '[']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(length) = empty_block(rest) {
            rest = rest[length..].trim_start();
        } else {
            out.push_str(&rest[..1]);
            rest = &rest[1..];
        }
    }
    out + rest
}

/// Returns the length of the empty block at the start of `text`.
fn empty_block(text: &str) -> Option<usize> {
    let close = if text.starts_with('<') { '>' } else { ']' };
    let end = text.find(close)? + 1;
    let (open, rest) = text.split_at(end);
    let inner = rest.trim_start();
    let name = &open[1..];
    let closers = [
        format!("{}/{name}", &open[..1]),
        open.replacen("START", "END", 1),
        open.replacen("begin", "end", 1),
        open.replacen("<|", "<|/", 1),
    ];
    let closer =
        closers.iter().find(|closer| closer.as_str() != open && inner.starts_with(closer.as_str()))?;
    Some(text.len() - inner.len() + closer.len())
}

fn common_prefix(left: &str, right: &str) -> usize {
    let same = left.chars().zip(right.chars()).take_while(|(l, r)| l == r);
    same.map(|(letter, _)| letter.len_utf8()).sum()
}

fn common_suffix(left: &str, right: &str) -> usize {
    let same = left.chars().rev().zip(right.chars().rev()).take_while(|(l, r)| l == r);
    same.map(|(letter, _)| letter.len_utf8()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_blocks_are_taken_out() {
        for (text, expected) in [
            ("<think>\n\n</think>\n\na<b>c</b>", "a<b>c</b>"),
            ("[THINK][/THINK]a[b]", "a[b]"),
            ("<|START_THINKING|><|END_THINKING|>a", "a"),
            ("<seed:think> </seed:think>a < b", "a < b"),
            ("<think>\nreason\n</think>\n\na", "<think>\nreason\n</think>\n\na"),
        ] {
            assert_eq!(without_empty_blocks(text), expected);
        }
    }
}
