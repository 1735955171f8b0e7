//! Tool calls in answers, in the notations of common models.

mod python;

use serde_json::{Map, Value};

use crate::structured::{fields, parse_json, unfenced};

/// Marks of calls in notations that are not read, or of which a part is missing.
const UNREAD: [&str; 10] = [
    "[ARGS]",
    "<|tool_call",
    "<tool_calls>",
    "<｜tool▁call",
    "<function_call",
    "<invoke",
    "<tool_use",
    "<|action_start|>",
    "functools[",
    "to=functions.",
];

/// A call of a function by a model.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Call {
    name: String,
    /// Leaves of the arguments, sorted.
    arguments: Vec<String>,
}

impl Call {
    fn new(name: &str, arguments: &Value) -> Self {
        let mut arguments = fields(arguments);
        arguments.sort();
        Self { name: name.to_owned(), arguments }
    }
}

/// Returns whether an answer calls the functions of the reference, in the same order, with equal arguments.
///
/// Calls are read in these notations, whether or not their control tokens were left out of the text:
///
/// - blocks `<tool_call>…</tool_call>` and `<function=NAME>…</function>`, with JSON or with `<parameter=NAME>…</parameter>` in them;
/// - a list after `[TOOL_CALLS]`, and `[TOOL_CALLS]NAME[ARGS]{…}`;
/// - JSON or Python after `<|python_tag|>`;
/// - an answer that is JSON: objects with `name` and `arguments` (or `parameters`), also below `function`;
/// - an answer that is Python: `[NAME(argument=value)]`.
///
/// Arguments may be JSON in a string. Two texts without any call match. A text with a call that cannot be read, because it is cut
/// off or in another notation, matches none.
pub fn tool_calls_match(answer: &str, reference: &str) -> bool {
    calls(answer).is_some_and(|given| calls(reference) == Some(given))
}

/// Returns the number of tool calls in a text; `None` if it has one that cannot be read.
pub fn tool_call_count(text: &str) -> Option<usize> {
    calls(text).map(|calls| calls.len())
}

/// Returns why comparing calls with those of the references says little, if it does.
pub(crate) fn doubt(references: &[&str]) -> Option<String> {
    let counts: Vec<Option<usize>> = references.iter().map(|text| tool_call_count(text)).collect();
    let unread = counts.iter().filter(|count| count.is_none()).count();
    if unread > 0 {
        let all = counts.len();
        return Some(format!(
            "{unread} of {all} references have a tool call that cannot be read, so no answer matches them"
        ));
    }
    let has_none = !counts.is_empty() && counts.iter().all(|count| *count == Some(0));
    has_none.then(|| {
        "no reference has a tool call that can be read, so every answer without one counts as right"
            .to_owned()
    })
}

/// Returns the calls of a text, none if it has none; `None` if it has one that cannot be read.
fn calls(text: &str) -> Option<Vec<Call>> {
    // A model may think about calls before it makes them.
    let text = text.rsplit_once("</think>").map_or(text, |(_, answer)| answer).trim();
    if text.contains("<tool_call>") {
        let blocks = blocks(text).into_iter();
        let calls = blocks.map(|block| json_calls(block).or_else(|| tagged_calls(block)));
        return calls.collect::<Option<Vec<_>>>().map(|calls| calls.concat());
    }
    if text.contains("<function=") {
        return tagged_calls(text);
    }
    let marks = ["[TOOL_CALLS]", "<|python_tag|>", "<|python_start|>"];
    if let Some((_, marked)) = marks.into_iter().find_map(|mark| text.split_once(mark)) {
        return plain_calls(marked.trim_end_matches("<|python_end|>"));
    }
    match plain_calls(text) {
        None if UNREAD.iter().any(|mark| text.contains(mark)) || is_broken(text) => None,
        calls => Some(calls.unwrap_or_default()),
    }
}

/// Returns the contents of the blocks `<tool_call>`; the last one may lack its end.
fn blocks(text: &str) -> Vec<&str> {
    let rest = text.split("<tool_call>").skip(1);
    rest.map(|rest| rest.split_once("</tool_call>").map_or(rest, |(block, _)| block)).collect()
}

/// Reads a text that consists of calls, whichever notation it has; `None` if it does not.
fn plain_calls(text: &str) -> Option<Vec<Call>> {
    json_calls(text).or_else(|| python_calls(text)).or_else(|| named_calls(text))
}

/// Reads JSON values one after the other, perhaps with semicolons between them: calls, or lists of calls.
fn json_calls(text: &str) -> Option<Vec<Call>> {
    let mut calls = Vec::new();
    let mut rest = unfenced(text);
    loop {
        let (value, after) = first_json(rest)?;
        match value {
            Value::Array(items) => calls.extend(items.iter().map(call).collect::<Option<Vec<_>>>()?),
            value => calls.push(call(&value)?),
        }
        rest = after.trim_start().trim_start_matches(';').trim_start();
        if rest.is_empty() {
            return Some(calls);
        }
    }
}

