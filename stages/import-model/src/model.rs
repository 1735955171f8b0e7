//! From a set of checked source files to the outputs `model/` and `tokenizer/`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::error::Error;
use crate::files::{copy, link, read_json, sha256_of};
use crate::weights::{self, INDEX};
use crate::{Conversion, Quantize, convert, layout, tokens};

/// The files of a model, wherever they are: in a user's folder, in the hub's cache or freshly downloaded.
#[derive(Debug, Default)]
pub struct Found {
    /// For messages: the folder or the hub id.
    pub place: String,
    /// File name → where it is.
    pub files: BTreeMap<String, PathBuf>,
    /// The folder that downloads went to: files in it are ours, and are linked rather than copied.
    pub ours: Option<PathBuf>,
    /// What was left out, and why. Empty for a hub import, where it depends on what was looked at.
    pub dropped: BTreeMap<String, &'static str>,
    /// The licence, if it is known.
    pub license: Option<String>,
}

/// What `import.json` records; the hashes are in `SHA256SUMS`.
#[derive(Serialize)]
struct Record<'a> {
    source: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    license: Option<&'a str>,
    kept: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quantized: Option<&'a Quantize>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dequantized: bool,
    dropped: &'a BTreeMap<String, &'static str>,
}

/// Finds the model in a local folder; links to files are followed, as in the hub's snapshots.
///
/// # Errors
///
/// Fails when the folder holds no model in the Hugging Face layout, and says which file is missing.
pub fn find_in_folder(folder: &Path) -> Result<Found, Error> {
    let place = folder.display().to_string();
    if !folder.is_dir() {
        let reason = if folder.exists() { "not a folder" } else { "no such folder" };
        let hint = "give the folder that holds `config.json`, `tokenizer.json` and `model*.safetensors`";
        return Err(Error::Layout { place, reason: reason.into(), hint: hint.into() });
    }
    let mut dropped = BTreeMap::new();
    let mut names = BTreeSet::new();
    for entry in fs_err::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue; // what is hidden is not part of a folder, neither here nor in its hash
        }
        if entry.path().is_dir() {
            dropped.insert(format!("{name}/"), "a sub-folder");
        } else {
            names.insert(name);
        }
    }
    let kept = select(&place, &names, |name| folder.join(name))?;
    dropped.extend(names.difference(&kept).map(|name| (name.clone(), layout::why_dropped(name))));
    let files = kept.into_iter().map(|name| (name.clone(), folder.join(name))).collect();
    let license = models::card_license(folder);
    Ok(Found { place, files, ours: None, dropped, license })
}

/// Returns which of `names` make up the model; reads the index, if there is one, through `path`.
pub(crate) fn select(
    place: &str,
    names: &BTreeSet<String>,
    path: impl Fn(&str) -> PathBuf,
) -> Result<BTreeSet<String>, Error> {
    let index = names.contains(INDEX).then(|| weights::read_index(&path(INDEX))).transpose()?;
    let weights = layout::weights(place, names, index.as_ref())?;
    layout::check_required(place, names)?;
    let beside = names.iter().filter(|name| layout::KEPT.contains(&name.as_str())).cloned();
    Ok(beside.chain(weights).collect())
}

/// Checks `config.json`: that it parses, and that its model can be run here.
///
/// # Errors
///
/// Fails on a model type that no crate here knows, and on weights quantized in a way that MLX does not read.
pub fn check_config(path: &Path) -> Result<(), Error> {
    let config: Value = read_json(path, 16 << 20)?;
    let bad = |reason, hint| Error::Json { path: path.into(), reason, hint };
    let Some(model_type) = config["model_type"].as_str() else {
        return Err(bad("`model_type` is missing".into(), "this is not the `config.json` of a model"));
    };
    if !models::supported_model_types().contains(&model_type) {
        return Err(Error::ModelType { path: path.into(), model_type: model_type.into() });
    }
    match config["quantization_config"]["quant_method"].as_str() {
        Some(method) => Err(bad(
            format!("the weights are quantized with `{method}`, which MLX does not read"),
            "use the original model, or one quantized for MLX, such as those of `mlx-community`",
        )),
        None => Ok(()),
    }
}

