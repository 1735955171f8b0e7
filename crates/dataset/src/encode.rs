//! Encoding records as tokens, with a flag for each token that is a target.

use std::collections::BTreeSet;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::chat::Chat;
use crate::error::{Error, Result};
use crate::message::{as_messages, is_assistant, training_flag, unread_keys};
use crate::record::{Record, Shape};
use crate::tokenizer::{TextTokenizer, Tokens};
use crate::tokens::count_targets;
use crate::turns::{self, Turn};

/// Choice of the tokens that are targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LossOn {
    /// Every assistant turn with its end token, every completion, and all tokens of a plain text.
    #[default]
    Completions,
    /// All tokens.
    All,
}

/// Treatment of turns that the template renders differently from what the model must generate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnRewrittenTurn {
    /// They are not targets.
    #[default]
    Skip,
    /// They are targets, as they are written.
    Train,
    /// Fail.
    Error,
}

/// Choice of the targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodeSettings {
    /// Which tokens are targets.
    pub loss_on: LossOn,
    /// Whether rewritten turns are.
    pub on_rewritten_turn: OnRewrittenTurn,
}

impl From<LossOn> for EncodeSettings {
    fn from(loss_on: LossOn) -> Self {
        Self { loss_on, ..Self::default() }
    }
}

/// Treatment of rows with too many tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnTooLong {
    /// Cut off its end.
    Truncate,
    /// Leave it out.
    #[default]
    Drop,
    /// Fail.
    Error,
}

/// A record ready for a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// 1 for each token that is a target, else 0. The first token is never a target, since nothing predicts it.
    pub trained: Vec<u8>,
    /// Number of tokens before the last turn that the model generates.
    pub prompt_length: usize,
    /// Text that asks the model for the last turn.
    pub prompt: Option<String>,
    /// Last turn of the record.
    pub reference: Option<String>,
    /// Index of the message of a chat that `reference` is from: the last one that is a target, or else the last that the model
    /// writes.
    pub asked_message: Option<usize>,
    /// Whether `tokens` begins with the tokens of `prompt`, so that the model is asked the way it was trained.
    pub prompt_is_prefix: bool,
    /// Counts and findings about the turns of a chat.
    pub turns: TurnNotes,
}

/// The end of a turn with targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TurnEnd {
    /// The token that ends the turn; `None` if no control token does.
    pub token: Option<u32>,
    /// Number of tokens up to the end of the turn.
    pub at: usize,
}

/// Counts and findings about the turns of a chat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TurnNotes {
    /// The end of each part of a turn that is a target.
    pub ends: Vec<TurnEnd>,
    /// Turns excluded from the targets because the template renders them differently from what the model must generate.
    pub rewritten: usize,
    /// Turns excluded from the targets by a flag of their message.
    pub excluded: usize,
    /// Keys of messages, and `tools`, that have values but that the template does not read.
    pub unread: BTreeSet<String>,
    /// Roles of messages whose text the template does not write.
    pub unwritten: BTreeSet<String>,
}

impl Encoded {
    /// Returns the number of targets.
    pub fn target_count(&self) -> usize {
        count_targets(&self.trained)
    }

    /// Cuts off everything after the first `max_tokens` tokens, with the ends of turns there.
    pub fn truncate(&mut self, max_tokens: usize) {
        self.tokens.truncate(max_tokens);
        self.trained.truncate(max_tokens);
        self.prompt_length = self.prompt_length.min(max_tokens);
        self.turns.ends.retain(|end| end.at <= max_tokens);
    }

    fn new(tokens: Vec<u32>, mut trained: Vec<u8>) -> Self {
        if let Some(first) = trained.first_mut() {
            *first = 0;
        }
        Self { tokens, trained, prompt_is_prefix: true, ..Self::default() }
    }
}

/// Encodes `record` without truncating it.
///
/// A chat needs a chat template. A prompt with its completion becomes a chat of two messages if the tokenizer has a
/// chat template; otherwise the two texts are joined and the end token is appended. Plain text gets the special tokens
/// that the tokenizer adds to every text, and the end token unless it ends with one.
///
/// # Errors
///
/// Fails when a chat has no chat template, the template refuses the conversation or does not write all of it, or the text
/// cannot be tokenized.
pub fn encode(
    tokenizer: &TextTokenizer,
    record: &Record,
    settings: impl Into<EncodeSettings>,
) -> Result<Encoded> {
    let settings = settings.into();
    match &record.shape {
        Shape::Text(text) => {
            let mut tokens = tokenizer.encode(text, true)?;
            append_end_token(tokenizer, &mut tokens);
            let trained = vec![1; tokens.len()];
            Ok(Encoded::new(tokens, trained))
        }
        Shape::Chat { messages, tools } => encode_chat(tokenizer, messages, tools.as_ref(), settings),
        Shape::Completion { prompt, completion } if tokenizer.chat_template().is_some() => {
            encode_chat(tokenizer, &as_messages(prompt, completion), None, settings)
        }
        Shape::Completion { prompt, completion } => {
            encode_pair(tokenizer, prompt, completion, settings.loss_on)
        }
    }
}

