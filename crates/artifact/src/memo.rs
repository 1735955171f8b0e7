//! Remembered hashes of large input files, so that they are not read again on every run.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::digest::FileHash;
use crate::stamp::Stamp;
use crate::{atomic, clock};

/// Size in bytes from which a hash is remembered; smaller files are hashed quickly.
const LARGE: u64 = 16 << 20;
/// A file changed more recently could change again within one tick of its file system's clock.
const SETTLED_SECONDS: i64 = 2;

/// Hashes of large files by device, inode, size and times; the default remembers nothing.
///
/// The folder may be deleted at any time. Times never enter a key. A wrong clock at worst causes a second read, or a stale
/// hash if the change time of a changed file did not move.
#[derive(Debug, Clone, Default)]
pub struct Memo {
    dir: Option<PathBuf>,
}

impl Memo {
    /// Remembers in `root/name` if `root` exists.
    pub(crate) fn in_folder(root: &Path, name: &str) -> Self {
        Self { dir: root.is_dir().then(|| root.join(name)) }
    }

    pub(crate) fn recall(&self, stamp: &Stamp) -> Option<FileHash> {
        let path = self.path(stamp)?;
        fs_err::read_to_string(path).ok()?.strip_suffix('\n')?.parse().ok()
    }

    /// Remembers a hash; a failure is only logged.
    pub(crate) fn remember(&self, stamp: &Stamp, sha256: &FileHash) {
        let now = clock::since_1970(clock::now()).as_secs() as i64;
        let settled = |(seconds, _): (i64, i64)| seconds + SETTLED_SECONDS < now;
        let Some(path) = self.path(stamp).filter(|_| settled(stamp.modified) && settled(stamp.changed))
        else {
            return;
        };
        let written = fs_err::create_dir_all(path.parent().unwrap_or(&path))
            .and_then(|()| atomic::write_file(&path, format!("{sha256}\n").as_bytes()));
        if let Err(error) = written {
            tracing::debug!("cannot remember a hash: {}", failure::describe(&error));
        }
    }

    fn path(&self, stamp: &Stamp) -> Option<PathBuf> {
        let dir = self.dir.as_ref().filter(|_| stamp.size >= LARGE)?;
        let mut text = String::new();
        for number in [stamp.modified.0, stamp.modified.1, stamp.changed.0, stamp.changed.1] {
            write!(text, "{number} ").expect("writing to a string succeeds");
        }
        write!(text, "{} {} {}", stamp.device, stamp.inode, stamp.size)
            .expect("writing to a string succeeds");
        Some(dir.join(FileHash::of(text.as_bytes()).short()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bare::Bare;
    use std::time::{Duration, SystemTime};

    #[test]
    fn settled_large_file_is_read_once_and_again_after_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let memo = Memo::in_folder(dir.path(), "memo");
        let path = dir.path().join("large.bin");
        fs_err::write(&path, vec![1; LARGE as usize]).unwrap();
        let first = Bare::scan_with(&path, &memo).unwrap().hash();
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

        let file = fs_err::OpenOptions::new().write(true).open(&path).unwrap();
        file.file().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(5)).unwrap();
        assert_eq!(Bare::scan_with(&path, &memo).unwrap().hash(), first);
    }

    #[test]
    fn torn_memory_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let memo = Memo::in_folder(dir.path(), "memo");
        let stamp = Stamp { size: LARGE, modified: (1, 0), changed: (1, 0), inode: 1, device: 1 };
        memo.remember(&stamp, &FileHash::of(b"x"));
        let path = memo.path(&stamp).unwrap();
        for torn in ["", "12", &"0".repeat(64)] {
            fs_err::write(&path, torn).unwrap();
            assert_eq!(memo.recall(&stamp), None);
        }
    }
}
