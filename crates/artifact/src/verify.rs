//! Complete verification of one artifact: every problem, not only the first.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::digest::FileHash;
use crate::error::{Error, Result};
use crate::hashing::{hash_and_remember, hash_or_recall};
use crate::manifest::Manifest;
use crate::memo::Memo;
use crate::os;
use crate::reader::{self, COMMIT, DATA, Level, MANIFEST, PROVENANCE, SUMS, TELEMETRY};
use crate::seal::TELEMETRY_HASHES;
use crate::stamp::Hashed;

/// Folders are not followed deeper; an artifact has at most 16 levels.
const MAX_DEPTH: usize = 20;

/// Outcome of verifying an artifact.
#[derive(Debug, Clone, Default)]
pub struct Verification {
    /// The manifest; `None` if the files that describe the artifact are damaged.
    pub manifest: Option<Manifest>,
    /// Problems found, sorted by path; empty if the artifact is intact.
    pub problems: Vec<Problem>,
    /// Number of data files in the manifest.
    pub files: u64,
    /// Their total length in bytes.
    pub bytes: u64,
    /// Bytes that were read; the hashes of the others were remembered.
    pub hashed_bytes: u64,
}

/// One thing that is wrong with an artifact.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Path below the artifact's folder, such as `data/model/config.json`; empty for the folder itself.
    pub path: String,
    /// Kind of the problem.
    pub fault: Fault,
    /// Description that completes a sentence about the path.
    pub reason: String,
}

/// Kinds of problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A file or folder is missing.
    Missing,
    /// A file or folder does not belong there.
    Added,
    /// A file became a folder, a symlink or a special file, or the other way round.
    Kind,
    /// A file has another length.
    Size,
    /// The bytes of a file have changed.
    Bytes,
    /// The files that describe the artifact are malformed or contradict each other.
    Records,
    /// A file cannot be read, which says nothing about its bytes.
    Unreadable,
    /// The artifact has a format that this version does not know, so nothing else can be said about it.
    Format,
}

impl Verification {
    /// Returns whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }

    fn add(&mut self, path: impl Into<String>, fault: Fault, reason: impl Into<String>) {
        self.problems.push(Problem { path: path.into(), fault, reason: reason.into() });
    }

    fn add_error(&mut self, path: impl Into<String>, error: &Error) {
        let fault = match error {
            Error::Io(_) => Fault::Unreadable,
            Error::UnknownSchema { .. } => Fault::Format,
            Error::NotAnArtifact { .. } => Fault::Missing,
            _ => Fault::Records,
        };
        let reason = match error {
            Error::Damaged { reason, .. } => reason.clone(),
            Error::UnknownSchema { found, expected, .. } => {
                format!(
                    "has the unknown schema `{found}`, expected `{expected}`: another version of Ashlar wrote it"
                )
            }
            error => failure::describe(error),
        };
        self.add(path, fault, reason);
    }
}

/// Verifies the artifact in the folder `path` and lists every problem.
///
/// [`Level::Auto`] takes the hashes of large unchanged files from `memo`; [`Level::Hash`] reads every byte. Both store new
/// hashes in `memo`. From [`Level::Auto`] on, hashes of files in `telemetry/` are checked against `provenance.json`.
pub fn verify(path: &Path, level: Level, memo: &Memo) -> Verification {
    let mut found = Verification::default();
    match reader::why_no_artifact(path) {
        Ok(None) => {}
        Ok(Some(reason)) => {
            found.add("", Fault::Missing, reason);
            return found;
        }
        Err(error) => {
            found.add_error("", &error);
            return found;
        }
    }
    match reader::misplaced(path) {
        Ok(misplaced) => {
            for (name, reason) in misplaced {
                let known = [COMMIT, SUMS, MANIFEST, PROVENANCE, DATA, TELEMETRY].contains(&name.as_str());
                found.add(name, if known { Fault::Kind } else { Fault::Added }, reason);
            }
        }
        Err(error) => found.add_error("", &error),
    }
    match reader::read_committed(path) {
        Ok((manifest, _)) => {
            check_data(path, &manifest, level, memo, &mut found);
            if level != Level::Size {
                check_telemetry(path, &mut found);
            }
            found.manifest = Some(manifest);
        }
        Err(error @ Error::UnknownSchema { .. }) => {
            // A later format may have other files.
            found.problems.clear();
            found.add_error(MANIFEST, &error);
        }
        Err(error) => found.add_error(COMMIT, &error),
    }
    found.problems.sort();
    found.problems.dedup();
    found
}

/// Compares the data files with the manifest.
fn check_data(root: &Path, manifest: &Manifest, level: Level, memo: &Memo, found: &mut Verification) {
    let mut listing = Listing::default();
    list(root, DATA, 0, &mut listing);
    found.problems.append(&mut listing.problems);
    let expected: BTreeSet<String> =
        manifest.files.iter().map(|file| format!("{DATA}/{}", file.path)).collect();
    for path in listing.files.keys().filter(|path| !expected.contains(*path)) {
        found.add(path, Fault::Added, "is not in the manifest");
    }
    let mut jobs = Vec::new();
    for file in &manifest.files {
        found.files += 1;
        found.bytes = found.bytes.saturating_add(file.size);
        let path = format!("{DATA}/{}", file.path);
        match listing.files.get(&path) {
            Some(&size) if size == file.size => jobs.push((path, file.size, file.sha256)),
            Some(size) => {
                found.add(path, Fault::Size, format!("has {size} bytes, the manifest says {}", file.size));
            }
            None if listing.other.contains(&path) => {} // reported already
            None => found.add(path, Fault::Missing, "is missing"),
        }
    }
    check_bytes(root, jobs, level, memo, found);
}

