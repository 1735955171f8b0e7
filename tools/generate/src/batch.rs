//! A file of prompts, answered in batches; the answers keep the order of the rows.

use std::path::Path;

use dataset::{Error, Place, RawRow, RowReader};
use models::{Flow, Generation, Model};
use serde_json::{Map, Value, json};
use stage::{Context as _, Result};

use crate::args::Args;
use crate::engine::{Engine, Prompt, PromptError};
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::stream::TextStream;
use crate::timing::Timing;

/// Number of batches that are sorted by length and written together.
const BATCHES_TOGETHER: usize = 8;

const HINT: &str = "a row has `prompt` (text or messages), `messages` (and perhaps `tools`), or `prompt_tokens` (a list of ids)";

struct Row {
    fields: Map<String, Value>,
    prompt: Vec<u32>,
}

struct Answer {
    text: String,
    generation: Generation,
}

/// Answers every row of `input`. If a signal stops the program, the answers already written remain.
pub(crate) fn run(args: &Args, engine: &Engine, input: &Path, interrupt: &Interrupt) -> Result<()> {
    let rows = read(engine, input).context("reading the rows")?;
    let mut out = Output::open(args.output.as_deref())?;
    interrupt.set_answering(true);
    let bar = stage::progress_bar(rows.len() as u64);
    let mut batches = Batches { args, engine, interrupt, timing: Timing::start() };
    let rows_together = args.batch_size * BATCHES_TOGETHER;
    for (index, rows) in rows.chunks(rows_together).enumerate() {
        let first_row = (index * rows_together) as u64;
        let answers = batches.answer(&engine.model, rows, first_row)?;
        let base_answers =
            engine.base.as_ref().map(|base| batches.answer(base, rows, first_row)).transpose()?;
        interrupt.check()?;
        out.write_lines(rows.iter().enumerate().map(|(index, row)| {
            let base = base_answers.as_ref().map(|answers| &answers[index]);
            line(row, &answers[index], base, args.token_ids).to_string()
        }))?;
        bar.inc(rows.len() as u64);
    }
    bar.finish_and_clear();
    if args.is_verbose() {
        batches.timing.print_rows(rows.len());
    }
    Ok(())
}

/// Reads all rows, so that a mistake in the last one is found before the work on the first.
fn read(engine: &Engine, input: &Path) -> dataset::Result<Vec<Row>> {
    let input = if input == Path::new("-") { Path::new("/dev/stdin") } else { input };
    // A pipe that this process was given; a named one would wait for a writer.
    let is_stream = ["/dev/stdin", "/dev/fd", "/proc/self/fd"].iter().any(|at| input.starts_with(at));
    let mut reader = if is_stream { RowReader::open_stream(input)? } else { RowReader::open(input)? };
    let mut rows = Vec::new();
    while let Some(row) = reader.next_row()? {
        let RawRow { line, fields } = row.map_err(|problem| problem.in_file(input))?;
        let place = || Place { file: input.to_owned(), line, column: None };
        let unusable = |reason: String| Error::Row { place: place(), reason, hint: HINT.to_owned() };
        let prompt = prompt_of(&fields).map_err(unusable)?;
        let prompt = engine.tokens(&prompt).map_err(|error| match error {
            PromptError::Text(error) => error.at_row(place()),
            error => unusable(error.to_string()),
        })?;
        rows.push(Row { fields, prompt });
    }
    Ok(rows)
}

/// Returns the prompt of a row.
fn prompt_of(fields: &Map<String, Value>) -> Result<Prompt, String> {
    let field = |name| fields.get(name).filter(|value: &&Value| !value.is_null());
    if let Some(ids) = field("prompt_tokens") {
        return serde_json::from_value(ids.clone())
            .map(Prompt::Tokens)
            .map_err(|_| "`prompt_tokens` is not a list of token ids".to_owned());
    }
    match (field("prompt"), field("messages")) {
        (Some(Value::String(text)), _) => Ok(Prompt::Text(text.clone())),
        (Some(Value::Array(messages)), _) | (None, Some(Value::Array(messages))) => {
            conversation(messages, field("tools"))
        }
        (Some(_), _) => Err("`prompt` is neither text nor messages".to_owned()),
        (None, Some(_)) => Err("`messages` is not a list".to_owned()),
        (None, None) => {
            let names: Vec<&str> = fields.keys().map(String::as_str).take(12).collect();
            Err(format!("the row has no prompt; its fields are `{}`", names.join("`, `")))
        }
    }
}

