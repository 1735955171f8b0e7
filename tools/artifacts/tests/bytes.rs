//! Paths that are not UTF-8: JSON stays valid, and what a shell reads has their bytes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use common::{Toy, name};
use serde_json::Value;

/// Name of the store, of a stray folder in it, and of one in its quarantine.
const ODD: &[u8] = b"b\xff";

/// Artifacts in a store that is not named in UTF-8, with strays, and a pointer to one of them. Returns the path of the store.
fn prepared() -> (Toy, PathBuf) {
    let toy = Toy::new();
    let train = name(&toy.pipeline(8, 64).train);
    toy.pipeline(16, 128);
    let odd = OsStr::from_bytes(ODD);
    let store = toy.path().join(odd);
    fs_err::rename(toy.root(), &store).unwrap();
    for folder in ["train", ".quarantine"] {
        fs_err::create_dir_all(store.join(folder).join(odd)).unwrap();
    }
    let pointer = [ODD, b"/", train.as_bytes(), b"\n"].concat();
    fs_err::write(toy.path().join("build/train.path"), pointer).unwrap();
    (toy, store)
}

#[test]
fn json_is_valid_whatever_the_paths() {
    let (toy, _) = prepared();
    let run = |arguments: &str| toy.program(arguments).env("ASHLAR_STORE", OsStr::from_bytes(ODD)).run();
    for (arguments, code, names_paths) in [
        ("ls --json", 0, true),
        ("show build/train.path --json", 0, true),
        ("status --json", 0, true),
        ("why build/train.path --json", 0, true),
        ("diff build/train.path evaluate --format json", 0, true),
        ("lineage --format json", 0, true),
        // A stray among the artifacts.
        ("verify --json", 2, true),
        ("gc --json", 0, true),
        ("keep build/train.path --json", 0, false),
        ("push away --json", 0, false),
        ("gc --delete --grace 0 --json", 0, true),
        ("pull away --json", 0, false),
    ] {
        let ran = run(arguments);
        assert_eq!(ran.code, Some(code), "{arguments}: {}", ran.stderr);
        assert!(serde_json::from_str::<Value>(&ran.stdout).is_ok(), "{arguments}: {}", ran.stdout);
        assert_eq!(ran.stdout.contains("b\u{fffd}"), names_paths, "{arguments}: {}", ran.stdout);
    }
}

#[test]
fn a_script_has_the_bytes_of_paths() {
    let (toy, store) = prepared();
    let printed = |arguments: &[&OsStr]| {
        let mut program = toy.program("");
        let ran = program.env("ASHLAR_STORE", &store).args(arguments).spawn().wait_with_output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        ran.stdout
    };
    let path = printed(&["path", "import-model"].map(OsStr::new));
    assert!(
        OsStr::from_bytes(path.strip_suffix(b"\n").unwrap())
            .as_bytes()
            .starts_with(store.as_os_str().as_bytes())
    );
    let into = toy.path().join(OsStr::from_bytes(b"new\xfe"));
    let words = ["reproduce", "build/train.path", "--only", "--into"].map(OsStr::new);
    let script = printed(&[&words[..], &[into.as_os_str()]].concat());
    let holds = |part: &[u8]| script.windows(part.len()).any(|bytes| bytes == part);
    assert!(holds(into.as_os_str().as_bytes()) && holds(store.as_os_str().as_bytes()));
    assert!(std::str::from_utf8(&script).is_err());
}
