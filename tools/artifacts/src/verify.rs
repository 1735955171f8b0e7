//! `verify`: reads artifacts again and compares every byte with the hashes that were made when they were published.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use artifact::{Fault, InputRecord, Key, Level, Manifest, Problem, Store, Wait};
use serde_json::{Value, json};
use stage::json_path;

use crate::args::Verify;
use crate::catalog::{Catalog, Entry, read_hashed_manifest};
use crate::error::{Error, Result};
use crate::fits::fits;
use crate::locate::locate;
use crate::roots::Kept;
use crate::verified::{self, Identity};
use crate::{show, text};

/// Number of problems of an artifact that are listed in text.
const LISTED: usize = 3;
/// Longest wait for a run that makes a damaged artifact again.
const PATIENCE: Duration = Duration::from_secs(10);
/// Exit bit: an artifact is damaged.
const DAMAGED: u8 = 1;
/// Exit bit: something that should be there is missing or was replaced, or something else is among the artifacts.
const MISSING: u8 = 2;
/// Exit bit: something could not be read.
const UNREADABLE: u8 = 4;

/// Something wrong.
#[derive(Debug)]
struct Finding {
    bit: u8,
    path: PathBuf,
    message: String,
}

impl Finding {
    /// Returns the finding with one more part of its sentence.
    fn and(self, more: &str) -> Self {
        Self { message: format!("{}; {more}", self.message), ..self }
    }
}

/// Verifies artifacts and returns the exit code, the sum of bits.
pub(crate) fn run(catalog: &Catalog, options: &Verify, as_json: bool) -> Result<u8> {
    let began = Instant::now();
    let targets = targets(catalog, options)?;
    let mut findings = Vec::new();
    let (mut verified, mut bytes) = (0_usize, 0_u64);
    let mut stopped = None;
    for (index, path) in targets.iter().enumerate() {
        if options.time_limit.is_some_and(|limit| began.elapsed() >= limit) {
            let left = text::count(targets.len() - index, "artifact");
            tracing::info!("time limit reached; {left} not verified (continue with `--incremental`)");
            break;
        }
        match verify(catalog, path, options) {
            Ok(size) => {
                verified += 1;
                bytes = bytes.saturating_add(size);
            }
            // Removed by gc since it was listed.
            Err(_) if path.symlink_metadata().is_err() && options.artifacts.is_empty() => {}
            Err(finding) => findings.push(quarantined(catalog, path, options, finding)),
        }
        stopped = crate::signal::stopped();
        if stopped.is_some() {
            break;
        }
    }
    if options.artifacts.is_empty() && stopped.is_none() {
        findings.extend(dangling(catalog));
    }
    let seconds = began.elapsed().as_secs_f64();
    let code = findings.iter().fold(0, |code, finding| code | finding.bit);
    report(&findings, verified, bytes, seconds, as_json)?;
    stopped.map_or(Ok(code), |signal| Err(Error::Stopped { signal }))
}

fn report(findings: &[Finding], verified: usize, bytes: u64, seconds: f64, as_json: bool) -> Result<()> {
    let kind = |bit: u8| match bit {
        MISSING => "missing",
        UNREADABLE => "unreadable",
        _ => "damaged",
    };
    if as_json {
        let list: Vec<Value> = findings
            .iter()
            .map(|found| json!({"kind": kind(found.bit), "path": json_path(&found.path), "message": found.message}))
            .collect();
        let value = json!({"verified": verified, "bytes": bytes, "seconds": seconds, "findings": list});
        return Ok(text::print_json(&value)?);
    }
    let mut output = String::new();
    for finding in findings {
        output.push_str(&text::escape(&format!("{}: {}", kind(finding.bit), finding.message)));
        output.push('\n');
    }
    let good = text::count(verified, "artifact");
    write!(output, "verified {good}, {} in {seconds:.1} s", text::bytes(bytes))
        .expect("writing to a string succeeds");
    if !findings.is_empty() {
        write!(output, "; {}", text::count(findings.len(), "problem")).expect("writing to a string succeeds");
    }
    output.push('\n');
    Ok(text::print(&output)?)
}

