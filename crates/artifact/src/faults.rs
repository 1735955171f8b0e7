//! Planned faults for tests. Only compiled with the feature `fault-injection`.
//!
//! `ASHLAR_FAULT=kill@7` kills the process at the seventh file-system operation; `enospc@7`, `edquot@7`, `erofs@7`, `emfile@7`,
//! `eio@7`, `eacces@7` and `eintr@7` make it fail. An interrupted operation is repeated, so `eintr` only shows that it is.
//! `ASHLAR_LOCKS=none` makes every lock fail as on a file system without locks; with `ignored`, locks succeed and do nothing. With
//! `network`, each process behaves as if it ran on another machine and the store were on a network file system whose locks work only
//! within one machine.
//! `ASHLAR_PATIENCE=100ms` replaces the longest wait for the folder of an artifact that another process has locked.
//! An observer sees every operation that changes the file system, after it was done.

use std::cell::RefCell;
use std::fs::TryLockError;
use std::io;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Signal, getpid, kill_process};

#[derive(Clone, Copy)]
enum Fault {
    Kill,
    Error(Errno),
}

fn planned_fault() -> Option<(Fault, u64)> {
    static PLAN: OnceLock<Option<(Fault, u64)>> = OnceLock::new();
    *PLAN.get_or_init(|| {
        let plan = std::env::var("ASHLAR_FAULT").ok()?;
        let (kind, count) = plan.split_once('@')?;
        let fault = match kind {
            "kill" => Fault::Kill,
            "enospc" => Fault::Error(Errno::NOSPC),
            "edquot" => Fault::Error(Errno::DQUOT),
            "erofs" => Fault::Error(Errno::ROFS),
            "emfile" => Fault::Error(Errno::MFILE),
            "eio" => Fault::Error(Errno::IO),
            "eacces" => Fault::Error(Errno::ACCESS),
            "eintr" => Fault::Error(Errno::INTR),
            _ => return None,
        };
        Some((fault, count.parse().ok()?))
    })
}

/// Counts one operation and carries out the planned fault if this is its turn.
pub(crate) fn count_operation() -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let Some((fault, turn)) = planned_fault() else { return Ok(()) };
    if COUNT.fetch_add(1, Ordering::SeqCst) + 1 != turn {
        return Ok(());
    }
    match fault {
        Fault::Kill => Ok(kill_process(getpid(), Signal::KILL)?),
        Fault::Error(errno) => Err(errno.into()),
    }
}

/// Returns `ASHLAR_LOCKS`, if it is set.
fn planned_locks() -> Option<&'static str> {
    static PLAN: OnceLock<Option<String>> = OnceLock::new();
    PLAN.get_or_init(|| std::env::var("ASHLAR_LOCKS").ok()).as_deref()
}

/// Returns the result of a lock under `ASHLAR_LOCKS`; `None` to lock really.
pub(crate) fn planned_lock() -> Option<Result<(), TryLockError>> {
    match planned_locks()? {
        "none" => Some(Err(TryLockError::Error(Errno::NOLCK.into()))),
        "ignored" | "network" => Some(Ok(())),
        _ => None,
    }
}

/// Returns whether every folder is to count as one on a network file system.
pub(crate) fn is_network_planned() -> bool {
    planned_locks() == Some("network")
}

/// Returns the longest wait for a locked folder under `ASHLAR_PATIENCE`.
pub(crate) fn planned_patience() -> Option<Duration> {
    humantime::parse_duration(&std::env::var("ASHLAR_PATIENCE").ok()?).ok()
}

type Observer = Box<dyn FnMut(&str, &Path)>;

thread_local! {
    static OBSERVER: RefCell<Option<Observer>> = const { RefCell::new(None) };
}

/// Calls `observer` with the name and the path of each operation of this thread that changes the file system, once it is
/// done, while `body` runs.
pub fn observe<T>(observer: impl FnMut(&str, &Path) + 'static, body: impl FnOnce() -> T) -> T {
    OBSERVER.with(|slot| *slot.borrow_mut() = Some(Box::new(observer)));
    let result = body();
    OBSERVER.with(|slot| slot.borrow_mut().take());
    result
}

/// Reports a finished operation to the observer.
pub(crate) fn done(operation: &str, path: &Path) {
    OBSERVER.with(|slot| {
        if let Ok(mut observer) = slot.try_borrow_mut()
            && let Some(observer) = observer.as_mut()
        {
            observer(operation, path);
        }
    });
}