/// Reads the JSON value at the start of a text, and returns it with the rest.
fn first_json(text: &str) -> Option<(Value, &str)> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let value = values.next()?.ok()?;
    Some((value, &text[values.byte_offset()..]))
}

fn call(value: &Value) -> Option<Call> {
    let value = value.get("function").filter(|inner| inner.is_object()).unwrap_or(value);
    let name = value.get("name")?.as_str()?;
    let arguments = value.get("arguments").or_else(|| value.get("parameters")).cloned().unwrap_or_default();
    let arguments = match &arguments {
        Value::String(text) => serde_json::from_str(text).unwrap_or(arguments),
        Value::Null => Value::Object(Map::new()),
        _ => arguments,
    };
    Some(Call::new(name, &arguments))
}

fn python_calls(text: &str) -> Option<Vec<Call>> {
    let calls = python::calls(text)?;
    Some(calls.into_iter().map(|(name, arguments)| Call::new(name, &Value::Object(arguments))).collect())
}

/// Reads `NAME[ARGS]{…}`, repeated, with or without `[CALL_ID]…`, and without the marks, which may be control tokens.
fn named_calls(text: &str) -> Option<Vec<Call>> {
    let mut calls = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (name, arguments) = named(rest)?;
        let (arguments, after) = first_json(arguments)?;
        calls.push(Call::new(name, &arguments));
        rest = after.trim_start();
        rest = rest.strip_prefix("[TOOL_CALLS]").unwrap_or(rest).trim_start();
    }
    (!calls.is_empty()).then_some(calls)
}

/// Splits `NAME[ARGS]{…` before the brace.
fn named(text: &str) -> Option<(&str, &str)> {
    let (head, arguments) = text.split_at(text.find('{')?);
    let head = head.trim_end().strip_suffix("[ARGS]").unwrap_or(head);
    let name = head.split_once("[CALL_ID]").map_or(head, |(name, _)| name);
    is_name(name).then_some((name, arguments))
}

fn is_name(text: &str) -> bool {
    let is_part = |character: char| character.is_alphanumeric() || "_-.".contains(character);
    !text.is_empty() && text.chars().all(is_part)
}

/// Reads blocks `<function=NAME>…</function>`; the last one may lack its end if JSON is in it.
fn tagged_calls(text: &str) -> Option<Vec<Call>> {
    let mut calls = Vec::new();
    for block in text.split("<function=").skip(1) {
        let (name, body) = block.split_once('>')?;
        let (body, is_closed) =
            body.split_once("</function>").map_or((body, false), |(body, _)| (body, true));
        let arguments = match serde_json::from_str(body) {
            Ok(Value::Object(arguments)) => arguments,
            _ if is_closed => parameters(body)?,
            _ => return None,
        };
        calls.push(Call::new(name.trim().trim_matches('"'), &Value::Object(arguments)));
    }
    (!calls.is_empty()).then_some(calls)
}

/// Reads `<parameter=NAME>value</parameter>`, repeated; values that are not JSON are text.
fn parameters(body: &str) -> Option<Map<String, Value>> {
    let mut parameters = Map::new();
    let mut rest = body.trim();
    while !rest.is_empty() {
        let (name, after) = rest.strip_prefix("<parameter=")?.split_once('>')?;
        let (value, after) = after.split_once("</parameter>")?;
        let value = value.trim();
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        parameters.insert(name.to_owned(), value);
        rest = after.trim_start();
    }
    Some(parameters)
}

