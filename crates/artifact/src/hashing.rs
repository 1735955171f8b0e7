//! Hashing files, in several threads, or recalling their hashes.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Builder;
use std::time::SystemTime;

use crate::digest::FileHash;
use crate::error::{Result, tree_error};
use crate::memo::Memo;
use crate::stamp::{Hashed, LARGE, Stamp};
use crate::{clock, os};

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
        remember(&hashed, memo, path);
        Ok(hashed)
    })
}

/// Remembers the hash of a settled file that did not change while it was read.
fn remember(hashed: &Hashed, memo: &Memo, path: &Path) {
    if hashed.is_settled && Stamp::of(path).is_ok_and(|stamp| stamp == hashed.stamp) {
        memo.remember(&hashed.stamp, &hashed.sha256);
    }
}

/// Hashes an opened file, or recalls its hash.
fn hash_opened(path: &Path, file: File, memo: Option<&Memo>) -> Result<Hashed> {
    hash_by_clock(path, file, memo, clock::now)
}

/// As [`hash_opened`], with the clock `now`.
fn hash_by_clock(
    path: &Path,
    mut file: File,
    memo: Option<&Memo>,
    now: impl Fn() -> SystemTime,
) -> Result<Hashed> {
    let mut stamp = stamp_of(path, &file)?;
    let mut is_settled = stamp.is_settled(now());
    if let Some(sha256) = memo.and_then(|memo| memo.recall(&stamp)) {
        return Ok(Hashed { sha256, stamp, is_settled, read: 0 });
    }
    if is_settled && stamp.size >= LARGE {
        os::flush_mapped(path, &file);
        stamp = stamp_of(path, &file)?;
        is_settled = stamp.is_settled(now());
    }
    let sha256 = FileHash::of_reader(&mut file).map_err(|error| os::named(error, "read", path))?;
    let hashed = Hashed { sha256, stamp, is_settled, read: stamp.size };
    if let Some(memo) = memo {
        remember(&hashed, memo, path);
    }
    Ok(hashed)
}

/// Returns the stamp of an opened file.
fn stamp_of(path: &Path, file: &File) -> Result<Stamp> {
    let metadata = file.metadata().map_err(|error| os::named(error, "look at", path))?;
    if !metadata.is_file() {
        return Err(tree_error(path, "it is not a regular file"));
    }
    Ok(Stamp::of_metadata(&metadata))
}

/// Works on files given with their sizes, in several threads if there is enough to read.
fn in_threads<T: Send>(files: &[(PathBuf, u64)], work: &(dyn Fn(&Path) -> T + Sync)) -> Vec<T> {
    let total: u64 = files.iter().map(|(_, size)| *size).fold(0, u64::saturating_add);
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(4).min(files.len());
    if total < PARALLEL_BYTES || workers < 2 {
        return files.iter().map(|(path, _)| work(path)).collect();
    }
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(files.len()));
    let worker = || {
        while let Some((index, (path, _))) = Some(next.fetch_add(1, Ordering::Relaxed))
            .and_then(|index| files.get(index).map(|file| (index, file)))
        {
            let result = work(path);
            done.lock().expect("no worker panics").push((index, result));
        }
    };
    std::thread::scope(|scope| {
        // This thread is one of them; the system may allow no further ones.
        for _ in 1..workers {
            let _ = Builder::new().spawn_scoped(scope, worker);
        }
        worker();
    });
    let mut done = done.into_inner().expect("no worker panics");
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn large_file(dir: &Path) -> PathBuf {
        let path = dir.join("large.bin");
        fs_err::write(&path, vec![1; LARGE as usize]).unwrap();
        path
    }

    fn hash_after(path: &Path, memo: &Memo, seconds: u64) -> Hashed {
        let file = os::open_file(path).unwrap();
        hash_by_clock(path, file, Some(memo), || clock::now() + Duration::from_secs(seconds)).unwrap()
    }

    #[test]
    fn file_that_was_new_before_it_was_read_is_never_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let (path, memo) = (large_file(dir.path()), Memo::in_folder(dir.path(), "memo"));
        let new = hash_after(&path, &memo, 0);
        assert!(!new.is_settled);
        // As if reading it had taken long enough for its times to look old.
        remember(&new, &memo, &path);
        assert_eq!(memo.recall(&new.stamp), None);

        let old = hash_after(&path, &memo, 10);
        assert!(old.is_settled);
        assert_eq!((memo.recall(&new.stamp), old.read), (Some(new.sha256), LARGE));
        assert_eq!(hash_after(&path, &memo, 10).read, 0);
    }

    #[cfg(feature = "fault-injection")]
    #[test]
    fn large_file_is_flushed_before_its_times_are_trusted() {
        use std::cell::RefCell;
        use std::rc::Rc;
        let dir = tempfile::tempdir().unwrap();
        let (path, memo) = (large_file(dir.path()), Memo::in_folder(dir.path(), "memo"));
        let flushes = |seconds: u64| {
            let seen = Rc::new(RefCell::new(0_usize));
            let count = Rc::clone(&seen);
            let observer = move |operation: &str, _: &Path| {
                *count.borrow_mut() += usize::from(operation == "flush");
            };
            crate::faults::observe(observer, || hash_after(&path, &memo, seconds));
            *seen.borrow()
        };
        assert_eq!(flushes(0), 0, "its times are not trusted");
        assert_eq!(flushes(10), 1);
        assert_eq!(flushes(10), 0, "its hash is remembered");
    }
}
