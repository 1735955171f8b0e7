//! The program: stdout holds only the path; bad input exits with 65 and names file, place and remedy.

#![expect(clippy::unwrap_used, reason = "a failing helper fails its test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(&path, text).unwrap();
        path
    }

    fn run_with(&self, tokenizer: &Path, data: &str, settings: &str, more: &[&str]) -> Output {
        let config = self.write("settings.toml", format!("[prepare-data]\n{settings}\n"));
        Command::new(env!("CARGO_BIN_EXE_prepare-data"))
            .current_dir(self.folder.path())
            .env_remove("ASHLAR_STORE")
            .arg("--tokenizer")
            .arg(tokenizer)
            .args(["--data", data, "--config"])
            .arg(config)
            .args(more)
            .output()
            .unwrap()
    }

    fn run(&self, data: &str, settings: &str) -> Output {
        self.run_with(&golden(), data, settings, &[])
    }

    /// Runs with input that must be refused, and returns what was said.
    fn refused(&self, output: &Output, code: i32) -> String {
        let said = String::from_utf8(output.stderr.clone()).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(output.stdout.is_empty());
        let published = self.folder.path().join("artifacts/prepare-data");
        let artifacts = fs_err::read_dir(published).map_or(0, Iterator::count);
        assert_eq!(artifacts, 0, "nothing is published");
        said
    }
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/gemma3_text")
}

fn pairs(rows: usize) -> String {
    let lines: Vec<_> =
        (0..rows).map(|row| format!("{{\"prompt\":\"q{row}\",\"completion\":\"a{row}\"}}\n")).collect();
    lines.concat()
}

#[track_caller]
fn says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "`{part}` is not in:\n{said}");
    }
}

#[test]
fn a_dataset_is_published_once_and_found_again() {
    let place = Place::new();
    place.write("pairs.jsonl", pairs(20));
    let first = place.run("pairs.jsonl", "");
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    let path = String::from_utf8(first.stdout.clone()).unwrap();
    assert_eq!(path.lines().count(), 1);
    let artifact = place.folder.path().join(path.trim());
    for name in [
        "data/rows/train.jsonl",
        "data/tokens/test.safetensors",
        "data/tokenizer/tokenizer.json",
        "data/stats.json",
    ] {
        assert!(artifact.join(name).is_file(), "{name}");
    }
    assert_eq!(place.run("pairs.jsonl", "").stdout, first.stdout);
    let plan = place.run_with(&golden(), "pairs.jsonl", "", &["--plan"]);
    assert_eq!(plan.status.code(), Some(0));
}

#[test]
fn a_file_beside_the_named_ones_does_not_matter() {
    let place = Place::new();
    place.write("data/pairs.jsonl", pairs(20));
    let settings = "source = ['pairs.jsonl']";
    let first = place.run("data", settings);
    place.write("data/README.md", "about");
    let plan = place.run_with(&golden(), "data", settings, &["--plan"]);
    assert_eq!((first.status.code(), plan.status.code()), (Some(0), Some(0)));
}

