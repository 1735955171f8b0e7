//! The parts of a model against each other: configuration, weights and tokenizer.
//!
//! Whatever a later stage would refuse is refused here, before data is prepared for the model.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use models::{LoadOptions, Model, canonical_name};
use serde_json::Value;
use tensors::{INDEX, TensorHeader, TensorInfo, write_index};
use tokenizers::Tokenizer;

use crate::error::Error;
use crate::files::read_json;
use crate::found::Found;
use crate::{layout, weights};

/// Bytes that are compared at a time.
const CHUNK: usize = 1 << 20;

/// Checks configuration, weights and tokenizer against each other. MLX is initialized here unless it `is_ready`.
///
/// # Errors
///
/// Names every tensor that is missing, unknown or misshapen, and tokens without an embedding.
pub(crate) fn check(found: &Found, tokenizer: &Tokenizer, is_ready: bool) -> Result<(), Error> {
    let config_path = &found.files["config.json"];
    let config: Value = read_json(config_path)?;
    check_tied_head(config_path, &config, &weight_paths(found))?;
    if !is_ready && mlx_ext::init(&mlx_ext::Options::default()).is_err() {
        tracing::warn!("the weights are not compared with `config.json`: this machine lacks the device");
        return Ok(());
    }
    let outline = Model::outline_of(config_path, &weight_paths(found), &LoadOptions::default())?;
    let rows = outline.vocabulary() as u32;
    check_boundaries(found, rows)?;
    check_vocabulary(found, &config, tokenizer, rows)
}

/// Checks the folder of a sentence encoder: settings, pooling, tensors and tokenizer.
///
/// # Errors
///
/// Names every tensor that is missing, unknown or misshapen, settings that are not supported, and tokens without an embedding.
pub(crate) fn check_encoder(found: &Found, tokenizer: &Tokenizer, folder: &Path) -> Result<(), Error> {
    if mlx_ext::init(&mlx_ext::Options::default()).is_err() {
        tracing::warn!("the weights are not compared with `config.json`: this machine lacks the device");
        return Ok(());
    }
    let rows = models::Encoder::check(folder)?;
    let config: Value = read_json(&found.files["config.json"])?;
    check_vocabulary(found, &config, tokenizer, rows)
}

/// Checks that `tokenizer.json` has every token that `tokenizer_config.json` and `added_tokens.json` name.
///
/// transformers adds such tokens when it loads the folder; other programs would take them apart.
///
/// # Errors
///
/// Names the first token that `tokenizer.json` lacks or has under another number.
pub(crate) fn check_added_tokens(
    files: &BTreeMap<String, PathBuf>,
    tokenizer: &Tokenizer,
) -> Result<(), Error> {
    let read = |name: &str| files.get(name).map_or(Ok(Value::Null), |path| read_json(path));
    let mut tokens: Vec<(&str, Option<u64>, String)> = Vec::new();
    if let Value::Object(table) = read("added_tokens.json")? {
        let listed =
            table.into_iter().filter_map(|(text, id)| Some(("added_tokens.json", Some(id.as_u64()?), text)));
        tokens.extend(listed);
    }
    let config = read("tokenizer_config.json")?;
    if let Some(Value::Object(table)) = config.get("added_tokens_decoder") {
        let listed = table.iter().filter_map(|(id, token)| {
            Some(("tokenizer_config.json", Some(id.parse().ok()?), token["content"].as_str()?.to_owned()))
        });
        tokens.extend(listed);
    }
    for (file, table) in
        [("tokenizer_config.json", config), ("special_tokens_map.json", read("special_tokens_map.json")?)]
    {
        tokens.extend(named_tokens(&table).map(|text| (file, None, text)));
    }
    for (file, id, text) in tokens {
        let known = tokenizer.token_to_id(&text).map(u64::from);
        let reason = match (known, id) {
            (Some(known), Some(id)) if known != id => {
                format!("the token `{text}` has the number {id} in `{file}`, but {known} in `tokenizer.json`")
            }
            (Some(_), _) => continue,
            (None, Some(id)) => {
                format!("`{file}` has the token `{text}` (number {id}), which `tokenizer.json` lacks")
            }
            (None, None) => {
                format!("`{file}` names the special token `{text}`, which `tokenizer.json` lacks")
            }
        };
        return Err(Error::Layout {
            place: files["tokenizer.json"].display().to_string(),
            reason,
            hint: "write the files anew: `AutoTokenizer.from_pretrained(folder).save_pretrained(folder)` in transformers"
                .to_owned(),
        });
    }
    Ok(())
}

