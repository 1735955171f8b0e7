//! Layouts of other tools with a known meaning, rewritten as `messages` or as `prompt` and `completion`.
//!
//! * **`ShareGPT`**: a list `conversations` of turns with `from` and `value` (or `role` and `content`), and perhaps `system`
//!   and `tools`.
//! * **Alpaca**: `instruction`, perhaps `input`, and `output`; perhaps `system` and `history`. Dolly says `context` and
//!   `response`.
//! * **Functions** as `OpenAI` wrote them before tools: `functions` beside the messages, `function_call` in a message, and the
//!   role `function`.

use serde_json::{Map, Value, json};

use crate::error::FieldProblem;

const TURN: &str = "a turn is `{\"from\": \"human\", \"value\": \"…\"}`; \
    `from` is `human`, `gpt`, `system`, `tool`, `function_call` or `observation`";
const CALL: &str = "write a call as JSON text: `{\"name\": \"…\", \"arguments\": {…}}`";

/// Rewrites `fields` if they have a known layout; returns the text that the row asks about, if the layout tells it.
///
/// Rows with `messages`, or with `prompt` and `completion`, stay as they are, except that lists given as JSON text are
/// parsed.
pub(crate) fn rewrite(fields: &mut Map<String, Value>) -> Result<Option<String>, FieldProblem> {
    for name in ["messages", "conversations", "tools", "functions"] {
        parse_list(fields, name);
    }
    let is_pair = has(fields, "prompt") && has(fields, "completion");
    if !has(fields, "messages") && !is_pair {
        if fields.get("conversations").is_some_and(Value::is_array) {
            let turns = fields.remove("conversations");
            fields.insert("messages".to_owned(), turns.unwrap_or_default());
        } else if let Some(input) = rewrite_alpaca(fields)? {
            return Ok(Some(input));
        }
    }
    if let Some(Value::Array(turns)) = fields.get_mut("messages") {
        for (index, turn) in turns.iter_mut().enumerate() {
            rewrite_turn(turn, index)?;
            rewrite_function(turn);
        }
        rewrite_functions(fields);
    }
    add_system(fields);
    Ok(None)
}

fn has(fields: &Map<String, Value>, name: &str) -> bool {
    fields.get(name).is_some_and(|value| !value.is_null())
}

/// Returns the text of a field; `None` if it is absent, null or blank.
fn filled<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    fields.get(name)?.as_str().filter(|text| !text.trim().is_empty())
}

/// Parses a list that a table or an export holds as JSON text.
fn parse_list(fields: &mut Map<String, Value>, name: &str) {
    if let Some(Value::String(text)) = fields.get(name)
        && text.trim_start().starts_with('[')
        && let Ok(list @ Value::Array(_)) = crate::json::parse(text)
    {
        fields.insert(name.to_owned(), list);
    }
}

/// Rewrites a row with an instruction; returns the text that it asks about.
fn rewrite_alpaca(fields: &mut Map<String, Value>) -> Result<Option<String>, FieldProblem> {
    let answer = ["output", "response"].into_iter().find(|name| has(fields, name));
    let (true, Some(answer)) = (has(fields, "instruction"), answer) else { return Ok(None) };
    let input = filled(fields, "input").or_else(|| filled(fields, "context"));
    let (prompt, source) = match (filled(fields, "instruction"), input) {
        (Some(instruction), Some(input)) => (format!("{instruction}\n\n{input}"), input.to_owned()),
        // One of the two may be blank.
        (Some(text), None) | (None, Some(text)) => (text.to_owned(), text.to_owned()),
        (None, None) => return Ok(None),
    };
    let completion = fields[answer].clone();
    let earlier = history(fields)?;
    if earlier.is_empty() && filled(fields, "system").is_none() {
        fields.insert("prompt".to_owned(), Value::String(prompt));
        fields.insert("completion".to_owned(), completion);
        return Ok(Some(source));
    }
    let last =
        [json!({"role": "user", "content": prompt}), json!({"role": "assistant", "content": completion})];
    let messages = earlier.into_iter().chain(last).collect();
    fields.insert("messages".to_owned(), Value::Array(messages));
    add_system(fields);
    Ok(Some(source))
}

/// Returns the messages of `history`, a list of pairs of a question and its answer.
fn history(fields: &Map<String, Value>) -> Result<Vec<Value>, FieldProblem> {
    let pairs = match fields.get("history") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(pairs)) => pairs,
        Some(_) => return Err(FieldProblem::new("`history` is not a list", PAIRS)),
    };
    let mut messages = Vec::new();
    for pair in pairs {
        let Some([Value::String(question), Value::String(answer)]) = pair.as_array().map(Vec::as_slice)
        else {
            return Err(FieldProblem::new("`history` has an entry that is not a pair of texts", PAIRS));
        };
        messages.push(json!({"role": "user", "content": question}));
        messages.push(json!({"role": "assistant", "content": answer}));
    }
    Ok(messages)
}

