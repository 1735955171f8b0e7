//! Records: rows as a chat, a prompt with its completion, or a text.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{FieldProblem, RowProblem, THE_FILE};
use crate::layouts;
use crate::message::{self, MessageProblem, as_messages};
use crate::row::RawRow;
use crate::text::Changes;

const MESSAGE: &str = "a list of messages is `[{\"role\": \"user\", \"content\": \"…\"}]`";
const SHAPES: &str = "a row needs `messages`, `prompt` and `completion`, or `text`; \
    for other names use templates, such as `prompt = \"{question}\"` and `completion = \"{answer}\"`";

/// Values of `auth_weight`: the distrust loss grows without bound towards 1, and is defined up to 0.99.
pub const AUTHORITIES: RangeInclusive<f64> = 0.0..=0.99;

/// Returns whether a number is a possible `prov_entropy`.
pub fn is_entropy(number: f64) -> bool {
    number >= 0.0 && number.is_finite()
}

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
    /// Trust in the row's source, in [`AUTHORITIES`], for losses that use it.
    pub auth_weight: Option<f64>,
    /// Entropy of the row's sources in bits, at least 0, for losses that use it.
    pub prov_entropy: Option<f64>,
    /// File name without folders, and line: `file:line`.
    pub source: String,
    /// Line where the row begins, counted from 1.
    pub line: u64,
    /// The text that the prompt asks about, without an instruction around it, if the row tells it apart.
    pub input: Option<String>,
    /// Changes that the settings made to the texts of the row.
    pub changes: Changes,
    /// Fields that scores can be divided by, as text.
    pub columns: BTreeMap<String, String>,
}

impl Record {
    /// Returns the record of a row. Its fields decide the shape: `prompt` with `completion` first, then `messages`,
    /// then `conversations` (`ShareGPT`), then `instruction` with `output` (Alpaca), then `text`. Texts stay as they are.
    /// A prompt and its completion with `tools` are a chat of two messages.
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
            // Tokens are stored with a weight of 32 bits.
            weight: number(&fields, "weight", |n| n as f32 > 0.0 && n < f64::from(f32::MAX), "above 0")
                .map_err(at_line)?
                .map_or(1.0, |weight| weight as f32),
            auth_weight: number(&fields, "auth_weight", |n| AUTHORITIES.contains(&n), "from 0 to 0.99")
                .map_err(at_line)?,
            prov_entropy: number(&fields, "prov_entropy", is_entropy, "at least 0").map_err(at_line)?,
            shape: shape(fields).map_err(at_line)?,
            source,
            line,
            input,
            changes: Changes::default(),
            columns: BTreeMap::new(),
        })
    }
}

impl From<MessageProblem> for FieldProblem {
    fn from(problem: MessageProblem) -> Self {
        Self::new(problem.reason, problem.hint)
    }
}

