//! Converts `tokenizer.json` to GGUF's arrays of tokens, kinds, scores and merges.

use std::collections::BTreeMap;
use std::path::Path;

use failure::{Error, Result};
use serde_json::Value;

use super::header::{Datum, Metadata};
use super::{missing, unsupported};
use crate::json::read_json;

/// Character that represents a space in the tokens of `SentencePiece`.
const MARK: &str = "▁";

/// Kinds of tokens, with their numbers in llama.cpp.
mod kind {
    pub(super) const NORMAL: i32 = 1;
    pub(super) const UNKNOWN: i32 = 2;
    pub(super) const CONTROL: i32 = 3;
    pub(super) const USER_DEFINED: i32 = 4;
    pub(super) const UNUSED: i32 = 5;
    pub(super) const BYTE: i32 = 6;
}

/// Regular expressions that split texts before merging, with their names in llama.cpp.
const SPLITS: [(&str, &str); 2] = [
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "llama-bpe",
    ),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "qwen2",
    ),
];

/// Returns the metadata of the tokenizer; the embedding has `rows` rows.
pub(super) fn metadata(folder: &Path, config: &Value, rows: usize) -> Result<Metadata> {
    let tokenizer = read_json(&folder.join("tokenizer.json"))?;
    let settings = read_json(&folder.join("tokenizer_config.json")).unwrap_or(Value::Null);
    let model = &tokenizer["model"];
    if model["type"] != "BPE" {
        let kind = model["type"].as_str().unwrap_or("?");
        return Err(unsupported(&format!("a tokenizer of type `{kind}`"), "only `BPE` is supported"));
    }
    let is_pieces = model["byte_fallback"] == true;
    check_normalizer(&tokenizer["normalizer"], is_pieces)?;
    let merges = merges(model)?;
    let (tokens, kinds) = tokens(&tokenizer, is_pieces, rows)?;
    let mut all = Metadata::new();
    let mut push = |key: &str, value: Datum| all.push((format!("tokenizer.ggml.{key}"), value));
    if is_pieces {
        push("model", "llama".into());
        push("pre", "default".into());
        push("scores", Datum::Floats(scores(&tokens, &merges)));
        push("add_space_prefix", Datum::Bool(has_prefix_space(&tokenizer)));
    } else {
        push("model", "gpt2".into());
        push("pre", split_name(&tokenizer["pre_tokenizer"])?.into());
        push("merges", Datum::Texts(merges.iter().map(|(a, b)| format!("{a} {b}")).collect()));
    }
    push("tokens", Datum::Texts(tokens));
    push("token_type", Datum::Ints(kinds));
    for (key, id) in special(folder, config) {
        push(key, id.into());
    }
    push("add_bos_token", Datum::Bool(adds_bos(&tokenizer, &settings)));
    push("add_eos_token", Datum::Bool(settings["add_eos_token"] == true));
    let template = files::read_text(&folder.join("chat_template.jinja"), files::MAX_JSON_BYTES).ok();
    let template = template.or_else(|| settings["chat_template"].as_str().map(str::to_owned));
    all.extend(template.map(|text| ("tokenizer.chat_template".to_owned(), Datum::Text(text))));
    Ok(all)
}

