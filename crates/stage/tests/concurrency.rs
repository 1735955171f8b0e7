//! Many processes at once, with working locks, without locks, and with locks that do nothing: never a failure, never a damaged
//! artifact, and the work of a living process is never removed.
//!
//! `ASHLAR_ROUNDS` sets the number of rounds; `make soak` runs 1,000.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::process::Child;

use artifact::{Artifact, Level};
use common::Home;
use testutil::Ran;

const PROCESSES: usize = 16;
/// Values of `ASHLAR_LOCKS`: real ones, failing ones, and ones that succeed without locking.
const LOCKS: [&str; 3] = ["", "none", "ignored"];

fn rounds() -> usize {
    std::env::var("ASHLAR_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(4)
}

fn spawn(home: &Home, arguments: &str, locks: &str) -> Child {
    home.command(arguments).env("ASHLAR_LOCKS", locks).spawn()
}

/// Waits for all processes; each must print a path.
fn wait_for(children: Vec<Child>, what: &str) -> Vec<Ran> {
    let ran: Vec<Ran> =
        children.into_iter().map(|child| Ran::from(child.wait_with_output().unwrap())).collect();
    for one in &ran {
        assert_eq!(one.code, Some(0), "{what}: {}", one.stderr);
    }
    ran
}

#[test]
fn one_key_is_published_once() {
    for locks in LOCKS {
        for round in 0..rounds() {
            let home = Home::new();
            let ran = wait_for((0..PROCESSES).map(|_| spawn(&home, "", locks)).collect(), locks);
            assert!(ran.iter().all(|one| one.stdout == ran[0].stdout));
            assert_eq!((home.artifacts().len(), home.leftovers()), (1, 0), "locks `{locks}`, round {round}");
            let quarantine = home.store().join(".quarantine");
            assert!(!quarantine.exists(), "locks `{locks}`: something sound was taken for damaged");
        }
    }
}

#[test]
fn many_keys_of_a_stage_do_not_disturb_each_other() {
    for locks in LOCKS {
        let home = Home::new();
        for round in 0..rounds() {
            let start = |index: usize| {
                let rank = round * PROCESSES + index + 1;
                spawn(&home, &format!("--set nested.rank={rank}"), locks)
            };
            wait_for((0..PROCESSES).map(start).collect(), locks);
        }
        assert_eq!((home.artifacts().len(), home.leftovers()), (PROCESSES * rounds(), 0), "locks `{locks}`");
    }
}

#[test]
fn damaged_artifact_is_healed_by_one_of_many() {
    for locks in LOCKS {
        let home = Home::new();
        let made = home.path().join(home.run("").path());
        let tree = Artifact::open(&made).unwrap().tree();
        for round in 0..rounds() {
            damage(&made.join("data/title.json"));
            let ran = wait_for((0..PROCESSES).map(|_| spawn(&home, "", locks)).collect(), locks);
            assert!(ran.iter().all(|one| one.stdout == ran[0].stdout));
            // A good artifact, once printed, stays.
            assert_eq!(
                Artifact::open_with(&made, Level::Hash).unwrap().tree(),
                tree,
                "locks `{locks}`, round {round}"
            );
            let quarantined = fs_err::read_dir(home.store().join(".quarantine")).unwrap().count();
            assert_eq!(quarantined, round + 1, "locks `{locks}`: only the damaged one is moved away");
        }
    }
}

fn damage(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    fs_err::write(path, "\"pla1n\"\n").unwrap();
}

#[test]
fn pairs_that_write_to_one_folder_both_succeed() {
    for locks in LOCKS {
        for _ in 0..rounds() * 4 {
            let home = Home::new();
            let ran = wait_for((0..2).map(|_| spawn(&home, "--out o", locks)).collect(), locks);
            assert!(ran.iter().all(|one| one.stdout == "o\n"));
            Artifact::open_with(&home.path().join("o"), Level::Hash).unwrap();
        }
    }
}

#[test]
fn folder_that_another_process_writes_to_is_locked() {
    let home = Home::new();
    let slow = "--out o --set milliseconds_per_line=500";
    let child = spawn(&home, slow, "");
    std::thread::sleep(std::time::Duration::from_millis(400));
    let busy = home.run(&format!("{slow} --lock-wait 0"));
    assert_eq!(busy.code, Some(75), "{}", busy.stderr);
    assert!(busy.stderr.contains(&format!("process {}", child.id())), "{}", busy.stderr);
    wait_for(vec![child], "the first is not disturbed");
    Artifact::open_with(&home.path().join("o"), Level::Hash).unwrap();
}

#[test]
fn missing_locks_are_said_once_and_work_goes_on() {
    let home = Home::new();
    let ran = home.run_with("", "ASHLAR_LOCKS", "none");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("no locks at").count(), 1, "{}", ran.stderr);
}

#[test]
fn living_staging_folder_is_kept_where_locks_do_nothing() {
    for locks in LOCKS {
        let home = Home::new();
        let slow = spawn(&home, "--set milliseconds_per_line=300", locks);
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert_eq!(home.leftovers(), 1);
        for rank in 1..6 {
            let ran = home.run_with(&format!("--set nested.rank={rank}"), "ASHLAR_LOCKS", locks);
            assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        }
        wait_for(vec![slow], locks);
    }
}
