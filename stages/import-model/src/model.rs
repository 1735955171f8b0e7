//! From the files of a source to the outputs `model/`, `tokenizer/` and `import.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use models::{Conversion, Quantize};
use outputs::{Document as _, Import, ImportSource, Quantization};
use serde_json::Value;
use tensors::INDEX;

use crate::error::{Error, GET_AGAIN};
use crate::files::{copy, read_json, too_large};
use crate::found::Found;
use crate::layout;
use crate::{parts, tokenizer, weights};

/// Finds the model in a local folder. Links to files are followed, as the hub's snapshots consist of links.
///
/// # Errors
///
/// Fails when the folder has no model in the Hugging Face layout, and names the missing file.
pub fn find_in_folder(folder: &Path) -> Result<Found, Error> {
    let place = folder.display().to_string();
    if !folder.is_dir() {
        let reason = if folder.exists() { "this is not a folder" } else { "no such folder" };
        let hint = "give the folder with `config.json`, `tokenizer.json` and `model*.safetensors`";
        return Err(Error::Layout { place, reason: reason.into(), hint: hint.into() });
    }
    let mut dropped = BTreeMap::new();
    let mut names = BTreeSet::new();
    for entry in fs_err::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue; // the hash of a folder does not include hidden files either
        }
        if entry.path().is_dir() {
            let inside = kept_inside(&entry.path(), &name)?;
            // Nor does it include folders without a file.
            if inside.is_empty() && has_files(&entry.path())? {
                dropped.insert(format!("{name}/"), "a sub-folder");
            }
            names.extend(inside);
        } else {
            names.insert(name);
        }
    }
    refuse_pointers(folder, &names)?;
    let kept = select(&place, &names, |name| folder.join(name)).map_err(|error| {
        match (error, model_below(folder)) {
            (Error::Layout { place, reason, .. }, Some(inside))
                if !names.iter().any(|name| layout::is_weights(name)) =>
            {
                Error::Layout {
                    place,
                    reason,
                    hint: format!("a folder in it has a model: give `{}`", inside.display()),
                }
            }
            (error, _) => error,
        }
    })?;
    dropped.extend(names.difference(&kept).map(|name| (name.clone(), layout::why_dropped(name))));
    let files = kept.into_iter().map(|name| (name.clone(), folder.join(name))).collect();
    let license = models::card_license(folder);
    Ok(Found { place, files, dropped, license, ..Found::default() })
}

/// Returns a folder in `folder` that holds a model: trainers write one per checkpoint, and the hub's cache one per commit, in
/// `snapshots/`.
fn model_below(folder: &Path) -> Option<PathBuf> {
    let holds_model = |path: &Path| {
        let files = fs_err::read_dir(path).into_iter().flatten().flatten();
        let mut names = files.map(|file| file.file_name().to_string_lossy().into_owned());
        path.join("config.json").is_file() && names.any(|name| layout::is_weights(&name))
    };
    let commit = stage::last_folder_in(&folder.join("snapshots"), holds_model);
    commit.or_else(|| stage::last_folder_in(folder, holds_model))
}

/// Returns the files in the sub-folder `folder`, called `name`, that belong to a model.
pub(crate) fn kept_inside(folder: &Path, name: &str) -> Result<BTreeSet<String>, Error> {
    let mut kept = BTreeSet::new();
    for entry in fs_err::read_dir(folder)? {
        let entry = entry?;
        let inside = format!("{name}/{}", entry.file_name().to_string_lossy());
        if layout::is_kept(&inside) && entry.path().is_file() {
            kept.insert(inside);
        }
    }
    Ok(kept)
}

