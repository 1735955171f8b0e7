//! The format on disk: hashes with known values, and a reader that verifies everything.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use artifact::{Artifact, Draft, FileHash, Folder, KeyMaterial, Level, Tree, TreeFile, write_folder};
use serde_json::json;
use tempfile::TempDir;

const VECTOR_A_SUMS: &str = "\
8dc88968b275d53d8c8efe9acd6ab3ee7ba9fdbe755e693e2ef88dd7b44ed0bc  adapters/adapter_config.json
40aff2e9d2d8922e47afd4648e6967497158785fbd1da870e7110266bf944880  adapters/adapters.safetensors
e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  empty.bin
5b74e2b9390fdc99041b907d7f37fc6a214dbbcf14ee254900e910a089ce280f  metrics.jsonl
";

fn write_vector_a(data: &Path) {
    let bytes: Vec<u8> = (0..=255).collect();
    fs_err::create_dir_all(data.join("adapters")).unwrap();
    fs_err::write(data.join("adapters/adapter_config.json"), "{\"rank\":8}\n").unwrap();
    fs_err::write(data.join("adapters/adapters.safetensors"), bytes).unwrap();
    fs_err::write(data.join("empty.bin"), "").unwrap();
    fs_err::write(data.join("metrics.jsonl"), "{\"step\":1,\"loss\":2.5}\n{\"step\":2,\"loss\":2.25}\n")
        .unwrap();
}

fn draft() -> Draft {
    Draft {
        metrics: BTreeMap::from([("loss".to_owned(), 2.25)]),
        provenance: json!({"note": "any"}),
        ..Draft::new("plain", KeyMaterial::new("demo", 1, json!({"rank": 8})))
    }
}

/// Makes a small valid artifact.
fn sample() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("sample");
    write_folder(&out, &draft(), |data| {
        fs_err::create_dir(data.join("rows"))?;
        fs_err::write(data.join("rows/train.jsonl"), "{}\n")?;
        fs_err::write(data.join("stats.json"), "{\"rows\":1}\n")?;
        Ok(())
    })
    .unwrap();
    (dir, out)
}

fn make_writable(path: &Path) {
    assert!(Command::new("chmod").args(["-R", "u+w"]).arg(path).status().unwrap().success());
}

/// Opens the sample after `damage` and returns the error.
fn error_after(damage: impl FnOnce(&Path)) -> String {
    let (_dir, out) = sample();
    make_writable(&out);
    damage(&out);
    Artifact::open(&out).expect_err("damage was not noticed").to_string()
}

#[test]
fn vector_a_has_its_known_hashes() {
    let dir = tempfile::tempdir().unwrap();
    write_vector_a(dir.path());
    let tree = Tree::scan(dir.path()).unwrap();
    assert_eq!(tree.sums(), VECTOR_A_SUMS);
    assert_eq!(tree.hash().to_string(), "53416f2131ca93f164c4df3c4bb97edc2f7e46a07f4ffb8eea061156dfec05cc");
    let adapters = tree.output("adapters").unwrap();
    assert_eq!(adapters.to_string(), "1dc8da8b666068ae5572edd727e7cac31619b8ad6dfd4652e6fe1cd04e15d7c1");
    assert_eq!(adapters, Tree::scan(&dir.path().join("adapters")).unwrap().hash());
    assert_eq!(tree.output("adapter"), None);
    let metrics = tree.output("metrics.jsonl").unwrap();
    let line = VECTOR_A_SUMS.lines().last().unwrap().to_owned() + "\n";
    assert_eq!(metrics.as_bytes(), FileHash::of(line.as_bytes()).as_bytes());
}

#[test]
fn coreutils_agree() {
    let dir = tempfile::tempdir().unwrap();
    write_vector_a(dir.path());
    for name in ["a-b", "a.b", "a0", "aa"] {
        fs_err::write(dir.path().join(name), name).unwrap();
    }
    fs_err::create_dir_all(dir.path().join("a/x")).unwrap();
    fs_err::write(dir.path().join("a/b"), "1").unwrap();
    fs_err::write(dir.path().join("a/x/c"), "2").unwrap();
    let script = "find . -type f | cut -c3- | LC_ALL=C sort | xargs sha256sum";
    let output = Command::new("sh").args(["-c", script]).current_dir(dir.path()).output().unwrap();
    assert_eq!(Tree::scan(dir.path()).unwrap().sums(), String::from_utf8(output.stdout).unwrap());
}