/// Returns whether a text that does not parse as a call starts like one, for example because the answer was cut off.
fn is_broken(text: &str) -> bool {
    let start =
        text.strip_prefix("```json").or_else(|| text.strip_prefix("```")).unwrap_or(text).trim_start();
    let inner = start.strip_prefix('[').unwrap_or(start).trim_start();
    let begins_object = inner.strip_prefix('{').is_some_and(|rest| rest.trim_start().starts_with('"'));
    if begins_object {
        return parse_json(text).is_none();
    }
    let is_list_of_calls =
        start.starts_with('[') && inner.split_once('(').is_some_and(|(name, _)| is_name(name));
    is_list_of_calls || named(start).is_some_and(|(_, arguments)| arguments.starts_with("{\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_match_in_every_notation() {
        let one = r#"<tool_call>{"name": "f", "arguments": {"x": 1, "y": "a"}}</tool_call>"#;
        for same in [
            r#"{"name": "f", "parameters": {"y": "a", "x": 1.0}}"#,
            r#"[TOOL_CALLS] [{"name": "f", "arguments": {"x": 1, "y": "a"}}]"#,
            r#"[TOOL_CALLS]f[ARGS]{"x": 1, "y": "a"}"#,
            r#"[TOOL_CALLS]f[CALL_ID]9aB[ARGS]{"x": 1, "y": "a"}"#,
            r#"f{"x": 1, "y": "a"}"#,
            r#"[{"type": "function", "function": {"name": "f", "arguments": "{\"x\": 1, \"y\": \"a\"}"}}]"#,
            "Sure.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1, \"y\": \"a\"}}\n</tool_call>",
            r#"<function=f>{"x": 1, "y": "a"}</function>"#,
            "<tool_call>\n<function=f>\n<parameter=x>\n1\n</parameter>\n<parameter=y>\na\n</parameter>\n</function>\n</tool_call>",
            r#"<|python_tag|>{"name": "f", "parameters": {"x": 1, "y": "a"}}"#,
            r#"<|python_tag|>f(x=1, y="a")"#,
            "[f(y='a', x=1)]",
            "<|python_start|>[f(x=1, y=\"a\")]<|python_end|>",
            "<think>f(2) or <tool_call>?</think>\n\n{\"name\": \"f\", \"arguments\": {\"x\": 1, \"y\": \"a\"}}",
        ] {
            assert!(tool_calls_match(same, one), "{same}");
        }
        for other in ["f(1)", "", r#"{"name": "g", "arguments": {"x": 1, "y": "a"}}"#, &one.repeat(2)] {
            assert!(!tool_calls_match(other, one), "{other}");
        }
        assert!(tool_calls_match("no call", "none either"));
    }

    #[test]
    fn another_function_is_no_match_in_any_notation() {
        for (reference, answer) in [
            (r#"[TOOL_CALLS]get_weather[ARGS]{"city":"Rome"}"#, "[TOOL_CALLS]delete_all[ARGS]{}"),
            (r#"get_weather{"city":"Rome"}"#, "delete_all{}"),
            (r#"<function=f>{"x":1}</function>"#, "<function=g>{}</function>"),
            ("[f(x=1)]", "[g()]"),
            ("[f(x=1)]", "[f(x=2)]"),
            ("<|python_tag|>f.call(x=1)", "<|python_tag|>g.call(x=1)"),
            // Notations that are not read.
            (r#"<|tool_call|>[{"name":"f"}]<|/tool_call|>"#, r#"<|tool_call|>[{"name":"g"}]<|/tool_call|>"#),
            ("<｜tool▁calls▁begin｜>f", "<｜tool▁calls▁begin｜>g"),
            ("<tool_call>f\n<arg_key>x</arg_key></tool_call>", "<tool_call>g</tool_call>"),
        ] {
            assert!(!tool_calls_match(answer, reference), "{answer}");
        }
    }

    #[test]
    fn a_call_that_is_cut_off_is_not_taken_for_none() {
        for cut in [
            r#"[TOOL_CALLS] [{"name": "f", "arg"#,
            r#"[TOOL_CALLS]f[ARGS]{"x": "#,
            r#"f[ARGS]{"x": "#,
            r#"f{"x": "#,
            r#"<tool_call>{"name": "f", "#,
            "<tool_call>",
            "<tool_call><function=f><parameter=x>1</parameter>",
            r#"<function=f>{"x": "#,
            r#"<|python_tag|>{"name": "f", "#,
            "[f(x=",
            r#"{"name": "f", "#,
            "```json\n[{\"name\": \"f\"",
        ] {
            assert_eq!(tool_call_count(cut), None, "{cut}");
            assert!(!tool_calls_match(cut, "It is warm in Rome."), "{cut}");
        }
    }

    #[test]
    fn texts_are_not_taken_for_calls() {
        for text in
            ["", "It is 5 (five).", "[1] see (2)", "{1, 2}", r#"{"warm": true}"#, "x{1}", "[]", "f(1)"]
        {
            assert_eq!(tool_call_count(text), Some(0), "{text}");
        }
    }

    #[test]
    fn several_calls_keep_their_order() {
        for two in [
            r#"<|python_tag|>{"name": "f", "parameters": {}}; {"name": "g", "parameters": {}}"#,
            "[TOOL_CALLS]f[ARGS]{}[TOOL_CALLS]g[ARGS]{}",
            "f{}g{}",
            "[f(), g()]",
            "<function=f>{}</function>\n<function=g>{}</function>",
        ] {
            assert!(tool_calls_match(two, r#"[{"name": "f"}, {"name": "g"}]"#), "{two}");
            assert!(!tool_calls_match(two, r#"[{"name": "g"}, {"name": "f"}]"#), "{two}");
        }
    }

    #[test]
    fn references_without_a_readable_call_are_doubted() {
        assert_eq!(doubt(&[]), None);
        assert_eq!(doubt(&["[f(x=1)]", "It is warm."]), None);
        assert!(doubt(&["It is warm.", ""]).is_some_and(|doubt| doubt.starts_with("no reference")));
        let unread = doubt(&["[f(x=1)]", "<|tool_call|>f"]).unwrap_or_default();
        assert!(unread.starts_with("1 of 2 references"), "{unread}");
    }
}
