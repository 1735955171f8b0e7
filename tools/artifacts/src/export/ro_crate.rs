//! A run as an RO-Crate (Process Run Crate 0.5): the actions of all stages, with the data of the last one.

use std::collections::BTreeSet;
use std::path::Path;

use artifact::{Artifact, Key};
use serde_json::{Value, json};

use super::{chain_name, copy, descriptions, origins, write as write_text};
use crate::error::Result;
use crate::show::origin_of;

/// Name of the file that describes a crate.
const METADATA: &str = "ro-crate-metadata.json";
/// The profile of runs of single programs.
const PROFILE: &str = "https://w3id.org/ro/wfrun/process/0.5";

/// Writes the crate: the data of `artifact`, and the descriptions of everything in `chain`.
pub(super) fn write(artifact: &Artifact, chain: &[Artifact], to: &Path) -> Result<()> {
    let mut graph = Vec::new();
    let mut parts = Vec::new();
    for member in chain {
        let folder = format!("{}/", chain_name(member));
        let mut files = Vec::new();
        for (name, path) in descriptions(member) {
            copy(&path, &to.join(&folder).join(name))?;
            let size = fs_err::metadata(&path)?.len();
            files.push(format!("{folder}{name}"));
            let is_json = path.extension().is_some_and(|extension| extension == "json");
            let format = if is_json { "application/json" } else { "text/plain" };
            graph.push(file(&format!("{folder}{name}"), name, size, format));
        }
        if member.manifest().key == artifact.manifest().key {
            for found in &member.manifest().files {
                let path = format!("{folder}data/{}", found.path);
                copy(&member.data_dir().join(&found.path), &to.join(&path))?;
                let mut entity = file(&path, &found.path, found.size, media_type(&found.path));
                entity["sha256"] = json!(found.sha256);
                files.push(path);
                graph.push(entity);
            }
        }
        graph.extend(stage_entities(member, chain, &folder, &files)?);
        parts.push(reference(&folder));
    }
    let last = artifact.provenance()?;
    let published = last.get("end").or_else(|| last.get("start")).cloned();
    let name = chain_name(artifact);
    let actions: Vec<Value> = chain.iter().map(|member| reference(&action_id(member))).collect();
    let mut root = json!({
        "@id": "./", "@type": "Dataset", "name": format!("Run of Ashlar: {name}"),
        "description": format!("`{name}`, and how everything that it was made from came to be"),
        "license": {"@id": "#license"}, "hasPart": parts, "mentions": actions,
        "conformsTo": {"@id": PROFILE}, "mainEntity": reference(&format!("{name}/")),
    });
    // A crate needs a date; a run with SOURCE_DATE_EPOCH records none.
    root["datePublished"] = published.unwrap_or_else(|| "1970-01-01T00:00:00Z".into());
    graph.insert(0, root);
    graph.insert(
        0,
        json!({
            "@id": METADATA, "@type": "CreativeWork", "about": {"@id": "./"},
            "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
        }),
    );
    graph.push(json!({
        "@id": PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5",
    }));
    graph.push(json!({
        "@id": "#license", "@type": "CreativeWork", "name": "See the licences of the model and of the data",
        "description": "Ashlar records the licence of a model in import.json; the data has its own.",
    }));
    // Stages share inputs, and an entity is described once.
    let mut seen = BTreeSet::new();
    graph.retain(|entity| seen.insert(entity["@id"].to_string()));
    let document = json!({"@context": ["https://w3id.org/ro/crate/1.1/context", {
        "sha256": "https://w3id.org/ro/terms/workflow-run#sha256",
    }], "@graph": graph});
    write_text(&to.join(METADATA), &format!("{document:#}\n"))
}

/// Returns the folder, the program and the action of one stage, with its settings and plain inputs.
fn stage_entities(
    member: &Artifact,
    chain: &[Artifact],
    folder: &str,
    files: &[String],
) -> Result<Vec<Value>> {
    let manifest = member.manifest();
    let provenance = member.provenance()?;
    let program = format!("#program-{}-{}", manifest.stage, manifest.key.short());
    let mut entities = vec![json!({
        "@id": folder, "@type": "Dataset", "name": chain_name(member),
        "description": format!("Artifact of the stage `{}`, key {}", manifest.stage, manifest.key),
        "hasPart": files.iter().map(|path| reference(path)).collect::<Vec<_>>(),
    })];
    let mut software = json!({
        "@id": program, "@type": "SoftwareApplication", "name": manifest.stage,
        "url": "https://crates.io/", "description": format!("Stage `{}` of Ashlar", manifest.stage),
    });
    software.as_object_mut().and_then(|fields| fields.remove("url"));
    software["softwareVersion"] = provenance
        .pointer("/tool/version")
        .cloned()
        .unwrap_or_else(|| manifest.stage_version.to_string().into());
    entities.push(software);
    // What one stage made is what the next one read.
    let used: Vec<Key> = origins(member)?.into_iter().map(|origin| origin.key).collect();
    let producers = chain.iter().filter(|made| used.contains(&made.manifest().key));
    let mut objects: Vec<Value> =
        producers.map(|made| reference(&format!("{}/", chain_name(made)))).collect();
    let known: BTreeSet<Key> = chain.iter().map(|made| made.manifest().key).collect();
    for (role, record) in &manifest.inputs {
        if record.key.is_some_and(|key| known.contains(&key)) {
            continue;
        }
        let id = format!("#files-{role}-{}", record.tree);
        objects.push(reference(&id));
        entities.push(json!({
            "@id": id, "@type": "CreativeWork", "name": role, "description": origin_of(record),
            "identifier": format!("tree-v1:{}", record.tree),
        }));
    }
    for (name, value) in manifest.key_material.config.as_object().into_iter().flatten() {
        let id = format!("#setting-{}-{name}", manifest.key.short());
        objects.push(reference(&id));
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        entities.push(json!({"@id": id, "@type": "PropertyValue", "name": name, "value": value}));
    }
    let mut action = json!({
        "@id": action_id(member), "@type": "CreateAction", "name": format!("Run of `{}`", manifest.stage),
        "description": format!("Made {}", chain_name(member)),
        "instrument": {"@id": program}, "object": objects, "result": [reference(folder)],
        "actionStatus": "http://schema.org/CompletedActionStatus",
    });
    for (name, field) in [("startTime", "start"), ("endTime", "end")] {
        if let Some(time) = provenance.get(field) {
            action[name] = time.clone();
        }
    }
    entities.push(action);
    Ok(entities)
}

fn action_id(member: &Artifact) -> String {
    format!("#action-{}-{}", member.manifest().stage, member.manifest().key.short())
}

fn reference(id: &str) -> Value {
    json!({"@id": id})
}

fn file(id: &str, name: &str, bytes: u64, format: &str) -> Value {
    json!({"@id": id, "@type": "File", "name": name, "contentSize": bytes.to_string(), "encodingFormat": format})
}

fn media_type(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("json") => "application/json",
        Some("jsonl") => "application/jsonl",
        Some("html") => "text/html",
        Some("txt" | "md") => "text/plain",
        _ => "application/octet-stream",
    }
}
