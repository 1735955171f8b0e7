//! Many processes at once, with working locks, without locks, and with locks that do nothing: never a failure, never a damaged
//! artifact, and the work of a living process is never removed.
//!
//! `ASHLAR_ROUNDS` sets the number of rounds; `make soak` runs 1,000.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use artifact::{Artifact, Level};
use common::Home;
use testutil::Ran;

const PROCESSES: usize = 16;
/// Values of `ASHLAR_LOCKS`: real ones, failing ones, ones that succeed without locking, and those of a network file system, which
/// exclude only processes of the same machine.
const LOCKS: [&str; 4] = ["", "none", "ignored", "network"];

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

/// A run of three steps, slow enough to look at.
const SLOW: &str = "-v --set milliseconds_per_line=80";
/// Where runs keep their resume state: flags of two runs of the same key, and the variable with a shared folder.
const PLACES: [(&str, &str, &str); 3] = [
    ("", "", ""),
    ("--out a --resume-dir keep", "--out b --resume-dir keep", ""),
    ("--out a", "--out b", "shared"),
];

/// Waits for a file of this name anywhere in `folder`.
fn wait_for_file(folder: &Path, name: &str) -> PathBuf {
    let find = || {
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs_err::read_dir(folder).into_iter().flatten().flatten() {
                if entry.file_name() == name {
                    return Some(entry.path());
                }
                folders.extend(entry.file_type().unwrap().is_dir().then(|| entry.path()));
            }
        }
        None
    };
    let begun = Instant::now();
    loop {
        if let Some(path) = find() {
            return path;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "no `{name}` in `{}`", folder.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn runs_of_one_key_do_not_work_in_the_same_folder_where_locks_do_not_exclude() {
    for locks in ["none", "network"] {
        for (first, second, shared) in PLACES {
            let home = Home::new();
            fs_err::create_dir(home.path().join("shared")).unwrap();
            let prepare = |flags: &str| {
                let mut program = home.command(&format!("{SLOW} {flags}"));
                program.env("ASHLAR_LOCKS", locks).env("ASHLAR_SCRATCH", shared);
                program
            };
            let child = prepare(first).spawn();
            wait_for_file(home.path(), "done");
            let other = prepare(second).run();
            let what = format!("locks `{locks}`, `{first}`: {}", other.stderr);
            assert_eq!(other.code, Some(0), "{what}");
            assert!(!other.stderr.contains("resuming after line"), "{what}");
            assert!(other.stderr.contains("this run cannot be resumed"), "{what}");
            wait_for(vec![child], locks);
            assert_eq!(fs_err::read_dir(home.path().join("shared")).unwrap().count(), 0, "{what}");
        }
    }
}

#[test]
fn a_run_resumes_what_another_machine_gave_up_and_nothing_that_it_may_still_use() {
    for (flags, _, shared) in PLACES {
        let home = Home::new();
        for name in ["shared", "tmp"] {
            fs_err::create_dir(home.path().join(name)).unwrap();
        }
        let prepare = || {
            let mut program = home.command(&format!("{SLOW} {flags}"));
            program.env("ASHLAR_LOCKS", "network").env("ASHLAR_SCRATCH", shared);
            program.env("TMPDIR", home.path().join("tmp"));
            program
        };
        let mut child = prepare().spawn();
        wait_for_file(home.path(), "done");
        child.kill().unwrap();
        child.wait().unwrap();
        // As if the machine of the process were another one.
        let claim = wait_for_file(home.path(), "claim");
        fs_err::write(&claim, format!("00000000 {}\n", child.id())).unwrap();
        let kept_out = prepare().args(["--plan"]).run();
        assert_eq!(kept_out.code, Some(11), "{}", kept_out.stderr);
        let child = prepare().spawn();
        wait_for_file(&home.path().join("tmp"), "done");
        interrupt(&child);
        let kept_out = Ran::from(child.wait_with_output().unwrap());
        assert_eq!(kept_out.code, Some(130), "{}", kept_out.stderr);
        assert!(!kept_out.stderr.contains("resuming after line"), "{}", kept_out.stderr);
        assert!(kept_out.stderr.contains("/claim`"), "{}", kept_out.stderr);
        fs_err::remove_file(&claim).unwrap();
        let child = prepare().spawn();
        wait_for_file(home.path(), "claim");
        interrupt(&child);
        let given_up = Ran::from(child.wait_with_output().unwrap());
        assert!(given_up.stderr.contains("resuming after line 1"), "{}", given_up.stderr);
        assert!(!claim.exists(), "{}", given_up.stderr);
        let resumed = prepare().run();
        assert_eq!(resumed.code, Some(0), "{}", resumed.stderr);
        assert!(resumed.stderr.contains("resuming after line"), "{}", resumed.stderr);
    }
}

fn interrupt(child: &Child) {
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
}
