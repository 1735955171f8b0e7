//! `diff`: how two artifacts differ in settings, metrics, inputs and files.

mod scores;
mod tables;

use std::collections::{BTreeMap, BTreeSet};

use artifact::{Artifact, Change, FileHash, Manifest, changes};
use serde_json::{Value, json};
use stage::json_path;

use crate::args::{Diff, DiffFormat};
use crate::catalog::Catalog;
use crate::error::Result;
use crate::show::open;
use crate::text;

use scores::Interval;

/// A number that both artifacts may have.
#[derive(Debug, Clone)]
struct Metric {
    name: String,
    old: Option<f64>,
    new: Option<f64>,
    /// Interval of the difference, if it could be computed.
    interval: Option<Interval>,
}

impl Metric {
    fn delta(&self) -> Option<f64> {
        Some(self.new? - self.old?)
    }
}

/// A file that is not the same in both artifacts.
#[derive(Debug, Clone)]
struct FileChange {
    path: String,
    old: Option<(u64, FileHash)>,
    new: Option<(u64, FileHash)>,
}

/// All differences.
#[derive(Debug)]
struct Difference {
    old: Artifact,
    new: Artifact,
    settings: Vec<Change>,
    inputs: Vec<Change>,
    metrics: Vec<Metric>,
    files: Vec<FileChange>,
}

/// Prints the differences between two artifacts.
pub(crate) fn run(catalog: &Catalog, options: &Diff) -> Result<()> {
    let difference = compare(open(catalog, &options.old)?, open(catalog, &options.new)?);
    match options.format {
        DiffFormat::Text => Ok(text::print(&tables::text(&difference))?),
        DiffFormat::Markdown => Ok(text::print(&tables::markdown(&difference))?),
        DiffFormat::Json => Ok(text::print_json(&to_json(&difference))?),
    }
}

fn compare(old: Artifact, new: Artifact) -> Difference {
    let all = changes(&old.manifest().key_material, &new.manifest().key_material);
    let (inputs, settings) = all.into_iter().partition(|change| matches!(change, Change::Input { .. }));
    let metrics = scores::with_headlines(scores::metrics(&old, &new), &old, &new);
    let files = files(old.manifest(), new.manifest());
    Difference { old, new, settings, inputs, metrics, files }
}

fn files(old: &Manifest, new: &Manifest) -> Vec<FileChange> {
    let table = |manifest: &Manifest| -> BTreeMap<String, (u64, FileHash)> {
        manifest.files.iter().map(|file| (file.path.clone(), (file.size, file.sha256))).collect()
    };
    let (old, new) = (table(old), table(new));
    let paths: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    paths
        .into_iter()
        .map(|path| FileChange {
            path: path.clone(),
            old: old.get(path).copied(),
            new: new.get(path).copied(),
        })
        .filter(|change| change.old != change.new)
        .collect()
}

fn to_json(difference: &Difference) -> Value {
    let side = |artifact: &Artifact| {
        let manifest = artifact.manifest();
        json!({"path": json_path(artifact.path()), "stage": manifest.stage, "key": manifest.key, "tree": manifest.tree})
    };
    let changes = |changes: &[Change]| -> Vec<Value> {
        changes
            .iter()
            .map(|change| match change {
                Change::Input { role, old, new } => json!({"name": role, "old": old, "new": new}),
                Change::Value { pointer, old, new } => json!({"name": pointer, "old": old, "new": new}),
            })
            .collect()
    };
    let metrics: Vec<Value> = difference
        .metrics
        .iter()
        .map(|metric| {
            let interval = metric.interval.map(|interval| [interval.low, interval.high]);
            let (confidence, is_paired) =
                metric.interval.map(|interval| (interval.confidence, interval.is_paired)).unzip();
            json!({"name": metric.name, "old": metric.old, "new": metric.new, "delta": metric.delta(),
                   "interval": interval, "confidence": confidence, "paired": is_paired})
        })
        .collect();
    let content = |content: &Option<(u64, FileHash)>| {
        content.map(|(bytes, hash)| json!({"bytes": bytes, "sha256": hash}))
    };
    let files: Vec<Value> = difference
        .files
        .iter()
        .map(|file| json!({"path": file.path, "old": content(&file.old), "new": content(&file.new)}))
        .collect();
    json!({
        "old": side(&difference.old), "new": side(&difference.new),
        "identical": difference.old.tree() == difference.new.tree(), "settings": changes(&difference.settings),
        "inputs": changes(&difference.inputs), "metrics": metrics, "files": files,
    })
}
