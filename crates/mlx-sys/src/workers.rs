//! The thread pool that shares the work of an operation.
//!
//! MLX runs its operations on a dedicated thread. If that thread handed each product to the pool and waited, every product would cost
//! two context switches, and three threads would compete for two cores. Instead it joins the pool as a worker: it starts the work
//! itself, and the other workers join in as soon as they wake up.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

thread_local! {
    /// Whether this thread has called [`join_workers`].
    static ASKED: Cell<bool> = const { Cell::new(false) };
}

/// Creates a thread pool for MLX's operations with the calling thread as one of its workers. Only the first caller joins the pool;
/// operations of other threads run on rayon's global pool. Where the system allows no further threads, the first caller works alone.
pub fn join_workers() {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if ASKED.replace(true) || rayon::current_thread_index().is_some() {
        return;
    }
    if TAKEN.swap(true, Ordering::Relaxed) {
        return threads::start();
    }
    if let Some(pool) = threads::pool_of_caller() {
        // The pool lives as long as the process.
        std::mem::forget(pool);
    }
}
