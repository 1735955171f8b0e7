//! Training through the program: longer runs resume from shorter ones, trust weighs rows, and errors say what was saved.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use artifact::{Artifact, Level};
use outputs::{Line as _, MetricsLine, TrainLine};
use serde_json::Value;
use testutil::{Program, Ran, Sandbox, tolerance, trees};

/// A model with an untied head, and rows of trusted and distrusted sources.
struct Fixture {
    sandbox: Sandbox,
    dataset: String,
}

/// Authority and entropy of the rows, in turn; one row in four has neither.
const SOURCES: [Option<(f64, f64)>; 4] = [Some((0.05, 7.5)), Some((0.5, 5.0)), None, Some((0.9, 1.0))];
const MODEL: &str = "tests/golden/llama";
/// Logged by a run that resumes.
const RESUMED: &str = "resuming";

impl Fixture {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let mut text = String::new();
        for row in 0..40_usize {
            let long = "so ".repeat(row % 5);
            let mut line = serde_json::json!({
                "id": format!("row{row}"), "prompt": format!("q {row}"),
                "completion": format!("{} {long}", row * row),
            });
            if let Some((authority, entropy)) = SOURCES[row % 4] {
                line["auth_weight"] = authority.into();
                line["prov_entropy"] = entropy.into();
            }
            text += &line.to_string();
            text.push('\n');
        }
        sandbox.write("rows.jsonl", text);
        let dataset = prepare(&sandbox).run().path_text();
        Self { sandbox, dataset }
    }

    /// Trains in the store of that name.
    fn train(&self, store: &str, settings: &[&str], flags: &[&str]) -> Ran {
        let mut train = Program::built("train");
        train.args(["--model", MODEL, "--dataset", &self.dataset, "--store"]).arg(self.sandbox.join(store));
        let common = ["rank=2", "batch_size=2", "learning_rate=5e-3", "report_every=5"];
        for setting in common.iter().chain(settings) {
            train.args(["--set", setting]);
        }
        train.args(flags).run()
    }

    fn tree(&self, store: &str, artifact: &Path) -> Result<String> {
        let name = format!("train/{}", artifact.file_name().context("a name")?.to_string_lossy());
        let all = trees(&self.sandbox.join(store));
        Ok(all.get(&name).with_context(|| format!("`{name}` is not in {all:?}"))?.to_string())
    }
}

/// Returns the program that makes a dataset of `rows.jsonl` in the sandbox.
fn prepare(sandbox: &Sandbox) -> Program {
    let mut prepare = Program::built("prepare-data");
    prepare.args(["--tokenizer", MODEL, "--set", "max_tokens=96", "--data"]).arg(sandbox.join("rows.jsonl"));
    prepare.arg("--store").arg(sandbox.store());
    prepare
}

/// Returns the training lines of the metrics of a run without validation.
fn metrics(artifact: &Path) -> Result<Vec<TrainLine>> {
    let path = artifact.join("data").join(MetricsLine::FILE);
    MetricsLine::read(&path)?
        .map(|line| match line? {
            MetricsLine::Train(line) => Ok(line),
            MetricsLine::Validation(line) => anyhow::bail!("a validation: {line:?}"),
        })
        .collect()
}

/// Returns the bytes of the weights of a checkpoint.
fn weights(artifact: &Path, step: usize) -> Result<Vec<u8>> {
    let folder = artifact.join(format!("data/checkpoints/{step:07}/adapters"));
    Ok(fs_err::read(folder.join("adapters.safetensors"))?)
}

