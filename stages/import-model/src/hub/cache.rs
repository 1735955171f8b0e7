//! The local cache that all tools of the hub share: `models--ORG--NAME/{refs,snapshots,blobs}`.
//!
//! A snapshot is a folder of links into `blobs/`, where the name of a file is its hash: SHA-256 for large files, git's
//! object id for small ones. This program only reads it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hub::{Entry, is_hex};

use crate::error::Error;
use crate::files::sha256_of;
use crate::layout::{POOLING, is_plain_name};

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
        let text = fs_err::read_to_string(self.repository(id).join("refs").join(revision)).ok()?;
        let commit = text.trim().to_owned();
        is_hex(&commit, 40).then_some(commit)
    }

    /// Returns the files of a snapshot that are present, by name.
    pub fn files(&self, id: &str, commit: &str) -> BTreeMap<String, PathBuf> {
        let folder = self.repository(id).join("snapshots").join(commit);
        let Ok(entries) = fs_err::read_dir(&folder) else { return BTreeMap::new() };
        let pooling = folder.join(POOLING);
        let pooling = pooling.is_file().then(|| (POOLING.to_owned(), pooling));
        let named =
            entries.flatten().map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()));
        named.filter(|(name, path)| is_plain_name(name) && path.is_file()).chain(pooling).collect()
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

/// Checks a large file of the cache against its name in `blobs/`.
pub(super) fn verify(path: &Path) -> Result<(), Error> {
    let Some(expected) = blob_name(path).filter(|name| is_hex(name, 64)) else { return Ok(()) };
    let actual = sha256_of(path)?;
    if actual == expected {
        return Ok(());
    }
    Err(Error::Hash {
        place: path.display().to_string(),
        expected,
        actual,
        promised_by: "its name in the local hub cache",
        hint: "the cached file is damaged; delete it, then run the same command again to download it".into(),
    })
}

/// Returns whether a cached file is the one that the hub lists.
pub(super) fn is_same(path: &Path, entry: &Entry) -> bool {
    let size = fs_err::metadata(path).map(|meta| meta.len()).ok();
    if entry.bytes.is_some() && entry.bytes != size {
        return false;
    }
    match (&entry.sha256, blob_name(path)) {
        (Some(sha256), Some(name)) if is_hex(&name, 64) => *sha256 == name,
        (Some(sha256), _) => sha256_of(path).is_ok_and(|actual| actual == *sha256),
        (None, Some(name)) => entry.git_oid.as_ref() == Some(&name),
        (None, None) => false,
    }
}
