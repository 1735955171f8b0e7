//! The source as an input of the run, and what an earlier run recorded of it.

use std::path::Path;

use stage::{KeyedRun, Run};

use crate::config::{Config, Source};
use crate::error::Error;
use crate::pins::SourceFiles;
use crate::{gguf, layout, model, weights};

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
    for (_, path) in found.files.iter().filter(|(name, _)| layout::is_weights(name)) {
        weights::check_file(path)?; // refuses a damaged file before it is hashed
    }
    let input = run.input_folder("source", &folder)?;
    let is_kept = |file: &&artifact::File| found.files.contains_key(&file.path);
    let kept = input.manifest().files.iter().filter(is_kept);
    let hashes = kept.map(|file| (file.path.clone(), file.sha256.to_string())).collect();
    Ok(Some(SourceFiles::new(found.place, hashes)))
}

/// Opens a GGUF file as the input `source`; other files beside it are no part of the key.
fn open_gguf(run: &mut Run<Config>, file: &Path) -> failure::Result<SourceFiles> {
    gguf::check(file)?; // refuses a damaged file before it is hashed
    let input = run.input_folder("source", file)?;
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