#[test]
fn a_longer_run_takes_only_the_remaining_steps_and_has_the_bytes_of_an_unbroken_one() -> Result<()> {
    let fixture = Fixture::new();
    let settings =
        ["schedule=constant", "dropout=0.1", "accumulation=2", "checkpoint_every=10", "validation_every=5"];
    let with = |steps| [&settings[..], &[steps]].concat();
    let unbroken = fixture.train("unbroken", &with("steps=40"), &[]);
    ensure!(!unbroken.stderr.contains(RESUMED), "{}", unbroken.stderr);
    let short = fixture.train("reused", &with("steps=20"), &[]).path();
    let plan = fixture.train("reused", &with("steps=40"), &["--plan"]);
    ensure!(plan.code == Some(10), "{plan:?}");
    plan.says(&["a published run of 20 steps", "20 steps left"]);
    let longer = fixture.train("reused", &with("steps=40"), &[]);
    longer.says(&[RESUMED, "after step 20 of 40"]);
    let (longer, unbroken) = (longer.path(), unbroken.path());
    ensure!(fixture.tree("unbroken", &unbroken)? == fixture.tree("reused", &longer)?, "other bytes");
    // Only the remaining steps were taken, and the shorter run is unchanged.
    let timing = fs_err::read_to_string(longer.join("telemetry/timing.jsonl"))?;
    let first: Value = serde_json::from_str(timing.lines().next().context("no line")?)?;
    ensure!(first["step"] == 25, "{first}");
    Artifact::open_with(&short, Level::Hash)?;
    Ok(())
}

#[test]
fn a_run_whose_schedule_depends_on_its_length_is_not_reused() {
    let fixture = Fixture::new();
    let settings = ["schedule=cosine", "checkpoint_every=10"];
    let with = |steps| [&settings[..], &[steps]].concat();
    fixture.train("store", &with("steps=20"), &[]).path();
    let plan = fixture.train("store", &with("steps=40"), &["--plan"]);
    plan.says(&["depends on the length of the run"]);
    let ran = fixture.train("store", &with("steps=40"), &[]);
    ran.path();
    assert!(!ran.stderr.contains(RESUMED), "{}", ran.stderr);
    // A run with any other difference is not reused either.
    fixture.train("store", &["schedule=constant", "steps=20", "checkpoint_every=10"], &[]).path();
    let other = ["schedule=constant", "steps=40", "checkpoint_every=10", "seed=7"];
    let plan = fixture.train("store", &other, &["--plan"]);
    assert!(!plan.stderr.contains("a published run"), "{}", plan.stderr);
}

#[test]
fn trust_weighs_rows_from_the_data_files_to_the_weights() -> Result<()> {
    let fixture = Fixture::new();
    let train = |settings: &[&str]| {
        fixture.train("store", &[&["steps=10", "schedule=constant"], settings].concat(), &[])
    };
    let plain = train(&[]).path();
    let additive = train(&["distrust=additive"]);
    additive.says(&["gradient"]);
    let additive = additive.path();
    let zero = train(&["distrust=reweight", "distrust_lambda=0"]).path();
    let reweighted = train(&["distrust=reweight", "distrust_lambda=0.6"]).path();
    ensure!(weights(&plain, 10)? == weights(&additive, 10)?, "`additive` changed the weights");
    ensure!(weights(&plain, 10)? == weights(&zero, 10)?, "`reweight` at lambda 0 is not plain");
    ensure!(weights(&plain, 10)? != weights(&reweighted, 10)?, "`reweight` changed nothing");
    let (plain, additive) = (metrics(&plain)?, metrics(&additive)?);
    ensure!(plain.len() == additive.len() && plain.len() == 2, "{plain:?}");
    for (plain, additive) in plain.iter().zip(&additive) {
        ensure!(plain.train_loss.to_bits() == additive.train_loss.to_bits(), "{plain:?} and {additive:?}");
        // Between lambda times the least and the greatest loss of a row.
        let added = additive.distrust_loss.context("the distrust loss is not logged")?;
        ensure!((0.6 * 4.581_165..0.6 * 149.804_727).contains(&added), "{added}");
        ensure!(plain.distrust_loss.is_none(), "{plain:?}");
    }
    Ok(())
}

#[test]
fn the_learning_rate_finder_weighs_rows_as_training_does() -> Result<()> {
    let fixture = Fixture::new();
    let losses = |name: &str, settings: &[&str]| -> Result<Vec<Value>> {
        let out = fixture.sandbox.join(name);
        let flags = ["--find-learning-rate", "--find-steps", "10", "--probe-steps", "0", "--out"];
        // Whether ten steps are enough for a suggestion does not matter.
        fixture.train("store", settings, &[&flags[..], &[&out.to_string_lossy()]].concat());
        let curve: Value = serde_json::from_str(&fs_err::read_to_string(out.join("curve.json"))?)?;
        let points = curve["points"].as_array().context("the curve has points")?;
        Ok(points.iter().map(|point| point["loss"].clone()).collect())
    };
    let plain = losses("plain", &[])?;
    ensure!(plain.len() == 10, "{plain:?}");
    ensure!(plain == losses("zero", &["distrust=reweight", "distrust_lambda=0"])?, "other rows");
    ensure!(plain != losses("reweighted", &["distrust=reweight"])?, "`reweight` changed nothing");
    Ok(())
}

