//! Kills and errors at every system call that a stage makes, by means of `strace`: nothing half-written is visible, no failure is
//! reported as success, every message names a file, and a rerun finishes the work.
//!
//! Skipped where there is no `strace`. `ASHLAR_EVERY=1` tries every call (`make soak`); by default, a sample of them.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use artifact::{Artifact, Level, TreeHash};
use common::{Home, program};
use testutil::strace::{self, Calls, traced};
use testutil::{Program, Ran};

/// Every N-th call that is tried by default.
const EVERY: usize = 9;

/// Returns the stage under `strace` with the given options; it opens the data, resumes, makes a unit and publishes.
fn stage(home: &Home, options: &[&str]) -> Program {
    let mut strace = traced(program(), options);
    strace.current_dir(home.path()).args(["--data", "data.txt"]);
    strace
}

fn count() -> Option<Calls> {
    let home = Home::new();
    Calls::count(program(), home.path(), || stage(&home, &[]).run())
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
    let Some(calls) = count() else { return };
    let (expected, points) = (unbroken(), calls.kills(strace::every(EVERY)));
    for point in &points {
        let home = Home::new();
        let ran = stage(&home, &["-e", &point.rule]).run();
        check_and_rerun(&home, &ran, expected, &point.rule);
    }
    println!("{} points", points.len());
    assert!(points.len() > 20, "only {} points", points.len());
}

#[test]
fn error_at_every_system_call_is_reported_with_its_file() {
    let Some(calls) = count() else { return };
    let (expected, points) = (unbroken(), calls.errors(strace::every(EVERY)));
    for point in &points {
        let home = Home::new();
        let ran = stage(&home, &["-e", &point.rule]).run();
        strace::check_ending(&ran, point);
        check_and_rerun(&home, &ran, expected, &point.rule);
    }
    println!("{} points", points.len());
    assert!(points.len() > 20, "only {} points", points.len());
}
