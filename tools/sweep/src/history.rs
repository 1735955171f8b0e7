//! How long stages took before, from the artifacts in the store.

use std::path::Path;

use artifact::{Manifest, Store};
use serde_json::Value as Json;

/// Most artifacts of a stage that are read.
const MOST: usize = 64;

/// Times of one stage.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Times {
    /// Number of artifacts whose times are known.
    pub(crate) artifacts: usize,
    /// Mean time in seconds.
    pub(crate) seconds: f64,
    /// Mean time per step in seconds, for train.
    pub(crate) seconds_per_step: Option<f64>,
}

/// Reads the times of a stage. Artifacts made from another base model than `model`, the key of an import, do not count.
pub(crate) fn times(store: &Store, stage: &str, model: Option<&str>) -> Times {
    let Ok(folder) = store.stage_dir(stage) else { return Times::default() };
    let names = store.names(stage).unwrap_or_default();
    let found: Vec<One> =
        names.iter().rev().take(MOST).filter_map(|name| read(&folder.join(name), model)).collect();
    let seconds: f64 = found.iter().map(|one| one.seconds).sum();
    let stepped: Vec<&One> = found.iter().filter(|one| one.steps > 0.0).collect();
    let steps: f64 = stepped.iter().map(|one| one.steps).sum();
    Times {
        artifacts: found.len(),
        seconds: if found.is_empty() { 0.0 } else { seconds / found.len() as f64 },
        seconds_per_step: (steps > 0.0).then(|| stepped.iter().map(|one| one.seconds).sum::<f64>() / steps),
    }
}

/// One artifact.
struct One {
    seconds: f64,
    /// Steps that were trained in that time.
    steps: f64,
}

fn read(artifact: &Path, model: Option<&str>) -> Option<One> {
    let path = artifact.join("manifest.json");
    let manifest = Manifest::from_bytes(&path, &fs_err::read(&path).ok()?).ok()?;
    let of_other_model = |model: &str| {
        let mut imports =
            manifest.inputs.values().filter(|input| input.stage.as_deref() == Some("import-model"));
        imports.any(|input| input.key.as_ref().is_some_and(|key| key.to_string() != model))
    };
    if model.is_some_and(of_other_model) {
        return None;
    }
    let provenance: Json =
        serde_json::from_slice(&fs_err::read(artifact.join("provenance.json")).ok()?).ok()?;
    // A resumed run took longer than its last part.
    let resumed_from = provenance["resumed_from"]["steps"].as_f64();
    if provenance["resumed"] == true && resumed_from.is_none() {
        return None;
    }
    let steps = manifest.metric("steps").unwrap_or(0.0) - resumed_from.unwrap_or(0.0);
    Some(One { seconds: provenance["wall_seconds"].as_f64()?, steps })
}
