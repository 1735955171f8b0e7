//! What a run resumes from: its own state, and the record of a published artifact for its provenance.

use std::path::Path;

use artifact::{Artifact, atomic};
use failure::{Error, Kind, Result};
use serde_json::{Value, json};

/// Name of the record in the work folder.
const FILE: &str = "resumed_from.json";

/// Records that the run in `work` resumed from `artifact` after `steps` steps.
pub(crate) fn record(work: &Path, artifact: &Artifact, steps: usize) -> Result<()> {
    let manifest = artifact.manifest();
    let program =
        artifact.provenance().ok().and_then(|mut provenance| provenance.get_mut("tool").map(Value::take));
    let record = json!({
        "stage": manifest.stage,
        "key": manifest.key,
        "tree": manifest.tree,
        "steps": steps,
        "tool": program,
    });
    Ok(atomic::write_file(&work.join(FILE), format!("{record}\n").as_bytes())?)
}

/// Reads the record of the run in `work`; `None` if it started from nothing or from its own state only.
pub(crate) fn read(work: &Path) -> Result<Option<Value>> {
    match fs_err::read(work.join(FILE)) {
        Ok(bytes) => {
            Ok(serde_json::from_slice(&bytes).map(Some).map_err(|error| Error::wrap(Kind::Failed, error))?)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Returns whether the folder of a run has a complete resume state.
pub(crate) fn has_state(work: &Path) -> bool {
    tuner::has_resume_state(&work.join(outputs::STATE))
}
