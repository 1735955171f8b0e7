//! Remembered hashes of files, so that they are not read again on every run.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::digest::FileHash;
use crate::stamp::{LARGE, Stamp};
use crate::{atomic, os};

/// Longest remembered entry in bytes.
const LONGEST: u64 = 1024;

/// Hashes of files by device, inode, size and times; the default remembers nothing.
///
/// The folder may be deleted at any time, and never enters a key. An entry counts only if it belongs to this user or to root,
/// nobody else can write to it, and it contains all fields of the stamp. A file that changed within the seconds before it was read
/// is not remembered, because its times could hide another write.
///
/// A file is flushed before it is read, because the system sets its times at the first write through a mapping to a clean page only.
/// File systems in memory (tmpfs) have no clean pages: there, a program that keeps the file mapped can change it unnoticed.
#[derive(Debug, Clone, Default)]
pub struct Memo {
    dir: Option<PathBuf>,
}

impl Memo {
    /// Remembers in `root/name` if `root` exists.
    pub(crate) fn in_folder(root: &Path, name: &str) -> Self {
        Self { dir: root.is_dir().then(|| root.join(name)) }
    }

    /// Returns the memo of the store that holds the artifact in `path`; one that remembers nothing if it is in no store.
    pub fn beside(path: &Path) -> Self {
        let root = || fs_err::canonicalize(path).ok()?.ancestors().nth(2).map(Path::to_owned);
        match root() {
            Some(root) if root.join("STORE").is_file() => Self::in_folder(&root, ".memo"),
            _ => Self::default(),
        }
    }

    /// Returns the remembered hash of a file with this stamp.
    pub(crate) fn recall(&self, stamp: &Stamp) -> Option<FileHash> {
        let file = os::open_file(&self.path(stamp)?).ok().filter(os::is_private)?;
        let mut text = String::new();
        file.take(LONGEST).read_to_string(&mut text).ok()?;
        let hash = text.get(text.find('\n')? + 1..)?.split('\n').next()?.parse().ok()?;
        (text == entry(stamp, &hash)).then_some(hash)
    }

    /// Remembers the hash of a file whose stamp was settled before it was read; a failure is only logged.
    pub(crate) fn remember(&self, stamp: &Stamp, sha256: &FileHash) {
        let Some(path) = self.path(stamp) else { return };
        let folder = os::parent(&path);
        let is_link = || folder.symlink_metadata().is_ok_and(|metadata| !metadata.is_dir());
        let written = fs_err::create_dir_all(folder).and_then(|()| {
            if is_link() {
                return Err(std::io::ErrorKind::NotADirectory.into());
            }
            atomic::write_cache(&path, entry(stamp, sha256).as_bytes())
        });
        if let Err(error) = written {
            tracing::debug!("cannot remember a hash: {}", failure::describe(&error));
        }
    }

    fn path(&self, stamp: &Stamp) -> Option<PathBuf> {
        let dir = self.dir.as_ref().filter(|_| stamp.size >= LARGE)?;
        Some(dir.join(FileHash::of(stamp.text().as_bytes()).short()))
    }
}

/// Returns the text of an entry: the stamp, the hash, and a hash of both, since a power failure may tear it.
fn entry(stamp: &Stamp, sha256: &FileHash) -> String {
    let text = format!("{}\n{sha256}\n", stamp.text());
    let check = FileHash::of(text.as_bytes());
    format!("{text}{check}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bare::Bare;

    #[test]
    fn settled_large_file_is_read_once_and_again_after_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let memo = Memo::in_folder(dir.path(), "memo");
        let path = dir.path().join("large.bin");
        fs_err::write(&path, vec![1; LARGE as usize]).unwrap();
        Bare::scan_with(&path, &memo).unwrap();
        assert!(!dir.path().join("memo").exists(), "changed too recently to be remembered");

        // The change time cannot be set back, so pretend in a stamp.
        let mut stamp = Stamp::of(&path).unwrap();
        (stamp.modified.0, stamp.changed.0) = (1000, 1000);
        let hash = FileHash::of(b"x");
        memo.remember(&stamp, &hash);
        assert_eq!(memo.recall(&stamp), Some(hash));
        stamp.changed.1 += 1;
        assert_eq!(memo.recall(&stamp), None);
        assert_eq!(Memo::default().recall(&stamp), None);
    }

    #[test]
    fn entry_that_others_could_write_is_not_believed() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let memo = Memo::in_folder(dir.path(), "memo");
        let stamp = old();
        memo.remember(&stamp, &FileHash::of(b"x"));
        let path = memo.path(&stamp).unwrap();
        assert!(memo.recall(&stamp).is_some());
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(memo.recall(&stamp), None);
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        fs_err::rename(&path, dir.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &path).unwrap();
        assert_eq!(memo.recall(&stamp), None);
    }

    fn old() -> Stamp {
        Stamp { size: LARGE, modified: (1, 0), changed: (1, 0), created: (1, 0), inode: 1, device: 1 }
    }

    #[test]
    fn torn_memory_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let memo = Memo::in_folder(dir.path(), "memo");
        let stamp = old();
        memo.remember(&stamp, &FileHash::of(b"x"));
        let path = memo.path(&stamp).unwrap();
        let whole = fs_err::read(&path).unwrap();
        for length in 0..whole.len() {
            fs_err::write(&path, &whole[..length]).unwrap();
            assert_eq!(memo.recall(&stamp), None, "cut to {length} bytes");
        }
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            fs_err::write(&path, flipped).unwrap();
            assert_eq!(memo.recall(&stamp), None, "byte {at} is flipped");
        }
        fs_err::write(&path, &whole).unwrap();
        assert_eq!(memo.recall(&Stamp { created: (2, 0), ..stamp }), None, "an inode that was used again");
        assert!(memo.recall(&stamp).is_some());
    }
}
