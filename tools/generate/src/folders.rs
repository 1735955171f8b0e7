//! Finds the model and the adapters: in an artifact, under a label in the store, or in a plain folder.

use std::path::{Path, PathBuf};

use artifact::{Artifact, Store};
use stage::{Error, Result};

const MODEL_FILE: &str = "config.json";
const ADAPTERS_FILE: &str = "adapter_config.json";
const STORE_HINT: &str = "choose another path for `--store`";

/// Returns the model folder for `locator`.
pub(crate) fn model(locator: &Path, store: &Path) -> Result<PathBuf> {
    if locator.join(MODEL_FILE).is_file() {
        return Ok(locator.to_owned());
    }
    output(&find(locator, store, MODEL_FILE)?, outputs::MODEL)
}

/// Returns the folder with adapters for `locator`; for a training artifact, that of its last checkpoint.
pub(crate) fn adapters(locator: &Path, store: &Path) -> Result<PathBuf> {
    if locator.join(ADAPTERS_FILE).is_file() {
        return Ok(locator.to_owned());
    }
    let artifact = find(locator, store, ADAPTERS_FILE)?;
    if artifact.manifest().outputs.contains_key(outputs::CHECKPOINTS) {
        last_checkpoint(&output(&artifact, outputs::CHECKPOINTS)?)
    } else {
        output(&artifact, outputs::ADAPTERS)
    }
}

/// Finds the artifact; `marker` is the file that a plain folder would have.
fn find(locator: &Path, store: &Path, marker: &str) -> Result<Artifact> {
    let store = match Store::open(store) {
        Err(error) if !locator.exists() => {
            let error = Error::from(error);
            return Err(if error.hints().is_empty() { error.hinted(STORE_HINT) } else { error });
        }
        store => store.ok(),
    };
    let found = stage::locate(store.as_ref(), locator);
    if locator.join("COMMIT").exists() {
        return found;
    }
    let hint =
        format!("give the folder that a stage printed, its label, or a folder that contains `{marker}`");
    found.map_err(|error| error.hinted(hint))
}

/// Verifies an output and returns its path.
fn output(artifact: &Artifact, name: &str) -> Result<PathBuf> {
    let Some(path) = artifact.output_dir(name) else {
        let manifest = artifact.manifest();
        let names: Vec<String> = manifest.outputs.keys().map(|name| format!("`{name}`")).collect();
        return Err(Error::bad_input(format!(
            "`{}` (made by `{}`) has no output `{name}`, only {}",
            artifact.path().display(),
            manifest.stage,
            names.join(", ")
        )));
    };
    artifact.verify_output(name)?;
    Ok(path)
}

fn last_checkpoint(checkpoints: &Path) -> Result<PathBuf> {
    let entries = fs_err::read_dir(checkpoints)?.collect::<std::io::Result<Vec<_>>>()?;
    let last = entries
        .into_iter()
        .map(|entry| entry.path())
        .max()
        .ok_or_else(|| Error::bad_input(format!("`{}` holds no checkpoint", checkpoints.display())))?;
    Ok(last.join(outputs::ADAPTERS))
}
