//! Chat templates, rendered as transformers renders them.
//!
//! Jinja with `trim_blocks` and `lstrip_blocks`, Python's string methods and way of printing, loop controls,
//! `raise_exception`, `generation` blocks and transformers' own `tojson`. Two things differ on purpose:
//! `strftime_now` exists only where a date is set, since data that changes overnight cannot be reproduced, and
//! rendering stops after a fixed amount of work, since a template is a stranger's program.
//!
//! Known differences: `~` and `join` print booleans and none as Jinja for Rust does (`true`, `none`), and two string
//! literals side by side are not joined.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::Range;

use minijinja::value::{Kwargs, Value as JinjaValue};
use minijinja::{Environment, ErrorKind, context};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::generation;
use crate::python::{self, Date};

/// Instructions one rendering may execute; a long conversation takes some tens of thousands.
const FUEL: u64 = 20_000_000;
/// Longest text one rendering may produce.
const MAX_OUTPUT_BYTES: usize = 64 << 20;

/// A compiled chat template.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    name: String,
    special_tokens: BTreeMap<String, String>,
    tracks_generation: bool,
}

/// What a rendering depends on.
#[derive(Clone, Copy, Debug)]
pub struct Conversation<'a> {
    /// Messages, objects with a `role`.
    pub messages: &'a [Value],
    /// JSON schemas of functions that the model may call.
    pub tools: Option<&'a Value>,
    /// Ends with the header of an assistant turn.
    pub add_generation_prompt: bool,
}

/// A rendered conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The text that the tokenizer gets.
    pub text: String,
    /// Byte ranges inside the template's `generation` blocks, if it has such blocks.
    pub generation: Option<Vec<Range<usize>>>,
}

impl ChatTemplate {
    /// Compiles `source`; `name` is used in messages.
    ///
    /// `special_tokens` are variables such as `bos_token`; `date` is what `strftime_now` prints.
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
        let (source, tracks_generation) = generation::rewrite(source);
        let mut environment = environment(date);
        let added = environment.add_template_owned("chat", source);
        added.map_err(|error| template_error(name, &error))?;
        Ok(Self { environment, name: name.to_owned(), special_tokens, tracks_generation })
    }

    /// Renders `messages`, with the header of an assistant turn at the end if `add_generation_prompt`.
    ///
    /// # Errors
    ///
    /// Fails when the template refuses the conversation or works too long; names the template's line.
    pub fn render(&self, messages: &[Value], add_generation_prompt: bool) -> Result<String> {
        Ok(self.render_full(&Conversation { messages, tools: None, add_generation_prompt })?.text)
    }

    /// Renders with tools, and tells which parts the template marks as generated.
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
        let template = self.environment.get_template("chat").expect("it was added on creation");
        let mut output = Bounded(Vec::new());
        template
            .render_captured_to(variables, &mut output)
            .map_err(|error| template_error(&self.name, &error))?;
        let text = String::from_utf8(output.0).expect("templates write whole strings");
        if !self.tracks_generation {
            return Ok(Rendered { text, generation: None });
        }
        let (text, ranges) = generation::take_marks(&text);
        Ok(Rendered { text, generation: Some(ranges) })
    }
}

/// Prepares a message as transformers does: keys without a value are as good as absent, and reasoning goes by
/// whichever name a template uses for it.
fn plain_message(message: &Value) -> Value {
    let Value::Object(fields) = message else { return message.clone() };
    let given = |value: &&Value| !value.is_null();
    let names = ["reasoning_content", "thinking", "reasoning"];
    let reasoning = names.iter().find_map(|name| fields.get(*name).filter(given));
    let mut plain = serde_json::Map::new();
    plain.extend(reasoning.map(|reasoning| ("thinking".to_owned(), reasoning.clone())));
    plain.extend(
        fields.iter().filter(|(_, value)| given(value)).map(|(key, value)| (key.clone(), value.clone())),
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
        environment.add_function("strftime_now", move |format: String| date.strftime(&format));
    }
    environment
}

/// Refuses to grow beyond [`MAX_OUTPUT_BYTES`].
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        if self.0.len() + part.len() > MAX_OUTPUT_BYTES {
            return Err(io::Error::other("the rendered text is too long"));
        }
        self.0.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn template_error(name: &str, error: &minijinja::Error) -> Error {
    let kind = error.kind();
    let detail = error.detail().map_or_else(|| kind.to_string(), str::to_owned);
    let unknown_date = kind == ErrorKind::UnknownFunction && detail.contains("strftime_now");
    let (reason, hint) = match kind {
        _ if unknown_date => (
            "it prints today's date, which would make every day's data different".to_owned(),
            "fix the date with the setting `template_date = \"YYYY-MM-DD\"`",
        ),
        ErrorKind::OutOfFuel => (
            "it works too long, perhaps without end".to_owned(),
            "use a template that ends; see the `chat_template` files",
        ),
        ErrorKind::SyntaxError => {
            (format!("syntax error: {detail}"), "correct the template in the tokenizer folder")
        }
        ErrorKind::InvalidOperation => {
            (detail, "change the messages to what the template accepts, or the template")
        }
        _ => {
            (format!("{kind}: {detail}"), "change the messages to what the template accepts, or the template")
        }
    };
    Error::Template { name: name.to_owned(), line: error.line().unwrap_or(1), reason, hint: hint.to_owned() }
}
