//! Chat templates, rendered as transformers renders them.
//!
//! The crate `jinja` knows the language; this module prepares what a template sees: messages without empty keys, reasoning
//! under each name that templates use for it, the special tokens, and the arguments of the settings. Two differences from
//! transformers are deliberate: `strftime_now` exists only if a date is set, since data that changes overnight is not
//! reproducible; and rendering stops after a fixed amount of work, since templates come from strangers.

use std::collections::BTreeMap;
use std::ops::Range;

use jinja::{Date, ErrorKind, Notation, Value as JinjaValue, Watch};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::message::{REASONING, TRAINING_FLAGS};

/// A compiled chat template.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    template: jinja::Template,
    name: String,
    /// Special tokens and the arguments of the settings.
    variables: Map<String, Value>,
    date: Option<Date>,
    /// Words of the source, to see which keys of a message it reads.
    words: Vec<String>,
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// Text for the tokenizer.
    pub text: String,
    /// Byte ranges of the `generation` blocks; `None` if the template has none.
    pub generation: Option<Vec<Range<usize>>>,
    /// Text that the template wrote while it visited a message, in the order of the text.
    pub(crate) parts: Vec<Part>,
    /// Values of messages that the template wrote in the notation of a language instead of as text.
    pub(crate) misprints: Vec<Misprint>,
}

/// Text that belongs to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) message: usize,
    pub(crate) range: Range<usize>,
}

/// A value of a message that was written in the notation of a language.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Misprint {
    pub(crate) field: Field,
    /// Line of the template.
    pub(crate) line: usize,
}

/// A field of a message whose type matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    /// Content that is not a string.
    Content,
    /// Arguments of a tool call.
    Arguments,
}

/// Values that a rendering watches, each with its field.
struct Watched {
    watch: Watch,
    fields: Vec<Field>,
}

impl ChatTemplate {
    /// Compiles `source`. Errors call the template `name`.
    ///
    /// `variables` are special tokens such as `bos_token`, and arguments such as `enable_thinking`; `strftime_now` prints
    /// `date`.
    ///
    /// # Errors
    ///
    /// Fails when the template does not parse.
    pub fn new(
        source: &str,
        name: &str,
        variables: BTreeMap<String, Value>,
        date: Option<Date>,
    ) -> Result<Self> {
        let template = jinja::Template::new(source).map_err(|error| at_template(name, error))?;
        let is_word = |letter: char| letter == '_' || letter.is_alphanumeric();
        let words: std::collections::BTreeSet<&str> = source.split(|letter| !is_word(letter)).collect();
        Ok(Self {
            template,
            name: name.to_owned(),
            variables: variables.into_iter().collect(),
            date,
            words: words.into_iter().map(str::to_owned).collect(),
        })
    }

    /// Returns the template's name in errors.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns whether the source contains `word`.
    pub(crate) fn mentions(&self, word: &str) -> bool {
        self.words.binary_search_by(|found| found.as_str().cmp(word)).is_ok()
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
        let messages = JinjaValue::from(&Value::Array(messages));
        let watched = watched(&messages);
        let mut context = vec![
            ("messages".to_owned(), messages),
            ("tools".to_owned(), conversation.tools.map_or(JinjaValue::None, JinjaValue::from)),
            ("documents".to_owned(), JinjaValue::None),
            ("add_generation_prompt".to_owned(), conversation.add_generation_prompt.into()),
        ];
        context.extend(self.variables.iter().map(|(name, value)| (name.clone(), value.into())));
        let output = self
            .template
            .render(context, &watched.watch, self.date)
            .map_err(|error| at_template(&self.name, error))?;
        let parts = output.spans.into_iter().map(|span| Part { message: span.item, range: span.range });
        let misprints = output.printed.into_iter().filter_map(|printed| {
            let field = watched.fields[printed.value];
            let value = &watched.watch.printed[printed.value];
            // Arguments as an object become JSON on purpose, and content that is an object may.
            let intended = printed.notation == Notation::Json && value.is_mapping();
            (!intended).then_some(Misprint { field, line: printed.line })
        });
        Ok(Rendered {
            text: output.text,
            generation: output.generation,
            parts: parts.collect(),
            misprints: misprints.collect(),
        })
    }
}

/// Returns an error of the language as one that names the template.
fn at_template(name: &str, error: jinja::Error) -> Error {
    let change_messages = "change the messages to what the template accepts, or change the template";
    // The reasons are in `stats.json` when bad rows are skipped, so their wording is fixed.
    let (reason, hint) = match error.kind {
        ErrorKind::MissingFunction => (
            "it prints today's date, which would make every day's data different".to_owned(),
            "fix the date with the setting `template_date = \"YYYY-MM-DD\"`",
        ),
        ErrorKind::Limit => (
            format!("{}, perhaps without end", error.message),
            "check the loops of the template in the tokenizer folder",
        ),
        ErrorKind::Syntax => {
            (format!("syntax error: {}", error.message), "correct the template in the tokenizer folder")
        }
        ErrorKind::Raised | ErrorKind::Undefined | ErrorKind::Type => (error.message, change_messages),
    };
    Error::Template { name: name.to_owned(), line: error.line, reason, hint: hint.to_owned() }
}

/// Returns what to watch in `messages`: each message, contents that are no strings, and arguments of tool calls.
fn watched(messages: &JinjaValue) -> Watched {
    let mut watched = Watched {
        watch: Watch { items: messages.items().to_vec(), printed: Vec::new() },
        fields: Vec::new(),
    };
    for message in messages.items() {
        if let Some(content) = message.get("content").filter(|content| content.as_str().is_none()) {
            watched.add(content, Field::Content);
        }
        for call in message.get("tool_calls").map(JinjaValue::items).unwrap_or_default() {
            let function = call.get("function").unwrap_or(call);
            for arguments in function.get("arguments").into_iter().chain(function.get("parameters")) {
                watched.add(arguments, Field::Arguments);
            }
        }
    }
    watched
}

impl Watched {
    fn add(&mut self, value: &JinjaValue, field: Field) {
        self.watch.printed.push(value.clone());
        self.fields.push(field);
    }
}

/// Prepares a message as transformers does: drops keys without a value, and offers reasoning under each name that
/// templates use for it. Training flags are for us, not for the template.
fn plain_message(message: &Value) -> Value {
    let Value::Object(fields) = message else { return message.clone() };
    let reasoning = REASONING.iter().find_map(|name| fields.get(*name).filter(|value| !value.is_null()));
    let mut plain = Map::new();
    plain.extend(reasoning.map(|reasoning| ("thinking".to_owned(), reasoning.clone())));
    for (key, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        if !TRAINING_FLAGS.contains(&key.as_str()) {
            plain.insert(key.clone(), value.clone());
        }
    }
    plain.extend(reasoning.map(|reasoning| ("reasoning_content".to_owned(), reasoning.clone())));
    Value::Object(plain)
}
