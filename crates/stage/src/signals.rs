//! Signals: the first one sets a flag, the second ends the process immediately.

use std::sync::atomic::{AtomicI32, Ordering};

use failure::{Error, Kind, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

static REQUESTED: AtomicI32 = AtomicI32::new(0);

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
        let signal = self.requested().unwrap_or(SIGINT);
        Error::new(Kind::Interrupted { signal }, "interrupted; run the same command again to resume")
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
            tracing::warn!("stopping at the next safe point; repeat the signal to stop immediately");
        }
    })?;
    Ok(())
}