/// Returns whether there is a file below `folder` that counts in its hash.
fn has_files(folder: &Path) -> Result<bool, Error> {
    for entry in fs_err::read_dir(folder)? {
        let entry = entry?;
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if !is_hidden && (!entry.file_type()?.is_dir() || has_files(&entry.path())?) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Fails if a file of the model is a Git LFS pointer, and names all of them.
fn refuse_pointers(folder: &Path, names: &BTreeSet<String>) -> Result<(), Error> {
    let is_pointer =
        |name: &&String| layout::is_kept(name) && tensors::file_is_lfs_pointer(&folder.join(name));
    let pointers: Vec<String> = names.iter().filter(is_pointer).map(|name| format!("`{name}`")).collect();
    if pointers.is_empty() {
        return Ok(());
    }
    let (first, files) = (names.first().map(String::as_str).unwrap_or_default(), pointers.join(", "));
    Err(Error::Layout {
        place: folder.display().to_string(),
        reason: format!("each of these files is {}: {files}", tensors::LFS_POINTER),
        hint: tensors::lfs_hint(&folder.join(first)),
    })
}

/// Returns which of `names` make up the model; `path` returns the path of the index, if there is one.
pub(crate) fn select(
    place: &str,
    names: &BTreeSet<String>,
    path: impl Fn(&str) -> PathBuf,
) -> Result<BTreeSet<String>, Error> {
    layout::check_no_adapter(place, names, || {
        let config = names.contains("adapter_config.json").then(|| path("adapter_config.json"));
        config.and_then(|path| read_json(&path).ok()).unwrap_or_default()
    })?;
    if names.contains(INDEX) {
        check_no_pointer(&path(INDEX))?;
    }
    let index = names.contains(INDEX).then(|| weights::read_index(&path(INDEX))).transpose()?;
    let weights = layout::weights(place, names, index.as_ref())?;
    layout::check_required(place, names)?;
    let is_stale = index.is_some_and(|index| layout::is_stale(&index, &weights));
    if is_stale {
        tracing::warn!("`{INDEX}` names shards that are not there; using the {} weight files", weights.len());
    }
    let beside = names.iter().filter(|name| layout::is_beside_weights(name));
    let beside = beside.filter(|name| !(is_stale && *name == INDEX));
    let beside = beside.filter(|name| !layout::is_foreign_chat(name, &path(name))).cloned();
    let kept: BTreeSet<String> = beside.chain(weights).collect();
    check_sizes(kept.iter().filter(|name| !layout::is_weights(name)).map(|name| (name, path(name))))?;
    Ok(kept)
}

/// Checks, before they are hashed, that the files beside the weights are no longer than the stages can read.
fn check_sizes<'a>(files: impl Iterator<Item = (&'a String, PathBuf)>) -> Result<(), Error> {
    for (name, path) in files {
        let (bytes, limit) = (fs_err::metadata(&path)?.len(), layout::max_bytes(name));
        if bytes > limit {
            return Err(Error::Json { path, reason: too_large(bytes, limit), hint: GET_AGAIN });
        }
    }
    Ok(())
}

/// Checks that `config.json` is valid and that its model is supported.
///
/// # Errors
///
/// Fails on an unsupported model type and on a quantization that MLX does not read.
pub fn check_config(path: &Path) -> Result<(), Error> {
    let config: Value = read_json(path)?;
    let unusable = |reason, hint| Error::Json { path: path.into(), reason, hint };
    let Some(model_type) = config["model_type"].as_str() else {
        return Err(unusable(
            "`model_type` is missing".into(),
            "give the folder of a model; this is another `config.json`",
        ));
    };
    if models::supported_encoders().contains(&model_type) {
        return Ok(()); // checked with its weights and its pooling
    }
    if !models::supported_model_types().contains(&model_type) {
        return Err(Error::ModelType { path: path.into(), model_type: model_type.into() });
    }
    Ok(models::check_config(path)?)
}

/// Returns whether a `config.json` describes a sentence encoder.
fn is_encoder(path: &Path) -> Result<bool, Error> {
    let config: Value = read_json(path)?;
    Ok(config["model_type"].as_str().is_some_and(|kind| models::supported_encoders().contains(&kind)))
}

