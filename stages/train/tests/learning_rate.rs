//! The learning-rate finder, on a tiny model that learns to count.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first thing amiss")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use artifact::{Draft, KeyMaterial, write_folder};
use dataset::SplitWriter;
use serde_json::{Value, json};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/llama")
}

/// Rows that count upwards: what comes next is easily learned.
fn dataset(folder: &Path) -> PathBuf {
    let draft = Draft::new("count", KeyMaterial::new("prepare-data", 1, json!({})));
    let out = folder.join("dataset");
    write_folder(&out, &draft, |data| {
        let tokens = data.join("tokens");
        fs_err::create_dir_all(&tokens)?;
        for (split, rows) in [("train", 64), ("validation", 4)] {
            let mut writer = SplitWriter::create(&tokens.join(format!("{split}.safetensors"))).unwrap();
            for row in 0..rows {
                let row: Vec<u32> = (0..12).map(|t| 20 + (7 * row + t) % 100).collect();
                writer.push(&row, &[&[0; 1][..], &[1; 11]].concat(), 1.0, 1).unwrap();
            }
            writer.finish().unwrap();
        }
        Ok(())
    })
    .unwrap();
    out
}

fn find(folder: &Path, dataset: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_train"))
        .current_dir(folder)
        .env_remove("ASHLAR_STORE")
        .arg("--find-learning-rate")
        .arg("--model")
        .arg(golden())
        .arg("--dataset")
        .arg(dataset)
        .args(more)
        .output()
        .unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_ramp_prints_a_rate_that_learns_and_leaves_only_its_curve() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = dataset(folder.path());
    let settings = ["--set", "fine_tune_type=full", "--set", "lm_head=true", "--out", "curve"];
    let ramp = ["--from", "1e-5", "--to", "10", "--find-steps", "60"];
    let output = find(folder.path(), &dataset, &[&settings[..], &ramp].concat());
    assert!(output.status.success(), "{}", told(&output));
    let rate: f64 = String::from_utf8(output.stdout.clone()).unwrap().trim_end().parse().unwrap();
    assert!((1e-5..1.0).contains(&rate), "{rate}");

    let curve: Value =
        serde_json::from_slice(&fs_err::read(folder.path().join("curve/curve.json")).unwrap()).unwrap();
    assert_eq!(curve["suggestion"], rate);
    let points = curve["points"].as_array().unwrap();
    assert!(points.len() > 10 && points.len() <= 60);
    assert!((points[0]["learning_rate"].as_f64().unwrap() / 1e-5 - 1.0).abs() < 1e-9);
    if let Some(divergence) = curve["divergence"].as_f64() {
        assert!(rate <= divergence / 9.0, "{rate} and {divergence}");
    }
    let drawing = fs_err::read_to_string(folder.path().join("curve/curve.svg")).unwrap();
    assert!(drawing.starts_with("<svg ") && drawing.contains("suggested"));

    let again = find(folder.path(), &dataset, &[&settings[..], &ramp].concat());
    assert_eq!(again.stdout, output.stdout, "the same settings give the same rate");
    let mut left: Vec<_> =
        fs_err::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["curve", "dataset"], "no store, no artifact");
}

#[test]
fn a_ramp_that_moves_nothing_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = dataset(folder.path());
    let flags = ["--from", "1e-12", "--to", "1e-11", "--find-steps", "12"];
    let output = find(folder.path(), &dataset, &flags);
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(output.stdout.is_empty());
    assert!(told(&output).contains("the loss never fell clearly") && told(&output).contains("hint: "));
    assert!(folder.path().join("build/learning-rate/curve.svg").is_file());
}

#[test]
fn flags_of_the_finder_need_the_finder_and_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = dataset(folder.path());
    let output = find(folder.path(), &dataset, &["--from", "1e-2", "--to", "1e-3"]);
    assert_eq!(output.status.code(), Some(2), "{}", told(&output));
    let alone = Command::new(env!("CARGO_BIN_EXE_train"))
        .args(["--model", "m", "--dataset", "d", "--from", "1e-3"])
        .output()
        .unwrap();
    assert_eq!(alone.status.code(), Some(2), "{}", told(&alone));
}
