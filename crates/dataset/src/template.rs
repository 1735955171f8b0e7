//! Chat templates, rendered as transformers renders them.
//!
//! Jinja with `trim_blocks` and `lstrip_blocks`, Python's string methods and printing, loop controls, `raise_exception`,
//! `generation` blocks and the `tojson` of transformers. Two differences are deliberate: `strftime_now` exists only if a
//! date is set, since data that changes overnight is not reproducible; and rendering stops after a fixed amount of work,
//! since templates come from strangers.
//!
//! Known differences: `~` and `join` print booleans and none as minijinja does (`true`, `none`), and adjacent string
//! literals are not joined.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::Range;

use minijinja::value::{Kwargs, Value as JinjaValue};
use minijinja::{Environment, ErrorKind, context};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::generation;
use crate::python::{self, Date};

/// Maximum number of instructions per rendering; a long conversation takes tens of thousands.
const FUEL: u64 = 20_000_000;
/// Maximum length of a rendered text.
const MAX_OUTPUT_BYTES: usize = 64 << 20;
/// Function that prints today's date.
const DATE_FUNCTION: &str = "strftime_now";

/// A compiled chat template.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    name: String,
    special_tokens: BTreeMap<String, String>,
    tracks_generation: bool,
    /// Whether the template calls [`DATE_FUNCTION`], but no date is set.
    lacks_date: bool,
}

/// A conversation to render.
#[derive(Clone, Copy, Debug)]
pub struct Conversation<'a> {
    /// Messages: objects with a `role`.
    pub messages: &'a [Value],
    /// JSON schemas of functions that the model may call.
    pub tools: Option<&'a Value>,
    /// Whether to append the header of an assistant turn.
    pub add_generation_prompt: bool,
}

/// A rendered conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// Text for the tokenizer.
    pub text: String,
    /// Byte ranges of the `generation` blocks; `None` if the template has none.
    pub generation: Option<Vec<Range<usize>>>,
}

impl ChatTemplate {
    /// Compiles `source`. Errors call the template `name`.
    ///
    /// `special_tokens` are variables such as `bos_token`; `strftime_now` prints `date`.
    ///
    /// # Errors
    ///
    /// Fails when the template does not parse.
    pub fn new(
        source: &str,
        name: &str,
        special_tokens: BTreeMap<String, String>,
        date: Option<Date>,
    ) -> Result<Self> {
        let lacks_date = date.is_none() && source.contains(DATE_FUNCTION);
        let (source, tracks_generation) = generation::rewrite(source);
        let environment = environment(date);
        let mut template =
            Self { environment, name: name.to_owned(), special_tokens, tracks_generation, lacks_date };
        let added = template.environment.add_template_owned("chat", source);
        added.map_err(|error| template.error(&error))?;
        Ok(template)
    }

    /// Returns the text of `messages`, with the header of an assistant turn at the end if `add_generation_prompt`.
    ///
    /// # Errors
    ///
    /// Fails when the template refuses the conversation or takes too long; the error names the template's line.
    pub fn render(&self, messages: &[Value], add_generation_prompt: bool) -> Result<String> {
        Ok(self.render_full(&Conversation { messages, tools: None, add_generation_prompt })?.text)
    }

    /// Renders a conversation, and returns the byte ranges that the template marks as generated.
    ///
    /// # Errors
    ///
    /// As [`ChatTemplate::render`].
    pub fn render_full(&self, conversation: &Conversation<'_>) -> Result<Rendered> {
        let messages: Vec<Value> = conversation.messages.iter().map(plain_message).collect();
        let variables = context! {
            messages => JinjaValue::from_serialize(&messages),
            tools => conversation.tools.map_or(JinjaValue::from(()), JinjaValue::from_serialize),
            documents => (),
            add_generation_prompt => conversation.add_generation_prompt,
            ..JinjaValue::from_serialize(&self.special_tokens)
        };
        let template = self.environment.get_template("chat").expect("`new` has added it");
        let mut output = Bounded(Vec::new());
        template.render_captured_to(variables, &mut output).map_err(|error| self.error(&error))?;
        let text = String::from_utf8(output.0).expect("templates write whole strings");
        if !self.tracks_generation {
            return Ok(Rendered { text, generation: None });
        }
        let (text, ranges) = generation::take_marks(&text);
        Ok(Rendered { text, generation: Some(ranges) })
    }

    /// Turns an error of the template engine into one that names the template and its line.
    fn error(&self, error: &minijinja::Error) -> Error {
        let kind = error.kind();
        let detail = error.detail().map_or_else(|| kind.to_string(), str::to_owned);
        let change_messages = "change the messages to what the template accepts, or change the template";
        // The reasons are in `stats.json` when bad rows are skipped, so their wording is fixed.
        let (reason, hint) = match kind {
            ErrorKind::UnknownFunction if self.lacks_date => (
                "it prints today's date, which would make every day's data different".to_owned(),
                "fix the date with the setting `template_date = \"YYYY-MM-DD\"`",
            ),
            ErrorKind::OutOfFuel => (
                "it works too long, perhaps without end".to_owned(),
                "check the loops of the template in the tokenizer folder",
            ),
            ErrorKind::SyntaxError => {
                (format!("syntax error: {detail}"), "correct the template in the tokenizer folder")
            }
            ErrorKind::InvalidOperation => (detail, change_messages),
            _ => (format!("{kind}: {detail}"), change_messages),
        };
        let line = error.line().unwrap_or(1);
        Error::Template { name: self.name.clone(), line, reason, hint: hint.to_owned() }
    }
}

/// Prepares a message as transformers does: drops keys without a value, and offers reasoning under each name that
/// templates use for it.
fn plain_message(message: &Value) -> Value {
    let Value::Object(fields) = message else { return message.clone() };
    let has_value = |value: &&Value| !value.is_null();
    let names = ["reasoning_content", "thinking", "reasoning"];
    let reasoning = names.iter().find_map(|name| fields.get(*name).filter(has_value));
    let mut plain = serde_json::Map::new();
    plain.extend(reasoning.map(|reasoning| ("thinking".to_owned(), reasoning.clone())));
    plain.extend(
        fields.iter().filter(|(_, value)| has_value(value)).map(|(key, value)| (key.clone(), value.clone())),
    );
    plain.extend(reasoning.map(|reasoning| ("reasoning_content".to_owned(), reasoning.clone())));
    Value::Object(plain)
}

fn environment(date: Option<Date>) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_fuel(Some(FUEL));
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(python::method);
    environment.set_formatter(|out, _, value| {
        out.write_str(&python::str_of(value)).map_err(|_| minijinja::Error::from(ErrorKind::WriteFailure))
    });
    environment.add_filter("tojson", |value: JinjaValue, options: Kwargs| python::tojson(&value, &options));
    environment.add_filter("trim", |value: JinjaValue, letters: Option<String>| {
        python::strip(&value, letters.as_deref())
    });
    environment.add_filter("string", |value: JinjaValue| python::str_of(&value));
    environment.add_filter(generation::FILTER, |body: String| generation::mark(&body));
    environment.add_function("raise_exception", |message: String| -> Result<(), minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    if let Some(date) = date {
        environment.add_function(DATE_FUNCTION, move |format: String| date.strftime(&format));
    }
    environment
}

/// Collects a text of at most [`MAX_OUTPUT_BYTES`].
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        if self.0.len() + text.len() > MAX_OUTPUT_BYTES {
            return Err(io::Error::other("the rendered text is too long"));
        }
        self.0.extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
