//! `verify` finds every change, says what it is in its exit code, and can move damage away.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use artifact::{Artifact, Level, Memo};
use common::{Recipe, Toy, files, name};
use serde_json::json;

fn writable(path: &Path) {
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
}

/// Changes one byte of a file while `look` is called.
fn flipped(path: &Path, at: usize, bit: u8, look: impl FnOnce()) {
    let good = fs_err::read(path).unwrap();
    let mut bad = good.clone();
    bad[at] ^= 1 << bit;
    writable(path);
    fs_err::write(path, bad).unwrap();
    look();
    fs_err::write(path, good).unwrap();
}

#[test]
fn a_sound_store_exits_with_0() {
    let toy = Toy::new();
    toy.pipeline(8, 64);
    let ran = toy.run("verify");
    assert!(ran.succeeded().starts_with("verified 4 artifacts, "), "{}", ran.stdout);
    let empty = Toy::new();
    drop(empty.store.stage_new("train").unwrap());
    assert!(empty.run("verify").succeeded().starts_with("verified 0 artifacts, "));
}

#[test]
fn a_mistyped_store_is_not_an_empty_one() {
    let toy = Toy::new();
    let made = toy.pipeline(8, 64);
    for command in ["verify", "push away", "gc --delete", "keep artifacts/train --remove"] {
        for (store, problem) in [
            ("typo", "there is no store `typo` yet"),
            ("build", "`build` is not a store: it has neither artifacts nor a file `STORE`"),
        ] {
            let ran = toy.run(&format!("--store {store} {command}"));
            ran.failed(65);
            ran.says(&[problem, "hint: check --store (STORE of make)"]);
        }
    }
    assert!(!toy.path().join("typo").exists() && !toy.path().join("away").exists());
    // A folder that is named need not be in a store, and these change nothing.
    let run = format!("verify artifacts/{}", name(&made.train));
    for command in [run.as_str(), "ls", "status", "gc", "keep"] {
        toy.run(&format!("--store typo {command}")).succeeded();
    }
    // Artifacts are a store also without the file that says so.
    fs_err::remove_file(toy.root().join("STORE")).unwrap();
    assert!(toy.run("verify").succeeded().starts_with("verified 4 artifacts, "));
}

#[test]
fn a_damaged_description_is_named_once() {
    let toy = Toy::new();
    let made = toy.pipeline(8, 64);
    flipped(&made.train.path().join("provenance.json"), 0, 0, || {
        let ran = toy.run("verify");
        assert_eq!(ran.code, Some(1), "{}", ran.stdout);
        let expected =
            format!("`artifacts/{}`: `provenance.json` does not match `COMMIT`\n", name(&made.train));
        assert!(ran.stdout.contains(&expected), "{}", ran.stdout);
    });
}

#[test]
fn every_flipped_byte_of_every_file_is_found() {
    let toy = Toy::new();
    let made = toy.pipeline(8, 64);
    let mut count = 0;
    for path in files(made.train.path()) {
        let length = fs_err::metadata(&path).unwrap().len() as usize;
        for at in 0..length {
            flipped(&path, at, (at % 8) as u8, || {
                let found = artifact::verify(made.train.path(), Level::Hash, &Memo::default());
                assert!(!found.is_sound(), "byte {at} of `{}`", path.display());
            });
            count += 1;
        }
        // The program itself, at the ends of each file.
        for at in [0, length - 1] {
            flipped(&path, at, 0, || {
                let ran = toy.run("verify");
                assert_eq!(ran.code.unwrap() & 1, 1, "byte {at} of `{}`: {}", path.display(), ran.stdout);
                assert!(ran.stdout.contains(made.train.path().file_name().unwrap().to_str().unwrap()));
            });
        }
    }
    assert!(count > 1500, "only {count} bytes were flipped");
    assert_eq!(toy.run("verify").code, Some(0));
}

fn flip_bits_of_a_large_file(megabytes: usize, bits: usize) {
    let toy = Toy::new();
    let mut state = 1_u64;
    let mut random = || {
        // Xorshift: any spread of positions will do.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let content: Vec<u8> = (0..megabytes * 1_000_000 / 8).flat_map(|_| random().to_le_bytes()).collect();
    let made = toy.make(&Recipe { files: &[("model/weights.bin", &content)], ..Recipe::default() });
    let path = made.path().join("data/model/weights.bin");
    writable(&path);
    let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    for turn in 0..bits {
        use std::os::unix::fs::FileExt as _;
        let (at, bit) = (random() % content.len() as u64, random() % 8);
        let flip = || {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1 << bit], at).unwrap();
        };
        flip();
        let ran = toy.run("verify");
        assert_eq!(ran.code, Some(1), "bit {bit} of byte {at} (turn {turn}): {}", ran.stdout);
        flip();
    }
    assert_eq!(toy.run("verify").code, Some(0));
}