#[test]
fn paths_are_in_byte_order() {
    let mut paths = ["aa", "a0", "a/b/c", "a.b", "a-b"];
    paths.reverse();
    let file = |path: &&str| TreeFile { path: (*path).to_owned(), size_bytes: 0, sha256: FileHash::of(b"") };
    let tree = Tree::from_files(Path::new("x"), paths.iter().map(file).collect()).unwrap();
    let order: Vec<_> = tree.files().iter().map(|file| file.path.as_str()).collect();
    assert_eq!(order, ["a-b", "a.b", "a/b/c", "a0", "aa"]);
    for clash in [["A", "a"], ["a", "a/b"], ["a/b", "a/B"], ["A/b", "a/c"]] {
        assert!(Tree::from_files(Path::new("x"), clash.iter().map(file).collect()).is_err(), "{clash:?}");
    }
    for bad in ["", "/a", "a//b", "..", "a/../b", ".a", "a.", "a b", "ä", "a\nb", "-a", &"a".repeat(129)] {
        assert!(Tree::from_files(Path::new("x"), vec![file(&bad)]).is_err(), "{bad}");
    }
}

#[test]
fn what_cannot_be_hashed_is_refused() {
    type Make = fn(&Path);
    let cases: [(&str, Make); 6] = [
        ("no file", |_| {}),
        ("empty folder", |dir| {
            fs_err::write(dir.join("a"), "a").unwrap();
            fs_err::create_dir(dir.join("empty")).unwrap();
        }),
        ("symlink to a file", |dir| {
            fs_err::write(dir.join("a"), "a").unwrap();
            symlink("a", dir.join("b")).unwrap();
        }),
        ("symlink to a folder", |dir| symlink("/etc", dir.join("b")).unwrap()),
        ("hidden file", |dir| fs_err::write(dir.join(".a"), "a").unwrap()),
        ("too deep", |dir| {
            let deep = dir.join("a/".repeat(17));
            fs_err::create_dir_all(&deep).unwrap();
            fs_err::write(deep.join("a"), "a").unwrap();
        }),
    ];
    for (name, make) in cases {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path());
        assert!(Tree::scan(dir.path()).is_err(), "{name}");
    }
}

#[test]
fn sealed_folder_opens_and_checks_with_coreutils() {
    let (_dir, out) = sample();
    let artifact = Artifact::open(&out).unwrap();
    let manifest = artifact.manifest();
    assert_eq!((manifest.stage.as_str(), manifest.stage_version), ("demo", 1));
    assert_eq!(manifest.metric("loss"), Some(2.25));
    assert_eq!(manifest.outputs.keys().collect::<Vec<_>>(), ["rows", "stats.json"]);
    assert_eq!(artifact.output_dir("rows"), Some(out.join("data/rows")));
    assert_eq!(artifact.output_dir("none"), None);
    assert_eq!(artifact.provenance().unwrap()["note"], "any");
    let script = "sha256sum -c COMMIT && cd data && sha256sum -c ../SHA256SUMS";
    let output = Command::new("sh").args(["-c", script]).current_dir(&out).output().unwrap();
    assert!(output.status.success());
    let mut names: Vec<_> =
        fs_err::read_dir(&out).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["COMMIT", "SHA256SUMS", "data", "manifest.json", "provenance.json"]);
}

#[test]
fn flipped_byte_is_noticed_in_every_file() {
    let (_dir, out) = sample();
    for name in [
        "COMMIT",
        "SHA256SUMS",
        "manifest.json",
        "provenance.json",
        "data/rows/train.jsonl",
        "data/stats.json",
    ] {
        let length = fs_err::metadata(out.join(name)).unwrap().len() as usize;
        for at in 0..length {
            let mut bytes = fs_err::read(out.join(name)).unwrap();
            bytes[at] ^= 1;
            fs_err::write(out.join(name), &bytes).unwrap();
            assert!(Artifact::open(&out).is_err(), "byte {at} of `{name}`");
            bytes[at] ^= 1;
            fs_err::write(out.join(name), &bytes).unwrap();
        }
    }
    Artifact::open(&out).unwrap();
}