#[test]
fn a_row_outside_the_range_of_the_distrust_loss_is_named_when_data_is_prepared() {
    let sandbox = Sandbox::new();
    let row = |authority: f64| {
        format!(
            "{{\"prompt\": \"q {authority}\", \"completion\": \"a\", \"auth_weight\": {authority}, \"prov_entropy\": 1}}\n"
        )
    };
    sandbox.write("rows.jsonl", [0.5, 0.99, 1.0].map(row).concat());
    let ran = prepare(&sandbox).run();
    ran.failed(65);
    ran.says(&["rows.jsonl", "3", "`auth_weight` is not a number from 0 to 0.99"]);
}

#[test]
fn last_layers_and_head_are_one_line_of_settings() -> Result<()> {
    let fixture = Fixture::new();
    let settings = "train = { num_layers = 2, lm_head = true, steps = 2 }\n";
    let settings = fixture.sandbox.write("settings.toml", settings).to_string_lossy().into_owned();
    let ran = fixture.train("store", &[], &["--config", &settings]);
    let path = ran.path();
    ran.says(&["training ", " parameters ("]);
    let file = path.join("data/checkpoints/0000002/adapters/adapters.safetensors");
    let names: Vec<String> = models::TensorFiles::open_file(&file)?.names().map(str::to_owned).collect();
    let (head, blocks): (Vec<&String>, Vec<&String>) =
        names.iter().partition(|name| name.contains("lm_head"));
    // The model has three blocks.
    ensure!(head.len() == 2 && blocks.len() == 28, "{names:?}");
    ensure!(blocks.iter().all(|name| !name.contains("layers.0.")), "not only the last blocks: {names:?}");
    Ok(())
}

#[test]
fn gradient_norms_are_recorded_on_request_and_change_no_byte() -> Result<()> {
    let fixture = Fixture::new();
    let plain = fixture.train("plain", &["steps=5"], &[]).path();
    let measured = fixture.train("measured", &["steps=5"], &["--gradient-norms"]).path();
    ensure!(fixture.tree("plain", &plain)? == fixture.tree("measured", &measured)?, "other bytes");
    let line = |artifact: &Path| -> Result<Value> {
        let text = fs_err::read_to_string(artifact.join("telemetry/timing.jsonl"))?;
        Ok(serde_json::from_str(text.lines().last().context("no line")?)?)
    };
    ensure!(line(&plain)?.get("gradient_norms").is_none(), "{}", line(&plain)?);
    let norms = line(&measured)?["gradient_norms"].clone();
    let groups: Vec<&String> = norms.as_object().context("not a table")?.keys().collect();
    ensure!(groups == ["layers.0", "layers.1", "layers.2"], "{groups:?}");
    let squares =
        norms.as_object().into_iter().flatten().filter_map(|(_, norm)| norm.as_f64()).map(|norm| norm * norm);
    let total = squares.sum::<f64>().sqrt();
    let logged = f64::from(metrics(&measured)?.last().context("no metrics")?.gradient_norm);
    ensure!((total - logged).abs() <= tolerance::NORM * logged, "{total} and {logged}");
    Ok(())
}

#[test]
fn a_diverging_run_says_where_and_what_was_saved() -> Result<()> {
    let fixture = Fixture::new();
    let settings =
        ["optimizer=sgd", "learning_rate=1e38", "max_gradient_norm=0", "warmup_steps=0", "steps=20"];
    let ran = fixture.train("store", &settings, &[]);
    ran.failed(1);
    ran.says(&["diverged at step ", "rows were [", "nothing was saved"]);
    // The loss is finite in the first steps, until the rate has risen too far.
    let later = [
        "optimizer=sgd",
        "learning_rate=1e12",
        "max_gradient_norm=0",
        "warmup_steps=1",
        "checkpoint_every=1",
        "steps=20",
        "schedule=cyclic",
    ];
    let ran = fixture.train("later", &later, &["--save-every", "1"]);
    ran.failed(1);
    ensure!(trees(&fixture.sandbox.join("later")).is_empty(), "{ran:?}");
    let kept = ran.stderr.split_once("is kept in `").and_then(|(_, rest)| rest.split_once('`'));
    match kept {
        Some((path, _)) => ensure!(Path::new(path).join("adapters/adapters.safetensors").is_file(), "{path}"),
        None => ran.says(&["nothing was saved"]),
    }
    Ok(())
}

