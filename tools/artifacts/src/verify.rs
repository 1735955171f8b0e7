//! `verify`: reads artifacts again and compares every byte with the hashes that were made when they were published.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use artifact::{Fault, InputRecord, Key, Level, Problem, Store, Wait, atomic};
use serde_json::{Value, json};

use crate::args::Verify;
use crate::catalog::{Catalog, Entry};
use crate::error::{Error, Result};
use crate::locate::locate;
use crate::text;

/// Folder of the store with the time of each artifact's last complete verification.
const VERIFIED: &str = ".verified";
/// Number of problems of an artifact that are listed in text.
const LISTED: usize = 3;
/// Longest wait for a run that makes a damaged artifact again.
const PATIENCE: Duration = Duration::from_secs(10);
/// Exit bit: an artifact is damaged.
const DAMAGED: u8 = 1;
/// Exit bit: something that should be there is missing, or something else is among the artifacts.
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

/// Verifies artifacts and returns the exit code, the sum of bits.
pub(crate) fn run(catalog: &Catalog, options: &Verify, as_json: bool) -> Result<u8> {
    let began = Instant::now();
    let targets = targets(catalog, options)?;
    let mut findings = Vec::new();
    let (mut verified, mut bytes) = (0_usize, 0_u64);
    for (index, path) in targets.iter().enumerate() {
        if options.time_limit.is_some_and(|limit| began.elapsed() >= limit) {
            let left = text::count(targets.len() - index, "artifact");
            tracing::info!("time limit reached; {left} not verified (continue with `--incremental`)");
            break;
        }
        match verify(catalog, path, options) {
            Ok(size) => {
                verified += 1;
                bytes += size;
            }
            // Removed by gc since it was listed.
            Err(_) if path.symlink_metadata().is_err() && options.artifacts.is_empty() => {}
            Err(finding) => findings.push(quarantined(catalog, path, options, finding)),
        }
        if let Some(signal) = crate::signal::stopped() {
            return Err(Error::Stopped { signal });
        }
    }
    if options.artifacts.is_empty() {
        findings.extend(dangling(catalog)?);
    }
    let seconds = began.elapsed().as_secs_f64();
    let code = findings.iter().fold(0, |code, finding| code | finding.bit);
    report(&findings, verified, bytes, seconds, as_json)?;
    Ok(code)
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
            .map(|found| json!({"kind": kind(found.bit), "path": found.path, "message": found.message}))
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
        catalog.entries.iter().map(|entry| (last_verified(&catalog.store, entry), entry)).collect();
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
    let found = artifact::verify(path, level, &catalog.store.memo());
    let manifest = match &found.manifest {
        Some(manifest) if found.is_sound() => manifest,
        _ => return Err(blame(path, &found.problems)),
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let parent = path.parent().and_then(Path::file_name).unwrap_or_default();
    let in_store = is_in(path, catalog.store.root());
    if in_store
        && (!name.starts_with(&format!("{}-", manifest.key.short())) || parent != manifest.stage.as_str())
    {
        let message = format!("`{}` is named like another artifact", path.display());
        return Err(Finding { bit: DAMAGED, path: path.to_owned(), message });
    }
    for (role, record) in &manifest.inputs {
        if in_store && is_absent(&catalog.store, record) {
            let origin = crate::show::origin_of(record);
            let message = format!("`{}`: its input `{role}` ({origin}) is not in the store", path.display());
            return Err(Finding { bit: MISSING, path: path.to_owned(), message });
        }
    }
    if in_store && level == Level::Hash {
        note_verified(&catalog.store, &manifest.stage, &manifest.key);
    }
    Ok(found.bytes)
}

/// Returns whether `path` is `root/STAGE/NAME`, however both are written.
fn is_in(path: &Path, root: &Path) -> bool {
    let absolute = |path: &Path| fs_err::canonicalize(path).ok();
    absolute(path)
        .is_some_and(|path| path.parent().and_then(Path::parent).map(Path::to_owned) == absolute(root))
}

fn is_absent(store: &Store, record: &InputRecord) -> bool {
    let (Some(stage), Some(key)) = (&record.stage, &record.key) else { return false };
    store.find(stage, key, "").is_ok_and(|found| found.is_none())
}

/// Sums up the problems of an artifact.
fn blame(path: &Path, problems: &[Problem]) -> Finding {
    let bit = problems.iter().fold(0, |bits, problem| {
        bits | if problem.fault == Fault::Unreadable { UNREADABLE } else { DAMAGED }
    });
    let describe = |problem: &Problem| {
        if problem.path.is_empty() {
            problem.reason.clone()
        } else {
            format!("`{}` {}", problem.path, problem.reason)
        }
    };
    let mut parts: Vec<String> = problems.iter().take(LISTED).map(describe).collect();
    if problems.len() > LISTED {
        parts.push(format!("and {} more", problems.len() - LISTED));
    }
    let message = format!("`{}`: {}", path.display(), parts.join("; "));
    Finding { bit, path: path.to_owned(), message }
}

/// Moves a damaged artifact to quarantine if that was asked for.
fn quarantined(catalog: &Catalog, path: &Path, options: &Verify, finding: Finding) -> Finding {
    let entry = catalog.entries.iter().find(|entry| entry.path == path);
    let damaged = finding.bit & DAMAGED != 0;
    let (true, true, Some(entry)) = (options.quarantine, damaged, entry) else { return finding };
    let (store, key) = (&catalog.store, entry.folder_key());
    let lock = store.lock(&entry.stage, &key, Wait::AtMost(PATIENCE), &mut |_| {}, &|| false);
    if let Err(error) = &lock {
        let message = format!("{}; not moved: {}", finding.message, failure::describe(error));
        return Finding { message, ..finding };
    }
    // Another process may have replaced it by a sound one.
    let finding = match verify(catalog, path, options) {
        Err(again) if again.bit & DAMAGED != 0 => again,
        _ => {
            let message = format!("{}; another process has just replaced it", finding.message);
            return Finding { message, ..finding };
        }
    };
    match store.quarantine(path, &entry.stage, &key, "damaged") {
        Ok(moved) => {
            Finding { message: format!("{}; moved to `{}`", finding.message, moved.display()), ..finding }
        }
        Err(error) => {
            let message = format!("{}; cannot move it: {}", finding.message, failure::describe(&error));
            Finding { message, bit: finding.bit | UNREADABLE, ..finding }
        }
    }
}

/// Finds labels and kept runs whose artifact is gone, and strangers among the artifacts.
fn dangling(catalog: &Catalog) -> Result<Vec<Finding>> {
    let store = &catalog.store;
    let mut findings: Vec<Finding> = catalog
        .strays
        .iter()
        .map(|path| {
            let message = format!("`{}` is not an artifact", path.display());
            Finding { bit: MISSING, path: path.clone(), message }
        })
        .collect();
    let refs = store.root().join("refs");
    for name in crate::catalog::names(&refs)? {
        let path = refs.join(&name);
        match store.read_ref(&name) {
            Ok(Some(target)) => {
                if store.find(&target.stage, &target.key, "")?.is_none() {
                    let message = format!(
                        "label `{name}` names {}/{}, which is gone",
                        target.stage,
                        target.key.short()
                    );
                    findings.push(Finding { bit: MISSING, path, message });
                }
            }
            Ok(None) => {}
            Err(error) => {
                findings.push(Finding { bit: DAMAGED, path, message: failure::describe(&error) });
            }
        }
    }
    for kept in crate::roots::kept(store)? {
        if store.find(&kept.stage, &kept.key, "")?.is_none() {
            let message = format!("{} is kept, but is gone", kept.name());
            findings.push(Finding { bit: MISSING, path: store.root().join(".kept"), message });
        }
    }
    Ok(findings)
}

fn record(store: &Store, stage: &str, key: &str) -> PathBuf {
    store.root().join(VERIFIED).join(format!("{stage}.{key}"))
}

fn last_verified(store: &Store, entry: &Entry) -> Option<SystemTime> {
    let path = record(store, &entry.stage, &entry.key);
    humantime::parse_rfc3339(files::read_text(&path, 64).ok()?.trim_end()).ok()
}

/// Records the time; a store that cannot be written is verified all the same.
fn note_verified(store: &Store, stage: &str, key: &Key) {
    let path = record(store, stage, &key.short());
    let text = format!("{}\n", artifact::format_utc(artifact::now()));
    let written = fs_err::create_dir_all(store.root().join(VERIFIED))
        .and_then(|()| atomic::write_file(&path, text.as_bytes()));
    if let Err(error) = written {
        tracing::debug!("cannot record a verification: {}", failure::describe(&error));
    }
}
