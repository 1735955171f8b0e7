//! Locks on the folders of open artifacts, so that gc never removes one that is in use.
//!
//! Readers hold a shared lock on the folder itself, which also works in a store that they cannot write. gc takes the exclusive
//! lock of a folder before it renames it. Where the file system has no locks, readers go on without.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::os;

const POLL: Duration = Duration::from_millis(10);
/// Longest wait for the lock. gc holds it while it looks for references, which takes seconds in a large store on a slow disk.
const PATIENCE: Duration = Duration::from_secs(30);
/// A wait that is longer than this is logged.
const SILENCE: Duration = Duration::from_secs(1);

/// A shared lock on the folder of an open artifact, released when the last clone is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Hold {
    dir: Arc<File>,
}

impl Hold {
    /// Locks the folder `path`, waiting for a process that has it locked exclusively.
    ///
    /// # Errors
    ///
    /// [`Error::NotAnArtifact`] when the folder was removed meanwhile, and [`Error::InUse`] when the wait is over.
    pub(crate) fn take(path: &Path) -> Result<Self> {
        Self::take_within(path, patience())
    }

    fn take_within(path: &Path, patience: Duration) -> Result<Self> {
        let begun = Instant::now();
        let mut announced = false;
        loop {
            // Opened anew each time: another folder may have the path by now.
            let dir = match os::open_through_links(path) {
                Ok(dir) => dir,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(removed(path)),
                Err(error) => return Err(error.into()),
            };
            match dir.try_lock_shared() {
                Err(TryLockError::WouldBlock) if begun.elapsed() >= patience => {
                    return Err(Error::InUse { path: path.to_owned() });
                }
                Err(TryLockError::WouldBlock) => {
                    if !announced && begun.elapsed() >= SILENCE {
                        announced = true;
                        tracing::info!("waiting for another process that has locked `{}`", path.display());
                    }
                    std::thread::sleep(POLL);
                    continue;
                }
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Interrupted => continue,
                // Also where the file system has no locks: the lock only keeps gc away.
                Ok(()) | Err(TryLockError::Error(_)) => {}
            }
            if is_still(&dir, path) {
                return Ok(Self { dir: Arc::new(dir) });
            }
        }
    }

    /// Returns whether `path` is still the folder that was opened.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        is_still(&self.dir, path)
    }

    /// Sets the folder's modification time to now. Does nothing where that is not allowed.
    pub(crate) fn touch(&self) {
        let now = std::fs::FileTimes::new().set_modified(crate::clock::now());
        if let Err(error) = self.dir.set_times(now) {
            tracing::trace!("cannot record the use of an artifact: {error}");
        }
    }
}

/// Returns the longest wait for a lock.
fn patience() -> Duration {
    #[cfg(feature = "fault-injection")]
    if let Some(planned) = crate::faults::planned_patience() {
        return planned;
    }
    PATIENCE
}

fn removed(path: &Path) -> Error {
    Error::NotAnArtifact { path: path.to_owned(), reason: "it was removed a moment ago".to_owned() }
}

/// Returns whether `path` is still the folder that was opened.
fn is_still(dir: &File, path: &Path) -> bool {
    let (Ok(opened), Ok(named)) = (dir.metadata(), fs_err::metadata(path)) else { return false };
    (opened.dev(), opened.ino()) == (named.dev(), named.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_of_another_process_is_no_damage() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("artifact");
        fs_err::create_dir(&path).unwrap();
        let other = os::open_dir(&path).unwrap();
        other.lock().unwrap();
        let error = Hold::take_within(&path, Duration::ZERO).unwrap_err();
        assert!(matches!(error, Error::InUse { .. }) && !error.is_damage(), "{error}");
        assert_eq!(failure::Failure::kind(&error), failure::Kind::Locked);
    }

    #[test]
    fn a_folder_that_is_replaced_during_the_wait_is_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (path, trash) = (folder.path().join("artifact"), folder.path().join("trash"));
        fs_err::create_dir(&path).unwrap();
        let other = os::open_dir(&path).unwrap();
        other.lock().unwrap();
        let hold = std::thread::scope(|scope| {
            let reader = scope.spawn(|| Hold::take_within(&path, Duration::from_mins(1)));
            std::thread::sleep(POLL * 5);
            fs_err::rename(&path, &trash).unwrap();
            fs_err::create_dir(&path).unwrap();
            reader.join().unwrap().unwrap()
        });
        assert!(is_still(&hold.dir, &path));
        fs_err::remove_dir(&path).unwrap();
        let error = Hold::take_within(&path, Duration::ZERO).unwrap_err();
        assert!(matches!(error, Error::NotAnArtifact { .. }), "{error}");
    }
}
