//! Converts `tokenizer.json` to GGUF's arrays of tokens, kinds, scores and merges.

mod added;
mod boundaries;
mod pieces;
mod split;
mod templates;

use std::path::Path;

use failure::{Error, Result};
use gguf::kind;
use serde_json::Value;

use super::header::{Datum, Metadata};
use super::{WITHOUT_GGUF, missing, unsupported};
use crate::gguf::tokenizer::boundaries::Boundaries;
use crate::json::read_json;

/// Character that represents a space in the tokens of `SentencePiece`.
const MARK: &str = "▁";

/// The tokens of a model by id.
struct Tokens {
    texts: Vec<String>,
    kinds: Vec<i64>,
}

impl Tokens {
    /// Returns the text of a token, empty for an id without a row.
    fn text(&self, id: u32) -> &str {
        self.texts.get(id as usize).map_or("", String::as_str)
    }

    /// Returns a list of tokens for a message.
    fn names(&self, ids: &[u32]) -> String {
        ids.iter().map(|&id| format!("`{}`", self.text(id))).collect::<Vec<_>>().join(", ")
    }

    /// Returns the ids that have a row.
    fn known(&self, mut ids: Vec<u32>) -> Vec<u32> {
        ids.retain(|&id| (id as usize) < self.texts.len());
        ids
    }
}

/// Returns the metadata of the tokenizer; the embedding has `rows` rows.
pub(super) fn metadata(folder: &Path, config: &Value, rows: usize) -> Result<Metadata> {
    let tokenizer = read_json(&folder.join("tokenizer.json"))?;
    let is_pieces = tokenizer["model"]["byte_fallback"] == true;
    check(&tokenizer, is_pieces)?;
    let merges = merges(&tokenizer["model"])?;
    let tokens = tokens(&tokenizer, is_pieces, rows)?;
    let mut all = Metadata::new();
    let mut push = |key: &str, value: Datum| all.push((format!("tokenizer.ggml.{key}"), value));
    if is_pieces {
        push("model", "llama".into());
        push("pre", "default".into());
        push("scores", Datum::Floats(pieces::scores(&tokens, &merges)?));
        push("add_space_prefix", Datum::Bool(pieces::has_prefix_space(&tokenizer)));
    } else {
        push("model", "gpt2".into());
        push("pre", split::name(&tokenizer)?.into());
        push("merges", Datum::Texts(merges.iter().map(|(a, b)| format!("{a} {b}")).collect()));
    }
    drop((tokenizer, merges));
    for (key, value) in special(folder, config, &tokens)? {
        push(key, value);
    }
    push("tokens", Datum::Texts(tokens.texts));
    push("token_type", Datum::Ints(tokens.kinds.into_iter().map(|kind| kind as i32).collect()));
    all.extend(templates::metadata(folder)?);
    Ok(all)
}

/// Fails on a tokenizer that llama.cpp does not support.
fn check(tokenizer: &Value, is_pieces: bool) -> Result<()> {
    let model = &tokenizer["model"];
    if model["type"] != "BPE" {
        let kind = model["type"].as_str().unwrap_or("?");
        return Err(unsupported(&format!("a tokenizer of type `{kind}`"), "only `BPE` is supported"));
    }
    let is_set = |key: &&str| model[key].as_str().is_some_and(|text| !text.is_empty());
    if let Some(key) = ["continuing_subword_prefix", "end_of_word_suffix"].iter().find(|key| is_set(key)) {
        return Err(unsupported(&format!("a tokenizer with `{key}`"), WITHOUT_GGUF));
    }
    check_normalizer(&tokenizer["normalizer"], is_pieces)?;
    added::check(tokenizer, is_pieces)?;
    if !is_pieces {
        return Ok(());
    }
    if model["ignore_merges"] == true {
        return Err(unsupported("a tokenizer with byte fallback and `ignore_merges`", WITHOUT_GGUF));
    }
    pieces::check_splitting(tokenizer)
}

/// Returns the steps of a normalizer or pre-tokenizer, which is one step or lists them under `key`.
fn steps<'a>(value: &'a Value, key: &str) -> Vec<&'a Value> {
    match &value[key] {
        Value::Array(steps) => steps.iter().collect(),
        _ if value.is_null() => Vec::new(),
        _ => vec![value],
    }
}

/// Returns whether a step of a normalizer replaces spaces by marks.
fn marks_spaces(step: &Value) -> bool {
    step["type"] == "Replace" && step["pattern"]["String"] == " " && step["content"] == MARK
}

