//! Plans and typical errors of the programs, as a person reads them.

use testutil::{Program, Sandbox, filtered};

const MODEL: &str = "tests/golden/gemma3_text";

/// Returns the plan of a stage, with its exit code.
fn plan(program: &mut Program) -> String {
    let ran = program.arg("--plan").run();
    assert_eq!(ran.stdout.lines().count(), usize::from(ran.code == Some(0)), "{}", ran.stdout);
    format!("exit code {}\n{}", ran.code.unwrap_or(-1), filtered(&ran.stderr))
}

#[test]
fn a_plan_says_whether_a_stage_would_run_and_why() {
    let sandbox = Sandbox::new();
    let import = ["--model-dir", MODEL];
    insta::assert_snapshot!(plan(&mut sandbox.stage("import-model", &import)), @r"
    exit code 10
    import-model: would run [HASH]-folder
      no artifact of `import-model` in `[SANDBOX]/artifacts`
    ");
    let model = sandbox.model(MODEL);
    insta::assert_snapshot!(plan(&mut sandbox.stage("import-model", &import)), @r"
    exit code 0
    import-model: up to date [HASH]-folder
    ");

    let prepare = ["--tokenizer", &model, "--data", "data/haw-eng"];
    insta::assert_snapshot!(plan(&mut sandbox.stage("prepare-data", &prepare)), @r"
    exit code 10
    prepare-data: would run [HASH]-group-192t
      no artifact of `prepare-data` in `[SANDBOX]/artifacts`
    ");
    let dataset = sandbox.dataset(&model);
    let changed = [&prepare[..], &["--set", "max_tokens=100"]].concat();
    insta::assert_snapshot!(plan(&mut sandbox.stage("prepare-data", &changed)), @r"
    exit code 10
    prepare-data: would run [HASH]-group-100t
      nearest: [HASH]
      config/max_tokens 192 → 100
    ");

    let inputs = ["--model", &model, "--dataset", &dataset];
    let tight = [&inputs[..], &["--max-memory", "0.001"]].concat();
    let said = plan(&mut sandbox.stage("train", &tight));
    // The estimate depends on the machine; the advice does not.
    assert!(said.starts_with("exit code 10\n") && said.contains("does not fit"), "{said}");
}

#[test]
fn command_lines_and_settings_are_refused_with_a_hint() {
    let sandbox = Sandbox::new();
    let inputs = ["--model", MODEL, "--dataset", "nowhere"];
    let train = |arguments: &[&str]| {
        let mut train = sandbox.stage("train", &[&inputs, arguments].concat());
        train.env("COLUMNS", "100");
        train
    };
    insta::assert_snapshot!(sandbox.refused(&mut train(&["--stop-att", "5"]), 2), @r"
    error: unexpected argument '--stop-att' found

      tip: a similar argument exists: '--stop-at'

    Usage: train --model <ARTIFACT> --dataset <ARTIFACT> --config <FILE> --store <DIR> --stop-at <STEP|I/N>

    For more information, try '--help'.
    ");
    insta::assert_snapshot!(sandbox.refused(&mut train(&["--set", "learning_rat=1e-3"]), 2), @r"
    error: `--set learning_rat=1e-3`: unknown setting `learning_rat` (stage `train`)
    hint: did you mean `learning_rate`?
    ");
    insta::assert_snapshot!(sandbox.refused(&mut train(&["--set", "rank=0", "--set", "dropout=1"]), 2), @r"
    error: 2 settings are wrong:
      `rank` must be at least 1
      `dropout` must be from 0 to below 1
    ");
    insta::assert_snapshot!(sandbox.refused(&mut train(&["--set", "rank=many"]), 2), @r#"error: `--set rank=many`: invalid type: string "many", expected i32"#);
    insta::assert_snapshot!(sandbox.refused(&mut train(&["--set", "optimizer=adamm"]), 2), @"error: `--set optimizer=adamm`: unknown variant `adamm`, expected one of `adam`, `adamw`, `sgd`, `lion`, `adafactor`, `muon`");
}

#[test]
fn an_empty_variable_is_one_that_is_not_set() {
    let sandbox = Sandbox::new();
    let settings = testutil::workspace_root().join(testutil::SMALL_SETTINGS);
    let inside = |program: &str, arguments: &[&str]| {
        let mut program = sandbox.program(testutil::built_programs().join(program));
        program.env("ASHLAR_STORE", "").args(arguments).run()
    };
    let llama = testutil::golden("llama");
    let llama = llama.to_str().expect("the checkout has a UTF-8 path");
    let made = inside("import-model", &["--config", settings.to_str().expect("UTF-8"), "--model-dir", llama]);
    assert!(made.path().starts_with("artifacts"), "{}", made.stdout);
    assert!(inside("artifacts", &["ls"]).succeeded().contains("import-model"));
    assert!(inside("artifacts", &["path", "import-model"]).succeeded().starts_with("artifacts/import-model"));
    let asked: [(&str, &[&str], &str); 4] = [
        ("generate", &["--model", "nowhere", "--prompt", "x"], "artifact `nowhere` does not exist"),
        ("report", &["data", "nowhere"], "artifact `nowhere` does not exist"),
        ("report", &["compare", "nowhere"], "nowhere"),
        ("upload", &["--model", "nowhere", "--id", "a/b"], "artifact `nowhere` does not exist"),
    ];
    for (program, arguments, said) in asked {
        let refused = inside(program, arguments).failed(65);
        assert!(refused.contains(said), "{program} {arguments:?}: {refused}");
    }
}

#[test]
fn a_store_that_is_a_file_is_named() {
    let sandbox = Sandbox::new();
    sandbox.write("file", "mine");
    let refused = |program: &str, arguments: &[&str]| {
        sandbox.program(testutil::built_programs().join(program)).args(arguments).run().failed(2)
    };
    let store = ["--store", "file"];
    let prepare = ["--tokenizer", "t", "--data", "d", "--out", "o1", "--resume-dir", "file"];
    for arguments in [&["--store", "file", "ls"][..], &["pull", "file"]] {
        let said = refused("artifacts", arguments);
        assert!(said.starts_with("error: `file` is not a folder\n"), "{said}");
    }
    let reports = [
        refused("prepare-data", &[&prepare[..4], &store].concat()),
        refused("prepare-data", &prepare),
        refused("prepare-data", &[&prepare[..4], &["--out", "file/below"]].concat()),
        refused("generate", &[&["--model", "nowhere", "--prompt", "x"], &store[..]].concat()),
    ];
    insta::assert_snapshot!(reports.concat(), @"
    error: `file` is not a folder
    hint: choose another path for `--store`
    error: `file` is not a folder
    hint: choose another path for `--resume-dir`
    error: `file` is not a folder
    hint: choose another path for `--out`
    error: opening the model
      caused by: `file` is not a folder
    hint: choose another path for `--store`
    ");
    assert_eq!(sandbox.read("file"), "mine");
    assert!(!sandbox.join("o1").exists());
}

#[test]
fn inputs_are_refused_with_a_hint() {
    let sandbox = Sandbox::new();
    let missing = ["--model", MODEL, "--dataset", "nowhere"];
    insta::assert_snapshot!(sandbox.refused(&mut sandbox.stage("train", &missing), 65), @r"
    error: opening input `tokens`
      caused by: artifact `nowhere` does not exist
    hint: give the folder that a stage printed, or `refs/NAME` for a labelled artifact
    ");
    let folder = ["--model", MODEL, "--dataset", "docs"];
    insta::assert_snapshot!(sandbox.refused(&mut sandbox.stage("train", &folder), 65), @r"
    error: opening input `tokens`
      caused by: `docs` is not an artifact: it has no file `COMMIT`
    hint: give the folder that a stage printed
    ");
    let model = sandbox.model(MODEL);
    let other = ["--model", MODEL, "--dataset", &model];
    insta::assert_snapshot!(sandbox.refused(&mut sandbox.stage("train", &other), 65), @r"
    error: opening input `tokens`
      caused by: `[SANDBOX]/artifacts/import-model/[HASH]-folder` (made by `import-model`) has no output `tokens`, only `import.json`, `model`, `tokenizer`
    hint: give the artifact of a stage that makes `tokens`
    ");
    let rows = sandbox.write("rows.jsonl", "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": \n");
    let rows = rows.to_string_lossy();
    let prepare = ["--tokenizer", MODEL, "--set", "source=[\"rows.jsonl\"]", "--data", &rows];
    insta::assert_snapshot!(sandbox.refused(&mut sandbox.stage("prepare-data", &prepare), 65), @r#"
    error: making the dataset
      caused by: [SANDBOX]/rows.jsonl:2:11: not JSON: EOF while parsing a value
    hint: correct the line, or set `on_bad_row = "skip"` to leave such rows out
    "#);
    let import = ["--model-dir", "docs"];
    insta::assert_snapshot!(sandbox.refused(&mut sandbox.stage("import-model", &import), 65), @r"
    error: `docs`: no weights: expected `model.safetensors`, or shards and `model.safetensors.index.json`
    hint: give a folder in the Hugging Face layout: `config.json`, `tokenizer.json` and `model*.safetensors`
    ");
}
