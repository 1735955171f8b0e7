//! A conversation, line by line.

use std::io::{self, BufRead, IsTerminal as _, Write as _};

use models::Conversation;
use serde_json::{Value, json};
use stage::{Context as _, Error, Kind, Result};

use crate::answer::Answering;
use crate::args::Args;
use crate::engine::{Engine, Prompt};
use crate::interrupt::Interrupt;

/// Chats until `/quit`, the end of the input or a second Ctrl-C. Without a terminal, every line is a turn.
pub(crate) fn run(args: &Args, engine: &Engine, interrupt: &Interrupt) -> Result<()> {
    let on_terminal = io::stdin().is_terminal();
    if on_terminal {
        tracing::info!("/quit leaves, /reset starts over, Ctrl-C ends an answer");
    }
    let answering = Answering { engine, interrupt, stop: &args.stop, verbose: args.is_verbose() };
    let mut conversation = Conversation::new(&engine.model);
    let mut messages: Vec<Value> = Vec::new();
    let mut lines = io::stdin().lock();
    let mut turn = 0;
    while let Some(line) = next_line(&mut lines, on_terminal)? {
        interrupt.clear();
        match line.trim() {
            "" => continue,
            "/quit" | "/exit" => break,
            "/reset" => {
                messages.clear();
                turn = 0;
                continue;
            }
            text => messages.push(json!({"role": "user", "content": text})),
        }
        let prompt = engine.tokens(&Prompt::Messages { messages: messages.clone(), tools: None })?;
        interrupt.set_answering(true);
        let mut out = io::stdout().lock();
        let text = answering.answer(&mut conversation, &prompt, &args.sampling(turn), &mut out)?;
        interrupt.set_answering(false);
        messages.push(json!({"role": "assistant", "content": text}));
        turn += 1;
    }
    Ok(())
}

/// Reads a line, after a prompt on a terminal; returns `None` at the end of the input.
fn next_line(lines: &mut impl BufRead, on_terminal: bool) -> Result<Option<String>> {
    loop {
        if on_terminal {
            io::stderr().write_all(b"> ").context("printing the prompt")?;
        }
        let mut bytes = Vec::new();
        if lines.read_until(b'\n', &mut bytes).context("reading a line")? == 0 {
            if on_terminal {
                io::stderr().write_all(b"\n").context("printing the prompt")?;
            }
            return Ok(None);
        }
        match String::from_utf8(bytes) {
            Ok(line) => return Ok(Some(line)),
            Err(_) if on_terminal => tracing::warn!("that line is not UTF-8 text"),
            Err(error) => return Err(Error::wrap(Kind::BadInput, error).context("reading a line")),
        }
    }
}
