//! `tokenizer.json` as GGUF's arrays of tokens, kinds, scores and merges.

use super::{Datum, Metadata, read_json, unsupported};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// What stands for a space in pieces.
const MARK: &str = "▁";

/// Kinds of tokens, as llama.cpp counts them.
mod kind {
    pub(super) const NORMAL: i32 = 1;
    pub(super) const UNKNOWN: i32 = 2;
    pub(super) const CONTROL: i32 = 3;
    pub(super) const USER_DEFINED: i32 = 4;
    pub(super) const UNUSED: i32 = 5;
    pub(super) const BYTE: i32 = 6;
}

/// How texts are split before merging, where it is done by one expression, and llama.cpp's name for it.
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

/// Everything that GGUF says of the tokenizer; the embedding has `rows` rows.
pub(super) fn metadata(folder: &Path, config: &Value, rows: usize) -> Result<Metadata> {
    let tokenizer = read_json(&folder.join("tokenizer.json"))?;
    let settings = read_json(&folder.join("tokenizer_config.json")).unwrap_or(Value::Null);
    let model = &tokenizer["model"];
    if model["type"] != "BPE" {
        let kind = model["type"].as_str().unwrap_or("?");
        return Err(unsupported(&format!("a tokenizer of type `{kind}`"), "supported is `BPE`"));
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
    let template = fs_err::read_to_string(folder.join("chat_template.jinja")).ok();
    let template = template.or_else(|| settings["chat_template"].as_str().map(str::to_owned));
    all.extend(template.map(|text| ("tokenizer.chat_template".to_owned(), Datum::Text(text))));
    Ok(all)
}

/// Fails on changes to a text that llama.cpp does not make: beside marking spaces in pieces, only NFC, which our data
/// has been through.
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
        &format!("a tokenizer that changes texts by `{kind}`"),
        "supported are NFC and marks for spaces",
    ))
}

fn merges(model: &Value) -> Result<Vec<(String, String)>> {
    let pair = |merge: &Value| match merge {
        Value::String(text) => text.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())),
        Value::Array(pair) => Some((pair.first()?.as_str()?.to_owned(), pair.get(1)?.as_str()?.to_owned())),
        _ => None,
    };
    let merges = model["merges"].as_array().context("`tokenizer.json` has no `merges`")?;
    merges.iter().map(|merge| pair(merge).context("`tokenizer.json` has a merge that is no pair")).collect()
}

/// Texts and kinds of all tokens, by id; ids without a token are named as unused.
fn tokens(tokenizer: &Value, is_pieces: bool, rows: usize) -> Result<(Vec<String>, Vec<i32>)> {
    let mut tokens: Vec<String> = (0..rows).map(|id| format!("[PAD{id}]")).collect();
    let mut kinds = vec![kind::UNUSED; rows];
    let unknown = tokenizer["model"]["unk_token"].as_str();
    let mut put = |id: Option<u64>, text: &str, kind: i32| -> Result<()> {
        let id = id.context("`tokenizer.json` has a token without a number")? as usize;
        if id >= rows {
            bail!(
                "`tokenizer.json` has the token {id}, the model only knows 0 to {}",
                rows.saturating_sub(1)
            );
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
    for (text, id) in tokenizer["model"]["vocab"].as_object().context("`tokenizer.json` has no `vocab`")? {
        put(id.as_u64(), text, kind::NORMAL)?;
    }
    for added in tokenizer["added_tokens"].as_array().into_iter().flatten() {
        let kind = if added["special"] == true { kind::CONTROL } else { kind::USER_DEFINED };
        put(added["id"].as_u64(), added["content"].as_str().unwrap_or_default(), kind)?;
    }
    Ok((tokens, kinds))
}

/// Pieces are merged by the highest score: the earlier a merge stands, the higher.
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

/// llama.cpp's name for a way to split texts into words.
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
    let known = "supported are the ways of GPT-2, Llama 3, Qwen 2 and SmolLM";
    name.ok_or_else(|| unsupported("a tokenizer that splits words in another way", known))
}

/// The numbers of special tokens, from `generation_config.json` or `config.json`.
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

/// Whether encoding a text puts the first token before it.
fn adds_bos(tokenizer: &Value, settings: &Value) -> bool {
    let adds = |step: &Value| step["single"][0].get("SpecialToken").is_some();
    let processor = &tokenizer["post_processor"];
    let inner = processor["processors"].as_array().is_some_and(|steps| steps.iter().any(adds));
    settings["add_bos_token"].as_bool().unwrap_or(adds(processor) || inner)
}
