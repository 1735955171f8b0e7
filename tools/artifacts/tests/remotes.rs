//! Addresses of `push`, `pull` and `export`: a mistyped one is an error, none leads into the store, and only what an artifact lists is
//! pulled.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use common::{Toy, name};

fn set_mode(path: &Path, mode: u32) {
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_place_that_is_no_store_is_not_pulled_from() {
    let toy = Toy::new();
    toy.pipeline(8, 64);
    for (place, problem) in [
        ("nowhere", "`nowhere`: is not a folder"),
        ("build", "`build`: is a folder without artifacts"),
        ("artifacts/train", "`artifacts/train`: is a folder without artifacts"),
    ] {
        let ran = toy.run(&format!("--store copy pull {place}"));
        ran.failed(65);
        ran.says(&[problem, "hint: check the address"]);
    }
    assert!(!toy.path().join("copy").exists());
    // An empty store is a store, and so are its artifacts without the file that says so.
    toy.run("push away").succeeded();
    for stage in ["evaluate", "train", "prepare-data", "import-model"] {
        testutil::files::remove(&toy.path().join("away").join(stage));
    }
    assert!(toy.run("--store copy pull away").succeeded().starts_with("pulled 0 artifacts"));
    toy.run("push other").succeeded();
    fs_err::remove_file(toy.path().join("other/STORE")).unwrap();
    assert!(toy.run("--store copy pull other").succeeded().starts_with("pulled 4 artifacts"));
}

#[test]
fn an_empty_address_is_refused() {
    let toy = Toy::new();
    toy.pipeline(8, 64);
    for command in ["push", "pull"] {
        toy.program(command).arg("").run().failed(2);
    }
    toy.program("export train --to").arg("").run().failed(2);
    assert!(!toy.path().join("train").exists() && !toy.path().join("STORE").exists());
}

#[test]
fn nothing_but_artifacts_is_written_into_the_store() {
    let toy = Toy::new();
    toy.pipeline(8, 64);
    std::os::unix::fs::symlink(toy.root(), toy.path().join("link")).unwrap();
    for place in ["artifacts", "artifacts/train", "./link/train/x", "artifacts/new/deep"] {
        for command in [&format!("push {place}"), &format!("export evaluate --format in-toto --to {place}")] {
            toy.run(command).failed(2);
        }
    }
    assert_eq!(toy.run("verify").code, Some(0));
}

#[test]
fn telemetry_that_the_artifact_does_not_list_stays_there() {
    let toy = Toy::new();
    let made = toy.pipeline(8, 64);
    toy.run("push away").succeeded();
    for artifact in [&made.train, &made.evaluate] {
        let there = toy.path().join("away").join(name(artifact));
        set_mode(&there, 0o755);
        fs_err::create_dir_all(there.join("telemetry")).unwrap();
        set_mode(&there.join("telemetry"), 0o755);
        fs_err::write(there.join("telemetry/report.html"), "<script>").unwrap();
    }
    let ran = toy.run("--store away verify");
    assert_eq!(ran.code, Some(1));
    assert_eq!(ran.stdout.matches("`telemetry/report.html` is not in `provenance.json`").count(), 2);
    assert!(toy.run("--store copy pull away").succeeded().starts_with("pulled 4 artifacts"));
    let copied = |artifact, file: &str| toy.path().join("copy").join(name(artifact)).join(file).exists();
    assert!(copied(&made.train, "telemetry/timing.jsonl"));
    assert!(!copied(&made.train, "telemetry/report.html") && !copied(&made.evaluate, "telemetry"));
    assert_eq!(toy.run("--store copy verify").code, Some(0));
}

#[test]
fn telemetry_that_is_too_large_is_left_out() {
    let toy = Toy::new();
    let made = toy.pipeline(8, 64);
    toy.run("push away").succeeded();
    let timing = toy.path().join("away").join(name(&made.train)).join("telemetry/timing.jsonl");
    set_mode(&timing, 0o644);
    // Takes no space.
    fs_err::OpenOptions::new().write(true).open(&timing).unwrap().set_len((1 << 30) + 1).unwrap();
    let ran = toy.run("--store copy pull away");
    assert!(ran.succeeded().starts_with("pulled 4 artifacts"));
    ran.says(&["its telemetry is left out: 1 file (1.1 GB) are too much"]);
    assert!(!toy.path().join("copy").join(name(&made.train)).join("telemetry").exists());
}

#[test]
fn more_digits_than_a_folder_has_name_one_artifact() {
    let toy = Toy::new();
    let made = toy.pipeline(8, 64);
    toy.run("push away").succeeded();
    toy.run("keep train").succeeded();
    let key = made.train.manifest().key.to_string();
    let wrong = format!("{}{}", &key[..40], if key.as_bytes()[40] == b'0' { "1" } else { "0" });
    for right in [&key[..], &key[..17]] {
        toy.run(&format!("path {right}")).succeeded();
        toy.run(&format!("--store copy pull away {right}")).succeeded();
        toy.run(&format!("keep {right} --remove")).succeeded();
    }
    toy.run("keep train").succeeded();
    toy.run(&format!("path {wrong}")).failed(65);
    toy.run(&format!("path train/{wrong}")).failed(65);
    toy.run(&format!("--store copy pull away {wrong}")).failed(65);
    toy.run(&format!("keep {wrong} --remove")).failed(65);
    assert_eq!(toy.json("keep").as_array().unwrap().len(), 1);
}
