//! Removing what nothing needs: the part of gc that touches the store. What may be removed is decided by the caller.
//!
//! A folder is first renamed into `.trash/`. The renames are flushed together, and only then is anything deleted, so nothing
//! half-deleted is ever visible under the name of an artifact. A killed collection leaves whole artifacts, and a `.trash/` that the next one empties.
//!
//! Without working locks, an artifact is protected only by its age, and the folders of a running stage by its process number.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::{File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::digest::Key;
use crate::error::{Error, Result};
use crate::liveness::Liveness;
use crate::lock::{self, Tried, Wait};
use crate::names::check_stage;
use crate::os;
use crate::store::Store;

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
    /// It was used since it was listed, is gone, or was replaced.
    Changed,
    /// It belongs to another user, or is in a folder that this user cannot change.
    Denied,
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
        self.is_locked && lock::excludes(&self.path)
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
    /// Folders from which something was moved to `.trash/` since they were last flushed.
    unflushed: RefCell<BTreeSet<PathBuf>>,
}

impl CollectionLock {
    /// Flushes `trash` and every folder from which something was moved there.
    fn flush(&self, trash: &Path) -> Result<()> {
        let mut unflushed = self.unflushed.borrow_mut();
        if !unflushed.is_empty() {
            os::sync_dir(trash)?;
        }
        for folder in unflushed.iter() {
            os::sync_dir(folder)?;
        }
        unflushed.clear();
        Ok(())
    }
}

impl Store {
    /// Takes the lock of collections, without waiting. Stages do not need it.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] when another process collects.
    pub fn lock_collection(&self) -> Result<CollectionLock> {
        let dir = self.folder(".locks")?;
        os::create_dir_all(&dir)?;
        let file = os::open_lock(&dir.join("gc"))?;
        match os::try_lock(&file) {
            Err(TryLockError::WouldBlock) => {
                Err(Error::Locked { what: "gc of this store".to_owned(), holder: String::new() })
            }
            Ok(()) | Err(TryLockError::Error(_)) => {
                Ok(CollectionLock { _file: file, unflushed: RefCell::new(self.left_unflushed()) })
            }
        }
    }