#[test]
fn one_artifact_is_written_to_a_folder() {
    let place = Place::new();
    place.write("pairs.jsonl", pairs(20));
    let output = place.run_with(&golden(), "pairs.jsonl", "", &["--out", "made"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(place.folder.path().join("made/data/rows/train.jsonl").is_file());
}

#[test]
fn missing_and_unreadable_files_are_named() {
    let place = Place::new();
    let said = place.refused(&place.run("nowhere.jsonl", ""), 65);
    says(&said, &["nowhere.jsonl", "No such file", "hint: check that `nowhere.jsonl` is the right path"]);
    place.write("data/pairs.jsonl", pairs(20));
    let said = place.refused(&place.run("data", "source = ['pears.jsonl']"), 65);
    says(&said, &["the file `pears.jsonl`", "not in `data`", "hint: "]);
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("loop.jsonl", place.folder.path().join("loop.jsonl")).unwrap();
        says(&place.refused(&place.run("loop.jsonl", ""), 65), &["loop.jsonl", "hint: "]);
    }
}

#[test]
fn a_malformed_line_is_named() {
    let place = Place::new();
    place.write("pairs.jsonl", pairs(3) + "{\"prompt\": \"x\",, }\n" + &pairs(3));
    let said = place.refused(&place.run("pairs.jsonl", ""), 65);
    says(&said, &["pairs.jsonl:4:16: not JSON: ", "hint: correct the line, or set `on_bad_row = \"skip\"`"]);
}

#[test]
fn a_row_without_a_known_shape_is_named() {
    let place = Place::new();
    place.write("rows.csv", "question,answer\nq,a\n");
    let said = place.refused(&place.run("rows.csv", ""), 65);
    says(
        &said,
        &["rows.csv:2: no known shape; the fields are `question`, `answer`", "hint: a row needs `messages`"],
    );
}

#[test]
fn an_empty_split_is_refused() {
    let place = Place::new();
    place.write("pairs.jsonl", pairs(3));
    let said = place.refused(&place.run("pairs.jsonl", ""), 65);
    says(&said, &["the split `validation` is empty: 3 rows read", "hint: give more rows"]);
    let said = place.refused(&place.run("pairs.jsonl", "where = [{ field = 'lang', equals = 'haw' }]"), 65);
    says(&said, &["the field `lang`, which no row has", "hint: correct the name"]);
}

#[test]
fn an_unknown_setting_names_the_nearest() {
    let place = Place::new();
    place.write("pairs.jsonl", pairs(20));
    let said = place.refused(&place.run("pairs.jsonl", "max_token = 5"), 2);
    says(&said, &["max_token", "max_tokens"]);
    let said = place.refused(&place.run("pairs.jsonl", "max_tokens = 1\nprompt = 'x'"), 2);
    says(&said, &["`max_tokens` is at least 2", "`prompt` and `completion` go together"]);
}

#[test]
fn a_template_that_refuses_a_row_names_row_and_line() {
    let place = Place::new();
    let bad = "{\"messages\":[{\"role\":\"assistant\",\"content\":\"first\"}]}\n";
    place.write("chats.jsonl", pairs(30) + bad);
    let said = place.refused(&place.run("chats.jsonl", ""), 65);
    says(
        &said,
        &[
            "chats.jsonl:31: chat template `tokenizer_config.json` line 3: roles must alternate",
            "hint: change the messages",
        ],
    );
}

#[test]
fn a_broken_tokenizer_or_template_is_named() {
    let place = Place::new();
    place.write("pairs.jsonl", pairs(20));
    let folder = place.folder.path().join("tokenizer");
    place.write("tokenizer/tokenizer.json", fs_err::read(golden().join("tokenizer.json")).unwrap());
    place.write("tokenizer/chat_template.jinja", "ok\n{% if %}");
    let said = place.refused(&place.run_with(&folder, "pairs.jsonl", "", &[]), 65);
    says(&said, &["chat template `chat_template.jinja` line 2: syntax error", "hint: correct the template"]);
    place.write("tokenizer/tokenizer.json", "{");
    says(&place.refused(&place.run_with(&folder, "pairs.jsonl", "", &[]), 65), &["tokenizer/tokenizer.json"]);
}

#[test]
fn a_leak_is_listed() {
    let place = Place::new();
    let text = "o ka ilihau la akolu, o ka laau hau la aha, o ke opu hau la alima";
    place.write("data/train.csv", format!("prompt,completion\n\"A laila: {text}. Pau.\",x\n"));
    place.write("data/test.csv", format!("prompt,completion\n\"{text}\",y\n"));
    let said = place.refused(&place.run("data", "split = { by = 'files' }"), 65);
    says(
        &said,
        &["test row `test.csv:2`", "contained 100 % with training row `train.csv:2`", "hint: ", "on_leak"],
    );
    let output = place.run("data", "split = { by = 'files' }\non_leak = 'allow'");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