/// Compares the bytes of files, given with sizes and hashes.
fn check_bytes(
    root: &Path,
    files: Vec<(String, u64, FileHash)>,
    level: Level,
    memo: &Memo,
    found: &mut Verification,
) {
    let jobs: Vec<(PathBuf, u64)> = files.iter().map(|(path, size, _)| (root.join(path), *size)).collect();
    let hashes: Vec<Result<Hashed>> = match level {
        Level::Size => return,
        Level::Auto => hash_or_recall(&jobs, memo),
        Level::Hash => hash_and_remember(&jobs, memo),
    };
    for ((path, _, sha256), hashed) in files.into_iter().zip(hashes) {
        match hashed {
            Ok(hashed) => {
                found.hashed_bytes += hashed.read;
                if hashed.sha256 != sha256 {
                    found.add(path, Fault::Bytes, "has other bytes than when it was published");
                }
            }
            Err(error) => found.add_error(path, &error),
        }
    }
}

/// Compares the files in `telemetry/`, which may be missing as a whole, with their names and hashes in `provenance.json`.
fn check_telemetry(root: &Path, found: &mut Verification) {
    if !root.join(TELEMETRY).is_dir() {
        return;
    }
    let provenance = os::read(&root.join(PROVENANCE)).ok();
    let provenance: Value =
        provenance.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let hashes = provenance[TELEMETRY_HASHES].as_object();
    let names = telemetry_names(&provenance);
    let mut listing = Listing::default();
    list(root, TELEMETRY, 0, &mut listing);
    found.problems.append(&mut listing.problems);
    for path in listing.files.keys() {
        if !path.strip_prefix("telemetry/").is_some_and(|name| names.contains(name)) {
            found.add(path, Fault::Added, "is not in `provenance.json`");
        }
    }
    let mut jobs = Vec::new();
    for name in names {
        let path = format!("{TELEMETRY}/{name}");
        let Some(&size) = listing.files.get(&path) else {
            found.add(path, Fault::Missing, "is missing");
            continue;
        };
        // Artifacts of the first programs have names only.
        let Some(hashes) = hashes else { continue };
        match hashes.get(name).and_then(Value::as_str).and_then(|hash| hash.parse().ok()) {
            Some(hash) => jobs.push((path, size, hash)),
            None => found.add(path, Fault::Records, "has no hash in `provenance.json`"),
        }
    }
    check_bytes(root, jobs, Level::Hash, &Memo::default(), found);
}

/// Returns the names of the files in `telemetry/` that a `provenance.json` lists, with or without hashes.
pub fn telemetry_names(provenance: &Value) -> BTreeSet<&str> {
    let listed = provenance[TELEMETRY].as_array().into_iter().flatten().filter_map(Value::as_str);
    let hashed = provenance[TELEMETRY_HASHES].as_object().into_iter().flatten();
    listed.chain(hashed.map(|(name, _)| name.as_str())).collect()
}

/// Contents of a folder of an artifact.
#[derive(Default)]
struct Listing {
    /// Sizes of the regular files, by path.
    files: BTreeMap<String, u64>,
    /// Everything else that is not a folder.
    other: BTreeSet<String>,
    problems: Vec<Problem>,
}

impl Listing {
    fn add(&mut self, path: &str, fault: Fault, reason: impl Into<String>) {
        self.problems.push(Problem { path: path.to_owned(), fault, reason: reason.into() });
    }
}

/// Lists the folder `path` below `root` without following links.
fn list(root: &Path, path: &str, depth: usize, found: &mut Listing) {
    let entries = match os::entries(&root.join(path)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return found.add(path, Fault::Missing, "is missing");
        }
        Err(error) => return found.add(path, Fault::Unreadable, failure::describe(&error)),
    };
    let is_empty = entries.is_empty();
    for entry in entries {
        let looked =
            entry.file_type().and_then(|kind| Ok((entry.file_name(), kind, entry.metadata()?.len())));
        let (name, kind, size) = match looked {
            Ok(looked) => looked,
            Err(error) => return found.add(path, Fault::Unreadable, failure::describe(&error)),
        };
        let below = format!("{path}/{}", name.display());
        if kind.is_dir() && depth < MAX_DEPTH {
            list(root, &below, depth + 1, found);
        } else if kind.is_file() {
            found.files.insert(below, size);
        } else {
            let reason = if kind.is_symlink() { "is a symlink" } else { "is neither a file nor a folder" };
            found.add(&below, Fault::Kind, reason);
            found.other.insert(below);
        }
    }
    if is_empty && path != DATA {
        found.add(path, Fault::Added, "is an empty folder");
    }
}
