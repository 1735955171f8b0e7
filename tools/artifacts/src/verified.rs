//! Records of complete verifications, one file for each artifact in the folder `.verified/` of the store.
//!
//! A copy of a store contains the records of the original, but its files have not been verified. A record therefore also holds the device,
//! inode and change time of the artifact's `COMMIT`, which differ in every copy.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use artifact::{Key, Store, atomic};

use crate::catalog::Entry;

/// Folder of the store with the records.
const FOLDER: &str = ".verified";
/// Longest record.
const RECORD_BYTES: u64 = 256;

/// Distinguishes the folder of an artifact from its copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity(String);

impl Identity {
    /// Returns the identity of an artifact; `None` if it has no `COMMIT`.
    pub(crate) fn of(artifact: &Path) -> Option<Self> {
        let commit = artifact.join("COMMIT").symlink_metadata().ok()?;
        let (seconds, nanoseconds) = (commit.ctime(), commit.ctime_nsec());
        Some(Self(format!("{} {} {seconds}.{nanoseconds:09}", commit.dev(), commit.ino())))
    }
}

/// Returns the time when this folder was last verified completely.
pub(crate) fn last(store: &Store, entry: &Entry) -> Option<SystemTime> {
    let text = files::read_text(&file(store, &entry.stage, &entry.key), RECORD_BYTES).ok()?;
    // The first version of the format had the time alone.
    let (time, identity) = text.trim_end().split_once(' ')?;
    let is_same = Identity::of(&entry.path).is_some_and(|found| found.0 == identity);
    is_same.then(|| humantime::parse_rfc3339(time).ok())?
}

/// Records that an artifact is sound. `identity` is that before it was read. Errors are ignored, so that a read-only store can be verified.
pub(crate) fn note(store: &Store, stage: &str, key: &Key, identity: &Identity) {
    let text = format!("{} {}\n", artifact::format_utc(artifact::now()), identity.0);
    let written = fs_err::create_dir_all(store.root().join(FOLDER))
        .and_then(|()| atomic::write_file(&file(store, stage, &key.short()), text.as_bytes()));
    if let Err(error) = written {
        tracing::debug!("cannot record a verification: {}", failure::describe(&error));
    }
}

fn file(store: &Store, stage: &str, key: &str) -> PathBuf {
    store.root().join(FOLDER).join(format!("{stage}.{key}"))
}
