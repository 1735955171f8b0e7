//! Two pipelines with different settings at the same time in one checkout: both finish, and each report is about its own run.
//!
//! `ASHLAR_PIPELINES` sets how many times; `make soak` runs 50.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, ensure};
use artifact::{Artifact, Level, Manifest, Store};
use testutil::files::{copy, remove};
use testutil::{Program, Ran, SMALL_SETTINGS, built_programs, workspace_root};

fn checkout(name: &str) -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pipelines_at_once").join(name);
    remove(&folder);
    fs_err::create_dir_all(folder.join("data/models"))?;
    for name in ["Makefile", "pipelines", "data/haw-eng", "data/models/demo"] {
        copy(&workspace_root().join(name), &folder.join(name));
    }
    fs_err::copy(workspace_root().join(SMALL_SETTINGS), folder.join("pipelines/small.toml"))?;
    Ok(folder)
}

fn make(folder: &Path, target: &str, set: &str) -> Program {
    let mut make = Program::new("make");
    make.current_dir(folder).arg(target).arg(format!("BIN={}", built_programs().display()));
    make.args(["PIPELINE=small", "DATA=data/haw-eng"]).arg(format!("SET={set}"));
    make
}

fn rounds() -> Result<usize> {
    Ok(std::env::var("ASHLAR_PIPELINES").ok().map(|text| text.parse()).transpose()?.unwrap_or(2))
}

fn settings(rate: &str) -> String {
    format!("train.steps=4 train.checkpoint_every=2 evaluate.generated_rows=1 train.learning_rate={rate}")
}

/// Returns the artifact of `stage` that an artifact was made from.
fn producer(store: &Store, consumer: &Manifest, stage: &str) -> Result<Manifest> {
    let record = consumer.inputs.values().find(|record| record.stage.as_deref() == Some(stage));
    let key = record.and_then(|record| record.key).with_context(|| format!("no input of `{stage}`"))?;
    let found =
        store.lookup_with(stage, &key, "", Level::Size)?.with_context(|| format!("no {stage} {key}"))?;
    Ok(found.manifest().clone())
}

/// Returns the learning rate of a training run.
fn rate(train: &Manifest) -> Result<f64> {
    train.key_material.config["learning_rate"].as_f64().context("a number")
}

/// Checks that everything that the report of a finished make shows comes from the run with this rate.
fn check_report(folder: &Path, ran: &Ran, expected: f64) -> Result<()> {
    ensure!(ran.code == Some(0), "make failed:\n{}", ran.stderr);
    let page =
        ran.stdout.lines().last().and_then(|line| line.strip_prefix("report: ")).context("no report")?;
    let report = Artifact::open(folder.join(page).ancestors().nth(2).context("a path")?)?;
    let store = Store::open(&folder.join("artifacts"))?;
    let of = |stage: &str| producer(&store, report.manifest(), stage);
    let fused = producer(&store, &of("evaluate")?, "fuse")?;
    let trained = [
        ("report", of("train")?),
        ("validate", producer(&store, &of("validate")?, "train")?),
        ("select-best", producer(&store, &of("select-best")?, "train")?),
        ("evaluate", producer(&store, &producer(&store, &fused, "select-best")?, "train")?),
    ];
    for (stage, train) in trained {
        let found = rate(&train)?;
        ensure!(
            (found - expected).abs() < f64::EPSILON,
            "`{stage}` shows the run with rate {found}, not {expected}"
        );
    }
    Ok(())
}

#[test]
fn two_pipelines_with_different_settings_do_not_mix() -> Result<()> {
    let folder = checkout("different")?;
    for round in 0..rounds()? {
        let rates = [2.1, 2.7].map(|rate| format!("{:e}", rate * 1e-3 + round as f64 * 1e-5));
        run_side_by_side(&folder, &rates).with_context(|| format!("round {round}"))?;
    }
    Ok(())
}

/// Without a grace period, gc takes everything that no pipeline points at, which is everything that a stage has just made.
#[test]
fn gc_beside_pipelines_takes_nothing_from_them() -> Result<()> {
    let folder = checkout("gc")?;
    // gc removes nothing before there is a folder of pointers, and refuses to before there is a store.
    fs_err::create_dir_all(folder.join("build"))?;
    artifact::Store::open(&folder.join("artifacts"))?.ensure()?;
    let (rounds, is_over) = (rounds()?, AtomicBool::new(false));
    let (collections, checked) = std::thread::scope(|scope| {
        let collector = scope.spawn(|| collect_until(&folder, &is_over));
        let checked = (0..rounds).try_for_each(|round| {
            let rates = [3.1, 3.7].map(|rate| format!("{:e}", rate * 1e-3 + round as f64 * 1e-5));
            run_side_by_side(&folder, &rates).with_context(|| format!("round {round}"))
        });
        is_over.store(true, Ordering::Relaxed);
        let collections = collector.join().map_err(|_panic| anyhow::anyhow!("gc failed"))?;
        Ok::<_, anyhow::Error>((collections, checked))
    })?;
    checked?;
    ensure!(collections > 10, "gc ran {collections} times only");
    Ok(())
}

