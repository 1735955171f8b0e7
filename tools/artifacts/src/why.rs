//! `why`: the artifact with the most similar key, and what differs, followed into the stages that made the inputs.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use artifact::{Change, InputContent, Key, KeyMaterial, Manifest, changes};
use serde::Deserialize;
use serde_json::{Value, json};
use stage::json_path;

use crate::args::Why;
use crate::catalog::{Catalog, Entry, Item, MANIFEST_BYTES, manifest_hash, read_manifest};
use crate::error::{Result, bad_file};
use crate::locate::locate;
use crate::text::{self, escape};

/// Number of similar artifacts that are compared in full.
const COMPARED: usize = 16;
/// Number of stages through which a changed input is followed back.
const DEPTH: usize = 8;

/// A key that is explained: of an artifact, or of a run that is only planned.
struct Subject {
    material: KeyMaterial,
    /// The artifact, with the origin of its inputs.
    artifact: Option<(PathBuf, Manifest)>,
}

/// Difference of a key from that of another artifact.
struct Explanation {
    stage: String,
    old: PathBuf,
    reasons: Vec<Reason>,
}

/// One difference; for an input, also why the stage that made it made something else.
struct Reason {
    change: Change,
    /// The artifacts that had and have the content of the input.
    producer: Option<(PathBuf, PathBuf)>,
    because: Option<Explanation>,
}

/// Explains the key of an artifact, or the one in a plan.
pub(crate) fn run(catalog: &Catalog, options: &Why) -> Result<()> {
    let subject = subject(catalog, &options.subject)?;
    let old = match &options.from {
        Some(name) => {
            let path = locate(catalog, name)?;
            Some((path.clone(), read_manifest(&path)?))
        }
        None => nearest(catalog, &subject),
    };
    let inputs = Inputs { catalog, items: OnceCell::new() };
    let explanation = old.as_ref().map(|(path, manifest)| {
        let new = subject.artifact.as_ref().map(|(_, manifest)| manifest);
        explain(&inputs, (path, manifest), &subject.material, new, DEPTH)
    });
    let key = subject.material.key()?;
    let existing = catalog.store.find(&subject.material.stage, &key, "")?;
    if options.format.json {
        let value = json!({
            "stage": subject.material.stage, "key": key, "exists": existing.as_deref().map(json_path),
            "nearest": explanation.as_ref().map(|found| json_path(&found.old)),
            "reasons": explanation.as_ref().map_or_else(Vec::new, |found| found.reasons.iter().map(to_json).collect()),
        });
        return Ok(text::print_json(&value)?);
    }
    let state = if existing.is_some() { "" } else { " (not in the store: the stage would run)" };
    let mut output = format!("{}/{}{state}\n", subject.material.stage, key.short());
    match explanation {
        None => {
            let store = escape(&catalog.store.root().display().to_string());
            writeln!(output, "no other artifact of `{}` in `{store}`", subject.material.stage)
                .expect("writing to a string succeeds");
        }
        Some(found) => {
            let name = found.old.file_name().unwrap_or_default().to_string_lossy().into_owned();
            writeln!(output, "nearest: {}/{}", found.stage, escape(&name))
                .expect("writing to a string succeeds");
            if found.reasons.is_empty() {
                output.push_str("nothing differs: it has the same key\n");
            }
            write_reasons(&mut output, &found.reasons, "  ");
        }
    }
    Ok(text::print(&output)?)
}

/// Reads what is to be explained: a plan from a file or stdin, or an artifact.
fn subject(catalog: &Catalog, name: &str) -> Result<Subject> {
    let path = Path::new(name);
    let is_plan =
        name == "-" || path.is_file() && path.extension().is_some_and(|extension| extension == "json");
    if !is_plan {
        let path = locate(catalog, name)?;
        let manifest = read_manifest(&path)?;
        return Ok(Subject { material: manifest.key_material.clone(), artifact: Some((path, manifest)) });
    }
    let text = if name == "-" {
        let mut text = String::new();
        std::io::stdin().lock().take(MANIFEST_BYTES).read_to_string(&mut text)?;
        text
    } else {
        files::read_text(path, MANIFEST_BYTES)?
    };
    let place = if name == "-" { "stdin" } else { name };
    let plan: Value =
        serde_json::from_str(&text).map_err(|error| bad_file(place, format!("is not JSON: {error}")))?;
    // A plan has the material in a field; the material alone will do.
    let material = plan.get("key_material").unwrap_or(&plan).clone();
    let material = serde_json::from_value(material).map_err(|error| {
        bad_file(place, format!("is not what a stage prints with `--plan --json`: {error}"))
    })?;
    Ok(Subject { material, artifact: None })
}

/// The part of a manifest that is compared; reading it is much faster than checking a whole manifest.
#[derive(Deserialize)]
struct Material {
    key: Key,
    key_material: Value,
}

/// Finds the other artifact of the stage with the fewest differences; of several, the one used last.
fn nearest(catalog: &Catalog, subject: &Subject) -> Option<(PathBuf, Manifest)> {
    let key = subject.material.key().ok()?;
    let new = subject.material.to_value();
    let mut candidates: Vec<(usize, &Entry)> = Vec::new();
    for entry in catalog.entries.iter().filter(|entry| entry.stage == subject.material.stage) {
        let Ok(bytes) = files::read(&entry.path.join("manifest.json"), MANIFEST_BYTES) else { continue };
        let Ok(old) = serde_json::from_slice::<Material>(&bytes) else { continue };
        if old.key != key {
            candidates.push((distance(&old.key_material, &new), entry));
        }
    }
    candidates.sort_by_key(|(distance, entry)| (*distance, std::cmp::Reverse(entry.last_use)));
    candidates
        .into_iter()
        .take(COMPARED)
        .filter_map(|(_, entry)| {
            let manifest = read_manifest(&entry.path).ok()?;
            let count = changes(&manifest.key_material, &subject.material).len();
            Some(((count, std::cmp::Reverse(entry.last_use)), (entry.path.clone(), manifest)))
        })
        .min_by_key(|(order, _)| *order)
        .map(|(_, found)| found)
}