    /// Locks an artifact that is to be removed, unless a process has it open or it was used since `last_use`, its modification
    /// time when it was listed. The lock lets the caller check once more that nothing needs the artifact. Keep it short: readers
    /// wait.
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
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Ok(Condemnation::Spared(Discarded::Denied));
            }
            Err(error) => return Err(error.into()),
        };
        let tried = lock::try_lock(artifact, &dir)?;
        if tried == Tried::Busy {
            return Ok(Condemnation::Spared(Discarded::InUse));
        }
        let modified = dir.metadata().and_then(|metadata| metadata.modified());
        let modified = modified.map_err(|error| os::named(error, "look at", artifact))?;
        if !os::is_at(&dir, artifact) || modified != last_use {
            return Ok(Condemnation::Spared(Discarded::Changed));
        }
        let is_locked = tried == Tried::Locked;
        Ok(Condemnation::Ready(Condemned { path: artifact.to_owned(), lock: dir, is_locked }))
    }

    /// Returns the folders of stages if there is something in `.trash/`: the process that moved it may have been killed before it
    /// flushed that.
    fn left_unflushed(&self) -> BTreeSet<PathBuf> {
        let has_trash = os::entries(&self.root().join(TRASH)).is_ok_and(|found| !found.is_empty());
        let entries = if has_trash { os::entries(self.root()).unwrap_or_default() } else { Vec::new() };
        let is_stage = |entry: &fs_err::DirEntry| {
            entry.file_name().to_str().is_some_and(|name| check_stage(name).is_ok())
                && entry.file_type().is_ok_and(|kind| kind.is_dir())
        };
        entries.into_iter().filter(is_stage).map(|entry| entry.path()).collect()
    }

    /// Moves a condemned artifact to `.trash/`, unless something else has its path by now. [`Store::empty_trash`] flushes this.
    ///
    /// # Errors
    ///
    /// Fails when the folder cannot be moved, except for want of rights.
    pub fn remove(&self, lock: &CollectionLock, condemned: Condemned) -> Result<Discarded> {
        let Condemned { path, lock: dir, .. } = condemned;
        if os::is_at(&dir, &path) { self.move_locked(lock, &dir, &path) } else { Ok(Discarded::Changed) }
    }

    /// Moves what is at `path` to `.trash/`, and back if it is not the folder `dir`.
    fn move_locked(&self, lock: &CollectionLock, dir: &File, path: &Path) -> Result<Discarded> {
        if os::is_ours(dir) {
            // A read-only folder cannot be moved to another parent.
            let _ = dir.set_permissions(Permissions::from_mode(0o755));
        }
        let moved = match self.move_to_trash(lock, path) {
            Ok(moved) => moved,
            Err(_) if !os::is_at(dir, path) => return Ok(Discarded::Changed),
            Err(error) => return denied(error),
        };
        if os::is_at(dir, &moved) {
            return Ok(Discarded::Moved);
        }
        // If the path is taken again, that artifact has the same key, and this one is a copy that nobody finds.
        os::rename_exclusive(&moved, path)?;
        Ok(Discarded::Changed)
    }

    /// Locks and removes in one call, for folders that nothing refers to.
    ///
    /// # Errors
    ///
    /// As [`Store::condemn`] and [`Store::remove`].
    pub fn discard(&self, lock: &CollectionLock, folder: &Path, last_use: SystemTime) -> Result<Discarded> {
        match self.condemn(lock, folder, last_use)? {
            Condemnation::Ready(condemned) => self.remove(lock, condemned),
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
        self.remove(lock, condemned)
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
        let excludes = key_lock.excludes();
        match reason_to_keep(Liveness::of_workspace(workspace), excludes) {
            Some(reason) => Ok(reason),
            None => self.discard_leftover(lock, workspace),
        }
    }

    /// Moves a file or folder of the store that no process uses to `.trash/`. Its owner may have removed it in the meantime.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be moved, except for want of rights.
    pub fn discard_leftover(&self, lock: &CollectionLock, path: &Path) -> Result<Discarded> {
        os::make_writable(path);
        match self.move_to_trash(lock, path) {
            Ok(_) => Ok(Discarded::Moved),
            Err(_) if is_gone(path) => Ok(Discarded::Changed),
            Err(error) => denied(error),
        }
    }

    /// Renames into `.trash/` and returns the new path; [`Store::empty_trash`] flushes this.
    fn move_to_trash(&self, lock: &CollectionLock, path: &Path) -> Result<PathBuf> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let base = format!("{}-{}", std::process::id(), name.trim_start_matches('.'));
        let moved = self.rename_below(TRASH, path, &base)?;
        lock.unflushed.borrow_mut().insert(os::parent(path).to_owned());
        Ok(moved)
    }

    /// Deletes everything in `.trash/`, and returns what this user may not delete.
    ///
    /// The renames are flushed first, so that a power failure cannot bring back a folder without its files.
    ///
    /// # Errors
    ///
    /// Fails when the renames cannot be flushed, or, after everything else was deleted, when something cannot be deleted.
    pub fn empty_trash(&self, lock: &CollectionLock) -> Result<Vec<PathBuf>> {
        let trash = self.folder(TRASH)?;
        let entries = match os::entries(&trash) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        lock.flush(&trash)?;
        let (mut left, mut failed) = (Vec::new(), None);
        for entry in entries {
            match delete(&entry) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => left.push(entry.path()),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(left), |error| Err(error.into()))
    }
}

fn delete(entry: &fs_err::DirEntry) -> io::Result<()> {
    if entry.file_type()?.is_dir() { os::remove_tree(&entry.path()) } else { os::remove_file(&entry.path()) }
}

