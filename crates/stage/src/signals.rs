//! Signals: the first one sets a flag, the second ends the process immediately.
//!
//! Work that does not look at the flag, such as a copy of a large file, is ended after a few seconds. That leaves what a kill
//! leaves: nothing half-written is visible, and the next run removes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use failure::{Error, Kind, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

/// Time for work to reach a safe point after a signal.
const GRACE: Duration = Duration::from_secs(4);
/// Time limit for the last message.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Pause between two looks at the time.
const POLL: Duration = Duration::from_millis(50);

static REQUESTED: AtomicI32 = AtomicI32::new(0);
/// Number of [`Unhurried`].
static UNHURRIED: AtomicUsize = AtomicUsize::new(0);

/// Work that must reach its safe point, however long that takes, such as a training step.
#[derive(Debug)]
pub struct Unhurried(());

impl Drop for Unhurried {
    fn drop(&mut self) {
        UNHURRIED.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Flag that is set when the process is asked to stop; check it between steps.
#[derive(Debug, Clone, Copy, Default)]
pub struct StopFlag(());

impl StopFlag {
    pub(crate) fn new() -> Self {
        Self(())
    }

    /// Returns the number of the signal that asked to stop.
    pub fn requested(self) -> Option<i32> {
        match REQUESTED.load(Ordering::Relaxed) {
            0 => None,
            signal => Some(signal),
        }
    }

    /// Sets the flag as `signal` would, because another process of the same run got it.
    pub fn set(self, signal: i32) {
        let _ = REQUESTED.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Says that this work looks at the flag itself and must not be ended before, until the result is dropped.
    #[must_use]
    pub fn unhurried(self) -> Unhurried {
        UNHURRIED.fetch_add(1, Ordering::SeqCst);
        Unhurried(())
    }

    /// Fails with [`Kind::Interrupted`] if the process was asked to stop.
    ///
    /// # Errors
    ///
    /// As above.
    pub fn check(self) -> Result<()> {
        self.requested().map_or(Ok(()), |_| Err(self.interrupted()))
    }

    /// Returns the error for work that was interrupted.
    pub fn interrupted(self) -> Error {
        self.error("interrupted; run the same command again to resume")
    }

    /// Returns the error for work that was interrupted and of which nothing is kept.
    pub fn interrupted_without_state(self) -> Error {
        self.error("interrupted; nothing is kept of this run").hinted(
            "let a run with `--out` keep its state in a folder: `--resume-dir DIR`, or `ASHLAR_SCRATCH`",
        )
    }

    fn error(self, text: &str) -> Error {
        Error::new(Kind::Interrupted { signal: self.requested().unwrap_or(SIGINT) }, text)
    }
}

/// Turns the signal for exceeding the file size limit (`ulimit -f`) into a write error.
pub(crate) fn catch_size_limit() -> std::io::Result<()> {
    signal_hook::flag::register(SIGXFSZ, Arc::default()).map(drop)
}

/// Starts to listen for SIGINT, SIGTERM and SIGHUP.
pub(crate) fn listen() -> std::io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in &mut signals {
            let first = REQUESTED.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst).is_ok();
            if !first {
                signal_hook::low_level::exit(128 + signal);
            }
            end_after_grace(signal);
            // On a thread: this one must hear the second signal, also while nobody reads stderr.
            let _ = speak(|| {
                tracing::warn!("stopping at the next safe point; repeat the signal to stop immediately");
            });
        }
    })?;
    Ok(())
}

/// Starts a thread that exits with the code of `signal` if the process does not reach a safe point within the grace period.
pub fn end_after_grace(signal: i32) {
    // Without a thread, the second signal still ends the process.
    let _ = thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
        let mut end = Instant::now() + GRACE;
        while Instant::now() < end {
            thread::sleep(POLL);
            if UNHURRIED.load(Ordering::SeqCst) > 0 {
                end = Instant::now() + GRACE;
            }
        }
        end_by_signal(signal, || {
            tracing::warn!("no safe point within {} s; stopping now", GRACE.as_secs());
        });
    });
}

/// Exits immediately with the code of `signal`. `last_words` may print to stderr; it gets half a second, in case nobody reads stderr.
pub fn end_by_signal(signal: i32, last_words: impl FnOnce() + Send + 'static) -> ! {
    if let Ok(speaker) = speak(last_words) {
        let end = Instant::now() + LAST_WORDS;
        while !speaker.is_finished() && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
    }
    signal_hook::low_level::exit(128 + signal)
}

/// Prints from another thread, because stderr may be a full pipe that nobody reads.
fn speak(words: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    thread::Builder::new().name("last-words".to_owned()).spawn(words)
}
