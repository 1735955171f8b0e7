//! What training promises to those who run the program: longer runs go on from shorter ones, trust weighs rows, the log
//! says what happened and what is left to go back to.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use artifact::{Artifact, Level};
use serde_json::Value;
use tests::{Place, Ran, run, trees};

/// A model with a head of its own, and rows of trusted and distrusted sources.
struct Bench {
    place: Place,
    dataset: String,
}

/// (authority, entropy) of the rows, in turn; one row in four has neither.
const SOURCES: [Option<(f64, f64)>; 4] = [Some((0.05, 7.5)), Some((0.5, 5.0)), None, Some((0.9, 1.0))];
const MODEL: &str = "tests/golden/llama";

impl Bench {
    fn new() -> Result<Self> {
        let place = Place::new()?;
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
        let rows = place.path().join("rows.jsonl");
        fs_err::write(&rows, text)?;
        let mut command = tests::command(tests::programs().join("prepare-data"));
        command.args(["--tokenizer", MODEL, "--set", "max_tokens=96", "--data"]).arg(&rows);
        command.arg("--store").arg(place.store());
        let dataset = run(&mut command)?.path()?.to_string_lossy().into_owned();
        Ok(Self { place, dataset })
    }

    /// Trains in a store of its own name, with settings and then flags.
    fn train(&self, store: &str, settings: &[&str], flags: &[&str]) -> Result<Ran> {
        let mut command = tests::command(tests::programs().join("train"));
        command
            .args(["--model", MODEL, "--dataset", &self.dataset, "--store"])
            .arg(self.place.path().join(store));
        for setting in
            ["rank=2", "batch_size=2", "learning_rate=5e-3", "report_every=5"].iter().chain(settings)
        {
            command.args(["--set", setting]);
        }
        run(command.args(flags))
    }

    fn tree(&self, store: &str, artifact: &Path) -> Result<String> {
        let name = format!("train/{}", artifact.file_name().context("a name")?.to_string_lossy());
        let all = trees(&self.place.path().join(store))?;
        Ok(all.get(&name).with_context(|| format!("`{name}` is not in {all:?}"))?.to_string())
    }
}