#[test]
fn missing_extra_and_linked_files_are_noticed() {
    let missing = error_after(|out| fs_err::remove_file(out.join("data/stats.json")).unwrap());
    assert!(missing.contains("`data/stats.json` is missing"), "{missing}");
    let extra = error_after(|out| fs_err::write(out.join("data/rows/more.jsonl"), "").unwrap());
    assert!(extra.contains("`data/rows/more.jsonl` is not in the manifest"), "{extra}");
    let beside = error_after(|out| fs_err::write(out.join("notes.txt"), "").unwrap());
    assert!(beside.contains("`notes.txt` does not belong there"), "{beside}");
    let linked = error_after(|out| {
        let path = out.join("data/stats.json");
        fs_err::rename(&path, out.join("../stats.json")).unwrap();
        symlink(out.join("../stats.json"), path).unwrap();
    });
    assert!(linked.contains("symlink"), "{linked}");
    let linked_dir = error_after(|out| {
        fs_err::rename(out.join("data"), out.join("../data")).unwrap();
        symlink(out.join("../data"), out.join("data")).unwrap();
    });
    assert!(linked_dir.contains("`data` is of the wrong kind"), "{linked_dir}");
    let grown = error_after(|out| fs_err::write(out.join("data/stats.json"), "{\"rows\":10}\n").unwrap());
    assert!(grown.contains("12 bytes, the manifest says 11"), "{grown}");
    let empty_dir = error_after(|out| fs_err::create_dir(out.join("data/new")).unwrap());
    assert!(empty_dir.contains("empty"), "{empty_dir}");
    let uncommitted = error_after(|out| fs_err::remove_file(out.join("COMMIT")).unwrap());
    assert!(uncommitted.contains("no file `COMMIT`"), "{uncommitted}");
}

#[test]
fn size_level_does_not_read_data() {
    let (_dir, out) = sample();
    make_writable(&out);
    fs_err::write(out.join("data/stats.json"), "{\"rows\":2}\n").unwrap();
    let artifact = Artifact::open_with(&out, Level::Size).unwrap();
    for level in [Level::Auto, Level::Hash] {
        let error = artifact.verify(level).unwrap_err().to_string();
        assert!(error.contains("the bytes of `data/stats.json` have changed"), "{error}");
    }
    assert!(artifact.verify_output("rows").is_ok());
    assert!(artifact.verify_output("stats.json").is_err());
    assert!(artifact.verify_output("").is_err());
}

/// Recommits a changed manifest, as someone who edits artifacts by hand would.
fn with_manifest(change: impl FnOnce(String) -> String) -> Result<Artifact, artifact::Error> {
    let (_dir, out) = sample();
    make_writable(&out);
    let manifest = change(fs_err::read_to_string(out.join("manifest.json")).unwrap());
    fs_err::write(out.join("manifest.json"), manifest).unwrap();
    let script = "sha256sum SHA256SUMS manifest.json provenance.json > COMMIT";
    assert!(Command::new("sh").args(["-c", script]).current_dir(&out).status().unwrap().success());
    Artifact::open(&out)
}

#[test]
fn manifest_keeps_unknown_fields_and_refuses_unknown_schemas() {
    let artifact = with_manifest(|text| text.replacen('{', "{\"a_new_field\":{\"x\":1},", 1)).unwrap();
    assert_eq!(artifact.manifest().other["a_new_field"], json!({"x": 1}));
    assert!(String::from_utf8(artifact.manifest().to_bytes()).unwrap().contains("a_new_field"));
    let error = with_manifest(|text| text.replace("manifest-v1", "manifest-v2")).unwrap_err();
    assert!(error.to_string().contains("unknown schema `manifest-v2`"), "{error}");
}