#[test]
fn random_bits_of_a_large_file_are_found() {
    flip_bits_of_a_large_file(70, 10);
}

#[test]
#[ignore = "takes minutes; `make soak` runs it"]
fn a_thousand_random_bits_of_200_mb_are_found() {
    flip_bits_of_a_large_file(200, 1000);
}

#[test]
fn the_exit_code_is_a_sum_of_bits() {
    let toy = Toy::new();
    let made = toy.pipeline(8, 64);
    let damaged = made.evaluate.path().join("data/predictions.jsonl");
    writable(&damaged);
    fs_err::write(&damaged, "{}\n").unwrap();
    assert_eq!(toy.run("verify").code, Some(1));
    // The others were made from it.
    testutil::files::remove(made.model.path());
    let ran = toy.run("verify");
    assert_eq!(ran.code, Some(3), "{}", ran.stdout);
    assert!(ran.stdout.contains("missing: ") && ran.stdout.contains("damaged: "), "{}", ran.stdout);
    toy.store.set_ref("gone", &made.model).unwrap();
    fs_err::create_dir(toy.root().join("train/stranger")).unwrap();
    let ran = toy.run("verify");
    assert!(
        ran.stdout.contains("label `gone` names import-model/")
            && ran.stdout.contains("stranger` is not an artifact")
    );
    assert_eq!(toy.run(&format!("verify {}", made.data.path().display())).code, Some(2));
}

#[test]
fn damage_is_moved_to_quarantine_on_request() {
    let toy = Toy::new();
    let made = toy.pipeline(8, 64);
    let manifest = made.train.path().join("manifest.json");
    writable(&manifest);
    fs_err::write(&manifest, "{}").unwrap();
    let ran = toy.run("verify --quarantine");
    // The evaluation now lacks its input.
    assert_eq!(ran.code, Some(3));
    assert!(ran.stdout.contains("moved to `artifacts/.quarantine/"), "{}", ran.stdout);
    assert!(!made.train.path().exists());
    assert_eq!(toy.names().len(), 3);
}

#[test]
fn incremental_verification_leaves_out_what_was_verified_lately() {
    let toy = Toy::new();
    toy.pipeline(8, 64);
    assert!(toy.run("verify --incremental").succeeded().starts_with("verified 4 artifacts"));
    assert!(toy.run("verify --incremental").succeeded().starts_with("verified 0 artifacts"));
    assert!(toy.run("verify --incremental --max-age 0s").succeeded().starts_with("verified 4 artifacts"));
    assert!(toy.run("verify --time-limit 0s").succeeded().starts_with("verified 0 artifacts"));
}

#[test]
fn a_copy_of_a_store_is_verified_again() {
    let toy = Toy::new();
    let made = toy.pipeline(8, 64);
    assert!(toy.run("verify --incremental").succeeded().starts_with("verified 4 artifacts"));
    testutil::files::copy(toy.root(), &toy.path().join("copy"));
    let damaged = toy.path().join("copy").join(name(&made.train)).join("data/adapters.bin");
    writable(&damaged);
    fs_err::write(&damaged, "9 64").unwrap();
    let ran = toy.run("--store copy verify --incremental");
    assert_eq!(ran.code, Some(1), "{}", ran.stdout);
    assert!(ran.stdout.contains("verified 3 artifacts"), "{}", ran.stdout);
    // An artifact that took the place of another one, as `rsync` does.
    let train = toy.root().join(name(&made.train));
    testutil::files::remove(&train);
    testutil::files::copy(&toy.path().join("copy").join(name(&made.train)), &train);
    assert_eq!(toy.run("verify --incremental").code, Some(1));
}

#[test]
fn a_record_without_an_identity_is_none() {
    let toy = Toy::new();
    let made = toy.pipeline(8, 64);
    toy.run("verify").succeeded();
    assert!(toy.run("verify --incremental").succeeded().starts_with("verified 0 artifacts"));
    let record = toy.root().join(".verified").join(format!("train.{}", made.train.manifest().key.short()));
    let text = fs_err::read_to_string(&record).unwrap();
    let (time, identity) = text.trim_end().split_once(' ').unwrap();
    for record_text in [format!("{time}\n"), format!("{time} {identity}1\n"), "garbage\n".to_owned()] {
        fs_err::write(&record, &record_text).unwrap();
        let ran = toy.run("verify --incremental");
        assert!(ran.succeeded().starts_with("verified 1 artifact,"), "{record_text}: {}", ran.stdout);
    }
}