/// Appends the end token unless the last token is one.
fn append_end_token(tokenizer: &TextTokenizer, tokens: &mut Vec<u32>) {
    if let Some(&eos) = tokenizer.eos().first()
        && !tokens.last().is_some_and(|last| tokenizer.eos().contains(last))
    {
        tokens.push(eos);
    }
}

fn encode_pair(
    tokenizer: &TextTokenizer,
    prompt: &str,
    completion: &str,
    loss_on: LossOn,
) -> Result<Encoded> {
    let mut encoding = tokenizer.encode_with_offsets(&format!("{prompt}{completion}"), true)?;
    // An end token of the tokenizer has an empty range; special tokens in front belong to the prompt.
    let first =
        encoding.offsets.iter().position(|&(_, end)| end > prompt.len()).unwrap_or(encoding.ids.len());
    append_end_token(tokenizer, &mut encoding.ids);
    let trained =
        (0..encoding.ids.len()).map(|index| u8::from(loss_on == LossOn::All || index >= first)).collect();
    let prompt_encoding = tokenizer.encode_with_offsets(prompt, true)?;
    let prompt_offsets = &prompt_encoding.offsets;
    let prompt_length =
        prompt_offsets.iter().rposition(|&(start, end)| end > start).map_or(0, |last| last + 1);
    let mut encoded = Encoded::new(encoding.ids, trained);
    encoded.prompt_is_prefix = encoded.tokens.starts_with(&prompt_encoding.ids[..prompt_length]);
    encoded.prompt_length = if encoded.prompt_is_prefix { prompt_length } else { first };
    encoded.prompt = Some(prompt.to_owned());
    encoded.reference = Some(completion.to_owned());
    Ok(encoded)
}

fn encode_chat(
    tokenizer: &TextTokenizer,
    messages: &[Value],
    tools: Option<&Value>,
    settings: EncodeSettings,
) -> Result<Encoded> {
    let template = tokenizer.chat_template_for(tools).ok_or_else(|| tokenizer.no_template())?;
    encode_turns(tokenizer, &Chat::new(template, messages, tools)?, settings)
}

fn encode_turns(tokenizer: &TextTokenizer, chat: &Chat<'_>, settings: EncodeSettings) -> Result<Encoded> {
    let encoding = tokenizer.encode_with_offsets(&chat.full.text, false)?;
    let turns = turns::turns(chat, tokenizer)?;
    let mut notes = TurnNotes { unread: unread(chat), unwritten: unwritten(chat), ..TurnNotes::default() };
    let mut trained = vec![u8::from(settings.loss_on == LossOn::All); encoding.ids.len()];
    let mut last: Option<LastTurn> = None;
    for turn in &turns {
        chat.spend(encoding.ids.len() as u64)?;
        let range = tokens_in(&encoding, &turn.text);
        let choice = choice(chat, turn, settings)?;
        match choice {
            Choice::Excluded => {
                notes.excluded += 1;
                trained[range.clone()].fill(0);
            }
            Choice::Rewritten => {
                notes.rewritten += 1;
                trained[range.clone()].fill(0);
            }
            Choice::Target => {
                for target in targets(tokenizer, chat, turn) {
                    let tokens = tokens_in(&encoding, &target.text);
                    notes.ends.push(TurnEnd { token: target.end_token, at: tokens.end });
                    trained[tokens].fill(1);
                }
            }
        }
        let is_target = choice == Choice::Target;
        if is_target || !last.as_ref().is_some_and(|last| last.is_target) {
            last = Some(LastTurn {
                message: turn.message,
                text: turn.text.clone(),
                first_token: range.start,
                is_target,
            });
        }
    }
    notes.excluded += follow_flags(chat, &encoding, &mut trained, settings.loss_on)?;
    let mut encoded = Encoded::new(encoding.ids, trained);
    encoded.turns = notes;
    if let Some(last) = last {
        ask_for(&mut encoded, tokenizer, chat, &last)?;
    }
    chat.spend(0)?;
    Ok(encoded)
}

