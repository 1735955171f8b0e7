//! Epochs as people count them: every row once whatever the batches, checkpoints where the loss was measured, and what a run
//! cannot use is told before it trains.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use outputs::{Document as _, Line as _, MetricsLine, Stats};
use serde_json::{Value, json};
use testutil::{Program, Ran, Sandbox, golden};

/// Settings that put every row into training.
const ALL: &str = "split={ by = \"ratio\", validation = 0.0, test = 0.0 }";

fn lines(rows: &[Value]) -> String {
    rows.iter().map(Value::to_string).collect::<Vec<_>>().join("\n") + "\n"
}

/// A model and a dataset of rows for it.
struct Trained {
    sandbox: Sandbox,
    model: String,
}

impl Trained {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let model = sandbox.model("tests/golden/llama");
        Self { sandbox, model }
    }

    /// Makes a dataset of pairs with answers of different lengths.
    fn dataset(&self, rows: usize, settings: &[&str]) -> PathBuf {
        let row = |row: usize| {
            let words: Vec<String> =
                (0..=(row * 5 % 9)).map(|word| format!("w{}", (row * 7 + word) % 13)).collect();
            json!({"prompt": format!("q{row}"), "completion": words.join(" ")})
        };
        let name = format!("rows-{rows}.jsonl");
        self.sandbox.write(&name, lines(&(0..rows).map(row).collect::<Vec<_>>()));
        self.prepared(&name, settings)
    }

    /// Makes a dataset of a file in the sandbox.
    fn prepared(&self, data: &str, settings: &[&str]) -> PathBuf {
        let mut program = Program::built("prepare-data");
        program
            .current_dir(self.sandbox.path())
            .arg("--tokenizer")
            .arg(golden("llama"))
            .args(["--data", data]);
        for setting in settings {
            program.args(["--set", setting]);
        }
        self.sandbox.join(program.run().path())
    }

    fn train(&self, dataset: &Path, settings: &[&str]) -> Ran {
        let mut program = Program::built("train");
        program.args(["--model", &self.model, "--dataset"]).arg(dataset);
        program.arg("--store").arg(self.sandbox.store());
        for setting in ["num_layers=1", "keys=[\"self_attn.q_proj\"]"].iter().chain(settings) {
            program.args(["--set", setting]);
        }
        program.run()
    }
}

/// Reads the metrics of a run.
fn metrics(run: &Path) -> Result<Vec<MetricsLine>> {
    let path = run.join("data").join(MetricsLine::FILE);
    Ok(MetricsLine::read(&path)?.collect::<outputs::Result<_>>()?)
}

#[test]
fn an_epoch_trains_every_row_once_whatever_the_batches() -> Result<()> {
    let trained = Trained::new();
    let dataset = trained.dataset(11, &[ALL]);
    let stats = Stats::read(&dataset.join("data").join(Stats::FILE))?;
    let targets = stats.splits["train"].trained_tokens;
    for (batch_size, accumulation, packing, epochs) in [
        (1, 1, false, 1),
        (2, 4, false, 1),
        (4, 2, false, 2),
        (8, 8, false, 1),
        (3, 5, false, 3),
        (16, 1, false, 1),
        (11, 3, false, 2),
        (1, 4, true, 1),
        (2, 2, true, 2),
        (1, 100, false, 1),
    ] {
        let settings = [
            format!("batch_size={batch_size}"),
            format!("accumulation={accumulation}"),
            format!("packing={packing}"),
            format!("epochs={epochs}"),
            "report_every=1".to_owned(),
        ];
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let run = trained.train(&dataset, &settings).path();
        let metrics = metrics(&run)?;
        let last = metrics.iter().rev().find_map(|line| match line {
            MetricsLine::Train(line) => Some(line),
            MetricsLine::Validation(_) => None,
        });
        let last = last.context("the run reported")?;
        ensure!((last.epoch - epochs as f64).abs() < 1e-9, "{settings:?}: {} epochs", last.epoch);
        ensure!(last.trained_tokens == targets * epochs, "{settings:?}: {} targets", last.trained_tokens);
    }
    Ok(())
}

#[test]
fn every_validated_step_is_a_checkpoint() -> Result<()> {
    let trained = Trained::new();
    let dataset = trained
        .dataset(20, &["split={ by = \"ratio\", validation = 0.25, test = 0.1 }", "on_leak=\"allow\""]);
    let settings = [
        "steps=200",
        "learning_rate=5e-2",
        "warmup_steps=2",
        "validation_every=3",
        "patience=2",
        "checkpoint_every=100",
    ];
    let run = trained.train(&dataset, &settings).path();
    let losses: BTreeMap<u64, f64> = metrics(&run)?
        .iter()
        .filter_map(|line| match line {
            MetricsLine::Validation(line) => Some((line.step, line.validation_loss)),
            MetricsLine::Train(_) => None,
        })
        .collect();
    ensure!(losses.len() >= 2, "the run validated: {losses:?}");
    for step in losses.keys() {
        ensure!(
            run.join(format!("data/checkpoints/{step:07}/adapters")).is_dir(),
            "step {step} has no checkpoint"
        );
    }
    Ok(())
}

#[test]
fn what_a_run_cannot_use_is_told_before_it_trains() {
    let trained = Trained::new();
    let dataset = trained.dataset(4, &[ALL]);
    let ran = trained.train(&dataset, &["steps=1", "validation_every=1"]);
    ran.failed(65);
    ran.says(&["the validation split has no rows", "split.validation"]);

    let rows: Vec<Value> =
        (0..3).map(|row| json!({"prompt": "word ".repeat(250), "completion": format!("b {row}")})).collect();
    trained.sandbox.write("long.jsonl", lines(&rows));
    let long = trained.prepared("long.jsonl", &[ALL]);
    let ran = trained.train(&long, &["steps=1"]);
    ran.path();
    ran.says(&["3 of 3 rows of the train split are longer than the model's context of 512 tokens"]);

    let ran = trained.train(
        &dataset,
        &["epochs=3", "learning_rate=1e30", "optimizer=\"sgd\"", "max_gradient_norm=0", "warmup_steps=0"],
    );
    ran.failed(1);
    ran.says(&["training diverged at step", "rows", "lower `learning_rate`"]);
}