/// Checks everything about the model before the first byte is copied.
///
/// # Errors
///
/// Fails at the first file that is missing, damaged, hostile or not supported.
pub fn check(found: &Found) -> Result<tokenizers::Tokenizer, Error> {
    for (name, path) in &found.files {
        let meta = fs_err::metadata(path)?;
        if !meta.is_file() {
            let hint = "a model consists of regular files, or links to them".into();
            return Err(Error::Layout {
                place: path.display().to_string(),
                reason: "not a regular file".into(),
                hint,
            });
        }
        if !layout::is_plain_name(name) {
            let reason = "an artifact cannot hold a file of this name".into();
            let hint = "use letters, digits, `.`, `_` and `-`".into();
            return Err(Error::Layout { place: path.display().to_string(), reason, hint });
        }
    }
    let paths = found.paths();
    check_config(&found.files["config.json"])?;
    for name in found.files.keys().filter(|name| layout::is_small_json(name)) {
        read_json::<serde::de::IgnoredAny>(&found.files[name], 256 << 20)?;
    }
    let shards = paths.iter().filter(|(name, _)| name.ends_with(".safetensors"));
    weights::check_all(
        &shards.map(|(name, path)| (name.clone(), *path)).collect(),
        paths.get(INDEX).copied(),
    )?;
    paths
        .iter()
        .filter(|(name, _)| layout::is_weights(name))
        .try_for_each(|it| weights::check_values(it.1))?;
    tokens::open(&found.files["tokenizer.json"])
}

/// Checks the files against pinned hashes: the same names, the same bytes.
///
/// # Errors
///
/// Names the first file that is missing or differs.
pub fn check_pins(found: &Found, pins: &BTreeMap<String, String>) -> Result<(), Error> {
    let hashes = found.files.iter().map(|(name, path)| Ok((name.clone(), sha256_of(path)?)));
    compare_pins(&found.place, &hashes.collect::<Result<_, Error>>()?, pins)
}

/// Compares the files of a model, name → SHA-256, with the pinned ones; `place` is for messages.
///
/// # Errors
///
/// Names the first file that is missing or differs.
pub fn compare_pins(
    place: &str,
    files: &BTreeMap<String, String>,
    pins: &BTreeMap<String, String>,
) -> Result<(), Error> {
    let bad = |reason| Error::Layout { place: place.into(), reason, hint: UNPIN.into() };
    for (name, expected) in pins {
        let actual = files
            .get(name)
            .ok_or_else(|| bad(format!("`{name}` is pinned in the settings but is not there")))?;
        if actual != expected {
            return Err(Error::Hash {
                place: format!("{place}/{name}"),
                expected: expected.clone(),
                actual: actual.clone(),
                promised_by: "pinned in the settings",
                hint: UNPIN.into(),
            });
        }
    }
    match files.keys().find(|name| !pins.contains_key(*name)) {
        Some(name) => Err(bad(format!("`{name}` is part of the model but is not pinned in the settings"))),
        None => Ok(()),
    }
}

/// What to do when a model is not the pinned one.
pub(crate) const UNPIN: &str = "if the change is wanted, remove `files` from the model's settings, import, and pin \
                                again with `--write-lock`";

/// Checks `found` and writes `model/`, `tokenizer/` and `import.json` into `out`; `conversion` says what is done to the
/// weights besides copying them.
///
/// # Errors
///
/// As [`check`]; nothing is written before all checks have passed.
pub fn write(
    found: &Found,
    source: &Value,
    conversion: Option<&Conversion>,
    out: &Path,
) -> Result<(), Error> {
    let tokenizer = check(found)?;
    let model = out.join("model");
    fs_err::create_dir_all(&model)?;
    let is_converted = |name: &str| layout::is_weights(name) || name == INDEX || name == "config.json";
    if let Some(conversion) = conversion {
        let shards: Vec<&Path> = found
            .paths()
            .into_iter()
            .filter(|(name, _)| name.ends_with(".safetensors"))
            .map(|it| it.1)
            .collect();
        convert::write(&found.files["config.json"], &shards, conversion, &model)?;
        for written in models::weight_files(&model)? {
            weights::check_values(&written)?;
        }
    }
    for (name, path) in &found.files {
        if conversion.is_some() && is_converted(name) {
            continue;
        }
        match &found.ours {
            Some(folder) if path.starts_with(folder) => link(path, &model.join(name))?,
            _ => copy(path, &model.join(name))?,
        }
    }
    let kept = found.files.keys().map(String::as_str).collect();
    for (name, why) in &found.dropped {
        tracing::debug!("left out `{name}`: {why}");
    }
    let written = Found {
        files: found.files.keys().map(|name| (name.clone(), model.join(name))).collect(),
        ..Found::default()
    };
    tokens::write(&written.paths(), &tokenizer, &out.join("tokenizer"))?;
    let quantized = match conversion {
        Some(Conversion::Quantize(settings)) => Some(settings),
        _ => None,
    };
    let dequantized = conversion == Some(&Conversion::Dequantize);
    let license = found.license.as_deref();
    let record = Record { source, license, kept, quantized, dequantized, dropped: &found.dropped };
    let text = serde_json::to_string_pretty(&record).expect("names and texts are always JSON");
    fs_err::write(out.join("import.json"), text + "\n")?;
    Ok(())
}

impl Found {
    fn paths(&self) -> BTreeMap<String, &Path> {
        self.files.iter().map(|(name, path)| (name.clone(), path.as_path())).collect()
    }
}