/// Follows the training flags of the messages that the model does not write, and returns the number of those it excludes.
///
/// They train only with [`LossOn::All`], so a flag against that changes nothing without it, and a flag for it cannot be
/// followed.
fn follow_flags(chat: &Chat<'_>, encoding: &Tokens, trained: &mut [u8], loss_on: LossOn) -> Result<usize> {
    let mut excluded = 0;
    let others = chat.messages.iter().enumerate().filter(|(_, message)| !is_assistant(message));
    for (index, message) in others {
        let number = index + 1;
        match (training_flag(message)?, loss_on) {
            (None, _) | (Some(true), LossOn::All) | (Some(false), LossOn::Completions) => {}
            (Some(true), LossOn::Completions) => {
                return Err(Error::Message {
                    reason: format!(
                        "message {number} says that it trains, but only messages with the role `assistant` are targets"
                    ),
                    hint: "remove its flag, or set `loss_on = \"all\"`".into(),
                });
            }
            (Some(false), LossOn::All) => {
                let text = turns::text_of(chat, index);
                chat.spend((chat.full.parts.len() + encoding.ids.len()) as u64)?;
                let text = text.ok_or_else(|| Error::Message {
                    reason: format!(
                        "message {number} says that it does not train, but the chat template does not write it in one piece"
                    ),
                    hint: "remove its flag, or set `loss_on = \"completions\"`".into(),
                })?;
                trained[tokens_in(encoding, &text)].fill(0);
                excluded += 1;
            }
        }
    }
    Ok(excluded)
}

/// The turn that evaluation asks for: the last one that is a target, or the last one if none is.
struct LastTurn {
    message: usize,
    text: Range<usize>,
    first_token: usize,
    is_target: bool,
}

/// Fills in the prompt and the reference of a chat.
fn ask_for(encoded: &mut Encoded, tokenizer: &TextTokenizer, chat: &Chat<'_>, last: &LastTurn) -> Result<()> {
    let full = &chat.full.text;
    let prompt = chat
        .first(last.message, true)
        .map_or_else(|_| full[..last.text.start].to_owned(), |rendered| rendered.text);
    let prompt_tokens = tokenizer.encode(&prompt, false)?;
    encoded.prompt_is_prefix = encoded.tokens.starts_with(&prompt_tokens);
    encoded.prompt_length = if encoded.prompt_is_prefix { prompt_tokens.len() } else { last.first_token };
    encoded.reference = match chat.messages[last.message].get("content").and_then(Value::as_str) {
        Some(content) if !content.is_empty() => Some(content.to_owned()),
        _ => {
            let text = &full[last.text.clone()];
            let end = tokenizer.ending(text, "").map_or(text.len(), |ending| {
                ending.end - tokenizer.control_text(ending.token).map_or(0, str::len)
            });
            Some(text[..end].trim().to_owned())
        }
    };
    encoded.prompt = Some(prompt);
    encoded.asked_message = Some(last.message);
    Ok(())
}

/// Role of a turn in training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Target,
    Excluded,
    Rewritten,
}

fn choice(chat: &Chat<'_>, turn: &Turn, settings: EncodeSettings) -> Result<Choice> {
    let message = &chat.messages[turn.message];
    if training_flag(message)? == Some(false) {
        return Ok(Choice::Excluded);
    }
    let is_rewritten = turn.is_rewritten && settings.loss_on == LossOn::Completions;
    match settings.on_rewritten_turn {
        OnRewrittenTurn::Skip if is_rewritten => Ok(Choice::Rewritten),
        OnRewrittenTurn::Error if is_rewritten => Err(Error::Message {
            reason: format!(
                "the chat template renders message {} differently from what the model must generate",
                turn.message + 1
            ),
            hint: "such turns drop reasoning, for example: set `on_rewritten_turn = \"skip\"`".into(),
        }),
        _ => Ok(Choice::Target),
    }
}

/// Text of a turn that is a target.
struct Target {
    text: Range<usize>,
    end_token: Option<u32>,
}

/// Returns the text of a turn that the model has to write, with its end.
fn targets(tokenizer: &TextTokenizer, chat: &Chat<'_>, turn: &Turn) -> Vec<Target> {
    let full = &chat.full.text;
    let content = turns::content(&chat.messages[turn.message]);
    let Some(generated) = &chat.full.generation else {
        return vec![ended(tokenizer, full, turn.text.clone(), turn, content)];
    };
    let inside: Vec<&Range<usize>> = generated
        .iter()
        .filter(|range| {
            range.start < turn.text.end && range.end > turn.text.start
                || range.is_empty() && turn.text.contains(&range.start)
        })
        .collect();
    let count = inside.len();
    let target = |(index, range): (usize, &&Range<usize>)| {
        let own = full.get(range.start..range.end).unwrap_or_default();
        let has_end =
            tokenizer.ending(own, content).is_some_and(|ending| tokenizer.eos().contains(&ending.token));
        // What the template writes after its last block is the end of the turn if there is only that.
        let rest = &full[range.end.min(turn.text.end)..turn.text.end];
        let ends_there = tokenizer.ending(rest, "").is_some() && tokenizer.is_only_control(rest);
        if index + 1 == count && !has_end && ends_there {
            ended(tokenizer, full, range.start..turn.text.end, turn, own)
        } else {
            Target {
                text: (*range).clone(),
                end_token: tokenizer.ending(own, content).map(|ending| ending.token),
            }
        }
    };
    inside.iter().enumerate().map(target).collect()
}

