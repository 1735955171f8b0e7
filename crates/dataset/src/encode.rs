//! Records as tokens, with a mark on each token that counts as a target.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::Result;
use crate::record::{Record, Shape};
use crate::spans::{Renderer, Turn, is_assistant};
use crate::tokenizer::{TextTokenizer, Tokens};

/// Which tokens are targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LossOn {
    /// Every assistant turn with the token that ends it, every completion, and all of a plain text.
    #[default]
    Completions,
    /// Everything.
    All,
}

/// What happens to a row with too many tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnTooLong {
    /// Its end is cut off.
    Truncate,
    /// It is left out.
    #[default]
    Drop,
    /// It stops the work.
    Error,
}

/// A record ready for a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// 1 where the token is a target that counts; the first token never is, as nothing predicts it.
    pub trained: Vec<u8>,
    /// Number of tokens before what the model is to generate last.
    pub prompt_length: usize,
    /// Text with which the model is asked for its last turn.
    pub prompt: Option<String>,
    /// What the record has as the last turn.
    pub reference: Option<String>,
    /// Whether the tokens of `prompt` are how `tokens` begins, so that the model is asked as it was trained.
    pub prompt_is_prefix: bool,
}

impl Encoded {
    /// Returns the number of targets.
    pub fn target_count(&self) -> usize {
        self.trained.iter().filter(|&&flag| flag == 1).count()
    }

    /// Cuts the record off after `max_tokens`.
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

/// Returns the messages of a prompt with its completion.
pub fn as_messages(prompt: &str, completion: &str) -> Vec<Value> {
    vec![json!({"role": "user", "content": prompt}), json!({"role": "assistant", "content": completion})]
}

/// Encodes `record`; nothing is cut off.
///
/// A chat needs a chat template. A prompt with its completion becomes a chat of two messages where there is one,
/// else their texts follow each other and the end token is added. Plain text gets what the tokenizer puts around
/// every text, and the end token if that is not its last already.
///
/// # Errors
///
/// Fails when there is no chat template for a chat, or it refuses the conversation.
pub fn encode(tokenizer: &TextTokenizer, record: &Record, loss_on: LossOn) -> Result<Encoded> {
    match &record.shape {
        Shape::Text(text) => {
            let mut tokens = tokenizer.encode(text, true)?;
            end(tokenizer, &mut tokens);
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

fn end(tokenizer: &TextTokenizer, tokens: &mut Vec<u32>) {
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
    // A tokenizer's own end token has no text; what it puts in front stays with the prompt.
    let first =
        encoding.offsets.iter().position(|&(_, end)| end > prompt.len()).unwrap_or(encoding.ids.len());
    end(tokenizer, &mut encoding.ids);
    let trained =
        (0..encoding.ids.len()).map(|index| u8::from(loss_on == LossOn::All || index >= first)).collect();
    let alone = tokenizer.encode_with_offsets(prompt, true)?;
    let kept = alone.offsets.iter().rposition(|&(start, end)| end > start).map_or(0, |last| last + 1);
    let mut encoded = Encoded::new(encoding.ids, trained);
    encoded.prompt_is_prefix = encoded.tokens.starts_with(&alone.ids[..kept]);
    encoded.prompt_length = if encoded.prompt_is_prefix { kept } else { first };
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

/// Returns the tokens of a turn: those that share a letter with its content, and on to the token that ends it.
fn tokens_of(
    tokenizer: &TextTokenizer,
    encoding: &Tokens,
    text: &str,
    turn: &Turn,
) -> std::ops::Range<usize> {
    let content = &turn.content;
    // Some tokenizers leave white space out of a token's range, down to nothing: such a token lies before its place.
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
        text.get(start..end).is_none_or(|part| part.trim().is_empty())
    };
    // White space that follows an end token inside the content is the template's, not the model's.
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
