//! Choosing among hand-made checkpoints, as a library and as a program.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use artifact::{Artifact, Draft, KeyMaterial, write_folder};
use select_best::{Checkpoint, Choice, Config, Losses, Row};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Makes losses from the losses of four rows of ten tokens for each step.
fn losses(steps: &[(u64, [f64; 4])]) -> Value {
    let checkpoint = |(step, rows): &(u64, [f64; 4])| {
        let rows_json: Vec<Value> =
            (0..4).map(|row| json!({"id": format!("r{row}"), "loss": rows[row], "tokens": 10})).collect();
        let loss = rows.iter().sum::<f64>() / 40.0;
        json!({"step": step, "loss": loss, "perplexity": loss.exp(), "tokens": 40, "rows": rows_json})
    };
    let checkpoints: Vec<Value> = steps.iter().map(checkpoint).collect();
    json!({"split": "validation", "rows": 4, "tokens": 40, "checkpoints": checkpoints})
}

struct Case {
    dir: TempDir,
}

impl Case {
    fn new(trained: &[u64], losses: &Value) -> Self {
        let case = Self { dir: tempfile::tempdir().unwrap() };
        for step in trained {
            let adapters = case.checkpoints().join(format!("{step:07}/adapters"));
            fs_err::create_dir_all(&adapters).unwrap();
            fs_err::write(adapters.join("adapter_config.json"), "{}\n").unwrap();
            fs_err::write(adapters.join("adapters.safetensors"), safetensors(*step)).unwrap();
        }
        fs_err::write(case.losses(), losses.to_string()).unwrap();
        fs_err::create_dir(case.out()).unwrap();
        case
    }

    fn checkpoints(&self) -> PathBuf {
        self.dir.path().join("checkpoints")
    }

