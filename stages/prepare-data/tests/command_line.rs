//! The program: stdout is one path; bad input exits with 65 and names file, place and a remedy.

use std::path::Path;

use insta::assert_snapshot;
use testutil::{Program, Ran, Sandbox, filtered, golden};

fn prepare_data(sandbox: &Sandbox, tokenizer: &Path, data: &str, settings: &str) -> Program {
    let config = sandbox.write("settings.toml", format!("[prepare-data]\n{settings}\n"));
    let mut program = sandbox.program(env!("CARGO_BIN_EXE_prepare-data"));
    program.arg("--tokenizer").arg(tokenizer).args(["--data", data, "--config"]).arg(config);
    program
}

fn run(sandbox: &Sandbox, data: &str, settings: &str) -> Ran {
    prepare_data(sandbox, &golden("gemma3_text"), data, settings).run()
}

/// Runs with input or settings that must be refused, and returns stderr.
#[track_caller]
fn refused(sandbox: &Sandbox, data: &str, settings: &str, code: i32) -> String {
    let mut program = prepare_data(sandbox, &golden("gemma3_text"), data, settings);
    sandbox.refused(&mut program, code)
}

fn pairs(rows: usize) -> String {
    let line = |row: usize| format!("{{\"prompt\":\"q{row}\",\"completion\":\"a{row}\"}}\n");
    (0..rows).map(line).collect::<Vec<_>>().concat()
}

#[test]
fn a_dataset_is_published_once_and_found_again() {
    let sandbox = Sandbox::new();
    sandbox.write("pairs.jsonl", pairs(20));
    let first = run(&sandbox, "pairs.jsonl", "");
    let artifact = sandbox.join(first.path());
    for name in [
        "data/rows/train.jsonl",
        "data/tokens/test.safetensors",
        "data/tokenizer/tokenizer.json",
        "data/stats.json",
    ] {
        assert!(artifact.join(name).is_file(), "{name}");
    }
    assert_snapshot!(filtered(&first.stderr), @"prepare-data: 16 training, 2 validation and 2 test rows in [TIME]");
    assert_eq!(run(&sandbox, "pairs.jsonl", "").path(), first.path());
    let plan = prepare_data(&sandbox, &golden("gemma3_text"), "pairs.jsonl", "").arg("--plan").run();
    assert_eq!(plan.code, Some(0));
}

#[test]
fn absurd_numbers_of_threads_are_refused_and_too_many_become_one() {
    let sandbox = Sandbox::new();
    sandbox.write("pairs.jsonl", pairs(20));
    let mut program = prepare_data(&sandbox, &golden("gemma3_text"), "pairs.jsonl", "");
    let said = sandbox.refused(program.env("RAYON_NUM_THREADS", "99999999"), 2);
    assert!(said.contains("`RAYON_NUM_THREADS` is `99999999`, expected a number of threads"), "{said}");
    if cfg!(target_os = "linux") {
        let mut limited = sandbox.program("sh");
        limited.args(["-c", "ulimit -v 1500000 && exec \"$@\"", "sh", env!("CARGO_BIN_EXE_prepare-data")]);
        limited.arg("--tokenizer").arg(golden("gemma3_text")).args(["--data", "pairs.jsonl"]);
        let ran = limited.env("RAYON_NUM_THREADS", "1000").run();
        assert!(ran.stderr.contains("the system does not allow 1000 threads"), "{}", ran.stderr);
        assert_eq!(ran.path(), run(&sandbox, "pairs.jsonl", "").path());
    }
}

#[test]
fn a_file_beside_the_named_ones_does_not_matter() {
    let sandbox = Sandbox::new();
    sandbox.write("data/pairs.jsonl", pairs(20));
    let settings = "source = ['pairs.jsonl']";
    run(&sandbox, "data", settings).succeeded();
    sandbox.write("data/README.md", "about");
    let plan = prepare_data(&sandbox, &golden("gemma3_text"), "data", settings).arg("--plan").run();
    assert_eq!(plan.code, Some(0));
}

