//! gc leaves alone what a living process works in, also where locks are missing or do nothing.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, id};
use std::time::{Duration, SystemTime};

use artifact::{Key, Level};
use common::Toy;
use serde_json::Value;

/// Values of `ASHLAR_LOCKS`: real ones, failing ones, and ones that succeed without locking.
const LOCKS: [&str; 3] = ["real", "none", "ignored"];
const KEY: &str = "0123456789abcdef";
/// Reason for which a folder stays that may belong to another machine.
const PERHAPS: &str =
    "perhaps in use by another machine, as locks may not work here; delete it by hand if it is not";

/// Returns the number of a process that has ended.
fn dead_process() -> u32 {
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    child.id()
}

/// Returns the name of this boot, as it is written in the name of a staging folder.
fn boot(toy: &Toy) -> String {
    let staging = toy.store.stage_new("train").unwrap();
    let name = staging.root().file_name().unwrap().to_str().unwrap();
    name.split('-').nth(1).unwrap().to_owned()
}

/// Sets the times of a folder and of all in it back.
fn age(folder: &Path, hours: u64) {
    let mut paths: Vec<PathBuf> = common::files(folder);
    let folders: Vec<PathBuf> =
        paths.iter().flat_map(|path| path.ancestors().skip(1)).map(Path::to_owned).collect();
    paths.extend(folders.into_iter().filter(|path| path.starts_with(folder)));
    paths.push(folder.to_owned());
    let time: SystemTime = artifact::now() - Duration::from_hours(hours);
    for path in paths {
        let times = std::fs::FileTimes::new().set_modified(time);
        fs_err::File::open(path).unwrap().file().set_times(times).unwrap();
    }
}

/// Makes an old folder with a file in the store.
fn old_folder(toy: &Toy, path: &str, file: &str, content: &str) -> PathBuf {
    let folder = toy.root().join(path);
    fs_err::create_dir_all(&folder).unwrap();
    fs_err::write(folder.join(file), content).unwrap();
    age(&folder, 100 * 24);
    folder
}

/// Removes garbage; returns the reasons for which things stayed.
fn collected(toy: &Toy, locks: &str) -> Vec<String> {
    let ran = toy.program("gc --delete --json").env("ASHLAR_LOCKS", locks).run();
    let report: Value = serde_json::from_str(ran.succeeded()).unwrap();
    let reasons = report["spared"].as_array().unwrap().iter();
    reasons.map(|spared| spared["reason"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_staging_folder_of_a_living_process_stays() {
    for locks in LOCKS {
        let toy = Toy::new();
        let this_boot = boot(&toy);
        let staging =
            old_folder(&toy, &format!("train/.tmp-{this_boot}-{}-x", id()), "model.bin", "half of it");
        assert_eq!(collected(&toy, locks), ["in use"], "{locks}");
        assert!(staging.join("model.bin").exists(), "{locks}");
    }
}

#[test]
fn the_staging_folder_of_a_dead_process_goes() {
    for locks in LOCKS {
        let toy = Toy::new();
        let name = format!("train/.tmp-{}-{}-x", boot(&toy), dead_process());
        let staging = old_folder(&toy, &name, "model.bin", "half of it");
        assert!(collected(&toy, locks).is_empty(), "{locks}");
        assert!(!staging.exists(), "{locks}");
    }
}

#[test]
fn the_staging_folder_of_another_boot_goes_if_a_lock_shows_that_it_is_free() {
    for locks in LOCKS {
        let toy = Toy::new();
        let staging = old_folder(&toy, &format!("train/.tmp-00000000-{}-x", id()), "model.bin", "half of it");
        let spared = collected(&toy, locks);
        if locks == "real" {
            assert!(spared.is_empty() && !staging.exists(), "{spared:?}");
        } else {
            assert!(spared == [PERHAPS] && staging.exists(), "{locks}: {spared:?}");
        }
    }
}

#[test]
fn the_workspace_of_a_living_process_stays() {
    for locks in LOCKS {
        let toy = Toy::new();
        let key: Key = format!("{KEY:0<64}").parse().unwrap();
        let workspace = toy.store.workspace("train", &key).unwrap();
        assert!(workspace.claim(&toy.store).unwrap());
        fs_err::write(workspace.state_dir().join("step-1"), "12345").unwrap();
        let folder = workspace.state_dir().parent().unwrap().to_owned();
        age(&folder, 100 * 24);
        assert_eq!(collected(&toy, locks), ["in use"], "{locks}");
        assert!(workspace.has_state(), "{locks}");
    }
}

#[test]
fn the_workspace_of_a_dead_process_goes() {
    for locks in LOCKS {
        let toy = Toy::new();
        let claim = format!("{} {}\n", boot(&toy), dead_process());
        let path = format!(".work/train/{KEY}");
        for (file, content) in [("claim", claim.as_str()), ("owner.json", "{}\n")] {
            let workspace = old_folder(&toy, &path, file, content);
            assert!(collected(&toy, locks).is_empty(), "{locks}");
            assert!(!workspace.exists(), "{locks} {file}");
        }
    }
}

#[test]
fn the_workspace_of_another_boot_goes_if_a_lock_shows_that_it_is_free() {
    for locks in LOCKS {
        let toy = Toy::new();
        let claim = format!("00000000 {}\n", id());
        let workspace = old_folder(&toy, &format!(".work/train/{KEY}"), "claim", &claim);
        let spared = collected(&toy, locks);
        if locks == "real" {
            assert!(spared.is_empty() && !workspace.exists(), "{spared:?}");
        } else {
            assert!(spared == [PERHAPS] && workspace.exists(), "{locks}: {spared:?}");
        }
    }
}

#[test]
fn what_a_run_was_deleting_when_it_was_killed_goes() {
    let toy = Toy::new();
    toy.pipeline(8, 64);
    let removed = old_folder(&toy, &format!(".work/train/.{KEY}-4242"), "step-1", "12345");
    let new = toy.root().join(format!(".work/train/.{KEY}-4243"));
    fs_err::create_dir_all(&new).unwrap();
    assert_eq!(toy.json("gc")["remove"].as_array().unwrap().len(), 1);
    assert!(collected(&toy, "real").is_empty());
    assert!(!removed.exists() && new.exists(), "another run may be deleting it now");
    assert_eq!(toy.names().len(), 4);
}

#[test]
fn what_is_no_workspace_stays() {
    let toy = Toy::new();
    for path in [format!(".work/Not a stage/{KEY}"), ".work/train/notes".to_owned()] {
        let folder = old_folder(&toy, &path, "file", "12345");
        assert_eq!(collected(&toy, "real"), ["not a workspace"], "{path}");
        testutil::files::remove(&folder);
    }
}

#[test]
fn without_locks_the_age_of_artifacts_protects_them() {
    for locks in ["none", "ignored"] {
        let toy = Toy::new();
        let made = toy.pipeline(8, 64);
        assert!(collected(&toy, locks).is_empty(), "{locks}");
        made.evaluate.verify(Level::Hash).unwrap();
        for artifact in [&made.model, &made.data, &made.train, &made.evaluate] {
            common::age(artifact, 100);
        }
        collected(&toy, locks);
        assert!(toy.names().is_empty(), "{locks}");
    }
}
