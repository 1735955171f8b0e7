//! Push and pull: only whole, verified artifacts become visible, wherever a copy is cut.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use artifact::Store;
use common::{FAULTS, Toy, files, name, names_in};
use rustix::process::{Pid, Signal, kill_process};

/// A second store in the same folder as the first one.
fn pull(toy: &Toy, arguments: &str) -> testutil::Ran {
    toy.run(&format!("--store copy pull {arguments}"))
}

#[test]
fn a_folder_holds_the_same_artifacts_and_gives_them_back() {
    let toy = Toy::new();
    toy.pipeline(8, 64);
    assert!(toy.run("push away").succeeded().starts_with("pushed 4 artifacts"));
    assert!(toy.run("push away").succeeded().starts_with("pushed 0 artifacts (0 B); 4 already there"));
    assert_eq!(names_in(&toy.path().join("away")), toy.names());
    assert!(pull(&toy, "away").succeeded().starts_with("pulled 4 artifacts"));
    assert_eq!(names_in(&toy.path().join("copy")), toy.names());
    // Telemetry comes along, and published files are read-only.
    let copied = files(&toy.path().join("copy/train"));
    assert!(copied.iter().any(|path| path.ends_with("telemetry/timing.jsonl")));
    assert!(copied.iter().all(|path| fs_err::metadata(path).unwrap().permissions().mode() & 0o777 == 0o444));
    assert!(pull(&toy, "away").succeeded().contains("4 already there"));
    assert_eq!(toy.run("--store copy verify").code, Some(0));
}

#[test]
fn one_artifact_comes_with_what_it_was_made_from() {
    let toy = Toy::new();
    let made = toy.pipeline(8, 64);
    toy.pipeline(16, 128);
    let train = made.train.manifest().key.short();
    assert!(toy.run(&format!("push away {train}")).succeeded().starts_with("pushed 3 artifacts"));
    assert!(pull(&toy, &format!("away train/{}", &train[..6])).succeeded().starts_with("pulled 3 artifacts"));
    assert!(
        toy.run(&format!("push alone {train} --no-lineage")).succeeded().starts_with("pushed 1 artifact ")
    );
    let ran = toy.run("--store lonely pull alone");
    assert!(ran.succeeded().starts_with("pulled 1 artifact "));
    for origin in [&made.model, &made.data] {
        let (stage, key) = (&origin.manifest().stage, origin.manifest().key.short());
        ran.says(&[&format!("{stage}/{key} is neither there nor in the store")]);
    }
    let ran = toy.run("--store lonely2 pull alone --no-lineage");
    assert!(ran.succeeded().starts_with("pulled 1 artifact "));
    assert!(!ran.stderr.contains("is left out"), "{}", ran.stderr);
    // A letter of several bytes lies across the sixteenth byte of the last word.
    for word in ["0000", "abc", "train/", "ʻokinaʻokinaaʻx"] {
        let ran = pull(&toy, &format!("away {word}"));
        ran.failed(65);
        ran.says(&[
            &format!("`away`: holds no artifact `{word}`"),
            "or at least the first 4 digits of a key",
        ]);
    }
}

#[test]
fn an_origin_that_is_missing_is_named_once() {
    let toy = Toy::new();
    let made = toy.pipeline(8, 64);
    testutil::files::remove(made.model.path());
    // The data and the training run were made from it.
    for command in [
        "push away evaluate",
        "--store copy pull away",
        "export evaluate --to crate --format ro-crate",
        "export evaluate --to statements --format in-toto",
    ] {
        let ran = toy.run(command);
        ran.succeeded();
        let model = format!("import-model/{} is n", made.model.manifest().key.short());
        assert_eq!(ran.stderr.matches(&model).count(), 1, "{command}: {}", ran.stderr);
        let consequence = [("crate", "it is missing in the crate"), ("in-toto", "its statement is missing")];
        for (word, consequence) in consequence {
            let is_meant = command.ends_with(word);
            assert_eq!(ran.stderr.contains(consequence), is_meant, "{command}: {}", ran.stderr);
        }
    }
}

#[test]
fn a_push_ends_after_the_artifact_during_which_it_was_asked_to() {
    let toy = Toy::new();
    let made = toy.pipeline(8, 64);
    // The push waits for the first artifact, which another program is about to remove.
    let folder = fs_err::File::open(made.model.path()).unwrap();
    drop(made);
    folder.file().lock().unwrap();
    let child = toy.program("push away").env("ASHLAR_PATIENCE", "60s").spawn();
    std::thread::sleep(Duration::from_millis(1500));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    folder.file().unlock().unwrap();
    let ran = testutil::Ran::from(child.wait_with_output().unwrap());
    ran.failed(143);
    assert_eq!(names_in(&toy.path().join("away")).len(), 1);
}

