//! Answers of a model to prompts, as text.

use dataset::TextTokenizer;
use models::{GenerationOptions, Model};
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// Answer of a model to one prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The text, without white space at its ends.
    pub text: String,
    /// Whether the limit of tokens cut it off.
    pub is_unfinished: bool,
}

/// Settings of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerSettings {
    /// Most tokens of an answer.
    pub max_tokens: usize,
    /// Number of prompts answered together.
    pub batch_size: usize,
}

/// Returns the most likely answers of `model` to prompts of tokens, in the order of the prompts.
///
/// # Errors
///
/// Fails when MLX does, when no logit is finite, and when an answer cannot be decoded.
pub fn answers(
    model: &Model,
    tokenizer: &TextTokenizer,
    prompts: &[Vec<u32>],
    settings: AnswerSettings,
) -> Result<Vec<Answer>> {
    let AnswerSettings { max_tokens, batch_size } = settings;
    let options = GenerationOptions { max_tokens, stop: tokenizer.eos().to_vec(), batch_size };
    let answer = |generation: models::Generation| {
        let text = tokenizer.decode(&generation.tokens, true)?.trim().to_owned();
        Ok(Answer { text, is_unfinished: !generation.stopped })
    };
    models::generate(model, prompts, &options)?.into_iter().map(answer).collect()
}
