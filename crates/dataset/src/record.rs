//! Records: rows as a chat, a prompt with its completion, or a text.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{FieldProblem, RowProblem};
use crate::layouts;
use crate::message::{self, MessageProblem};
use crate::row::RawRow;
use crate::text::Changes;

const MESSAGE: &str = "a list of messages is `[{\"role\": \"user\", \"content\": \"…\"}]`";
const SHAPES: &str = "a row needs `messages`, `prompt` and `completion`, or `text`; \
    for other names use templates, such as `prompt = \"{question}\"` and `completion = \"{answer}\"`";

/// Content of a record.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// A conversation, rendered with the chat template.
    Chat {
        /// Messages: objects with a string `role`.
        messages: Vec<Value>,
        /// JSON schemas of functions that the model may call.
        tools: Option<Value>,
    },
    /// A prompt and its completion; a chat of two messages if the tokenizer has a chat template.
    Completion {
        /// Text before the completion.
        prompt: String,
        /// Text to learn.
        completion: String,
    },
    /// Plain text.
    Text(String),
}

/// One row with a known meaning.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The `id` of the row, or its source if it has none.
    pub id: String,
    /// Content.
    pub shape: Shape,
    /// Group; all rows of a group go to one split.
    pub group: Option<String>,
    /// Factor of the row's loss; 1 by default.
    pub weight: f32,
    /// Trust in the row's source, 0 to 1, for losses that use it.
    pub auth_weight: Option<f64>,
    /// Entropy of the row's sources in bits, at least 0, for losses that use it.
    pub prov_entropy: Option<f64>,
    /// File name without folders, and line: `file:line`.
    pub source: String,
    /// Line where the row begins, counted from 1.
    pub line: u64,
    /// The text that the prompt asks about, without an instruction around it, if the row tells it apart.
    pub input: Option<String>,
    /// What the settings changed in the texts of the row.
    pub changes: Changes,
}

impl Record {
    /// Returns the record of a row. Its fields decide the shape: `prompt` with `completion` first, then `messages`,
    /// then `conversations` (`ShareGPT`), then `instruction` with `output` (Alpaca), then `text`. Texts stay as they are.
    ///
    /// # Errors
    ///
    /// Fails when the row has none of these fields, or a field of the wrong type.
    pub fn from_row(row: RawRow, file: &Path) -> Result<Self, RowProblem> {
        let line = row.line;
        let at_line = |problem: FieldProblem| RowProblem::new(line, problem.reason, problem.hint);
        let mut fields = row.fields;
        let input = layouts::rewrite(&mut fields).map_err(at_line)?;
        refuse_nul(&fields).map_err(at_line)?;
        let name = file.file_name().map_or_else(|| file.to_string_lossy(), |name| name.to_string_lossy());
        let source = format!("{name}:{line}");
        Ok(Self {
            id: label(&fields, "id").map_err(at_line)?.unwrap_or_else(|| source.clone()),
            group: label(&fields, "group").map_err(at_line)?,
            weight: number(&fields, "weight", |n| n > 0.0 && n < f64::from(f32::MAX), "above 0")
                .map_err(at_line)?
                .map_or(1.0, |weight| weight as f32),
            auth_weight: number(&fields, "auth_weight", |n| (0.0..=1.0).contains(&n), "from 0 to 1")
                .map_err(at_line)?,
            prov_entropy: number(&fields, "prov_entropy", |n| n >= 0.0, "at least 0").map_err(at_line)?,
            shape: shape(fields).map_err(at_line)?,
            source,
            line,
            input,
            changes: Changes::default(),
        })
    }
}

impl From<MessageProblem> for FieldProblem {
    fn from(problem: MessageProblem) -> Self {
        Self::new(problem.reason, problem.hint)
    }
}