/// Returns the further special tokens that a configuration of a tokenizer names, as lists or by their roles.
fn named_tokens(config: &Value) -> impl Iterator<Item = String> {
    let text = |token: &Value| token.as_str().or_else(|| token["content"].as_str()).map(str::to_owned);
    ["additional_special_tokens", "extra_special_tokens"].into_iter().flat_map(move |name| {
        let texts: Vec<String> = match &config[name] {
            Value::Array(list) => list.iter().filter_map(text).collect(),
            Value::Object(table) => table.values().filter_map(text).collect(),
            _ => Vec::new(),
        };
        texts
    })
}

/// Checks the numbers of the tokens that begin and end a text.
///
/// # Errors
///
/// Fails on anything but numbers, which would be passed over; a number that is no token of the model is only told.
fn check_boundaries(found: &Found, rows: u32) -> Result<(), Error> {
    for (file, path) in &found.files {
        if !["config.json", "generation_config.json"].contains(&file.as_str()) {
            continue;
        }
        let config: Value = read_json(path)?;
        for (table, key) in [&config, &config["text_config"]]
            .into_iter()
            .flat_map(|table| ["bos_token_id", "eos_token_id"].map(|key| (table, key)))
        {
            let value = &table[key];
            let ids = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
            let mut outside = Vec::new();
            for id in ids.iter().filter(|id| !id.is_null()) {
                let Some(number) = id.as_i64() else {
                    return Err(Error::Json {
                        path: path.clone(),
                        reason: format!("`{key}` is `{value}`, expected a number or a list of numbers"),
                        hint: "write the number that `tokenizer.json` gives the token, or remove the key",
                    });
                };
                if !(0..i64::from(rows)).contains(&number) {
                    outside.push(number.to_string());
                }
            }
            if !outside.is_empty() {
                tracing::warn!(
                    "`{key}` in `{file}` is {}, but the model's tokens are 0 to {}: no text has it",
                    layout::shorten(&outside),
                    rows.saturating_sub(1)
                );
            }
        }
    }
    Ok(())
}

/// Checks that every token has an embedding. Tokens that only pad, or that stand for images or sound, may lack one: no
/// text contains them.
fn check_vocabulary(found: &Found, config: &Value, tokenizer: &Tokenizer, rows: u32) -> Result<(), Error> {
    let pad = ["pad_token_id"].into_iter().find_map(|name| config[name].as_u64());
    let mut without: Vec<(u32, String)> = tokenizer
        .get_vocab(true)
        .into_iter()
        .filter(|(_, id)| *id >= rows)
        .map(|(text, id)| (id, text))
        .collect();
    without.sort_unstable();
    let is_unused = |(id, text): &&(u32, String)| {
        let text = text.to_lowercase();
        let is_medium = ["image", "img", "audio", "video", "vision"].iter().any(|word| text.contains(word));
        // transformers adds this one to every tokenizer of Qwen that is saved; training refuses such ids.
        let is_default = text == "<|endoftext|>";
        is_default
            || is_medium
            || Some(u64::from(*id)) == pad
            || text.trim_matches(['<', '>', '[', ']', '|']) == "pad"
    };
    if without.is_empty() {
        return Ok(());
    }
    let shown: Vec<String> = without.iter().take(5).map(|(id, text)| format!("`{text}` ({id})")).collect();
    let count = without.len();
    let problem = format!(
        "{count} tokens of `tokenizer.json` have no embedding, as the model has {rows}: {}{}",
        shown.join(", "),
        if count > shown.len() { " …" } else { "" }
    );
    if without.iter().all(|token| is_unused(&token)) {
        tracing::warn!("{problem}; a text that contains them cannot be read");
        return Ok(());
    }
    Err(Error::Layout {
        place: found.place.clone(),
        reason: problem,
        hint: "take tokenizer and weights from the same model, or add the rows in transformers: \
               `model.resize_token_embeddings(len(tokenizer))`, then `save_pretrained`"
            .to_owned(),
    })
}

/// A tensor in a file.
struct Stored<'a> {
    path: &'a Path,
    start: u64,
    info: TensorInfo,
}

