//! Renders chats for comparison with transformers: reads one JSON object per line, writes one.
//!
//! In: `template`, `messages`, `tools`, `add_generation_prompt`, `variables`, `date`. Out: `text` and `generation`, or
//! `error`. `make interop` runs it.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, Write as _};

use dataset::{ChatTemplate, Conversation, Date};
use serde_json::{Value, json};

fn main() -> io::Result<()> {
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let case: Value = serde_json::from_str(&line?)?;
        let answer = render(&case).unwrap_or_else(|error| json!({"error": error.to_string()}));
        writeln!(out, "{answer}")?;
    }
    Ok(())
}

fn render(case: &Value) -> dataset::Result<Value> {
    let source = case["template"].as_str().unwrap_or_default();
    let variables: BTreeMap<String, Value> = match &case["variables"] {
        Value::Object(fields) => fields.clone().into_iter().collect(),
        _ => BTreeMap::new(),
    };
    let date = case["date"].as_str().and_then(Date::parse);
    let template = ChatTemplate::new(source, "template", variables, date)?;
    let rendered = template.render_full(&Conversation {
        messages: case["messages"].as_array().map(Vec::as_slice).unwrap_or_default(),
        tools: Some(&case["tools"]).filter(|tools| !tools.is_null()),
        add_generation_prompt: case["add_generation_prompt"] == true,
    })?;
    let ranges =
        rendered.generation.map(|ranges| ranges.iter().map(|r| json!([r.start, r.end])).collect::<Vec<_>>());
    Ok(json!({"text": rendered.text, "generation": ranges}))
}