/// Returns the artifacts to verify, with `--incremental` those first whose verification is oldest.
fn targets(catalog: &Catalog, options: &Verify) -> Result<Vec<PathBuf>> {
    if !options.artifacts.is_empty() {
        // A damaged artifact may lack the file by which it is recognized.
        let find = |name: &String| {
            let path = Path::new(name);
            if name.contains('/') && path.is_dir() { Ok(path.to_owned()) } else { locate(catalog, name) }
        };
        return options.artifacts.iter().map(find).collect();
    }
    let mut entries: Vec<(Option<SystemTime>, &Entry)> =
        catalog.entries.iter().map(|entry| (verified::last(&catalog.store, entry), entry)).collect();
    if options.incremental {
        entries.sort_by_key(|(time, entry)| (*time, entry.name()));
        let now = artifact::now();
        let is_due = |time: &Option<SystemTime>| {
            time.is_none_or(|time| now.duration_since(time).map_or(true, |age| age >= options.max_age))
        };
        entries.retain(|(time, _)| is_due(time));
    }
    Ok(entries.into_iter().map(|(_, entry)| entry.path.clone()).collect())
}

/// Verifies one artifact; returns the number of its data bytes.
fn verify(catalog: &Catalog, path: &Path, options: &Verify) -> Result<u64, Finding> {
    let level = Level::from(options.level);
    let identity = Identity::of(path);
    let found = artifact::verify(path, level, &catalog.store.memo());
    let manifest = match &found.manifest {
        Some(manifest) if found.is_sound() => manifest,
        _ => return Err(blame(path, &found.problems)),
    };
    if let Some(place) = place_in(path, catalog.store.root()) {
        check_name(path, &place, manifest)?;
        check_inputs(&catalog.store, path, manifest)?;
        if let Some(identity) = identity.filter(|_| level == Level::Hash) {
            verified::note(&catalog.store, &manifest.stage, &manifest.key, &identity);
        }
    }
    Ok(found.bytes)
}

/// Returns `path` without links if that is `root/STAGE/NAME`, however both are written.
fn place_in(path: &Path, root: &Path) -> Option<PathBuf> {
    let (path, root) = (absolute(path)?, absolute(root)?);
    (path.parent()?.parent()? == root).then_some(path)
}

fn absolute(path: &Path) -> Option<PathBuf> {
    fs_err::canonicalize(path).ok()
}

/// Checks that an artifact in the store, at `place`, has the name of its stage and key.
fn check_name(path: &Path, place: &Path, manifest: &Manifest) -> Result<(), Finding> {
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    let stage = place.parent().and_then(Path::file_name).unwrap_or_default();
    if name.starts_with(&format!("{}-", manifest.key.short())) && stage == manifest.stage.as_str() {
        return Ok(());
    }
    let message = format!("`{}` is named like another artifact", path.display());
    Err(Finding { bit: DAMAGED, path: path.to_owned(), message })
}

/// Checks that what an artifact was made from is in the store.
fn check_inputs(store: &Store, path: &Path, manifest: &Manifest) -> Result<(), Finding> {
    for (role, record) in &manifest.inputs {
        if let Some(problem) = input_problem(store, manifest, role, record) {
            let origin = show::origin_of(record);
            let message = format!("`{}`: its input `{role}` ({origin}) {problem}", path.display());
            return Err(Finding { bit: MISSING, path: path.to_owned(), message });
        }
    }
    Ok(())
}

/// Returns what is wrong with an input, as the end of a sentence.
fn input_problem(
    store: &Store,
    manifest: &Manifest,
    role: &str,
    record: &InputRecord,
) -> Option<&'static str> {
    let (Some(stage), Some(key)) = (&record.stage, &record.key) else { return None };
    let Some(origin) = store.find(stage, key, "").ok()? else { return Some("is not in the store") };
    // An origin that cannot be read is a finding of its own.
    let (origin, hash) = read_hashed_manifest(&origin).ok()?;
    (!fits(manifest, role, &origin, hash)).then_some("has other bytes than those it was made from")
}

/// Sums up the problems of an artifact.
fn blame(path: &Path, problems: &[Problem]) -> Finding {
    let bit = problems.iter().fold(0, |bits, problem| {
        bits | if matches!(problem.fault, Fault::Unreadable | Fault::Format) { UNREADABLE } else { DAMAGED }
    });
    let mut parts: Vec<String> = problems.iter().take(LISTED).map(describe).collect();
    if problems.len() > LISTED {
        parts.push(format!("and {} more", problems.len() - LISTED));
    }
    let message = format!("`{}`: {}", path.display(), parts.join("; "));
    Finding { bit, path: path.to_owned(), message }
}

/// Returns a sentence about a problem. A reason that begins with the name of a file is a sentence already.
pub(crate) fn describe(problem: &Problem) -> String {
    if problem.path.is_empty() || problem.reason.starts_with('`') {
        problem.reason.clone()
    } else {
        format!("`{}` {}", problem.path, problem.reason)
    }
}

