//! Reproduce: every command really runs, in a store of its own.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use artifact::{Draft, InputContent, InputRecord, KeyMaterial, TreeHash};
use common::{Recipe, Toy, name};
use serde_json::json;

/// Writes a program that records its arguments in `log`, and prints the path of an artifact.
fn stage(folder: &Path, stage: &str, artifact: &Path) {
    fs_err::create_dir_all(folder).unwrap();
    let path = folder.join(stage);
    let text = format!("#!/bin/sh\necho \"$*\" >>log\necho '{}'\n", artifact.display());
    fs_err::write(&path, text).unwrap();
    fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// A store, and a program `bin/train` in whose output the same bytes are.
fn prepared() -> Toy {
    let toy = Toy::new();
    let made = toy.pipeline(8, 64);
    stage(&toy.path().join("bin"), "train", made.train.path());
    toy
}

#[test]
fn the_store_itself_is_refused() {
    let toy = prepared();
    std::os::unix::fs::symlink("artifacts", toy.path().join("link")).unwrap();
    for into in ["artifacts", "artifacts/", "./artifacts", "link", "artifacts/again"] {
        for run in ["--run", ""] {
            let error = toy.run(&format!("reproduce train --only {run} --bin bin --into {into}")).failed(2);
            assert!(error.contains(&format!("`--into {into}` leads into the store")), "{error}");
        }
    }
    assert!(!toy.path().join("log").exists(), "something ran");
    assert!(!toy.root().join("train.toml").exists() && !toy.root().join("again").exists());
}

#[test]
fn every_run_has_a_store_of_its_own() {
    let toy = prepared();
    for run in 1..=2 {
        let ran = toy.run("reproduce train --only --run --bin bin");
        assert!(ran.succeeded().ends_with(": the same bytes\n"), "{}", ran.stdout);
        ran.says(&[&format!("the new artifacts are in `build/reproduce/run-{run}/artifacts`")]);
        let settings = toy.path().join(format!("build/reproduce/run-{run}/settings/train.toml"));
        assert!(fs_err::read_to_string(settings).unwrap().contains("rank = 8"));
    }
    let log = fs_err::read_to_string(toy.path().join("log")).unwrap();
    let stores: Vec<&str> =
        log.lines().filter_map(|line| line.split_once("--store ")?.1.split(' ').next()).collect();
    assert_eq!(stores, ["build/reproduce/run-1/artifacts", "build/reproduce/run-2/artifacts"]);
}

/// Makes an artifact outside the store whose input `model` was a plain folder with this tree hash.
fn made_from_plain_files(toy: &Toy, tree: TreeHash) {
    let mut draft = Draft::new("toy", KeyMaterial::new("validate", 1, json!({})));
    draft.key_material.inputs.insert("model".to_owned(), InputContent::Tree(tree));
    draft.inputs.insert("model".to_owned(), InputRecord { stage: None, key: None, tree, output: None });
    let out = toy.path().join("consumer");
    artifact::write_folder(&out, &draft, |data| Ok(fs_err::write(data.join("a"), "a")?)).unwrap();
}

#[test]
fn plain_files_that_nobody_has_are_missed_before_anything_runs() {
    let toy = prepared();
    made_from_plain_files(&toy, "0".repeat(64).parse().unwrap());
    for run in ["--run", ""] {
        let error = toy.run(&format!("reproduce consumer --bin bin {run}")).failed(65);
        assert!(error.contains("input `model` was made from plain files"), "{error}");
        assert!(error.contains("hint: add --files"), "{error}");
    }
    assert!(!toy.path().join("build/reproduce").exists());
}

#[test]
fn a_plain_input_that_an_artifact_has_is_found_there() {
    let toy = Toy::new();
    let model = toy.make(&Recipe {
        stage: "import-model",
        config: json!({"id": "org/name", "commit": "c0ffee"}),
        files: &[("model/config.json", b"{}"), ("model/weights.bin", &[7; 30])],
        ..Recipe::default()
    });
    made_from_plain_files(&toy, model.manifest().outputs["model"].tree);
    // The artifact is made again too; alone, it is taken from the store.
    let ran = toy.run("reproduce consumer");
    assert!(ran.succeeded().contains("IMPORT_MODEL_1=$("), "{}", ran.stdout);
    assert!(ran.stdout.contains("--model \"$IMPORT_MODEL_1\"/data/model"), "{}", ran.stdout);
    let ran = toy.run("reproduce consumer --only");
    let expected = format!("--model artifacts/{}/data/model", name(&model));
    assert!(ran.succeeded().contains(&expected), "{}", ran.stdout);
    // Files of the user go first.
    testutil::files::copy(&model.output_dir("model").unwrap(), &toy.path().join("mine"));
    let ran = toy.run("reproduce consumer --files mine");
    assert!(ran.succeeded().contains("--model mine"), "{}", ran.stdout);
    assert!(!ran.stdout.contains("IMPORT_MODEL"), "{}", ran.stdout);
}
