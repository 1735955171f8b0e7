//! Messages of a chat: which values they may have, and which of them are not targets.

use serde_json::{Map, Value, json};

use crate::json::{self, JsonProblem};

/// Names under which templates read a message's reasoning; the first one is the usual one.
pub(crate) const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
/// Keys with which a message says whether it is a target. Templates do not see them.
pub(crate) const TRAINING_FLAGS: [&str; 8] =
    ["weight", "train", "training", "trainable", "loss", "train_on_turn", "calculate_loss", "masked"];
/// Words in the names of keys that may say something about training, but not what.
const UNCLEAR_FLAGS: [&str; 7] = ["weight", "train", "loss", "mask", "label", "ignore", "target"];
/// Keys that describe a message and change nothing.
const DESCRIPTIONS: [&str; 12] = [
    "id",
    "name",
    "tool_call_id",
    "refusal",
    "annotations",
    "metadata",
    "timestamp",
    "created_at",
    "date",
    "model",
    "language",
    "source",
];
/// Words in the type of a part that is not text.
const MEDIA: [&str; 5] = ["image", "audio", "video", "file", "document"];

/// A problem with a message, and its remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MessageProblem {
    pub(crate) reason: String,
    pub(crate) hint: &'static str,
}

impl MessageProblem {
    pub(crate) fn new(reason: impl Into<String>, hint: &'static str) -> Self {
        Self { reason: reason.into(), hint }
    }
}

type Checked<T = ()> = Result<T, MessageProblem>;

const MESSAGE: &str = "a message is `{\"role\": \"user\", \"content\": \"…\"}`";
const TEXT_ONLY: &str = "only text trains here: leave such rows out, or remove the part";
const AS_TEXT: &str = "write it as a JSON string, in double quotes";

/// Returns a prompt and its completion as a user and an assistant message.
pub fn as_messages(prompt: &str, completion: &str) -> Vec<Value> {
    vec![json!({"role": "user", "content": prompt}), json!({"role": "assistant", "content": completion})]
}

/// Returns whether the model writes this message.
pub fn is_assistant(message: &Value) -> bool {
    matches!(message.get("role").and_then(Value::as_str), Some("assistant" | "model"))
}

/// Removes the keys that say whether a message is a target.
pub(crate) fn without_training_flags(mut message: Value) -> Value {
    if let Some(fields) = message.as_object_mut() {
        fields.retain(|name, _| !TRAINING_FLAGS.contains(&name.as_str()));
    }
    message
}

/// Checks the messages of a chat, and gives values the types that templates expect where only one meaning is possible.
pub(crate) fn normalize(messages: &mut [Value]) -> Checked {
    if messages.is_empty() {
        return Err(MessageProblem::new("`messages` is empty", MESSAGE));
    }
    for (index, message) in messages.iter_mut().enumerate() {
        let Some(fields) = message.as_object_mut() else {
            return Err(MessageProblem::new(format!("message {} is not an object", index + 1), MESSAGE));
        };
        normalize_message(fields).map_err(|problem| MessageProblem {
            reason: format!("message {} {}", index + 1, problem.reason),
            ..problem
        })?;
        training_flag(message).map_err(|problem| MessageProblem {
            reason: format!("message {} {}", index + 1, problem.reason),
            ..problem
        })?;
    }
    Ok(())
}

fn normalize_message(fields: &mut Map<String, Value>) -> Checked {
    if !fields.get("role").is_some_and(Value::is_string) {
        return Err(MessageProblem::new("has no `role`", MESSAGE));
    }
    normalize_tool_calls(fields)?;
    let calls = fields.get("tool_calls").is_some_and(|calls| calls.as_array().is_some_and(|c| !c.is_empty()))
        || fields.get("function_call").is_some_and(Value::is_object);
    let is_tool = matches!(fields["role"].as_str(), Some("tool" | "function" | "ipython"));
    match fields.get_mut("content") {
        Some(Value::String(_)) => {}
        None | Some(Value::Null) if calls => {}
        None | Some(Value::Null) => return Err(MessageProblem::new("has no `content`", MESSAGE)),
        Some(Value::Array(parts)) if parts.is_empty() && calls => fields["content"] = Value::Null,
        Some(Value::Array(parts)) if parts.is_empty() => {
            return Err(MessageProblem::new("has no `content`", MESSAGE));
        }
        Some(Value::Array(parts)) => parts.iter_mut().try_for_each(normalize_part)?,
        Some(Value::Object(_)) if is_tool => {}
        Some(Value::Number(number)) if number.is_i64() || number.is_u64() => {
            fields["content"] = Value::String(number.to_string());
        }
        Some(other) => {
            let kind = kind(other);
            return Err(MessageProblem::new(format!("has {kind} as `content`, not a string"), AS_TEXT));
        }
    }
    for name in REASONING {
        match fields.get(name) {
            None | Some(Value::Null | Value::String(_)) => {}
            Some(other) => {
                let kind = kind(other);
                return Err(MessageProblem::new(format!("has {kind} as `{name}`, not a string"), AS_TEXT));
            }
        }
    }
    Ok(())
}

