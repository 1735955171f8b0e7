//! Folders that a command writes to: none of them may be in the store, which holds artifacts only.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Fails if `path`, given as `argument`, is the store or a place in it, however both are written.
///
/// # Errors
///
/// As described.
pub(crate) fn refuse_the_store(store: &Path, argument: &str, path: &Path) -> Result<()> {
    if !resolved(path).starts_with(resolved(store)) {
        return Ok(());
    }
    let (path, store) = (path.display(), store.display());
    Err(Error::Usage(format!(
        "`{argument}` names a folder in the store: `{path}` is in `{store}`; choose another"
    )))
}

/// Returns the path without links, as far as it exists.
pub(crate) fn resolved(path: &Path) -> PathBuf {
    let existing = path.ancestors().find_map(|ancestor| {
        let place = if ancestor.as_os_str().is_empty() { Path::new(".") } else { ancestor };
        let rest = path.strip_prefix(ancestor).unwrap_or(Path::new(""));
        Some(fs_err::canonicalize(place).ok()?.join(rest))
    });
    // Without a slash at the end.
    existing.unwrap_or_else(|| path.to_owned()).components().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_is_refused_under_every_name() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("artifacts");
        fs_err::create_dir_all(store.join("train")).unwrap();
        std::os::unix::fs::symlink(&store, dir.path().join("link")).unwrap();
        for (place, refused) in [
            ("artifacts", true),
            ("artifacts/", true),
            ("artifacts/train/x/y", true),
            ("link/train", true),
            ("artifacts/../artifacts/train", true),
            ("artifacts-2", false),
            ("artifacts/../away", false),
            ("", false),
        ] {
            let found = refuse_the_store(&store, "--to", &dir.path().join(place));
            assert_eq!(found.is_err(), refused, "`{place}`");
        }
    }
}
