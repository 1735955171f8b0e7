//! Limits for the model of a `tokenizer.json`: its settings and longest tokens, read without storing the vocabulary.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::extent::Extent;

/// Maximum word length of a `WordPiece` model in characters; its work grows with the cube of it. Published ones have 100.
const MAX_WORD_LETTERS: f64 = 200.0;
/// Maximum length of affixes and of the unknown token, in bytes. Published ones have about ten.
const MAX_AFFIX_BYTES: usize = 256;
/// Maximum length of a token in bytes; encoding and decoding copy it. Published ones have a few hundred.
const MAX_TOKEN_BYTES: usize = 4096;
/// Maximum length of a token of a `Unigram` model in bytes; the model copies every prefix at every position.
/// Published ones have about 50, and runs of spaces up to 100.
const MAX_PIECE_BYTES: usize = 256;

/// The model of a `tokenizer.json`. If a setting occurs twice, the worse value counts.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// Size of the whole model.
    pub(super) extent: Extent,
    /// Share of the merges that are dropped at random.
    dropout: f64,
    word_letters: f64,
    longest_affix: usize,
    longest_token: usize,
    /// Whether the vocabulary is a list, as only Unigram models have it.
    pub(super) is_unigram: bool,
}

impl Model {
    /// Returns the reason when tokenization is random or would take far more time or memory than the length of the text.
    pub(super) fn check(&self) -> Result<(), String> {
        let Self { dropout, word_letters, longest_affix, longest_token, is_unigram, .. } = *self;
        if dropout != 0.0 {
            return Err(format!(
                "the model drops merges at random (`dropout` is {dropout}); set `model.dropout` to null"
            ));
        }
        if word_letters > MAX_WORD_LETTERS {
            return Err(format!(
                "`model.max_input_chars_per_word` is {word_letters}, and at most {MAX_WORD_LETTERS} is supported"
            ));
        }
        if longest_affix > MAX_AFFIX_BYTES {
            return Err(format!(
                "`unk_token`, `continuing_subword_prefix` or `end_of_word_suffix` of the model has {longest_affix} bytes, \
                and at most {MAX_AFFIX_BYTES} are supported"
            ));
        }
        check_token(longest_token, if is_unigram { MAX_PIECE_BYTES } else { MAX_TOKEN_BYTES })
    }

    fn set(&mut self, name: &str, value: Extent) {
        let number = value.number.unwrap_or(0.0);
        match name {
            "dropout" if number != 0.0 => self.dropout = number,
            "max_input_chars_per_word" => self.word_letters = self.word_letters.max(number),
            "unk_token" | "continuing_subword_prefix" | "end_of_word_suffix" => {
                self.longest_affix = self.longest_affix.max(value.longest);
            }
            "vocab" => {
                self.longest_token = self.longest_token.max(value.longest);
                self.is_unigram |= value.is_list;
            }
            _ => {}
        }
        self.extent.add(value);
    }
}

/// Counts the nodes in the tree of the pieces of a `Unigram` model, which has one for each different beginning of a piece, in bytes.
pub(super) fn count_nodes(file: &[u8]) -> Result<usize, String> {
    let file: UnigramFile<'_> = serde_json::from_slice(file).map_err(|error| error.to_string())?;
    let mut pieces: Vec<Cow<'_, str>> = file.model.vocab.into_iter().map(|piece| piece.0).collect();
    pieces.sort_unstable();
    let mut nodes = 0;
    let mut before = "";
    for piece in &pieces {
        let same = piece.bytes().zip(before.bytes()).take_while(|(a, b)| a == b).count();
        nodes += piece.len() - same;
        before = piece;
    }
    Ok(nodes)
}

#[derive(Deserialize)]
struct UnigramFile<'a> {
    #[serde(borrow)]
    model: Unigram<'a>,
}

#[derive(Deserialize)]
struct Unigram<'a> {
    #[serde(borrow)]
    vocab: Vec<Piece<'a>>,
}

/// A piece with its score.
#[derive(Deserialize)]
struct Piece<'a>(#[serde(borrow)] Cow<'a, str>, IgnoredAny);

/// Fails if the longest of some tokens has more than `limit` bytes.
fn check_token(longest: usize, limit: usize) -> Result<(), String> {
    if longest > limit {
        return Err(format!("a token has {longest} bytes, and at most {limit} are supported"));
    }
    Ok(())
}

/// Fails if an added token is too long.
pub(super) fn check_added_tokens(tokens: Extent) -> Result<(), String> {
    check_token(tokens.longest, MAX_TOKEN_BYTES)
}

impl<'de> Deserialize<'de> for Model {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ModelVisitor)
    }
}

struct ModelVisitor;

impl<'de> Visitor<'de> for ModelVisitor {
    type Value = Model;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a model")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Model, A::Error> {
        let mut model = Model::default();
        while let Some(name) = entries.next_key::<String>()? {
            model.set(&name, entries.next_value()?);
        }
        Ok(model)
    }
}
