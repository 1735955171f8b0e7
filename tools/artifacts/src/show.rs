//! `show`: everything that an artifact says about itself; `path`: only where it is.

use std::fmt::Write as _;
use std::path::Path;

use artifact::{Artifact, InputRecord, Level, Manifest};
use serde_json::{Value, json};
use stage::json_path;

use crate::catalog::Catalog;
use crate::error::{Error, Result, bad_file};
use crate::locate::locate;
use crate::text::{self, Align, Table, escape};

/// Longest value of a setting that is shown whole, in characters.
const VALUE_WIDTH: usize = 80;

/// Prints the path of an artifact, or of one of its outputs.
pub(crate) fn path(catalog: &Catalog, name: &str, output: Option<&str>) -> Result<()> {
    let path = locate(catalog, name)?;
    let artifact = Artifact::open_with(&path, Level::Size)?;
    let shown = match output {
        None => path,
        Some(output) => artifact.output_dir(output).ok_or_else(|| {
            let names: Vec<&str> = artifact.manifest().outputs.keys().map(String::as_str).collect();
            bad_file(&path, format!("has no output `{output}`, only {}", names.join(", ")))
        })?,
    };
    Ok(text::print_path(&shown)?)
}

/// Prints an artifact.
pub(crate) fn run(catalog: &Catalog, name: &str, as_json: bool) -> Result<()> {
    let path = locate(catalog, name)?;
    let artifact = Artifact::open_with(&path, Level::Size)?;
    let provenance = artifact.provenance()?;
    let labels = catalog.labels()?.remove(&artifact.manifest().key).unwrap_or_default();
    let users = users(catalog, artifact.manifest());
    if as_json {
        let value = json!({
            "path": json_path(&path), "manifest": artifact.manifest(), "provenance": provenance, "labels": labels,
            "used_by": users,
        });
        return Ok(text::print_json(&value)?);
    }
    let mut output = String::new();
    identity(&mut output, &path, artifact.manifest(), &labels);
    settings(&mut output, artifact.manifest());
    outputs(&mut output, artifact.manifest());
    origin(&mut output, artifact.manifest(), &users);
    run_facts(&mut output, &provenance);
    Ok(text::print(&output)?)
}

fn identity(output: &mut String, path: &Path, manifest: &Manifest, labels: &[String]) {
    let mut line = |name: &str, value: &str| {
        writeln!(output, "{name:<10} {}", escape(value)).expect("writing to a string succeeds");
    };
    line("artifact", &path.display().to_string());
    line("stage", &format!("{}, version {}", manifest.stage, manifest.stage_version));
    line("key", &manifest.key.to_string());
    line("tree", &manifest.tree.to_string());
    if let Some(segment) = &manifest.key_material.segment {
        line("segment", &format!("stops at {segment}; other stages do not read it"));
    }
    if !labels.is_empty() {
        line("labels", &labels.join(", "));
    }
    let determinism = serde_json::to_value(&manifest.determinism).unwrap_or_default();
    let same = match determinism.get("claim").and_then(Value::as_str) {
        Some("bit-exact") => "same bytes on every machine",
        Some("backend") => "same bytes with equal numerics",
        _ => "no promise of the same bytes",
    };
    line("bytes", same);
    for (name, value) in &manifest.key_material.numerics {
        line(name, value);
    }
}

/// Lists the settings that differ from their defaults, then the names of the others.
fn settings(output: &mut String, manifest: &Manifest) {
    let Some(config) = manifest.key_material.config.as_object().filter(|config| !config.is_empty()) else {
        return;
    };
    let defaults = manifest.other.get("config_defaults");
    let default_of = |name: &str| defaults.and_then(|defaults| defaults.get(name));
    let (kept, changed): (Vec<_>, Vec<_>) =
        config.iter().partition(|(name, value)| default_of(name) == Some(value));
    output.push_str("\nsettings that differ from the defaults\n");
    if changed.is_empty() {
        output.push_str("  none\n");
    }
    for (name, value) in changed {
        let default =
            default_of(name).map(|value| format!("  (default {})", short(value))).unwrap_or_default();
        let line = escape(&format!("  {name} = {}{default}", short(value)));
        writeln!(output, "{line}").expect("writing to a string succeeds");
    }
    if !kept.is_empty() {
        let names: Vec<&str> = kept.iter().map(|(name, _)| name.as_str()).collect();
        writeln!(output, "  at their defaults: {}", escape(&names.join(", "))).expect("writing succeeds");
    }
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= VALUE_WIDTH {
        return text;
    }
    text.chars().take(VALUE_WIDTH - 1).chain(['…']).collect()
}

