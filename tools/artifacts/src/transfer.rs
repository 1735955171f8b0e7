//! `push` and `pull`: copies artifacts, and what they were made from, to another place and back.
//!
//! Nothing becomes visible before it is complete: a push writes `COMMIT` last, and a pull verifies every byte in a staging folder
//! before the artifact gets its name.

mod pull;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use artifact::{Artifact, Fault, Key, Level, Memo};
use serde_json::json;

use crate::args::Push;
use crate::catalog::{Catalog, read_manifest, total};
use crate::error::{Result, bad_file};
use crate::locate::locate;
use crate::remote::{self, Name, Sent};
use crate::{places, text, verify};

pub(crate) use pull::pull;

/// Counts what was copied.
#[derive(Default)]
struct Tally {
    copied: Vec<String>,
    bytes: u64,
    present: usize,
}

/// Copies artifacts of the store to another place.
pub(crate) fn push(catalog: &Catalog, options: &Push) -> Result<()> {
    if !options.remote.contains("://") {
        places::refuse_the_store(catalog.store.root(), "REMOTE", Path::new(&options.remote))?;
    }
    let remote = remote::open(&options.remote)?;
    let mut paths = if options.artifacts.is_empty() { everything(catalog) } else { Vec::new() };
    let mut missing = BTreeSet::new();
    for name in &options.artifacts {
        with_ancestors(catalog, locate(catalog, name)?, !options.no_lineage, &mut paths, &mut missing)?;
    }
    let mut tally = Tally::default();
    for path in paths {
        crate::signal::check()?;
        let name = Name::of_folder(&path).ok_or_else(|| bad_file(&path, "is not named STAGE/KEY-SLUG"))?;
        let artifact = verified(&path)?;
        tracing::info!("pushing {name}");
        match remote.send(&artifact, &name)? {
            Sent::New => {
                tally.add(&name, total(artifact.manifest().outputs.values().map(|output| output.bytes)));
            }
            Sent::Same => tally.present += 1,
        }
    }
    tally.report("pushed", options.format.json)
}

/// Lists the artifacts of the store; leaves out, with a warning, folders whose names no other store would have.
fn everything(catalog: &Catalog) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for entry in &catalog.entries {
        if Name::parse(&entry.name()).is_some() {
            paths.push(entry.path.clone());
        } else {
            let path = text::escape(&entry.path.display().to_string());
            tracing::warn!("`{path}` has no name of an artifact and is left out");
        }
    }
    paths
}

/// Opens an artifact and verifies every byte, telemetry included, because damage must not spread.
fn verified(path: &Path) -> Result<Artifact> {
    // Open first, so that gc leaves it alone.
    let artifact = Artifact::open_with(path, Level::Size)?;
    let found = artifact::verify(path, Level::Hash, &Memo::beside(path));
    let Some(problem) = found.problems.first() else { return Ok(artifact) };
    let reason = verify::describe(problem);
    if problem.fault == Fault::Unreadable {
        // Says why in a form that decides the exit code.
        Artifact::open_with(path, Level::Hash)?;
        return Err(std::io::Error::other(format!("cannot read `{}`: {reason}", path.display())).into());
    }
    Err(artifact::Error::Damaged { path: path.to_owned(), reason }.into())
}

/// Collects an artifact after those it was made from, as far as they are in the store; warns once of each that is `missing`.
fn with_ancestors(
    catalog: &Catalog,
    path: PathBuf,
    lineage: bool,
    paths: &mut Vec<PathBuf>,
    missing: &mut BTreeSet<Key>,
) -> Result<()> {
    if paths.contains(&path) {
        return Ok(());
    }
    if lineage {
        for record in read_manifest(&path)?.inputs.values() {
            let (Some(stage), Some(key)) = (&record.stage, &record.key) else { continue };
            if let Some(input) = catalog.store.find(stage, key, "")? {
                with_ancestors(catalog, input, true, paths, missing)?;
            } else if missing.insert(*key) {
                tracing::warn!("{stage}/{} is not in the store and is left out", key.short());
            }
        }
    }
    if !paths.contains(&path) {
        paths.push(path);
    }
    Ok(())
}

impl Tally {
    fn add(&mut self, name: &Name, bytes: u64) {
        self.copied.push(name.to_string());
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn report(&self, verb: &str, as_json: bool) -> Result<()> {
        if as_json {
            let value = json!({verb: self.copied, "bytes": self.bytes, "present": self.present});
            return Ok(text::print_json(&value)?);
        }
        let copied = text::count(self.copied.len(), "artifact");
        let line = format!("{verb} {copied} ({}); {} already there\n", text::bytes(self.bytes), self.present);
        Ok(text::print(&line)?)
    }
}
