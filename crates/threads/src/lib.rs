//! Starts the threads that share work: rayon's global pool.
//!
//! rayon starts them at the first parallel operation, panics if it cannot, and then cannot try again. So everything that uses the
//! global pool calls [`start`] before. Programs that never share work start no threads. Results do not depend on their number.
//!
//! ```
//! threads::start();
//! assert!(rayon::current_num_threads() >= 1);
//! ```

use std::ffi::OsString;
use std::io::ErrorKind;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::thread::Builder;

use rayon::{ThreadBuilder, ThreadPool, ThreadPoolBuilder};

/// Largest number of threads that may be asked for.
const MOST: usize = 1024;
/// Address space that must be free for every thread to start: twice its stack. Where it ends while a thread starts, the standard
/// library aborts.
const BYTES_PER_THREAD: usize = 4 << 20;
/// Variables that set the number of threads, as rayon reads them: the first one counts.
const VARIABLES: [&str; 2] = ["RAYON_NUM_THREADS", "RAYON_RS_NUM_CPUS"];

/// Starts the global pool unless it runs already: as many threads as there are processors, or as `RAYON_NUM_THREADS` says. If the
/// system does not allow that number, it warns and starts one; if that is refused too, the calling thread does all of the work.
pub fn start() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| start_pool(wanted(), &start_thread));
}

/// Returns a pool of as many threads as [`start`] starts, with the calling thread as one of them; only that one if the system does
/// not allow the others.
pub fn pool_of_caller() -> Option<ThreadPool> {
    let pool = |threads: usize| ThreadPoolBuilder::new().num_threads(threads).use_current_thread().build();
    let wanted = wanted();
    if has_room(wanted)
        && let Ok(pool) = pool(wanted)
    {
        return Some(pool);
    }
    warn(wanted);
    pool(1).ok()
}

/// Checks the environment variables that set the number of threads.
///
/// # Errors
///
/// Names a variable that is not a number from 0 to 1024, where 0 means the number of processors.
pub fn check() -> Result<(), String> {
    for name in VARIABLES {
        let value = std::env::var_os(name).unwrap_or_default();
        number(&value).ok_or_else(|| {
            let value = value.display();
            format!("`{name}` is `{value}`, expected a number of threads from 0 to {MOST}")
        })?;
    }
    Ok(())
}

/// Returns the number of threads in a variable: 0 if it does not say, `None` if it is none.
fn number(value: &OsString) -> Option<usize> {
    if value.is_empty() {
        return Some(0);
    }
    value.to_str()?.parse().ok().filter(|&threads| threads <= MOST)
}

/// Returns the number of threads to start.
fn wanted() -> usize {
    let set = VARIABLES.into_iter().find_map(|name| number(&std::env::var_os(name)?));
    let processors = || std::thread::available_parallelism().map_or(1, usize::from).min(MOST);
    set.filter(|&threads| threads > 0).unwrap_or_else(processors)
}

/// Returns whether there is address space for this number of threads.
fn has_room(threads: usize) -> bool {
    Vec::<u8>::new().try_reserve_exact(threads * BYTES_PER_THREAD).is_ok()
}

fn warn(wanted: usize) {
    tracing::warn!("the system does not allow {wanted} threads; one does all of the work, which is slower");
}

/// Where a thread gets what it runs.
type Work = Arc<Mutex<Receiver<ThreadBuilder>>>;

/// Starts a thread that waits for its work; returns whether the system allows it.
fn start_thread(work: &Work) -> bool {
    let work = Arc::clone(work);
    let run = move || {
        let received = work.lock().unwrap_or_else(PoisonError::into_inner).recv();
        if let Ok(thread) = received {
            thread.run();
        }
    };
    Builder::new().spawn(run).is_ok()
}

/// Starts the global pool with `wanted` threads.
///
/// The threads start before the pool, because the pool cannot be started again after a failure. Those that are not needed end when
/// the sender is dropped.
fn start_pool(wanted: usize, start_thread: &dyn Fn(&Work) -> bool) {
    let (sender, receiver) = channel();
    let work = Arc::new(Mutex::new(receiver));
    let room = if has_room(wanted) { wanted } else { 1 };
    let started = (0..room).take_while(|_| start_thread(&work)).count();
    if started < wanted {
        warn(wanted);
    }
    let pool = ThreadPoolBuilder::new().num_threads(if started < wanted { 1 } else { wanted });
    // It fails if the pool runs already, which is as good.
    let _ = match started {
        0 => pool.use_current_thread().build_global(),
        _ => pool
            .spawn_handler(|thread| sender.send(thread).map_err(|_| ErrorKind::BrokenPipe.into()))
            .build_global(),
    };
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn absurd_numbers_are_refused() {
        for (value, threads) in [("", 0), ("0", 0), ("1", 1), ("1024", 1024)] {
            assert_eq!(number(&value.into()), Some(threads));
        }
        for value in ["1025", "99999999", "-1", "many", "1.5", "99999999999999999999"] {
            assert_eq!(number(&value.into()), None, "{value}");
        }
    }

    #[test]
    fn where_threads_are_refused_one_does_the_work() {
        let calls = AtomicUsize::new(0);
        // The system allows three.
        start_pool(8, &|work| calls.fetch_add(1, Ordering::Relaxed) < 3 && start_thread(work));
        assert_eq!((calls.into_inner(), rayon::current_num_threads()), (4, 1));
        assert_eq!(rayon::join(|| 1, || 2), (1, 2));
        start();
        assert_eq!(rayon::current_num_threads(), 1);
    }
}
