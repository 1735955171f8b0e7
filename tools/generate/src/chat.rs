//! A conversation, line by line.

use std::io::{self, BufRead, IsTerminal as _, Write as _};

use anyhow::{Context as _, Result};
use models::Conversation;
use serde_json::{Value, json};
use stage::bad_input;

use crate::answer::{Settings, answer};
use crate::engine::{Engine, Prompt};
use crate::interrupt::Interrupt;
use crate::timing::tell;
use crate::{Args, Outcome};

/// Talks until `/quit`, the end of the input or a second Ctrl-C. Without a terminal every line is a turn.
pub(crate) fn run(args: &Args, engine: &Engine, interrupt: &Interrupt) -> Result<Outcome> {
    let on_terminal = io::stdin().is_terminal();
    if on_terminal {
        tell("/quit leaves, /reset begins anew, Ctrl-C ends an answer");
    }
    let settings = Settings { engine, interrupt, stop: &args.stop, verbose: args.verbose };
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
            text => messages.push(json!({"role": "user", "content": dataset::text::normalize(text)})),
        }
        let prompt = engine.tokens(&Prompt::Messages(messages.clone())).map_err(bad_input)?;
        interrupt.set_answering(true);
        let mut out = io::stdout().lock();
        let text = answer(&settings, &mut conversation, &prompt, &args.sampling(turn), &mut out)?;
        interrupt.set_answering(false);
        messages.push(json!({"role": "assistant", "content": text}));
        turn += 1;
    }
    Ok(Outcome::Done)
}

fn next_line(lines: &mut impl BufRead, on_terminal: bool) -> Result<Option<String>> {
    loop {
        if on_terminal {
            io::stderr().write_all(b"> ").context("asking for a line")?;
        }
        let mut bytes = Vec::new();
        if lines.read_until(b'\n', &mut bytes).context("reading a line")? == 0 {
            if on_terminal {
                tell("");
            }
            return Ok(None);
        }
        match String::from_utf8(bytes) {
            Ok(line) => return Ok(Some(line)),
            Err(_) if on_terminal => tell("that line is not UTF-8 text"),
            Err(error) => return Err(bad_input(error).context("reading a line")),
        }
    }
}