/// Collects without a pause; returns how often.
fn collect_until(folder: &Path, is_over: &AtomicBool) -> usize {
    let mut collections = 0;
    while !is_over.load(Ordering::Relaxed) {
        Program::built("artifacts")
            .current_dir(folder)
            .args(["gc", "--delete", "--grace", "0s"])
            .run()
            .succeeded();
        collections += 1;
    }
    collections
}

/// Runs one pipeline for each learning rate at the same time.
fn run_side_by_side(folder: &Path, rates: &[String]) -> Result<()> {
    let children: Vec<_> =
        rates.iter().map(|rate| make(folder, "pipeline", &settings(rate)).spawn()).collect();
    for (child, rate) in children.into_iter().zip(rates) {
        let ran = Ran::from(child.wait_with_output()?);
        check_report(folder, &ran, rate.parse()?)?;
    }
    Ok(())
}

#[test]
fn the_same_pipeline_twice_at_once_and_plans_that_follow_the_plan() -> Result<()> {
    let folder = checkout("same")?;
    let set = settings("2.1e-3");
    for _ in 0..3 {
        let children: Vec<_> = (0..3).map(|_| make(&folder, "pipeline", &set).spawn()).collect();
        for child in children {
            check_report(&folder, &Ran::from(child.wait_with_output()?), 2.1e-3)?;
        }
    }
    let all = make(&folder, "plan", &set).run();
    ensure!(all.code == Some(0) && all.stdout.matches("up to date").count() == 8, "{}", all.stdout);
    // Train alone with another rate: what comes after it waits, although there are pointers of the other run.
    make(&folder, "train", &settings("2.7e-3")).run().succeeded();
    let part = make(&folder, "plan", &settings("2.7e-3")).run();
    ensure!(
        part.stdout.contains("train: up to date") && part.stdout.contains("validate: would run"),
        "{}",
        part.stdout
    );
    ensure!(part.stdout.matches("waits for validate").count() == 4, "{}", part.stdout);
    // An artifact that was deleted would be made again.
    let validate =
        fs_err::read_dir(folder.join("artifacts/validate"))?.next().context("one is there")??.path();
    Program::new("chmod").args(["-R", "u+w"]).arg(&validate).run().succeeded();
    fs_err::remove_dir_all(&validate)?;
    let again = make(&folder, "plan", &set).run();
    ensure!(again.stdout.contains("validate: would run"), "{}", again.stdout);
    ensure!(again.stdout.contains("report: waits for validate"), "{}", again.stdout);
    // Another store has nothing.
    let other = make(&folder, "plan", &set).arg("STORE=other").run();
    ensure!(other.code == Some(0) && other.stdout.contains("import-model: would run"), "{}", other.stdout);
    Ok(())
}

/// Returns the folder with the pointers of a pipeline.
fn pointers(folder: &Path, variables: &[&str]) -> Result<String> {
    let printing = folder.join("printing.mk");
    fs_err::write(&printing, "include Makefile\nprint-run:\n\t@echo '$(RUN)'\n")?;
    let mut make = Program::new("make");
    make.current_dir(folder).args(["-s", "-f", "printing.mk", "print-run", "PIPELINE=small"]).args(variables);
    Ok(make.run().succeeded().trim_end().to_owned())
}

#[test]
fn pipelines_with_edited_settings_have_other_pointers() -> Result<()> {
    let folder = checkout("edited")?;
    let variables = ["MODEL=demo", "ENCODER=minilm", "MEMORY=16"];
    let before = pointers(&folder, &variables)?;
    ensure!(before.starts_with("build/small/demo/"), "{before}");
    // Presets include `overnight.toml`.
    for name in ["small.toml", "models/demo.toml", "models/minilm.toml", "memory/16.toml", "overnight.toml"] {
        let preset = folder.join("pipelines").join(name);
        let text = fs_err::read_to_string(&preset)?;
        fs_err::write(&preset, format!("{text}# edited\n"))?;
        ensure!(pointers(&folder, &variables)? != before, "{name}");
        fs_err::write(&preset, text)?;
    }
    // Settings that this pipeline does not read.
    fs_err::write(folder.join("pipelines/models/other.toml"), "")?;
    ensure!(pointers(&folder, &variables)? == before);
    Ok(())
}