fn metrics(artifact: &Path) -> Result<Vec<Value>> {
    let text = fs_err::read_to_string(artifact.join("data/metrics.jsonl"))?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// The bytes of the last checkpoint's weights.
fn weights(artifact: &Path, step: usize) -> Result<Vec<u8>> {
    let folder = artifact.join(format!("data/checkpoints/{step:07}/adapters"));
    Ok(fs_err::read(folder.join("adapters.safetensors"))?)
}

fn said(ran: &Ran, part: &str) -> Result<()> {
    ensure!(ran.stderr.contains(part), "`{part}` is not in:\n{}", ran.stderr);
    Ok(())
}

#[test]
fn a_longer_run_trains_only_what_is_left_and_ends_in_the_bytes_of_an_unbroken_one() -> Result<()> {
    let bench = Bench::new()?;
    let settings =
        ["schedule=constant", "dropout=0.1", "accumulation=2", "checkpoint_every=10", "validation_every=5"];
    let with = |steps| [&settings[..], &[steps]].concat();
    let unbroken = bench.train("at once", &with("steps=40"), &[])?;
    ensure!(!unbroken.stderr.contains("going on"), "{}", unbroken.stderr);
    let short = bench.train("in two", &with("steps=20"), &[])?.path()?;
    let plan = bench.train("in two", &with("steps=40"), &["--plan"])?;
    ensure!(plan.code == Some(10), "{plan:?}");
    said(&plan, "goes on from a published run of 20 steps: 20 are left")?;
    let longer = bench.train("in two", &with("steps=40"), &[])?;
    said(&longer, "going on after step 20 of 40")?;
    let (longer, unbroken) = (longer.path()?, unbroken.path()?);
    ensure!(bench.tree("at once", &unbroken)? == bench.tree("in two", &longer)?, "other bytes");
    // Only the steps that were left were taken, and the shorter run is still what it was.
    let timing = fs_err::read_to_string(longer.join("telemetry/timing.jsonl"))?;
    let first: Value = serde_json::from_str(timing.lines().next().context("a line")?)?;
    ensure!(first["step"] == 25, "{first}");
    Artifact::open_with(&short, Level::Hash)?;
    Ok(())
}

#[test]
fn nothing_is_taken_from_a_run_whose_schedule_depends_on_its_length() -> Result<()> {
    let bench = Bench::new()?;
    let settings = ["schedule=cosine", "checkpoint_every=10"];
    let with = |steps| [&settings[..], &[steps]].concat();
    bench.train("store", &with("steps=20"), &[])?.path()?;
    let plan = bench.train("store", &with("steps=40"), &["--plan"])?;
    said(&plan, "depends on the length of the run: nothing of it is used")?;
    let ran = bench.train("store", &with("steps=40"), &[])?;
    ran.path()?;
    ensure!(!ran.stderr.contains("going on"), "{}", ran.stderr);
    // A change of anything else leaves nothing to go on from.
    bench.train("store", &["schedule=constant", "steps=20", "checkpoint_every=10"], &[])?.path()?;
    let other = ["schedule=constant", "steps=40", "checkpoint_every=10", "seed=7"];
    let plan = bench.train("store", &other, &["--plan"])?;
    ensure!(!plan.stderr.contains("goes on from"), "{}", plan.stderr);
    Ok(())
}

#[test]
fn trust_weighs_rows_from_the_data_files_to_the_weights() -> Result<()> {
    let bench = Bench::new()?;
    let of = |settings: &[&str]| -> Result<(Ran, PathBuf)> {
        let ran = bench.train("store", &[&["steps=10", "schedule=constant"], settings].concat(), &[])?;
        let path = ran.path()?;
        Ok((ran, path))
    };
    let (_, plain) = of(&[])?;
    let (additive_run, additive) = of(&["distrust=additive"])?;
    said(&additive_run, "cannot change a gradient")?;
    let (_, zero) = of(&["distrust=reweight", "distrust_lambda=0"])?;
    let (_, reweighted) = of(&["distrust=reweight", "distrust_lambda=0.6"])?;
    ensure!(weights(&plain, 10)? == weights(&additive, 10)?, "`additive` changed the weights");
    ensure!(weights(&plain, 10)? == weights(&zero, 10)?, "`reweight` at lambda 0 is not plain");
    ensure!(weights(&plain, 10)? != weights(&reweighted, 10)?, "`reweight` changed nothing");
    let (plain, additive) = (metrics(&plain)?, metrics(&additive)?);
    ensure!(plain.len() == additive.len() && plain.len() == 2, "{plain:?}");
    for (plain, additive) in plain.iter().zip(&additive) {
        ensure!(plain["train_loss"] == additive["train_loss"], "{plain} and {additive}");
        // Between lambda times the least and the greatest loss of a row.
        let added = additive["distrust_loss"].as_f64().context("it is logged")?;
        ensure!((0.6 * 4.581_165..0.6 * 149.804_727).contains(&added), "{added}");
        ensure!(plain.get("distrust_loss").is_none(), "{plain}");
    }
    Ok(())
}

#[test]
fn a_row_that_the_distrust_loss_cannot_take_is_named() -> Result<()> {
    let bench = Bench::new()?;
    let rows = bench.place.path().join("rows.jsonl");
    let text = fs_err::read_to_string(&rows)?.replace("\"auth_weight\":0.9", "\"auth_weight\":0.995");
    fs_err::write(&rows, text)?;
    let mut command = tests::command(tests::programs().join("prepare-data"));
    command.args(["--tokenizer", MODEL, "--set", "max_tokens=96", "--data"]).arg(&rows);
    let dataset =
        run(command.arg("--store").arg(bench.place.store()))?.path()?.to_string_lossy().into_owned();
    let bench = Bench { dataset, ..bench };
    let ran = bench.train("store", &["steps=2", "distrust=reweight"], &[])?;
    ensure!(ran.code == Some(65), "{ran:?}");
    said(&ran, "`auth_weight` is 0.995, expected 0 to 0.99")?;
    said(&ran, "row `row")
}

#[test]
fn last_layers_and_head_are_one_line_of_settings() -> Result<()> {
    let bench = Bench::new()?;
    let settings = bench.place.path().join("settings.toml");
    fs_err::write(&settings, "train = { num_layers = 2, lm_head = true, steps = 2 }\n")?;
    let settings = settings.to_string_lossy().into_owned();
    let ran = bench.train("store", &[], &["--config", &settings])?;
    let path = ran.path()?;
    said(&ran, "parameters train (")?;
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
fn norms_of_parts_are_recorded_on_demand_and_change_no_byte() -> Result<()> {
    let bench = Bench::new()?;
    let plain = bench.train("plain", &["steps=5"], &[])?.path()?;
    let measured = bench.train("measured", &["steps=5"], &["--gradient-norms"])?.path()?;
    ensure!(bench.tree("plain", &plain)? == bench.tree("measured", &measured)?, "other bytes");
    let line = |artifact: &Path| -> Result<Value> {
        let text = fs_err::read_to_string(artifact.join("telemetry/timing.jsonl"))?;
        Ok(serde_json::from_str(text.lines().last().context("a line")?)?)
    };
    ensure!(line(&plain)?.get("gradient_norms").is_none(), "{}", line(&plain)?);
    let norms = line(&measured)?["gradient_norms"].clone();
    let parts: Vec<&String> = norms.as_object().context("a table")?.keys().collect();
    ensure!(parts == ["layers.0", "layers.1", "layers.2"], "{parts:?}");
    let squares =
        norms.as_object().into_iter().flatten().filter_map(|(_, norm)| norm.as_f64()).map(|norm| norm * norm);
    let (all, metrics) = (squares.sum::<f64>().sqrt(), metrics(&measured)?);
    let norm = metrics.last().and_then(|line| line["gradient_norm"].as_f64()).context("a norm")?;
    ensure!((all - norm).abs() <= 1e-5 * norm, "{all} and {norm}");
    Ok(())
}

#[test]
fn a_run_that_diverges_says_where_and_what_is_left() -> Result<()> {
    let bench = Bench::new()?;
    let settings =
        ["optimizer=sgd", "learning_rate=1e38", "max_gradient_norm=0", "warmup_steps=0", "steps=20"];
    let ran = bench.train("store", &settings, &[])?;
    ensure!(ran.code == Some(1) && ran.stdout.is_empty(), "{ran:?}");
    said(&ran, "training diverged at step ")?;
    said(&ran, "its rows were [")?;
    said(&ran, "nothing was saved before it")?;
    // The first steps are fine, then the rate has risen too far.
    let later = [
        "optimizer=sgd",
        "learning_rate=1e12",
        "max_gradient_norm=0",
        "warmup_steps=1",
        "checkpoint_every=1",
    ];
    let ran = bench.train(
        "later",
        &[&later[..], &["steps=20", "schedule=cyclic"]].concat(),
        &["--save-every", "1"],
    )?;
    ensure!(ran.code == Some(1) && trees(&bench.place.path().join("later"))?.is_empty(), "{ran:?}");
    let kept = ran.stderr.split_once("is kept in `").and_then(|(_, rest)| rest.split_once('`'));
    match kept {
        Some((path, _)) => ensure!(Path::new(path).join("adapters/adapters.safetensors").is_file(), "{path}"),
        None => said(&ran, "nothing was saved before it")?,
    }
    Ok(())
}

#[test]
fn what_does_not_fit_into_memory_is_refused_with_the_settings_to_change() -> Result<()> {
    let bench = Bench::new()?;
    let plan = bench.train("store", &["steps=2"], &["--plan"])?;
    said(&plan, "needs about")?;
    let tight = ["--max-memory", "0.001"];
    let plan = bench.train("store", &["steps=2"], &[&tight[..], &["--plan"]].concat())?;
    said(&plan, "does not fit into the limit of 0.00 GB")?;
    let ran = bench.train("store", &["steps=2"], &tight)?;
    ensure!(ran.code == Some(1) && ran.stdout.is_empty(), "{ran:?}");
    said(&ran, "hint: ")?;
    said(&ran, "--max-memory")
}