/// Returns what a JSON value is, with an article.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Checks a part of a content, and refuses everything that is not text by its name.
fn normalize_part(part: &mut Value) -> Checked {
    if let Value::String(text) = part {
        *part = json!({"type": "text", "text": text});
        return Ok(());
    }
    let Some(fields) = part.as_object_mut() else {
        let kind = kind(part);
        return Err(MessageProblem::new(format!("has {kind} among the parts of its `content`"), AS_TEXT));
    };
    let is_media = |name: &str| MEDIA.iter().any(|medium| name.to_lowercase().contains(medium));
    let kind = fields.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    let media_key =
        fields.iter().find(|(key, value)| is_media(key) && !value.is_null()).map(|(key, _)| key.clone());
    if let Some(found) = media_key.or_else(|| is_media(&kind).then(|| kind.clone())) {
        return Err(MessageProblem::new(format!("holds a part that is not text: `{found}`"), TEXT_ONLY));
    }
    let has_text = fields.get("text").is_some_and(Value::is_string);
    match kind.as_str() {
        "text" | "input_text" | "output_text" | "" if has_text => {
            fields.insert("type".to_owned(), "text".into());
            Ok(())
        }
        _ => Err(MessageProblem::new(
            format!("holds a part of the unknown type `{kind}`"),
            "give the text as a string, or as parts `{\"type\": \"text\", \"text\": \"…\"}`",
        )),
    }
}

const CALLS: &str =
    "a tool call is `{\"type\": \"function\", \"function\": {\"name\": \"…\", \"arguments\": {…}}}`";

fn normalize_tool_calls(fields: &mut Map<String, Value>) -> Checked {
    if let Some(Value::String(text)) = fields.get("tool_calls") {
        match json::parse(text) {
            Ok(calls) if calls.is_array() => fields["tool_calls"] = calls,
            _ if text.trim().is_empty() => fields["tool_calls"] = Value::Null,
            Err(problem) if problem.is_long_integer => {
                return Err(long_integer("has `tool_calls`", &problem));
            }
            _ => return Err(MessageProblem::new("has `tool_calls` that are not a list", CALLS)),
        }
    }
    let calls = match fields.get_mut("tool_calls") {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Array(calls)) => calls,
        Some(_) => return Err(MessageProblem::new("has `tool_calls` that are not a list", CALLS)),
    };
    for call in calls {
        let function = if call.get("function").is_some() { &mut call["function"] } else { call };
        if !function.get("name").is_some_and(Value::is_string) {
            return Err(MessageProblem::new("has a tool call without the name of a function", CALLS));
        }
        match function.get_mut("arguments") {
            // A call without arguments, in the notation of several tools.
            Some(arguments @ Value::Null) => *arguments = json!({}),
            Some(Value::String(text)) if text.trim().is_empty() => function["arguments"] = json!({}),
            None | Some(Value::Object(_) | Value::String(_)) => {}
            Some(other) => {
                let kind = kind(other);
                return Err(MessageProblem::new(format!("has {kind} as `arguments` of a tool call"), CALLS));
            }
        }
    }
    Ok(())
}

fn long_integer(what: &str, problem: &JsonProblem) -> MessageProblem {
    MessageProblem::new(format!("{what} in which {}", problem.reason), AS_TEXT)
}

/// Checks the JSON schemas of functions, which may be given as JSON text.
pub(crate) fn normalize_tools(tools: Option<Value>) -> Checked<Option<Value>> {
    const LIST: &str = "write a list of JSON schemas";
    let tools = match tools {
        Some(Value::String(text)) if text.trim().is_empty() => None,
        Some(Value::String(text)) => match json::parse(&text) {
            Ok(tools) => Some(tools),
            Err(problem) if problem.is_long_integer => {
                return Err(long_integer("`tools` is JSON text", &problem));
            }
            Err(_) => Some(Value::String(text)),
        },
        tools => tools,
    };
    match &tools {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(list)) => match list.iter().position(|tool| !tool.is_object()) {
            None => Ok(tools),
            Some(index) => Err(MessageProblem::new(format!("tool {} is not an object", index + 1), LIST)),
        },
        Some(_) => Err(MessageProblem::new("`tools` is not a list", LIST)),
    }
}

