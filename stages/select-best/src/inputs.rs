//! Inputs that not every run has.

use std::path::Path;

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
