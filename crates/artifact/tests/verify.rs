//! Verification finds every changed byte and every kind of damage, and reads a file again only when it may have changed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use artifact::{Artifact, Draft, Fault, KeyMaterial, Level, Memo, Store, verify};
use serde_json::json;
use tempfile::TempDir;

const MEBIBYTE: usize = 1 << 20;
/// Bytes of the small file and of the telemetry.
const SMALL: u64 = 22;

/// Bytes without a pattern that a shift could keep.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(length).collect()
}

/// Publishes an artifact with a small file, a file of `large` bytes and telemetry, and makes its files writable.
fn published(large: usize) -> (TempDir, Store, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("artifacts")).unwrap();
    let staging = store.stage_new("demo").unwrap();
    fs_err::create_dir(staging.data().join("model")).unwrap();
    fs_err::write(staging.data().join("model/weights.bin"), noise(large)).unwrap();
    fs_err::write(staging.data().join("stats.json"), "{\"rows\":1}\n").unwrap();
    fs_err::write(staging.telemetry().join("timing.jsonl"), "{\"step\":1}\n").unwrap();
    let draft = Draft::new("x", KeyMaterial::new("demo", 1, json!({"a": 1})));
    let path = staging.publish(&draft, &mut || Ok(())).unwrap().artifact().path().to_owned();
    assert!(std::process::Command::new("chmod").args(["-R", "u+w"]).arg(&path).status().unwrap().success());
    (dir, store, path)
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files_below(&path, found) } else { found.push(path) }
    }
}

fn faults(path: &Path, level: Level) -> Vec<(String, Fault)> {
    let found = verify(path, level, &Memo::default()).problems;
    found.into_iter().map(|problem| (problem.path, problem.fault)).collect()
}

/// Flips a bit in a file, which gets new times.
fn flip(path: &Path, bit: u64) {
    let file = fs_err::OpenOptions::new().read(true).write(true).open(path).unwrap().into_file();
    let mut byte = [0];
    file.read_exact_at(&mut byte, bit / 8).unwrap();
    file.write_all_at(&[byte[0] ^ 1 << (bit % 8)], bit / 8).unwrap();
}

#[test]
fn every_flipped_byte_of_every_small_file_is_found() {
    let (_dir, _store, path) = published(3000);
    let mut files = Vec::new();
    files_below(&path, &mut files);
    assert_eq!(files.len(), 7, "records, data and telemetry");
    for file in files {
        for at in 0..fs_err::metadata(&file).unwrap().len() {
            flip(&file, at * 8 + at % 8);
            let found = verify(&path, Level::Auto, &Memo::default());
            assert!(!found.is_sound(), "byte {at} of `{}`", file.display());
            flip(&file, at * 8 + at % 8);
        }
    }
    assert!(verify(&path, Level::Hash, &Memo::default()).is_sound());
}

/// `ASHLAR_FLIPS` and `ASHLAR_MEBIBYTES` set number and size; `make soak` flips 1,000 bits of 200 MiB.
#[test]
fn random_bits_of_a_large_file_are_found() {
    let number = |name: &str, default: u64| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (flips, mebibytes) = (number("ASHLAR_FLIPS", 20), number("ASHLAR_MEBIBYTES", 66));
    let (_dir, store, path) = published(mebibytes as usize * MEBIBYTE);
    let weights = path.join("data/model/weights.bin");
    // A remembered hash must not hide a flip.
    std::thread::sleep(Duration::from_secs(3));
    assert!(verify(&path, Level::Auto, &store.memo()).is_sound());
    assert_eq!(verify(&path, Level::Auto, &store.memo()).hashed_bytes, SMALL, "the large file is remembered");
    let positions = noise(flips as usize * 8);
    for position in positions.chunks_exact(8) {
        let bit = u64::from_le_bytes(position.try_into().unwrap()) % (mebibytes << 23);
        flip(&weights, bit);
        let found = verify(&path, Level::Auto, &store.memo());
        assert_eq!((found.problems.len(), found.problems[0].fault), (1, Fault::Bytes), "bit {bit}");
        let opened = Artifact::open(&path).expect_err("the next stage must notice").to_string();
        assert!(opened.contains("the bytes of `data/model/weights.bin` have changed"), "{opened}");
        flip(&weights, bit);
    }
    assert!(verify(&path, Level::Hash, &store.memo()).is_sound());
}