fn shape(mut fields: Map<String, Value>) -> Result<Shape, FieldProblem> {
    if fields.get("text").is_none_or(Value::is_null) || fields.get("messages").is_some_and(Value::is_array) {
        refuse_media(&fields)?;
    }
    let mut take = |name: &str| fields.remove(name).filter(|value| !value.is_null());
    let (prompt, completion) = (take("prompt"), take("completion"));
    let tools = take("tools");
    match (prompt, completion, take("messages"), take("text")) {
        (Some(Value::Array(prompt)), Some(Value::Array(completion)), ..) => {
            chat(prompt.into_iter().chain(completion).collect(), tools)
        }
        (Some(prompt), Some(completion), ..) => Ok(Shape::Completion {
            prompt: string("prompt", prompt)?,
            completion: string("completion", completion)?,
        }),
        (_, _, Some(Value::Array(messages)), _) => chat(messages, tools),
        (_, _, Some(_), _) => Err(FieldProblem::new("`messages` is not a list", MESSAGE)),
        (_, _, None, Some(text)) => Ok(Shape::Text(string("text", text)?)),
        (Some(_), None, ..) => Err(FieldProblem::new("`prompt` without `completion`", SHAPES)),
        (None, Some(_), ..) => Err(FieldProblem::new("`completion` without `prompt`", SHAPES)),
        (None, None, None, None) => {
            let names: Vec<&str> = fields.keys().map(String::as_str).take(12).collect();
            let reason = format!("no known shape; the fields are `{}`", names.join("`, `"));
            Err(FieldProblem::new(reason, shape_hint(&fields)))
        }
    }
}

/// Returns the hint for a row without a known shape.
fn shape_hint(fields: &Map<String, Value>) -> String {
    let is_rows =
        |value: &Value| value.as_array().is_some_and(|rows| rows.first().is_some_and(Value::is_object));
    match fields.iter().find(|(_, value)| is_rows(value)) {
        Some((name, _)) => format!(
            "if the list `{name}` holds the rows, write them one per line: `jq -c '.[\"{name}\"][]' FILE > FILE.jsonl`"
        ),
        None => SHAPES.to_owned(),
    }
}

fn chat(mut messages: Vec<Value>, tools: Option<Value>) -> Result<Shape, FieldProblem> {
    message::normalize(&mut messages)?;
    Ok(Shape::Chat { messages, tools: message::normalize_tools(tools)? })
}

/// Refuses a row of a chat with images, audio or videos in fields of their own.
fn refuse_media(fields: &Map<String, Value>) -> Result<(), FieldProblem> {
    let holds = |name: &&&str| match fields.get(**name) {
        None | Some(Value::Null) => false,
        Some(Value::Array(items)) => !items.is_empty(),
        Some(_) => true,
    };
    match ["images", "audios", "videos"].iter().find(holds) {
        None => Ok(()),
        Some(name) => Err(FieldProblem::new(
            format!("the row holds `{name}`, but only text trains here"),
            "leave such rows out, or remove the field",
        )),
    }
}

fn string(name: &str, value: Value) -> Result<String, FieldProblem> {
    match value {
        Value::String(text) if !text.trim().is_empty() => Ok(text),
        Value::String(_) => Err(FieldProblem::new(
            format!("`{name}` is empty"),
            "fill it in, or leave such rows out with `where` or `on_bad_row = \"skip\"`",
        )),
        _ => Err(FieldProblem::new(
            format!("`{name}` is not a string"),
            "write it as a JSON string, in double quotes",
        )),
    }
}

/// Reads a name, which may be a string or a number.
fn label(fields: &Map<String, Value>, name: &str) -> Result<Option<String>, FieldProblem> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if !text.is_empty() => Ok(Some(text.clone())),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(_) => {
            let reason = format!("`{name}` is neither a string nor a number");
            Err(FieldProblem::new(reason, "write a string or a number, or leave the field out"))
        }
    }
}

