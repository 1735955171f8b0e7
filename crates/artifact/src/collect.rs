//! Removing what nothing needs: the part of gc that touches the store. What may be removed is decided by the caller.
//!
//! A folder is first renamed into `.trash/`, flushed, and then deleted, so nothing half-deleted is ever visible under the name of
//! an artifact. A killed collection leaves whole artifacts, and a `.trash/` that the next one empties.
//!
//! Without working locks, an artifact is protected only by its age, and the folders of a running stage by its process number.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::digest::Key;
use crate::error::{Error, Result};
use crate::liveness::Liveness;
use crate::lock::{self, Tried, Wait};
use crate::store::Store;
use crate::{hold, network, os};

const TRASH: &str = ".trash";

/// Outcome of removing something, such as [`Store::discard`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discarded {
    /// It is in `.trash/` now.
    Moved,
    /// A process has it open, or works in it.
    InUse,
    /// Its process ran on another machine or in an earlier boot of this one, and there is no lock that shows whether it is alive.
    MayBeInUse,
    /// It was used since it was listed, or is gone.
    Changed,
}

/// Exclusive lock on an artifact that is to be removed: no process has it open, and none can open it until this is dropped. Where
/// the file system has no locks, it locks nothing.
#[derive(Debug)]
pub struct Condemned {
    path: PathBuf,
    lock: File,
    is_locked: bool,
}

impl Condemned {
    /// Returns whether the lock keeps the processes of all machines out.
    fn excludes(&self) -> bool {
        self.is_locked && lock::excludes(&self.path) && !network::is_network(&self.path)
    }
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
        match os::try_lock(&file) {
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
        let tried = lock::try_lock(artifact, &dir)?;
        if tried == Tried::Busy {
            return Ok(Condemnation::Spared(Discarded::InUse));
        }
        let modified = dir.metadata().and_then(|metadata| metadata.modified());
        let modified = modified.map_err(|error| os::named(error, "look at", artifact))?;
        if !hold::is_still(&dir, artifact) || modified != last_use {
            return Ok(Condemnation::Spared(Discarded::Changed));
        }
        let is_locked = tried == Tried::Locked;
        Ok(Condemnation::Ready(Condemned { path: artifact.to_owned(), lock: dir, is_locked }))
    }

    /// Moves a condemned artifact to `.trash/`.
    ///
    /// # Errors
    ///
    /// Fails when the folder cannot be moved.
    pub fn remove(&self, _lock: &CollectionLock, condemned: Condemned) -> Result<()> {
        let Condemned { path, lock, .. } = condemned;
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

    /// Removes the staging folder of a run that died. Keeps it if its process is alive or may be.
    ///
    /// # Errors
    ///
    /// As [`Store::condemn`] and [`Store::remove`].
    pub fn discard_staging(&self, lock: &CollectionLock, folder: &Path) -> Result<Discarded> {
        let last_use = match fs_err::symlink_metadata(folder) {
            Ok(metadata) => metadata.modified()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Discarded::Changed),
            Err(error) => return Err(error.into()),
        };
        let condemned = match self.condemn(lock, folder, last_use)? {
            Condemnation::Ready(condemned) => condemned,
            Condemnation::Spared(reason) => return Ok(reason),
        };
        if let Some(reason) = reason_to_keep(Liveness::of_staging(folder), condemned.excludes()) {
            return Ok(reason);
        }
        self.remove(lock, condemned)?;
        Ok(Discarded::Moved)
    }

    /// Removes the workspace of a key. Keeps it if a process uses it or may use it.
    ///
    /// # Errors
    ///
    /// Fails on a bad stage name, and when the key cannot be locked or the folder cannot be moved.
    pub fn discard_workspace(&self, lock: &CollectionLock, stage: &str, key: &Key) -> Result<Discarded> {
        let workspace = self.workspace(stage, key)?.state_dir();
        let workspace = os::parent(&workspace);
        let key_lock = match self.lock(stage, key, Wait::AtMost(Duration::ZERO), &mut |_| {}, &|| false) {
            Err(Error::Locked { .. }) => return Ok(Discarded::InUse),
            key_lock => key_lock?,
        };
        let excludes = key_lock.excludes() && !network::is_network(self.root());
        match reason_to_keep(Liveness::of_workspace(workspace), excludes) {
            Some(reason) => Ok(reason),
            None => self.discard_leftover(lock, workspace),
        }
    }

    /// Moves a file or folder of the store that no process uses to `.trash/`. Its owner may have removed it in the meantime.
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

/// Returns the reason to keep a folder that gc has locked, if there is one. A lock that `excludes` other processes proves that no
/// process of another machine or boot uses it.
fn reason_to_keep(owner: Liveness, excludes: bool) -> Option<Discarded> {
    match owner {
        Liveness::Dead => None,
        Liveness::Alive => Some(Discarded::InUse),
        Liveness::Unknown => (!excludes).then_some(Discarded::MayBeInUse),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lock_shows_that_no_other_machine_uses_a_folder() {
        for (owner, locked, unlocked) in [
            (Liveness::Dead, None, None),
            (Liveness::Alive, Some(Discarded::InUse), Some(Discarded::InUse)),
            (Liveness::Unknown, None, Some(Discarded::MayBeInUse)),
        ] {
            assert_eq!(
                (reason_to_keep(owner, true), reason_to_keep(owner, false)),
                (locked, unlocked),
                "{owner:?}"
            );
        }
    }
}
