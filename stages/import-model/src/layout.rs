//! Names of the files that belong to a model: an allow-list.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use outputs::{ChatSettings, Document as _};
use tensors::INDEX;

use crate::error::Error;

/// Files that are kept beside the weights if they are present.
pub const KEPT: [&str; 15] = [
    POOLING,
    "added_tokens.json",
    ChatSettings::FILE,
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "config_sentence_transformers.json",
    "generation_config.json",
    INDEX,
    "modules.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
];
/// Settings of an encoder's pooling, kept in its sub-folder.
pub const POOLING: &str = "1_Pooling/config.json";
/// Files of [`KEPT`] that every model must have.
pub const REQUIRED: [&str; 2] = ["config.json", "tokenizer.json"];

/// Folder of a model's chat templates for other purposes, such as tools.
const TEMPLATES: &str = "additional_chat_templates/";

/// Maximum number of files in [`TEMPLATES`].
const MAX_TEMPLATES: usize = 64;

const PICKLES: &[&str] = &[".bin", ".pt", ".pth", ".ckpt", ".pkl"];
/// Hint for a folder without a model.
const EXPECTED_LAYOUT: &str =
    "give a folder in the Hugging Face layout: `config.json`, `tokenizer.json` and `model*.safetensors`";

/// Returns whether the file is kept: listed in [`KEPT`], a chat template, or a weight file by its name.
pub fn is_kept(name: &str) -> bool {
    is_beside_weights(name) || is_weights(name)
}

/// Returns whether the file is kept beside the weights.
pub(crate) fn is_beside_weights(name: &str) -> bool {
    KEPT.contains(&name) || is_additional_template(name)
}

/// Returns the maximum size in bytes of a file beside the weights; the stages that read it whole refuse longer ones.
pub(crate) fn max_bytes(name: &str) -> u64 {
    match name {
        "tokenizer.json" | "tokenizer.model" => 256 << 20,
        INDEX => 24 << 20, // a few times larger than those of the largest published models
        "chat_template.jinja" => 4 << 20,
        _ if is_additional_template(name) => 4 << 20,
        _ => ::files::MAX_JSON_BYTES,
    }
}

/// Returns whether the file `name` at `path` has the name of the settings of chats that `fuse` writes, and is something else.
pub(crate) fn is_foreign_chat(name: &str, path: &Path) -> bool {
    name == ChatSettings::FILE && ChatSettings::read(path).is_err()
}

/// Returns whether the file is a chat template in the folder for further ones.
pub fn is_additional_template(name: &str) -> bool {
    let is_template = |file: &str| Path::new(file).extension().is_some_and(|ending| ending == "jinja");
    name.strip_prefix(TEMPLATES).is_some_and(|file| is_template(file) && is_plain_name(file))
}

/// Returns whether the name is that of a weight file (`model*.safetensors`, as in mlx-lm).
pub fn is_weights(name: &str) -> bool {
    name.starts_with("model") && name.ends_with(".safetensors") && is_plain_name(name)
}

/// Returns whether a conversion writes this file anew instead of copying it.
pub fn is_converted(name: &str) -> bool {
    is_weights(name) || name == INDEX || name == "config.json"
}

/// Returns whether the file is a kept JSON file that is only checked for being JSON.
pub(crate) fn is_small_json(name: &str) -> bool {
    KEPT.contains(&name) && name.ends_with("json") && name != INDEX && name != "tokenizer.json"
}

/// Returns whether the JSON of a kept file is a table; the others are lists.
pub(crate) fn is_table(name: &str) -> bool {
    name != "modules.json"
}

/// Returns whether a file of this name can be kept in an artifact.
pub fn can_be_kept(name: &str) -> bool {
    name == POOLING || is_additional_template(name) || is_plain_name(name)
}

/// Returns whether `name` is a file name, not a path, and allowed in an artifact.
pub fn is_plain_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphanumeric() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        && name.len() <= 128
        && !name.ends_with('.')
}

