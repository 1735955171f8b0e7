//! A long run cut into segments, each resumed from the artifact of the one before, produces the bytes of the whole run.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use outputs::{Document as _, Stop, Summary};
use testutil::{Program, Ran, SMALL_SETTINGS, Sandbox, workspace_root};

/// A model and a dataset.
struct Fixture {
    sandbox: Sandbox,
    model: String,
    dataset: String,
}

impl Fixture {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let model = sandbox.model("tests/golden/gemma3_text");
        let dataset = sandbox.dataset(&model);
        Self { sandbox, model, dataset }
    }

    /// Returns a run of train into the folder `out`.
    fn training(&self, out: &str, more: &[&str]) -> Program {
        let inputs = ["--model", &self.model, "--dataset", &self.dataset, "--out", out];
        let mut train = Program::built("train");
        train.current_dir(self.sandbox.path()).arg("--config").arg(workspace_root().join(SMALL_SETTINGS));
        train.args(inputs).args(more);
        train
    }

    fn train(&self, out: &str, more: &[&str]) -> Ran {
        self.training(out, more).run()
    }

    fn summary(&self, folder: &str) -> Result<Summary> {
        Ok(Summary::read(&self.sandbox.join(folder).join(Summary::FILE))?)
    }

    /// Trains in `count` segments and compares the last artifact with `whole`.
    fn compare(&self, whole: &str, count: usize, more: &[&str]) -> Result<()> {
        let name = |segment: usize| format!("{whole}-{segment}-of-{count}");
        for segment in 1..=count {
            let (end, before) = (format!("{segment}/{count}"), name(segment - 1));
            let mut arguments = more.to_vec();
            if segment < count {
                arguments.extend(["--stop-at", &end]);
            }
            if segment > 1 {
                arguments.extend(["--resume-from", &before]);
            }
            self.train(&name(segment), &arguments).path();
        }
        for file in ["SHA256SUMS", "manifest.json"] {
            let (expected, found) = (format!("{whole}/{file}"), format!("{}/{file}", name(count)));
            let equal = self.sandbox.read(&expected) == self.sandbox.read(&found);
            ensure!(equal, "`{found}` differs from that of the whole run");
        }
        Ok(())
    }
}

#[test]
fn segments_produce_the_bytes_of_the_whole_run() -> Result<()> {
    let fixture = Fixture::new();
    let dropout = ["--set", "dropout=0.1", "--set", "report_every=5"];
    fixture.train("whole", &dropout).path();
    // 12 steps: segments that end between reports and checkpoints, and more segments than steps.
    for count in [2, 5, 13] {
        fixture.compare("whole", count, &dropout)?;
    }
    fixture.train("short", &["--set", "steps=1"]).path();
    fixture.compare("short", 3, &["--set", "steps=1"])
}

#[test]
fn a_run_that_stopped_early_stays_stopped_in_the_next_segment() -> Result<()> {
    let fixture = Fixture::new();
    // No improvement is large enough.
    let early = ["--set", "validation_every=2", "--set", "patience=1", "--set", "min_delta=100.0"];
    fixture.train("early", &early).path();
    let summary = fixture.summary("early/data")?;
    ensure!(matches!(summary.stop, Stop::Early(_)), "it did not stop early: {summary:?}");
    fixture.compare("early", 2, &early)?;
    fixture.compare("early", 4, &early)
}

#[test]
fn a_segment_is_only_accepted_where_its_run_resumes() -> Result<()> {
    let fixture = Fixture::new();
    let sandbox = &fixture.sandbox;
    fixture.train("whole", &[]).path();
    fixture.train("segment", &["--stop-at", "5"]).path();
    let summary = fixture.summary("segment/data/part")?;
    ensure!(summary.steps == 5, "it stopped elsewhere: {summary:?}");
    ensure!(!sandbox.join("segment/data/checkpoints").exists(), "a segment has outputs for other stages");
    let folder = sandbox.join("segment").display().to_string();
    let validate = ["--model", &fixture.model, "--dataset", &fixture.dataset, "--train", &folder];
    let select = ["--train", &folder, "--validate", &folder];
    for mut program in [sandbox.stage("validate", &validate), sandbox.stage("select-best", &select)] {
        let said = sandbox.refused(&mut program, 65);
        ensure!(said.contains("segment") && said.contains("hint: "), "{said}");
    }

    let refused = |mut program: Program, code: i32, words: &[&str]| {
        let said = sandbox.refused(&mut program, code);
        let missing = words.iter().find(|word| !said.contains(*word));
        ensure!(missing.is_none(), "`{}` is missing in: {said}", missing.unwrap_or(&""));
        Ok(())
    };
    let from = |segment: &str, more: &[&str]| {
        fixture.training("other", &[&["--resume-from", segment], more].concat())
    };
    let other = ["--set", "learning_rate=1e-3"];
    refused(from("segment", &other), 65, &["another run", "config/learning_rate 0.002 → 0.001", "hint:"])?;
    refused(from("whole", &[]), 65, &["segment", "hint:"])?;
    refused(from(&fixture.dataset, &[]), 65, &["segment", "`prepare-data`"])?;
    refused(from("nowhere", &[]), 65, &["nowhere"])?;
    refused(fixture.training("other", &["--stop-at", "5/4"]), 2, &["--stop-at"])?;
    damage(&sandbox.join("segment/data/part/state/weights.safetensors"))?;
    refused(from("segment", &[]), 65, &["segment", "hint:"])
}

/// Flips the last bit of a published file.
fn damage(path: &Path) -> Result<()> {
    let mut bytes = fs_err::read(path)?;
    *bytes.last_mut().context("the file is empty")? ^= 1;
    fs_err::remove_file(path)?;
    Ok(fs_err::write(path, bytes)?)
}

#[test]
fn segments_work_in_a_store_as_well() -> Result<()> {
    let fixture = Fixture::new();
    let inputs = ["--model", fixture.model.as_str(), "--dataset", &fixture.dataset];
    let train = |more: &[&str]| fixture.sandbox.make("train", &[&inputs, more].concat());
    let segment = train(&["--stop-at", "1/2"]);
    ensure!(train(&["--stop-at", "1/2"]) == segment, "the segment was not found again");
    let whole = train(&["--resume-from", &segment]);
    ensure!(whole != segment && train(&[]) == whole, "the last segment is not the whole run");
    fixture.train("alone", &[]).path();
    let stored = fs_err::read_to_string(Path::new(&whole).join("SHA256SUMS"))?;
    ensure!(fixture.sandbox.read("alone/SHA256SUMS") == stored, "the bytes differ");
    Ok(())
}
