//! Scores of structured answers: JSON and tool calls.

use serde_json::Value;

/// Parses an answer that is JSON, with or without a code fence around it.
pub fn parse_json(text: &str) -> Option<Value> {
    serde_json::from_str(unfenced(text)).ok()
}

/// Returns the content of a code fence if the text is one, and otherwise the text.
fn unfenced(text: &str) -> &str {
    let text = text.trim();
    let Some(inner) = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```")) else { return text };
    inner.split_once('\n').map_or(inner, |(_language, body)| body).trim()
}

/// Returns the F1 of the fields of an answer, from 0 to 1: pairs of a path and a value that both sides have.
///
/// Numbers are equal if their values are, items of lists if they are at the same position. An answer that is not JSON scores
/// 0; a reference that is not JSON is compared as text.
pub fn json_fields(answer: &str, reference: &str) -> f64 {
    let Some(expected) = parse_json(reference) else {
        return f64::from(answer.trim() == reference.trim());
    };
    let Some(given) = parse_json(answer) else { return 0.0 };
    let (mut given, mut expected) = (fields(&given), fields(&expected));
    let total = given.len() + expected.len();
    2.0 * crate::ngrams::matches(&mut given, &mut expected) as f64 / total.max(1) as f64
}

/// Lists the leaves of a value as `path=value`, in which equal numbers have equal text.
fn fields(value: &Value) -> Vec<String> {
    let mut all = Vec::new();
    collect(value, "", &mut all);
    all
}

fn collect(value: &Value, path: &str, all: &mut Vec<String>) {
    match value {
        Value::Object(object) if !object.is_empty() => {
            // A name is written as JSON, so that no name looks like a path.
            object
                .iter()
                .for_each(|(name, value)| collect(value, &format!("{path}.{}", Value::from(&**name)), all));
        }
        Value::Array(items) if !items.is_empty() => {
            items.iter().enumerate().for_each(|(i, item)| collect(item, &format!("{path}[{i}]"), all));
        }
        Value::Number(number) => all.push(match number.as_f64() {
            Some(value) if !number.is_u64() && !number.is_i64() && value.fract() == 0.0 => {
                format!("{path}={value:.0}")
            }
            _ => format!("{path}={number}"),
        }),
        other => all.push(format!("{path}={other}")),
    }
}

/// A call of a function by a model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Call {
    name: String,
    arguments: Vec<String>,
}

/// Returns whether an answer calls the functions of the reference, in the same order, with equal arguments.
///
/// Calls are read from `<tool_call>` blocks, from a list after `[TOOL_CALLS]`, or from an answer that is JSON: an object or a
/// list of objects with `name` and `arguments` (or `parameters`), also below `function`. Arguments may be JSON in a string.
pub fn tool_calls_match(answer: &str, reference: &str) -> bool {
    calls(answer).is_some_and(|given| calls(reference) == Some(given))
}

fn calls(text: &str) -> Option<Vec<Call>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("<tool_call>") {
        let (block, after) = after.split_once("</tool_call>").unwrap_or((after, ""));
        parts.push(block);
        rest = after;
    }
    if parts.is_empty() {
        parts.push(text.split_once("[TOOL_CALLS]").map_or(text, |(_, list)| list));
        if calls_of(parts[0]).is_none() {
            // No call at all, on both sides, is a match.
            return Some(Vec::new());
        }
    }
    parts.into_iter().map(calls_of).collect::<Option<Vec<_>>>().map(|calls| calls.concat())
}

fn calls_of(text: &str) -> Option<Vec<Call>> {
    match parse_json(text)? {
        Value::Array(items) => items.iter().map(call).collect(),
        value => Some(vec![call(&value)?]),
    }
}

fn call(value: &Value) -> Option<Call> {
    let value = value.get("function").filter(|inner| inner.is_object()).unwrap_or(value);
    let name = value.get("name")?.as_str()?.to_owned();
    let arguments = value.get("arguments").or_else(|| value.get("parameters")).cloned().unwrap_or_default();
    let arguments = match &arguments {
        Value::String(text) => serde_json::from_str(text).unwrap_or(arguments),
        Value::Null => Value::Object(serde_json::Map::new()),
        _ => arguments,
    };
    let mut arguments = fields(&arguments);
    arguments.sort();
    Some(Call { name, arguments })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_match_by_path_and_value() {
        assert!((json_fields(r#"{"b": 2.0, "a": "x"}"#, r#"{"a": "x", "b": 2}"#) - 1.0).abs() < 1e-12);
        assert!((json_fields(r#"{"a": [1, 2]}"#, r#"{"a": [1, 3]}"#) - 0.5).abs() < 1e-12);
        assert!(
            (json_fields("```json\n{\"a\": {\"b\": null}}\n```", r#"{"a":{"b":null}}"#) - 1.0).abs() < 1e-12
        );
        assert!(json_fields("not json", "{}").abs() < 1e-12);
        assert!((json_fields("{}", "{}") - 1.0).abs() < 1e-12);
        assert!(json_fields(r#"{"a.b": 1}"#, r#"{"a": {"b": 1}}"#).abs() < 1e-12);
        assert!(json_fields(r#"{"a": "1"}"#, r#"{"a": 1}"#).abs() < 1e-12);
    }

    #[test]
    fn calls_match_in_every_notation() {
        let one = r#"<tool_call>{"name": "f", "arguments": {"x": 1, "y": "a"}}</tool_call>"#;
        for same in [
            r#"{"name": "f", "parameters": {"y": "a", "x": 1.0}}"#,
            r#"[TOOL_CALLS] [{"name": "f", "arguments": {"x": 1, "y": "a"}}]"#,
            r#"[{"type": "function", "function": {"name": "f", "arguments": "{\"x\": 1, \"y\": \"a\"}"}}]"#,
            "Sure.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1, \"y\": \"a\"}}\n</tool_call>",
        ] {
            assert!(tool_calls_match(same, one), "{same}");
        }
        for other in ["f(1)", "", r#"{"name": "g", "arguments": {"x": 1, "y": "a"}}"#, &one.repeat(2)] {
            assert!(!tool_calls_match(other, one), "{other}");
        }
        assert!(tool_calls_match("no call", "none either"));
    }
}
