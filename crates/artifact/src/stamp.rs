//! Sizes and times of files at the moment they were hashed, to notice later changes.

use std::fmt::Write as _;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::clock;
use crate::digest::FileHash;
use crate::error::Result;

/// Size in bytes from which a stamp may stand for the bytes; smaller files are read again quickly.
pub(crate) const LARGE: u64 = 1 << 20;
/// A file changed more recently could change again within one tick of its file system's clock.
const SETTLED_SECONDS: i64 = 2;

/// Size, times and identity of a file: enough to notice that it was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub(crate) size: u64,
    pub(crate) modified: (i64, i64),
    pub(crate) changed: (i64, i64),
    /// Zero where the file system does not record it.
    pub(crate) created: (i64, i64),
    pub(crate) inode: u64,
    pub(crate) device: u64,
}

impl Stamp {
    /// Reads the stamp of a file, through symlinks.
    ///
    /// # Errors
    ///
    /// Fails when the metadata of the file cannot be read.
    pub fn of(path: &Path) -> Result<Self> {
        Ok(Self::of_metadata(&fs_err::metadata(path)?))
    }

    /// Returns the stamp in the metadata of a file.
    pub(crate) fn of_metadata(metadata: &Metadata) -> Self {
        let created =
            metadata.created().ok().and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        Self {
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            created: created.map_or((0, 0), |time| (time.as_secs() as i64, i64::from(time.subsec_nanos()))),
            inode: metadata.ino(),
            device: metadata.dev(),
        }
    }

    /// Returns whether every later write gets another time than the stamp has, if it is `now`.
    ///
    /// Says nothing about bytes that were read before `now`: ask before the first byte is read.
    pub(crate) fn is_settled(&self, now: SystemTime) -> bool {
        let now = clock::since_1970(now).as_secs() as i64;
        self.modified.0.max(self.changed.0) + SETTLED_SECONDS < now
    }

    /// Returns all fields as text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for (seconds, nanoseconds) in [self.modified, self.changed, self.created] {
            write!(text, "{seconds}.{nanoseconds} ").expect("writing to a string succeeds");
        }
        write!(text, "{} {} {}", self.device, self.inode, self.size).expect("writing to a string succeeds");
        text
    }
}

/// The hash of a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hashed {
    pub(crate) sha256: FileHash,
    /// Stamp before the file was read.
    pub(crate) stamp: Stamp,
    /// Whether the stamp was settled before the file was read. Asked later, a file that is slow to read would always be.
    pub(crate) is_settled: bool,
    /// Bytes that were read: none if the hash was remembered.
    pub(crate) read: u64,
}

/// Stamps and hashes of files, and the names in folders, to notice changes during a run.
#[derive(Debug, Clone, Default)]
pub struct Witness {
    files: Vec<Seen>,
    folders: Vec<Listing>,
}

/// A file when it was hashed.
#[derive(Debug, Clone)]
struct Seen {
    path: PathBuf,
    stamp: Stamp,
    sha256: FileHash,
    /// Whether every later write changes the times of the stamp.
    is_settled: bool,
}

/// The files below a folder.
#[derive(Debug, Clone)]
struct Listing {
    folder: PathBuf,
    files: Vec<PathBuf>,
    list: fn(&Path) -> Result<Vec<PathBuf>>,
}

impl Witness {
    /// Adds a file, which is yet to be read, with the hash that its bytes should have.
    ///
    /// # Errors
    ///
    /// Fails when the metadata of the file cannot be read.
    pub fn add(&mut self, path: PathBuf, sha256: FileHash) -> Result<()> {
        let stamp = Stamp::of(&path)?;
        self.files.push(Seen { path, stamp, sha256, is_settled: stamp.is_settled(clock::now()) });
        Ok(())
    }

    /// Adds a file that was hashed.
    pub(crate) fn add_hashed(&mut self, path: PathBuf, hashed: &Hashed) {
        let Hashed { sha256, stamp, is_settled, .. } = *hashed;
        self.files.push(Seen { path, stamp, sha256, is_settled });
    }

    /// Adds a folder, in which `list` found `files`, sorted.
    pub(crate) fn add_folder(
        &mut self,
        folder: PathBuf,
        files: Vec<PathBuf>,
        list: fn(&Path) -> Result<Vec<PathBuf>>,
    ) {
        self.folders.push(Listing { folder, files, list });
    }

    /// Returns the first file that changed, appeared or is gone.
    ///
    /// Size, modification time and inode must be equal. If only the change time differs (a new mode or link), or if another write
    /// may have left no trace in the times, the bytes are compared. It may if the file had changed just before it was hashed, or
    /// through a mapping: large files are flushed against that before they are hashed, and small ones are always compared.
    pub fn changed(&self) -> Option<PathBuf> {
        let file = self.files.iter().find(|seen| seen.differs()).map(|seen| seen.path.clone());
        file.or_else(|| self.folders.iter().find_map(Listing::changed))
    }
}

impl Seen {
    fn differs(&self) -> bool {
        match Stamp::of(&self.path) {
            Ok(new) if new == self.stamp && self.is_settled && new.size >= LARGE => false,
            Ok(new) if (Stamp { changed: self.stamp.changed, ..new }) == self.stamp => {
                let read = |mut file| FileHash::of_reader(&mut file);
                fs_err::File::open(&self.path).and_then(read).ok() != Some(self.sha256)
            }
            _ => true,
        }
    }
}

impl Listing {
    fn changed(&self) -> Option<PathBuf> {
        let Ok(now) = (self.list)(&self.folder) else { return Some(self.folder.clone()) };
        let added = now.iter().find(|path| self.files.binary_search(path).is_err());
        added.or_else(|| self.files.iter().find(|path| now.binary_search(path).is_err())).cloned()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn two_seconds_settle_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut stamp = Stamp::of(dir.path()).unwrap();
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 999);
        for (modified, changed) in [(1000, 5), (5, 1000), (1000, 1000)] {
            (stamp.modified.0, stamp.changed.0) = (modified, changed);
            let settled = [999, 1000, 1002, 1003].map(|now| stamp.is_settled(at(now)));
            assert_eq!(settled, [false, false, false, true]);
        }
    }

    /// Returns whether a witness notices other bytes in a file of `size` bytes that has the same times.
    fn notices(size: u64, is_settled: bool) -> bool {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs_err::write(&path, vec![1; size as usize]).unwrap();
        let (sha256, stamp) = (FileHash::of(b"what was there before"), Stamp::of(&path).unwrap());
        let mut witness = Witness::default();
        witness.add_hashed(path.clone(), &Hashed { sha256, stamp, is_settled, read: size });
        witness.changed() == Some(path)
    }

    #[test]
    fn times_stand_for_the_bytes_of_large_files_that_were_settled_when_they_were_hashed() {
        assert!(notices(LARGE, false), "written again within the tick, while another file was hashed");
        assert!(notices(LARGE - 1, true), "written through a mapping");
        assert!(!notices(LARGE, true));
    }
}