#[test]
fn damage_is_neither_pushed_nor_pulled() {
    let toy = Toy::new();
    let made = toy.pipeline(8, 64);
    toy.run("push away").succeeded();
    for path in files(&toy.path().join("away/train")) {
        let good = fs_err::read(&path).unwrap();
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 1;
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        fs_err::write(&path, bad).unwrap();
        let ran = pull(&toy, "away");
        assert_ne!(ran.code, Some(0), "`{}`", path.display());
        assert!(ran.stderr.contains("train"), "{}", ran.stderr);
        let copy = names_in(&toy.path().join("copy"));
        assert!(!copy.contains(&name(&made.train)), "`{}` was pulled", path.display());
        fs_err::write(&path, good).unwrap();
    }
    pull(&toy, "away").succeeded();

    let path = made.train.path().join("data/adapters.bin");
    fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    fs_err::write(&path, "8 65").unwrap();
    let error = toy.run("push elsewhere").failed(65);
    assert!(error.contains("is damaged"), "{error}");
    assert!(!toy.path().join("elsewhere/train").join(name(&made.train)).exists());
    // A damaged artifact of the store is replaced by a sound copy.
    pull(&toy, "away").succeeded();
    toy.run("pull away").succeeded();
    assert_eq!(toy.run("verify").code, Some(0));
}

/// Flips a bit of a published file.
fn flip(path: &Path) {
    let mut bytes = fs_err::read(path).unwrap();
    bytes[0] ^= 1;
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    fs_err::write(path, bytes).unwrap();
}

#[test]
fn damage_is_named_where_it_is() {
    let toy = Toy::new();
    let made = toy.pipeline(8, 64);
    toy.run("push away").succeeded();
    let train = name(&made.train);
    for (file, expected) in [
        ("data/adapters.bin", format!("`away/{train}` is damaged: `data/adapters.bin` has other bytes")),
        ("telemetry/timing.jsonl", format!("`away/{train}` is damaged: `telemetry/timing.jsonl` has other")),
        ("provenance.json", format!("`away/{train}` is damaged: `provenance.json` does not match `COMMIT`")),
    ] {
        flip(&toy.path().join("away").join(&train).join(file));
        let ran = pull(&toy, "away");
        ran.failed(65);
        ran.says(&[&expected, "hint: delete that artifact there, and push it again"]);
        assert!(!ran.stderr.contains(".tmp-"), "{}", ran.stderr);
        flip(&toy.path().join("away").join(&train).join(file));
    }
    let manifest = toy.path().join("away").join(&train).join("manifest.json");
    flip(&manifest);
    pull(&toy, "away").failed(65);
    pull(&toy, "away").says(&[&format!("`away/{train}/manifest.json`")]);
    fs_err::remove_file(&manifest).unwrap();
    pull(&toy, "away").says(&[&format!("`away/{train}/manifest.json` is missing")]);

    // What is pushed is verified first, telemetry included: the place that it goes to is not to blame.
    flip(&made.train.path().join("telemetry/timing.jsonl"));
    let ran = toy.run("push elsewhere");
    ran.failed(65);
    ran.says(&[&format!("`artifacts/{train}` is damaged: `telemetry/timing.jsonl` has other bytes")]);
    assert!(!ran.stderr.contains("elsewhere"), "{}", ran.stderr);
    assert!(!toy.path().join("elsewhere").join(&train).exists());
}

#[test]
fn folders_that_are_no_artifacts_are_left_out() {
    let toy = Toy::new();
    toy.pipeline(8, 64);
    toy.run("push away").succeeded();
    let strays =
        ["My Stuff/0123456789abcdef-x", "train/0123456789abcdef-Copy of x", "2025/0123456789abcdef-x"];
    for stray in strays {
        for store in ["away", "artifacts"] {
            let folder = toy.path().join(store).join(stray);
            fs_err::create_dir_all(&folder).unwrap();
            fs_err::write(folder.join("COMMIT"), "").unwrap();
        }
    }
    assert!(pull(&toy, "away").succeeded().starts_with("pulled 4 artifacts"));
    let ran = toy.run("push other");
    assert!(ran.succeeded().starts_with("pushed 4 artifacts"));
    ran.says(&[&format!("`artifacts/{}` has no name of an artifact and is left out", strays[1])]);
    // No stage has such a folder.
    assert!(!ran.stderr.contains(strays[0]) && !ran.stderr.contains(strays[2]), "{}", ran.stderr);
}

#[test]
fn an_artifact_without_commit_is_not_there() {
    let toy = Toy::new();
    let made = toy.pipeline(8, 64);
    toy.run("push away").succeeded();
    let commit = toy.path().join("away").join(name(&made.evaluate)).join("COMMIT");
    fs_err::remove_file(commit).unwrap();
    assert!(pull(&toy, "away").succeeded().starts_with("pulled 3 artifacts"));
    // Pushing again completes it.
    assert!(toy.run("push away").succeeded().starts_with("pushed 1 artifact "));
    assert!(pull(&toy, "away").succeeded().starts_with("pulled 1 artifact "));
}

