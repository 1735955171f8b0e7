//! Records what the programs are built from, for the provenance of artifacts.
//!
//! `ASHLAR_REVISION` names the revision where there is no git, as in a Nix build; a revision that ends in `-dirty` is one with
//! changes. Without both, the revision is unknown and nothing fails.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders of packages.
const PACKAGES: [&str; 3] = ["crates", "stages", "tools"];
/// Other files that decide what is built; the last holds the flags of the compiler.
const FILES: [&str; 4] = ["Cargo.toml", "Cargo.lock", "rust-toolchain.toml", ".cargo/config.toml"];
/// Git pathspecs that exclude files which are not built into any program. [`is_source`] excludes the same ones.
const OTHERS: [&str; 2] = [":(exclude,glob)*/*/tests/**", ":(exclude,glob)*/*/*.md"];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=ASHLAR_REVISION");
    println!("cargo:rerun-if-env-changed=ASHLAR_BACKEND");
    let root = Path::new(&variable("CARGO_MANIFEST_DIR")).join("../..");
    let named = variable("ASHLAR_REVISION");
    let (revision, dirty) = if named.is_empty() {
        git_revision(&root, variable("PROFILE") == "release").unwrap_or(("unknown".to_owned(), true))
    } else {
        let clean = named.strip_suffix("-dirty");
        (clean.unwrap_or(&named).to_owned(), clean.is_some())
    };
    set("REVISION", &revision);
    set("DIRTY", &dirty.to_string());
    set("TARGET", &variable("TARGET"));
    set("PROFILE", &variable("PROFILE"));
    set("CPU_FEATURES", &variable("CARGO_CFG_TARGET_FEATURE"));
    set("BACKEND", &variable("ASHLAR_BACKEND"));
    set("RUSTC", &output(&mut Command::new(variable("RUSTC")), &["--version"]).unwrap_or_default());
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

fn set(name: &str, value: &str) {
    println!("cargo:rustc-env=ASHLAR_BUILD_{name}={}", value.trim());
}

/// Returns the revision of the checkout and whether its sources differ from it; `None` outside a checkout of this project.
pub(crate) fn git_revision(root: &Path, is_release: bool) -> Option<(String, bool)> {
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.current_dir(root)
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env_remove("GIT_DIR")
            .env_remove("GIT_WORK_TREE");
        output(&mut git, arguments)
    };
    // An unpacked archive may lie in the checkout of another project.
    let top = PathBuf::from(git(&["rev-parse", "--show-toplevel"])?);
    if top.canonicalize().ok()? != root.canonicalize().ok()? {
        return None;
    }
    let revision = git(&["rev-parse", "HEAD"])?;
    watch_head(root, &git);
    // Watching all sources would build most crates anew after every edit, so a debug build does not claim to be clean.
    if !is_release {
        return Some((revision, true));
    }
    let mut status = vec!["status", "--porcelain", "--"];
    status.extend(PACKAGES.iter().chain(&FILES).chain(&OTHERS));
    let dirty = git(&status).is_none_or(|changes| !changes.is_empty());
    for path in sources(root) {
        println!("cargo:rerun-if-changed={}", path.display());
    }
    Some((revision, dirty))
}

/// Runs this script again after a commit or a checkout.
fn watch_head(root: &Path, git: &dyn Fn(&[&str]) -> Option<String>) {
    let branch = git(&["symbolic-ref", "-q", "HEAD"]).unwrap_or_default();
    for name in ["HEAD", "packed-refs", &branch].iter().filter(|name| !name.is_empty()) {
        let path = git(&["rev-parse", "--git-path", name]).map(|path| root.join(path));
        // A file that is missing would run the script on every build.
        if let Some(path) = path.filter(|path| path.exists()) {
            println!("cargo:rerun-if-changed={}", path.display());
        }
    }
}

/// Returns the files and folders from which programs are built. This script runs again when one of them changes, so that a program
/// knows that it was built from changed sources.
#[expect(clippy::disallowed_methods, reason = "a build script has no use for another dependency")]
pub(crate) fn sources(root: &Path) -> Vec<PathBuf> {
    let entries = |folder: PathBuf| std::fs::read_dir(folder).into_iter().flatten().flatten();
    let packages = PACKAGES.iter().flat_map(|folder| entries(root.join(folder)));
    let parts = packages.flat_map(|package| entries(package.path())).map(|part| part.path());
    parts.filter(|path| is_source(path)).chain(FILES.iter().map(|file| root.join(file))).collect()
}

/// Returns whether a file or folder of a package can be part of a program: all but tests and text for people.
fn is_source(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name != "tests" && path.extension().is_none_or(|extension| extension != "md")
}

fn output(command: &mut Command, arguments: &[&str]) -> Option<String> {
    let output = command.args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
