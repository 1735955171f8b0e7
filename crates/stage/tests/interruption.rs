//! A stage that is killed or interrupted by a signal: when it ends, what it keeps, and what the next run resumes from.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, Instant};

use artifact::Artifact;
use common::Home;
use testutil::{Ran, trees};

#[test]
fn killed_run_resumes_in_the_same_folder() {
    let home = Home::new();
    let slow = "-v --set milliseconds_per_line=250";
    let mut child = home.command(slow).spawn();
    std::thread::sleep(Duration::from_millis(600));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(home.artifacts().is_empty());
    assert_eq!(home.leftovers(), 1);
    assert_eq!(home.run(&format!("{slow} --plan")).code, Some(11));
    let resumed = home.run(slow);
    assert!(resumed.stderr.contains("resuming after line"), "{}", resumed.stderr);
    assert!(!resumed.stderr.contains("debug: line 1\n"), "{}", resumed.stderr);
    let unbroken = Home::new();
    unbroken.run(slow).path();
    assert_eq!(trees(&home.store()), trees(&unbroken.store()));
    assert_eq!(home.leftovers(), 0);
    assert_eq!(home.run(&format!("{slow} --plan")).code, Some(0));
    let says_resumed = |home: &Home, ran: &Ran| {
        Artifact::open(&home.path().join(ran.path())).unwrap().provenance().unwrap()["resumed"] == true
    };
    assert!(says_resumed(&home, &resumed));
    assert!(!says_resumed(&unbroken, &unbroken.run(slow)));
    // A unit that another run left.
    let unit = unbroken.run("--set learning_rate=0.5");
    assert!(!unit.stderr.contains("computing a unit") && says_resumed(&unbroken, &unit), "{}", unit.stderr);
}

#[test]
fn out_resumes_only_from_a_folder_that_was_given() {
    let home = Home::new();
    let arguments = "--out o --resume-dir keep --set milliseconds_per_line=250";
    let mut child = home.command(arguments).spawn();
    std::thread::sleep(Duration::from_millis(600));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(Artifact::open(&home.path().join("o")).is_err());
    assert_eq!(home.run(&format!("{arguments} --plan")).code, Some(11));
    let resumed = home.run(arguments);
    assert!(resumed.stderr.contains("resuming after line"), "{}", resumed.stderr);
    assert_eq!(home.run(&format!("{arguments} --plan")).code, Some(0));
    assert_eq!(home.run(&format!("{arguments} --plan").replace("--out o", "--out p")).code, Some(10));
    Artifact::open(&home.path().join("o")).unwrap();
    assert_eq!(fs_err::read_dir(home.path().join("keep")).unwrap().count(), 0);
}

#[test]
fn a_shared_folder_keeps_the_resume_state_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = Home::new();
    let shared = home.path().join("shared");
    let arguments = |out: &str| format!("--out {out} --set milliseconds_per_line=250");
    let run = |out: &str| home.run_with(&arguments(out), "ASHLAR_SCRATCH", shared.to_str().unwrap());
    let spawn = |out: &str| home.command(&arguments(out)).env("ASHLAR_SCRATCH", &shared).spawn();
    // The folder does not matter: without it nothing is kept, and nothing is made.
    assert_eq!(run("first").code, Some(0));
    assert!(!shared.exists());
    fs_err::create_dir(&shared).unwrap();
    let mut child = spawn("second");
    std::thread::sleep(Duration::from_millis(600));
    // Another one with the same key does not touch what the first is working with.
    let other = run("other");
    assert!(other.code == Some(0) && !other.stderr.contains("resuming"), "{}", other.stderr);
    child.wait().unwrap();
    let mut child = spawn("third");
    std::thread::sleep(Duration::from_millis(600));
    child.kill().unwrap();
    child.wait().unwrap();
    let kept = fs_err::read_dir(&shared).unwrap().next().unwrap().unwrap().path();
    let mode = |path: &std::path::Path| fs_err::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&kept), 0o700, "closed to others");
    let resumed = run("third");
    assert!(resumed.stderr.contains("resuming after line"), "{}", resumed.stderr);
    assert_eq!(fs_err::read_dir(&shared).unwrap().count(), 0);
    let sums = |out: &str| fs_err::read_to_string(home.path().join(out).join("SHA256SUMS")).unwrap();
    assert!(["second", "other", "third"].iter().all(|out| sums(out) == sums("first")));
}

fn signal(child: &std::process::Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn first_signal_saves_and_second_ends_at_once() {
    use rustix::process::Signal;
    for (number, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let home = Home::new();
        let child = home.command("--set milliseconds_per_line=200").spawn();
        std::thread::sleep(Duration::from_millis(300));
        signal(&child, number);
        let ran = Ran::from(child.wait_with_output().unwrap());
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(code), ""), "{}", ran.stderr);
        assert!(ran.stderr.contains("run the same command again"), "{}", ran.stderr);
        assert_eq!(home.leftovers(), 0);
        assert!(home.run("--set milliseconds_per_line=200").stderr.contains("resuming after line"));
    }
    let home = Home::new();
    let mut child = home.command("--set milliseconds_per_line=20000").spawn();
    std::thread::sleep(Duration::from_millis(300));
    let begin = Instant::now();
    signal(&child, Signal::INT);
    std::thread::sleep(Duration::from_millis(100));
    signal(&child, Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(begin.elapsed() < Duration::from_secs(2));
}

#[test]
fn work_that_does_not_look_at_the_flag_ends_within_five_seconds() {
    use rustix::process::Signal;
    let home = Home::new();
    let mut child = home.command("--set milliseconds_per_line=60000").spawn();
    std::thread::sleep(Duration::from_millis(300));
    let begin = Instant::now();
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!(home.run("").code, Some(0));
    assert_eq!(home.leftovers(), 0, "the next run removes what was left");
}