#[test]
fn an_artifact_that_another_program_has_locked_is_not_copied_again() {
    let toy = Toy::new();
    let made = toy.pipeline(8, 64);
    toy.run("push away").succeeded();
    pull(&toy, "away").succeeded();
    for (command, store) in [("--store copy pull away", "copy"), ("push away", "away")] {
        let there = toy.path().join(store).join(name(&made.train));
        let folder = fs_err::File::open(&there).unwrap();
        folder.file().lock().unwrap();
        let ran = toy.program(command).env("ASHLAR_PATIENCE", "50ms").run();
        ran.failed(75);
        ran.says(&[
            "another process has locked",
            &name(&made.train),
            "hint: run the same command again when",
        ]);
        assert!(!ran.stderr.contains("is damaged"), "{}", ran.stderr);
        assert!(there.exists() && !toy.path().join(store).join(".quarantine").exists());
    }
}

/// Prepares a store and a folder with its artifacts.
fn prepared() -> (Toy, Vec<String>) {
    let toy = Toy::new();
    toy.pipeline(8, 64);
    toy.run("push away").succeeded();
    let names = toy.names();
    (toy, names)
}

/// Runs a command that is killed at its first, second, … operation, until it finishes.
fn killed_at_every_operation(command: &str, target: &str) {
    let (toy, expected) = prepared();
    for turn in 1.. {
        let root = toy.path().join(target);
        testutil::files::remove(&root);
        let ran = toy.program(command).env("ASHLAR_FAULT", format!("kill@{turn}")).run();
        // Whatever is visible is verified.
        let visible = names_in(&root);
        assert!(visible.iter().all(|name| expected.contains(name)), "kill@{turn}");
        toy.run(command).succeeded();
        assert_eq!(names_in(&root), expected, "kill@{turn}");
        if ran.code == Some(0) {
            assert!(turn > 100, "only {turn} operations were reached");
            return;
        }
    }
}

#[test]
fn pull_killed_at_any_operation_shows_nothing_half_copied() {
    killed_at_every_operation("--store copy pull away", "copy");
}

#[test]
fn push_killed_at_any_operation_shows_nothing_half_copied() {
    killed_at_every_operation("push other", "other");
}

#[test]
fn pull_and_push_with_a_full_or_broken_disk_say_so_or_are_complete() {
    for (command, target) in [("--store copy pull away", "copy"), ("push other", "other")] {
        for (fault, code) in FAULTS {
            says_so_or_is_complete(command, target, fault, code);
        }
    }
}

/// Runs a command whose first, second, … operation fails.
fn says_so_or_is_complete(command: &str, target: &str, fault: &str, code: i32) {
    let (toy, expected) = prepared();
    let mut failed = 0;
    for turn in (1..150).step_by(2) {
        let root = toy.path().join(target);
        testutil::files::remove(&root);
        let ran = toy.program(command).env("ASHLAR_FAULT", format!("{fault}@{turn}")).run();
        let visible = names_in(&root);
        if ran.code == Some(0) {
            // A hash that cannot be remembered does no harm.
            assert_eq!(visible, expected, "{fault}@{turn}");
            continue;
        }
        failed += 1;
        assert_eq!(ran.code, Some(code), "{fault}@{turn}: {}", ran.stderr);
        assert!(ran.stderr.contains('`'), "{fault}@{turn}: {}", ran.stderr);
        assert!(visible.iter().all(|name| expected.contains(name)), "{fault}@{turn}");
    }
    assert!(failed > 40, "only {failed} operations failed");
}

#[test]
fn files_outside_the_artifact_are_not_written() {
    let toy = Toy::new();
    let made = toy.pipeline(8, 64);
    toy.run("push away").succeeded();
    // A manifest that names a file outside, as consistent as it can be.
    let folder = toy.path().join("away").join(name(&made.model));
    let manifest = folder.join("manifest.json");
    let text =
        fs_err::read_to_string(&manifest).unwrap().replace("model/weights.bin", "../../../weights.bin");
    fs_err::set_permissions(&manifest, std::fs::Permissions::from_mode(0o644)).unwrap();
    fs_err::write(&manifest, text).unwrap();
    let ran = pull(&toy, "away");
    assert_eq!(ran.code, Some(65), "{}", ran.stderr);
    assert!(!toy.path().join("weights.bin").exists() && !Path::new("/weights.bin").exists());
    assert!(Store::open(&toy.path().join("copy")).unwrap().names("import-model").unwrap().is_empty());
}

#[test]
fn other_addresses_are_refused_with_a_hint() {
    let toy = Toy::new();
    toy.pipeline(8, 64);
    let error = toy.run("push ftp://host/x").failed(1);
    assert!(error.contains("`ftp:` are not supported") && error.contains("s3://BUCKET/PREFIX"), "{error}");
    toy.run("push s3://").failed(1);
}
