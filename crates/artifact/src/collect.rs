//! Removing what nothing needs: the part of gc that touches the store. What may be removed is decided by the caller.
//!
//! A folder is first renamed into `.trash/`, flushed, and then deleted, so nothing half-deleted is ever visible under the name of
//! an artifact. A killed collection leaves whole artifacts, and a `.trash/` that the next one empties.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::{Error, Result};
use crate::store::Store;
use crate::{hold, os};

const TRASH: &str = ".trash";

/// Outcome of [`Store::discard`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discarded {
    /// It is in `.trash/` now.
    Moved,
    /// A process has it open.
    InUse,
    /// It was used since it was listed, or is gone.
    Changed,
}

/// Exclusive lock on an artifact that is to be removed: no process has it open, and none can open it until this is dropped.
#[derive(Debug)]
pub struct Condemned {
    path: PathBuf,
    lock: File,
}

/// Outcome of [`Store::condemn`].
#[derive(Debug)]
pub enum Condemnation {
    /// Nobody has it open.
    Ready(Condemned),
    /// It is kept, for this reason; never [`Discarded::Moved`].
    Spared(Discarded),
}

/// Keeps other collections away; released on drop.
#[derive(Debug)]
pub struct CollectionLock {
    _file: File,
}

impl Store {
    /// Takes the lock of collections, without waiting. Stages do not need it.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] when another process collects.
    pub fn lock_collection(&self) -> Result<CollectionLock> {
        let dir = self.root().join(".locks");
        os::create_dir_all(&dir)?;
        let file = os::open_lock(&dir.join("gc"))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                Err(Error::Locked { what: "gc of this store".to_owned(), holder: String::new() })
            }
            Ok(()) | Err(TryLockError::Error(_)) => Ok(CollectionLock { _file: file }),
        }
    }

    /// Locks an artifact that is to be removed, unless a process has it open or it was used since `last_use`, its modification
    /// time when it was listed. The lock lets the caller check once more that nothing needs the artifact. Keep it short: readers
    /// give up after two seconds.
    ///
    /// # Errors
    ///
    /// Fails when the folder cannot be locked.
    pub fn condemn(
        &self,
        _lock: &CollectionLock,
        artifact: &Path,
        last_use: SystemTime,
    ) -> Result<Condemnation> {
        let dir = match os::open_dir(artifact) {
            Ok(dir) => dir,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Condemnation::Spared(Discarded::Changed));
            }
            Err(error) => return Err(error.into()),
        };
        match dir.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Condemnation::Spared(Discarded::InUse)),
            Err(TryLockError::Error(error)) if no_locks(&error) => {}
            Err(TryLockError::Error(error)) => return Err(os::named(error, "lock", artifact).into()),
        }
        let modified = dir.metadata().and_then(|metadata| metadata.modified());
        let modified = modified.map_err(|error| os::named(error, "look at", artifact))?;
        if !hold::is_still(&dir, artifact) || modified != last_use {
            return Ok(Condemnation::Spared(Discarded::Changed));
        }
        Ok(Condemnation::Ready(Condemned { path: artifact.to_owned(), lock: dir }))
    }

    /// Moves a condemned artifact to `.trash/`.
    ///
    /// # Errors
    ///
    /// Fails when the folder cannot be moved.
    pub fn remove(&self, _lock: &CollectionLock, condemned: Condemned) -> Result<()> {
        let Condemned { path, lock } = condemned;
        let moved = self.move_to_trash(&path);
        drop(lock);
        moved
    }

    /// Locks and removes in one call, for folders that nothing refers to.
    ///
    /// # Errors
    ///
    /// As [`Store::condemn`] and [`Store::remove`].
    pub fn discard(&self, lock: &CollectionLock, folder: &Path, last_use: SystemTime) -> Result<Discarded> {
        match self.condemn(lock, folder, last_use)? {
            Condemnation::Ready(condemned) => {
                self.remove(lock, condemned)?;
                Ok(Discarded::Moved)
            }
            Condemnation::Spared(reason) => Ok(reason),
        }
    }

    /// Moves any file or folder of the store to `.trash/`, such as an old workspace; its owner may have removed it meanwhile.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be moved.
    pub fn discard_leftover(&self, _lock: &CollectionLock, path: &Path) -> Result<Discarded> {
        match self.move_to_trash(path) {
            Ok(()) => Ok(Discarded::Moved),
            Err(_) if is_gone(path) => Ok(Discarded::Changed),
            Err(error) => Err(error),
        }
    }

    /// Renames and flushes, before anything in it is deleted, so that a power cut cannot bring back a folder without its files.
    fn move_to_trash(&self, path: &Path) -> Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let base = format!("{}-{}", std::process::id(), name.trim_start_matches('.'));
        self.move_below(TRASH, path, &base)?;
        Ok(())
    }

    /// Deletes everything in `.trash/`.
    ///
    /// # Errors
    ///
    /// Fails when something cannot be deleted.
    pub fn empty_trash(&self, _lock: &CollectionLock) -> Result<()> {
        let entries = match os::entries(&self.root().join(TRASH)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for entry in entries {
            if entry.file_type()?.is_dir() {
                os::remove_tree(&entry.path())?;
            } else {
                os::remove_file(&entry.path())?;
            }
        }
        Ok(())
    }
}

fn is_gone(path: &Path) -> bool {
    path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Returns whether an error of a lock says that the file system has none. Then the age of an artifact alone protects it.
fn no_locks(error: &io::Error) -> bool {
    use rustix::io::Errno;
    error.kind() == io::ErrorKind::Unsupported || error.raw_os_error() == Some(Errno::NOLCK.raw_os_error())
}
