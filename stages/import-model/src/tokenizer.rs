//! The output `tokenizer/`: the tokenizer's files, and `ids.json` with the ids of the special tokens.
//!
//! All end-of-text tokens that a model names are kept, the tokenizer's own token first: chat models often name one token
//! in `config.json` and another in `generation_config.json`, and generation must stop at either.

use std::collections::BTreeMap;
use std::path::Path;

use outputs::{ChatSettings, Document as _};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokenizers::Tokenizer;

use crate::error::Error;
use crate::files::{copy, read_json, too_large};
use crate::layout;

/// Files of the model folder that are copied to `tokenizer/`.
pub const FILES: [&str; 7] = [
    "added_tokens.json",
    ChatSettings::FILE,
    "chat_template.jinja",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

const MAX_BYTES: u64 = 256 << 20;

/// Ids of a model's special tokens, in `ids.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ids {
    /// Begin of a text.
    pub bos: Option<u32>,
    /// Ends of a text, the tokenizer's own token first.
    pub eos: Vec<u32>,
    /// Padding of short rows.
    pub pad: Option<u32>,
}

/// Opens `tokenizer.json` with the crate `tokenizers`.
///
/// # Errors
///
/// Fails with that crate's message, which names line and column of invalid JSON.
pub fn open(path: &Path) -> Result<Tokenizer, Error> {
    let unusable = |reason| Error::Json {
        path: path.into(),
        reason,
        hint: "the file is damaged, or its format is newer than this program; download or copy it again",
    };
    let bytes = fs_err::metadata(path)?.len();
    if bytes > MAX_BYTES {
        return Err(unusable(too_large(bytes, MAX_BYTES)));
    }
    dataset::open_tokenizer(&::files::read(path, MAX_BYTES)?)
        .map_err(|error| unusable(format!("not a usable tokenizer: {error}")))
}

/// Finds the special tokens in `tokenizer_config.json`, `generation_config.json` and `config.json`.
///
/// # Errors
///
/// Fails when one of the files is not valid JSON.
pub fn ids(files: &BTreeMap<String, &Path>, tokenizer: &Tokenizer) -> Result<Ids, Error> {
    let read = |name: &str| files.get(name).map_or(Ok(Value::Null), |path| read_json::<Value>(path));
    let own = match read("tokenizer_config.json")? {
        Value::Null => read("special_tokens_map.json")?,
        config => config,
    };
    let generation = read("generation_config.json")?;
    let config = read("config.json")?;
    let numbers = |key: &str| -> Vec<u32> {
        let places = [&generation[key], &config[key], &config["text_config"][key]];
        places.into_iter().flat_map(as_ids).collect()
    };
    // A key with the value null means "no such token"; only if the key is missing do the other files decide.
    let one = |role: &str| match own.get(format!("{role}_token")) {
        Some(value) => named(tokenizer, role, value),
        None => numbers(&format!("{role}_token_id")).first().copied(),
    };
    let mut eos: Vec<u32> = Vec::new();
    let own_eos = own.get("eos_token").and_then(|value| named(tokenizer, "eos", value));
    for id in own_eos.into_iter().chain(numbers("eos_token_id")) {
        if !eos.contains(&id) {
            eos.push(id);
        }
    }
    let is_encoder =
        config["model_type"].as_str().is_some_and(|kind| models::supported_encoders().contains(&kind));
    if eos.is_empty() && !is_encoder {
        tracing::warn!("the model names no end-of-text token; generation will stop only at its length limit");
    }
    let pad = one("pad").or_else(|| numbers("pad_token_id").first().copied());
    Ok(Ids { bos: one("bos"), eos, pad })
}

/// Returns whether a file of the model is copied to the output `tokenizer/`.
pub(crate) fn is_part(name: &str) -> bool {
    FILES.contains(&name) || layout::is_additional_template(name)
}

/// Writes the output folder `out` from the files of a model.
///
/// # Errors
///
/// As [`ids`], and when files cannot be written.
pub fn write(files: &BTreeMap<String, &Path>, tokenizer: &Tokenizer, out: &Path) -> Result<(), Error> {
    fs_err::create_dir_all(out)?;
    for (name, path) in files {
        if is_part(name) {
            let target = out.join(name);
            fs_err::create_dir_all(target.parent().unwrap_or(out))?;
            copy(path, &target)?;
        }
    }
    let config_path = out.join("tokenizer_config.json");
    if !config_path.exists() {
        fs_err::write(&config_path, "{}\n")?;
    }
    // Some repositories keep the template in a file that only image processors read.
    if let (Some(path), false) = (files.get("chat_template.json"), out.join("chat_template.jinja").exists()) {
        let has_own = read_json::<Value>(&config_path)?.get("chat_template").is_some_and(|it| !it.is_null());
        let template: Value = read_json(path)?;
        if let (false, Some(text)) = (has_own, template["chat_template"].as_str()) {
            fs_err::write(out.join("chat_template.jinja"), text)?;
        }
    }
    let ids = serde_json::to_string(&ids(files, tokenizer)?).expect("numbers are always JSON");
    fs_err::write(out.join("ids.json"), ids + "\n")?;
    Ok(())
}

/// Returns one id or a list of ids.
fn as_ids(value: &Value) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    value
        .as_array()
        .map_or_else(|| id(value).into_iter().collect(), |list| list.iter().filter_map(id).collect())
}

/// Returns the id of a token that is given by its text, or by an object with the text in `content`.
fn named(tokenizer: &Tokenizer, role: &str, value: &Value) -> Option<u32> {
    let text = value.as_str().or_else(|| value["content"].as_str())?;
    let id = tokenizer.token_to_id(text);
    if id.is_none() {
        tracing::warn!("ignoring `{role}_token`: `tokenizer.json` has no token `{text}`");
    }
    id
}
