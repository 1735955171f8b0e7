//! Kills and I/O errors at every operation of publishing: nothing half-written is ever visible, a rerun succeeds.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::process::Command;

use artifact::{Artifact, Level, TreeHash};
use common::{Home, program};
use testutil::Ran;

fn unbroken() -> TreeHash {
    let home = Home::new();
    let path = home.path().join(home.run("").path());
    Artifact::open_with(&path, Level::Hash).unwrap().tree()
}

/// Runs with `fault@1`, `fault@2`, … until a run meets no fault any more, and gives each run to `look`.
/// Returns how many there were.
fn at_every_operation(fault: &str, mut look: impl FnMut(u32, &Ran)) -> u32 {
    let expected = unbroken();
    for turn in 1..1000 {
        let home = Home::new();
        let ran = home.run_with("", "ASHLAR_FAULT", &format!("{fault}@{turn}"));
        // Whatever is visible must verify, which `artifacts` checks.
        home.artifacts();
        look(turn, &ran);
        let finished = ran.code == Some(0);
        let again = home.run("");
        let artifact = Artifact::open_with(&home.path().join(again.path()), Level::Hash).unwrap();
        assert_eq!(artifact.tree(), expected, "{fault}@{turn}");
        assert_eq!((home.artifacts().len(), home.leftovers()), (1, 0), "{fault}@{turn}: {}", again.stderr);
        if finished {
            return turn - 1;
        }
    }
    panic!("there is no end to the operations");
}

#[test]
fn killed_at_any_operation_leaves_nothing_half_written() {
    let count = at_every_operation("kill", |turn, ran| {
        assert!(ran.signal == Some(9) || ran.code == Some(0), "kill@{turn}: {ran:?}");
    });
    assert!(count > 40, "only {count} operations were reached");
}

#[test]
fn error_at_any_operation_is_reported_with_the_code_of_its_kind() {
    for (fault, code) in [("enospc", 74), ("eio", 74), ("edquot", 74), ("erofs", 74), ("emfile", 1)] {
        at_every_operation(fault, |turn, ran| {
            if ran.code == Some(0) {
                return;
            }
            assert_eq!((ran.code, ran.stdout.as_str()), (Some(code), ""), "{fault}@{turn}: {}", ran.stderr);
            assert!(ran.stderr.contains('`') && ran.stderr.contains("os error"), "{}", ran.stderr);
        });
    }
}

#[test]
fn interrupted_system_call_goes_unnoticed() {
    for turn in (1..80).step_by(3) {
        let home = Home::new();
        let ran = home.run_with("", "ASHLAR_FAULT", &format!("eintr@{turn}"));
        ran.path();
        assert_eq!(home.artifacts().len(), 1);
    }
}

#[test]
fn killed_out_folder_is_never_taken_for_an_artifact() {
    for turn in 1..200 {
        let home = Home::new();
        let ran = home.run_with("--out o", "ASHLAR_FAULT", &format!("kill@{turn}"));
        let opened = Artifact::open_with(&home.path().join("o"), Level::Hash);
        if ran.code == Some(0) {
            assert!(turn > 10 && opened.is_ok());
            return;
        }
        // Only a kill after the last write may leave a whole one.
        assert_eq!(home.run("--out o").stdout, "o\n", "kill@{turn}");
        Artifact::open_with(&home.path().join("o"), Level::Hash).unwrap();
    }
    panic!("there is no end to the operations");
}

#[test]
fn too_little_space_is_noticed_before_the_work() {
    let home = Home::new();
    let ran = home.run_with("-v", "ASHLAR_MIN_FREE_BYTES", "9000000000000000");
    assert_eq!(ran.code, Some(74));
    assert!(ran.stderr.contains("too little space") && ran.stderr.contains("hint: free some space"));
    assert!(!ran.stderr.contains("line 1"), "{}", ran.stderr);
    assert!(home.artifacts().is_empty());
}

/// Needs a user namespace to mount a small file system; says so and passes where there is none.
#[test]
fn really_full_disk_publishes_nothing() {
    let script = r#"
        mount -t tmpfs -o size=1m tmpfs "$1" || exit 99
        printf 'one\n' > "$1/data.txt"
        export ASHLAR_MIN_FREE_BYTES=0
        "$2" --data "$1/data.txt" --store "$1/s" --set padding_bytes=3000000; echo "code $?"
        find "$1/s/tally" -mindepth 1
        "$2" --data "$1/data.txt" --store "$1/s" --set padding_bytes=3000 > /dev/null; echo "code $?"
    "#;
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", script, "sh"]).arg(dir.path()).arg(program());
    let Ok(output) = command.output() else {
        eprintln!("skipped: no `unshare` here");
        return;
    };
    let text = String::from_utf8(output.stdout).unwrap();
    if !text.contains("code") {
        eprintln!("skipped: cannot mount here: {}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    assert_eq!(text, "code 74\ncode 0\n", "{}", String::from_utf8_lossy(&output.stderr));
}

/// As above, with a disk that is too small at every stage of the work, and one that is large enough.
#[test]
fn disks_of_many_sizes_hold_whole_artifacts_or_none() {
    let script = r#"
        export ASHLAR_MIN_FREE_BYTES=0
        for kibibytes in 64 128 256 400 600 900 1200 1400 1500 1600 2000 4000 8000; do
            mount -t tmpfs -o size="${kibibytes}k" tmpfs "$1" || exit 99
            printf 'one\n' > "$1/data.txt"
            "$2" --data "$1/data.txt" --store "$1/s" --set padding_bytes=1400000 > "$1/out" 2>/dev/null; code=$?
            visible=$(ls "$1/s/tally" 2>/dev/null | wc -l); hidden=$(ls -A "$1/s/tally" 2>/dev/null | wc -l)
            echo "$kibibytes $code $((visible + 0)) $((hidden - visible))"
            umount "$1"
        done
    "#;
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", script, "sh"]).arg(dir.path()).arg(program());
    let text = command
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    if text.is_empty() {
        eprintln!("skipped: cannot mount here");
        return;
    }
    let outcomes: Vec<Vec<u64>> =
        text.lines().map(|line| line.split(' ').map(|word| word.parse().unwrap()).collect()).collect();
    for outcome in &outcomes {
        let [_, code, visible, hidden] = outcome[..] else { panic!("{text}") };
        assert!(matches!((code, visible, hidden), (74, 0, 0) | (0, 1, 0)), "{text}");
    }
    assert!(outcomes.first().unwrap()[1] == 74 && outcomes.last().unwrap()[1] == 0, "{text}");
}