/// Returns [`Discarded::Denied`] if the error says that this user may not do that.
fn denied(error: Error) -> Result<Discarded> {
    match error {
        Error::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(Discarded::Denied),
        error => Err(error),
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
    use serde_json::json;

    use super::*;
    use crate::{Artifact, Draft, KeyMaterial};

    fn publish(store: &Store) -> Artifact {
        let staging = store.stage_new("demo").unwrap();
        fs_err::write(staging.data().join("a.json"), "{}").unwrap();
        let draft = Draft::new("toy", KeyMaterial::new("demo", 1, json!({})));
        staging.publish(&draft, &mut || Ok(())).unwrap().artifact().clone()
    }

    /// Makes a store whose only artifact is condemned, and then replaced by a new one as if the first had been damaged.
    fn replaced() -> (tempfile::TempDir, Store, CollectionLock, Condemned) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("artifacts")).unwrap();
        let path = publish(&store).path().to_owned();
        let lock = store.lock_collection().unwrap();
        let used = fs_err::metadata(&path).unwrap().modified().unwrap();
        let Condemnation::Ready(condemned) = store.condemn(&lock, &path, used).unwrap() else {
            panic!("nobody uses it")
        };
        os::make_writable(&path);
        fs_err::rename(&path, folder.path().join("elsewhere")).unwrap();
        drop(publish(&store));
        (folder, store, lock, condemned)
    }

    #[test]
    fn what_took_the_path_of_a_condemned_artifact_stays() {
        let (_folder, store, lock, condemned) = replaced();
        let path = condemned.path.clone();
        assert_eq!(store.remove(&lock, condemned).unwrap(), Discarded::Changed);
        store.empty_trash(&lock).unwrap();
        Artifact::open(&path).unwrap();
    }

    #[test]
    fn what_took_the_path_just_before_the_rename_is_moved_back() {
        let (_folder, store, lock, condemned) = replaced();
        let Condemned { path, lock: dir, .. } = condemned;
        // Only its owner can move a read-only folder.
        os::make_writable(&path);
        assert_eq!(store.move_locked(&lock, &dir, &path).unwrap(), Discarded::Changed);
        store.empty_trash(&lock).unwrap();
        Artifact::open(&path).unwrap();
    }

    #[test]
    fn a_batch_is_renamed_before_anything_is_flushed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("artifacts")).unwrap();
        let path = publish(&store).path().to_owned();
        let lock = store.lock_collection().unwrap();
        let used = fs_err::metadata(&path).unwrap().modified().unwrap();
        assert_eq!(store.discard(&lock, &path, used).unwrap(), Discarded::Moved);
        assert_eq!(*lock.unflushed.borrow(), BTreeSet::from([os::parent(&path).to_owned()]));
        assert!(store.empty_trash(&lock).unwrap().is_empty() && lock.unflushed.borrow().is_empty());
    }

    #[test]
    fn what_a_killed_collection_has_moved_is_flushed_before_it_is_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("artifacts")).unwrap();
        let path = publish(&store).path().to_owned();
        let lock = store.lock_collection().unwrap();
        assert!(lock.unflushed.borrow().is_empty(), "there is no trash");
        store.discard(&lock, &path, fs_err::metadata(&path).unwrap().modified().unwrap()).unwrap();
        drop(lock);
        let lock = store.lock_collection().unwrap();
        assert_eq!(*lock.unflushed.borrow(), BTreeSet::from([os::parent(&path).to_owned()]));
    }

    #[test]
    fn want_of_rights_is_a_reason_to_spare() {
        for errno in [rustix::io::Errno::PERM, rustix::io::Errno::ACCESS] {
            let error = io::Error::from_raw_os_error(errno.raw_os_error());
            let error = os::named(error, "rename", Path::new("a"));
            assert_eq!(denied(error.into()).unwrap(), Discarded::Denied);
        }
        let disk = io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error());
        assert!(denied(disk.into()).is_err());
    }

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
