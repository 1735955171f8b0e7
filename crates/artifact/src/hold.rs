//! Locks on the folders of open artifacts, so that gc never removes one that is in use.
//!
//! Readers hold a shared lock on the folder itself, which also works in a store that they cannot write. gc takes the exclusive
//! lock of a folder before it renames it. Where the file system has no locks, readers go on without.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::os;

const POLL: Duration = Duration::from_millis(10);
/// gc keeps its lock for one rename, so a reader that waits longer than this is out of luck.
const POLLS: u32 = 200;

/// A shared lock on the folder of an open artifact, released when the last clone is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Hold {
    dir: Arc<File>,
}

impl Hold {
    /// Locks the folder `path`.
    ///
    /// # Errors
    ///
    /// [`Error::NotAnArtifact`] when the folder was removed meanwhile.
    pub(crate) fn take(path: &Path) -> Result<Self> {
        let gone = |reason: &str| Error::NotAnArtifact { path: path.to_owned(), reason: reason.to_owned() };
        for _ in 0..POLLS {
            let dir = match os::open_through_links(path) {
                Ok(dir) => dir,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(gone("it was removed a moment ago"));
                }
                Err(error) => return Err(error.into()),
            };
            match dir.try_lock_shared() {
                Err(TryLockError::WouldBlock) => {
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
            if path.symlink_metadata().is_err() {
                return Err(gone("it was removed a moment ago"));
            }
        }
        Err(gone("it is being removed"))
    }

    /// Sets the folder's modification time to now. Does nothing where that is not allowed.
    pub(crate) fn touch(&self) {
        let now = std::fs::FileTimes::new().set_modified(crate::clock::now());
        if let Err(error) = self.dir.set_times(now) {
            tracing::trace!("cannot record the use of an artifact: {error}");
        }
    }
}

/// Returns whether `path` is still the folder that was opened.
pub(crate) fn is_still(dir: &File, path: &Path) -> bool {
    let (Ok(opened), Ok(named)) = (dir.metadata(), fs_err::metadata(path)) else { return false };
    (opened.dev(), opened.ino()) == (named.dev(), named.ino())
}