/// Returns whether a message is a target, if it says so.
pub(crate) fn training_flag(message: &Value) -> Checked<Option<bool>> {
    const FLAG: &str = "write `\"train\": false` or `\"weight\": 0` for a message that is not a target";
    let mut found = None;
    for (key, value) in message.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        if !TRAINING_FLAGS.contains(&key.as_str()) {
            let lower = key.to_lowercase();
            if UNCLEAR_FLAGS.iter().any(|word| lower.contains(word)) {
                let reason = format!("has the key `{key}`, which may say what trains, but not how");
                return Err(MessageProblem::new(reason, FLAG));
            }
            continue;
        }
        let flag = match value {
            Value::Bool(flag) => Some(*flag),
            Value::Number(number) => [(0.0, false), (1.0, true)]
                .iter()
                .find(|(value, _)| number.as_f64() == Some(*value))
                .map(|(_, flag)| *flag),
            _ => None,
        };
        let Some(flag) = flag else {
            return Err(MessageProblem::new(
                format!("has `{key}` = {value}, which is neither 0 nor 1"),
                FLAG,
            ));
        };
        let flag = if key == "masked" { !flag } else { flag };
        if found.is_some_and(|found| found != flag) {
            return Err(MessageProblem::new(format!("has `{key}`, which contradicts its other flags"), FLAG));
        }
        found = Some(flag);
    }
    Ok(found)
}

