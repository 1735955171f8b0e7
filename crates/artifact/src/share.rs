//! Copies that take no space where they can: of files that never change again.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::os;

/// Copies a file of an artifact to another one: shares its blocks where the file system can, else links it if both are in the same
/// store, where published files never change. Everything else is copied.
///
/// # Errors
///
/// Fails when the file cannot be copied.
pub fn share_file(from: &Path, to: &Path) -> io::Result<()> {
    if reflink_copy::reflink(from, to).is_ok() {
        return Ok(());
    }
    let is_published = own_file(from).is_some_and(|metadata| metadata.mode() & 0o222 == 0);
    let same_store = || store_of(from).is_some_and(|store| store_of(os::parent(to)) == Some(store));
    if is_published && same_store() && fs_err::hard_link(from, to).is_ok() {
        return Ok(());
    }
    fs_err::copy(from, to).map(drop)
}

/// Hands a file that this program wrote and will not write again to another place: shares its blocks, else links it, else copies it.
///
/// In a store of a group, an earlier run of another user may have written it. Such a file is copied, because only its owner may make
/// it read-only.
///
/// # Errors
///
/// Fails when the file cannot be copied.
pub fn hand_over_file(from: &Path, to: &Path) -> io::Result<()> {
    if reflink_copy::reflink(from, to).is_ok()
        || own_file(from).is_some() && fs_err::hard_link(from, to).is_ok()
    {
        return Ok(());
    }
    fs_err::copy(from, to).map(drop)
}

/// Returns the metadata of a regular file that belongs to the user of this process.
fn own_file(path: &Path) -> Option<Metadata> {
    let metadata = fs_err::symlink_metadata(path).ok()?;
    (metadata.is_file() && metadata.uid() == rustix::process::geteuid().as_raw()).then_some(metadata)
}

/// Returns the folder of the store that holds `path`.
fn store_of(path: &Path) -> Option<PathBuf> {
    let path = fs_err::canonicalize(path).ok()?;
    path.ancestors().find(|folder| folder.join("STORE").is_file()).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    /// Writes a file with `mode` below `root`.
    fn write(root: &Path, name: &str, mode: u32) -> PathBuf {
        let path = root.join(name);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(&path, name).unwrap();
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn links(path: &Path) -> u64 {
        fs_err::metadata(path).unwrap().nlink()
    }

    #[test]
    fn only_published_files_of_the_same_store_are_linked() {
        let dir = tempfile::tempdir().unwrap();
        let (store, user) = (dir.path().join("store"), dir.path().join("user"));
        write(&store, "STORE", 0o644);
        let published = write(&store, "train/a/data/x", 0o444);
        let writable = write(&store, "train/b/data/x", 0o644);
        let theirs = write(&user, "x", 0o444);
        fs_err::create_dir_all(store.join("fuse/.tmp")).unwrap();
        for (number, (from, to, may_link)) in [
            (&published, &store.join("fuse/.tmp/0"), true),
            (&writable, &store.join("fuse/.tmp/1"), false),
            (&theirs, &store.join("fuse/.tmp/2"), false),
            (&published, &user.join("3"), false),
        ]
        .into_iter()
        .enumerate()
        {
            share_file(from, to).unwrap();
            assert_eq!(fs_err::read(from).unwrap(), fs_err::read(to).unwrap());
            // A file system that can share blocks links nothing.
            assert!(links(to) == 1 || may_link, "copy {number}");
        }
        let own = write(&store, ".work/y", 0o644);
        hand_over_file(&own, &store.join("fuse/.tmp/4")).unwrap();
        assert_eq!(fs_err::read(store.join("fuse/.tmp/4")).unwrap(), b".work/y");
    }

    #[test]
    fn files_of_other_users_are_copied() {
        let dir = tempfile::tempdir().unwrap();
        let from = write(dir.path(), "from", 0o664);
        assert!(own_file(&from).is_some());
        assert!(own_file(dir.path()).is_none(), "not a file");
        // Only root can give files away.
        if std::os::unix::fs::chown(&from, Some(12345), None).is_err() {
            return;
        }
        assert!(own_file(&from).is_none());
        let to = dir.path().join("to");
        hand_over_file(&from, &to).unwrap();
        assert_eq!((links(&from), fs_err::read(&to).unwrap()), (1, b"from".to_vec()));
        assert!(own_file(&to).is_some(), "its owner may change its mode");
    }
}
