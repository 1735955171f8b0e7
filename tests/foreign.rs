//! Files of other tools in place of a stage's artifact: model folders, and adapters of mlx-lm.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use outputs::{Document as _, FusionCost, Line as _, Losses, Prediction, Scores, TokenLosses};
use serde_json::Value;
use testutil::tolerance::SAME_LOSS;
use testutil::{Sandbox, hostile};

const MODEL: &str = "tests/golden/gemma3_text";

struct Fixture {
    sandbox: Sandbox,
    dataset: String,
    train: String,
    /// The adapters of both steps, in the layout of mlx-lm.
    adapters: PathBuf,
}

impl Fixture {
    fn new() -> Result<Self> {
        let sandbox = Sandbox::new();
        let model = sandbox.model(MODEL);
        let dataset = sandbox.dataset(&model);
        let settings = ["--set", "train.steps=2", "--set", "train.checkpoint_every=1"];
        let inputs = ["--model", &model, "--dataset", &dataset];
        let train = sandbox.make("train", &[&inputs, &settings[..]].concat());
        let adapters = sandbox.join("from-mlx-lm");
        fs_err::create_dir(&adapters)?;
        for (step, name) in [(1, "0000001_adapters.safetensors"), (2, "adapters.safetensors")] {
            let folder = Path::new(&train).join(format!("data/checkpoints/{step:07}/adapters"));
            fs_err::copy(folder.join("adapters.safetensors"), adapters.join(name))?;
            let text = fs_err::read_to_string(folder.join("adapter_config.json"))?;
            let mut config: Value = serde_json::from_str(&text)?;
            config["iters"] = 2.into();
            fs_err::write(adapters.join("adapter_config.json"), config.to_string())?;
        }
        Ok(Self { sandbox, dataset, train, adapters })
    }

    fn adapters(&self) -> String {
        self.adapters.to_string_lossy().into_owned()
    }
}

/// Returns the path of a data file of an artifact.
fn data(artifact: &str, file: &str) -> PathBuf {
    Path::new(artifact).join("data").join(file)
}

#[test]
fn adapters_and_models_of_other_tools_are_scored_and_fused_like_ours() -> Result<()> {
    let fixture = Fixture::new()?;
    let (sandbox, dataset, adapters) = (&fixture.sandbox, &fixture.dataset, fixture.adapters());
    let validate = |train: &str| {
        let inputs = ["--model", MODEL, "--dataset", dataset, "--train", train];
        Losses::read(&data(&sandbox.make("validate", &inputs), Losses::FILE))
    };
    let (ours, theirs) = (validate(&fixture.train)?, validate(&adapters)?);
    ensure!(ours == theirs, "{ours:?}\n{theirs:?}");
    let steps: Vec<u64> = theirs.checkpoints.iter().map(|checkpoint| checkpoint.step).collect();
    ensure!(steps == [0, 1, 2], "{steps:?}");

    let inputs = ["--model", MODEL, "--dataset", dataset, "--adapters", &adapters];
    let fused = sandbox.make("fuse", &inputs);
    let tuned = theirs.checkpoints[2].loss;
    let cost = FusionCost::read(&data(&fused, FusionCost::FILE))?;
    ensure!((cost.adapter_loss - tuned).abs() < SAME_LOSS, "{cost:?}");

    let (base, model, beside) =
        (format!("base={MODEL}"), format!("fused={fused}/data/model"), format!("tuned={adapters}"));
    let settings = ["--set", "evaluate.generated_rows=2", "--set", "evaluate.max_tokens=4"];
    let inputs = ["--model", &base, "--model", &model, "--adapters", &beside, "--dataset", dataset];
    let scored = sandbox.make("evaluate", &[&inputs[..], &settings].concat());
    let scores = Scores::read(&data(&scored, Scores::FILE))?;
    let loss = |name: &str| scores.models[name].loss.unwrap_or(f64::NAN);
    ensure!((loss("fused") - loss("tuned")).abs() < SAME_LOSS, "{scores:?}");
    ensure!((loss("base") - loss("tuned")).abs() > SAME_LOSS, "{scores:?}");
    let twice = ["--model", &base, "--adapters", &format!("base={adapters}"), "--dataset", dataset];
    let said = sandbox.refused(&mut sandbox.stage("evaluate", &twice), 2);
    ensure!(said.contains("`base`"), "{said}");
    Ok(())
}