/// Returns `range` up to and including the end token of the turn.
fn ended(tokenizer: &TextTokenizer, full: &str, range: Range<usize>, turn: &Turn, content: &str) -> Target {
    let text = &full[range.clone()];
    if let Some(ending) = tokenizer.ending(text, content) {
        return Target { text: range.start..range.start + ending.end, end_token: Some(ending.token) };
    }
    // Some templates write the end with the next message, or after all of them.
    let after = tokenizer.end_token_at_start(&full[range.end..]);
    if let Some(ending) = after.filter(|_| turn.is_exact || range.end < full.len()) {
        return Target { text: range.start..range.end + ending.end, end_token: Some(ending.token) };
    }
    Target { text: range, end_token: None }
}

/// Returns the keys of the chat that the template leaves out.
fn unread(chat: &Chat<'_>) -> BTreeSet<String> {
    let reads = |word: &str| chat.template.mentions(word);
    let keys = chat.messages.iter().flat_map(|message| unread_keys(message, reads));
    let mut unread: BTreeSet<String> = keys.map(str::to_owned).collect();
    let has_tools = chat.tools.and_then(Value::as_array).is_some_and(|tools| !tools.is_empty());
    if has_tools && !reads("tools") {
        unread.insert("tools".to_owned());
    }
    unread
}

/// Returns the roles of messages, other than the assistant's, whose text is not in the rendered chat.
fn unwritten(chat: &Chat<'_>) -> BTreeSet<String> {
    let full = &chat.full.text;
    let is_written = |message: &Value| match &message["content"] {
        Value::String(text) => full.contains(text.trim()),
        _ => true,
    };
    let lost = chat.messages.iter().filter(|message| !is_assistant(message) && !is_written(message));
    lost.filter_map(|message| message["role"].as_str().map(str::to_owned)).collect()
}

/// Returns the tokens that overlap a part of the text.
fn tokens_in(encoding: &Tokens, part: &Range<usize>) -> Range<usize> {
    // Some tokenizers leave white space out of a token's range. An empty range is at the end of its white space.
    let inside = |&(start, end): &(usize, usize)| {
        if start < end {
            end > part.start && start < part.end
        } else {
            part.start < start && start <= part.end
        }
    };
    let after = |&(start, _): &(usize, usize)| start >= part.end;
    let first =
        encoding.offsets.iter().position(|range| inside(range) || after(range)).unwrap_or(encoding.ids.len());
    let last = encoding.offsets.iter().rposition(inside).map_or(first, |index| index + 1).max(first);
    first..last
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::chat::MAX_WORK;
    use crate::template::ChatTemplate;

    #[test]
    fn a_chat_with_too_much_work_is_refused_and_never_encoded_in_part() {
        let folder = tempfile::tempdir().unwrap();
        let golden = testutil::golden("llama").join("tokenizer.json");
        fs_err::copy(golden, folder.path().join("tokenizer.json")).unwrap();
        let tokenizer = TextTokenizer::open(folder.path()).unwrap();
        let source = "{% for m in messages %}<|start|>{{ m.content }}<|end|>{% endfor %}";
        let template = ChatTemplate::new(source, "t", BTreeMap::new(), None).unwrap();
        let messages = |count: usize| -> Vec<Value> {
            let role = |index: usize| if index.is_multiple_of(2) { "user" } else { "assistant" };
            (0..count)
                .map(|index| json!({"role": role(index), "content": "x", "train": index % 2 == 1}))
                .collect()
        };
        let encoded = |count: usize, work: u64, loss_on: LossOn| {
            let chat = Chat::new(&template, &messages(count), None)?;
            chat.work.set(work);
            encode_turns(&tokenizer, &chat, loss_on.into()).map(|encoded| (encoded, chat.work.get() - work))
        };
        for loss_on in [LossOn::Completions, LossOn::All] {
            let (whole, work) = encoded(20, 0, loss_on).unwrap();
            assert_eq!(encoded(20, MAX_WORK - work, loss_on).unwrap().0, whole);
            for less in (0..work).step_by(work as usize / 50) {
                let error = encoded(20, MAX_WORK - less, loss_on).unwrap_err();
                assert!(error.to_string().starts_with("the chat has 20 messages and is too long"), "{error}");
            }
        }
        let work = encoded(1000, 0, LossOn::Completions).unwrap().1;
        assert!(work < MAX_WORK / 4, "{work}");
    }
}