#[test]
fn manifest_edited_by_hand_is_refused() {
    type Edit = fn(String) -> String;
    let cases: [(&str, Edit); 5] = [
        ("key", |text| text.replace("\"rank\":8", "\"rank\":9")),
        ("not canonical", |text| text.replace("\":", "\": ")),
        ("duplicate name", |text| text.replacen('{', "{\"schema\":\"manifest-v1\",", 1)),
        ("size", |text| text.replace("\"size\":11", "\"size\":12")),
        ("path outside", |text| text.replace("\"path\":\"stats.json\"", "\"path\":\"../stats.json\"")),
    ];
    for (name, change) in cases {
        assert!(with_manifest(change).is_err(), "{name}");
    }
}

#[test]
fn same_data_gives_the_same_manifest() {
    let ((_a, first), (_b, second)) = (sample(), sample());
    for name in ["COMMIT", "SHA256SUMS", "manifest.json", "provenance.json"] {
        assert_eq!(
            fs_err::read(first.join(name)).unwrap(),
            fs_err::read(second.join(name)).unwrap(),
            "{name}"
        );
    }
}

#[test]
fn out_folder_in_use_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs_err::write(dir.path().join("mine.txt"), "mine").unwrap();
    let error = Folder::begin(dir.path()).unwrap_err().to_string();
    assert!(error.contains("is not empty"), "{error}");
    assert_eq!(fs_err::read_to_string(dir.path().join("mine.txt")).unwrap(), "mine");
    let (_dir, out) = sample();
    assert!(Folder::begin(&out).unwrap_err().to_string().contains("already holds an artifact"));
}

/// Leaves an output folder behind as a killed process of this number does.
fn abandon(out: &Path, mark: &str, pid: u32) {
    let folder = Folder::begin(out).unwrap();
    fs_err::write(folder.data().join("half.json"), "{").unwrap();
    let text = fs_err::read_to_string(out.join("INCOMPLETE")).unwrap();
    std::mem::forget(folder);
    fs_err::remove_file(out.join("INCOMPLETE")).unwrap();
    let text = text.replace(&format!(" {}\n", std::process::id()), &format!(" {pid}\n"));
    fs_err::write(out.join(mark), text).unwrap();
}

/// A process number that no process has.
const DEAD: u32 = 0x7fff_fff0;

#[test]
fn out_folder_left_by_a_killed_run_is_taken_over() {
    for mark in ["INCOMPLETE", ".INCOMPLETE-x1"] {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        abandon(&out, mark, DEAD);
        assert!(Artifact::open(&out).is_err());
        let folder = Folder::begin(&out).unwrap();
        fs_err::write(folder.data().join("whole.json"), "{}").unwrap();
        let artifact = folder.seal(&draft(), &mut || Ok(())).unwrap();
        assert_eq!(artifact.manifest().outputs.keys().collect::<Vec<_>>(), ["whole.json"], "{mark}");
        Artifact::open_with(&out, Level::Hash).unwrap();
    }
}

/// Returns all files below a folder with their bytes.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            found.insert(path.clone(), fs_err::read(&path).unwrap());
        }
    }
    found
}

