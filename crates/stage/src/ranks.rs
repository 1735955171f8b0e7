//! Runs of several processes: the first does the work of a run, and the others assist it.

use failure::{Error, Result};

use crate::config::{self, Config};
use crate::identity::Identity;
use crate::logging;
use crate::run::{KeyedRun, Run};
use crate::scratch_folder::ScratchFolder;

impl<C: Config> Run<C> {
    /// Changes settings whose values are known only after the inputs are open.
    ///
    /// # Errors
    ///
    /// Fails when the result is wrong (exit 2).
    pub fn adjust(&mut self, change: impl FnOnce(&mut C)) -> Result<()> {
        change(&mut self.config);
        config::check(&mut self.config)
    }

    /// Returns whether a run with these inputs and the settings `config` was begun or finished.
    ///
    /// # Errors
    ///
    /// Fails if a setting cannot be part of a key (exit 2), or if the store cannot be listed.
    pub fn is_begun(&self, config: &C) -> Result<bool> {
        let id = Identity::new(config, &self.inputs, &self.numerics, self.stop_at.as_deref())?;
        let is_finished = match self.store() {
            Some(store) => store.find(id.stage, &id.key, &id.slug)?.is_some(),
            None => false,
        };
        Ok(is_finished || self.is_unfinished(config)?)
    }

    /// Returns whether a run with these inputs and the settings `config` was begun and not finished.
    ///
    /// # Errors
    ///
    /// Fails if a setting cannot be part of a key (exit 2).
    pub fn is_unfinished(&self, config: &C) -> Result<bool> {
        let id = Identity::new(config, &self.inputs, &self.numerics, self.stop_at.as_deref())?;
        match self.store() {
            Some(store) => Ok(store.workspace(id.stage, &id.key)?.has_state()),
            None => Ok(ScratchFolder::is_left(&self.common, &id)),
        }
    }
}

impl<C: Config> KeyedRun<C> {
    /// Verifies the inputs and runs `body` for another process, which publishes the result.
    ///
    /// # Errors
    ///
    /// Returns the error of `body`; fails if an input is damaged or changes meanwhile (exit 65).
    pub fn assist(self, body: impl FnOnce(&C) -> Result<()>) -> Result<()> {
        self.with_verified_inputs(body)
    }
}

/// Makes this process, rank `rank` of several, print only warnings and errors, with its number.
pub fn speak_as_rank(rank: usize) {
    logging::speak_as_rank(rank);
}

/// Ends the process at once, from any thread, after a message if there is one.
pub fn end_now(code: u8, message: &str) -> ! {
    if !message.is_empty() {
        let hint = "run the same command again to resume from the last state, on as many ranks as you like";
        logging::print_error_line(&Error::failed(message).hinted(hint).report());
    }
    signal_hook::low_level::exit(i32::from(code))
}
