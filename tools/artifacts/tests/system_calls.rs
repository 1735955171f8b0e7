//! Kills and errors at every system call of gc, pull, push and quarantine, by means of `strace`: nothing half-written or
//! half-deleted is visible, no failure is reported as success, every message names a file, and a rerun finishes the work.
//!
//! Skipped where there is no `strace`. `ASHLAR_EVERY=1` tries every call (`make soak`); by default, a sample of them.

#![cfg(target_os = "linux")]

mod common;

use std::path::Path;

use common::{Toy, age, names_in};
use testutil::files::remove;
use testutil::strace::{self, Calls, Point, traced};
use testutil::{Program, Ran};

/// Every N-th call that is tried by default.
const EVERY: usize = 40;

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_artifacts"))
}

/// Returns `artifacts` under `strace` with the given options and arguments separated by spaces.
fn artifacts(toy: &Toy, options: &[&str], arguments: &str) -> Program {
    let mut strace = traced(program(), options);
    strace.current_dir(toy.path()).args(arguments.split_whitespace());
    strace
}

/// Counts the calls of a command in a store that `make` prepares.
fn count(make: &dyn Fn() -> Toy, arguments: &str) -> Option<Calls> {
    let toy = make();
    Calls::count(program(), toy.path(), || artifacts(&toy, &[], arguments).run())
}

/// Runs the command with every disturbance, each in a store that `make` prepares; `check` looks at what is left.
#[expect(clippy::print_stdout, reason = "how many points were tried is worth knowing")]
fn disturb(make: &dyn Fn() -> Toy, arguments: &str, check: &dyn Fn(&Toy, &Ran, &Point)) {
    let Some(calls) = count(make, arguments) else { return };
    let every = strace::every(EVERY);
    let points = [calls.kills(every), calls.errors(every)].concat();
    for point in &points {
        let toy = make();
        let ran = artifacts(&toy, &["-e", &point.rule], arguments).run();
        if point.error.is_some() {
            strace::check_ending(&ran, point);
        }
        check(&toy, &ran, point);
    }
    println!("{} points", points.len());
    assert!(points.len() > 20, "only {} points", points.len());
}

/// A store whose artifacts nobody needs.
fn old() -> Toy {
    let toy = Toy::new();
    let made = toy.pipeline(8, 64);
    for artifact in [&made.model, &made.data, &made.train, &made.evaluate] {
        age(artifact, 100);
    }
    toy
}

/// A store, and a folder with its artifacts.
fn pushed() -> Toy {
    let toy = Toy::new();
    toy.pipeline(8, 64);
    toy.run("push away").succeeded();
    toy
}

#[test]
fn gc_disturbed_at_any_system_call_leaves_whole_artifacts_with_their_origin() {
    disturb(&old, "gc --delete", &|toy, ran, point| {
        let left = toy.names();
        if ran.code == Some(0) {
            assert!(left.is_empty(), "{}: {left:?}\n{}{}", point.rule, ran.stdout, ran.stderr);
        }
        assert_eq!(toy.run("verify").code, Some(0), "{}: an artifact without its origin", point.rule);
        let again = toy.run("gc --delete");
        again.succeeded();
        assert!(toy.names().is_empty(), "{}: {again:?}", point.rule);
    });
}

#[test]
fn pull_disturbed_at_any_system_call_shows_only_whole_artifacts() {
    disturb(&pushed, "--store copy pull away", &|toy, ran, point| {
        let (copy, expected) = (toy.path().join("copy"), toy.names());
        let visible = names_in(&copy);
        assert!(visible.iter().all(|name| expected.contains(name)), "{}", point.rule);
        if ran.code == Some(0) {
            assert_eq!(visible, expected, "{}: reported, but not there", point.rule);
        }
        toy.run("--store copy pull away").succeeded();
        assert_eq!(names_in(&copy), expected, "{}", point.rule);
        remove(&copy);
    });
}

#[test]
fn push_disturbed_at_any_system_call_shows_only_whole_artifacts() {
    let make = || {
        let toy = Toy::new();
        toy.pipeline(8, 64);
        toy
    };
    disturb(&make, "push away", &|toy, ran, point| {
        let (away, expected) = (toy.path().join("away"), toy.names());
        let visible = names_in(&away);
        assert!(visible.iter().all(|name| expected.contains(name)), "{}", point.rule);
        if ran.code == Some(0) {
            assert_eq!(visible, expected, "{}: reported, but not there", point.rule);
        }
        toy.run("push away").succeeded();
        assert_eq!(names_in(&away), expected, "{}", point.rule);
    });
}

#[test]
fn quarantine_disturbed_at_any_system_call_loses_nothing() {
    let make = || {
        let toy = Toy::new();
        let made = toy.pipeline(8, 64);
        let path = made.evaluate.path().join("data/predictions.jsonl");
        testutil::Program::new("chmod").args(["-R", "u+w"]).arg(made.evaluate.path()).run().succeeded();
        let text = fs_err::read_to_string(&path).unwrap_or_default().replace("\"a\"", "\"b\"");
        assert!(fs_err::write(&path, text).is_ok());
        toy
    };
    let damaged = |toy: &Toy| {
        let moved = fs_err::read_dir(toy.root().join(".quarantine")).map_or(0, Iterator::count);
        let stays = fs_err::read_dir(toy.root().join("evaluate")).map_or(0, Iterator::count);
        (moved, stays)
    };
    let every = strace::every(EVERY);
    // The command fails by its purpose, so its calls are those of a run that finds nothing.
    let sound = || {
        let toy = Toy::new();
        toy.pipeline(8, 64);
        toy
    };
    let Some(calls) = count(&sound, "verify --quarantine") else { return };
    for point in [calls.kills(every), calls.errors(every)].concat() {
        let toy = make();
        let ran = artifacts(&toy, &["-e", &point.rule], "verify --quarantine").run();
        assert!(ran.code != Some(0) && ran.code != Some(101), "{}: {}", point.rule, ran.stderr);
        let (moved, stays) = damaged(&toy);
        assert_eq!(moved + stays, 1, "{}: exactly one copy", point.rule);
        toy.run("verify --quarantine");
        assert_eq!(damaged(&toy), (1, 0), "{}", point.rule);
        // Nothing sound was taken away.
        assert_eq!(toy.names().len(), 3, "{}", point.rule);
    }
}
