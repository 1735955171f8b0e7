//! One prompt, answered as the tokens come.

use std::io::{self, Read as _, Write};

use anyhow::{Context as _, Result};
use models::{Conversation, Flow, Sampling};
use stage::bad_input;

use crate::engine::{Engine, Prompt};
use crate::interrupt::Interrupt;
use crate::stream::TextStream;
use crate::timing::Timing;
use crate::{Args, Outcome};

/// How an answer is made and shown.
pub(crate) struct Settings<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) interrupt: &'a Interrupt,
    pub(crate) stop: &'a [String],
    pub(crate) verbose: bool,
}

/// Answers `--prompt`, with the base model too if both are wanted.
pub(crate) fn run(args: &Args, engine: &Engine, interrupt: &Interrupt) -> Result<Outcome> {
    let text = match args.prompt.as_deref().unwrap_or_default() {
        "-" => from_stdin()?,
        text => text.to_owned(),
    };
    let tokens = engine.tokens(&Prompt::Text(text)).map_err(bad_input).context("reading the prompt")?;
    let settings = Settings { engine, interrupt, stop: &args.stop, verbose: args.verbose };
    let mut out = io::stdout().lock();
    let mut models = vec![("adapters", &engine.model)];
    if let Some(base) = &engine.base {
        models.insert(0, ("base", base));
    }
    for (index, (name, model)) in models.iter().enumerate() {
        if models.len() > 1 {
            let gap = if index > 0 { "\n" } else { "" };
            writeln!(out, "{gap}=== {name} ===")?;
        }
        let mut conversation = Conversation::new(model);
        answer(&settings, &mut conversation, &tokens, &args.sampling(0), &mut out)?;
        if let Some(signal) = interrupt.requested() {
            return Ok(Outcome::Interrupted(signal));
        }
    }
    Ok(Outcome::Done)
}

fn from_stdin() -> Result<String> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).context("reading the prompt from stdin")?;
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    Ok(text)
}

/// Makes an answer, writes it as it comes, ends it with a line break, and returns its text.
pub(crate) fn answer(
    settings: &Settings<'_>,
    conversation: &mut Conversation<'_>,
    prompt: &[u32],
    sampling: &Sampling,
    out: &mut impl Write,
) -> Result<String> {
    let engine = settings.engine;
    let known = conversation.known(prompt);
    let mut stream = TextStream::new(&engine.tokenizer, settings.stop);
    let mut timing = Timing::start();
    let mut text = String::new();
    let mut failure = None;
    let mut listen = |token| {
        timing.token();
        match show(stream.push(token), &mut text, out) {
            Err(error) => failure = Some(error),
            Ok(()) if stream.ended() => return Flow::EndRow,
            Ok(()) if settings.interrupt.requested().is_none() => return Flow::Continue,
            Ok(()) => {}
        }
        Flow::EndAll
    };
    conversation.answer(prompt, &engine.options, sampling, &mut listen)?;
    if let Some(error) = failure {
        return Err(error);
    }
    show(stream.finish(), &mut text, out)?;
    if !text.ends_with('\n') {
        writeln!(out)?;
    }
    out.flush()?;
    if settings.verbose {
        timing.tell(prompt.len(), known);
    }
    Ok(text)
}

fn show(piece: Result<String>, text: &mut String, out: &mut impl Write) -> Result<()> {
    let piece = piece?;
    out.write_all(piece.as_bytes())?;
    out.flush()?;
    text.push_str(&piece);
    Ok(())
}