fn outputs(output: &mut String, manifest: &Manifest) {
    let columns =
        [("output", Align::Left), ("files", Align::Right), ("size", Align::Right), ("tree", Align::Left)];
    let mut table = Table::new(&columns);
    for (name, found) in &manifest.outputs {
        table.row([name.clone(), found.files.to_string(), text::bytes(found.bytes), found.tree.short()]);
    }
    output.extend(["\n", &table.text()]);
    if !manifest.metrics.is_empty() {
        output.push_str("\nmetrics\n");
        for (name, value) in &manifest.metrics {
            writeln!(output, "  {} {}", escape(name), escape(value)).expect("writing to a string succeeds");
        }
    }
}

fn origin(output: &mut String, manifest: &Manifest, users: &[String]) {
    if !manifest.inputs.is_empty() {
        output.push_str("\ninputs\n");
        for (role, record) in &manifest.inputs {
            writeln!(output, "  {} ← {}", escape(role), escape(&origin_of(record)))
                .expect("writing to a string succeeds");
        }
    }
    if !users.is_empty() {
        output.push_str("\nused by\n");
        for user in users {
            writeln!(output, "  {}", escape(user)).expect("writing to a string succeeds");
        }
    }
}

/// Describes where an input came from.
pub(crate) fn origin_of(record: &InputRecord) -> String {
    match (&record.stage, &record.key) {
        (Some(stage), Some(key)) => match &record.output {
            Some(output) => format!("{stage}/{} {output}", key.short()),
            None => format!("{stage}/{}", key.short()),
        },
        _ => format!("plain files, tree {}", record.tree.short()),
    }
}

fn run_facts(output: &mut String, provenance: &Value) {
    let text = |pointer: &str| match provenance.pointer(pointer) {
        Some(Value::String(text)) => Some(text.clone()),
        Some(value) if !value.is_null() => Some(value.to_string()),
        _ => None,
    };
    let facts = [
        (
            "program",
            text("/tool/name").zip(text("/tool/version")).map(|(name, version)| format!("{name} {version}")),
        ),
        ("revision", text("/tool/revision").or_else(|| text("/git/revision"))),
        ("started", text("/start")),
        ("took", text("/wall_seconds").map(|seconds| format!("{seconds} s"))),
        (
            "memory",
            provenance["peak_memory_bytes"].as_u64().map(|bytes| format!("{} at most", text::bytes(bytes))),
        ),
        ("machine", text("/cpu").or_else(|| text("/platform/arch"))),
        ("resumed", text("/resumed")),
    ];
    output.push_str("\nrun\n");
    for (name, value) in facts {
        if let Some(value) = value {
            writeln!(output, "  {name:<9} {}", escape(&value)).expect("writing to a string succeeds");
        }
    }
}

/// Lists the artifacts of the store that read this one.
fn users(catalog: &Catalog, manifest: &Manifest) -> Vec<String> {
    let (items, _) = catalog.items();
    let reads = |record: &InputRecord| {
        record.key == Some(manifest.key) && record.stage.as_ref() == Some(&manifest.stage)
    };
    items
        .iter()
        .filter(|item| item.summary.inputs.values().any(reads))
        .map(|item| item.entry.name())
        .collect()
}

/// Opens the artifact that a word names, without reading its data.
pub(crate) fn open(catalog: &Catalog, name: &str) -> Result<Artifact> {
    let path = locate(catalog, name)?;
    Artifact::open_with(&path, Level::Size).map_err(Error::from)
}