/// Returns the reason why a file is left out, as `import.json` records it.
pub fn why_dropped(name: &str) -> &'static str {
    let ends = |endings: &[&str]| endings.iter().any(|ending| name.to_ascii_lowercase().ends_with(ending));
    if name == INDEX {
        "names shards that are not there"
    } else if name.contains('/') {
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

/// Returns the weight files among `names`: those in the index if there is one, otherwise all `model*.safetensors`.
///
/// # Errors
///
/// Fails, naming `place`, when a shard is missing or when `names` contains no safetensors weights.
pub fn weights(
    place: &str,
    names: &BTreeSet<String>,
    index: Option<&BTreeMap<String, String>>,
) -> Result<BTreeSet<String>, Error> {
    let Some(index) = index else {
        let found: BTreeSet<String> = names.iter().filter(|name| is_weights(name)).cloned().collect();
        if found.is_empty() {
            return Err(no_weights(place, names));
        }
        check_numbering(place, &found)?;
        return Ok(found);
    };
    let shards: BTreeSet<String> = index.values().cloned().collect();
    if let Some(complete) = complete_without(&shards, names) {
        return Ok(complete);
    }
    let missing: Vec<_> = shards.difference(names).map(|name| format!("`{name}`")).collect();
    if missing.is_empty() {
        return Ok(shards);
    }
    Err(Error::Layout {
        place: place.into(),
        reason: format!(
            "{} of {} shards of `{INDEX}` are missing: {}",
            missing.len(),
            shards.len(),
            shorten(&missing)
        ),
        hint: "get the missing files from the source of the other files".into(),
    })
}

/// Returns the weight files of a folder whose index is stale: none of the listed `shards` is there, but other files are,
/// and no number is missing among them.
fn complete_without(shards: &BTreeSet<String>, names: &BTreeSet<String>) -> Option<BTreeSet<String>> {
    let found: BTreeSet<String> = names.iter().filter(|name| is_weights(name)).cloned().collect();
    let is_stale = !found.is_empty() && found.is_disjoint(shards);
    (is_stale && check_numbering("", &found).is_ok()).then_some(found)
}

/// Returns whether an index lists none of the weight files `found`.
pub(crate) fn is_stale(index: &BTreeMap<String, String>, found: &BTreeSet<String>) -> bool {
    !index.values().any(|shard| found.contains(shard))
}

/// Returns the error for a folder that holds an adapter instead of a model; `config` is its `adapter_config.json`.
fn is_adapter(place: &str, config: &serde_json::Value) -> Error {
    let base = models::adapter_base(config);
    let (of, hint) = match &base {
        Some(base) => (
            format!(" of the base model `{base}`"),
            format!("import the base model `{base}`, and pass this folder to other stages with `--adapters`"),
        ),
        None => (
            String::new(),
            "import the adapter's base model, and pass this folder to other stages with `--adapters`"
                .to_owned(),
        ),
    };
    Error::Layout { place: place.into(), reason: format!("this is an adapter{of}, not a model"), hint }
}

/// Fails when `names` are the files of an adapter without a model; `config` reads its `adapter_config.json`.
///
/// # Errors
///
/// Names the base model of the adapter, if it is known.
pub(crate) fn check_no_adapter(
    place: &str,
    names: &BTreeSet<String>,
    config: impl FnOnce() -> serde_json::Value,
) -> Result<(), Error> {
    let has_adapter = ["adapter_config.json", "adapter_model.safetensors", "adapters.safetensors"]
        .iter()
        .any(|name| names.contains(*name));
    let has_model = names.iter().any(|name| is_weights(name)) || names.contains(INDEX);
    if has_adapter && !has_model { Err(is_adapter(place, &config())) } else { Ok(()) }
}

/// Returns the error for a folder without safetensors weights.
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
                shorten(&pickles)
            ),
            "use a repository or revision with safetensors, or convert the model on a machine where you trust it: \
             `model.save_pretrained(folder, safe_serialization=True)` in transformers",
        )
    } else if !ggufs.is_empty() {
        (
            format!("no safetensors weights, only GGUF: {}", shorten(&ggufs)),
            "download one of these files and import it with `--model-dir FILE.gguf`, or use the repository that they were \
             made from",
        )
    } else {
        (
            "no weights: expected `model.safetensors`, or shards and `model.safetensors.index.json`".into(),
            EXPECTED_LAYOUT,
        )
    };
    Error::Layout { place: place.into(), reason, hint: hint.into() }
}

/// Finds gaps in numbered shards (`model-00001-of-00003.safetensors`) that have no index.
fn check_numbering(place: &str, found: &BTreeSet<String>) -> Result<(), Error> {
    for name in found {
        let Some(numbering) = Numbering::parse(name) else { continue };
        let have = found.iter().filter(|name| numbering.matches(name)).count();
        if have < numbering.total {
            let Numbering { before, after, total } = numbering;
            return Err(Error::Layout {
                place: place.into(),
                reason: format!("only {have} of {total} shards `{before}…{after}` are present"),
                hint: "get the missing files and `model.safetensors.index.json` from the source of the other files"
                    .into(),
            });
        }
    }
    Ok(())
}

/// The name of a numbered shard without its number.
struct Numbering<'a> {
    before: &'a str,
    after: &'a str,
    total: usize,
}

impl<'a> Numbering<'a> {
    fn parse(name: &'a str) -> Option<Self> {
        let (head, total) = name.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
        let (stem, number) = head.rsplit_once('-')?;
        number.parse::<usize>().ok()?;
        Some(Self { before: &name[..=stem.len()], after: &name[head.len()..], total: total.parse().ok()? })
    }

    fn matches(&self, name: &str) -> bool {
        name.starts_with(self.before) && name.ends_with(self.after)
    }
}

/// Joins names; after the fifth, gives only their number.
pub(crate) fn shorten(names: &[String]) -> String {
    match names.len() {
        0..=5 => names.join(", "),
        count => format!("{} and {} more", names[..5].join(", "), count - 5),
    }
}

/// Fails when `names` lacks a file that every model needs, and on more chat templates than any model has.
///
/// # Errors
///
/// Names the first missing file, or the number of templates.
pub fn check_required(place: &str, names: &BTreeSet<String>) -> Result<(), Error> {
    let templates = names.iter().filter(|name| is_additional_template(name)).count();
    if templates > MAX_TEMPLATES {
        return Err(Error::Layout {
            place: place.into(),
            reason: format!("`{TEMPLATES}` has {templates} files; up to {MAX_TEMPLATES} are supported"),
            hint: "use another source, or a copy without those files".into(),
        });
    }
    let Some(missing) = REQUIRED.iter().find(|name| !names.contains(**name)) else { return Ok(()) };
    let hint = if *missing == "tokenizer.json" && names.contains("tokenizer.model") {
        "make a fast tokenizer from `tokenizer.model`: \
         `AutoTokenizer.from_pretrained(folder).save_pretrained(folder)` in transformers"
    } else {
        EXPECTED_LAYOUT
    };
    Err(Error::Layout { place: place.into(), reason: format!("`{missing}` is missing"), hint: hint.into() })
}
