//! Export: a new folder that is whole or absent, beside which nothing changes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};

use common::{FAULTS, Toy, files};

/// Lists everything directly in a folder, hidden entries included.
fn entries(folder: &Path) -> Vec<String> {
    let entries = fs_err::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A store, and a folder `out` in which hidden folders of the user lie.
fn prepared() -> (Toy, PathBuf) {
    let toy = Toy::new();
    toy.pipeline(8, 64);
    let out = toy.path().join("out");
    for folder in [".git", ".ssh"] {
        fs_err::create_dir_all(out.join(folder)).unwrap();
        fs_err::write(out.join(folder).join("file"), "precious").unwrap();
    }
    (toy, out)
}

fn assert_untouched(out: &Path) {
    for folder in [".git", ".ssh"] {
        assert_eq!(fs_err::read_to_string(out.join(folder).join("file")).unwrap(), "precious");
    }
}

#[test]
fn hidden_folders_beside_an_export_are_not_touched() {
    let (toy, out) = prepared();
    assert_eq!(toy.run("export import-model --to out/git").succeeded(), "out/git\n");
    assert_untouched(&out);
    assert_eq!(entries(&out.join("git")), ["config.json", "provenance.intoto.jsonl", "weights.bin"]);
    toy.program("export evaluate --to ./ssh")
        .current_dir(&out)
        .args(["--store", "../artifacts"])
        .run()
        .succeeded();
    assert_untouched(&out);
    // Refused, because there is a folder; and failed, because there is no model.
    let error = toy.run("export import-model --to out/git").failed(2);
    assert!(error.contains("`out/git` exists; choose another folder"), "{error}");
    for folder in ["git2", "a/b"] {
        toy.run(&format!("export evaluate --format model --to out/{folder}")).failed(65);
    }
    fs_err::remove_dir(out.join("a")).unwrap();
    assert_untouched(&out);
    assert_eq!(entries(&out), [".git", ".ssh", "git", "ssh"]);
}

#[test]
fn one_of_several_exports_to_a_folder_succeeds() {
    let (toy, out) = prepared();
    let running: Vec<_> = (0..6).map(|_| toy.program("export import-model --to out/git").spawn()).collect();
    let codes: Vec<Option<i32>> =
        running.into_iter().map(|child| child.wait_with_output().unwrap().status.code()).collect();
    assert_eq!(codes.iter().filter(|code| **code == Some(0)).count(), 1, "{codes:?}");
    assert!(codes.iter().all(|code| [Some(0), Some(2)].contains(code)), "{codes:?}");
    assert_eq!(entries(&out), [".git", ".ssh", "git"]);
    assert_eq!(files(&out.join("git")).len(), 3);
    assert_untouched(&out);
}

#[test]
fn a_full_disk_is_noticed_before_anything_is_copied() {
    let (toy, out) = prepared();
    for format in ["model", "ro-crate"] {
        let mut export = toy.program(&format!("export import-model --to out/git --format {format}"));
        let error = export.env("ASHLAR_MIN_FREE_BYTES", (1_u64 << 62).to_string()).run().failed(74);
        assert!(error.contains("too little space at `out/git`"), "{error}");
        assert_eq!(entries(&out), [".git", ".ssh"]);
    }
    // Statements are small.
    let mut export = toy.program("export import-model --to out/git --format in-toto");
    export.env("ASHLAR_MIN_FREE_BYTES", (1_u64 << 62).to_string()).run().succeeded();
}

#[test]
fn an_export_that_fails_at_any_operation_leaves_nothing() {
    let (toy, out) = prepared();
    for (fault, code) in FAULTS {
        let mut failed = 0;
        for turn in 1..40 {
            let mut export = toy.program("export import-model --to out/git");
            let ran = export.env("ASHLAR_FAULT", format!("{fault}@{turn}")).run();
            assert_untouched(&out);
            if ran.code == Some(0) {
                assert_eq!(files(&out.join("git")).len(), 3, "{fault}@{turn}");
            } else {
                failed += 1;
                assert_eq!(ran.code, Some(code), "{fault}@{turn}: {}", ran.stderr);
                // Only the last flush can fail after the folder has its name.
                assert!(!out.join("git").exists() || files(&out.join("git")).len() == 3, "{fault}@{turn}");
            }
            testutil::files::remove(&out.join("git"));
            assert_eq!(entries(&out), [".git", ".ssh"], "{fault}@{turn}");
        }
        assert!(failed > 5, "only {failed} operations failed");
    }
}