    fn losses(&self) -> PathBuf {
        self.dir.path().join("losses.json")
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn choose(&self) -> Result<Choice, select_best::Error> {
        select_best::run(&self.checkpoints(), &self.losses(), &Config::default(), &self.out())
    }

    #[track_caller]
    fn refuses(&self, parts: &[&str]) {
        let error = self.choose().unwrap_err();
        assert!(error.is_about_input());
        for part in parts {
            assert!(error.to_string().contains(part), "`{part}` is not in: {error}");
        }
        assert_eq!(fs_err::read_dir(self.out()).unwrap().count(), 0);
    }
}

/// Makes a file with one float that tells the step.
fn safetensors(step: u64) -> Vec<u8> {
    let header = r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(&(step as f32).to_le_bytes());
    bytes
}

const BASE: (u64, [f64; 4]) = (0, [40.0, 41.0, 42.0, 43.0]);

#[test]
fn lowest_loss_is_chosen_and_copied() {
    let case = Case::new(&[10, 20, 30], &losses(&[BASE, (10, [30.0; 4]), (20, [20.0; 4]), (30, [25.0; 4])]));
    let choice = case.choose().unwrap();
    assert_eq!((choice.step, choice.loss, choice.base_loss), (20, 2.0, 4.15));
    assert_eq!(choice.candidates.iter().map(|c| c.step).collect::<Vec<_>>(), [10, 20, 30]);
    assert_eq!(choice.runner_up.unwrap().step, 30);
    assert_eq!((choice.gap, choice.gap_interval, choice.within_noise), (Some(0.5), Some([0.5, 0.5]), false));
    assert!(choice.reason.contains("beyond noise") && choice.reason.contains("base model has 4.1500"));
    let written: Choice =
        serde_json::from_slice(&fs_err::read(case.out().join("choice.json")).unwrap()).unwrap();
    assert_eq!(written, choice);
    let adapters = case.out().join("adapters");
    assert_eq!(fs_err::read(adapters.join("adapters.safetensors")).unwrap(), safetensors(20));
    assert_eq!(fs_err::read(adapters.join("adapter_config.json")).unwrap(), b"{}\n");
}

#[test]
fn tie_goes_to_the_earlier_whatever_the_order() {
    let rows = [21.0, 19.0, 20.0, 20.0];
    for steps in [[(10, rows), (20, rows)], [(20, rows), (10, rows)]] {
        let case = Case::new(&[10, 20], &losses(&[steps[0], BASE, steps[1]]));
        let choice = case.choose().unwrap();
        assert_eq!((choice.step, choice.gap, choice.within_noise), (10, Some(0.0), true));
        assert!(choice.reason.contains("a tie"), "{}", choice.reason);
    }
}

#[test]
fn small_gap_between_unlike_rows_is_within_noise() {
    let case = Case::new(
        &[10, 20],
        &losses(&[BASE, (10, [10.0, 30.0, 10.0, 30.2]), (20, [30.0, 10.0, 30.0, 10.0])]),
    );
    let choice = case.choose().unwrap();
    let [low, high] = choice.gap_interval.unwrap();
    assert_eq!(choice.step, 20);
    assert!(low < 0.0 && high > 0.0 && choice.within_noise, "{choice:?}");
    assert!(choice.reason.contains("within noise"), "{}", choice.reason);
    fs_err::remove_dir_all(case.out()).unwrap();
    fs_err::create_dir(case.out()).unwrap();
    assert_eq!(case.choose().unwrap(), choice, "the draws are pinned");
}

#[test]
fn base_is_never_chosen() {
    let case = Case::new(&[10], &losses(&[BASE, (10, [50.0; 4])]));
    let choice = case.choose().unwrap();
    assert_eq!((choice.step, choice.runner_up), (10, None));
    assert!(choice.reason.contains("no better than the base model"), "{}", choice.reason);
    assert!(choice.reason.contains("no other checkpoint"), "{}", choice.reason);
    let none = Case::new(&[10], &losses(&[(10, [50.0; 4])]));
    none.refuses(&["no base model (step 0)"]);
}

#[test]
fn losses_that_are_not_finite_are_refused() {
    let mut row = losses(&[BASE, (10, [1.0; 4])]);
    row["checkpoints"][1]["rows"][2]["loss"] = Value::Null;
    Case::new(&[10], &row).refuses(&["losses.json", "step 10", "row `r2` is not finite"]);
    let mut mean = losses(&[BASE, (10, [1.0; 4])]);
    mean["checkpoints"][1]["loss"] = Value::Null;
    Case::new(&[10], &mean).refuses(&["step 10: its loss is not finite"]);
}

#[test]
fn losses_of_another_run_are_refused() {
    let two = losses(&[BASE, (10, [1.0; 4]), (20, [2.0; 4])]);
    Case::new(&[10], &two).refuses(&["no checkpoint for step `20`", "hint: run `validate` again"]);
    Case::new(&[10, 20, 30, 40], &two).refuses(&["no loss for step `30`, `40`"]);
    Case::new(&[10, 30], &two).refuses(&["no loss for step `30`; no checkpoint for step `20`"]);
}

#[test]
fn losses_that_contradict_themselves_are_refused() {
    type Edit = fn(&mut Value);
    let cases: [(&str, Edit); 8] = [
        ("it measures the split `test`", |v| v["split"] = "test".into()),
        ("step 10 is there twice", |v| v["checkpoints"][0]["step"] = 10.into()),
        ("it has 4 rows, the whole split has 5", |v| v["rows"] = 5.into()),
        ("rows count 40 tokens, the whole split has 41", |v| v["tokens"] = 41.into()),
        ("row `r1` is there twice", |v| v["checkpoints"][1]["rows"][0]["id"] = "r1".into()),
        ("row 1 is `x` for step 10 but `r0` for step 0", |v| {
            v["checkpoints"][1]["rows"][0]["id"] = "x".into();
        }),
        ("its loss is 3", |v| v["checkpoints"][1]["loss"] = 3.0.into()),
        ("missing field `step`", |v| {
            v["checkpoints"][1].as_object_mut().unwrap().remove("step");
        }),
    ];
    for (part, edit) in cases {
        let mut value = losses(&[BASE, (10, [1.0; 4])]);
        edit(&mut value);
        Case::new(&[10], &value).refuses(&["losses.json", part]);
    }
}

#[test]
fn checkpoints_in_another_form_are_refused() {
    let case = Case::new(&[10], &losses(&[BASE, (10, [1.0; 4])]));
    fs_err::create_dir_all(case.checkpoints().join("20")).unwrap();
    case.refuses(&["is not named by a step of seven digits"]);
    fs_err::remove_dir(case.checkpoints().join("20")).unwrap();
    fs_err::remove_file(case.checkpoints().join("0000010/adapters/adapter_config.json")).unwrap();
    case.refuses(&["0000010", "has no `adapters/adapter_config.json`"]);
}

#[test]
fn one_row_cannot_rule_out_noise() {
    let row = |loss: f64| Row { id: "r".to_owned(), loss, tokens: 1 };
    let checkpoint = |step, loss| Checkpoint { step, loss, tokens: 1, rows: vec![row(loss)] };
    let losses = Losses {
        split: "validation".to_owned(),
        rows: 1,
        tokens: 1,
        checkpoints: vec![checkpoint(0, 3.0), checkpoint(1, 2.0), checkpoint(2, 1.0)],
    };
    let choice = select_best::choose(&losses, Path::new("x"), &Config::default()).unwrap();
    assert!(choice.within_noise);
}

/// Writes an artifact as another stage would have.
fn write_artifact(out: &Path, stage: &str, from: &Path, name: &str) {
    let draft = Draft::new("made-by-hand", KeyMaterial::new(stage, 1, json!({})));
    write_folder(out, &draft, |data| {
        let copied = Command::new("cp").arg("-r").arg(from).arg(data.join(name)).status()?;
        assert!(copied.success());
        Ok(())
    })
    .unwrap();
}

fn program(case: &Case) -> Output {
    let home = case.dir.path();
    if !home.join("train").exists() {
        write_artifact(&home.join("train"), "train", &case.checkpoints(), "checkpoints");
        write_artifact(&home.join("validate"), "validate", &case.losses(), "losses.json");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_select-best"));
    command.args(["--train", "train", "--validate", "validate", "--store", "s"]).current_dir(home);
    command.output().unwrap()
}

#[test]
fn program_publishes_and_hits() {
    let case = Case::new(&[10, 20], &losses(&[BASE, (10, [30.0; 4]), (20, [20.0; 4])]));
    let first = program(&case);
    let stderr = String::from_utf8_lossy(&first.stderr).into_owned();
    assert!(first.status.success() && stderr.contains("step 20 has the lowest"), "{stderr}");
    let path = String::from_utf8(first.stdout.clone()).unwrap();
    let artifact = Artifact::open(&case.dir.path().join(path.trim_end())).unwrap();
    assert_eq!(artifact.manifest().outputs.keys().collect::<Vec<_>>(), ["adapters", "choice.json"]);
    assert_eq!(artifact.manifest().metric("step"), Some(20.0));
    let second = program(&case);
    assert_eq!((second.stdout, second.stderr.len()), (first.stdout, 0));
}

#[test]
fn program_exits_with_65_on_losses_of_another_run() {
    let case = Case::new(&[10], &losses(&[BASE, (10, [1.0; 4]), (20, [2.0; 4])]));
    let output = program(&case);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(65), 0), "{stderr}");
    assert!(stderr.trim_end().lines().last().unwrap().starts_with("hint: run `validate` again"), "{stderr}");
}
