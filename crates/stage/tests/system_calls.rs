//! Kills and errors at every system call that a stage makes, by means of `strace`: nothing half-written is visible, no failure is
//! reported as success, every message names a file, and a rerun finishes the work.
//!
//! Skipped where there is no `strace`. `ASHLAR_EVERY=1` tries every call (`make soak`); by default, a sample of them.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::process::Command;

use artifact::{Artifact, Level, TreeHash};
use common::{Home, program};
use testutil::{Program, Ran};

/// Calls on which publishing rests.
const CALLS: [&str; 17] = [
    "openat",
    "read",
    "write",
    "close",
    "fsync",
    "mkdir",
    "unlink",
    "unlinkat",
    "rmdir",
    "rename",
    "renameat2",
    "chmod",
    "fchmod",
    "flock",
    "getdents64",
    "statx",
    "newfstatat",
];
/// Calls that may fail, with the errors that they may fail with.
const ERRORS: [(&str, &[&str]); 9] = [
    ("openat", &["EMFILE", "EIO", "EINTR", "ENOSPC", "EROFS"]),
    ("write", &["ENOSPC", "EIO", "EDQUOT", "EINTR"]),
    ("read", &["EIO", "EINTR"]),
    ("fsync", &["EIO", "ENOSPC", "EDQUOT", "EINTR"]),
    ("mkdir", &["ENOSPC", "EDQUOT", "EROFS"]),
    ("rename", &["ENOSPC", "EIO", "EROFS"]),
    ("renameat2", &["ENOSPC", "EIO", "EROFS"]),
    ("chmod", &["EIO", "EROFS"]),
    ("getdents64", &["EIO", "EINTR"]),
];

/// Tries every N-th call.
fn every() -> usize {
    std::env::var("ASHLAR_EVERY").ok().and_then(|text| text.parse().ok()).unwrap_or(9)
}

/// Returns the stage under `strace` with the given options; it opens the data, resumes, makes a unit and publishes.
fn traced(home: &Home, options: &[&str]) -> Program {
    let mut strace = Program::new("strace");
    strace.current_dir(home.path()).args(["-f", "-qq", "-o", "trace"]).args(options);
    strace.arg(program()).args(["--data", "data.txt"]);
    strace
}

/// Counts the calls of a whole run by name, and those before the program's own begin; `None` without `strace`.
fn count() -> Option<BTreeMap<String, (usize, usize)>> {
    Command::new("strace").arg("-V").output().ok()?;
    let count = |arguments: &[&str]| {
        let home = Home::new();
        let mut strace = traced(&home, &[]);
        strace.args(arguments);
        let ran = strace.run();
        let trace = fs_err::read_to_string(home.path().join("trace")).unwrap_or_default();
        let mut found: BTreeMap<String, usize> = BTreeMap::new();
        for line in trace.lines() {
            let call = line.split_whitespace().nth(1).and_then(|word| word.split_once('('));
            if let Some((name, _)) = call {
                *found.entry(name.to_owned()).or_default() += 1;
            }
        }
        (ran.code, found)
    };
    let (code, whole) = count(&[]);
    if code != Some(0) || whole.is_empty() {
        return None;
    }
    // The loader's calls come first, and do not depend on the arguments.
    let (_, start) = count(&["--version"]);
    Some(
        whole
            .into_iter()
            .map(|(name, all)| (name.clone(), (start.get(&name).copied().unwrap_or(0), all)))
            .collect(),
    )
}

fn unbroken() -> TreeHash {
    let home = Home::new();
    let path = home.path().join(home.run("").path());
    Artifact::open_with(&path, Level::Hash).unwrap().tree()
}

/// Checks what a disturbed run left, and that a rerun finishes.
fn check_and_rerun(home: &Home, ran: &Ran, expected: TreeHash, what: &str) {
    // Lists the visible artifacts and verifies every byte.
    let visible = home.artifacts();
    if ran.code == Some(0) {
        assert_eq!(visible.len(), 1, "{what}: reported, but not published: {}", ran.stderr);
    }
    let again = home.run_with("", "LC_ALL", "C");
    assert_eq!(again.code, Some(0), "{what}: {}", again.stderr);
    let artifact = Artifact::open_with(&home.path().join(again.path()), Level::Hash).unwrap();
    assert_eq!(artifact.tree(), expected, "{what}");
    assert_eq!((home.artifacts().len(), home.leftovers()), (1, 0), "{what}");
}

#[test]
fn kill_at_every_system_call_leaves_nothing_half_written() {
    let Some(counts) = count() else {
        eprintln!("skipped: `strace` cannot trace here");
        return;
    };
    let (expected, mut points) = (unbroken(), 0);
    for call in CALLS {
        let Some(&(start, all)) = counts.get(call) else { continue };
        for turn in (start + 1..=all).step_by(every()) {
            let home = Home::new();
            let inject = format!("inject={call}:signal=SIGKILL:when={turn}");
            let ran = traced(&home, &["-e", &inject]).run();
            check_and_rerun(&home, &ran, expected, &inject);
            points += 1;
        }
    }
    println!("{points} points");
    assert!(points > 20, "only {points} points");
}

#[test]
fn error_at_every_system_call_is_reported_with_its_file() {
    let Some(counts) = count() else {
        eprintln!("skipped: `strace` cannot trace here");
        return;
    };
    let (expected, mut points) = (unbroken(), 0);
    for (call, errors) in ERRORS {
        let Some(&(start, all)) = counts.get(call) else { continue };
        for (index, error) in errors.iter().enumerate() {
            for turn in (start + 1 + index..=all).step_by(every()) {
                let home = Home::new();
                let inject = format!("inject={call}:error={error}:when={turn}");
                let ran = traced(&home, &["-e", &inject]).run();
                let what = format!("{inject}: {:?} {}", ran.code, ran.stderr);
                assert!(ran.signal.is_none() && ran.code != Some(101), "{what}");
                if ran.code != Some(0) {
                    // A message that cannot be written is not there; standard output has no file name.
                    let named =
                        ran.stderr.contains('`') || ran.stderr.is_empty() || ran.stderr.contains("stdout");
                    assert!(named, "names no file: {what}");
                    assert!(*error != "EINTR" || call == "write", "an interruption is not an error: {what}");
                }
                check_and_rerun(&home, &ran, expected, &what);
                points += 1;
            }
        }
    }
    println!("{points} points");
    assert!(points > 20, "only {points} points");
}
