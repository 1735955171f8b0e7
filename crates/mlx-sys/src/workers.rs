//! The thread pool that shares the work of an operation.
//!
//! MLX computes on a thread of its own. If that thread only waited for the pool, every product would cost two context switches, and
//! two cores would run three threads. So it joins the pool as a worker: it starts the work itself, and the other workers join in as
//! soon as they wake up.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::ThreadPoolBuilder;

thread_local! {
    /// Whether this thread has called [`join_workers`].
    static ASKED: Cell<bool> = const { Cell::new(false) };
}

/// Makes the calling thread, on which MLX runs operations, a worker of a thread pool of its own. Only the first caller becomes a worker;
/// the operations of other threads run on the pool of the whole process.
pub fn join_workers() {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if ASKED.replace(true) || rayon::current_thread_index().is_some() || TAKEN.swap(true, Ordering::Relaxed) {
        return;
    }
    // If this fails, operations run on the pool of the whole process.
    if let Ok(pool) = ThreadPoolBuilder::new().use_current_thread().build() {
        // The pool lives as long as the process.
        std::mem::forget(pool);
    }
}