/// Fails when the head is tied to the embedding by `config.json`, but is stored with other numbers.
fn check_tied_head(config_path: &Path, config: &Value, files: &[PathBuf]) -> Result<(), Error> {
    let ties = |table: &Value| table["tie_word_embeddings"].as_bool();
    let text = &config["text_config"];
    if ties(text).or(ties(config)) != Some(true) {
        return Ok(());
    }
    let mut stored: BTreeMap<String, Stored<'_>> = BTreeMap::new();
    for path in files {
        let header = TensorHeader::read(path).map_err(models_error(path))?;
        let start = header.data_start();
        for (name, info) in header.into_tensors() {
            stored.insert(canonical_name(&name), Stored { path, start, info });
        }
    }
    for prefix in ["", "language_model."] {
        let find = |name: &str| stored.get(&format!("{prefix}{name}"));
        if let (Some(head), Some(embedding)) = (find("lm_head.weight"), find("model.embed_tokens.weight"))
            && !head.equals(embedding)?
        {
            return Err(Error::Json {
                path: config_path.into(),
                reason: "`tie_word_embeddings` is true, but the weights have a head with other numbers than the embedding"
                    .to_owned(),
                hint: "set `tie_word_embeddings` to false if the head was trained on its own, or remove `lm_head.weight`",
            });
        }
    }
    Ok(())
}

impl Stored<'_> {
    /// Returns whether two tensors have the same type, shape and bytes.
    fn equals(&self, other: &Self) -> Result<bool, Error> {
        if self.info.dtype != other.info.dtype || self.info.shape != other.info.shape {
            return Ok(false);
        }
        let (mut left, mut right) = (self.reader()?, other.reader()?);
        let mut rest = self.info.data_offsets.1 - self.info.data_offsets.0;
        let (mut of_left, mut of_right) = (vec![0; CHUNK], vec![0; CHUNK]);
        while rest > 0 {
            let bytes = rest.min(CHUNK);
            left.read_exact(&mut of_left[..bytes])?;
            right.read_exact(&mut of_right[..bytes])?;
            if of_left[..bytes] != of_right[..bytes] {
                return Ok(false);
            }
            rest -= bytes;
        }
        Ok(true)
    }

    fn reader(&self) -> Result<fs_err::File, Error> {
        let mut file = ::files::open(self.path)?;
        file.seek(SeekFrom::Start(self.start + self.info.data_offsets.0 as u64))?;
        Ok(file)
    }
}

fn models_error(path: &Path) -> impl Fn(tensors::Error) -> Error + '_ {
    move |error| Error::Weights { path: path.into(), reason: error.to_string() }
}

/// Returns the weight files of a model.
fn weight_paths(found: &Found) -> Vec<PathBuf> {
    found.files.iter().filter(|(name, _)| layout::is_weights(name)).map(|(_, path)| path.clone()).collect()
}

/// Completes a copied model in `folder` so that every program reads it alike: removes quantization settings that are a
/// leftover, and writes the index of shards that have none.
///
/// # Errors
///
/// Fails when a file cannot be read or written.
pub(crate) fn complete(found: &Found, folder: &Path) -> Result<(), Error> {
    let paths = weight_paths(found);
    if weights::are_plain(paths.iter().map(PathBuf::as_path))? {
        remove_leftover(&folder.join("config.json"))?;
    }
    if paths.len() < 2 || found.files.contains_key(INDEX) {
        return Ok(());
    }
    let mut homes: BTreeMap<String, String> = BTreeMap::new();
    let mut bytes = 0;
    for (name, path) in found.files.iter().filter(|(name, _)| layout::is_weights(name)) {
        for (tensor, info) in TensorHeader::read(path).map_err(models_error(path))?.into_tensors() {
            bytes += info.data_offsets.1 - info.data_offsets.0;
            homes.insert(tensor, name.clone());
        }
    }
    let map = homes.iter().map(|(tensor, file)| (tensor.as_str(), file.as_str())).collect();
    Ok(write_index(folder, map, bytes)?)
}

/// Removes quantization settings from the `config.json` of a model whose weights are plain floats.
fn remove_leftover(path: &Path) -> Result<(), Error> {
    let mut config: serde_json::Map<String, Value> = read_json(path)?;
    let mut removed = Vec::new();
    for name in ["quantization", "quantization_config"] {
        if config.get(name).is_some_and(|table| !table.is_null()) {
            config.remove(name);
            removed.push(format!("`{name}`"));
        }
    }
    if removed.is_empty() {
        return Ok(());
    }
    tracing::warn!("the weights are plain floats; left {} out of config.json", removed.join(" and "));
    let text = serde_json::to_string_pretty(&config).expect("JSON that was read can be written");
    // The copy can be a link to a download, which must not change.
    fs_err::remove_file(path)?;
    Ok(fs_err::write(path, text + "\n")?)
}