/// Fails on normalizers that llama.cpp does not have. Marks for spaces are supported, and NFC, because the data of this
/// pipeline can be normalized already.
fn check_normalizer(normalizer: &Value, is_pieces: bool) -> Result<()> {
    let is_known = |step: &Value| match step["type"].as_str() {
        Some("NFC") => true,
        Some("Prepend") => is_pieces && step["prepend"] == MARK,
        _ => is_pieces && marks_spaces(step),
    };
    let steps = steps(normalizer, "normalizers");
    let Some(step) = steps.iter().find(|step| !is_known(step)) else { return Ok(()) };
    let kind = step["type"].as_str().unwrap_or("?");
    Err(unsupported(
        &format!("a tokenizer with the normalizer `{kind}`"),
        "supported normalizers are NFC and those that mark spaces",
    ))
}

fn merges(model: &Value) -> Result<Vec<(String, String)>> {
    let pair = |merge: &Value| match merge {
        Value::String(text) => text.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())),
        Value::Array(pair) => Some((pair.first()?.as_str()?.to_owned(), pair.get(1)?.as_str()?.to_owned())),
        _ => None,
    };
    let merges = model["merges"].as_array().ok_or_else(|| missing("tokenizer.json", "model.merges"))?;
    let malformed = || Error::bad_input("`tokenizer.json` has a merge that is not a pair");
    merges.iter().map(|merge| pair(merge).ok_or_else(malformed)).collect()
}

/// Returns the texts and kinds of all tokens, by id. Ids without a token are marked as unused.
fn tokens(tokenizer: &Value, is_pieces: bool, rows: usize) -> Result<Tokens> {
    let mut texts: Vec<String> = (0..rows).map(|id| format!("[PAD{id}]")).collect();
    let mut kinds = vec![kind::UNUSED; rows];
    let unknown = tokenizer["model"]["unk_token"].as_str();
    let mut put = |id: Option<u64>, text: &str, kind: i64| -> Result<()> {
        let id = id.ok_or_else(|| Error::bad_input("`tokenizer.json` has a token without an id"))? as usize;
        if id >= rows {
            let last = rows.saturating_sub(1);
            let message =
                format!("`tokenizer.json` has a token with id {id}, but the model's ids end at {last}");
            return Err(Error::bad_input(message));
        }
        text.clone_into(&mut texts[id]);
        let is_byte = is_pieces && text.len() == 6 && text.starts_with("<0x") && text.ends_with('>');
        kinds[id] = match kind {
            _ if is_byte => kind::BYTE,
            _ if is_pieces && Some(text) == unknown => kind::UNKNOWN,
            kind => kind,
        };
        Ok(())
    };
    let vocabulary = tokenizer["model"]["vocab"].as_object();
    for (text, id) in vocabulary.ok_or_else(|| missing("tokenizer.json", "model.vocab"))? {
        put(id.as_u64(), text, kind::NORMAL)?;
    }
    for added in tokenizer["added_tokens"].as_array().into_iter().flatten() {
        let kind = if added["special"] == true { kind::CONTROL } else { kind::USER_DEFINED };
        put(added["id"].as_u64(), added["content"].as_str().unwrap_or_default(), kind)?;
    }
    Ok(Tokens { texts, kinds })
}

/// Returns the metadata of the special tokens. Whether they are added to texts is determined by `tokenizer.json`, not by
/// `tokenizer_config.json`.
fn special(folder: &Path, config: &Value, tokens: &Tokens) -> Result<Vec<(&'static str, Datum)>> {
    let boundaries = Boundaries::read(folder)?;
    let added = boundaries.added(tokens)?;
    let ids = |name: &str| tokens.known(configured(folder, config, name));
    let or_configured =
        |found: Vec<u32>, name: &str| if found.is_empty() { ids(name) } else { tokens.known(found) };
    let begin = or_configured(boundaries.begin.or(added).into_iter().collect(), "bos_token_id");
    let mut keys = Vec::new();
    keys.extend(begin.first().map(|&id| ("bos_token_id", id)));
    keys.extend(boundaries::end_keys(&or_configured(boundaries.ends, "eos_token_id"), tokens)?);
    keys.extend(ids("pad_token_id").first().map(|&id| ("padding_token_id", id)));
    let mut all: Vec<_> = keys.into_iter().map(|(key, id)| (key, u64::from(id).into())).collect();
    all.push(("add_bos_token", Datum::Bool(added.is_some())));
    all.push(("add_eos_token", Datum::Bool(false)));
    Ok(all)
}

/// Returns the ids under `name` in `generation_config.json`, or else in `config.json`.
fn configured(folder: &Path, config: &Value, name: &str) -> Vec<u32> {
    let generation = read_json(&folder.join("generation_config.json")).unwrap_or(Value::Null);
    let tables = [&generation, config, &config["text_config"]];
    let value = tables.into_iter().find_map(|table| table.get(name).filter(|it| !it.is_null()));
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Some(Value::Array(ids)) => ids.iter().filter_map(id).collect(),
        value => value.and_then(id).into_iter().collect(),
    }
}
