//! Turns a GGUF file into a folder in the Hugging Face layout, which is then imported like any other.
//!
//! Configuration, tokenizer and chat template come from the metadata. Whatever has no counterpart is refused by name.

mod merges;
mod special;
mod splits;
mod templates;
mod tokenizer;
mod tokens;
mod weights;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use gguf::{Architecture, Factors, Header, Metadata};
use outputs::GgufImport;
use serde_json::Value;

use crate::error::Error;
use crate::found::Found;
use crate::space::Space;
use crate::wheel::Wheel;
use crate::{layout, model};

/// Form in which the weights of a GGUF file are stored after import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocks {
    /// Formats that MLX represents exactly stay packed; others become floats.
    Pack,
    /// All become floats.
    Dequantize,
}

/// Returns the GGUF file that `path` names: the file itself, or the only one in a folder without safetensors weights.
///
/// # Errors
///
/// Fails when a folder has several GGUF files and no other weights.
pub fn find(path: &Path) -> Result<Option<PathBuf>, Error> {
    let option = |name: &str| format!("--model-dir {}", dataset::quoted(&path.join(name)));
    find_among(path, &path.display().to_string(), &option)
}

/// As [`find`], for the member of a wheel at `path`.
pub(crate) fn find_in_wheel(wheel: &Wheel, path: &Path) -> Result<Option<PathBuf>, Error> {
    let option = |name: &str| format!("member = {:?}", format!("{}/{name}", wheel.member));
    find_among(path, &wheel.place(), &option)
}

/// As [`find`]. In messages, the folder is `place`, and `option` returns the setting that selects a file.
fn find_among(path: &Path, place: &str, option: &dyn Fn(&str) -> String) -> Result<Option<PathBuf>, Error> {
    if path.is_file() {
        return Ok((is_named_gguf(path) || starts_as_gguf(path)?).then(|| path.to_owned()));
    }
    if !path.is_dir() {
        return Ok(None);
    }
    let mut found = Vec::new();
    for entry in fs_err::read_dir(path)? {
        let entry = entry?.path();
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if layout::is_weights(&name) || name == tensors::INDEX {
            return Ok(None);
        }
        // `mmproj` files are the vision part of another file.
        if is_named_gguf(&entry) && !name.starts_with('.') && !name.starts_with("mmproj") && entry.is_file() {
            found.push(name);
        }
    }
    found.sort();
    match &found[..] {
        [] => Ok(None),
        [file] => Ok(Some(path.join(file))),
        several => Err(refuse_several(several, place, option)),
    }
}

/// Returns the error for a folder with several GGUF files, which may be the parts of one model.
fn refuse_several(names: &[String], place: &str, option: &dyn Fn(&str) -> String) -> Error {
    let shown: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    let shown = layout::shorten(&shown);
    let (reason, hint) = if let Some(whole) = names.iter().find(|name| part_of(name).is_none()) {
        (format!("there are several GGUF files: {shown}"), format!("name one of them: `{}`", option(whole)))
    } else {
        let merged = part_of(&names[0]).map_or(String::new(), |model| format!("{model}.gguf"));
        let [first, merged] = [&names[0], &merged].map(|name| dataset::quoted(Path::new(name)));
        (
            format!("the GGUF files are parts of a model: {shown}"),
            format!("merge the parts, and use the merged file: `llama-gguf-split --merge {first} {merged}`"),
        )
    };
    Error::Layout { place: place.to_owned(), reason, hint }
}

/// Returns the name of the model of which a file is a part, as in `model-00001-of-00003.gguf`.
fn part_of(name: &str) -> Option<&str> {
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let (rest, count) = Path::new(name).file_stem()?.to_str()?.rsplit_once("-of-")?;
    let (model, index) = rest.rsplit_once('-')?;
    (is_number(index) && is_number(count)).then_some(model)
}

fn is_named_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

fn starts_as_gguf(path: &Path) -> Result<bool, Error> {
    let mut start = Vec::new();
    ::files::open(path)?.take(4).read_to_end(&mut start)?;
    Ok(start == *b"GGUF")
}

/// Checks everything in the file `path` but the values of its weights.
///
/// # Errors
///
/// Fails when the file is damaged, and when its architecture, its tokenizer or a tensor's storage is not supported.
pub fn check(path: &Path) -> Result<(), Error> {
    let in_file = |reason| Error::Gguf { path: path.into(), reason };
    let header = read_header(path)?;
    let architecture = Architecture::new(&header).map_err(in_file)?;
    tokenizer::convert(&Metadata::new(header.metadata()), architecture.vocabulary()).map_err(in_file)?;
    let source = weights::Source::open(path, &header)?;
    let factors = Factors::new(|name| source.floats(name))?;
    architecture.config(factors).map_err(in_file)?;
    for tensor in header.tensors() {
        architecture.translate(&tensor.name).map_err(in_file)?;
    }
    Ok(())
}

fn read_header(path: &Path) -> Result<Header, Error> {
    if tensors::file_is_lfs_pointer(path) {
        return Err(models::Error::LfsPointer { path: path.into() }.into());
    }
    Header::read(path).map_err(|reason| Error::Gguf { path: path.into(), reason })
}

/// Converts the GGUF file `path` into a model folder `out`, which is emptied first, and returns what is in it.
///
/// # Errors
///
/// As [`check`], when the weights do not fit, and when the folder cannot be written.
pub fn convert(path: &Path, blocks: Blocks, out: &Path, space: &Space<'_>) -> Result<Found, Error> {
    if out.exists() {
        fs_err::remove_dir_all(out)?;
    }
    let (record, license) = write_folder(path, blocks, out, space)?;
    let originals = BTreeMap::from([(record.file.clone(), path.to_owned())]);
    Ok(Found {
        place: path.display().to_string(),
        downloads: Some(out.to_owned()),
        gguf: Some(record),
        originals: Some(originals),
        license,
        ..model::find_in_folder(out)?
    })
}

/// Writes the model in the GGUF file `path` into the folder `out`. Returns what its tensors became, and its licence.
fn write_folder(
    path: &Path,
    blocks: Blocks,
    out: &Path,
    space: &Space<'_>,
) -> Result<(GgufImport, Option<String>), Error> {
    let in_file = |reason| Error::Gguf { path: path.into(), reason };
    let header = read_header(path)?;
    let metadata = Metadata::new(header.metadata());
    let architecture = Architecture::new(&header).map_err(in_file)?;
    let tokenizer = tokenizer::convert(&metadata, architecture.vocabulary()).map_err(in_file)?;
    let source = weights::Source::open(path, &header)?;
    let factors = Factors::new(|name| source.floats(name))?;
    let mut config = architecture.config(factors).map_err(in_file)?;
    config.extend(tokenizer.special_ids.clone());
    fs_err::create_dir_all(out)?;
    write_json(&out.join("tokenizer.json"), &tokenizer.tokenizer)?;
    write_json(&out.join("tokenizer_config.json"), &tokenizer.settings)?;
    let weights = weights::write(&source, &architecture, blocks, out, space)?;
    config.extend(weights.quantization);
    write_json(&out.join("config.json"), &Value::Object(config))?;
    write_json(&out.join("generation_config.json"), &Value::Object(tokenizer.special_ids))?;
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let license = metadata.text("general.license").map_err(in_file)?.map(str::to_lowercase);
    Ok((GgufImport { file, ..weights.record }, license.filter(|name| models::is_license(name))))
}

fn write_json(path: &Path, value: &Value) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value).expect("names and numbers are always JSON");
    Ok(fs_err::write(path, text + "\n")?)
}