/// Makes the training run of a pipeline again with other bytes, in another store.
fn another_train(toy: &Toy, made: &common::Pipeline) -> Artifact {
    let train = toy.make(&Recipe {
        config: json!({"rank": 8, "seed": 1}),
        inputs: &[("model", &made.model, "model"), ("rows", &made.data, "rows")],
        files: &[("adapters.bin", b"other"), ("summary.json", b"{\"steps\":4}\n")],
        ..Recipe::default()
    });
    assert_eq!(train.manifest().key, made.train.manifest().key);
    train
}

#[test]
fn an_input_with_other_bytes_is_found() {
    let (toy, elsewhere) = (Toy::new(), Toy::new());
    let made = toy.pipeline(8, 64);
    let other = another_train(&elsewhere, &made);
    testutil::files::remove(made.train.path());
    testutil::files::copy(other.path(), made.train.path());
    let key = other.manifest().key.short();
    let expected = format!(
        "missing: `artifacts/{}`: its input `model_0_fused` (train/{key}) has other bytes than those it was made from",
        name(&made.evaluate)
    );
    for command in
        ["verify", "verify --level size", "verify --quarantine", &format!("verify {}", name(&made.evaluate))]
    {
        let ran = toy.run(command);
        assert_eq!(ran.code, Some(2), "{command}: {}", ran.stdout);
        assert!(ran.stdout.contains(&expected), "{command}: {}", ran.stdout);
    }
    assert_eq!(toy.names().len(), 4, "both are sound by themselves");
    assert_eq!(toy.run(&format!("verify {}", name(&made.train))).code, Some(0));
    assert!(toy.run("verify --incremental").stdout.contains("verified 0 artifacts"), "the others are known");
}

#[test]
fn damage_is_moved_whatever_the_spelling_of_its_path() {
    for spelling in ["full", "dot", "up", "link"] {
        let toy = Toy::new();
        let made = toy.pipeline(8, 64);
        let train = name(&made.train);
        std::os::unix::fs::symlink(made.train.path(), toy.path().join("link")).unwrap();
        let path = match spelling {
            "full" => toy.root().join(&train).display().to_string(),
            "dot" => format!("./artifacts/{train}/."),
            "up" => format!("artifacts/train/../{train}"),
            _ => "./link".to_owned(),
        };
        let verify = || toy.run(&format!("verify --quarantine {path}"));
        assert_eq!(verify().code, Some(0), "{spelling}: it is sound");
        assert!(made.train.path().exists(), "{spelling}");
        let damaged = made.train.path().join("data/adapters.bin");
        writable(&damaged);
        fs_err::write(&damaged, "9 64").unwrap();
        let ran = verify();
        assert_eq!(ran.code, Some(1), "{spelling}");
        assert!(ran.stdout.contains("; moved to `artifacts/.quarantine/"), "{spelling}: {}", ran.stdout);
        assert!(!made.train.path().exists() && toy.path().join("link").is_symlink(), "{spelling}");
    }
}

#[test]
fn damage_outside_the_store_stays_and_verify_says_so() {
    let toy = Toy::new();
    let made = toy.pipeline(8, 64);
    let copy = toy.path().join("copy");
    testutil::files::copy(made.train.path(), &copy);
    let damaged = copy.join("data/adapters.bin");
    writable(&damaged);
    fs_err::write(&damaged, "9 64").unwrap();
    let ran = toy.run("verify --quarantine ./copy");
    assert_eq!(ran.code, Some(1));
    assert!(ran.stdout.contains("; not moved: it is not in this store"), "{}", ran.stdout);
    assert!(!toy.run("verify ./copy").stdout.contains("not moved"));
    assert_eq!((copy.exists(), toy.names().len()), (true, 4));
}

#[test]
fn records_that_cannot_be_read_are_findings_beside_the_others() {
    let toy = Toy::new();
    let made = toy.pipeline(8, 64);
    toy.run("keep train").succeeded();
    toy.store.set_ref("gone", &made.evaluate).unwrap();
    testutil::files::remove(made.evaluate.path());
    fs_err::write(toy.root().join(".kept/bad"), "garbage").unwrap();
    fs_err::create_dir(toy.root().join(".kept/folder")).unwrap();
    let report = |code| {
        let ran = toy.run("verify --json");
        assert_eq!(ran.code, Some(code), "{ran:?}");
        let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(report["verified"], 3);
        let findings = report["findings"].as_array().unwrap();
        let ends: Vec<String> = findings
            .iter()
            .map(|finding| {
                let path = Path::new(finding["path"].as_str().unwrap()).file_name().unwrap();
                format!("{} {}", finding["kind"].as_str().unwrap(), path.display())
            })
            .collect();
        ends
    };
    assert_eq!(report(7), ["missing gone", "damaged bad", "unreadable folder"]);
    fs_err::remove_dir_all(toy.root().join("refs")).unwrap();
    fs_err::write(toy.root().join("refs"), "").unwrap();
    assert_eq!(report(5), ["unreadable refs", "damaged bad", "unreadable folder"]);
}

