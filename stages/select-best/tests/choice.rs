//! Choosing among hand-made checkpoints, as a library and as a program.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use artifact::{Artifact, Draft, KeyMaterial, write_folder};
use outputs::{CheckpointLosses, Choice, Document, Losses, NamedRowLoss};
use select_best::Config;
use serde_json::{Value, json};
use testutil::{Program, Sandbox};

/// Makes losses from the losses of four rows of ten targets for each step.
fn losses(steps: &[(u64, [f64; 4])]) -> Losses {
    let checkpoint = |(step, rows): &(u64, [f64; 4])| {
        let rows = (0..).zip(rows).map(|(row, &loss)| NamedRowLoss {
            id: format!("r{row}"),
            loss,
            tokens: 10,
            ..NamedRowLoss::default()
        });
        CheckpointLosses::new(*step, rows.collect())
    };
    let checkpoints = steps.iter().map(checkpoint).collect();
    Losses { split: "validation".to_owned(), rows: 4, tokens: 40, checkpoints }
}

/// Checkpoints and losses in a sandbox.
struct Case {
    sandbox: Sandbox,
}

impl Case {
    fn new(trained: &[u64], losses: &Losses) -> Self {
        let sandbox = Sandbox::new();
        for step in trained {
            let adapters = format!("checkpoints/{step:07}/adapters");
            sandbox.write(&format!("{adapters}/adapter_config.json"), "{}\n");
            sandbox.write(&format!("{adapters}/adapters.safetensors"), safetensors(*step));
        }
        losses.write(sandbox.path()).unwrap();
        fs_err::create_dir(sandbox.join("out")).unwrap();
        Self { sandbox }
    }

    fn checkpoints(&self) -> PathBuf {
        self.sandbox.join("checkpoints")
    }

    fn out(&self) -> PathBuf {
        self.sandbox.join("out")
    }

    fn choose(&self) -> Result<Choice, select_best::Error> {
        let losses = self.sandbox.join(outputs::LOSSES);
        let checkpoints = self.checkpoints();
        let inputs =
            select_best::Inputs { checkpoints: &checkpoints, losses: &losses, answers: None, origin: None };
        select_best::run(inputs, &Config::default(), &self.out())
    }

    /// Returns the error as the program prints it.
    #[track_caller]
    fn refused(&self) -> String {
        let error = failure::Error::from(self.choose().unwrap_err());
        assert_eq!(error.kind().exit_code(), 65);
        assert_eq!(fs_err::read_dir(self.out()).unwrap().count(), 0);
        testutil::filtered(&error.report())
    }
}

/// Makes a file with one float, the step.
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
    assert_eq!(Choice::read(&case.out().join(outputs::CHOICE)).unwrap(), choice);
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
    insta::assert_snapshot!(none.refused(), @"error: `[SANDBOX]/losses.json`: it has no base model (step 0)");
}

