//! Hashing files, in several threads, or recalling their hashes.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::digest::FileHash;
use crate::error::{Result, tree_error};
use crate::memo::Memo;
use crate::os;
use crate::stamp::Stamp;

/// Below this size one thread hashes faster than several.
const PARALLEL_BYTES: u64 = 8 << 20;

/// Hashes a file, through symlinks, or recalls its hash.
///
/// # Errors
///
/// Fails when it cannot be read, or is not a regular file.
pub fn hash_file(path: &Path, memo: &Memo) -> Result<FileHash> {
    Ok(hash_opened(path, os::open_through_links(path)?, Some(memo))?.sha256)
}

/// Hashes files given with their sizes; refuses symlinks.
pub(crate) fn hash_files(files: &[(PathBuf, u64)]) -> Result<Vec<FileHash>> {
    let hash = |path: &Path| Ok(hash_opened(path, os::open_file(path)?, None)?.sha256);
    in_threads(files, &hash).into_iter().collect()
}

/// Hashes files given with their sizes, through symlinks; takes the hashes of unchanged files from `memo`.
pub(crate) fn hash_through_links(files: &[(PathBuf, u64)], memo: &Memo) -> Result<Vec<Hashed>> {
    let hash = |path: &Path| hash_opened(path, os::open_through_links(path)?, Some(memo));
    in_threads(files, &hash).into_iter().collect()
}

/// Hashes files given with their sizes; refuses symlinks, takes the hashes of unchanged files from `memo`, and returns one
/// result for each file.
pub(crate) fn hash_or_recall(files: &[(PathBuf, u64)], memo: &Memo) -> Vec<Result<Hashed>> {
    in_threads(files, &|path| hash_opened(path, os::open_file(path)?, Some(memo)))
}

/// Hashes files given with their sizes; refuses symlinks, reads every byte, and remembers the hashes in `memo`.
pub(crate) fn hash_and_remember(files: &[(PathBuf, u64)], memo: &Memo) -> Vec<Result<Hashed>> {
    in_threads(files, &|path| {
        let hashed = hash_opened(path, os::open_file(path)?, None)?;
        hashed.remember(memo, path);
        Ok(hashed)
    })
}

/// The hash of a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hashed {
    pub(crate) sha256: FileHash,
    /// Stamp before the file was read.
    pub(crate) stamp: Stamp,
    /// Bytes that were read: none if the hash was remembered.
    pub(crate) read: u64,
}

impl Hashed {
    /// Remembers the hash if the file did not change while it was read.
    fn remember(&self, memo: &Memo, path: &Path) {
        if Stamp::of(path).is_ok_and(|stamp| stamp == self.stamp) {
            memo.remember(&self.stamp, &self.sha256);
        }
    }
}

/// Hashes an opened file, or recalls its hash.
fn hash_opened(path: &Path, mut file: File, memo: Option<&Memo>) -> Result<Hashed> {
    let metadata = file.metadata().map_err(|error| os::named(error, "look at", path))?;
    if !metadata.is_file() {
        return Err(tree_error(path, "it is not a regular file"));
    }
    let stamp = Stamp::of_metadata(&metadata);
    if let Some(sha256) = memo.and_then(|memo| memo.recall(&stamp)) {
        return Ok(Hashed { sha256, stamp, read: 0 });
    }
    let sha256 = FileHash::of_reader(&mut file).map_err(|error| os::named(error, "read", path))?;
    let hashed = Hashed { sha256, stamp, read: stamp.size };
    if let Some(memo) = memo {
        hashed.remember(memo, path);
    }
    Ok(hashed)
}

/// Works on files given with their sizes, in several threads if there is enough to read.
fn in_threads<T: Send>(files: &[(PathBuf, u64)], work: &(dyn Fn(&Path) -> T + Sync)) -> Vec<T> {
    let total: u64 = files.iter().map(|(_, size)| size).sum();
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(4).min(files.len());
    if total < PARALLEL_BYTES || workers < 2 {
        return files.iter().map(|(path, _)| work(path)).collect();
    }
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(files.len()));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((index, (path, _))) = Some(next.fetch_add(1, Ordering::Relaxed))
                    .and_then(|index| files.get(index).map(|file| (index, file)))
                {
                    let result = work(path);
                    done.lock().expect("no worker panics").push((index, result));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("no worker panics");
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}