/// Moves a damaged artifact to quarantine if that was asked for.
fn quarantined(catalog: &Catalog, path: &Path, options: &Verify, finding: Finding) -> Finding {
    if !options.quarantine || finding.bit & DAMAGED == 0 {
        return finding;
    }
    let Some(entry) = entry_at(catalog, path) else {
        return finding.and("not moved: it is not in this store");
    };
    let (store, key) = (&catalog.store, entry.folder_key());
    let lock = store.lock(&entry.stage, &key, Wait::AtMost(PATIENCE), &mut |_| {}, &|| false);
    if let Err(error) = &lock {
        return finding.and(&format!("not moved: {}", failure::describe(error)));
    }
    // Another process may have replaced it by a sound one.
    let finding = match verify(catalog, path, options) {
        Err(again) if again.bit & DAMAGED != 0 => again,
        _ => return finding.and("another process has just replaced it"),
    };
    match store.quarantine(&entry.path, &entry.stage, &key, "damaged") {
        Ok(moved) => finding.and(&format!("moved to `{}`", moved.display())),
        Err(error) => {
            let finding = finding.and(&format!("cannot move it: {}", failure::describe(&error)));
            Finding { bit: finding.bit | UNREADABLE, ..finding }
        }
    }
}

/// Finds the artifact of the store at `path`, however that is written.
fn entry_at<'a>(catalog: &'a Catalog, path: &Path) -> Option<&'a Entry> {
    let place = absolute(path)?;
    let has_name = |entry: &&Entry| entry.path.file_name() == place.file_name();
    catalog.entries.iter().filter(has_name).find(|entry| absolute(&entry.path).as_ref() == Some(&place))
}

/// Finds labels and kept runs whose artifact is gone or that cannot be read, and strangers among the artifacts.
fn dangling(catalog: &Catalog) -> Vec<Finding> {
    let mut findings: Vec<Finding> = catalog
        .strays
        .iter()
        .map(|path| {
            let message = format!("`{}` is not an artifact", path.display());
            Finding { bit: MISSING, path: path.clone(), message }
        })
        .collect();
    let store = &catalog.store;
    let refs = store.root().join("refs");
    match crate::catalog::names(&refs) {
        Ok(names) => {
            findings.extend(names.iter().filter_map(|name| label_problem(store, name, refs.join(name))));
        }
        Err(error) => findings.push(cannot_read(refs, &error)),
    }
    match crate::roots::kept_files(store) {
        Ok(files) => {
            findings.extend(files.into_iter().filter_map(|(path, kept)| kept_problem(store, path, kept)));
        }
        Err(error) => findings.push(cannot_read(store.root().join(".kept"), &error)),
    }
    findings
}

/// Returns what is wrong with a label, whose file is `path`.
fn label_problem(store: &Store, name: &str, path: PathBuf) -> Option<Finding> {
    let target = match store.read_ref(name) {
        Ok(target) => target?,
        Err(error) => return Some(cannot_read(path, &error.into())),
    };
    let gone = format!("label `{name}` names {}/{}, which is gone", target.stage, target.key.short());
    is_gone(store, &target.stage, &target.key, path, gone)
}

/// Returns what is wrong with a file of a kept artifact.
fn kept_problem(store: &Store, path: PathBuf, kept: Result<Kept>) -> Option<Finding> {
    match kept {
        Ok(kept) => {
            is_gone(store, &kept.stage, &kept.key, path, format!("{} is kept, but is gone", kept.name()))
        }
        Err(error) => Some(cannot_read(path, &error)),
    }
}

/// Returns the finding `gone` if an artifact that the file `path` names is not in the store.
fn is_gone(store: &Store, stage: &str, key: &Key, path: PathBuf, gone: String) -> Option<Finding> {
    match store.find(stage, key, "") {
        Ok(Some(_)) => None,
        Ok(None) => Some(Finding { bit: MISSING, path, message: gone }),
        Err(error) => Some(cannot_read(path, &error.into())),
    }
}

/// Makes the finding for a record that does not say what it should, or cannot be read.
fn cannot_read(path: PathBuf, error: &Error) -> Finding {
    let is_io = matches!(error, Error::Io(_) | Error::Artifact(artifact::Error::Io(_)));
    let bit = if is_io { UNREADABLE } else { DAMAGED };
    Finding { bit, path, message: failure::describe(error) }
}