#[test]
fn names_of_components_and_template_arguments_may_have_capitals_and_hyphens() {
    let sandbox = Sandbox::new();
    sandbox.write("pairs.jsonl", pairs(20));
    let settings = "template_arguments = { enableThinking = true }\nmixture.Haw-1.files = ['pairs.jsonl']";
    run(&sandbox, "pairs.jsonl", settings).succeeded();
}

#[test]
fn one_artifact_is_written_to_a_folder() {
    let sandbox = Sandbox::new();
    sandbox.write("pairs.jsonl", pairs(20));
    prepare_data(&sandbox, &golden("gemma3_text"), "pairs.jsonl", "")
        .args(["--out", "made"])
        .run()
        .succeeded();
    assert!(sandbox.join("made/data/rows/train.jsonl").is_file());
}

#[test]
fn missing_and_unreadable_files_are_named() {
    let sandbox = Sandbox::new();
    assert_snapshot!(refused(&sandbox, "nowhere.jsonl", "", 65), @"
    error: finding the data files
      caused by: failed to open file `nowhere.jsonl`
      caused by: No such file or directory (os error 2)
    hint: check that `nowhere.jsonl` is the right path
    ");
    sandbox.write("data/pairs.jsonl", pairs(20));
    assert_snapshot!(refused(&sandbox, "data", "source = ['pears.jsonl']", 65), @"
    error: finding the data files
      caused by: the settings name the file `pears.jsonl`, which is not in `data`
    hint: give its folder with `--data`, or correct the name in the settings
    ");
    sandbox.write("texts/pairs.txt", pairs(20));
    assert_snapshot!(refused(&sandbox, "texts", "", 65), @"
    error: finding the data files
      caused by: no `.jsonl`, `.json`, `.csv` or `.tsv` file in `texts`
    hint: give data files with `--data`, or name files of other endings with the setting `source`
    ");
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("loop.jsonl", sandbox.join("loop.jsonl")).unwrap();
        let said = refused(&sandbox, "loop.jsonl", "", 65);
        assert!(said.contains("`loop.jsonl`") && said.contains("\nhint: "), "{said}");
    }
}

#[test]
fn a_malformed_line_is_named() {
    let sandbox = Sandbox::new();
    sandbox.write("pairs.jsonl", pairs(3) + "{\"prompt\": \"x\",, }\n" + &pairs(3));
    assert_snapshot!(refused(&sandbox, "pairs.jsonl", "", 65), @r#"
    error: making the dataset
      caused by: pairs.jsonl:4:16: not JSON: key must be a string
    hint: correct the line, or set `on_bad_row = "skip"` to leave such rows out
    "#);
}

#[test]
fn a_row_without_a_known_shape_is_named() {
    let sandbox = Sandbox::new();
    sandbox.write("rows.csv", "question,answer\nq,a\n");
    assert_snapshot!(refused(&sandbox, "rows.csv", "", 65), @r#"
    error: making the dataset
      caused by: rows.csv:2: no known shape; the fields are `question`, `answer`
    hint: a row needs `messages`, `prompt` and `completion`, or `text`; for other names use templates, such as `prompt = "{question}"` and `completion = "{answer}"`
    "#);
    assert_snapshot!(refused(&sandbox, "rows.csv", "prompt = '{ask}'\ncompletion = '{answer}'", 65), @"
    error: making the dataset
      caused by: rows.csv:2: the field `ask` has no value
    hint: the row has the fields `question`, `answer`; correct the name in the template
    ");
}

#[test]
fn a_table_with_too_few_cells_or_an_open_quote_is_named() {
    let sandbox = Sandbox::new();
    sandbox.write("rows.csv", "prompt,completion\na\n");
    assert_snapshot!(refused(&sandbox, "rows.csv", "", 65), @"
    error: making the dataset
      caused by: rows.csv:2: 1 cells where the header names 2
    hint: every row needs 2 cells; quote a cell that contains the delimiter, and double each quote inside it
    ");
    sandbox.write("rows.csv", "prompt,completion\na,\"b\nc,d\n");
    assert_snapshot!(refused(&sandbox, "rows.csv", "", 65), @"
    error: making the dataset
      caused by: rows.csv:2: a quote that opens in line 2 is not closed
    hint: close the quote, or double it if it is text
    ");
}

#[test]
fn an_empty_split_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.write("pairs.jsonl", pairs(3));
    assert_snapshot!(refused(&sandbox, "pairs.jsonl", "", 65), @"
    error: making the dataset
      caused by: the split `validation` is empty: 3 rows read
    hint: give more rows, loosen `where` or `max_tokens`, or set `split.validation` to 0
    ");
    let settings = "where = [{ field = 'lang', equals = 'haw' }]";
    assert_snapshot!(refused(&sandbox, "pairs.jsonl", settings, 65), @"
    error: making the dataset
      caused by: the settings name the field `lang`, which no row has
    hint: correct the name in `where`, `hold_out`, `group_fields` or `columns`
    ");
}

#[test]
fn wrong_settings_are_all_named() {
    let sandbox = Sandbox::new();
    sandbox.write("pairs.jsonl", pairs(20));
    let said = refused(&sandbox, "pairs.jsonl", "max_token = 5", 2);
    assert!(said.contains("`max_token`") && said.contains("`max_tokens`"), "{said}");
    let said = refused(&sandbox, "pairs.jsonl", "max_tokens = 1\nprompt = 'x'", 2);
    assert!(said.contains("`max_tokens` must be at least 2"), "{said}");
    assert!(said.contains("`prompt` and `completion` must be set together"), "{said}");
}

#[test]
fn a_template_that_refuses_a_row_names_row_and_line() {
    let sandbox = Sandbox::new();
    let bad = "{\"messages\":[{\"role\":\"assistant\",\"content\":\"first\"}]}\n";
    sandbox.write("chats.jsonl", pairs(30) + bad);
    assert_snapshot!(refused(&sandbox, "chats.jsonl", "", 65), @"
    error: making the dataset
      caused by: chats.jsonl:31: chat template `tokenizer_config.json` line 3: roles must alternate user/assistant
    hint: change the messages to what the template accepts, or change the template
    ");
}

#[test]
fn a_broken_tokenizer_or_template_is_named() {
    let sandbox = Sandbox::new();
    sandbox.write("pairs.jsonl", pairs(20));
    let folder = sandbox.join("tokenizer");
    let tokenizer = fs_err::read(golden("gemma3_text").join("tokenizer.json")).unwrap();
    sandbox.write("tokenizer/tokenizer.json", tokenizer);
    sandbox.write("tokenizer/chat_template.jinja", "ok\n{% if %}");
    let said = sandbox.refused(&mut prepare_data(&sandbox, &folder, "pairs.jsonl", ""), 65);
    assert_snapshot!(said, @"
    error: making the dataset
      caused by: chat template `chat_template.jinja` line 2: syntax error: unexpected end of block
    hint: correct the template in the tokenizer folder
    ");
    sandbox.write("tokenizer/tokenizer.json", "{");
    let said = sandbox.refused(&mut prepare_data(&sandbox, &folder, "pairs.jsonl", ""), 65);
    assert_snapshot!(said, @"
    error: making the dataset
      caused by: tokenizer `[SANDBOX]/tokenizer/tokenizer.json`: EOF while parsing an object at line 1 column 1
    hint: check the tokenizer folder; `tokenizer.json` must be a Hugging Face tokenizer
    ");
}

#[test]
fn a_leak_is_listed() {
    let sandbox = Sandbox::new();
    let text = "o ka ilihau la akolu, o ka laau hau la aha, o ke opu hau la alima";
    sandbox.write("data/train.csv", format!("prompt,completion\n\"A laila: {text}. Pau.\",x\n"));
    sandbox.write("data/test.csv", format!("prompt,completion\n\"{text}\",y\n"));
    assert_snapshot!(refused(&sandbox, "data", "split = { by = 'files' }", 65), @r#"
    error: making the dataset
      caused by: 1 of 1 validation, test and held-out rows occur in training rows:
      test row `test.csv:2` (test.csv:2) contains or is part of training row `train.csv:2` (train.csv:2)
    hint: set `on_leak = "drop"` to leave those training rows out, or split by a group that such rows share
    "#);
    run(&sandbox, "data", "split = { by = 'files' }\non_leak = 'allow'").succeeded();
}

#[test]
fn data_and_settings_that_are_no_files_are_named_and_nothing_waits() {
    let sandbox = Sandbox::new();
    sandbox.write("pairs.jsonl", pairs(20));
    let pipe = sandbox.join("pipe.jsonl");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    fs_err::os::unix::fs::symlink("/dev/zero", sandbox.join("endless.jsonl")).unwrap();
    fs_err::os::unix::fs::symlink("loop.jsonl", sandbox.join("loop.jsonl")).unwrap();
    for name in ["pipe.jsonl", "endless.jsonl", "loop.jsonl", "missing.jsonl"] {
        let ran = run(&sandbox, name, "");
        assert!(ran.code.is_some_and(|code| code != 0 && code != 101), "{name}: {ran:?}");
        assert!(ran.stderr.contains(name), "{name}: {}", ran.stderr);
    }
    for name in ["pipe.jsonl", "endless.jsonl"] {
        let mut program = prepare_data(&sandbox, &golden("gemma3_text"), "pairs.jsonl", "");
        let ran = program.arg("--config").arg(sandbox.join(name)).run();
        assert_eq!(ran.code, Some(2), "{}", ran.stderr);
        assert!(ran.stderr.contains(name), "{}", ran.stderr);
    }
}

#[test]
fn names_with_terminal_escapes_are_escaped() {
    let sandbox = Sandbox::new();
    let name = "rows\u{1b}[2J.jsonl";
    sandbox.write(name, "{\"text\": \"a\", \"t\u{1b}[31m\": 1\n");
    let ran = run(&sandbox, name, "");
    assert_eq!(ran.code, Some(65), "{}", ran.stderr);
    assert!(!ran.stderr.contains('\u{1b}') && ran.stderr.contains("rows\\x1b[2J.jsonl"), "{}", ran.stderr);
}

#[test]
fn too_few_open_files_are_an_error_that_names_a_file() {
    let sandbox = Sandbox::new();
    sandbox.write("pairs.jsonl", pairs(20));
    let mut failures = 0;
    for limit in 8..32 {
        let mut program = sandbox.program("sh");
        let prepare_data = env!("CARGO_BIN_EXE_prepare-data");
        let script = format!("ulimit -n {limit}; exec '{prepare_data}' \"$@\"");
        program.args(["-c", &script, "sh", "--data", "pairs.jsonl", "--out", "out", "--tokenizer"]);
        let ran = program.arg(golden("gemma3_text")).run();
        if ran.code == Some(0) {
            break;
        }
        failures += 1;
        let (error, hint) = ran.stderr.split_once("hint: ").unwrap_or_default();
        assert!(
            error.contains("Too many open files") && hint.contains("ulimit -n"),
            "{limit}: {}",
            ran.stderr
        );
        let names_a_file = |line: &str| line.contains('`') && line.contains(['/', '.']);
        assert!(error.lines().any(names_a_file), "{limit}: {}", ran.stderr);
    }
    assert!(failures > 3, "{failures}");
}

#[test]
fn a_value_that_is_not_a_number_is_refused_with_its_setting() {
    let sandbox = Sandbox::new();
    sandbox.write("pairs.jsonl", pairs(20));
    let stderr = refused(&sandbox, "pairs.jsonl", "template_arguments = { x = nan }", 2);
    assert!(stderr.contains("`template_arguments.x` has a value that is not finite"), "{stderr}");
}

#[test]
fn a_line_break_in_the_name_of_a_file_begins_no_line_of_a_message() {
    let sandbox = Sandbox::new();
    let name = "a\nerror: b.jsonl";
    sandbox.write(name, pairs(2) + "{\n");
    let settings = "on_bad_row = 'skip'\nsplit = { validation = 0, test = 0 }";
    let warned = run(&sandbox, name, settings).stderr;
    sandbox.write(name, "{");
    let failed = refused(&sandbox, name, "", 65);
    for stderr in [warned, failed] {
        assert!(stderr.contains(r"a\x0aerror"), "{stderr}");
        assert!(!stderr.contains("\nerror: b.jsonl"), "{stderr}");
    }
}
