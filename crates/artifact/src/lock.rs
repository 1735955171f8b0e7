//! Locks: they save work, they decide nothing. The kernel frees them when their process dies.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::{Error, Key, Result, Store, os, store};

const POLL: Duration = Duration::from_millis(50);

/// How long to wait for another process that works on the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// At most so long; zero does not wait.
    AtMost(Duration),
    /// Until it is done.
    Forever,
}

/// The right to work on a key; given back on drop.
#[derive(Debug)]
pub struct KeyLock {
    _collector: File,
    _key: File,
}

impl Store {
    /// Takes the lock of a key, and the shared lock that keeps the garbage collector away.
    ///
    /// While waiting, `waiting` is called once with what is known about the holder, and `stop` is asked often.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] when the wait is over, [`Error::Stopped`] when `stop` said so.
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
        let what = format!("{stage} {}", key.short());
        let mut patience = Patience { wait, since: Instant::now(), announced: false, waiting, stop };
        let collector = open(&dir.join("gc"))?;
        patience.acquire("the store", String::new, || collector.try_lock_shared())?;
        let file = open(&dir.join(format!("{stage}.{}", key.short())))?;
        let holder = || self.workspace(stage, key).map(|w| w.owner()).unwrap_or_default();
        patience.acquire(&what, holder, || file.try_lock())?;
        Ok(KeyLock { _collector: collector, _key: file })
    }
}

/// Opens a lock file, creating it if needed. It is never removed: two files of one name would be two locks.
fn open(path: &Path) -> Result<File> {
    let file = os::retry(|| fs_err::OpenOptions::new().create(true).append(true).open(path))?;
    Ok(file.into_file())
}

struct Patience<'a> {
    wait: Wait,
    since: Instant,
    announced: bool,
    waiting: &'a mut dyn FnMut(&str),
    stop: &'a dyn Fn() -> bool,
}

impl Patience<'_> {
    fn acquire(
        &mut self,
        what: &str,
        holder: impl Fn() -> String,
        attempt: impl Fn() -> Result<(), TryLockError>,
    ) -> Result<()> {
        loop {
            match attempt() {
                Ok(()) => return Ok(()),
                Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Interrupted => {
                    continue;
                }
                // No locks on this file system: the rename still decides.
                Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {
                    return Ok(());
                }
                Err(TryLockError::Error(error)) => return Err(error.into()),
                Err(TryLockError::WouldBlock) => {}
            }
            if (self.stop)() {
                return Err(Error::Stopped);
            }
            if let Wait::AtMost(limit) = self.wait
                && self.since.elapsed() >= limit
            {
                return Err(Error::Locked { what: what.to_owned(), holder: holder() });
            }
            if !self.announced {
                self.announced = true;
                (self.waiting)(&format!("{what}{}", holder()));
            }
            std::thread::sleep(POLL);
        }
    }
}
