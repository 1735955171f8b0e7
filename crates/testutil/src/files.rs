//! Files and folders: the golden cases, copies, and contents by hash.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// Returns the folder of a golden case of this checkout.
pub fn golden(case: &str) -> PathBuf {
    workspace_root().join("tests/golden").join(case)
}

/// Returns the folder with the golden cases to check: `GOLDEN_DIR`, or `tests/golden` of this checkout.
pub fn golden_dir() -> PathBuf {
    std::env::var_os("GOLDEN_DIR").map_or_else(|| workspace_root().join("tests/golden"), PathBuf::from)
}

/// Returns the root of this checkout.
pub fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("crates/testutil is two levels down")
        .into()
}

/// Copies a file or folder with its times and permissions.
///
/// # Panics
///
/// If it cannot be copied.
pub fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(status.is_ok_and(|status| status.success()), "cannot copy `{}`", from.display());
}

/// Removes a folder if it exists, read-only artifacts in it included.
///
/// # Panics
///
/// If it cannot be removed.
pub fn remove(folder: &Path) {
    if folder.exists() {
        let status = Command::new("chmod").args(["-R", "u+w"]).arg(folder).status();
        assert!(status.is_ok_and(|status| status.success()), "cannot unlock `{}`", folder.display());
        fs_err::remove_dir_all(folder).expect("a folder of a test can be removed");
    }
}

/// Copies the files of `from` (not its subfolders) into `to`, which is made if it is missing.
pub fn copy_files(from: &Path, to: &Path) {
    fs_err::create_dir_all(to).expect("a test may write where it said");
    for entry in fs_err::read_dir(from).expect("the source folder exists") {
        let entry = entry.expect("the source folder is readable");
        if entry.file_type().expect("its entries have a type").is_file() {
            fs_err::copy(entry.path(), to.join(entry.file_name())).expect("copying a test file");
        }
    }
}

/// Returns every file below `dir` as `path/with/slashes` → SHA-256 of its bytes, following links.
pub fn contents(dir: &Path) -> BTreeMap<String, String> {
    fn walk(dir: &Path, prefix: &str, found: &mut BTreeMap<String, String>) {
        let Ok(entries) = fs_err::read_dir(dir) else { return };
        for entry in entries.flatten() {
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                walk(&entry.path(), &format!("{name}/"), found);
            } else {
                found.insert(
                    name,
                    sha256_hex(&fs_err::read(entry.path()).expect("a listed file is readable")),
                );
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(dir, "", &mut found);
    found
}

/// Returns the SHA-256 of `bytes` as 64 lower-case hex digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

/// Returns the SHA-1 of `bytes` as a git blob.
pub fn git_oid(bytes: &[u8]) -> String {
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {}\0", bytes.len()));
    hasher.update(bytes);
    hasher.finalize().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}
