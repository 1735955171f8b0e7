//! `status`: what a store holds, what is left over in it, and what the pointers of pipelines name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Value, json};
use stage::json_path;

use crate::catalog::{Catalog, names};
use crate::error::Result;
use crate::leftovers::{self, Kind, Leftover};
use crate::roots::{self, Pointer};
use crate::text::{self, Align, Table, escape};

/// Artifacts of one stage.
#[derive(Debug, Default)]
struct Tally {
    artifacts: usize,
    bytes: u64,
    last_use: Option<SystemTime>,
}

/// Prints the state of a store.
pub(crate) fn run(catalog: &Catalog, pointers: &[PathBuf], as_json: bool) -> Result<()> {
    let root = catalog.store.root();
    let mut stages: Vec<(String, Tally)> = Vec::new();
    let (items, unreadable) = catalog.items();
    for item in &items {
        if stages.last().is_none_or(|(stage, _)| *stage != item.entry.stage) {
            stages.push((item.entry.stage.clone(), Tally::default()));
        }
        let (_, tally) = stages.last_mut().expect("one was pushed");
        tally.artifacts += 1;
        tally.bytes = tally.bytes.saturating_add(item.summary.bytes());
        tally.last_use = tally.last_use.max(Some(item.entry.last_use));
    }
    let leftovers = leftovers::find(root)?;
    let labels = names(&root.join("refs"))?;
    let kept = roots::kept(&catalog.store)?;
    let mut pointers = roots::pointers(pointers)?;
    pointers.retain(roots::Pointer::is_written);
    let free = free_bytes(root);
    if as_json {
        let stages: Vec<Value> = stages
            .iter()
            .map(|(stage, tally)| {
                json!({"stage": stage, "artifacts": tally.artifacts, "bytes": tally.bytes,
                       "last_use": tally.last_use.map(artifact::format_utc)})
            })
            .collect();
        let unreadable: Vec<_> = unreadable.iter().map(|(entry, _)| entry.name()).collect();
        let strays: Vec<Value> = catalog.strays.iter().map(|path| json_path(path)).collect();
        let kept: Vec<_> = kept.iter().map(roots::Kept::name).collect();
        let value = json!({
            "store": json_path(root), "stages": stages, "unreadable": unreadable, "strays": strays, "labels": labels,
            "kept": kept, "leftovers": leftovers.iter().map(leftover_json).collect::<Vec<_>>(),
            "pointers": pointers.iter().map(pointer_json).collect::<Vec<_>>(), "free_bytes": free,
        });
        return Ok(text::print_json(&value)?);
    }
    let mut output = stage_table(root, &stages);
    let mut line = |text: &str| output.extend([escape(text).as_str(), "\n"]);
    for (entry, error) in &unreadable {
        line(&format!("unreadable: {}: {}", entry.name(), failure::describe(error)));
    }
    for stray in &catalog.strays {
        line(&format!("not an artifact: {}", stray.display()));
    }
    if !labels.is_empty() {
        line(&format!("labels      {}", labels.join(", ")));
    }
    if !kept.is_empty() {
        line(&format!("kept        {}", kept.iter().map(roots::Kept::name).collect::<Vec<_>>().join(", ")));
    }
    for summary in leftover_lines(&leftovers) {
        line(&summary);
    }
    for pointer in &pointers {
        let state = if pointer.exists() { "" } else { "  (missing: run the pipeline again)" };
        line(&format!("pointer     {} → {}{state}", pointer.file.display(), pointer.target.display()));
    }
    if let Some(free) = free {
        line(&format!("free space  {}", text::bytes(free)));
    }
    Ok(text::print(&output)?)
}

fn stage_table(root: &Path, stages: &[(String, Tally)]) -> String {
    let now = artifact::now();
    let columns =
        [("stage", Align::Left), ("artifacts", Align::Right), ("size", Align::Right), ("used", Align::Left)];
    let mut table = Table::new(&columns);
    let mut all = Tally::default();
    for (stage, tally) in stages {
        all.artifacts += tally.artifacts;
        all.bytes = all.bytes.saturating_add(tally.bytes);
        let used = tally.last_use.map(|time| text::age(time, now)).unwrap_or_default();
        table.row([stage.clone(), tally.artifacts.to_string(), text::bytes(tally.bytes), used]);
    }
    if table.is_empty() {
        return format!("no artifacts in `{}`\n", escape(&root.display().to_string()));
    }
    table.row(["total".to_owned(), all.artifacts.to_string(), text::bytes(all.bytes), String::new()]);
    format!("store `{}`\n\n{}\n", escape(&root.display().to_string()), table.text())
}

/// Summarizes leftovers by kind.
fn leftover_lines(leftovers: &[Leftover]) -> Vec<String> {
    let mut by_kind = BTreeMap::<Kind, (usize, u64)>::new();
    for leftover in leftovers {
        let (number, bytes) = by_kind.entry(leftover.kind).or_default();
        *number += 1;
        *bytes = bytes.saturating_add(leftover.bytes);
    }
    by_kind
        .iter()
        .map(|(kind, (number, bytes))| format!("{:<11} {number} ({})", kind.plural(), text::bytes(*bytes)))
        .collect()
}

fn leftover_json(leftover: &Leftover) -> Value {
    json!({"kind": leftover.kind.name(), "path": json_path(&leftover.path), "bytes": leftover.bytes,
           "modified": artifact::format_utc(leftover.modified)})
}

fn pointer_json(pointer: &Pointer) -> Value {
    json!({"file": json_path(&pointer.file), "artifact": json_path(&pointer.target), "exists": pointer.exists()})
}

fn free_bytes(root: &Path) -> Option<u64> {
    let existing = root.ancestors().find(|path| path.exists())?;
    let stat =
        rustix::fs::statvfs(if existing.as_os_str().is_empty() { Path::new(".") } else { existing }).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}
