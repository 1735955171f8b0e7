//! Answers one prompt, printing the text as it is generated.

use std::io::{self, Read as _, Write};

use models::{Conversation, Flow, Sampling};
use stage::{Context as _, Result, TO_STDOUT};

use crate::args::Args;
use crate::engine::{Engine, Prompt};
use crate::interrupt::Interrupt;
use crate::stream::TextStream;
use crate::timing::Timing;

/// Everything that all answers of a program share.
pub(crate) struct Answering<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) interrupt: &'a Interrupt,
    /// Texts that end an answer.
    pub(crate) stop: &'a [String],
    pub(crate) verbose: bool,
}

/// Answers `--prompt`; with `--compare`, also with the base model.
pub(crate) fn run(args: &Args, engine: &Engine, interrupt: &Interrupt) -> Result<()> {
    let text = match args.prompt.as_deref().unwrap_or_default() {
        "-" => read_stdin()?,
        text => text.to_owned(),
    };
    let tokens = engine.tokens(&Prompt::Text(text)).context("reading the prompt")?;
    interrupt.set_answering(true);
    let answering = Answering { engine, interrupt, stop: &args.stop, verbose: args.is_verbose() };
    let mut out = io::stdout().lock();
    let mut models = vec![("adapters", &engine.model)];
    if let Some(base) = &engine.base {
        models.insert(0, ("base", base));
    }
    for (index, (name, model)) in models.iter().enumerate() {
        if models.len() > 1 {
            let gap = if index > 0 { "\n" } else { "" };
            writeln!(out, "{gap}=== {name} ===").context(TO_STDOUT)?;
        }
        let mut conversation = Conversation::new(model);
        answering.answer(&mut conversation, &tokens, &args.sampling(0), &mut out)?;
        interrupt.check()?;
    }
    Ok(())
}

fn read_stdin() -> Result<String> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).context("reading the prompt from stdin")?;
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    Ok(text)
}

impl Answering<'_> {
    /// Generates an answer, writes it piece by piece, ends it with a line break, and returns its text.
    pub(crate) fn answer(
        &self,
        conversation: &mut Conversation<'_>,
        prompt: &[u32],
        sampling: &Sampling,
        out: &mut impl Write,
    ) -> Result<String> {
        let cached_tokens = conversation.known(prompt);
        let mut stream = TextStream::new(&self.engine.tokenizer, self.stop);
        let mut timing = Timing::start();
        let mut text = String::new();
        let mut write_error = None;
        let mut on_token = |token| {
            timing.count_token();
            match write_piece(stream.push(token), &mut text, out) {
                Err(error) => write_error = Some(error),
                Ok(()) if stream.ended() => return Flow::EndRow,
                Ok(()) if self.interrupt.requested().is_none() => return Flow::Continue,
                Ok(()) => {}
            }
            Flow::EndAll
        };
        conversation.answer(prompt, &self.engine.options, sampling, &mut on_token)?;
        if let Some(error) = write_error {
            return Err(error);
        }
        write_piece(stream.finish(), &mut text, out)?;
        if !text.ends_with('\n') {
            writeln!(out).context(TO_STDOUT)?;
        }
        out.flush().context(TO_STDOUT)?;
        if self.verbose {
            timing.print_answer(prompt.len(), cached_tokens);
        }
        Ok(text)
    }
}

/// Writes a piece of text and appends it to `text`.
fn write_piece(piece: dataset::Result<String>, text: &mut String, out: &mut impl Write) -> Result<()> {
    let piece = piece?;
    out.write_all(piece.as_bytes()).and_then(|()| out.flush()).context(TO_STDOUT)?;
    text.push_str(&piece);
    Ok(())
}
