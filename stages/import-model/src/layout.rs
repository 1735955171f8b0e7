//! Which files of a foreign folder belong to a model, by an allow-list.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Error;
use crate::weights::INDEX;

/// The files that are kept beside the weights, wherever they are present.
pub const KEPT: [&str; 10] = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    INDEX,
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
];
/// Those of them that a model cannot do without.
pub const REQUIRED: [&str; 2] = ["config.json", "tokenizer.json"];

/// Returns whether `name` is kept: listed, or a weight file by its name.
pub fn is_kept(name: &str) -> bool {
    KEPT.contains(&name) || is_weights(name)
}

/// Returns whether `name` is one of the kept JSON files that have no check of their own.
pub(crate) fn is_small_json(name: &str) -> bool {
    KEPT.contains(&name) && name.ends_with("json") && name != INDEX && name != "tokenizer.json"
}

/// Returns whether `name` looks like a weight file of a model (`model*.safetensors`, as mlx-lm has it).
pub fn is_weights(name: &str) -> bool {
    name.starts_with("model") && name.ends_with(".safetensors") && is_plain_name(name)
}

/// Returns whether `name` may stand in an artifact, and is a file name rather than a path.
pub fn is_plain_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphanumeric() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        && name.len() <= 128
        && !name.ends_with('.')
}

/// Says why a file that is not kept was left out.
pub fn why_dropped(name: &str) -> &'static str {
    let ends = |endings: &[&str]| endings.iter().any(|ending| name.to_ascii_lowercase().ends_with(ending));
    if name.contains('/') {
        "in a sub-folder"
    } else if ends(&[".safetensors"]) {
        "weights that are not part of the model"
    } else if ends(PICKLES) || ends(&[".gguf", ".h5", ".msgpack", ".onnx"]) {
        "weights in another format"
    } else if ends(&[".py"]) {
        "code"
    } else {
        "not part of a model"
    }
}

const PICKLES: &[&str] = &[".bin", ".pt", ".pth", ".ckpt", ".pkl"];

/// Returns the weight files among `names`: those of the index if there is one, else all `model*.safetensors`.
///
/// # Errors
///
/// Fails, with the place named `place`, when a shard is missing or when there are no safetensors weights at all.
pub fn weights(
    place: &str,
    names: &BTreeSet<String>,
    index: Option<&BTreeMap<String, String>>,
) -> Result<BTreeSet<String>, Error> {
    if let Some(index) = index {
        let shards: BTreeSet<String> = index.values().cloned().collect();
        let missing: Vec<_> = shards.difference(names).map(|name| format!("`{name}`")).collect();
        if missing.is_empty() {
            return Ok(shards);
        }
        return Err(Error::Layout {
            place: place.into(),
            reason: format!(
                "{} of {} shards of `{INDEX}` are missing: {}",
                missing.len(),
                shards.len(),
                list(&missing)
            ),
            hint: "get the missing files from where the others came from".into(),
        });
    }
    let found: BTreeSet<String> = names.iter().filter(|name| is_weights(name)).cloned().collect();
    if found.is_empty() {
        return Err(no_weights(place, names));
    }
    check_numbering(place, &found)?;
    Ok(found)
}

/// Explains a folder without safetensors weights.
fn no_weights(place: &str, names: &BTreeSet<String>) -> Error {
    let with = |endings: &[&str]| {
        let found = names.iter().filter(|name| endings.iter().any(|ending| name.ends_with(ending)));
        found.map(|name| format!("`{name}`")).collect::<Vec<_>>()
    };
    let (pickles, ggufs) = (with(PICKLES), with(&[".gguf"]));
    let (reason, hint) = if !pickles.is_empty() {
        (
            format!(
                "no safetensors weights, only pickle files, which can run code when they are read: {}",
                list(&pickles)
            ),
            "use a repository or revision with safetensors, or convert it once where you trust it: \
             `model.save_pretrained(folder, safe_serialization=True)` in transformers",
        )
    } else if !ggufs.is_empty() {
        (
            format!("no safetensors weights, only GGUF: {}", list(&ggufs)),
            "use the repository that the GGUF was made from; it has the weights as safetensors",
        )
    } else {
        (
            "no weights: expected `model.safetensors`, or shards and `model.safetensors.index.json`".into(),
            "give a folder in the Hugging Face layout: `config.json`, `tokenizer.json` and `model*.safetensors`",
        )
    };
    Error::Layout { place: place.into(), reason, hint: hint.into() }
}

/// Finds gaps in `model-00001-of-00003.safetensors` when there is no index to tell.
fn check_numbering(place: &str, found: &BTreeSet<String>) -> Result<(), Error> {
    let parts = |name: &str| -> Option<(String, usize)> {
        let (head, total) = name.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
        let (stem, number) = head.rsplit_once('-')?;
        number.parse::<usize>().ok()?;
        Some((format!("{stem}-{{}}-of-{total}"), total.parse().ok()?))
    };
    for (pattern, total) in found.iter().filter_map(|name| parts(name)) {
        let (before, after) = pattern.split_once("{}").expect("the pattern was made with it just above");
        let have = found.iter().filter(|name| name.starts_with(before) && name.contains(after)).count();
        if have < total {
            return Err(Error::Layout {
                place: place.into(),
                reason: format!("{have} of {total} shards `{before}…{after}.safetensors` are there"),
                hint: "get the missing files, and `model.safetensors.index.json`, from where the others came from".into(),
            });
        }
    }
    Ok(())
}

/// Joins a few names; more than five are counted.
pub(crate) fn list(names: &[String]) -> String {
    match names.len() {
        0..=5 => names.join(", "),
        more => format!("{} and {} more", names[..5].join(", "), more - 5),
    }
}

/// Fails when a file that every model needs is not among `names`.
///
/// # Errors
///
/// Names the first missing file.
pub fn check_required(place: &str, names: &BTreeSet<String>) -> Result<(), Error> {
    let Some(missing) = REQUIRED.iter().find(|name| !names.contains(**name)) else { return Ok(()) };
    let hint = if *missing == "tokenizer.json" && names.contains("tokenizer.model") {
        "make a fast tokenizer from `tokenizer.model`: `AutoTokenizer.from_pretrained(folder).save_pretrained(folder)` in transformers"
    } else {
        "give a folder in the Hugging Face layout: `config.json`, `tokenizer.json` and `model*.safetensors`"
    };
    Err(Error::Layout { place: place.into(), reason: format!("`{missing}` is missing"), hint: hint.into() })
}
