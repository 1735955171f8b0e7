//! The revision that is built into the programs: which changes of a checkout make it `dirty`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../build.rs"]
#[expect(dead_code, reason = "a test has no use for all of a build script")]
#[expect(clippy::print_stdout, reason = "a build script talks to Cargo")]
mod build;

use std::path::Path;

use testutil::{Program, workspace_root};

/// Files of a checkout, and whether a change of them changes a program.
const FILES: [(&str, bool); 8] = [
    ("Cargo.toml", true),
    (".cargo/config.toml", true),
    ("crates/mlx-sys/native/host.cpp", true),
    ("crates/mlx-sys/src/lib.rs", true),
    ("stages/evaluate/guard/general-english.txt", true),
    ("stages/evaluate/tests/cli.rs", false),
    ("stages/evaluate/README.md", false),
    ("docs/design.md", false),
];

fn write(root: &Path, name: &str, text: &str) {
    fs_err::create_dir_all(root.join(name).parent().unwrap()).unwrap();
    fs_err::write(root.join(name), text).unwrap();
}

fn git(root: &Path, arguments: &[&str]) {
    let mut git = Program::new("git");
    git.current_dir(root).args(["-c", "user.name=A", "-c", "user.email=a@example.org"]);
    git.args(["-c", "commit.gpgsign=false"]).args(arguments).run().succeeded();
}

#[test]
fn a_change_of_any_source_is_noticed_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for (name, _) in FILES {
        write(root, name, "old");
    }
    git(root, &["init", "-q"]);
    git(root, &["add", "-A"]);
    git(root, &["commit", "-q", "-m", "first"]);
    let is_dirty = || build::git_revision(root, true).unwrap().1;
    assert!(!is_dirty());
    let sources = build::sources(root);
    for (name, is_source) in FILES {
        write(root, name, "new");
        assert_eq!(is_dirty(), is_source, "{name}");
        let is_watched = sources.iter().any(|source| root.join(name).starts_with(source));
        assert_eq!(is_watched, is_source, "{name}");
        write(root, name, "old");
        assert!(!is_dirty(), "{name}");
    }
}

#[test]
fn every_source_that_is_watched_exists() {
    // Cargo runs the script on every build for a file that is missing.
    let missing: Vec<_> =
        build::sources(&workspace_root()).into_iter().filter(|path| !path.exists()).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
