//! Pipes, devices, folders, loops of links and endless files in place of a model's files: nothing waits, and the file is named.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly, its helpers too")]

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use import_model::{Config, Unwatched, hub};
use rustix::fs::{CWD, Mode, mkfifoat};
use testutil::files::{copy_files, golden_dir};

/// Files that an import looks at, and the error of a run names.
const NAMES: [&str; 8] = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "added_tokens.json",
];
const KINDS: [fn(&Path); 5] = [
    |path| mkfifoat(CWD, path, Mode::from_raw_mode(0o600)).unwrap(),
    |path| fs_err::os::unix::fs::symlink("/dev/zero", path).unwrap(),
    |path| fs_err::create_dir(path).unwrap(),
    |path| fs_err::os::unix::fs::symlink(path.file_name().unwrap(), path).unwrap(),
    |path| fs_err::File::create(path).unwrap().set_len(1 << 42).unwrap(),
];

/// Imports `folder`; fails if that takes too long.
fn import(folder: PathBuf) -> Result<(), String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let out = tempfile::tempdir().unwrap();
        let config = Config { model_dir: folder.display().to_string(), ..Config::default() };
        let settings = hub::Settings::from(|_| None).unwrap();
        let result = import_model::run(&config, &settings, &Unwatched, out.path(), out.path());
        sender.send(result.map(drop).map_err(|error| failure::Error::from(error).report()))
    });
    receiver.recv_timeout(Duration::from_secs(20)).expect("the import does not wait")
}

#[test]
fn a_file_that_is_no_file_is_named() {
    for name in NAMES {
        for (number, make) in KINDS.iter().enumerate() {
            let folder = tempfile::tempdir().unwrap();
            copy_files(&golden_dir().join("llama"), folder.path());
            let path = folder.path().join(name);
            let _ = fs_err::remove_file(&path);
            make(&path);
            match import(folder.path().to_owned()) {
                Err(report) => assert!(report.contains(name), "{name}, kind {number}: {report}"),
                // A folder with such a name, or a link to nothing, is not a file of the model.
                Ok(()) => {
                    assert!([2, 3].contains(&number) && !REQUIRED.contains(&name), "{name}, kind {number}");
                }
            }
        }
    }
}

const REQUIRED: [&str; 3] = ["config.json", "tokenizer.json", "model.safetensors"];

#[test]
fn a_card_that_is_no_file_has_no_licence() {
    for make in &KINDS[..4] {
        let folder = tempfile::tempdir().unwrap();
        copy_files(&golden_dir().join("llama"), folder.path());
        make(&folder.path().join("README.md"));
        import(folder.path().to_owned()).unwrap();
    }
}