const PAIRS: &str = "write `history` as a list of pairs: `[[\"question\", \"answer\"], …]`";

/// Puts the text of a field `system` in front of the messages, or in front of a prompt with its completion.
fn add_system(fields: &mut Map<String, Value>) {
    let Some(system) = filled(fields, "system").map(str::to_owned) else { return };
    let system = json!({"role": "system", "content": system});
    if let Some(Value::Array(messages)) = fields.get_mut("messages") {
        let role = messages.first().and_then(|first| first.get("role")?.as_str());
        if !matches!(role, Some("system" | "developer")) {
            messages.insert(0, system);
        }
    } else {
        let text = |name: &str| fields.get(name).filter(|value| value.is_string()).cloned();
        if let (Some(prompt), Some(completion)) = (text("prompt"), text("completion")) {
            let (user, assistant) = (
                json!({"role": "user", "content": prompt}),
                json!({"role": "assistant", "content": completion}),
            );
            fields.insert("messages".to_owned(), Value::Array(vec![system, user, assistant]));
            fields.remove("prompt");
            fields.remove("completion");
        }
    }
}

/// Rewrites a turn with `from` and `value` as a message; other turns stay as they are.
fn rewrite_turn(turn: &mut Value, index: usize) -> Result<(), FieldProblem> {
    let Value::Object(fields) = turn else { return Ok(()) };
    if has(fields, "role") || !has(fields, "from") {
        return Ok(());
    }
    let number = index + 1;
    let problem = |reason: String| FieldProblem::new(format!("turn {number} {reason}"), TURN);
    let Some(Value::String(from)) = fields.remove("from") else {
        return Err(problem("has a `from` that is not a text".to_owned()));
    };
    let value = fields.remove("value").unwrap_or_default();
    let role = match from.as_str() {
        "human" | "user" => "user",
        "gpt" | "assistant" | "chatgpt" | "bing" | "bard" | "model" | "function_call" => "assistant",
        "system" => "system",
        "tool" | "observation" | "function_response" | "function" => "tool",
        other => return Err(problem(format!("is from `{other}`, which is not a known role"))),
    };
    let mut message = Map::new();
    message.insert("role".to_owned(), role.into());
    if from == "function_call" {
        message.insert("tool_calls".to_owned(), tool_calls(&value, number)?);
    } else {
        message.insert("content".to_owned(), value);
    }
    // Exports fill in columns that a turn does not have.
    message.extend(std::mem::take(fields).into_iter().filter(|(_, value)| !value.is_null()));
    *fields = message;
    Ok(())
}

/// Rewrites a message with a function's call as one with a tool call, and a function's result as a tool's.
fn rewrite_function(message: &mut Value) {
    let Value::Object(fields) = message else { return };
    if fields.get("role").and_then(Value::as_str) == Some("function") {
        fields.insert("role".to_owned(), "tool".into());
    }
    let is_call =
        fields.get("function_call").is_some_and(|call| call.get("name").is_some_and(Value::is_string));
    if is_call && !has(fields, "tool_calls") {
        let function = fields.remove("function_call").unwrap_or_default();
        fields.insert("tool_calls".to_owned(), json!([{"type": "function", "function": function}]));
    }
}

/// Rewrites a list of functions beside the messages as a list of tools.
fn rewrite_functions(fields: &mut Map<String, Value>) {
    let is_list = fields.get("functions").and_then(Value::as_array).is_some_and(|functions| {
        !functions.is_empty()
            && functions.iter().all(|function| function.get("name").is_some_and(Value::is_string))
    });
    if is_list && !has(fields, "tools") {
        let functions = fields.remove("functions").unwrap_or_default();
        let tool = |function: &Value| json!({"type": "function", "function": function});
        let tools = functions.as_array().into_iter().flatten().map(tool).collect();
        fields.insert("tools".to_owned(), Value::Array(tools));
    }
}

