//! A rendered chat, with its values in the form that the template takes.
//!
//! Templates disagree about the arguments of a tool call (an object, or JSON text), about content in parts, and about
//! missing content. So the chat is rendered as it is given first. If the template fails, or writes a value in the notation
//! of Python or as JSON text inside JSON, or leaves out a text, the other forms with the same meaning are tried. A chat
//! without a form that the template writes whole is refused.

use std::cell::Cell;
use std::rc::Rc;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::template::{ChatTemplate, Conversation, Field, Rendered};

/// Maximum work for one chat. Finding the turns of N messages renders about N² messages; 1,000 short ones take a fifth of it, 1 to 2 seconds.
pub(crate) const MAX_WORK: u64 = 5_000_000_000;
/// Work of rendering a message, where a byte that is copied or a token that is looked at counts 1.
const MESSAGE_WORK: u64 = 1000;

/// A chat whose values suit the template.
#[derive(Clone, Debug)]
pub(crate) struct Chat<'a> {
    pub(crate) template: &'a ChatTemplate,
    pub(crate) tools: Option<&'a Value>,
    pub(crate) messages: Vec<Value>,
    /// The whole chat, rendered.
    pub(crate) full: Rendered,
    /// Length of messages and tools as JSON.
    pub(crate) bytes: u64,
    /// Work so far, also for copies of this chat.
    pub(crate) work: Rc<Cell<u64>>,
}

/// Form of the values whose type templates disagree about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Form {
    /// Whether parts become one text.
    joined_parts: bool,
    /// Whether a missing content becomes an empty text.
    empty_content: bool,
    arguments: Arguments,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Arguments {
    #[default]
    AsGiven,
    Object,
    Text,
}

impl<'a> Chat<'a> {
    /// Renders a chat.
    ///
    /// # Errors
    ///
    /// Fails when the template refuses the chat, or takes its values in no form.
    pub(crate) fn new(
        template: &'a ChatTemplate,
        messages: &[Value],
        tools: Option<&'a Value>,
    ) -> Result<Self> {
        let mut first_problem = None;
        for form in forms(messages) {
            let Some(messages) = form.apply(messages) else { continue };
            let conversation = Conversation { messages: &messages, tools, add_generation_prompt: false };
            let problem = match template.render_full(&conversation) {
                Ok(full) => match defect(template, &messages, &full) {
                    None => {
                        let bytes = json_bytes(&messages) + json_bytes(&tools);
                        return Ok(Self { template, tools, messages, full, bytes, work: Rc::default() });
                    }
                    Some(problem) => problem,
                },
                Err(error) => error,
            };
            first_problem.get_or_insert(problem);
        }
        Err(first_problem.expect("the chat as given is a form"))
    }

    /// Renders the first `count` messages.
    ///
    /// # Errors
    ///
    /// Fails when the template refuses them. Callers that go on then check with [`Chat::spend`] that it was not for the work.
    pub(crate) fn first(&self, count: usize, add_generation_prompt: bool) -> Result<Rendered> {
        self.spend(self.bytes + count as u64 * MESSAGE_WORK)?;
        let messages = &self.messages[..count];
        let conversation = Conversation { messages, tools: self.tools, add_generation_prompt };
        let rendered = self.template.render_full(&conversation)?;
        self.spend(rendered.text.len() as u64)?;
        Ok(rendered)
    }

    /// Counts work for this chat.
    ///
    /// # Errors
    ///
    /// Fails when the chat has taken too much.
    pub(crate) fn spend(&self, work: u64) -> Result<()> {
        self.work.set(self.work.get().saturating_add(work));
        if self.work.get() <= MAX_WORK {
            return Ok(());
        }
        Err(Error::Message {
            reason: format!(
                "the chat has {} messages and is too long: finding the turns of the assistant renders the earlier messages for each",
                self.messages.len()
            ),
            hint: "divide it into chats of at most 1000 messages".into(),
        })
    }
}

/// Returns the length of a value as JSON.
fn json_bytes(value: &impl serde::Serialize) -> u64 {
    serde_json::to_string(value).map_or(0, |text| text.len() as u64)
}

