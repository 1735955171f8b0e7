//! Being asked to stop: the first signal sets a flag, the second ends the process at once.

use std::sync::atomic::{AtomicI32, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::Interrupted;

static REQUESTED: AtomicI32 = AtomicI32::new(0);

/// Tells whether the stage was asked to stop. Look at it between steps.
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

    /// Fails with [`Interrupted`] when asked to stop, for use with `?`.
    ///
    /// # Errors
    ///
    /// [`Interrupted`] names the signal.
    pub fn check(self) -> Result<(), Interrupted> {
        self.requested().map_or(Ok(()), |signal| Err(Interrupted { signal }))
    }
}

/// Starts to listen for SIGINT, SIGTERM and SIGHUP.
pub(crate) fn listen() -> std::io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in &mut signals {
            let first = REQUESTED.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst).is_ok();
            if !first {
                signal_hook::low_level::exit(128 + signal);
            }
            tracing::warn!("stopping at the next safe point; once more to stop at once");
        }
    })?;
    Ok(())
}
