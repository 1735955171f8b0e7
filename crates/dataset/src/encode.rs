//! Encoding records as tokens, with a flag for each token that is a target.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::Result;
use crate::record::{Record, Shape};
use crate::spans::{Renderer, Turn, is_assistant};
use crate::tokenizer::{TextTokenizer, Tokens};

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
    /// Whether `tokens` begins with the tokens of `prompt`, so that the model is asked the way it was trained.
    pub prompt_is_prefix: bool,
}

impl Encoded {
    /// Returns the number of targets.
    pub fn target_count(&self) -> usize {
        self.trained.iter().map(|&flag| usize::from(flag == 1)).sum()
    }

    /// Cuts off everything after the first `max_tokens` tokens.
    pub fn truncate(&mut self, max_tokens: usize) {
        self.tokens.truncate(max_tokens);
        self.trained.truncate(max_tokens);
        self.prompt_length = self.prompt_length.min(max_tokens);
    }

    fn new(tokens: Vec<u32>, mut trained: Vec<u8>) -> Self {
        if let Some(first) = trained.first_mut() {
            *first = 0;
        }
        Self { tokens, trained, prompt_is_prefix: true, ..Self::default() }
    }
}

/// Returns a prompt and its completion as a user and an assistant message.
pub fn as_messages(prompt: &str, completion: &str) -> Vec<Value> {
    vec![json!({"role": "user", "content": prompt}), json!({"role": "assistant", "content": completion})]
}

/// Encodes `record` without truncating it.
///
/// A chat needs a chat template. A prompt with its completion becomes a chat of two messages if the tokenizer has a
/// chat template; otherwise the two texts are joined and the end token is appended. Plain text gets the special tokens
/// that the tokenizer adds to every text, and the end token unless it ends with one.
///
/// # Errors
///
/// Fails when a chat has no chat template, the template refuses the conversation, or the text cannot be tokenized.
pub fn encode(tokenizer: &TextTokenizer, record: &Record, loss_on: LossOn) -> Result<Encoded> {
    match &record.shape {
        Shape::Text(text) => {
            let mut tokens = tokenizer.encode(text, true)?;
            append_end_token(tokenizer, &mut tokens);
            let trained = vec![1; tokens.len()];
            Ok(Encoded::new(tokens, trained))
        }
        Shape::Chat { messages, tools } => encode_chat(tokenizer, messages, tools.as_ref(), loss_on),
        Shape::Completion { prompt, completion } if tokenizer.chat_template().is_some() => {
            encode_chat(tokenizer, &as_messages(prompt, completion), None, loss_on)
        }
        Shape::Completion { prompt, completion } => encode_pair(tokenizer, prompt, completion, loss_on),
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
    loss_on: LossOn,
) -> Result<Encoded> {
    let template = tokenizer.chat_template_for(tools).ok_or_else(|| tokenizer.no_template())?;
    let renderer = Renderer { template, tools };
    let full = renderer.render(messages, false)?;
    let encoding = tokenizer.encode_with_offsets(&full.text, false)?;
    let turns = renderer.turns(messages, &full);
    let mut trained = vec![u8::from(loss_on == LossOn::All); encoding.ids.len()];
    let mut first_of_last = 0;
    for turn in &turns {
        let tokens = tokens_of(tokenizer, &encoding, &full.text, turn);
        first_of_last = tokens.start;
        trained[tokens].fill(1);
    }
    let mut encoded = Encoded::new(encoding.ids, trained);
    let Some(index) = messages.iter().rposition(is_assistant) else { return Ok(encoded) };
    let content_start = turns.last().map_or(full.text.len(), |turn| turn.content.start);
    let prompt = renderer
        .render(&messages[..index], true)
        .map_or_else(|_| full.text[..content_start].to_owned(), |rendered| rendered.text);
    let prompt_tokens = tokenizer.encode(&prompt, false)?;
    encoded.prompt_is_prefix = encoded.tokens.starts_with(&prompt_tokens);
    encoded.prompt_length = if encoded.prompt_is_prefix { prompt_tokens.len() } else { first_of_last };
    encoded.reference = match messages[index].get("content").and_then(Value::as_str) {
        Some(content) => Some(content.to_owned()),
        None => turns.last().map(|turn| full.text[turn.content.clone()].trim().to_owned()),
    };
    encoded.prompt = Some(prompt);
    Ok(encoded)
}

/// Returns the tokens of a turn: those that overlap its content, and those up to and including its end token.
fn tokens_of(
    tokenizer: &TextTokenizer,
    encoding: &Tokens,
    text: &str,
    turn: &Turn,
) -> std::ops::Range<usize> {
    let content = &turn.content;
    // Some tokenizers leave white space out of a token's range. An empty range is at the end of its white space.
    let inside = |&(start, end): &(usize, usize)| {
        if start < end {
            end > content.start && start < content.end
        } else {
            content.start < start && start <= content.end
        }
    };
    let after = |&(start, _): &(usize, usize)| start >= content.end;
    let first =
        encoding.offsets.iter().position(|range| inside(range) || after(range)).unwrap_or(encoding.ids.len());
    let mut last = encoding.offsets.iter().rposition(inside).map_or(first, |index| index + 1).max(first);
    let special = |index: &usize| tokenizer.is_special(encoding.ids[*index]);
    let blank = |index: usize| {
        let (start, end) = encoding.offsets[index];
        text.get(start..end).is_none_or(|text| text.trim().is_empty())
    };
    // The template, not the model, writes white space that follows an end token inside the content.
    let ended = (first..last).rev().find(|&index| special(&index) || !blank(index)).filter(special);
    if let Some(index) = ended {
        return first..index + 1;
    }
    if let Some(limit) = turn.tail {
        while last < encoding.ids.len() && encoding.offsets[last].0 < limit {
            last += 1;
        }
        let tail_start = (first..last).find(|&index| after(&encoding.offsets[index])).unwrap_or(last);
        let end_token = (tail_start..last).find(|&index| tokenizer.eos().contains(&encoding.ids[index]));
        let last_special = || (tail_start..last).rev().find(special);
        return first..end_token.or_else(last_special).map_or(last, |index| index + 1);
    }
    let next = (last..encoding.ids.len()).find(|&index| special(&index) || !blank(index)).filter(special);
    first..next.map_or(last, |index| index + 1)
}