/// Returns the keys of `message` with values that the template, whose words `reads` knows, leaves out.
pub(crate) fn unread_keys(message: &Value, reads: impl Fn(&str) -> bool) -> impl Iterator<Item = &str> {
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    let fields = message.as_object().into_iter().flatten();
    let is_known = move |key: &str| {
        matches!(key, "role" | "content")
            || TRAINING_FLAGS.contains(&key)
            || DESCRIPTIONS.contains(&key)
            || reads(key)
            // One is as good as the other, since templates are offered all.
            || (REASONING.contains(&key) && REASONING.iter().any(|name| reads(name)))
    };
    fields
        .filter(move |(_, value)| !is_empty(value))
        .map(|(key, _)| key.as_str())
        .filter(move |key| !is_known(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalized(message: Value) -> Result<Value, String> {
        let mut messages = [message];
        normalize(&mut messages).map_err(|problem| problem.reason)?;
        let [message] = messages;
        Ok(message)
    }

    #[test]
    fn values_with_one_meaning_are_converted() {
        let cases = [
            (json!({"content": 42}), json!({"content": "42"})),
            (json!({"content": ["a"]}), json!({"content": [{"type": "text", "text": "a"}]})),
            (
                json!({"content": [{"type": "input_text", "text": "a"}]}),
                json!({"content": [{"type": "text", "text": "a"}]}),
            ),
            (json!({"content": [{"text": "a"}]}), json!({"content": [{"text": "a", "type": "text"}]})),
            (
                json!({"content": [], "tool_calls": [{"name": "f", "arguments": null}]}),
                json!({"content": null, "tool_calls": [{"name": "f", "arguments": {}}]}),
            ),
            (
                json!({"content": null, "tool_calls": "[{\"function\":{\"name\":\"f\",\"arguments\":\"\"}}]"}),
                json!({"content": null, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}),
            ),
            (json!({"content": "a", "tool_calls": ""}), json!({"content": "a", "tool_calls": null})),
        ];
        for (given, expected) in cases {
            let with_role = |mut message: Value| {
                message["role"] = "assistant".into();
                message
            };
            assert_eq!(normalized(with_role(given)), Ok(with_role(expected)));
        }
    }

    #[test]
    fn values_without_one_meaning_are_refused_by_name() {
        let cases = [
            (json!({"content": 1.5}), "message 1 has a number as `content`, not a string"),
            (json!({"content": true}), "message 1 has a boolean as `content`, not a string"),
            (json!({"content": {"a": 1}}), "message 1 has an object as `content`, not a string"),
            (json!({"content": null}), "message 1 has no `content`"),
            (json!({"content": []}), "message 1 has no `content`"),
            (json!({"content": null, "tool_calls": []}), "message 1 has no `content`"),
            (json!({"content": [7]}), "message 1 has a number among the parts of its `content`"),
            (
                json!({"content": [{"type": "image_url", "image_url": {"url": "x"}}]}),
                "message 1 holds a part that is not text: `image_url`",
            ),
            (json!({"content": [{"type": "image"}]}), "message 1 holds a part that is not text: `image`"),
            (
                json!({"content": [{"type": "input_audio", "input_audio": {}}]}),
                "message 1 holds a part that is not text: `input_audio`",
            ),
            (
                json!({"content": [{"type": "text", "text": "a", "video": "x"}]}),
                "message 1 holds a part that is not text: `video`",
            ),
            (
                json!({"content": [{"type": "tool_use"}]}),
                "message 1 holds a part of the unknown type `tool_use`",
            ),
            (
                json!({"content": "a", "reasoning_content": ["b"]}),
                "message 1 has a list as `reasoning_content`, not a string",
            ),
            (
                json!({"content": "a", "tool_calls": {"name": "f"}}),
                "message 1 has `tool_calls` that are not a list",
            ),
            (
                json!({"content": "a", "tool_calls": [{"arguments": {}}]}),
                "message 1 has a tool call without the name of a function",
            ),
            (
                json!({"content": "a", "tool_calls": [{"name": "f", "arguments": 5}]}),
                "message 1 has a number as `arguments` of a tool call",
            ),
            (
                json!({"content": "a", "weight": 0.5}),
                "message 1 has `weight` = 0.5, which is neither 0 nor 1",
            ),
            (
                json!({"content": "a", "train": "no"}),
                "message 1 has `train` = \"no\", which is neither 0 nor 1",
            ),
            (
                json!({"content": "a", "train": true, "weight": 0}),
                "message 1 has `weight`, which contradicts its other flags",
            ),
            (
                json!({"content": "a", "loss_mask": [1]}),
                "message 1 has the key `loss_mask`, which may say what trains, but not how",
            ),
        ];
        for (mut given, expected) in cases {
            given["role"] = "assistant".into();
            assert_eq!(normalized(given).unwrap_err(), expected);
        }
    }

    #[test]
    fn flags_say_whether_a_message_trains() {
        let flag = |message: Value| training_flag(&message).unwrap();
        for message in
            [json!({"weight": 0}), json!({"train": false}), json!({"loss": 0.0}), json!({"masked": true})]
        {
            assert_eq!(flag(message), Some(false));
        }
        for message in
            [json!({"weight": 1.0}), json!({"training": true}), json!({"train": true, "weight": 1})]
        {
            assert_eq!(flag(message), Some(true));
        }
        assert_eq!(flag(json!({"weight": null, "content": "x"})), None);
    }

    #[test]
    fn tools_may_be_json_text() {
        assert_eq!(normalize_tools(Some("[{\"a\":1}]".into())), Ok(Some(json!([{"a": 1}]))));
        assert_eq!(normalize_tools(Some(Value::Null)), Ok(None));
        assert_eq!(normalize_tools(Some("".into())), Ok(None));
        assert_eq!(normalize_tools(Some(json!({"a": 1}))).unwrap_err().reason, "`tools` is not a list");
        assert_eq!(normalize_tools(Some(json!(["a"]))).unwrap_err().reason, "tool 1 is not an object");
    }

    #[test]
    fn integers_in_json_text_are_never_rounded() {
        let calls = json!({"role": "assistant", "tool_calls": "[{\"name\":\"f\",\"arguments\":{\"n\":18446744073709551616}}]"});
        let refused = normalized(calls).unwrap_err();
        assert!(refused.contains("the integer 18446744073709551616 has more than 64 bits"), "{refused}");
        let tools = normalize_tools(Some("[{\"maximum\":18446744073709551616}]".into())).unwrap_err();
        assert!(tools.reason.contains("has more than 64 bits"), "{}", tools.reason);
    }

    #[test]
    fn keys_that_nothing_reads_are_found() {
        let message = json!({"role": "user", "content": "a", "id": 1, "emotion": "joy", "reasoning": "b", "tool_calls": []});
        let unread =
            |words: &[&str]| -> Vec<&str> { unread_keys(&message, |word| words.contains(&word)).collect() };
        assert_eq!(unread(&[]), ["emotion", "reasoning"]);
        assert_eq!(unread(&["thinking"]), ["emotion"]);
    }
}
