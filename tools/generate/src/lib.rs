//! Text from a model: one prompt, a chat on the terminal, or a file of prompts.
//!
//! Makes no artifact: stdout is the text, people read stderr. A seed gives the same text again, whatever else runs in
//! the batch. Generation itself is `models`' work, templates are `dataset`'s.

mod answer;
mod args;
mod batch;
mod chat;
mod engine;
mod folders;
mod interrupt;
mod stream;
mod timing;

pub use args::Args;
pub use interrupt::Interrupt;

use anyhow::Result;
use engine::Engine;
use std::time::Instant;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All was said.
    Done,
    /// A signal ended it, by number.
    Interrupted(i32),
}

/// Does what the command line asks for, on stdout.
///
/// # Errors
///
/// Fails when the model, the adapters or the input cannot be used.
pub fn run(args: &Args, interrupt: &Interrupt) -> Result<Outcome> {
    args.check()?;
    let started = Instant::now();
    let engine = Engine::open(args)?;
    if args.verbose {
        timing::loaded(started);
    }
    if args.chat {
        chat::run(args, &engine, interrupt)
    } else if let Some(input) = &args.input {
        batch::run(args, &engine, input, interrupt)
    } else {
        answer::run(args, &engine, interrupt)
    }
}
