//! Rows with a meaning: a chat, a prompt with its completion, or a text.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::RowProblem;
use crate::source::RawRow;
use crate::text;

const SHAPES: &str = "a row needs `messages`, `prompt` and `completion`, or `text`; \
    other column names can be mapped with the settings `prompt` and `completion`, or `text`";

/// What a row holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// A conversation, rendered by the chat template.
    Chat {
        /// Messages, objects with a string `role`.
        messages: Vec<Value>,
        /// JSON schemas of functions that the model may call.
        tools: Option<Value>,
    },
    /// A prompt and what should follow it: a chat of two messages where the tokenizer has a chat template.
    Completion {
        /// What comes before.
        prompt: String,
        /// What is learned.
        completion: String,
    },
    /// Plain text.
    Text(String),
}

/// One row, normalized to NFC.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The row's own `id`, else its source.
    pub id: String,
    /// What it holds.
    pub shape: Shape,
    /// Rows of one group go to one split.
    pub group: Option<String>,
    /// Factor of this row's loss, 1 if not given.
    pub weight: f32,
    /// Trust in the row's source, 0 to 1, for losses that use it.
    pub auth_weight: Option<f64>,
    /// Spread of the row's sources in bits, at least 0, for losses that use it.
    pub prov_entropy: Option<f64>,
    /// File name without folders, and line.
    pub source: String,
}

impl Record {
    /// Gives a row its meaning. The shape is told from each row's own fields, in this order:
    /// `prompt` with `completion`, `messages`, `text`.
    ///
    /// # Errors
    ///
    /// Fails when the row has none of the shapes, or a field of the wrong kind.
    pub fn from_row(row: RawRow, file: &Path) -> Result<Self, RowProblem> {
        let line = row.line;
        let at = |(reason, hint): (String, &str)| RowProblem::new(line, reason, hint);
        let mut fields = row.fields;
        fields.values_mut().for_each(text::normalize_value);
        refuse_nul(&fields).map_err(at)?;
        let name = file.file_name().map_or_else(|| file.to_string_lossy(), |name| name.to_string_lossy());
        let source = format!("{name}:{line}");
        Ok(Self {
            id: label(&fields, "id").map_err(at)?.unwrap_or_else(|| source.clone()),
            group: label(&fields, "group").map_err(at)?,
            weight: number(&fields, "weight", |n| n > 0.0 && n < f64::from(f32::MAX), "above 0")
                .map_err(at)?
                .map_or(1.0, |weight| weight as f32),
            auth_weight: number(&fields, "auth_weight", |n| (0.0..=1.0).contains(&n), "from 0 to 1")
                .map_err(at)?,
            prov_entropy: number(&fields, "prov_entropy", |n| n >= 0.0, "at least 0").map_err(at)?,
            shape: shape(fields).map_err(at)?,
            source,
        })
    }
}

type FieldProblem = (String, &'static str);

fn shape(mut fields: Map<String, Value>) -> Result<Shape, FieldProblem> {
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
        (_, _, Some(_), _) => Err(("`messages` is not a list".into(), SHAPES)),
        (_, _, None, Some(text)) => Ok(Shape::Text(string("text", text)?)),
        (Some(_), None, ..) => Err(("`prompt` without `completion`".into(), SHAPES)),
        (None, Some(_), ..) => Err(("`completion` without `prompt`".into(), SHAPES)),
        (None, None, None, None) => {
            let names: Vec<&str> = fields.keys().map(String::as_str).take(12).collect();
            Err((format!("no known shape; the fields are `{}`", names.join("`, `")), SHAPES))
        }
    }
}

fn chat(messages: Vec<Value>, tools: Option<Value>) -> Result<Shape, FieldProblem> {
    const MESSAGE: &str = "a message is `{\"role\": \"user\", \"content\": \"…\"}`";
    if messages.is_empty() {
        return Err(("`messages` is empty".into(), MESSAGE));
    }
    for (index, message) in messages.iter().enumerate() {
        let Some(fields) = message.as_object() else {
            return Err((format!("message {} is not an object", index + 1), MESSAGE));
        };
        if !fields.get("role").is_some_and(Value::is_string) {
            return Err((format!("message {} has no `role`", index + 1), MESSAGE));
        }
        match fields.get("content") {
            Some(Value::String(_) | Value::Array(_)) => {}
            None | Some(Value::Null) if fields.get("tool_calls").is_some_and(Value::is_array) => {}
            _ => return Err((format!("message {} has no `content`", index + 1), MESSAGE)),
        }
    }
    match tools {
        Some(tools) if !tools.is_array() => {
            Err(("`tools` is not a list".into(), "write a list of JSON schemas"))
        }
        tools => Ok(Shape::Chat { messages, tools }),
    }
}

fn string(name: &str, value: Value) -> Result<String, FieldProblem> {
    match value {
        Value::String(text) if !text.trim().is_empty() => Ok(text),
        Value::String(_) => Err((format!("`{name}` is empty"), "fill it, or leave the row out")),
        _ => Err((format!("`{name}` is not a string"), SHAPES)),
    }
}

/// Reads a name that may be given as a string or a whole number.
fn label(fields: &Map<String, Value>, name: &str) -> Result<Option<String>, FieldProblem> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if !text.is_empty() => Ok(Some(text.clone())),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(_) => {
            Err((format!("`{name}` is neither a string nor a number"), "give one, or leave the field out"))
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
    number
        .filter(|&number| number.is_finite() && allowed(number))
        .map(Some)
        .ok_or_else(|| (format!("`{name}` is not a number {range}"), "correct it, or leave the field out"))
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
        Some((name, _)) => Err((format!("`{name}` holds a NUL character"), "remove it: text never has one")),
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
    fn every_row_tells_its_own_shape() {
        let chat =
            record(r#"{"messages":[{"role":"user","content":"a"}],"tools":[],"text":"ignored"}"#).unwrap();
        assert!(matches!(chat.shape, Shape::Chat { messages, tools: Some(_) } if messages.len() == 1));
        let pair = record(r#"{"prompt":"a","completion":"b","messages":[]}"#).unwrap();
        assert_eq!(pair.shape, Shape::Completion { prompt: "a".into(), completion: "b".into() });
        let text = record(r#"{"text":"ke a\u0304","id":12,"group":"g","weight":"0.5","prov_entropy":1.25}"#)
            .unwrap();
        assert_eq!(text.shape, Shape::Text("ke ā".into()));
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
