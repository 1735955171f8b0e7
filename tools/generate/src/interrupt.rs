//! Ctrl-C: ends an answer first, the program only at the second time.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What signals asked for.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// The signal that came since the last [`Interrupt::clear`]; 0 for none.
    signal: AtomicI32,
    /// An answer is being made; else a chat waits for a line.
    answering: AtomicBool,
}

impl Interrupt {
    /// Starts to listen. In a chat, the first Ctrl-C only ends an answer; other signals end the program.
    ///
    /// # Errors
    ///
    /// Fails when signals cannot be caught.
    pub fn listen(chat: bool) -> io::Result<Self> {
        let interrupt = Self::default();
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let state = Arc::clone(&interrupt.0);
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in &mut signals {
                state.take(signal, chat);
            }
        })?;
        Ok(interrupt)
    }

    /// The signal that asks to end the answer.
    pub fn requested(&self) -> Option<i32> {
        Some(self.0.signal.load(Ordering::SeqCst)).filter(|&signal| signal != 0)
    }

    /// Forgets the signal: a new line was given.
    pub(crate) fn clear(&self) {
        self.0.signal.store(0, Ordering::SeqCst);
    }

    /// Says whether an answer is being made.
    pub(crate) fn set_answering(&self, answering: bool) {
        self.0.answering.store(answering, Ordering::SeqCst);
    }
}

impl State {
    fn take(&self, signal: i32, chat: bool) {
        let first = self.signal.swap(signal, Ordering::SeqCst) == 0;
        if !first || (chat && signal != SIGINT) {
            let _ = io::stderr().write_all(b"\n");
            signal_hook::low_level::exit(128 + signal);
        }
        if chat && !self.answering.load(Ordering::SeqCst) {
            let _ = io::stderr().write_all(b"\n(once more, or /quit, to leave)\n> ");
        }
    }
}
