//! Sizes and times of files at the moment they were hashed, to notice later changes.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::digest::FileHash;
use crate::error::Result;

/// Size, times and identity of a file: enough to notice that it was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub(crate) size: u64,
    pub(crate) modified: (i64, i64),
    pub(crate) changed: (i64, i64),
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
        let metadata = fs_err::metadata(path)?;
        Ok(Self {
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
            device: metadata.dev(),
        })
    }
}

/// Stamps and hashes of files, to notice changes during a run.
#[derive(Debug, Clone, Default)]
pub struct Witness(pub(crate) Vec<(PathBuf, Stamp, FileHash)>);

impl Witness {
    /// Adds a file with its hash.
    ///
    /// # Errors
    ///
    /// Fails when the metadata of the file cannot be read.
    pub fn add(&mut self, path: PathBuf, sha256: FileHash) -> Result<()> {
        let stamp = Stamp::of(&path)?;
        self.0.push((path, stamp, sha256));
        Ok(())
    }

    /// Returns the first file that changed.
    ///
    /// Size, modification time and inode must be equal. If only the change time differs (a new mode or link), the bytes are
    /// compared.
    pub fn changed(&self) -> Option<&Path> {
        let differs = |(path, old, hash): &&(PathBuf, Stamp, FileHash)| match Stamp::of(path) {
            Ok(new) if new == *old => false,
            Ok(new) if (Stamp { changed: old.changed, ..new }) == *old => {
                fs_err::File::open(path).and_then(|mut file| FileHash::of_reader(&mut file)).ok()
                    != Some(*hash)
            }
            _ => true,
        };
        self.0.iter().find(differs).map(|(path, ..)| path.as_path())
    }
}