/// Returns the calls in the text of a `function_call`.
fn tool_calls(value: &Value, number: usize) -> Result<Value, FieldProblem> {
    let parsed = match value {
        Value::String(text) => crate::json::parse(text).unwrap_or_default(),
        other => other.clone(),
    };
    let calls = match parsed {
        Value::Array(calls) => calls,
        call => vec![call],
    };
    let call = |call: Value| -> Option<Value> {
        let name = call.get("name")?.as_str()?;
        let arguments = call.get("arguments").or_else(|| call.get("parameters"));
        let arguments = match arguments {
            Some(Value::String(text)) => crate::json::parse(text).ok()?,
            Some(arguments) => arguments.clone(),
            None => json!({}),
        };
        Some(json!({"type": "function", "function": {"name": name, "arguments": arguments}}))
    };
    let calls: Option<Vec<Value>> = calls.into_iter().map(call).collect();
    let calls = calls.filter(|calls| !calls.is_empty());
    calls.map(Value::Array).ok_or_else(|| {
        FieldProblem::new(format!("turn {number} is a `function_call` whose text is not a call"), CALL)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(row: Value) -> Result<Value, String> {
        let Value::Object(mut fields) = row else { panic!("not an object") };
        rewrite(&mut fields).map_err(|problem| problem.reason)?;
        Ok(Value::Object(fields))
    }

    #[test]
    fn turns_of_sharegpt_become_messages() {
        let roles = [
            ("human", "user"),
            ("user", "user"),
            ("gpt", "assistant"),
            ("assistant", "assistant"),
            ("chatgpt", "assistant"),
            ("model", "assistant"),
            ("system", "system"),
            ("tool", "tool"),
            ("observation", "tool"),
            ("function_response", "tool"),
        ];
        for (from, role) in roles {
            let row = rewritten(json!({"conversations": [{"from": from, "value": " a\n", "weight": null}]}));
            assert_eq!(row.unwrap()["messages"], json!([{"role": role, "content": " a\n"}]), "{from}");
        }
        let refused = rewritten(json!({"conversations": [{"from": "narrator", "value": "a"}]}));
        assert_eq!(refused.unwrap_err(), "turn 1 is from `narrator`, which is not a known role");
        let named = json!([{"role": "user", "content": "a"}]);
        assert_eq!(rewritten(json!({"conversations": named})).unwrap()["messages"], named);
    }

    #[test]
    fn function_calls_become_tool_calls() {
        let call = json!({"type": "function", "function": {"name": "f", "arguments": {"x": 1}}});
        for value in [
            json!(r#"{"name": "f", "arguments": {"x": 1}}"#),
            json!(r#"[{"name": "f", "arguments": "{\"x\": 1}"}]"#),
            json!({"name": "f", "parameters": {"x": 1}}),
        ] {
            let row =
                rewritten(json!({"conversations": [{"from": "function_call", "value": value}]})).unwrap();
            assert_eq!(row["messages"], json!([{"role": "assistant", "tool_calls": [call]}]));
        }
        for value in [json!("call f"), json!("[]"), json!(null), json!(r#"{"arguments": {}}"#)] {
            let row = rewritten(json!({"conversations": [{"from": "function_call", "value": value}]}));
            assert!(row.unwrap_err().starts_with("turn 1 is a `function_call`"));
        }
    }

    #[test]
    fn functions_of_before_tools_become_tools() {
        let call = json!({"name": "f", "arguments": "{\"x\": 1}"});
        let function = json!({"name": "f", "parameters": {}});
        let row = json!({"messages": [
            {"role": "assistant", "content": null, "function_call": call},
            {"role": "function", "name": "f", "content": "2"},
        ], "functions": [function]});
        let tool = |function: &Value| json!([{"type": "function", "function": function}]);
        let expected = json!({"messages": [
            {"role": "assistant", "content": null, "tool_calls": tool(&call)},
            {"role": "tool", "name": "f", "content": "2"},
        ], "tools": tool(&function)});
        assert_eq!(rewritten(row).unwrap(), expected);
        // Settings of a request are no calls, and what is there already stays.
        let other = json!({"messages": [{"role": "user", "content": "a", "function_call": "auto"}], "functions": [],
            "tools": []});
        assert_eq!(rewritten(other.clone()).unwrap(), other);
    }

    #[test]
    fn instructions_become_prompts_whatever_is_blank() {
        for input in [json!(null), json!(""), json!("  ")] {
            let row =
                rewritten(json!({"instruction": "a", "input": input, "output": "b", "text": "c"})).unwrap();
            assert_eq!((&row["prompt"], &row["completion"]), (&json!("a"), &json!("b")));
        }
        let row = rewritten(json!({"instruction": "", "input": "x", "output": "b"})).unwrap();
        assert_eq!((&row["prompt"], &row["completion"]), (&json!("x"), &json!("b")));
        let row = rewritten(json!({"instruction": "a", "context": "x", "response": "b"})).unwrap();
        assert_eq!(row["prompt"], json!("a\n\nx"));
        let chat =
            rewritten(json!({"instruction": "a", "output": "b", "system": "s", "history": [["q", "r"]]}));
        let contents: Vec<Value> =
            chat.unwrap()["messages"].as_array().unwrap().iter().map(|m| m["content"].clone()).collect();
        assert_eq!(contents, ["s", "q", "r", "a", "b"]);
        assert!(rewritten(json!({"instruction": "a", "output": "b", "history": ["q"]})).is_err());
    }

    #[test]
    fn known_shapes_take_precedence_and_lists_may_be_text() {
        let messages = json!([{"role": "user", "content": "m"}]);
        let row = json!({"messages": messages.to_string(), "instruction": "a", "output": "b"});
        assert_eq!(rewritten(row).unwrap()["messages"], messages);
        let pair = json!({"prompt": "p", "completion": "c", "conversations": []});
        assert_eq!(rewritten(pair.clone()).unwrap(), pair);
        let with_system = rewritten(json!({"prompt": "p", "completion": "c", "system": "s"})).unwrap();
        assert_eq!(with_system["messages"].as_array().map(Vec::len), Some(3));
    }
}
