//! Threads that share the work of an operation.
//!
//! MLX computes on a thread of its own, which waits while others work: with two cores a third thread, woken twice for every
//! product. So this thread becomes one of the workers. It starts at once, and the others join it when they are awake.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::ThreadPoolBuilder;

thread_local! {
    /// Whether this thread has asked.
    static ASKED: Cell<bool> = const { Cell::new(false) };
}

/// Makes the calling thread, on which MLX runs operations, a worker of the threads that share them. Only the first thread that asks
/// becomes one; the operations of others are shared by the threads of the whole process.
pub fn join_workers() {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if ASKED.replace(true) || rayon::current_thread_index().is_some() || TAKEN.swap(true, Ordering::Relaxed) {
        return;
    }
    // Without such a pool the operation is shared by the threads of the whole process.
    if let Ok(pool) = ThreadPoolBuilder::new().use_current_thread().build() {
        // It lives as long as the process, as the thread does.
        std::mem::forget(pool);
    }
}