fn number(
    fields: &Map<String, Value>,
    name: &str,
    allowed: fn(f64) -> bool,
    range: &str,
) -> Result<Option<f64>, FieldProblem> {
    let number = match fields.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::String(text)) => text.trim().parse().ok(),
        Some(_) => None,
    };
    number.filter(|&number| number.is_finite() && allowed(number)).map(Some).ok_or_else(|| {
        FieldProblem::new(
            format!("`{name}` is not a number {range}"),
            "correct the number, or leave the field out",
        )
    })
}

fn refuse_nul(fields: &Map<String, Value>) -> Result<(), FieldProblem> {
    fn holds_nul(value: &Value) -> bool {
        match value {
            Value::String(text) => text.contains('\0'),
            Value::Array(items) => items.iter().any(holds_nul),
            Value::Object(fields) => fields.values().any(holds_nul),
            _ => false,
        }
    }
    match fields.iter().find(|(_, value)| holds_nul(value)) {
        None => Ok(()),
        Some((name, _)) => Err(FieldProblem::new(
            format!("`{name}` holds a NUL character"),
            "remove it; NUL characters never belong to a text",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(json: &str) -> Result<Record, String> {
        let Value::Object(fields) = serde_json::from_str(json).unwrap() else { panic!("not an object") };
        Record::from_row(RawRow { line: 7, fields }, Path::new("some/where.jsonl"))
            .map_err(|problem| problem.reason)
    }

    #[test]
    fn the_fields_decide_the_shape() {
        let chat =
            record(r#"{"messages":[{"role":"user","content":"a"}],"tools":[],"text":"ignored"}"#).unwrap();
        assert!(matches!(chat.shape, Shape::Chat { messages, tools: Some(_) } if messages.len() == 1));
        let pair = record(r#"{"prompt":"a","completion":"b","messages":[]}"#).unwrap();
        assert_eq!(pair.shape, Shape::Completion { prompt: "a".into(), completion: "b".into() });
        let text = record(r#"{"text":"ke a\u0304","id":12,"group":"g","weight":"0.5","prov_entropy":1.25}"#)
            .unwrap();
        assert_eq!(text.shape, Shape::Text("ke a\u{304}".into()));
        assert_eq!((text.id.as_str(), text.weight, text.prov_entropy), ("12", 0.5, Some(1.25)));
        assert_eq!((text.group.as_deref(), text.source.as_str()), (Some("g"), "where.jsonl:7"));
        let lists =
            r#"{"prompt":[{"role":"user","content":"a"}],"completion":[{"role":"assistant","content":"b"}]}"#;
        assert!(matches!(record(lists).unwrap().shape, Shape::Chat { messages, .. } if messages.len() == 2));
    }

    #[test]
    fn defects_are_named() {
        assert_eq!(
            record(r#"{"question":"a","answer":"b"}"#).unwrap_err(),
            "no known shape; the fields are `question`, `answer`"
        );
        assert_eq!(record(r#"{"prompt":"a"}"#).unwrap_err(), "`prompt` without `completion`");
        assert_eq!(record(r#"{"text":"  "}"#).unwrap_err(), "`text` is empty");
        assert_eq!(record(r#"{"text":5}"#).unwrap_err(), "`text` is not a string");
        assert_eq!(record(r#"{"messages":[]}"#).unwrap_err(), "`messages` is empty");
        assert_eq!(record(r#"{"messages":[{"content":"x"}]}"#).unwrap_err(), "message 1 has no `role`");
        assert_eq!(record(r#"{"messages":[{"role":"user"}]}"#).unwrap_err(), "message 1 has no `content`");
        assert_eq!(record(r#"{"text":"a\u0000b"}"#).unwrap_err(), "`text` holds a NUL character");
        assert_eq!(record(r#"{"text":"a","weight":0}"#).unwrap_err(), "`weight` is not a number above 0");
        assert_eq!(
            record(r#"{"text":"a","auth_weight":1.5}"#).unwrap_err(),
            "`auth_weight` is not a number from 0 to 1"
        );
    }
}