#[test]
fn a_run_that_exceeds_the_memory_limit_is_refused_with_the_settings_to_change() {
    let fixture = Fixture::new();
    fixture.train("store", &["steps=2"], &["--plan"]).says(&["needs about"]);
    let tight = ["--max-memory", "0.001"];
    let plan = fixture.train("store", &["steps=2"], &[&tight[..], &["--plan"]].concat());
    plan.says(&["the limit of 0.00 GB"]);
    let ran = fixture.train("store", &["steps=2"], &tight);
    ran.failed(1);
    ran.says(&["hint: ", "--max-memory"]);
}

/// Needs `strace`; says so and passes where there is none.
#[test]
fn a_start_reads_manifests_of_other_runs_and_none_of_their_data() -> Result<()> {
    let fixture = Fixture::new();
    for seed in 0..4 {
        fixture.train("runs", &["steps=2", &format!("seed={seed}")], &[]).path();
    }
    let trace = fixture.sandbox.join("trace");
    // A run that is there, a shorter relative of which can be reused, and one that is new.
    for (settings, may_open) in
        [(["steps=2", "seed=1"], 1), (["steps=4", "seed=1"], 2), (["steps=2", "seed=9"], 1)]
    {
        let mut strace = Program::new("strace");
        strace.args(["-f", "-qq", "-e", "trace=openat", "-o"]).arg(&trace);
        strace.arg(testutil::built_programs().join("train")).args([
            "--model",
            MODEL,
            "--dataset",
            &fixture.dataset,
        ]);
        strace.arg("--store").arg(fixture.sandbox.join("runs"));
        for setting in
            ["rank=2", "batch_size=2", "learning_rate=5e-3", "report_every=5"].iter().chain(&settings)
        {
            strace.args(["--set", setting]);
        }
        let ran = strace.run();
        let Ok(text) = fs_err::read_to_string(&trace) else {
            println!("skipped: no `strace` here");
            return Ok(());
        };
        ensure!(ran.code == Some(0), "{}", ran.stderr);
        let files =
            text.lines().filter_map(|line| line.split('"').nth(1)).filter(|path| path.contains("/train/"));
        let data = files.filter_map(|path| Some(path.split_once("/train/")?.1.split_once("/data/")?.0));
        let opened: std::collections::BTreeSet<&str> = data.filter(|name| !name.starts_with('.')).collect();
        ensure!(opened.len() <= may_open, "{settings:?} opened the data of {opened:?}");
    }
    Ok(())
}

#[test]
fn rounded_factors_of_products_change_the_key_and_the_loss_a_little() -> Result<()> {
    let fixture = Fixture::new();
    let exact = fixture.train("exact", &["steps=10"], &[]);
    let rounded = fixture.train("rounded", &["steps=10", "products=bfloat16"], &[]);
    if rounded.code == Some(1) {
        // A processor without the instructions.
        ensure!(rounded.stderr.contains("hint: leave out the setting `products`"), "{}", rounded.stderr);
        return Ok(());
    }
    let (exact, rounded) = (exact.path(), rounded.path());
    ensure!(exact.file_name() != rounded.file_name(), "the same key");
    let (one, other) = (metrics(&exact)?, metrics(&rounded)?);
    for (one, other) in one.iter().zip(&other) {
        let apart = (one.train_loss - other.train_loss).abs();
        ensure!(
            apart > 0.0 && apart < 0.02,
            "step {}: {} and {}",
            one.step,
            one.train_loss,
            other.train_loss
        );
    }
    // The same bytes again.
    let again = fixture.train("again", &["steps=10", "products=bfloat16"], &[]).path();
    ensure!(fixture.tree("rounded", &rounded)? == fixture.tree("again", &again)?, "other bytes");
    Ok(())
}
