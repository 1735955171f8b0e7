//! `--plan`: what would be done, and why.

use std::collections::BTreeMap;
use std::path::Path;

use artifact::{Artifact, Change, Level, Manifest, Store, changes};
use failure::{Error, Kind, Result};
use serde_json::json;

use crate::args::CommonArgs;
use crate::identity::Identity;
use crate::input::Input;
use crate::logging::print_error_line;
use crate::output;

/// At most so many of the latest artifacts are compared with.
const NEAREST_OF: usize = 256;
/// How far back a changed input is followed.
const DEPTH: usize = 4;

const HIT: u8 = 0;
const RUN: u8 = 10;
const RESUME: u8 = 11;

/// Plans a run into the store.
pub(crate) fn for_store(
    common: &CommonArgs,
    store: &Store,
    id: &Identity,
    inputs: &BTreeMap<String, Input>,
    notes: &[String],
) -> Result<()> {
    let found = store.lookup_with(id.stage, &id.key, &id.slug, Level::Auto);
    let mut why = Vec::new();
    let (action, code, path) = match found {
        Ok(Some(artifact)) => ("hit", HIT, Some(artifact.path().to_owned())),
        missing => {
            if let Err(error) = missing {
                why.push(format!("{error}"));
            }
            why.extend(reasons(store, id, inputs));
            let resume = store.workspace(id.stage, &id.key)?.has_state();
            if resume { ("resume", RESUME, None) } else { ("run", RUN, None) }
        }
    };
    print(common, id, action, path.as_deref(), &why, notes)?;
    finish(code)
}

/// Plans a run into a folder of its own.
pub(crate) fn for_folder(common: &CommonArgs, id: &Identity, out: &Path, notes: &[String]) -> Result<()> {
    let existing = Artifact::open(out).ok();
    let hit =
        existing.is_some_and(|found| found.manifest().key == id.key && found.manifest().stage == id.stage);
    let (action, code) = if hit { ("hit", HIT) } else { ("run", RUN) };
    print(common, id, action, hit.then_some(out), &[], notes)?;
    finish(code)
}

fn finish(code: u8) -> Result<()> {
    if code == HIT { Ok(()) } else { Err(Error::new(Kind::Status(code), "")) }
}

fn print(
    common: &CommonArgs,
    id: &Identity,
    action: &str,
    path: Option<&Path>,
    why: &[String],
    notes: &[String],
) -> Result<()> {
    if common.json {
        let plan = json!({
            "stage": id.stage, "action": action, "key": id.key.to_string(), "slug": id.slug, "path": path,
            "why": why, "notes": notes, "key_material": id.material,
        });
        return output::print_line(&plan.to_string());
    }
    let verb = match action {
        "hit" => "hit",
        "resume" => "would resume",
        _ => "would run",
    };
    print_error_line(&format!("{}: {verb} {}-{}", id.stage, id.key.short(), id.slug));
    for line in why.iter().chain(notes) {
        print_error_line(&format!("  {line}"));
    }
    path.map_or(Ok(()), output::print_path)
}

/// Explains a miss by the nearest artifact of the same stage: the one with the fewest changes.
fn reasons(store: &Store, id: &Identity, inputs: &BTreeMap<String, Input>) -> Vec<String> {
    let Some((nearest, changed)) = nearest(store, id) else {
        return vec![format!("no artifact of `{}` in `{}`", id.stage, store.root().display())];
    };
    let mut lines = vec![format!("nearest: {}", nearest.key.short())];
    for change in changed {
        let producer = match &change {
            Change::Input { role, .. } => inputs.get(role).and_then(Input::artifact),
            Change::Value { .. } => None,
        };
        lines.push(describe(store, &nearest, &change, producer.map(Artifact::manifest), DEPTH));
    }
    lines
}

/// Describes a change; for an input made by `producer`, also what changed in the stage that made it.
fn describe(
    store: &Store,
    nearest: &Manifest,
    change: &Change,
    producer: Option<&Manifest>,
    depth: usize,
) -> String {
    let mut line = change.to_string();
    let (Change::Input { role, .. }, Some(new)) = (change, producer) else { return line };
    line.extend([" ⟵ ", &new.stage]);
    let old = read_producer(store, nearest, role);
    if let Some(old) = old.filter(|old| old.stage == new.stage && depth > 0) {
        let causes: Vec<String> = changes(&old.key_material, &new.key_material)
            .iter()
            .map(|change| {
                let producer = match change {
                    Change::Input { role, .. } => read_producer(store, new, role),
                    Change::Value { .. } => None,
                };
                describe(store, &old, change, producer.as_ref(), depth - 1)
            })
            .collect();
        if !causes.is_empty() {
            line.extend([" (", &causes.join("; "), ")"]);
        }
    }
    line
}

/// Reads the manifest of the artifact that was the input `role`, if it is still in the store.
fn read_producer(store: &Store, consumer: &Manifest, role: &str) -> Option<Manifest> {
    let record = consumer.inputs.get(role)?;
    let path = store.find(record.stage.as_deref()?, record.key.as_ref()?, "").ok()??;
    read_manifest(&path)
}

fn nearest(store: &Store, id: &Identity) -> Option<(Manifest, Vec<Change>)> {
    let dir = store.stage_dir(id.stage).ok()?;
    let mut names: Vec<_> = store
        .names(id.stage)
        .ok()?
        .into_iter()
        .map(|name| (fs_err::metadata(dir.join(&name)).and_then(|metadata| metadata.modified()).ok(), name))
        .collect();
    names.sort();
    names
        .iter()
        .rev()
        .take(NEAREST_OF)
        .filter_map(|(_, name)| {
            let manifest = read_manifest(&dir.join(name))?;
            let changed = changes(&manifest.key_material, &id.material);
            (!changed.is_empty()).then_some((manifest, changed))
        })
        .min_by_key(|(_, changed)| changed.len())
}

fn read_manifest(artifact: &Path) -> Option<Manifest> {
    let path = artifact.join("manifest.json");
    Manifest::from_bytes(&path, &fs_err::read(&path).ok()?).ok()
}
