//! Artifacts of the same key with other bytes than those that others were made from are neither pulled nor signed.

mod common;

use artifact::Artifact;
use common::{Pipeline, Recipe, Toy, name, names_in};
use serde_json::json;

/// A pipeline whose training run was deleted and made again, with other bytes.
fn contradicting() -> (Toy, Pipeline, Artifact) {
    let toy = Toy::new();
    let made = toy.pipeline(8, 64);
    testutil::files::remove(made.train.path());
    let again = toy.make(&Recipe {
        config: json!({"rank": 8, "seed": 1}),
        inputs: &[("model", &made.model, "model"), ("rows", &made.data, "rows")],
        files: &[("adapters.bin", b"other"), ("summary.json", b"{\"steps\":4}\n")],
        ..Recipe::default()
    });
    assert_eq!(again.manifest().key, made.train.manifest().key);
    assert_ne!(again.tree(), made.train.tree());
    (toy, made, again)
}

/// Fails unless a message names both artifacts, the role and a remedy.
#[track_caller]
fn assert_names(said: &str, consumer: &str, origin: &str) {
    for part in [
        format!("`{consumer}` was not made from `{origin}`"),
        "its input `model_0_fused` had the same key but different content".to_owned(),
        format!("hint: delete `{consumer}` and run its stage again"),
    ] {
        assert!(said.contains(&part), "`{part}` is not in {said}");
    }
}

#[test]
fn statements_about_other_bytes_are_not_made() {
    let (toy, made, again) = contradicting();
    for format in ["in-toto", "ro-crate"] {
        let ran = toy.run(&format!("export evaluate --to out --format {format}"));
        ran.failed(65);
        let paths = [&made.evaluate, &again].map(|artifact| format!("artifacts/{}", name(artifact)));
        assert_names(&ran.stderr, &paths[0], &paths[1]);
        assert!(!toy.path().join("out").exists());
    }
    // What was made from what is there has a true history.
    toy.run("export train --to out --format in-toto").succeeded();
}

#[test]
fn contradicting_artifacts_are_not_pulled() {
    let (toy, made, again) = contradicting();
    toy.run("push away").succeeded();
    let places = [&made.evaluate, &again].map(|artifact| format!("away/{}", name(artifact)));
    for wanted in ["", &format!("evaluate/{}", made.evaluate.manifest().key)] {
        let ran = toy.run(&format!("--store copy pull away {wanted}"));
        ran.failed(65);
        assert_names(&ran.stderr, &places[0], &places[1]);
        assert!(names_in(&toy.path().join("copy")).is_empty(), "something was copied");
    }
    toy.run("--store copy pull away train").failed(65);
    let train = format!("away train/{}", again.manifest().key);
    assert!(toy.run(&format!("--store copy pull {train}")).succeeded().starts_with("pulled 3 artifacts"));
}

#[test]
fn what_contradicts_the_store_is_not_pulled() {
    let (toy, _, again) = contradicting();
    let (other, sound) = (Toy::new(), toy.path().join("sound"));
    let made = other.pipeline(8, 64);
    other.run(&format!("push {}", sound.display())).succeeded();
    let (sound, before) = (sound.display().to_string(), toy.names());

    // The training run is here, with other bytes.
    testutil::files::remove(&toy.root().join(name(&made.evaluate)));
    let evaluate = format!("evaluate/{}", made.evaluate.manifest().key);
    let ran = toy.run(&format!("pull {sound}/ {evaluate} --no-lineage"));
    ran.failed(65);
    let consumer = format!("{sound}/{}", name(&made.evaluate));
    assert_names(&ran.stderr, &consumer, &format!("artifacts/{}", name(&again)));

    // With its origin, the two training runs are named, as push names them.
    let ran = toy.run(&format!("pull {sound} {evaluate}"));
    ran.failed(70);
    let (there, here) = (format!("{sound}/{}", name(&again)), format!("artifacts/{}", name(&again)));
    ran.says(&[&format!("`{there}` and `{here}` have the same key, but other bytes"), "hint: "]);
    assert_eq!(toy.names().len(), before.len() - 1, "something was pulled");

    // Nothing here is named by what comes without a history.
    testutil::files::remove(again.path());
    assert!(toy.run(&format!("pull {sound} {evaluate}")).succeeded().starts_with("pulled 2 artifacts"));
    assert_eq!(toy.names(), before);
}