/// Returns the forms to try, the given one first.
fn forms(messages: &[Value]) -> Vec<Form> {
    let has_parts = messages.iter().any(|message| message["content"].is_array());
    let lacks_content = messages.iter().any(|message| message["content"].is_null());
    let has_arguments =
        messages.iter().any(|message| calls(message).any(|call| function(call).get("arguments").is_some()));
    let mut forms = Vec::new();
    for empty_content in [false, true].into_iter().take(1 + usize::from(lacks_content)) {
        for joined_parts in [false, true].into_iter().take(1 + usize::from(has_parts)) {
            let arguments = [Arguments::AsGiven, Arguments::Object, Arguments::Text];
            for arguments in arguments.into_iter().take(if has_arguments { 3 } else { 1 }) {
                forms.push(Form { joined_parts, empty_content, arguments });
            }
        }
    }
    forms
}

fn calls(message: &Value) -> impl Iterator<Item = &Value> {
    message.get("tool_calls").and_then(Value::as_array).into_iter().flatten()
}

fn function(call: &Value) -> &Value {
    call.get("function").unwrap_or(call)
}

/// Returns the texts of a content in parts.
fn part_texts(content: &Value) -> impl Iterator<Item = &str> {
    content.as_array().into_iter().flatten().filter_map(|part| part["text"].as_str())
}

impl Form {
    /// Returns the messages in this form, if they can have it without a guess.
    fn apply(self, messages: &[Value]) -> Option<Vec<Value>> {
        let mut messages = messages.to_vec();
        for message in &mut messages {
            if self.empty_content && message["content"].is_null() {
                message["content"] = "".into();
            }
            if self.joined_parts && message["content"].is_array() {
                let mut texts = part_texts(&message["content"]).filter(|text| !text.is_empty());
                let text = texts.next().unwrap_or_default().to_owned();
                // What stands between two parts is not known.
                if texts.next().is_some() {
                    return None;
                }
                drop(texts);
                message["content"] = text.into();
            }
            if let Some(calls) = message.get_mut("tool_calls").and_then(Value::as_array_mut) {
                for call in calls {
                    let function = if call.get("function").is_some() { &mut call["function"] } else { call };
                    if let Some(arguments) = function.get_mut("arguments") {
                        self.apply_to_arguments(arguments)?;
                    }
                }
            }
        }
        Some(messages)
    }

    fn apply_to_arguments(self, arguments: &mut Value) -> Option<()> {
        match (self.arguments, &*arguments) {
            (Arguments::Object, Value::String(text)) => {
                *arguments = crate::json::parse(text).ok().filter(Value::is_object)?;
            }
            (Arguments::Text, Value::Object(_)) => {
                *arguments = jinja::Value::from(&*arguments).to_json().into();
            }
            _ => {}
        }
        Some(())
    }
}

/// Returns what is wrong with a rendering that the template did not refuse.
fn defect(template: &ChatTemplate, messages: &[Value], full: &Rendered) -> Option<Error> {
    let name = template.name();
    let error = |line, reason: String, hint: &str| Error::Template {
        name: name.to_owned(),
        line,
        reason,
        hint: hint.to_owned(),
    };
    if let Some(misprint) = full.misprints.first() {
        let (what, hint) = match misprint.field {
            Field::Content => ("`content`, which is a list or an object,", "write `content` as one string"),
            Field::Arguments => (
                "the `arguments` of a tool call",
                "write `arguments` as an object, or use a template that takes tool calls",
            ),
        };
        let reason = format!("it would write {what} in the notation of a programming language");
        return Some(error(misprint.line, reason, hint));
    }
    for (index, message) in messages.iter().enumerate() {
        let lost = part_texts(&message["content"]).find(|text| !full.text.contains(text.trim()));
        if lost.is_some() {
            let reason = format!("it does not write the parts of message {}", index + 1);
            return Some(error(1, reason, "write `content` as one string"));
        }
        for call in calls(message) {
            let function = function(call);
            let called = function["name"].as_str().is_none_or(|name| full.text.contains(name));
            let given = match &function["arguments"] {
                Value::String(text) => full.text.contains(text.trim()),
                // Other keys may be escaped.
                Value::Object(fields) => {
                    let is_plain = |key: &&String| {
                        key.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
                    };
                    fields.keys().filter(is_plain).all(|key| full.text.contains(key))
                }
                _ => true,
            };
            if !called || !given {
                let what = if called { "arguments of the tool call" } else { "tool call" };
                let reason = format!("it does not write the {what} of message {}", index + 1);
                return Some(error(
                    1,
                    reason,
                    "use a chat template that takes tool calls, or write the call into `content`",
                ));
            }
        }
    }
    None
}
