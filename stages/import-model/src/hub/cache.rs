//! The local cache that all tools of the hub share: `models--ORG--NAME/{refs,snapshots,blobs}`.
//!
//! A snapshot is a folder of links into `blobs/`, where the name of a file is its hash: SHA-256 for large files, git's
//! object id for small ones. This program only reads it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hub::{Entry, is_hex};

use crate::error::Error;
use crate::files::sha256_of;
use crate::layout::is_plain_name;
use crate::model::kept_inside;

/// The local cache of the hub.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Makes a reader of the cache in `root`, which may be missing.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Returns the commit of a branch or tag.
    pub fn resolve(&self, id: &str, revision: &str) -> Option<String> {
        let text = ::files::read_text(&self.repository(id).join("refs").join(revision), 4096).ok()?;
        let commit = text.trim().to_owned();
        is_hex(&commit, 40).then_some(commit)
    }

    /// Returns the files of a snapshot that are present, by name.
    pub fn files(&self, id: &str, commit: &str) -> BTreeMap<String, PathBuf> {
        let folder = self.repository(id).join("snapshots").join(commit);
        let Ok(entries) = fs_err::read_dir(&folder) else { return BTreeMap::new() };
        let mut files = BTreeMap::new();
        for entry in entries.flatten() {
            let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
            if path.is_dir() {
                let inside = kept_inside(&path, &name).unwrap_or_default();
                files.extend(inside.into_iter().map(|name| (name.clone(), folder.join(name))));
            } else if is_plain_name(&name) && path.is_file() {
                files.insert(name, path);
            }
        }
        files
    }

    /// Returns whether the cache shows that a snapshot has all files of `optional` that the repository has.
    ///
    /// A snapshot that was downloaded whole also has `.gitattributes`, as every repository. Otherwise, the cache marks the files that
    /// some tool asked for in vain.
    pub fn is_complete(&self, id: &str, commit: &str, optional: &[&str]) -> bool {
        let repository = self.repository(id);
        let (snapshot, absent) =
            (repository.join("snapshots").join(commit), repository.join(".no_exist").join(commit));
        snapshot.join(".gitattributes").exists()
            || optional.iter().all(|name| snapshot.join(name).exists() || absent.join(name).exists())
    }

    fn repository(&self, id: &str) -> PathBuf {
        self.root.join(format!("models--{}", id.replace('/', "--")))
    }
}

/// Returns the name of `path` in `blobs/`, which is its hash.
fn blob_name(path: &Path) -> Option<String> {
    let target = fs_err::canonicalize(path).ok()?;
    (target.parent()?.file_name()? == "blobs").then(|| target.file_name()?.to_str().map(String::from))?
}

/// Checks a file of the cache against its name in `blobs/`.
///
/// A file that is not a link into `blobs/` has no known hash; `listed` or the user must vouch for it.
pub(super) fn verify(path: &Path) -> Result<(), Error> {
    let place = || path.display().to_string();
    match blob_name(path) {
        Some(name) if is_hex(&name, 64) => check_sha256(path, &name, NAMED),
        Some(name) if is_hex(&name, 40) => check_git(path, &name, NAMED),
        _ => Err(Error::Layout {
            place: place(),
            reason: "the local hub cache does not say which bytes this file should have".into(),
            hint: "allow the network, so that the hub can be asked, or import the folder itself with `--model-dir` (in make: MODEL_DIR=…)"
                .into(),
        }),
    }
}

/// Checks a file that [`is_same`] took for the listed one: against its name in `blobs/`, which is the listed hash, or else against
/// the list.
pub(super) fn verify_same(path: &Path, entry: &Entry) -> Result<(), Error> {
    match blob_name(path) {
        Some(name) if is_hex(&name, 64) || is_hex(&name, 40) => verify(path),
        _ => verify_listed(path, entry),
    }
}

/// Checks a file against what the hub lists; one whose hash is not listed passes.
pub(super) fn verify_listed(path: &Path, entry: &Entry) -> Result<(), Error> {
    match (&entry.sha256, &entry.git_oid) {
        (Some(sha256), _) => check_sha256(path, sha256, entry.promised_by),
        (None, Some(oid)) => check_git(path, oid, entry.promised_by),
        (None, None) => Ok(()),
    }
}

const NAMED: &str = "its name in the local hub cache";
const DAMAGED: &str = "the cached file is damaged; delete it, then run the same command again to download it";

fn check_sha256(path: &Path, expected: &str, promised_by: &'static str) -> Result<(), Error> {
    let actual = sha256_of(path)?;
    if actual == expected {
        return Ok(());
    }
    let (place, expected) = (path.display().to_string(), expected.to_owned());
    Err(Error::Hash { place, expected, actual, promised_by, hint: DAMAGED.into() })
}

fn check_git(path: &Path, expected: &str, promised_by: &'static str) -> Result<(), Error> {
    let bytes = fs_err::metadata(path)?.len();
    let actual = hub::git_oid(&mut ::files::open(path)?, bytes)?;
    if actual == expected {
        return Ok(());
    }
    let (place, expected) = (path.display().to_string(), expected.to_owned());
    Err(Error::GitHash { place, expected, actual, promised_by, hint: DAMAGED.into() })
}

/// Returns whether a cached file claims to be the one that the hub lists: by its size and its name in `blobs/`, or, without such a
/// name, by its bytes.
pub(super) fn is_same(path: &Path, entry: &Entry) -> bool {
    let size = fs_err::metadata(path).map(|meta| meta.len()).ok();
    if entry.bytes.is_some() && entry.bytes != size {
        return false;
    }
    match (&entry.sha256, &entry.git_oid, blob_name(path)) {
        (Some(sha256), _, Some(name)) if is_hex(&name, 64) => *sha256 == name,
        (None, Some(oid), Some(name)) if is_hex(&name, 40) => *oid == name,
        (None, None, _) => false,
        _ => verify_listed(path, entry).is_ok(),
    }
}