#[test]
fn inputs_of_different_pipelines_are_refused() -> Result<()> {
    let folder = checkout("mixed")?;
    let pointer = |stage: &str| -> Result<String> {
        let text = fs_err::read_to_string(folder.join("build/small/demo").join(format!("{stage}.path")))?;
        Ok(text.trim_end().to_owned())
    };
    let stages = ["import-model", "prepare-data", "train", "validate", "select-best", "fuse", "evaluate"];
    let run = |set: &str| -> Result<Vec<String>> {
        make(&folder, "pipeline", set).run().succeeded();
        stages.iter().map(|stage| pointer(stage)).collect()
    };
    let (first, second) = (run(&settings("2.1e-3"))?, run(&settings("2.7e-3"))?);
    let refused = |stage: &str, arguments: &[String]| -> Result<()> {
        let mut program = Program::built(stage);
        program.current_dir(&folder).args(["--config", "pipelines/small.toml"]).args(arguments);
        let ran = program.run();
        ensure!(ran.code == Some(65), "`{stage}` took {arguments:?}: {:?} {}", ran.code, ran.stderr);
        ensure!(ran.stderr.contains("do not belong together"), "{}", ran.stderr);
        Ok(())
    };
    // A report about one run with one artifact of the other.
    for (index, stage) in stages.iter().enumerate().skip(2) {
        let given = stages.iter().enumerate().flat_map(|(other, name)| {
            let path = if other == index { &second[other] } else { &first[other] };
            [format!("--{name}"), path.clone()]
        });
        refused("report", &given.collect::<Vec<_>>())
            .with_context(|| format!("`{stage}` of the other run"))?;
    }
    // Another dataset than the one of the training run: fusing measures with it, and evaluation scores on it.
    let other = Program::built("prepare-data")
        .current_dir(&folder)
        .args([
            "--config",
            "pipelines/small.toml",
            "--set",
            "max_tokens=190",
            "--data",
            "data/haw-eng",
            "--tokenizer",
        ])
        .arg(&first[0])
        .args(["--set", "max_rows.train=40"])
        .run();
    let other = other.succeeded().trim_end().to_owned();
    let text = |parts: &[&str]| parts.iter().map(ToString::to_string).collect::<Vec<_>>();
    refused("fuse", &text(&["--model", &first[0], "--adapters", &first[4], "--dataset", &other]))?;
    let (base, fused) = (format!("base={}", first[0]), format!("fused={}", first[5]));
    refused("evaluate", &text(&["--model", &base, "--model", &fused, "--dataset", &other]))?;
    refused("select-best", &text(&["--train", &first[2], "--validate", &second[3]]))
}

#[test]
fn the_encoder_of_an_evaluation_belongs_to_any_pipeline() -> Result<()> {
    let folder = checkout("encoder")?;
    let set = settings("2.1e-3");
    make(&folder, "pipeline", &set).run().succeeded();
    let of = |stage: &str| -> Result<String> {
        let text = fs_err::read_to_string(folder.join("build/small/demo").join(format!("{stage}.path")))?;
        Ok(text.trim_end().to_owned())
    };
    let run = |stage: &str, arguments: &[&str]| {
        let mut program = Program::built(stage);
        program.current_dir(&folder).args(["--config", "pipelines/small.toml"]).args(arguments);
        program.run().succeeded().trim_end().to_owned()
    };
    let bert = workspace_root().join("crates/models/tests/encoders/bert").display().to_string();
    let encoder = run("import-model", &["--model-dir", &bert]);
    let (model, dataset, fused) = (of("import-model")?, of("prepare-data")?, of("fuse")?);
    let (base, tuned) = (format!("base={model}"), format!("fused={fused}"));
    let rows = ["--set", "evaluate.generated_rows=1"];
    let models = ["--model", &base, "--model", &tuned, "--dataset", &dataset, "--encoder", &encoder];
    let evaluation = run("evaluate", &[&models[..], &rows].concat());
    let (train, validate, best) = (of("train")?, of("validate")?, of("select-best")?);
    let made = ["--train", &train, "--validate", &validate, "--select-best", &best, "--fuse", &fused];
    let from = ["--import-model", &model, "--prepare-data", &dataset, "--evaluate", &evaluation];
    let report = run("report", &[&made[..], &from].concat());
    ensure!(Artifact::open(&folder.join(report)).is_ok(), "no report");
    Ok(())
}
