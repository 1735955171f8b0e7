//! Ctrl-C: the first one ends an answer, the second one the program.
//!
//! Outside a chat, a signal ends the program: at once while nothing is being written, such as when it loads the model or waits for
//! its stdin, and otherwise after the answer or the batch, which has a few seconds for that.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use stage::{Error, Kind, Result};

/// Signals received so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// The signal received since the last [`Interrupt::clear`]; 0 for none.
    signal: AtomicI32,
    /// Whether answers are being generated; otherwise a chat waits for a line, and nothing has been written yet without one.
    answering: AtomicBool,
}

impl Interrupt {
    /// Starts to listen. In a chat, the first Ctrl-C only ends an answer; other signals end the program.
    ///
    /// # Errors
    ///
    /// Fails if signals cannot be caught.
    pub(crate) fn listen(chat: bool) -> io::Result<Self> {
        let interrupt = Self::default();
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let state = Arc::clone(&interrupt.0);
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in &mut signals {
                state.receive(signal, chat);
            }
        })?;
        Ok(interrupt)
    }

    /// Returns the signal that asks to end the answer.
    pub(crate) fn requested(&self) -> Option<i32> {
        Some(self.0.signal.load(Ordering::SeqCst)).filter(|&signal| signal != 0)
    }

    /// Fails, without a message, with the exit code of the signal if there was one.
    pub(crate) fn check(&self) -> Result<()> {
        match self.requested() {
            Some(signal) => Err(Error::new(Kind::Status(Kind::Interrupted { signal }.exit_code()), "")),
            None => Ok(()),
        }
    }

    /// Forgets the signal, because a new line was given.
    pub(crate) fn clear(&self) {
        self.0.signal.store(0, Ordering::SeqCst);
    }

    /// Sets whether answers are being generated.
    pub(crate) fn set_answering(&self, answering: bool) {
        self.0.answering.store(answering, Ordering::SeqCst);
    }
}

impl State {
    fn receive(&self, signal: i32, chat: bool) {
        let first = self.signal.swap(signal, Ordering::SeqCst) == 0;
        let answering = self.answering.load(Ordering::SeqCst);
        if !first || (chat && signal != SIGINT) || (!chat && !answering) {
            stage::end_by_signal(signal, end_line);
        }
        if !chat {
            stage::end_after_grace(signal);
        } else if !answering {
            let _ = io::stderr().write_all(b"\n(press Ctrl-C again, or type /quit, to leave)\n> ");
        }
    }
}

/// Ends the line with `^C` on a terminal.
fn end_line() {
    if io::stderr().is_terminal() {
        let _ = io::stderr().write_all(b"\n");
    }
}
