//! Refuses symlinks in place of a store's top-level folders.
//!
//! If others can write to a store, they could point such a link at any folder of this user, and gc, a label or a run would delete or
//! replace files there. A link into another store is no better: gc does not know that store's labels and pointers.

use std::path::Path;

use crate::error::{Error, Result};
use crate::names::check_stage;

/// The store's top-level folders other than those of stages. `.memo` is missing here: it is a cache, and is ignored if it is a link.
const OWN: [&str; 7] = [".kept", ".locks", ".quarantine", ".trash", ".verified", ".work", "refs"];

/// Checks that none of the [`OWN`] folders of the store in `root` is a link. A regular file in place of one is an error only when the
/// folder is needed.
///
/// # Errors
///
/// [`Error::Linked`] names the path.
pub(crate) fn check_all(root: &Path) -> Result<()> {
    let linked = OWN.iter().map(|name| root.join(name)).find(|path| path.is_symlink());
    linked.map_or(Ok(()), |path| Err(Error::Linked { path }))
}

/// Checks a top-level folder of a store, which may be missing: it must not be a link, and an [`OWN`] folder must be a folder.
///
/// # Errors
///
/// [`Error::Linked`] and [`Error::Occupied`] name the path.
pub(crate) fn check(path: &Path) -> Result<()> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let is_own = OWN.contains(&name);
    if !is_own && check_stage(name).is_err() {
        return Ok(());
    }
    match path.symlink_metadata() {
        Ok(found) if found.is_symlink() => Err(Error::Linked { path: path.to_owned() }),
        Ok(found) if is_own && !found.is_dir() => {
            Err(Error::Occupied { path: path.to_owned(), reason: "is not a folder".to_owned() })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use crate::{Artifact, Draft, KeyMaterial, Store};

    /// Makes a store with one artifact, and a folder of the user with one file.
    fn store_and_folder() -> (tempfile::TempDir, Store, PathBuf) {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(&home.path().join("artifacts")).unwrap();
        publish(&store).unwrap();
        let folder = home.path().join("thesis");
        fs_err::create_dir_all(folder.join("chapter")).unwrap();
        fs_err::write(folder.join("chapter/text"), "years of work").unwrap();
        (home, store, folder)
    }

    fn publish(store: &Store) -> Result<Artifact> {
        let staging = store.stage_new("demo")?;
        fs_err::write(staging.data().join("a.json"), "{}").unwrap();
        let draft = Draft::new("toy", KeyMaterial::new("demo", 1, serde_json::json!({})));
        Ok(staging.publish(&draft, &mut || Ok(()))?.artifact().clone())
    }

    fn is_linked<T>(result: &Result<T>) -> bool {
        matches!(result, Err(Error::Linked { .. }))
    }

    #[test]
    fn a_store_with_a_linked_folder_is_not_opened_and_a_file_in_its_place_not_used() {
        for name in OWN {
            let (_home, store, folder) = store_and_folder();
            let place = store.root().join(name);
            if place.exists() {
                fs_err::rename(&place, folder.join("moved")).unwrap();
            }
            symlink(&folder, &place).unwrap();
            assert!(is_linked(&Store::open(store.root())), "{name}");
            fs_err::remove_file(&place).unwrap();
            fs_err::write(&place, "").unwrap();
            let store = Store::open(store.root()).unwrap();
            assert!(matches!(store.folder(name), Err(Error::Occupied { .. })), "{name}");
        }
    }

    #[test]
    fn links_that_appear_after_the_store_was_opened_are_not_followed() {
        let (_home, store, folder) = store_and_folder();
        let lock = store.lock_collection().unwrap();
        let artifact =
            Artifact::open(&store.root().join("demo").join(&store.names("demo").unwrap()[0])).unwrap();
        for name in [".trash", ".quarantine", "refs"] {
            symlink(&folder, store.root().join(name)).unwrap();
        }
        assert!(is_linked(&store.empty_trash(&lock)));
        assert!(is_linked(&store.quarantine(artifact.path(), "demo", &artifact.manifest().key, "test")));
        assert!(is_linked(&store.set_ref("chapter", &artifact)));
        assert!(is_linked(&store.check_ref("chapter")));

        let stage = store.root().join("demo");
        fs_err::rename(&stage, folder.join("demo")).unwrap();
        symlink(folder.join("demo"), &stage).unwrap();
        assert!(is_linked(&store.find("demo", &artifact.manifest().key, "")));
        assert!(is_linked(&publish(&store)));
        fs_err::create_dir_all(store.root().join(".work")).unwrap();
        symlink(&folder, store.root().join(".work/demo")).unwrap();
        assert!(is_linked(&store.workspace("demo", &artifact.manifest().key)));
        assert_eq!(fs_err::read(folder.join("chapter/text")).unwrap(), b"years of work");
    }
}
