//! Locks between processes that work on the same key.
//!
//! They only avoid duplicate work: published artifacts are correct without them. The kernel releases a lock when its
//! process dies. On a file system without locks, stages run unlocked and never remove anything that may be in use.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::sync::Once;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::digest::Key;
use crate::error::{Error, Result};
use crate::store::Store;
use crate::{names, network, os};

const POLL: Duration = Duration::from_millis(50);
/// Folder of the lock files in a store.
const LOCKS: &str = ".locks";

/// Longest wait for another process that works on the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// At most this long; zero does not wait.
    AtMost(Duration),
    /// Until the other process has finished.
    Forever,
}

/// The lock of a key, released on drop.
#[derive(Debug)]
pub struct KeyLock {
    _file: File,
    excludes: bool,
}

impl KeyLock {
    /// Returns whether the lock keeps other processes out; `false` where locks are missing or do nothing, and on network file
    /// systems, whose locks may exclude only the processes of this machine.
    pub fn excludes(&self) -> bool {
        self.excludes
    }
}

/// Outcome of trying to lock a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tried {
    /// This process has the lock.
    Locked,
    /// Another process has it.
    Busy,
    /// The file system has no locks.
    Unsupported,
}

impl Store {
    /// Takes the lock of a key.
    ///
    /// While waiting, `waiting` is called once with a description of the holder, and `stop` is polled.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] when the wait is over, [`Error::Stopped`] when `stop` returned `true`.
    pub fn lock(
        &self,
        stage: &str,
        key: &Key,
        wait: Wait,
        waiting: &mut dyn FnMut(&str),
        stop: &dyn Fn() -> bool,
    ) -> Result<KeyLock> {
        names::check_stage(stage)?;
        self.ensure()?;
        let dir = self.folder(LOCKS)?;
        os::create_dir_all(&dir)?;
        let path = dir.join(format!("{stage}.{}", key.short()));
        // It is never removed: two files of one name would be two locks.
        let file = os::open_lock(&path)?;
        let what = format!("{stage} {}", key.short());
        let holder = || self.workspace(stage, key).map(|workspace| workspace.owner()).unwrap_or_default();
        let tried = || try_lock(&path, &file);
        wait_for(&tried, wait, &what, &holder, waiting, stop)?;
        Ok(KeyLock { _file: file, excludes: excludes(&path) })
    }
}

/// Polls a lock until it is taken or unsupported, as [`Store::lock`] describes.
pub(crate) fn wait_for(
    tried: &dyn Fn() -> Result<Tried>,
    wait: Wait,
    what: &str,
    holder: &dyn Fn() -> String,
    waiting: &mut dyn FnMut(&str),
    stop: &dyn Fn() -> bool,
) -> Result<()> {
    let begun = Instant::now();
    let mut announced = false;
    while tried()? == Tried::Busy {
        if stop() {
            return Err(Error::Stopped);
        }
        if matches!(wait, Wait::AtMost(limit) if begun.elapsed() >= limit) {
            return Err(Error::Locked { what: what.to_owned(), holder: holder() });
        }
        if !announced {
            announced = true;
            waiting(&format!("{what}{}", holder()));
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// Tries to lock a file exclusively; warns once if the file system has no locks.
pub(crate) fn try_lock(path: &Path, file: &File) -> Result<Tried> {
    tried(path, os::try_lock(file))
}

/// Tries to lock a file against exclusive locks; warns once if the file system has no locks.
pub(crate) fn try_lock_shared(path: &Path, file: &File) -> Result<Tried> {
    tried(path, os::try_lock_shared(file))
}

/// Returns whether a lock that this process holds on `path` keeps the processes of all machines out.
///
/// Where locks are accepted and ignored, a second one on the same file succeeds. On a network file system, it may exclude only the
/// processes of this machine, unless the options of the mount say that the server has the locks.
pub(crate) fn excludes(path: &Path) -> bool {
    os::refuses_second_lock(path) && network::locks_reach_machines(path)
}

fn tried(path: &Path, result: Result<(), TryLockError>) -> Result<Tried> {
    let error = match result {
        Ok(()) => return Ok(Tried::Locked),
        Err(TryLockError::WouldBlock) => return Ok(Tried::Busy),
        Err(TryLockError::Error(error)) => error,
    };
    let has_no_locks = [Errno::NOLCK, Errno::NOTSUP, Errno::OPNOTSUPP, Errno::NOSYS, Errno::INVAL];
    if error.kind() == io::ErrorKind::Interrupted {
        return Ok(Tried::Busy);
    }
    if has_no_locks.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error())) {
        static WARNED: Once = Once::new();
        WARNED.call_once(|| {
            tracing::warn!(
                "no locks at `{}` ({error}): several processes may do the same work; results stay right",
                path.display()
            );
        });
        return Ok(Tried::Unsupported);
    }
    Err(os::named(error, "lock", path).into())
}
