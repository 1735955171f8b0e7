//! Finding artifacts in the store: those of a key, and manifests for comparison.

use std::path::Path;

use artifact::{Artifact, Key, Level, Manifest, Store};
use failure::Result;

/// Longest manifest that is read, in bytes.
const LONGEST_MANIFEST: u64 = 256 << 20;

/// Looks up a key, whose lock the caller holds; a damaged artifact is moved to quarantine and counts as missing.
pub(crate) fn find_or_quarantine(
    store: &Store,
    stage: &str,
    key: &Key,
    slug: &str,
) -> Result<Option<Artifact>> {
    let error = match store.lookup_with(stage, key, slug, Level::Auto) {
        Ok(found) => return Ok(found),
        Err(error) if error.is_damage() => error,
        Err(error) => return Err(error.into()),
    };
    let Some(path) = store.find(stage, key, slug)? else { return Ok(None) };
    match store.quarantine_damaged(&path, stage, key)? {
        Some(moved) => {
            tracing::warn!("{error}; moved to `{}`, running again", moved.display());
            Ok(None)
        }
        None => Ok(store.lookup_with(stage, key, slug, Level::Auto)?),
    }
}

/// Reads the manifest of an artifact without verifying anything; `None` if it cannot be read.
pub(crate) fn read_manifest(artifact: &Path) -> Option<Manifest> {
    let path = artifact.join("manifest.json");
    Manifest::from_bytes(&path, &files::read(&path, LONGEST_MANIFEST).ok()?).ok()
}
