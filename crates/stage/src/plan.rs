//! `--plan`: shows whether the stage would run, and why.

use std::collections::BTreeMap;
use std::path::Path;

use artifact::{Artifact, Change, Level, Manifest, Store, changes};
use failure::{Error, Kind, Result};
use serde::Serialize;
use serde_json::json;

use crate::args::CommonArgs;
use crate::identity::Identity;
use crate::input::Input;
use crate::logging::print_error_line;
use crate::lookup::read_manifest;
use crate::output;

/// Maximum number of recent artifacts to compare with.
const NEAREST_OF: usize = 256;
/// Number of stages through which a changed input is followed back.
const DEPTH: usize = 4;

/// Notes of a run that is only planned.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// Lines for people.
    pub(crate) lines: Vec<String>,
    /// Memory of the run.
    pub(crate) memory: Option<Memory>,
}

/// Memory that a run will need and may use.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Memory {
    pub(crate) needed_bytes: u64,
    pub(crate) limit_bytes: u64,
}

/// Action of a run that is only planned.
#[derive(Debug, Clone, Copy)]
enum Action {
    UpToDate,
    Run,
    Resume,
}

impl Action {
    /// Returns the name in `--json`.
    fn name(self) -> &'static str {
        match self {
            Self::UpToDate => "hit",
            Self::Run => "run",
            Self::Resume => "resume",
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Self::UpToDate => "up to date",
            Self::Run => "would run",
            Self::Resume => "would resume",
        }
    }

    /// Ends the program with the exit code of the action.
    fn exit(self) -> Result<()> {
        match self {
            Self::UpToDate => Ok(()),
            Self::Run => Err(Error::new(Kind::Status(10), "")),
            Self::Resume => Err(Error::new(Kind::Status(11), "")),
        }
    }
}

/// Plans a run into the store; `resumes` says whether an earlier process left something to resume from.
pub(crate) fn for_store(
    common: &CommonArgs,
    store: &Store,
    id: &Identity,
    inputs: &BTreeMap<String, Input>,
    resumes: bool,
    notes: &Notes,
) -> Result<()> {
    let mut lines = Vec::new();
    let (action, path) = match store.lookup_with(id.stage, &id.key, &id.slug, Level::Auto) {
        Ok(Some(artifact)) => (Action::UpToDate, Some(artifact.path().to_owned())),
        missing => {
            lines.extend(missing.err().map(|error| error.to_string()));
            lines.extend(reasons(store, id, inputs));
            (if resumes { Action::Resume } else { Action::Run }, None)
        }
    };
    print(common, id, action, path.as_deref(), &lines, notes)?;
    action.exit()
}

/// Plans a run with `--out`; `exists` says whether `out` holds the artifact already, and `resumes` whether an earlier process left
/// something to resume from.
pub(crate) fn for_folder(
    common: &CommonArgs,
    id: &Identity,
    out: &Path,
    exists: bool,
    resumes: bool,
    notes: &Notes,
) -> Result<()> {
    let action = if exists {
        Action::UpToDate
    } else if resumes {
        Action::Resume
    } else {
        Action::Run
    };
    print(common, id, action, exists.then_some(out), &[], notes)?;
    action.exit()
}

fn print(
    common: &CommonArgs,
    id: &Identity,
    action: Action,
    path: Option<&Path>,
    reasons: &[String],
    notes: &Notes,
) -> Result<()> {
    if common.json {
        let plan = json!({
            "stage": id.stage, "action": action.name(), "key": id.key.to_string(), "slug": id.slug,
            "path": path.map(output::json_path), "why": reasons, "notes": notes.lines, "memory": notes.memory,
            "key_material": id.material,
        });
        return output::print_line(&plan.to_string());
    }
    print_error_line(&format!("{}: {} {}-{}", id.stage, action.describe(), id.key.short(), id.slug));
    for line in reasons.iter().chain(&notes.lines) {
        print_error_line(&format!("  {line}"));
    }
    path.map_or(Ok(()), output::print_path)
}

/// Explains why the stage would run by the artifact of the same stage with the fewest changes.
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
