//! The learning-rate finder on a tiny model that learns to count.

use anyhow::{Context, Result, ensure};
use artifact::{Draft, KeyMaterial, write_folder};
use dataset::SplitWriter;
use insta::assert_snapshot;
use serde_json::{Value, json};
use testutil::{Program, Ran, Sandbox, golden};

/// A sandbox with a dataset of rows that count upwards, whose next tokens are easy to learn.
struct Counting {
    sandbox: Sandbox,
}

impl Counting {
    fn new() -> Result<Self> {
        let sandbox = Sandbox::new();
        let tokens = sandbox.join("tokens");
        fs_err::create_dir_all(&tokens)?;
        for (split, rows) in [("train", 64), ("validation", 4)] {
            let mut writer = SplitWriter::create(&tokens.join(format!("{split}.safetensors")))?;
            for row in 0..rows {
                let row: Vec<u32> = (0..12).map(|t| 20 + (7 * row + t) % 100).collect();
                writer.push(&row, &[&[0; 1][..], &[1; 11]].concat(), 1.0, 1)?;
            }
            writer.finish()?;
        }
        let draft = Draft::new("count", KeyMaterial::new("prepare-data", 1, json!({})));
        write_folder(&sandbox.join("dataset"), &draft, |data| {
            fs_err::rename(&tokens, data.join("tokens"))?;
            Ok(())
        })?;
        Ok(Self { sandbox })
    }

    /// Runs the finder in the sandbox.
    fn find(&self, arguments: &[&str]) -> Ran {
        let mut program = self.sandbox.program(env!("CARGO_BIN_EXE_train"));
        program.args(["--find-learning-rate", "--dataset", "dataset", "--model"]);
        program.arg(golden("llama")).args(arguments).run()
    }
}

#[test]
fn a_ramp_prints_a_rate_that_learns_and_leaves_only_its_curve() -> Result<()> {
    let counting = Counting::new()?;
    let arguments = [
        ["--set", "fine_tune_type=full"],
        ["--set", "lm_head=true"],
        ["--out", "curve"],
        ["--from", "1e-5"],
        ["--to", "10"],
        ["--find-steps", "60"],
    ]
    .concat();
    let ran = counting.find(&arguments);
    let rate: f64 = ran.succeeded().trim_end().parse()?;

    let curve: Value = serde_json::from_str(&counting.sandbox.read("curve/curve.json"))?;
    assert_eq!(curve["suggestion"], rate);
    let points = curve["points"].as_array().context("the curve has points")?;
    ensure!(points.len() > 10 && points.len() <= 60, "{} points", points.len());
    let number = |point: &Value, name: &str| point[name].as_f64().context(name.to_owned());
    ensure!((number(&points[0], "learning_rate")? / 1e-5 - 1.0).abs() < 1e-9);
    let estimate = number(&curve, "estimate")?;
    if let Some(divergence) = curve["divergence"].as_f64() {
        ensure!(estimate <= divergence / 3.9, "{estimate} and {divergence}");
    }
    // The rate is high enough to have lowered the loss within the ramp, and low enough not to have raised it.
    let at_rate =
        points.iter().find(|point| number(point, "learning_rate").is_ok_and(|found| found >= estimate));
    let at_rate = number(at_rate.context("the rate is on the ramp")?, "smoothed_loss")?;
    let first = number(&points[0], "smoothed_loss")?;
    ensure!(estimate > 1e-4 && at_rate < first, "{estimate}: loss {at_rate} after {first}");

    // 64 rows in batches of 4 are an epoch of 16 steps, which is the whole run.
    let probing = &curve["probing"];
    assert_eq!((&probing["steps"], &probing["corrected"]), (&json!(16), &probing["lowest"]));
    let probes = probing["probes"].as_array().context("there are probes")?;
    let finished =
        probes.iter().filter_map(|probe| Some((probe["learning_rate"].as_f64()?, probe["loss"].as_f64()?)));
    let best = finished.min_by(|a, b| a.1.total_cmp(&b.1)).context("a probe finishes")?;
    ensure!(probes.len() >= 3 && (0.5..2.0).contains(&(rate / best.0)), "{rate} and {best:?}");
    ensure!(ran.stderr.contains("held-out losses after 16 steps"), "{}", ran.stderr);
    let alone = [&arguments[..], &["--probe-steps", "0"]].concat();
    let alone: f64 = counting.find(&alone).succeeded().trim_end().parse()?;
    ensure!((alone - estimate).abs() < f64::EPSILON, "{alone} and {estimate}");
    counting.find(&arguments);
    let drawing = counting.sandbox.read("curve/curve.svg");
    ensure!(drawing.starts_with("<svg ") && drawing.contains("suggested"), "{drawing}");

    assert_eq!(counting.find(&arguments).stdout, ran.stdout, "the same settings give the same rate");
    let entries = fs_err::read_dir(counting.sandbox.path())?;
    let mut left = entries.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>>>()?;
    left.sort();
    assert_eq!(left, ["curve", "dataset"], "neither a store nor an artifact");
    Ok(())
}

#[test]
fn a_ramp_without_effect_is_an_error() -> Result<()> {
    let counting = Counting::new()?;
    let ran = counting.find(&["-q", "--from", "1e-12", "--to", "1e-11", "--find-steps", "12"]);
    assert_snapshot!(ran.failed(1), @"
    error: the loss never fell clearly between rates 1.0e-12 and 1.0e-11
    hint: try more `--find-steps`, another range (`--from`, `--to`), or a larger `batch_size`
    ");
    ensure!(counting.sandbox.join("build/learning-rate/curve.svg").is_file());
    Ok(())
}

#[test]
fn flags_of_the_finder_need_the_finder_and_each_other() -> Result<()> {
    let counting = Counting::new()?;
    assert_snapshot!(counting.find(&["--from", "1e-2", "--to", "1e-3"]).failed(2), @"error: `--from` must be above 0 and below `--to`");
    let mut program = Program::new(env!("CARGO_BIN_EXE_train"));
    let ran = program.args(["--model", "m", "--dataset", "d", "--from", "1e-3"]).run();
    ran.says(&["--find-learning-rate"]);
    assert_eq!(ran.code, Some(2));
    let ran = counting.find(&["--plan"]);
    ran.says(&["'--find-learning-rate' cannot be used with '--plan'"]);
    assert_eq!(ran.code, Some(2));
    Ok(())
}

#[test]
fn a_finder_that_exceeds_the_memory_limit_is_refused_as_training_is() -> Result<()> {
    let counting = Counting::new()?;
    let ran = counting.find(&["--max-memory", "0.001"]);
    ran.failed(1);
    ran.says(&["the run needs about", "hint: ", "--max-memory"]);
    ensure!(!counting.sandbox.join("build").exists(), "the ramp ran");
    Ok(())
}