#[test]
fn folder_of_a_user_is_never_taken_for_an_unfinished_one() {
    let mark = "this folder is being written\n00000000 2147483632\n";
    let cases: [(&[(&str, &str)], &str); 8] = [
        (
            &[("INCOMPLETE", ""), ("data/precious", "p"), ("thesis.txt", "t"), ("SHA256SUMS", "s")],
            "thesis.txt",
        ),
        (&[("INCOMPLETE", mark), ("data/precious", "p"), ("thesis.txt", "t")], "thesis.txt"),
        (&[(".INCOMPLETE-x1", mark), ("notes/today", "n")], "notes"),
        (&[("INCOMPLETE", "chapters 3 and 4\n")], "INCOMPLETE"),
        (&[("INCOMPLETE", ""), ("data/precious", "p")], "data"),
        (&[("INCOMPLETE", ""), ("SHA256SUMS", "s")], "SHA256SUMS"),
        (&[(".INCOMPLETE-x1", ""), ("data/precious", "p")], "data"),
        (&[("INCOMPLETE/notes", "n")], "INCOMPLETE"),
    ];
    for (files, named) in cases {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        for (name, text) in files {
            fs_err::create_dir_all(out.join(name).parent().unwrap()).unwrap();
            fs_err::write(out.join(name), text).unwrap();
        }
        let before = contents(&out);
        let error = Folder::begin(&out).unwrap_err();
        assert!(matches!(error, artifact::Error::Occupied { .. }), "{files:?}: {error}");
        assert!(error.to_string().ends_with(&format!("is not empty: it holds `{named}`")), "{error}");
        assert_eq!(contents(&out), before, "{files:?}");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Folder::begin(file.path()).unwrap_err();
    assert_eq!(error.to_string(), format!("`{}` is not a folder", file.path().display()));
    assert_eq!(failure::Failure::kind(&error).exit_code(), 2);
}

#[test]
fn mark_that_was_torn_before_there_was_any_data_is_taken_over() {
    for (mark, text) in
        [("INCOMPLETE", ""), (".INCOMPLETE-x1", ""), ("INCOMPLETE", "this folder"), ("INCOMPLETE", "\0\0\0")]
    {
        for folders in [&[][..], &["data"], &["data", "telemetry"]] {
            let dir = tempfile::tempdir().unwrap();
            let out = dir.path().join("out");
            fs_err::create_dir(&out).unwrap();
            fs_err::write(out.join(mark), text).unwrap();
            for folder in folders {
                fs_err::create_dir(out.join(folder)).unwrap();
            }
            drop(Folder::begin(&out).unwrap());
            assert!(!out.exists(), "{mark} {text:?} {folders:?}");
        }
    }
    // One that is in place is taken over before another.
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    abandon(&out, ".INCOMPLETE-x1", DEAD);
    fs_err::write(out.join("INCOMPLETE"), "").unwrap();
    let folder = Folder::begin(&out).unwrap();
    fs_err::write(folder.data().join("whole.json"), "{}").unwrap();
    folder.seal(&draft(), &mut || Ok(())).unwrap();
    Artifact::open_with(&out, Level::Hash).unwrap();
}

#[test]
fn what_a_user_puts_into_a_folder_that_is_written_stays_and_does_not_harm() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let folder = Folder::begin(&out).unwrap();
    fs_err::write(folder.data().join("whole.json"), "{}").unwrap();
    fs_err::write(out.join("thesis.txt"), "t").unwrap();
    let error = folder.seal(&draft(), &mut || Ok(())).unwrap_err();
    assert!(matches!(error, artifact::Error::Occupied { .. }), "{error}");
    assert!(error.to_string().ends_with("holds `thesis.txt`, which is not part of the artifact"), "{error}");
    assert_eq!(fs_err::read_to_string(out.join("thesis.txt")).unwrap(), "t");
    fs_err::remove_file(out.join("thesis.txt")).unwrap();
    Artifact::open_with(&out, Level::Hash).unwrap();
    // Of a run that failed, it is all that stays.
    let failed = dir.path().join("failed");
    let folder = Folder::begin(&failed).unwrap();
    fs_err::write(failed.join("thesis.txt"), "t").unwrap();
    drop(folder);
    assert_eq!(contents(&failed).into_keys().collect::<Vec<_>>(), [failed.join("thesis.txt")]);
}

#[test]
fn store_that_is_a_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs_err::write(&file, "mine").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = artifact::Store::open(&path).unwrap_err();
        assert_eq!(error.to_string(), format!("`{}` is not a folder", path.display()));
        assert_eq!(failure::Failure::kind(&error).exit_code(), 2);
    }
    artifact::Store::open(&dir.path().join("missing/store")).unwrap();
}

#[test]
fn out_folder_of_a_living_process_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let folder = Folder::begin(&out).unwrap();
    fs_err::write(folder.data().join("mine.json"), "{}").unwrap();
    let error = Folder::begin(&out).unwrap_err();
    assert!(matches!(error, artifact::Error::Locked { .. }), "{error}");
    assert!(error.to_string().contains(&format!("(process {})", std::process::id())), "{error}");
    let other = dir.path().join("other");
    // Its lock is gone, as where the file system has none, but the process lives.
    abandon(&other, "INCOMPLETE", std::process::id());
    assert!(matches!(Folder::begin(&other), Err(artifact::Error::Locked { .. })));
    folder.seal(&draft(), &mut || Ok(())).unwrap();
    assert!(Folder::begin(&out).unwrap_err().to_string().contains("already holds an artifact"));
}