/// Returns a conversation up to its answer; a final message of the assistant is the reference and left out.
fn conversation(messages: &[Value], tools: Option<&Value>) -> Result<Prompt, String> {
    let asked = match messages.split_last() {
        Some((last, before)) if dataset::is_assistant(last) => before,
        _ => messages,
    };
    if asked.is_empty() {
        return Err("the conversation has no question".to_owned());
    }
    Ok(Prompt::Messages { messages: asked.to_vec(), tools: tools.cloned() })
}

/// Everything that all batches share.
struct Batches<'a> {
    args: &'a Args,
    engine: &'a Engine,
    interrupt: &'a Interrupt,
    timing: Timing,
}

impl Batches<'_> {
    /// Answers `rows`, the first of which is row `first_row` of the file.
    fn answer(&mut self, model: &Model, rows: &[Row], first_row: u64) -> Result<Vec<Answer>> {
        let prompts: Vec<Vec<u32>> = rows.iter().map(|row| row.prompt.clone()).collect();
        let stream = || TextStream::new(&self.engine.tokenizer, &self.args.stop);
        let mut streams: Vec<(TextStream<'_>, String)> =
            rows.iter().map(|_| (stream(), String::new())).collect();
        let mut decode_error = None;
        let mut on_token = |row: usize, token: u32| {
            self.timing.count_token();
            let (stream, text) = &mut streams[row];
            match stream.push(token) {
                Ok(piece) => text.push_str(&piece),
                Err(error) => decode_error = Some(error),
            }
            if decode_error.is_some() || self.interrupt.requested().is_some() {
                Flow::EndAll
            } else if stream.ended() {
                Flow::EndRow
            } else {
                Flow::Continue
            }
        };
        let sampling = self.args.sampling(first_row);
        let generations =
            models::generate_with(model, &prompts, &self.engine.options, &sampling, &mut on_token)?;
        if let Some(error) = decode_error {
            return Err(error).context("decoding an answer");
        }
        let answers = streams.into_iter().zip(generations).map(|((mut stream, mut text), generation)| {
            text.push_str(&stream.finish()?);
            let stopped = generation.stopped || stream.ended();
            Ok(Answer { text, generation: Generation { stopped, ..generation } })
        });
        answers.collect()
    }
}

/// Fields of an answer, with the prefix of its model before them.
const ANSWER_FIELDS: [&str; 4] = ["generated", "generated_tokens", "generated_ids", "finish_reason"];

/// Returns the fields of the row with those of its answer. Those of answers in the input are left out: the input may be the output of an
/// earlier run with other models.
fn line(row: &Row, answer: &Answer, base: Option<&Answer>, token_ids: bool) -> Value {
    let mut fields = row.fields.clone();
    for prefix in ["", "base_"] {
        for name in ANSWER_FIELDS {
            fields.shift_remove(&format!("{prefix}{name}"));
        }
    }
    let mut insert = |prefix: &str, answer: &Answer| {
        let reason = if answer.generation.stopped { "stop" } else { "length" };
        fields.insert(format!("{prefix}generated"), json!(answer.text));
        fields.insert(format!("{prefix}generated_tokens"), json!(answer.generation.tokens.len()));
        fields.insert(format!("{prefix}finish_reason"), json!(reason));
        if token_ids {
            fields.insert(format!("{prefix}generated_ids"), json!(answer.generation.tokens));
        }
    };
    insert("", answer);
    if let Some(base) = base {
        insert("base_", base);
    }
    Value::Object(fields)
}
