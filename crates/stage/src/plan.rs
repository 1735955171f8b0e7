//! `--plan`: what would be done, and why.

use std::collections::BTreeMap;
use std::path::Path;

use artifact::{Artifact, Change, Level, Manifest, Store, changes};
use serde_json::{Value, json};

use crate::error::Exit;
use crate::logging::print_error_line;
use crate::run::Identity;
use crate::{CommonArgs, Input, output};

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
) -> anyhow::Result<()> {
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
pub(crate) fn for_folder(
    common: &CommonArgs,
    id: &Identity,
    out: &Path,
    notes: &[String],
) -> anyhow::Result<()> {
    let existing = Artifact::open(out).ok();
    let hit =
        existing.is_some_and(|found| found.manifest().key == id.key && found.manifest().stage == id.stage);
    let (action, code) = if hit { ("hit", HIT) } else { ("run", RUN) };
    print(common, id, action, hit.then_some(out), &[], notes)?;
    finish(code)
}

fn finish(code: u8) -> anyhow::Result<()> {
    if code == HIT { Ok(()) } else { Err(Exit(code).into()) }
}

fn print(
    common: &CommonArgs,
    id: &Identity,
    action: &str,
    path: Option<&Path>,
    why: &[String],
    notes: &[String],
) -> anyhow::Result<()> {
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

/// Explains a miss by the nearest artifact of the same stage: the one with the fewest changed leaves.
fn reasons(store: &Store, id: &Identity, inputs: &BTreeMap<String, Input>) -> Vec<String> {
    let Some((nearest, changed)) = nearest(store, id) else {
        return vec![format!("no artifact of `{}` in `{}`", id.stage, store.root().display())];
    };
    let mut lines = vec![format!("nearest: {}", nearest.key.short())];
    for change in changed {
        let role = change.pointer.strip_prefix("inputs/").and_then(|rest| rest.strip_suffix("/sha256"));
        match role {
            Some(role) => {
                let new = inputs.get(role).and_then(Input::artifact).map(Artifact::manifest);
                lines.push(input_change(store, &nearest, role, &change, new, DEPTH));
            }
            None => lines.push(change.to_string()),
        }
    }
    lines
}

/// Describes a changed input, and what changed in the stage that made it.
fn input_change(
    store: &Store,
    nearest: &Manifest,
    role: &str,
    change: &Change,
    new: Option<&Manifest>,
    depth: usize,
) -> String {
    let short = |value: &Option<Value>| {
        let text = value.as_ref().and_then(Value::as_str).unwrap_or("(none)");
        text.chars().take(12).collect::<String>()
    };
    let mut line = format!("inputs/{role} {} → {}", short(&change.old), short(&change.new));
    let Some(new) = new else { return line };
    line.extend([" ⟵ ", &new.stage]);
    let old = (|| {
        let record = nearest.inputs.get(role)?;
        let path = store.find(record.stage.as_deref()?, record.key.as_ref()?, "").ok()??;
        read_manifest(&path)
    })();
    if let Some(old) = old.filter(|old| old.stage == new.stage && depth > 0) {
        let parts: Vec<String> = changes(&old.key_material, &new.key_material)
            .iter()
            .map(|change| {
                let role =
                    change.pointer.strip_prefix("inputs/").and_then(|rest| rest.strip_suffix("/sha256"));
                let producer = role.and_then(|role| {
                    let record = new.inputs.get(role)?;
                    let path = store.find(record.stage.as_deref()?, record.key.as_ref()?, "").ok()??;
                    Some((role, read_manifest(&path)?))
                });
                match producer {
                    Some((role, made)) => input_change(store, &old, role, change, Some(&made), depth - 1),
                    None => change.to_string(),
                }
            })
            .collect();
        if !parts.is_empty() {
            line.extend([" (", &parts.join("; "), ")"]);
        }
    }
    line
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
