//! What other tools made stands where a stage's artifact does: model folders, and adapters of mlx-lm.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::{Place, run};
use testutil::hostile;

const MODEL: &str = "tests/golden/gemma3_text";
/// Losses of the same weights by another way, in nats a token.
const SAME_LOSS: f64 = 1e-4;

struct Bench {
    place: Place,
    dataset: String,
    train: String,
    /// The adapters of the last step, as mlx-lm leaves them.
    adapters: PathBuf,
}

impl Bench {
    fn new() -> Result<Self> {
        let place = Place::new()?;
        let model = place.model(MODEL)?;
        let dataset = place.dataset(&model)?;
        let settings = ["--set", "train.steps=2", "--set", "train.checkpoint_every=1"];
        let inputs = ["--model", &model, "--dataset", &dataset];
        let train = place.make("train", &[&inputs, &settings[..]].concat())?;
        let adapters = place.path().join("from-mlx-lm");
        fs_err::create_dir(&adapters)?;
        for (step, name) in [(1, "0000001_adapters.safetensors"), (2, "adapters.safetensors")] {
            let folder = Path::new(&train).join(format!("data/checkpoints/{step:07}/adapters"));
            fs_err::copy(folder.join("adapters.safetensors"), adapters.join(name))?;
            let text = fs_err::read_to_string(folder.join("adapter_config.json"))?;
            let mut config: Value = serde_json::from_str(&text)?;
            config["iters"] = 2.into();
            fs_err::write(adapters.join("adapter_config.json"), config.to_string())?;
        }
        Ok(Self { place, dataset, train, adapters })
    }

    fn adapters(&self) -> String {
        self.adapters.to_string_lossy().into_owned()
    }
}

fn json(artifact: &str, file: &str) -> Result<Value> {
    let path = Path::new(artifact).join("data").join(file);
    Ok(serde_json::from_str(&fs_err::read_to_string(path)?)?)
}

fn number(value: &Value) -> Result<f64> {
    value.as_f64().with_context(|| format!("{value} is no number"))
}

#[test]
fn adapters_and_models_of_other_tools_are_scored_and_fused_like_our_own() -> Result<()> {
    let bench = Bench::new()?;
    let (place, dataset, adapters) = (&bench.place, &bench.dataset, bench.adapters());
    let inputs = ["--model", MODEL, "--dataset", dataset, "--train"];
    let ours = json(&place.make("validate", &[&inputs[..], &[&bench.train]].concat())?, "losses.json")?;
    let theirs = json(&place.make("validate", &[&inputs[..], &[&adapters]].concat())?, "losses.json")?;
    ensure!(ours == theirs, "{theirs}");
    let steps: Vec<&Value> =
        theirs["checkpoints"].as_array().context("no list")?.iter().map(|it| &it["step"]).collect();
    ensure!(steps == [0, 1, 2], "{steps:?}");

    let inputs = ["--model", MODEL, "--dataset", dataset, "--adapters", &adapters];
    let fused = place.make("fuse", &inputs)?;
    let tuned = number(&theirs["checkpoints"][2]["loss"])?;
    let cost = json(&fused, "fuse.json")?;
    ensure!((number(&cost["adapter_loss"])? - tuned).abs() < SAME_LOSS, "{cost}");

    let (base, model, beside) =
        (format!("base={MODEL}"), format!("fused={fused}/data/model"), format!("tuned={adapters}"));
    let settings = ["--set", "evaluate.generated_rows=2", "--set", "evaluate.max_tokens=4"];
    let inputs = ["--model", &base, "--model", &model, "--adapters", &beside, "--dataset", dataset];
    let scores = json(&place.make("evaluate", &[&inputs[..], &settings].concat())?, "metrics.json")?;
    let loss = |name: &str| number(&scores["models"][name]["loss"]);
    ensure!((loss("fused")? - loss("tuned")?).abs() < SAME_LOSS, "{scores}");
    ensure!((loss("base")? - loss("tuned")?).abs() > SAME_LOSS, "{scores}");
    let twice = ["--model", &base, "--adapters", &format!("base={adapters}"), "--dataset", dataset];
    let ran = run(&mut place.stage("evaluate", &twice))?;
    ensure!(ran.code == Some(2) && ran.stderr.contains("`base`"), "{}", ran.stderr);
    Ok(())
}

