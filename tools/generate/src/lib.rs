//! Generates text with a model: one prompt, a chat on the terminal, or a file of prompts.
//!
//! Makes no artifact: stdout is the text, people read stderr. The same seed gives the same text, whatever else is in the
//! batch. Generation itself is the job of `models`, chat templates that of `dataset`.

mod answer;
mod args;
mod batch;
mod chat;
mod engine;
mod folders;
mod interrupt;
mod output;
mod stream;
mod timing;

pub use args::Args;

use std::error::Error as StdError;
use std::io;
use std::time::Instant;

use stage::{Context as _, Error, Result};

use crate::engine::Engine;
use crate::interrupt::Interrupt;

/// Does what the command line asks for; the text goes to stdout.
///
/// # Errors
///
/// Fails if the model, the adapters or the input cannot be used. An interrupted program fails silently, with the exit code
/// of the signal.
pub fn run(args: &Args) -> Result<()> {
    match answer_all(args) {
        // The reader of stdout has closed it.
        Err(error) if is_broken_pipe(&error) => Ok(()),
        result => result,
    }
}

fn answer_all(args: &Args) -> Result<()> {
    args.check()?;
    let interrupt = Interrupt::listen(args.chat).context("listening for signals")?;
    let started = Instant::now();
    let engine = Engine::open(args)?;
    if args.is_verbose() {
        timing::print_loaded(started);
    }
    if args.chat {
        chat::run(args, &engine, &interrupt)?;
    } else if let Some(input) = &args.input {
        batch::run(args, &engine, input, &interrupt)?;
    } else {
        answer::run(args, &engine, &interrupt)?;
    }
    Ok(())
}

fn is_broken_pipe(error: &Error) -> bool {
    let causes = std::iter::successors(Some(error as &dyn StdError), |&cause| cause.source());
    let mut kinds = causes.filter_map(|cause| cause.downcast_ref().map(io::Error::kind));
    kinds.any(|kind| kind == io::ErrorKind::BrokenPipe)
}
