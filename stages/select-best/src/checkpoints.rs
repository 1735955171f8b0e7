//! The checkpoints of a training run: their steps, and copying the chosen one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use outputs::{Import, ImportSource, Losses};
use serde_json::{Map, Value};

use crate::error::Error;

/// Steps that an error lists.
const LISTED: usize = 5;

/// Returns the folder with the adapters of `step`.
pub(crate) fn adapters(checkpoints: &Path, step: u64) -> PathBuf {
    checkpoints.join(outputs::checkpoint_name(step)).join(outputs::ADAPTERS)
}

/// Returns the steps for which `train` wrote a checkpoint.
pub(crate) fn trained_steps(checkpoints: &Path) -> Result<BTreeSet<u64>, Error> {
    let found = outputs::checkpoint_adapters(checkpoints)?;
    for (step, adapters) in &found {
        for file in ["adapters.safetensors", "adapter_config.json"] {
            if !adapters.join(file).is_file() {
                let path = checkpoints.join(outputs::checkpoint_name(*step));
                return Err(Error::Checkpoint {
                    path,
                    reason: format!("has no `{}/{file}`", outputs::ADAPTERS),
                });
            }
        }
    }
    Ok(found.into_keys().collect())
}

/// Fails unless the trained checkpoints are those with losses; the base model is optional on both sides.
pub(crate) fn check_steps(trained: &BTreeSet<u64>, losses: &Losses) -> Result<(), Error> {
    let is_trained = |step: &u64| *step != 0;
    let trained: BTreeSet<u64> = trained.iter().copied().filter(is_trained).collect();
    let measured = losses.checkpoints.iter().map(|checkpoint| checkpoint.step);
    let measured: BTreeSet<u64> = measured.filter(is_trained).collect();
    let without_loss: Vec<u64> = trained.difference(&measured).copied().collect();
    let without_checkpoint: Vec<u64> = measured.difference(&trained).copied().collect();
    let mut reasons = Vec::new();
    if !without_loss.is_empty() {
        reasons.push(format!("no loss for step {}", list(&without_loss)));
    }
    if !without_checkpoint.is_empty() {
        reasons.push(format!("no checkpoint for step {}", list(&without_checkpoint)));
    }
    if reasons.is_empty() { Ok(()) } else { Err(Error::Mismatch { reason: reasons.join("; ") }) }
}

fn list(steps: &[u64]) -> String {
    let first: Vec<String> = steps.iter().take(LISTED).map(|step| format!("`{step}`")).collect();
    let more = steps.len().saturating_sub(LISTED);
    let tail = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{tail}", first.join(", "))
}

/// Copies the files of a folder, which take no space where the file system can share or link them.
pub(crate) fn copy_adapters(from: &Path, to: &Path) -> Result<(), Error> {
    fs_err::create_dir_all(to)?;
    for entry in fs_err::read_dir(from)? {
        let from = entry?.path();
        let to = to.join(from.file_name().unwrap_or_default());
        if let Err(source) = artifact::share_file(&from, &to) {
            return Err(Error::Copy { from, to, source });
        }
    }
    Ok(())
}

/// Names the base model, if it is on the hub, in the settings of the adapters in `folder`, as PEFT does.
pub(crate) fn name_base(origin: &Import, folder: &Path) -> Result<(), Error> {
    let ImportSource::Hub { id, commit } = &origin.source else { return Ok(()) };
    let path = folder.join("adapter_config.json");
    let text = files::read_text(&path, files::MAX_JSON_BYTES)?;
    let mut settings: Map<String, Value> = serde_json::from_str(&text).map_err(|error| {
        Error::Checkpoint { path: path.clone(), reason: format!("is not a table: {error}") }
    })?;
    settings.insert("base_model_name_or_path".to_owned(), id.as_str().into());
    settings.insert("revision".to_owned(), commit.as_str().into());
    let text = serde_json::to_string_pretty(&settings).expect("JSON that was read can be written");
    // The copy may be a link to the file of the checkpoint.
    fs_err::remove_file(&path)?;
    Ok(fs_err::write(path, text + "\n")?)
}
