//! The learning-rate finder against what it stands for: the best of many fixed rates. `make soak` runs it; it takes hours on a
//! small machine.

use anyhow::{Context, Result, ensure};
use outputs::{Line as _, MetricsLine};
use testutil::{Program, Sandbox, workspace_root};

/// Rates of the grid: half decades from 1e-5 to 1e-1.
fn grid() -> impl Iterator<Item = f64> {
    (0..=8).map(|step| 10_f64.powf(-5.0 + 0.5 * f64::from(step)))
}

const SEEDS: std::ops::RangeInclusive<u32> = 1..=5;

/// Largest distance of the suggestion from the best rate of the grid.
const FACTOR: f64 = 3.0;

/// A model with its dataset and the settings that train it.
struct Subject {
    sandbox: Sandbox,
    model: String,
    dataset: String,
    settings: &'static [&'static str],
}

impl Subject {
    fn new(model: &str, settings: &'static [&'static str]) -> Self {
        let sandbox = Sandbox::new();
        let config = workspace_root().join("pipelines/haw-eng.toml");
        let make = |stage: &str, arguments: &[&str]| {
            let mut program = Program::built(stage);
            program.arg("--store").arg(sandbox.store()).args(arguments);
            if stage == "prepare-data" {
                program.arg("--config").arg(&config);
            }
            program.run().path_text()
        };
        let model = make("import-model", &["--model-dir", model]);
        let dataset = make("prepare-data", &["--tokenizer", &model, "--data", "data/haw-eng"]);
        Self { sandbox, model, dataset, settings }
    }

    fn train(&self, seed: u32) -> Program {
        let mut program = Program::built("train");
        program.args([
            "-q",
            "--model",
            &self.model,
            "--dataset",
            &self.dataset,
            "--config",
            "pipelines/haw-eng.toml",
        ]);
        for setting in self.settings {
            program.args(["--set", setting]);
        }
        program.args(["--set", &format!("seed={seed}")]);
        program
    }

    /// Returns the rate that the finder suggests for a run of one epoch.
    fn suggestion(&self, seed: u32) -> Result<f64> {
        let out = self.sandbox.join(format!("curve-{seed}"));
        let mut program = self.train(seed);
        let ran = program.args(["--set", "epochs=1", "--find-learning-rate"]).arg("--out").arg(out).run();
        Ok(ran.succeeded().trim().parse()?)
    }

    /// Returns the loss on the validation split after one epoch at a fixed rate; infinite if training diverges.
    fn loss(&self, seed: u32, rate: f64) -> Result<f64> {
        let mut program = self.train(seed);
        program.arg("--store").arg(self.sandbox.store());
        // One validation, at the last step.
        for setting in
            ["epochs=1", "validation_every=75", "checkpoint_every=100000", &format!("learning_rate={rate:e}")]
        {
            program.args(["--set", setting]);
        }
        let ran = program.run();
        if ran.code == Some(1) {
            return Ok(f64::INFINITY);
        }
        let path = ran.path().join("data").join(MetricsLine::FILE);
        let lines = MetricsLine::read(&path)?;
        let metrics = lines.collect::<outputs::Result<Vec<_>>>()?;
        let loss = metrics.iter().find_map(|line| match line {
            MetricsLine::Validation(line) => Some(line.validation_loss),
            MetricsLine::Train(_) => None,
        });
        loss.context("the run validates at its last step")
    }

    /// Fails unless the suggestion of every seed is close to the best rate of the grid.
    fn check(&self) -> Result<()> {
        let mut wrong = Vec::new();
        for seed in SEEDS {
            let losses = grid().map(|rate| Ok((rate, self.loss(seed, rate)?))).collect::<Result<Vec<_>>>()?;
            let (best, loss) =
                losses.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1)).context("the grid has rates")?;
            let found = self.suggestion(seed)?;
            let line = format!("seed {seed}: suggested {found:.1e}, best {best:.1e} (loss {loss:.4})");
            #[expect(clippy::print_stderr, reason = "hours of measurements deserve a line each")]
            {
                eprintln!("{line}");
            }
            if !(1.0 / FACTOR..=FACTOR).contains(&(found / best)) {
                wrong.push(line);
            }
        }
        ensure!(wrong.is_empty(), "not within a factor of {FACTOR}:\n{}", wrong.join("\n"));
        Ok(())
    }
}

#[test]
#[ignore = "takes hours on a small machine; `make soak` runs it"]
fn the_suggestion_is_close_to_the_best_rate_for_adapters_of_the_demo() -> Result<()> {
    Subject::new("data/models/demo", &[]).check()
}

#[test]
#[ignore = "takes an hour on a small machine; `make soak` runs it"]
fn the_suggestion_is_close_to_the_best_rate_for_all_weights_of_another_architecture() -> Result<()> {
    Subject::new("tests/golden/qwen3", &["fine_tune_type=full", "embeddings=true", "norms=true"]).check()
}