#[test]
fn losses_of_single_tokens_add_up_to_those_of_rows() -> Result<()> {
    let bench = Bench::new()?;
    let (base, tuned) = (format!("base={MODEL}"), format!("tuned={}", bench.adapters()));
    let settings = ["--set", "generated_rows=1", "--set", "max_tokens=1"];
    let inputs = ["--model", &base, "--adapters", &tuned, "--dataset", &bench.dataset];
    let inputs = [&inputs[..], &settings].concat();
    let plain = bench.place.make("evaluate", &inputs)?;
    let asked = bench.place.make("evaluate", &[&inputs[..], &["--set", "token_losses=true"]].concat())?;
    ensure!(json(&plain, "metrics.json")? == json(&asked, "metrics.json")?, "other scores");
    ensure!(!Path::new(&plain).join("data/token_losses.jsonl").exists(), "nobody asked");

    let lines = |file: &str| -> Result<Vec<Value>> {
        let text = fs_err::read_to_string(Path::new(&asked).join("data").join(file))?;
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    };
    let (rows, tokens) = (lines("predictions.jsonl")?, lines("token_losses.jsonl")?);
    ensure!(!rows.is_empty() && rows.len() == tokens.len(), "{} and {} rows", rows.len(), tokens.len());
    for (row, tokens) in rows.iter().zip(&tokens) {
        ensure!(row["id"] == tokens["id"], "{tokens}");
        let count = tokens["targets"].as_array().context("no targets")?.len();
        ensure!(
            count > 0 && tokens["texts"].as_array().is_some_and(|texts| texts.len() == count),
            "{tokens}"
        );
        for name in ["base", "tuned"] {
            let losses = tokens["losses"][name].as_array().context("no losses")?;
            let sum = losses.iter().map(number).sum::<Result<f64>>()?;
            let whole = number(&row["losses"][name]["loss"])?;
            ensure!(losses.len() == count && row["losses"][name]["tokens"] == count, "{row}");
            ensure!((sum - whole).abs() <= SAME_LOSS * whole, "{sum} is not {whole}");
            let perplexity = number(&tokens["perplexities"][name])?;
            ensure!((perplexity.ln() - whole / count as f64).abs() < SAME_LOSS, "{perplexity}");
        }
    }
    Ok(())
}

#[test]
fn hostile_adapters_are_refused_wherever_they_are_read() -> Result<()> {
    let bench = Bench::new()?;
    let (dataset, adapters) = (&bench.dataset, bench.adapters());
    let (base, beside) = (format!("base={MODEL}"), format!("tuned={adapters}"));
    let path = bench.adapters.join("adapters.safetensors");
    let stages: [(&str, &[&str]); 3] = [
        ("fuse", &["--model", MODEL, "--dataset", dataset, "--adapters", &adapters]),
        ("validate", &["--model", MODEL, "--dataset", dataset, "--train", &adapters]),
        ("evaluate", &["--model", &base, "--dataset", dataset, "--adapters", &beside]),
    ];
    for (number, case) in hostile::all().into_iter().filter(|case| case.name != "no tensors").enumerate() {
        fs_err::write(&path, &case.bytes)?;
        let (stage, arguments) = stages[number % stages.len()];
        let ran = run(&mut bench.place.stage(stage, arguments))?;
        let said = format!("{stage}, {}: {}", case.name, ran.stderr);
        ensure!(ran.code == Some(65), "ended with {:?}: {said}", ran.code);
        ensure!(ran.stderr.contains(case.mentions) && ran.stderr.contains("adapters.safetensors"), "{said}");
        ensure!(ran.stderr.contains("hint: ") && ran.stdout.is_empty(), "{said}");
    }
    Ok(())
}
