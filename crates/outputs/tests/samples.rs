//! A pinned sample of every file: reading and writing it reproduces its bytes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use outputs::{
    Choice, Document, Error, FusionCost, Import, Line, Losses, MetricsLine, Prediction, Scores, Stats,
    Summary, TokenLosses,
};

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples").join(name)
}

/// Reads a sample, writes it, and returns both texts.
#[track_caller]
fn check_document<T: Document>(name: &str) {
    let folder = tempfile::tempdir().unwrap();
    T::read(&sample(name)).unwrap().write(folder.path()).unwrap();
    let written = fs_err::read_to_string(folder.path().join(T::FILE)).unwrap();
    assert_eq!(written, fs_err::read_to_string(sample(name)).unwrap(), "{name}");
}

#[track_caller]
fn check_lines<T: Line>(name: &str) {
    let folder = tempfile::tempdir().unwrap();
    T::write_all::<Error>(folder.path(), T::read(&sample(name)).unwrap()).unwrap();
    let written = fs_err::read_to_string(folder.path().join(T::FILE)).unwrap();
    assert_eq!(written, fs_err::read_to_string(sample(name)).unwrap(), "{name}");
}

#[test]
fn documents_keep_their_bytes() {
    check_document::<Import>("import.json");
    check_document::<Import>("import-hub.json");
    check_document::<Stats>("stats.json");
    check_document::<Summary>("summary.json");
    check_document::<Summary>("summary-early.json");
    check_document::<Losses>("losses.json");
    check_document::<Choice>("choice.json");
    check_document::<Choice>("choice-alone.json");
    check_document::<FusionCost>("fuse.json");
    check_document::<FusionCost>("fuse-alone.json");
    check_document::<Scores>("metrics.json");
    check_document::<Scores>("metrics-nothing-generated.json");
}

#[test]
fn json_lines_keep_their_bytes() {
    check_lines::<MetricsLine>("metrics.jsonl");
    check_lines::<Prediction>("predictions.jsonl");
    check_lines::<TokenLosses>("token_losses.jsonl");
}

#[test]
fn every_sample_is_checked() {
    let source = include_str!("samples.rs");
    for entry in fs_err::read_dir(sample("")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(source.contains(&format!("(\"{name}\")")), "no test reads `{name}`");
    }
}