#[test]
fn one_of_many_takes_over_an_abandoned_folder() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        abandon(&out, "INCOMPLETE", DEAD);
        let took: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| Folder::begin(&out).ok())).collect();
            threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
        });
        assert!(took.len() <= 1, "{} processes write to one folder", took.len());
        drop(took);
        // Each may have lost to another. The next one takes over what is left.
        drop(Folder::begin(&out).unwrap());
        assert!(!out.exists());
    }
}

#[test]
fn failed_seal_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let error =
        write_folder(&out, &draft(), |data| Ok(fs_err::write(data.join("a.json"), "{")?)).unwrap_err();
    assert!(error.to_string().contains("refused to publish: `a.json` is not JSON"), "{error}");
    assert!(!out.exists());
    let mut nan = draft();
    nan.metrics.insert("loss".to_owned(), f64::NAN);
    let error = write_folder(&out, &nan, |data| Ok(fs_err::write(data.join("a.json"), "{}")?)).unwrap_err();
    assert!(error.to_string().contains("`metric loss` is not finite"), "{error}");
}

#[test]
fn store_of_the_first_version_is_read_verified_and_explained() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/store-v1");
    let store = artifact::Store::open(&root).unwrap();
    let name = store.names("tally").unwrap().remove(0);
    let path = root.join("tally").join(&name);
    let found = artifact::verify(&path, Level::Hash, &artifact::Memo::default());
    assert!(found.is_sound(), "{:?}", found.problems);
    let opened = Artifact::open_with(&path, Level::Hash).unwrap();
    let manifest = opened.manifest();
    assert_eq!((manifest.metric("lines"), manifest.key.short()), (Some(3.0), name[..16].to_owned()));
    assert!(store.lookup_with("tally", &manifest.key, "", Level::Hash).unwrap().is_some());
    let mut other = manifest.key_material.clone();
    other.config["title"] = "another".into();
    let changes: Vec<String> =
        artifact::changes(&manifest.key_material, &other).iter().map(ToString::to_string).collect();
    assert_eq!(changes, ["config/title \"fixture\" → \"another\""]);
}

/// Compares with coreutils; `ASHLAR_TREES` sets the number of random trees (1,000 in `make soak`).
#[test]
fn random_trees_have_the_hash_that_coreutils_compute() {
    let count: u64 = std::env::var("ASHLAR_TREES").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let dir = tempfile::tempdir().unwrap();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |limit: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 20) % limit
    };
    for tree in 0..count {
        let root = dir.path().join(format!("{tree:04}"));
        for _ in 0..=random(12) {
            let mut path = root.clone();
            for level in 0..=random(4) {
                // Folders and files have different names, so that none is in the way of another.
                let letters = ["a", "a-b", "a.b", "a0", "B", "Zz", "_x", "9"][random(8) as usize];
                path = path.join(format!("{letters}{level}"));
            }
            fs_err::create_dir_all(&path).unwrap();
            let bytes: Vec<u8> = (0..random(300)).map(|_| random(256) as u8).collect();
            fs_err::write(path.join("file"), bytes).unwrap();
        }
    }
    let script = "for tree in *; do (cd \"$tree\" && find . -type f | cut -c3- | LC_ALL=C sort | tr '\\n' '\\0' \
                  | xargs -0 sha256sum | sha256sum | cut -d' ' -f1); done";
    let output = Command::new("sh").args(["-c", script]).current_dir(dir.path()).output().unwrap();
    let theirs = String::from_utf8(output.stdout).unwrap();
    let ours =
        (0..count).map(|tree| Tree::scan(&dir.path().join(format!("{tree:04}"))).unwrap().hash().to_string());
    assert!(ours.eq(theirs.lines().map(str::to_owned)));
}
