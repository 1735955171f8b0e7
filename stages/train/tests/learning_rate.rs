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
    if let Some(divergence) = curve["divergence"].as_f64() {
        ensure!(rate <= divergence / 9.0, "{rate} and {divergence}");
    }
    // The rate is high enough to have lowered the loss within the ramp, and low enough not to have raised it.
    let at_rate = points.iter().find(|point| number(point, "learning_rate").is_ok_and(|found| found >= rate));
    let at_rate = number(at_rate.context("the rate is on the ramp")?, "smoothed_loss")?;
    let (first, lowest) = (number(&points[0], "smoothed_loss")?, curve["lowest"].as_f64().context("lowest")?);
    ensure!(rate > 1e-4 && rate <= lowest && at_rate < first, "{rate}: loss {at_rate} after {first}");
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
    Ok(())
}

#[test]
fn help_lists_every_flag() {
    let ran = Program::new(env!("CARGO_BIN_EXE_train")).env("COLUMNS", "100").arg("--help").run();
    assert_snapshot!(ran.succeeded(), @r#"
    Fine-tune a model on a dataset

    Usage: train [OPTIONS] --model <ARTIFACT> --dataset <ARTIFACT>

    Options:
          --model <ARTIFACT>        Artifact with the base model, or a model folder
          --dataset <ARTIFACT>      Artifact with the dataset
          --losses <FILE>           Losses of the training rows, for curriculum = "loss": an artifact of
                                    `validate`, or a file of JSON lines with `id` and `loss`
          --save-every <N>          Save a resume state every N steps [default: 25]
          --keep-last <N>           Number of resume states to keep; checkpoints are never deleted
                                    [default: 2]
          --stop-at <STEP|I/N>      Stop after this step, or after part I of N, and publish a segment
                                    for --resume-from
          --resume-from <ARTIFACT>  Resume from a segment, the artifact of a run with --stop-at
          --prefetch <N>            Prepare the rows of N steps in advance on another thread (does not
                                    change the result) [default: 2]
          --gradient-norms          Record the gradient norm of each block, the head, the embedding and
                                    the final norm in `telemetry/` at every report (does not change the
                                    result)
          --max-memory <GB>         Memory limit in GB (default: 80% of available memory)
      -h, --help                    Print help
      -V, --version                 Print version

    Learning-rate finder:
          --find-learning-rate  Try learning rates on a short ramp and print a suggestion instead of
                                training; the curve goes to --out (default: `build/learning-rate`)
          --from <RATE>         First learning rate of the ramp [default: 0.000001]
          --to <RATE>           Last learning rate of the ramp [default: 1]
          --find-steps <STEPS>  Number of steps of the ramp [default: 100]

    Common options:
          --config <FILE>         Read settings from the stage's table in FILE (repeatable; later files
                                  win)
          --set <KEY=VALUE>       Set one setting (repeatable; `STAGE.KEY=VALUE` is for that stage only)
          --store <DIR>           Store artifacts in DIR [env: ASHLAR_STORE=] [default: artifacts]
          --out <DIR>             Write the artifact to DIR instead of the store
          --resume-dir <DIR>      With --out, keep the resume state in DIR
          --plan                  Show whether the stage would run, and why (exit 0: up to date, 10:
                                  run, 11: resume)
          --force                 Run even if the artifact exists, and compare the result with it
          --check                 Run again and compare the bytes with the existing artifact (exit 70 if
                                  they differ)
          --json                  Print --plan as JSON
      -v, --verbose...            Print debug messages (`-vv`: also traces)
      -q, --quiet                 Print errors only
          --lock-wait <DURATION>  How long to wait for another process that is making the same artifact
                                  (`0`, `30s`, `5m`, `forever`) [default: forever]
          --label <NAME>          Label the artifact, so that `refs/NAME` refers to it
    "#);
}
