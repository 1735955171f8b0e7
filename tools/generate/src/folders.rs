//! Where a model and its adapters lie: in an artifact, under a name in the store, or in a plain folder.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use artifact::{Artifact, Level, Store};
use stage::{bad_input, hint};

/// The model folder that `locator` stands for.
pub(crate) fn model(locator: &Path, store: &Path) -> Result<PathBuf> {
    if locator.join("config.json").is_file() {
        return Ok(locator.to_owned());
    }
    let artifact = find(locator, store, "model", "config.json")?;
    output(&artifact, "model")
}

/// The adapters' folder that `locator` stands for; of a training artifact, its last checkpoint's.
pub(crate) fn adapters(locator: &Path, store: &Path) -> Result<PathBuf> {
    if locator.join("adapter_config.json").is_file() {
        return Ok(locator.to_owned());
    }
    let artifact = find(locator, store, "adapters", "adapter_config.json")?;
    match artifact.output_dir("checkpoints") {
        Some(checkpoints) => last_checkpoint(&checkpoints),
        None => output(&artifact, "adapters"),
    }
}

fn find(locator: &Path, store: &Path, what: &str, file: &str) -> Result<Artifact> {
    if !locator.join("COMMIT").exists()
        && let (Ok(store), Some(name)) = (Store::open(store), locator.to_str())
        && let Some(artifact) = store.open_ref(name, Level::Auto).map_err(bad_input)?
    {
        return Ok(artifact);
    }
    let remedy = format!("give the folder that a stage printed, its name, or a folder with a `{file}`");
    if !locator.exists() {
        let error = anyhow!("there is no {what} `{}`", locator.display());
        return Err(bad_input(hint(error, remedy)));
    }
    Artifact::open(locator).map_err(|error| match error {
        artifact::Error::NotAnArtifact { path, .. } => {
            let error = anyhow!("`{}` is neither an artifact nor a folder with a `{file}`", path.display());
            bad_input(hint(error, remedy))
        }
        error => bad_input(error),
    })
}

fn output(artifact: &Artifact, name: &str) -> Result<PathBuf> {
    artifact.output_dir(name).ok_or_else(|| {
        let manifest = artifact.manifest();
        let names: Vec<String> = manifest.outputs.keys().map(|name| format!("`{name}`")).collect();
        let (path, stage, names) = (artifact.path().display(), &manifest.stage, names.join(", "));
        bad_input(anyhow!("`{path}` (made by `{stage}`) has no output `{name}`, only {names}"))
    })
}

fn last_checkpoint(checkpoints: &Path) -> Result<PathBuf> {
    let mut steps: Vec<PathBuf> =
        fs_err::read_dir(checkpoints)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    steps.sort();
    let last =
        steps.pop().ok_or_else(|| bad_input(anyhow!("`{}` holds no checkpoint", checkpoints.display())))?;
    Ok(last.join("adapters"))
}
