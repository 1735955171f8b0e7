//! Artifacts for tests of this crate.

use std::collections::BTreeMap;

use artifact::{Artifact, Draft, InputContent, InputRecord, KeyMaterial, Store};
use serde_json::Value;

/// Publishes an artifact of a stage, made from `origin` if there is one.
pub(crate) fn publish(store: &Store, stage: &str, config: Value, origin: Option<&Artifact>) -> Artifact {
    let mut material = KeyMaterial::new(stage, 1, config);
    let mut inputs = BTreeMap::new();
    if let Some(origin) = origin {
        let (manifest, role) = (origin.manifest(), "origin".to_owned());
        material.inputs.insert(role.clone(), InputContent::Tree(manifest.tree));
        let (stage, key) = (Some(manifest.stage.clone()), Some(manifest.key));
        inputs.insert(role, InputRecord { stage, key, tree: manifest.tree, output: None });
    }
    let staging = store.stage_new(stage).unwrap();
    fs_err::write(staging.data().join("out.txt"), "x").unwrap();
    let draft = Draft { inputs, ..Draft::new("toy", material) };
    staging.publish(&draft, &mut || Ok(())).unwrap().artifact().clone()
}