/// Fails on normalizers that llama.cpp does not have. Marks for spaces are supported, and NFC, because the data of this
/// pipeline can be normalized already.
fn check_normalizer(normalizer: &Value, is_pieces: bool) -> Result<()> {
    let steps = match &normalizer["normalizers"] {
        Value::Array(steps) => steps.clone(),
        _ if normalizer.is_null() => Vec::new(),
        _ => vec![normalizer.clone()],
    };
    let is_known = |step: &Value| match step["type"].as_str() {
        Some("NFC") => true,
        Some("Prepend") => is_pieces && step["prepend"] == MARK,
        Some("Replace") => is_pieces && step["pattern"]["String"] == " " && step["content"] == MARK,
        _ => false,
    };
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
fn tokens(tokenizer: &Value, is_pieces: bool, rows: usize) -> Result<(Vec<String>, Vec<i32>)> {
    let mut tokens: Vec<String> = (0..rows).map(|id| format!("[PAD{id}]")).collect();
    let mut kinds = vec![kind::UNUSED; rows];
    let unknown = tokenizer["model"]["unk_token"].as_str();
    let mut put = |id: Option<u64>, text: &str, kind: i32| -> Result<()> {
        let id = id.ok_or_else(|| Error::bad_input("`tokenizer.json` has a token without an id"))? as usize;
        if id >= rows {
            let last = rows.saturating_sub(1);
            let message =
                format!("`tokenizer.json` has a token with id {id}, but the model's ids end at {last}");
            return Err(Error::bad_input(message));
        }
        text.clone_into(&mut tokens[id]);
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
    Ok((tokens, kinds))
}

/// Returns the scores that decide which pieces are merged first: the earlier a merge is listed, the higher.
fn scores(tokens: &[String], merges: &[(String, String)]) -> Vec<f32> {
    let mut ranks = BTreeMap::new();
    for (rank, (a, b)) in merges.iter().enumerate() {
        ranks.entry(format!("{a}{b}")).or_insert(rank);
    }
    tokens.iter().map(|token| ranks.get(token).map_or(-1e9, |&rank| -(rank as f32) - 1.0)).collect()
}

fn has_prefix_space(tokenizer: &Value) -> bool {
    let text = tokenizer["normalizer"].to_string() + &tokenizer["pre_tokenizer"].to_string();
    text.contains("\"Prepend\"")
        || text.contains("\"prepend_scheme\":\"first\"")
        || text.contains("\"prepend_scheme\":\"always\"")
}

/// Returns llama.cpp's name for the way in which a tokenizer splits words.
fn split_name(pre_tokenizer: &Value) -> Result<&'static str> {
    let steps = match &pre_tokenizer["pretokenizers"] {
        Value::Array(steps) => steps.clone(),
        _ => vec![pre_tokenizer.clone()],
    };
    let kinds: Vec<&str> = steps.iter().filter_map(|step| step["type"].as_str()).collect();
    let name = match kinds[..] {
        ["ByteLevel"] if steps[0]["use_regex"] != false => Some("gpt-2"),
        ["Digits", "ByteLevel"] if steps[0]["individual_digits"] == true => Some("smollm"),
        ["Split", "ByteLevel"] => {
            let pattern = steps[0]["pattern"]["Regex"].as_str().unwrap_or_default();
            SPLITS.into_iter().find(|(known, _)| pattern == *known).map(|(_, name)| name)
        }
        _ => None,
    };
    let hint = "supported are the tokenizers of GPT-2, Llama 3, Qwen 2 and SmolLM";
    name.ok_or_else(|| unsupported("a tokenizer that splits words in its own way", hint))
}

/// Returns the ids of the special tokens, from `generation_config.json` or `config.json`.
fn special(folder: &Path, config: &Value) -> Vec<(&'static str, u64)> {
    let generation = read_json(&folder.join("generation_config.json")).unwrap_or(Value::Null);
    let text = &config["text_config"];
    let ids = |name: &str| -> Vec<u64> {
        let value = [&generation, config, text]
            .into_iter()
            .find_map(|table| table.get(name).filter(|it| !it.is_null()));
        match value {
            Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_u64).collect(),
            Some(id) => id.as_u64().into_iter().collect(),
            None => Vec::new(),
        }
    };
    let mut all = Vec::new();
    all.extend(ids("bos_token_id").first().map(|&id| ("bos_token_id", id)));
    let ends = ids("eos_token_id");
    all.extend(ends.first().map(|&id| ("eos_token_id", id)));
    all.extend(ends.get(1).map(|&id| ("eot_token_id", id)));
    all.extend(ids("pad_token_id").first().map(|&id| ("padding_token_id", id)));
    all
}

/// Returns whether encoding a text adds the begin-of-text token.
fn adds_bos(tokenizer: &Value, settings: &Value) -> bool {
    let adds = |step: &Value| step["single"][0].get("SpecialToken").is_some();
    let processor = &tokenizer["post_processor"];
    let inner = processor["processors"].as_array().is_some_and(|steps| steps.iter().any(adds));
    settings["add_bos_token"].as_bool().unwrap_or(adds(processor) || inner)
}
