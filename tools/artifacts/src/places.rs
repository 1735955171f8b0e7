//! Folders that a command works on: the store must be one, and none that a command writes to may be in it, since it holds
//! artifacts only.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::leftovers;

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

/// Fails if there is no store, so that a mistyped one is not taken for an empty one. What holds artifacts, or what a killed run
/// left, is a store also without the file that says so.
///
/// # Errors
///
/// As described.
pub(crate) fn check_store(catalog: &Catalog) -> Result<()> {
    if !catalog.entries.is_empty() {
        return Ok(());
    }
    let root = catalog.store.root();
    match fs_err::symlink_metadata(root.join("STORE")) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if !leftovers::find(root)?.is_empty() {
                return Ok(());
            }
            Err(Error::NoStore { root: root.to_owned(), is_folder: root.is_dir() })
        }
        Err(error) => Err(error.into()),
    }
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