fn shape(mut fields: Map<String, Value>) -> Result<Shape, FieldProblem> {
    refuse_unwanted(&fields)?;
    refuse_masks(&fields)?;
    if fields.get("text").is_none_or(Value::is_null) || fields.get("messages").is_some_and(Value::is_array) {
        refuse_media(&fields)?;
    }
    let mut take = |name: &str| fields.remove(name).filter(|value| !value.is_null());
    let (prompt, completion) = (take("prompt"), take("completion"));
    let tools = take("tools");
    match (prompt, completion, take("messages"), take("text")) {
        (Some(Value::Array(prompt)), Some(Value::Array(completion)), ..) => {
            refuse_columns(&prompt, &completion)?;
            chat(prompt.into_iter().chain(completion).collect(), tools)
        }
        (Some(prompt), Some(completion), ..) => {
            let (prompt, completion) = (string("prompt", prompt)?, string("completion", completion)?);
            match message::normalize_tools(tools)? {
                Some(Value::Array(tools)) if !tools.is_empty() => {
                    chat(as_messages(&prompt, &completion), Some(Value::Array(tools)))
                }
                _ => Ok(Shape::Completion { prompt, completion }),
            }
        }
        (_, _, Some(Value::Array(messages)), _) => chat(messages, tools),
        (_, _, Some(_), _) => Err(FieldProblem::new("`messages` is not a list", MESSAGE)),
        (_, _, None, Some(text)) => Ok(Shape::Text(string("text", text)?)),
        (Some(_), None, ..) => {
            let hint = if fields.contains_key("chosen") { shape_hint(&fields) } else { SHAPES.to_owned() };
            Err(FieldProblem::new("`prompt` without `completion`", hint))
        }
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
    let has = |name: &str| fields.get(name).is_some_and(|value| !value.is_null());
    if has("chosen") && has("rejected") {
        return match &fields["chosen"] {
            Value::Array(_) => format!(
                "this is preference data; to train on the preferred answers: `jq -c '{{messages: .chosen}}' {THE_FILE} > NEW.jsonl`"
            ),
            _ => {
                "this is preference data; to train on the preferred answers, set `prompt = \"{prompt}\"` and \
                  `completion = \"{chosen}\"`"
                    .to_owned()
            }
        };
    }
    let first = |value: &Value| value.as_array().and_then(|rows| rows.first()?.as_object().cloned());
    let Some((name, first)) = fields.iter().find_map(|(name, value)| Some((name, first(value)?))) else {
        return SHAPES.to_owned();
    };
    let holds = |key: &str| first.contains_key(key);
    if holds("role") && holds("parts") {
        return format!(
            "if the list `{name}` holds the messages, rewrite it: `jq -c '{{messages: [.[\"{name}\"][] | {{role: (if .role == \
             \"model\" then \"assistant\" else .role end), content: [.parts[].text] | join(\"\")}}]}}' {THE_FILE} > NEW.jsonl`"
        );
    }
    if holds("role") && holds("content") || holds("from") && holds("value") {
        return format!(
            "if the list `{name}` holds the messages, rename it: `jq -c '.messages = .[\"{name}\"]' {THE_FILE} > NEW.jsonl`"
        );
    }
    format!(
        "if the list `{name}` holds the rows, write them one per line: `jq -c '.[\"{name}\"][]' {THE_FILE} > NEW.jsonl`"
    )
}

fn chat(mut messages: Vec<Value>, tools: Option<Value>) -> Result<Shape, FieldProblem> {
    message::normalize(&mut messages)?;
    Ok(Shape::Chat { messages, tools: message::normalize_tools(tools)? })
}

/// Refuses a file that holds one list for each column instead of one object for each row.
fn refuse_columns(prompts: &[Value], completions: &[Value]) -> Result<(), FieldProblem> {
    let are_texts = |values: &[Value]| !values.is_empty() && values.iter().all(Value::is_string);
    if are_texts(prompts) && are_texts(completions) {
        return Err(FieldProblem::new(
            "`prompt` and `completion` are lists of texts: one list for each column, not one object for each row",
            format!(
                "write one row per line: `jq -c '[.prompt, .completion] | transpose[] | {{prompt: .[0], completion: .[1]}}' \
                 {THE_FILE} > NEW.jsonl`"
            ),
        ));
    }
    Ok(())
}

/// Refuses a row that an unpaired preference dataset marks as a bad answer: a chat or a completion whose `label` is false, or the text
/// `False`, as in CSV. A number is accepted, because it may be a class.
fn refuse_unwanted(fields: &Map<String, Value>) -> Result<(), FieldProblem> {
    let has = |name: &str| fields.get(name).is_some_and(|value| !value.is_null());
    let good = match fields.get("label") {
        Some(Value::Bool(false)) => "equals = true",
        Some(Value::String(text)) if text.trim().eq_ignore_ascii_case("false") => {
            "one_of = [\"true\", \"True\", \"TRUE\"]"
        }
        _ => return Ok(()),
    };
    if !has("completion") && !has("messages") {
        return Ok(());
    }
    Err(FieldProblem::new(
        "`label` is false: the row is an example of a bad answer, and training would teach it",
        format!("keep only the good ones: `where = [{{ field = \"label\", {good} }}]`"),
    ))
}

/// Refuses a row with a list that says which tokens or messages train, since such lists are not followed.
fn refuse_masks(fields: &Map<String, Value>) -> Result<(), FieldProblem> {
    const MASKS: [&str; 5] =
        ["assistant_mask", "assistant_masks", "completion_mask", "loss_mask", "train_mask"];
    let is_list =
        |name: &&&str| fields.get(**name).and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    match MASKS.iter().find(is_list) {
        None => Ok(()),
        Some(name) => Err(FieldProblem::new(
            format!("the row has `{name}`, which may say what trains, but is not followed"),
            "remove it, and write `\"weight\": 0` into the messages that are not targets",
        )),
    }
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
        Some(Value::String(_)) => {
            Err(FieldProblem::new(format!("`{name}` is empty"), "fill it in, or leave the field out"))
        }
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
    fn tools_beside_a_prompt_are_kept() {
        let with_tools = |tools: &str| {
            let row = format!(r#"{{"prompt":"a","completion":"b","tools":{tools}}}"#);
            record(&row).map(|record| record.shape)
        };
        for tools in [r#"[{"name":"tide"}]"#, r#""[{\"name\":\"tide\"}]""#] {
            let expected = serde_json::json!([{"name": "tide"}]);
            let Shape::Chat { messages, tools } = with_tools(tools).unwrap() else { panic!("not a chat") };
            assert_eq!((messages, tools), (as_messages("a", "b"), Some(expected)));
        }
        let pair = Shape::Completion { prompt: "a".into(), completion: "b".into() };
        for tools in ["[]", "null", "\"\""] {
            assert_eq!(with_tools(tools), Ok(pair.clone()));
        }
        assert_eq!(with_tools("{}").unwrap_err(), "`tools` is not a list");
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
        let columns = record(r#"{"prompt":["a","b"],"completion":["c","d"]}"#).unwrap_err();
        assert!(columns.starts_with("`prompt` and `completion` are lists of texts"), "{columns}");
        let unwanted = record(r#"{"prompt":"a","completion":"b","label":false}"#).unwrap_err();
        assert!(unwanted.starts_with("`label` is false"), "{unwanted}");
        assert!(record(r#"{"prompt":"a","completion":"b","label":true}"#).is_ok());
        assert!(record(r#"{"text":"a","label":false}"#).is_ok());
        for weight in ["0", "1e-50", "1e39"] {
            let row = format!(r#"{{"text":"a","weight":{weight}}}"#);
            assert_eq!(record(&row).unwrap_err(), "`weight` is not a number above 0");
        }
        assert!(record(r#"{"text":"a","weight":1e-40}"#).unwrap().weight > 0.0);
        assert_eq!(record(r#"{"text":"a","id":""}"#).unwrap_err(), "`id` is empty");
        assert_eq!(
            record(r#"{"text":"a","group":[1]}"#).unwrap_err(),
            "`group` is neither a string nor a number"
        );
        assert_eq!(
            record(r#"{"text":"a","auth_weight":1}"#).unwrap_err(),
            "`auth_weight` is not a number from 0 to 0.99"
        );
        assert_eq!(record(r#"{"text":"a","auth_weight":0.99}"#).unwrap().auth_weight, Some(0.99));
    }
}
