//! Planned faults for tests: makes the N-th file-system operation fail, or kills the process there.
//!
//! `ASHLAR_FAULT=kill@7` kills at the seventh operation; `enospc@7`, `edquot@7`, `eio@7` and `eintr@7` make it fail. An
//! interrupted operation is repeated, so `eintr` only shows that it is. Only compiled with the feature `fault-injection`.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

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
            "eio" => Fault::Error(Errno::IO),
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