#[test]
fn losses_of_targets_add_up_to_those_of_rows() -> Result<()> {
    let fixture = Fixture::new()?;
    let (base, tuned) = (format!("base={MODEL}"), format!("tuned={}", fixture.adapters()));
    let settings = ["--set", "generated_rows=1", "--set", "max_tokens=1"];
    let inputs = ["--model", &base, "--adapters", &tuned, "--dataset", &fixture.dataset];
    let inputs = [&inputs[..], &settings].concat();
    let plain = fixture.sandbox.make("evaluate", &inputs);
    let asked = fixture.sandbox.make("evaluate", &[&inputs[..], &["--set", "token_losses=true"]].concat());
    let scores = |artifact: &str| Scores::read(&data(artifact, Scores::FILE));
    ensure!(scores(&plain)? == scores(&asked)?, "other scores");
    ensure!(!data(&plain, TokenLosses::FILE).exists(), "written without `token_losses`");

    let rows = Prediction::read(&data(&asked, Prediction::FILE))?.collect::<outputs::Result<Vec<_>>>()?;
    let tokens = TokenLosses::read(&data(&asked, TokenLosses::FILE))?.collect::<outputs::Result<Vec<_>>>()?;
    ensure!(!rows.is_empty() && rows.len() == tokens.len(), "{} and {} rows", rows.len(), tokens.len());
    for (row, tokens) in rows.iter().zip(&tokens) {
        ensure!(row.id == tokens.id, "{tokens:?}");
        let count = tokens.targets.len();
        ensure!(count > 0 && tokens.texts.len() == count, "{tokens:?}");
        for name in ["base", "tuned"] {
            let losses = tokens.losses.get(name).context("the losses of a model are missing")?;
            let (sum, whole) = (losses.iter().sum::<f64>(), &row.losses[name]);
            ensure!(losses.len() == count && whole.tokens as usize == count, "{row:?}");
            ensure!((sum - whole.loss).abs() <= SAME_LOSS * whole.loss, "{sum} is not {}", whole.loss);
            let perplexity = tokens.perplexities[name];
            ensure!((perplexity.ln() - whole.loss / count as f64).abs() < SAME_LOSS, "{perplexity}");
        }
    }
    Ok(())
}

#[test]
fn hostile_adapters_are_refused_wherever_they_are_read() -> Result<()> {
    let fixture = Fixture::new()?;
    let (dataset, adapters) = (&fixture.dataset, fixture.adapters());
    let (base, beside) = (format!("base={MODEL}"), format!("tuned={adapters}"));
    let path = fixture.adapters.join("adapters.safetensors");
    let stages: [(&str, &[&str]); 3] = [
        ("fuse", &["--model", MODEL, "--dataset", dataset, "--adapters", &adapters]),
        ("validate", &["--model", MODEL, "--dataset", dataset, "--train", &adapters]),
        ("evaluate", &["--model", &base, "--dataset", dataset, "--adapters", &beside]),
    ];
    for (number, case) in hostile::all().into_iter().filter(|case| case.name != "no tensors").enumerate() {
        fs_err::write(&path, &case.bytes)?;
        let (stage, arguments) = stages[number % stages.len()];
        // The losses of earlier checkpoints may be published as units.
        let said = fixture.sandbox.stage(stage, arguments).run().failed(65);
        for part in [case.mentions, "adapters.safetensors", "hint: "] {
            ensure!(said.contains(part), "{stage}, {}: `{part}` is missing in:\n{said}", case.name);
        }
    }
    Ok(())
}
