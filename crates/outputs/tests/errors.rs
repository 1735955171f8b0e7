//! Files that are not what their stage writes: the error names the file and the place in it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use outputs::{Choice, Document, Error, Line, Losses, MetricsLine, Prediction, Scores, Summary};
use serde_json::{Value, json};

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples").join(name)
}

/// Returns the error of `read`, which is given a file with `text`, as `stage::main` prints it.
#[track_caller]
fn error_of<T>(text: &str, read: fn(&Path) -> Result<T, Error>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs_err::write(&path, text).unwrap();
    let Err(error) = read(&path) else { panic!("the file must be refused") };
    let error = failure::Error::from(error);
    assert_eq!(error.kind().exit_code(), 65);
    error.report().replace(&folder.path().display().to_string(), "[FOLDER]")
}

fn read_all<T: Line>(path: &Path) -> Result<Vec<T>, Error> {
    T::read(path)?.collect()
}

/// Returns the sample `name` after `edit`.
fn edited(name: &str, edit: impl FnOnce(&mut Value)) -> String {
    let mut value: Value = serde_json::from_slice(&fs_err::read(sample(name)).unwrap()).unwrap();
    edit(&mut value);
    serde_json::to_string_pretty(&value).unwrap()
}

#[test]
fn a_wrong_type_is_named_with_line_and_column() {
    let text = edited("choice.json", |choice| choice["step"] = "150".into());
    insta::assert_snapshot!(error_of(&text, Choice::read), @r#"
    error: `[FOLDER]/file` is not what `select-best` writes
      caused by: invalid type: string "150", expected u64 at line 2 column 15
    "#);
}

#[test]
fn a_missing_field_is_named() {
    let text = edited("summary.json", |summary| {
        summary.as_object_mut().unwrap().remove("trained_tokens");
    });
    insta::assert_snapshot!(error_of(&text, Summary::read), @r"
    error: `[FOLDER]/file` is not what `train` writes
      caused by: missing field `trained_tokens` at line 8 column 1
    ");
}

#[test]
fn null_is_not_a_score() {
    let text = edited("metrics.json", |scores| scores["models"]["base"]["loss"] = Value::Null);
    insta::assert_snapshot!(error_of(&text, Scores::read), @r"
    error: `[FOLDER]/file` is not what `evaluate` writes
      caused by: invalid type: null, expected f64 at line 6 column 18
    ");
}

#[test]
fn text_that_is_not_json_is_refused() {
    insta::assert_snapshot!(error_of("{\"step\": NaN}", Choice::read), @r"
    error: `[FOLDER]/file` is not what `select-best` writes
      caused by: expected value at line 1 column 10
    ");
}

#[test]
fn a_wrong_line_is_named_by_its_number() {
    let text = fs_err::read_to_string(sample("metrics.jsonl")).unwrap();
    let null = text.replace("4.46450919100911", "null");
    insta::assert_snapshot!(error_of(&null, read_all::<MetricsLine>), @r"
    error: `[FOLDER]/file` line 2 is not what `train` writes
      caused by: expected `step` with finite `train_loss` or `validation_loss`
    ");
    let huge = text.replace("4.46450919100911", "1e999");
    insta::assert_snapshot!(error_of(&huge, read_all::<MetricsLine>), @r"
    error: `[FOLDER]/file` line 2 is not what `train` writes
      caused by: number out of range at line 2 column 121
    ");
    insta::assert_snapshot!(error_of("\n{\"id\": 7}\n", read_all::<Prediction>), @r"
    error: `[FOLDER]/file` line 2 is not what `evaluate` writes
      caused by: invalid type: integer `7`, expected a string at line 2 column 8
    ");
}

#[test]
fn scores_name_a_model() {
    let text = edited("metrics.json", |scores| scores["models"] = json!({}));
    insta::assert_snapshot!(error_of(&text, Scores::read), @"error: `[FOLDER]/file`: it names no model");
}

#[test]
fn losses_that_contradict_each_other_are_named_by_step_and_row() {
    let edits: [fn(&mut Value); 9] = [
        |losses| losses["rows"] = 5.into(),
        |losses| losses["tokens"] = 41.into(),
        |losses| losses["checkpoints"][0]["step"] = 30.into(),
        |losses| losses["checkpoints"][1]["loss"] = 3.0.into(),
        |losses| losses["checkpoints"][1]["loss"] = Value::Null,
        |losses| losses["checkpoints"][1]["rows"][1]["loss"] = Value::Null,
        |losses| losses["checkpoints"][1]["rows"][0]["id"] = "f1-0319".into(),
        |losses| losses["checkpoints"][1]["rows"][0]["id"] = "x".into(),
        |losses| {
            losses["checkpoints"][1]["rows"][0]["tokens"] = 15.into();
            losses["checkpoints"][1]["rows"][1]["tokens"] = 23.into();
        },
    ];
    let errors: Vec<String> =
        edits.iter().map(|edit| error_of(&edited("losses.json", edit), Losses::read)).collect();
    insta::assert_snapshot!(errors.join("\n"), @r"
    error: `[FOLDER]/file`: step 0: it has 2 rows, the whole split has 5
    error: `[FOLDER]/file`: step 0: its rows have 38 targets, the whole split has 41
    error: `[FOLDER]/file`: step 30 occurs twice
    error: `[FOLDER]/file`: step 30: its loss is 3, but the mean over its rows is 4.261917158177025
    error: `[FOLDER]/file`: step 30: its loss is not finite
    error: `[FOLDER]/file`: step 30: the loss of row `f1-0319` is not finite
    error: `[FOLDER]/file`: step 30: row `f1-0319` occurs twice
    error: `[FOLDER]/file`: row 1 is `x` for step 30 but `f1-0317` for step 0
    error: `[FOLDER]/file`: row `f1-0317` has 15 targets for step 30 but 14 for step 0
    ");
    let text = edited("losses.json", |losses| losses["checkpoints"][0]["rows"] = json!([]));
    insta::assert_snapshot!(error_of(&text, Losses::read), @"error: `[FOLDER]/file`: step 0: it has no rows");
}

#[test]
fn a_missing_file_is_named() {
    let error = failure::Error::from(Choice::read(Path::new("/nowhere/choice.json")).unwrap_err());
    assert_eq!(error.kind().exit_code(), 65);
    insta::assert_snapshot!(error.report(), @"
    error: failed to open file `/nowhere/choice.json`
      caused by: No such file or directory (os error 2)
    ");
    assert!(Choice::read_if_present(Path::new("/nowhere")).unwrap().is_none());
}

#[test]
fn what_is_not_finite_is_never_written() {
    let folder = tempfile::tempdir().unwrap();
    let text = fs_err::read(sample("metrics.json")).unwrap();
    let mut scores: Scores = serde_json::from_slice(&text).unwrap();
    let name = scores.models.keys().next().unwrap().clone();
    scores.models[&name].loss = Some(f64::NAN);
    let error = failure::Error::from(scores.write(folder.path()).unwrap_err());
    let place = format!("`models.{name}.loss` in `{}`", folder.path().join(Scores::FILE).display());
    assert!(error.report().contains(&place), "{}", error.report());
    assert!(!folder.path().join(Scores::FILE).exists());
    // A text score, and a number in a file of lines.
    scores.models[&name].loss = Some(1.0);
    scores.models[&name].text.insert("chrf".to_owned(), f64::INFINITY);
    assert!(scores.write(folder.path()).is_err());
    let line = outputs::ValidationLine { validation_loss: f64::NAN, ..outputs::ValidationLine::default() };
    let lines = [Ok::<_, Error>(MetricsLine::Validation(line))];
    assert!(MetricsLine::write_all(folder.path(), lines).is_err());
}