/// Checks that the weights are not quantized for another library.
///
/// Settings of other libraries are only a leftover where all weights are plain floats; `is_plain` says so, if it is known.
///
/// # Errors
///
/// Fails on a quantization that MLX does not read.
pub(crate) fn check_quantization(path: &Path, is_plain: bool) -> Result<(), Error> {
    let config: Value = read_json(path)?;
    let table = &config["quantization_config"];
    let is_ours = table.get("bits").is_some() && table.get("mode").is_some();
    match table["quant_method"].as_str() {
        Some(method) if !is_ours && !is_plain => Err(Error::Json {
            path: path.into(),
            reason: format!("the weights are quantized with `{method}`, which MLX does not support"),
            hint: "use the original model, or one quantized for MLX, such as those of `mlx-community`",
        }),
        _ => Ok(()),
    }
}

/// Fails when a file is a Git LFS pointer instead of the file itself.
fn check_no_pointer(path: &Path) -> Result<(), Error> {
    if tensors::file_is_lfs_pointer(path) {
        Err(models::Error::LfsPointer { path: path.into() }.into())
    } else {
        Ok(())
    }
}

/// Checks the whole model before the first byte is copied, and opens its tokenizer.
///
/// # Errors
///
/// Fails at the first file that is missing, damaged, malformed or not supported.
pub fn check(found: &Found) -> Result<tokenizers::Tokenizer, Error> {
    found.files.values().try_for_each(|path| check_no_pointer(path))?;
    for (name, path) in &found.files {
        let (reason, hint) = if !fs_err::metadata(path)?.is_file() {
            ("this is not a regular file", "a model consists of regular files or links to them")
        } else if !layout::can_be_kept(name) {
            ("an artifact cannot contain a file of this name", "use letters, digits, `.`, `_` and `-`")
        } else {
            continue;
        };
        let place = path.display().to_string();
        return Err(Error::Layout { place, reason: reason.into(), hint: hint.into() });
    }
    let paths = found.paths();
    check_config(&found.files["config.json"])?;
    for name in found.files.keys().filter(|name| layout::is_small_json(name)) {
        let path = &found.files[name];
        if layout::is_table(name) {
            read_json::<serde_json::Map<String, Value>>(path)?;
        } else {
            read_json::<serde::de::IgnoredAny>(path)?;
        }
    }
    let shards = paths.iter().filter(|(name, _)| name.ends_with(".safetensors"));
    let shards = shards.map(|(name, path)| (name.clone(), *path)).collect();
    weights::check_all(&shards, paths.get(INDEX).copied())?;
    check_quantization(&found.files["config.json"], weights::are_plain(shards.values().copied())?)?;
    for (_, path) in paths.iter().filter(|(name, _)| layout::is_weights(name)) {
        weights::check_values(path)?;
    }
    let tokenizer = tokenizer::open(&found.files["tokenizer.json"])?;
    parts::check_added_tokens(&found.files, &tokenizer)?;
    check_templates(found)?;
    Ok(tokenizer)
}

/// Files that hold chat templates, besides those in a folder for further ones.
const TEMPLATES: [&str; 3] = ["chat_template.jinja", "chat_template.json", "tokenizer_config.json"];

/// Checks that the chat templates of a model parse, wherever each of its files is: some may be in the cache, others downloaded.
fn check_templates(found: &Found) -> Result<(), Error> {
    let refused = |source| Error::Template { place: found.place.clone(), source };
    let is_template = |name: &str| TEMPLATES.contains(&name) || layout::is_additional_template(name);
    let files: BTreeMap<&String, &PathBuf> =
        found.files.iter().filter(|(name, _)| is_template(name)).collect();
    let folder = found.files["tokenizer.json"].parent().unwrap_or(Path::new(""));
    let is_one_folder = files.iter().all(|(name, path)| **path == folder.join(name));
    let has_others =
        TEMPLATES.iter().any(|name| !found.files.contains_key(*name) && folder.join(name).exists());
    if is_one_folder && !has_others {
        return dataset::check_templates(folder).map_err(refused);
    }
    let gathered = tempfile::tempdir()?;
    for (name, path) in files {
        let to = gathered.path().join(name);
        fs_err::create_dir_all(to.parent().unwrap_or(gathered.path()))?;
        fs_err::os::unix::fs::symlink(fs_err::canonicalize(path)?, to)?;
    }
    dataset::check_templates(gathered.path()).map_err(refused)
}