#[test]
fn what_another_version_wrote_is_neither_damaged_nor_removed() {
    let toy = Toy::new();
    let made = toy.pipeline(8, 64);
    let manifest = made.train.path().join("manifest.json");
    let text = fs_err::read_to_string(&manifest).unwrap().replace("manifest-v1", "manifest-v2");
    writable(&manifest);
    fs_err::write(&manifest, text.replace("\"files\":[", "\"lists\":[")).unwrap();
    writable(&made.train.path().join("COMMIT"));
    fs_err::set_permissions(made.train.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    fs_err::write(made.train.path().join("INDEX"), "a file of that version").unwrap();
    let mut sums = testutil::Program::new("sh");
    sums.current_dir(made.train.path())
        .args(["-c", "sha256sum SHA256SUMS manifest.json provenance.json >COMMIT"]);
    sums.run().succeeded();
    for artifact in [&made.model, &made.data, &made.train, &made.evaluate] {
        common::age(artifact, 100);
    }
    let train = name(&made.train);
    for command in ["verify", "verify --quarantine", "verify --level size --quarantine"] {
        let ran = toy.run(command);
        assert_eq!(ran.code, Some(4), "{command}: {ran:?}");
        assert!(
            ran.stdout.contains("unreadable: ") && ran.stdout.contains("unknown schema `manifest-v2`"),
            "{ran:?}"
        );
    }
    drop((made.model, made.data, made.evaluate));
    for command in ["gc", "gc --delete --grace 0"] {
        let ran = toy.run(command);
        ran.failed(65);
        ran.says(&[
            "unknown schema `manifest-v2`",
            "hint: run gc again, with the version of Ashlar that wrote",
        ]);
    }
    toy.run("ls").says(&[&train, "unknown schema `manifest-v2`"]);
    assert!(toy.run("status").succeeded().contains(&format!("unreadable: {train}")));
    assert!(toy.root().join(&train).exists());
}

#[test]
fn sizes_that_no_disk_has_do_no_harm() {
    let toy = Toy::new();
    let made = toy.pipeline(8, 64);
    for artifact in [&made.train, &made.evaluate] {
        let manifest = artifact.path().join("manifest.json");
        let mut value: serde_json::Value = serde_json::from_slice(&fs_err::read(&manifest).unwrap()).unwrap();
        for output in value["outputs"].as_object_mut().unwrap().values_mut() {
            output["bytes"] = u64::MAX.into();
        }
        for file in value["files"].as_array_mut().unwrap() {
            file["size"] = u64::MAX.into();
        }
        writable(&manifest);
        fs_err::write(&manifest, value.to_string()).unwrap();
        let mut sums = testutil::Program::new("sh");
        writable(&artifact.path().join("COMMIT"));
        let script = "sha256sum SHA256SUMS manifest.json provenance.json >COMMIT";
        sums.current_dir(artifact.path()).args(["-c", script]).run().succeeded();
        common::age(artifact, 100);
    }
    for command in ["ls", "ls --sort size", "status", "gc", "lineage"] {
        toy.run(command).succeeded();
    }
    assert_eq!(toy.run("verify").code, Some(1));
    for command in ["push away", "export train --format ro-crate --to out"] {
        toy.run(command).failed(65);
    }
}

#[test]
fn an_artifact_is_released_whatever_its_record_is_named() {
    let toy = Toy::new();
    toy.pipeline(8, 64);
    toy.run("keep train --note \u{202e}why").succeeded();
    assert!(toy.run("keep").succeeded().contains("\\u{202e}why"));
    let folder = toy.root().join(".kept");
    let record = fs_err::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    fs_err::copy(&record, folder.join("copy")).unwrap();
    fs_err::rename(&record, folder.join("renamed")).unwrap();
    assert!(toy.run("keep train --remove").succeeded().contains("may be removed by gc again"));
    assert_eq!(toy.json("keep"), json!([]));
}

#[test]
fn a_message_about_many_artifacts_counts_all_of_them() {
    let toy = Toy::new();
    for number in 0..7 {
        let digits = format!("0123456789abcde{number}-x");
        fs_err::create_dir_all(toy.root().join("train").join(digits)).unwrap();
    }
    let error = toy.run("path 0123").failed(65);
    assert!(
        error.contains("`0123` names 7 artifacts: ")
            && error.ends_with(", …\nhint: give more digits of the key, or STAGE/KEY\n"),
        "{error}"
    );
}