#[test]
fn losses_of_another_run_are_refused() {
    let two = losses(&[BASE, (10, [1.0; 4]), (20, [2.0; 4])]);
    let errors = [&[10][..], &[10, 20, 30, 40], &[10, 30]].map(|trained| Case::new(trained, &two).refused());
    insta::assert_snapshot!(errors.join("\n"), @r"
    error: the losses are not of these checkpoints: no checkpoint for step `20`
    hint: run `validate` again with the same `--train` artifact
    error: the losses are not of these checkpoints: no loss for step `30`, `40`
    hint: run `validate` again with the same `--train` artifact
    error: the losses are not of these checkpoints: no loss for step `30`; no checkpoint for step `20`
    hint: run `validate` again with the same `--train` artifact
    ");
}

#[test]
fn losses_that_contradict_each_other_are_refused() {
    let case = Case::new(&[10], &losses(&[BASE, (10, [1.0; 4])]));
    let text = case.sandbox.read(outputs::LOSSES);
    let edits: [fn(&mut Value); 4] = [
        |losses| losses["split"] = "test".into(),
        |losses| losses["rows"] = 5.into(),
        |losses| losses["checkpoints"][1]["rows"][2]["loss"] = Value::Null,
        |losses| {
            losses["checkpoints"][1].as_object_mut().unwrap().remove("step");
        },
    ];
    let errors = edits.map(|edit| {
        let mut losses: Value = serde_json::from_str(&text).unwrap();
        edit(&mut losses);
        case.sandbox.write(outputs::LOSSES, serde_json::to_string_pretty(&losses).unwrap());
        case.refused()
    });
    insta::assert_snapshot!(errors.join("\n"), @r"
    error: `[SANDBOX]/losses.json`: its losses are those of the split `test`, but a choice needs `validation`
    error: `[SANDBOX]/losses.json`: step 0: it has 4 rows, the whole split has 5
    error: `[SANDBOX]/losses.json`: step 10: the loss of row `r2` is not finite
    error: `[SANDBOX]/losses.json` is not what `validate` writes
      caused by: missing field `step` at line 60 column 5
    ");
}

#[test]
fn checkpoints_in_another_form_are_refused() {
    let case = Case::new(&[10], &losses(&[BASE, (10, [1.0; 4])]));
    fs_err::create_dir_all(case.checkpoints().join("20")).unwrap();
    insta::assert_snapshot!(case.refused(), @"error: `[SANDBOX]/checkpoints/20`: it is not a folder named after a step in seven digits");
    fs_err::remove_dir(case.checkpoints().join("20")).unwrap();
    fs_err::remove_file(case.checkpoints().join("0000010/adapters/adapter_config.json")).unwrap();
    insta::assert_snapshot!(case.refused(), @"error: checkpoint `[SANDBOX]/checkpoints/0000010` has no `adapters/adapter_config.json`");
}

#[test]
fn rows_of_a_group_are_drawn_together() {
    // Six groups of ten equal rows: step 20 is better in four of them and worse in two.
    let checkpoint = |step, grouped: bool, of_group: [f64; 6]| {
        let row = |index: usize| NamedRowLoss {
            group: grouped.then(|| format!("story {}", index / 10)),
            id: format!("r{index}"),
            loss: of_group[index / 10],
            tokens: 10,
        };
        CheckpointLosses::new(step, (0..60).map(row).collect())
    };
    let choose = |grouped: bool| {
        let checkpoint = |step, of_group| checkpoint(step, grouped, of_group);
        let checkpoints = vec![
            checkpoint(0, [40.0; 6]),
            checkpoint(10, [30.0; 6]),
            checkpoint(20, [28.0, 28.0, 31.0, 28.0, 31.0, 28.0]),
        ];
        let losses = Losses { split: "validation".to_owned(), rows: 60, tokens: 600, checkpoints };
        select_best::choose(&losses, Path::new("x"), &Config::default()).unwrap()
    };
    let (rows, groups) = (choose(false), choose(true));
    assert_eq!((rows.step, rows.within_noise), (20, false), "{}", rows.reason);
    assert_eq!((groups.step, groups.within_noise), (20, true), "{}", groups.reason);
}

#[test]
fn one_row_cannot_rule_out_noise() {
    let checkpoint = |step, loss| {
        CheckpointLosses::new(
            step,
            vec![NamedRowLoss { id: "r".to_owned(), loss, tokens: 1, ..NamedRowLoss::default() }],
        )
    };
    let losses = Losses {
        split: "validation".to_owned(),
        rows: 1,
        tokens: 1,
        checkpoints: vec![checkpoint(0, 3.0), checkpoint(1, 2.0), checkpoint(2, 1.0)],
    };
    let choice = select_best::choose(&losses, Path::new("x"), &Config::default()).unwrap();
    assert!(choice.within_noise);
}

/// Publishes a file or folder of the sandbox as the artifact of a stage.
fn publish(case: &Case, stage: &str, output: &str) {
    let draft = Draft::new("made-by-hand", KeyMaterial::new(stage, 1, json!({})));
    write_folder(&case.sandbox.join(stage), &draft, |data| {
        Program::new("cp").arg("-r").arg(case.sandbox.join(output)).arg(data).run().succeeded();
        Ok(())
    })
    .unwrap();
}

fn program(case: &Case) -> Program {
    let mut program = case.sandbox.program(env!("CARGO_BIN_EXE_select-best"));
    program.args(["--train", "train", "--validate", "validate"]);
    program
}

#[test]
fn the_program_publishes_once() {
    let case = Case::new(&[10, 20], &losses(&[BASE, (10, [30.0; 4]), (20, [20.0; 4])]));
    publish(&case, "train", outputs::CHECKPOINTS);
    publish(&case, "validate", outputs::LOSSES);
    let first = program(&case).run();
    insta::assert_snapshot!(testutil::filtered(&first.stderr), @r"
    step 20 has the lowest validation loss, 2.0000; step 10 follows 1.0000 behind (95% interval 1.0000 to 1.0000): beyond noise; the base model has 4.1500
    select-best: step 20, validation loss 2.0000 in [TIME]
    ");
    let artifact = Artifact::open(&case.sandbox.join(first.path())).unwrap();
    assert_eq!(artifact.manifest().outputs.keys().collect::<Vec<_>>(), ["adapters", "choice.json"]);
    assert_eq!(artifact.manifest().metric("step"), Some(20.0));
    let second = program(&case).run();
    assert_eq!(second.stdout, first.stdout);
    second.says(&["select-best: up to date"]);
}

#[test]
fn the_program_exits_with_65_on_losses_of_another_run() {
    let case = Case::new(&[10], &losses(&[BASE, (10, [1.0; 4]), (20, [2.0; 4])]));
    publish(&case, "train", outputs::CHECKPOINTS);
    publish(&case, "validate", outputs::LOSSES);
    insta::assert_snapshot!(case.sandbox.refused(&mut program(&case), 65), @r"
    error: choosing a checkpoint
      caused by: the losses are not of these checkpoints: no checkpoint for step `20`
    hint: run `validate` again with the same `--train` artifact
    ");
}

#[test]
fn help_and_version() {
    let sandbox = Sandbox::new();
    let version = sandbox.program(env!("CARGO_BIN_EXE_select-best")).arg("--version").run();
    assert_eq!(version.succeeded(), concat!("select-best ", env!("CARGO_PKG_VERSION"), "\n"));
    let help = sandbox.program(env!("CARGO_BIN_EXE_select-best")).arg("-h").run();
    let own = help.succeeded().split("\nCommon options:").next().unwrap();
    insta::assert_snapshot!(own, @"
    Choose the checkpoint with the lowest loss, or the best answers, on the validation split

    Usage: select-best [OPTIONS] --train <ARTIFACT> --validate <ARTIFACT>

    Options:
          --train <ARTIFACT>     Artifact of `train` with the checkpoints
          --validate <ARTIFACT>  Artifact of `validate` with their losses, and perhaps answers
          --model <ARTIFACT>     Artifact of `import-model` with the base model, to name it in the
                                 settings of the adapters
      -h, --help                 Print help
      -V, --version              Print version
    ");
}

#[test]
fn adapters_name_a_base_from_the_hub_and_the_checkpoint_keeps_its_file() {
    let case = Case::new(&[10], &losses(&[BASE, (10, [10.0; 4])]));
    let origin = |source: Value| {
        let record = json!({"source": source, "kept": [], "dropped": {}});
        case.sandbox.write("import.json", record.to_string())
    };
    let settings = |origin: PathBuf| -> Value {
        let (losses, checkpoints) = (case.sandbox.join(outputs::LOSSES), case.checkpoints());
        let inputs = select_best::Inputs {
            checkpoints: &checkpoints,
            losses: &losses,
            answers: None,
            origin: Some(&origin),
        };
        select_best::run(inputs, &Config::default(), &case.out()).unwrap();
        serde_json::from_str(&case.sandbox.read("out/adapters/adapter_config.json")).unwrap()
    };
    let hub = origin(json!({"type": "hub", "id": "org/base", "commit": "c0ffee"}));
    assert_eq!(settings(hub), json!({"base_model_name_or_path": "org/base", "revision": "c0ffee"}));
    assert_eq!(case.sandbox.read("checkpoints/0000010/adapters/adapter_config.json"), "{}\n");
    fs_err::remove_dir_all(case.out()).unwrap();
    fs_err::create_dir(case.out()).unwrap();
    assert_eq!(settings(origin(json!({"type": "folder"}))), json!({}));
}
