//! in-toto statements with SLSA provenance, one for each artifact of a chain.

use artifact::{Artifact, FileHash, InputContent, TreeHash};
use serde_json::{Value, json};

use super::{SEGMENT, chain_name};
use crate::error::Result;
use crate::signing::SignerKey;

/// Meaning of `externalParameters`.
const BUILD_TYPE: &str = "urn:ashlar:stage:key-v1";

/// Returns the statements as JSON lines: signed envelopes if there is a key, bare statements otherwise.
pub(super) fn lines(chain: &[Artifact], key: Option<&SignerKey>) -> Result<String> {
    let mut lines = String::new();
    for artifact in chain {
        let statement = statement(artifact)?;
        let line = key.map_or_else(|| statement.clone(), |key| key.envelope(&statement));
        lines.push_str(&line.to_string());
        lines.push('\n');
    }
    Ok(lines)
}

/// Returns the statement about one artifact: its files, and how they were made.
fn statement(artifact: &Artifact) -> Result<Value> {
    let manifest = artifact.manifest();
    let provenance = artifact.provenance()?;
    let name = chain_name(artifact);
    let mut subject = vec![
        // The tree hash is the SHA-256 of this file.
        json!({"name": format!("{name}/SHA256SUMS"), "digest": {"sha256": manifest.tree.to_string()}}),
        json!({"name": format!("{name}/manifest.json"), "digest": {"sha256": artifact.manifest_hash()}}),
    ];
    subject.extend(manifest.files.iter().map(
        |file| json!({"name": format!("{name}/data/{}", file.path), "digest": {"sha256": file.sha256}}),
    ));
    let mut dependencies: Vec<Value> = manifest
        .inputs
        .iter()
        .map(|(role, record)| {
            let digest = match manifest.key_material.inputs.get(role) {
                Some(InputContent::Manifest(hash)) => hash.to_string(),
                _ => record.tree.to_string(),
            };
            let uri = match (&record.stage, &record.key) {
                (Some(stage), Some(key)) => {
                    let output =
                        record.output.as_ref().map(|output| format!("#{output}")).unwrap_or_default();
                    format!("urn:ashlar:artifact:{stage}:{key}{output}")
                }
                _ => format!("urn:ashlar:files:{}", record.tree),
            };
            json!({"name": role, "uri": uri, "digest": {"sha256": digest}})
        })
        .collect();
    let field = |pointer: &str| provenance.pointer(pointer).cloned();
    dependencies.extend(provenance.get(SEGMENT).map(resumed_from));
    let mut metadata =
        json!({"invocationId": format!("urn:ashlar:artifact:{}:{}", manifest.stage, manifest.key)});
    for (name, pointer) in [("startedOn", "/start"), ("finishedOn", "/end")] {
        if let Some(time) = field(pointer) {
            metadata[name] = time;
        }
    }
    let mut version = json!({});
    if let Some(found) = field("/tool/version") {
        version["ashlar"] = found;
    }
    let provenance_hash = FileHash::of(&fs_err::read(artifact.path().join("provenance.json"))?);
    Ok(json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subject,
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "stage": manifest.stage, "stageVersion": manifest.stage_version, "config": manifest.key_material.config,
                },
                "internalParameters": {
                    "numerics": manifest.key_material.numerics, "program": field("/tool").unwrap_or_default(),
                    "platform": field("/platform").unwrap_or_default(), "determinism": manifest.determinism,
                },
                "resolvedDependencies": dependencies,
            },
            "runDetails": {
                "builder": {"id": format!("urn:ashlar:program:{}", manifest.stage), "version": version},
                "metadata": metadata,
                "byproducts": [{
                    "name": format!("{name}/provenance.json"), "digest": {"sha256": provenance_hash},
                }],
            },
        },
    }))
}

/// Describes the segment from which a training run resumed. It is no input: the bytes are those of one uninterrupted run.
fn resumed_from(segment: &Value) -> Value {
    let text = |name: &str| segment[name].as_str().unwrap_or_default();
    let tree: Option<TreeHash> = serde_json::from_value(segment["tree"].clone()).ok();
    json!({
        "name": SEGMENT, "uri": format!("urn:ashlar:artifact:{}:{}", text("stage"), text("key")),
        "digest": {"sha256": tree.map(|hash| hash.to_string())},
    })
}