/// Counts the fields that differ, two levels deep: single settings, inputs and numerics.
fn distance(old: &Value, new: &Value) -> usize {
    count_differences(Some(old), Some(new), 2)
}

fn count_differences(old: Option<&Value>, new: Option<&Value>, depth: usize) -> usize {
    match (old, new) {
        (Some(Value::Object(old)), Some(Value::Object(new))) if depth > 0 => {
            let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            names.into_iter().map(|name| count_differences(old.get(name), new.get(name), depth - 1)).sum()
        }
        // A manifest writes 16.0 as 16.
        (Some(Value::Number(old)), Some(Value::Number(new))) => usize::from(old.as_f64() != new.as_f64()),
        (old, new) => usize::from(old != new),
    }
}

/// Finds the artifacts that made an input.
struct Inputs<'a> {
    catalog: &'a Catalog,
    /// Read only if an input differs.
    items: OnceCell<Vec<Item>>,
}

impl Inputs<'_> {
    fn items(&self) -> &[Item] {
        self.items.get_or_init(|| self.catalog.readable_items())
    }

    /// Returns the artifact that `consumer` records as the origin of its input `role`.
    fn recorded(&self, consumer: &Manifest, role: &str) -> Option<&Entry> {
        let key = consumer.inputs.get(role)?.key?;
        self.items().iter().find(|item| item.summary.key == key).map(|item| &item.entry)
    }

    /// Returns an artifact with this content, the one used last if there are several.
    fn with_content(&self, content: InputContent) -> Option<&Entry> {
        let has = |item: &&Item| match content {
            InputContent::Tree(tree) => {
                item.summary.tree == tree || item.summary.outputs.values().any(|output| output.tree == tree)
            }
            InputContent::Manifest(hash) => manifest_hash(&item.entry.path).is_ok_and(|found| found == hash),
        };
        self.items().iter().filter(has).max_by_key(|item| item.entry.last_use).map(|item| &item.entry)
    }
}

/// Explains how `new`, with the origin of its inputs if it is known, differs from the artifact `old`.
fn explain(
    inputs: &Inputs<'_>,
    (old_path, old): (&Path, &Manifest),
    new: &KeyMaterial,
    new_manifest: Option<&Manifest>,
    depth: usize,
) -> Explanation {
    let follow = |change: Change| {
        let Change::Input { role, old: old_content, new: new_content } = &change else {
            return Reason { change, producer: None, because: None };
        };
        let old_entry = inputs.recorded(old, role).or_else(|| inputs.with_content((*old_content)?));
        let new_entry = new_manifest
            .and_then(|manifest| inputs.recorded(manifest, role))
            .or_else(|| inputs.with_content((*new_content)?));
        let (Some(old_entry), Some(new_entry)) = (old_entry, new_entry) else {
            return Reason { change, producer: None, because: None };
        };
        let producer = Some((old_entry.path.clone(), new_entry.path.clone()));
        let manifests = read_manifest(&old_entry.path).ok().zip(read_manifest(&new_entry.path).ok());
        let because = manifests
            .filter(|(old, new)| depth > 0 && old.stage == new.stage && old.key != new.key)
            .map(|(old, new)| {
                explain(inputs, (&old_entry.path, &old), &new.key_material, Some(&new), depth - 1)
            });
        Reason { change, producer, because }
    };
    let reasons = changes(&old.key_material, new).into_iter().map(follow).collect();
    Explanation { stage: old.stage.clone(), old: old_path.to_owned(), reasons }
}

fn write_reasons(output: &mut String, reasons: &[Reason], indent: &str) {
    for reason in reasons {
        write!(output, "{indent}{}", escape(&reason.change.to_string()))
            .expect("writing to a string succeeds");
        if let Some((old, new)) = &reason.producer {
            write!(output, "  ⟵ {} → {}", short_name(old), short_name(new))
                .expect("writing to a string succeeds");
        }
        output.push('\n');
        if let Some(because) = &reason.because {
            write_reasons(output, &because.reasons, &format!("{indent}    "));
        }
    }
}

/// Returns `STAGE/KEY16` of an artifact's folder.
fn short_name(path: &Path) -> String {
    let part = |path: Option<&Path>| {
        path.and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned()
    };
    let name = part(Some(path));
    escape(&format!("{}/{}", part(path.parent()), name.split('-').next().unwrap_or(&name)))
}

fn to_json(reason: &Reason) -> Value {
    let mut value = match &reason.change {
        Change::Input { role, old, new } => {
            json!({"pointer": format!("inputs/{role}"), "old": old, "new": new})
        }
        Change::Value { pointer, old, new } => json!({"pointer": pointer, "old": old, "new": new}),
    };
    if let Some((old, new)) = &reason.producer {
        value["producer"] = json!({"old": json_path(old), "new": json_path(new)});
    }
    if let Some(because) = &reason.because {
        value["because"] = because.reasons.iter().map(to_json).collect::<Vec<_>>().into();
    }
    value
}