#[test]
fn large_file_is_read_once_and_again_after_its_times_changed() {
    let (_dir, store, path) = published(2 * MEBIBYTE);
    let read = |level| verify(&path, level, &store.memo()).hashed_bytes;
    let whole = 2 * MEBIBYTE as u64 + SMALL;
    assert_eq!(read(Level::Size), 0);
    assert_eq!(
        (read(Level::Auto), read(Level::Auto)),
        (whole, whole),
        "written too recently to be remembered"
    );
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!((read(Level::Auto), read(Level::Auto)), (whole, SMALL));
    assert_eq!(read(Level::Hash), whole, "reads everything");
    // Restores the old modification time, as `touch` or a restored backup does; the change time still differs.
    let weights = path.join("data/model/weights.bin");
    let before = fs_err::metadata(&weights).unwrap().modified().unwrap();
    flip(&weights, 12345);
    let file = fs_err::OpenOptions::new().write(true).open(&weights).unwrap();
    file.file().set_modified(before).unwrap();
    assert_eq!(faults(&path, Level::Auto), [("data/model/weights.bin".to_owned(), Fault::Bytes)]);
    assert!(!verify(&path, Level::Auto, &store.memo()).is_sound());
    assert!(Artifact::open(&path).is_err());
    Artifact::open_with(&path, Level::Size).unwrap();
}

#[test]
fn every_kind_of_damage_is_listed() {
    let (_dir, _store, path) = published(100);
    let weights = path.join("data/model/weights.bin");
    fs_err::write(path.join("data/more.json"), "{}").unwrap();
    fs_err::create_dir(path.join("data/empty")).unwrap();
    fs_err::write(path.join("notes.txt"), "").unwrap();
    fs_err::remove_file(path.join("data/stats.json")).unwrap();
    symlink("/etc/hostname", path.join("data/stats.json")).unwrap();
    fs_err::write(&weights, "short").unwrap();
    fs_err::write(path.join("telemetry/timing.jsonl"), "{\"step\":2}\n").unwrap();
    let expected = [
        ("data/empty", Fault::Added),
        ("data/model/weights.bin", Fault::Size),
        ("data/more.json", Fault::Added),
        ("data/stats.json", Fault::Kind),
        ("notes.txt", Fault::Added),
        ("telemetry/timing.jsonl", Fault::Bytes),
    ];
    assert_eq!(faults(&path, Level::Auto), expected.map(|(path, fault)| (path.to_owned(), fault)));
    fs_err::remove_dir_all(path.join("telemetry")).unwrap();
    assert_eq!(faults(&path, Level::Auto).len(), 5, "telemetry may be left out");
    fs_err::remove_dir_all(path.join("data")).unwrap();
    let found = faults(&path, Level::Auto);
    assert!(found.iter().any(|(path, fault)| path == "data" && *fault == Fault::Missing), "{found:?}");
    fs_err::remove_file(path.join("COMMIT")).unwrap();
    assert_eq!(faults(&path, Level::Auto), [(String::new(), Fault::Missing)]);
}

#[test]
fn telemetry_that_nobody_listed_is_found() {
    let (_dir, _store, path) = published(100);
    let provenance = path.join("provenance.json");
    let recommit = |change: &dyn Fn(&mut serde_json::Map<String, serde_json::Value>)| {
        let mut value: serde_json::Value =
            serde_json::from_slice(&fs_err::read(&provenance).unwrap()).unwrap();
        change(value.as_object_mut().unwrap());
        fs_err::write(&provenance, value.to_string()).unwrap();
        let script = "sha256sum SHA256SUMS manifest.json provenance.json >COMMIT";
        let mut sums = std::process::Command::new("sh");
        assert!(sums.args(["-c", script]).current_dir(&path).status().unwrap().success());
    };
    let added = |name: &str| (format!("telemetry/{name}"), Fault::Added);
    fs_err::write(path.join("telemetry/report.html"), "<script>").unwrap();
    assert_eq!(faults(&path, Level::Auto), [added("report.html")]);
    // The first programs listed names only.
    recommit(&|fields| drop(fields.remove("telemetry_sha256")));
    assert_eq!(faults(&path, Level::Auto), [added("report.html")]);
    recommit(&|fields| drop(fields.remove("telemetry")));
    assert_eq!(faults(&path, Level::Auto), [added("report.html"), added("timing.jsonl")]);
    fs_err::remove_dir_all(path.join("telemetry")).unwrap();
    assert!(faults(&path, Level::Auto).is_empty());
}

#[test]
fn unreadable_file_is_not_called_damaged() {
    let (_dir, _store, path) = published(100);
    let weights = path.join("data/model/weights.bin");
    fs_err::set_permissions(&weights, std::fs::Permissions::from_mode(0o000)).unwrap();
    if fs_err::read(&weights).is_ok() {
        eprintln!("skipped: this user may read everything");
        return;
    }
    assert_eq!(faults(&path, Level::Auto), [("data/model/weights.bin".to_owned(), Fault::Unreadable)]);
}
