//! A file of prompts: many at a time, answers in the order of the rows.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use dataset::{Error, Place, RawRow, RowReader};
use indicatif::ProgressBar;
use models::{Flow, Generation, Model};
use serde_json::{Map, Value, json};
use stage::bad_input;

use crate::engine::{Engine, Prompt};
use crate::interrupt::Interrupt;
use crate::stream::TextStream;
use crate::timing::Timing;
use crate::{Args, Outcome};

/// So many batches are sorted by length together, and written together.
const BATCHES_TOGETHER: usize = 8;

const HINT: &str = "a row has `prompt` (text or messages), `messages`, or `prompt_tokens` (a list of ids)";

struct Row {
    fields: Map<String, Value>,
    prompt: Vec<u32>,
}

struct Answer {
    text: String,
    generation: Generation,
}

/// Answers every row of `input`; what was written stays when a signal ends the run.
pub(crate) fn run(args: &Args, engine: &Engine, input: &Path, interrupt: &Interrupt) -> Result<Outcome> {
    let rows = read(engine, input).map_err(bad_input).context("reading the rows")?;
    let mut out: Box<dyn Write> = match &args.output {
        Some(path) => Box::new(BufWriter::new(fs_err::File::create(path)?)),
        None => Box::new(BufWriter::new(io::stdout())),
    };
    let bar = ProgressBar::new(rows.len() as u64);
    let mut timing = Timing::start();
    for (index, rows) in rows.chunks(args.batch_size * BATCHES_TOGETHER).enumerate() {
        let first = index * args.batch_size * BATCHES_TOGETHER;
        let answers = answer(args, engine, &engine.model, rows, first, interrupt, &mut timing)?;
        let base = engine.base.as_ref();
        let base = base.map(|base| answer(args, engine, base, rows, first, interrupt, &mut timing));
        let base = base.transpose()?;
        if let Some(signal) = interrupt.requested() {
            bar.abandon();
            return Ok(Outcome::Interrupted(signal));
        }
        for (index, row) in rows.iter().enumerate() {
            let base = base.as_ref().map(|answers| &answers[index]);
            let mut line = line(row, &answers[index], base, args.token_ids).to_string();
            line.push('\n');
            out.write_all(line.as_bytes())?;
        }
        out.flush()?;
        bar.inc(rows.len() as u64);
    }
    bar.finish_and_clear();
    if args.verbose {
        timing.tell_rows(rows.len());
    }
    Ok(Outcome::Done)
}

/// Reads all rows, so that a mistake in the last is told before the work on the first.
fn read(engine: &Engine, input: &Path) -> Result<Vec<Row>> {
    let input = if input == Path::new("-") { Path::new("/dev/stdin") } else { input };
    let mut reader = RowReader::open(input)?;
    let mut rows = Vec::new();
    while let Some(row) = reader.next_row()? {
        let RawRow { line, fields } = row.map_err(|problem| problem.in_file(input))?;
        let place = || Place { file: input.to_owned(), line, column: None };
        let wrong = |reason: String| Error::Row { place: place(), reason, hint: HINT.to_owned() };
        let prompt = prompt_of(&fields).map_err(wrong)?;
        let prompt = engine.tokens(&prompt).map_err(|error| match error.downcast::<Error>() {
            Ok(error) => error.at_row(place()),
            Err(error) => wrong(error.to_string()),
        })?;
        rows.push(Row { fields, prompt });
    }
    Ok(rows)
}

fn prompt_of(fields: &Map<String, Value>) -> Result<Prompt, String> {
    let field = |name| fields.get(name).filter(|value: &&Value| !value.is_null());
    if let Some(ids) = field("prompt_tokens") {
        return serde_json::from_value(ids.clone())
            .map(Prompt::Tokens)
            .map_err(|_| "`prompt_tokens` is not a list of token ids".to_owned());
    }
    match (field("prompt"), field("messages")) {
        (Some(Value::String(text)), _) => Ok(Prompt::Text(text.clone())),
        (Some(Value::Array(messages)), _) | (None, Some(Value::Array(messages))) => conversation(messages),
        (Some(_), _) => Err("`prompt` is neither text nor messages".to_owned()),
        (None, Some(_)) => Err("`messages` is not a list".to_owned()),
        (None, None) => {
            let names: Vec<&str> = fields.keys().map(String::as_str).take(12).collect();
            Err(format!("the row has no prompt; its fields are `{}`", names.join("`, `")))
        }
    }
}

/// A conversation up to the answer; one that is there already is the reference and left out.
fn conversation(messages: &[Value]) -> Result<Prompt, String> {
    let asked = match messages.split_last() {
        Some((last, before)) if last["role"] == "assistant" => before,
        _ => messages,
    };
    if asked.is_empty() {
        return Err("the conversation asks nothing".to_owned());
    }
    Ok(Prompt::Messages(asked.to_vec()))
}

fn answer(
    args: &Args,
    engine: &Engine,
    model: &Model,
    rows: &[Row],
    first: usize,
    interrupt: &Interrupt,
    timing: &mut Timing,
) -> Result<Vec<Answer>> {
    let prompts: Vec<Vec<u32>> = rows.iter().map(|row| row.prompt.clone()).collect();
    let mut streams: Vec<(TextStream<'_>, String)> =
        rows.iter().map(|_| (TextStream::new(&engine.tokenizer, &args.stop), String::new())).collect();
    let mut failure = None;
    let mut listen = |row: usize, token: u32| {
        timing.token();
        let (stream, text) = &mut streams[row];
        match stream.push(token) {
            Ok(piece) => text.push_str(&piece),
            Err(error) => failure = Some(error),
        }
        match interrupt.requested() {
            None if failure.is_none() => {
                if stream.ended() {
                    Flow::EndRow
                } else {
                    Flow::Continue
                }
            }
            _ => Flow::EndAll,
        }
    };
    let sampling = args.sampling(first as u64);
    let generations = models::generate_with(model, &prompts, &engine.options, &sampling, &mut listen)?;
    if let Some(error) = failure {
        return Err(error).with_context(|| anyhow!("decoding an answer"));
    }
    let finish = |((mut stream, mut text), generation): ((TextStream<'_>, String), Generation)| {
        text.push_str(&stream.finish()?);
        let stopped = generation.stopped || stream.ended();
        Ok(Answer { text, generation: Generation { stopped, ..generation } })
    };
    streams.into_iter().zip(generations).map(finish).collect()
}

/// The row's own fields, and what was made of it.
fn line(row: &Row, answer: &Answer, base: Option<&Answer>, token_ids: bool) -> Value {
    let mut fields = row.fields.clone();
    let mut put = |prefix: &str, answer: &Answer| {
        let reason = if answer.generation.stopped { "stop" } else { "length" };
        fields.insert(format!("{prefix}generated"), json!(answer.text));
        fields.insert(format!("{prefix}generated_tokens"), json!(answer.generation.tokens.len()));
        fields.insert(format!("{prefix}finish_reason"), json!(reason));
        if token_ids {
            fields.insert(format!("{prefix}generated_ids"), json!(answer.generation.tokens));
        }
    };
    put("", answer);
    if let Some(base) = base {
        put("base_", base);
    }
    Value::Object(fields)
}
