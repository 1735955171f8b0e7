//! Inputs that not every run has, and the space that a copy of them needs.

use std::collections::BTreeMap;
use std::path::Path;

use artifact::Store;
use stage::{Context as _, Input, Run};

use crate::config::Config;

/// Opens the record of the import of `model`; `None` without a model, for a plain folder, and for a model that was not imported,
/// such as one of `fuse`.
///
/// # Errors
///
/// As [`Run::input`].
pub fn open_origin(run: &mut Run<Config>, model: Option<&Path>) -> stage::Result<Option<Input>> {
    let Some(model) = model.filter(|model| !model.join("config.json").is_file()) else {
        return Ok(None);
    };
    let artifact = stage::locate(run.store(), model)?;
    let is_import = artifact.manifest().outputs.contains_key(outputs::IMPORT);
    is_import.then(|| run.input("origin", model, outputs::IMPORT)).transpose()
}

/// Opens the answers that `validate` collected; `None` if the loss decides.
///
/// # Errors
///
/// As [`Run::input`].
pub fn open_answers(run: &mut Run<Config>, validate: &Path) -> stage::Result<Option<Input>> {
    if run.config().decides_by_loss() {
        return Ok(None);
    }
    let opened = run.input("answers", validate, outputs::ANSWERS);
    opened
        .hint("run `validate` with `--set answered_rows=N`, so that there are answers to choose by")
        .map(Some)
}

/// Returns how many bytes the largest checkpoint in `train` takes when it is copied. A run with the same `store` links it instead.
pub fn expected_bytes(train: &Input, store: Option<&Store>) -> u64 {
    let is_inside = |store: &Store| {
        let [folder, root] = [train.path(), store.root()].map(fs_err::canonicalize);
        folder.is_ok_and(|folder| root.is_ok_and(|root| folder.starts_with(root)))
    };
    if store.is_some_and(is_inside) {
        return 0;
    }
    let mut checkpoints: BTreeMap<&Path, u64> = BTreeMap::new();
    let is_part = |file: &&artifact::File| file.role == outputs::CHECKPOINTS;
    for file in train.manifest().files.iter().filter(is_part) {
        let folder = Path::new(&file.path).parent().unwrap_or(Path::new(""));
        *checkpoints.entry(folder).or_default() += file.size;
    }
    checkpoints.into_values().max().unwrap_or(0)
}
