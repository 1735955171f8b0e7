//! Locks between processes that work on the same key. They save work; correctness does not depend on them.
//!
//! The kernel releases a lock when its process dies.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::digest::Key;
use crate::error::{Error, Result};
use crate::os;
use crate::store::{self, Store};

const POLL: Duration = Duration::from_millis(50);

/// How long to wait for another process that works on the same key.
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
        store::check_stage(stage)?;
        self.ensure()?;
        let dir = self.root().join(".locks");
        os::create_dir_all(&dir)?;
        let file = open(&dir.join(format!("{stage}.{}", key.short())))?;
        let what = format!("{stage} {}", key.short());
        let holder = || self.workspace(stage, key).map(|workspace| workspace.owner()).unwrap_or_default();
        let begun = Instant::now();
        let mut announced = false;
        while !try_lock(&file)? {
            if stop() {
                return Err(Error::Stopped);
            }
            if matches!(wait, Wait::AtMost(limit) if begun.elapsed() >= limit) {
                return Err(Error::Locked { what, holder: holder() });
            }
            if !announced {
                announced = true;
                waiting(&format!("{what}{}", holder()));
            }
            std::thread::sleep(POLL);
        }
        Ok(KeyLock { _file: file })
    }
}

/// Opens a lock file, creating it if needed. It is never removed: two files of one name would be two locks.
fn open(path: &Path) -> Result<File> {
    let file = os::retry(|| fs_err::OpenOptions::new().create(true).append(true).open(path))?;
    Ok(file.into_file())
}

/// Returns whether the file is locked by this process now.
///
/// Returns `true` also where the file system has no locks: publishing is safe without.
fn try_lock(file: &File) -> Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => match error.kind() {
            io::ErrorKind::Interrupted => Ok(false),
            io::ErrorKind::Unsupported => Ok(true),
            _ => Err(error.into()),
        },
    }
}