/// Checks `found`, converts its weights if asked to, and writes `model/`, `tokenizer/` and `import.json` into `out`.
///
/// # Errors
///
/// As [`check`]; nothing is written before all checks have passed.
pub fn write(
    found: &Found,
    source: ImportSource,
    conversion: Option<&Conversion>,
    out: &Path,
) -> Result<(), Error> {
    let tokenizer = check(found)?;
    let is_encoder = is_encoder(&found.files["config.json"])?;
    if is_encoder && conversion.is_some() {
        return Err(Error::Settings {
            reason: "the weights of a sentence encoder are imported as they are".into(),
            hint: "leave out `quantize` and `dequantize`".into(),
        });
    }
    if !is_encoder {
        parts::check(found, &tokenizer, conversion.is_some())?;
    }
    let model = out.join(outputs::MODEL);
    fs_err::create_dir_all(&model)?;
    for parent in found.files.keys().filter_map(|name| Path::new(name).parent()) {
        fs_err::create_dir_all(model.join(parent))?;
    }
    if let Some(conversion) = conversion {
        write_converted(found, conversion, &model)?;
    }
    for (name, path) in &found.files {
        if conversion.is_some() && layout::is_converted(name) {
            continue;
        }
        match &found.downloads {
            // Linked, not moved, so that a run that fails later still has it.
            Some(folder) if path.starts_with(folder) => artifact::hand_over_file(path, &model.join(name))?,
            _ => copy(path, &model.join(name))?,
        }
    }
    if conversion.is_none() {
        parts::complete(found, &model)?;
    }
    if is_encoder {
        parts::check_encoder(found, &tokenizer, &model)?;
    }
    let written: BTreeMap<String, PathBuf> =
        found.files.keys().map(|name| (name.clone(), model.join(name))).collect();
    let written = Found { files: written, ..Found::default() };
    tokenizer::write(&written.paths(), &tokenizer, &out.join(outputs::TOKENIZER))?;
    record(found, source, conversion).write(out)?;
    Ok(())
}

/// Writes the converted weights and `config.json` into `model`, and checks the new values.
fn write_converted(found: &Found, conversion: &Conversion, model: &Path) -> Result<(), Error> {
    let shards = found.files.iter().filter(|(name, _)| name.ends_with(".safetensors"));
    let shards: Vec<&Path> = shards.map(|(_, path)| path.as_path()).collect();
    models::convert(&found.files["config.json"], &shards, conversion, model)?;
    models::weight_files(model)?.iter().try_for_each(|written| weights::check_values(written))
}

fn record(found: &Found, source: ImportSource, conversion: Option<&Conversion>) -> Import {
    for (name, reason) in &found.dropped {
        tracing::debug!("left out `{name}`: {reason}");
    }
    Import {
        source,
        license: found.license.clone(),
        kept: found.files.keys().cloned().collect(),
        quantized: match conversion {
            Some(Conversion::Quantize(Quantize { bits, group_size, mode })) => {
                Some(Quantization { bits: *bits, group_size: *group_size, mode: mode.clone() })
            }
            _ => None,
        },
        dequantized: conversion == Some(&Conversion::Dequantize),
        gguf: found.gguf.clone(),
        dropped: found.dropped.iter().map(|(name, &reason)| (name.clone(), reason.to_owned())).collect(),
    }
}
