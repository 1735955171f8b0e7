//! Templates in the style of published models render as in transformers, whose texts are in `fixtures/rendered.json`.

#![expect(clippy::unwrap_used, reason = "a failing helper fails its test")]

use std::collections::BTreeMap;

use dataset::{ChatTemplate, Conversation, Date, Rendered, Result};
use serde_json::{Value, json};

fn fixture() -> Value {
    serde_json::from_str(include_str!("fixtures/rendered.json")).unwrap()
}

fn render(
    source: &str,
    arguments: &Value,
    messages: &Value,
    tools: Option<&Value>,
    add_generation_prompt: bool,
) -> Result<Rendered> {
    let mut variables: BTreeMap<String, Value> =
        [("bos_token", "<s>"), ("eos_token", "</s>")].map(|(name, token)| (name.into(), token.into())).into();
    variables.extend(arguments.as_object().unwrap().clone());
    let template = ChatTemplate::new(source, "template", variables, Date::parse("2024-07-26"))?;
    let messages = messages.as_array().unwrap();
    template.render_full(&Conversation { messages, tools, add_generation_prompt })
}

/// Describes how a rendering differs from the expected one.
fn difference(label: &str, rendered: Result<Rendered>, expected: &Value) -> Option<String> {
    match (rendered, expected["text"].as_str()) {
        (Err(_), None) => None,
        (Err(error), Some(_)) => Some(format!("{label}: {error}")),
        (Ok(rendered), None) => Some(format!("{label}: expected a refusal, got {:?}", rendered.text)),
        (Ok(rendered), Some(text)) => {
            let ranges = rendered.generation.map(|all| all.iter().map(|r| json!([r.start, r.end])).collect());
            let same = rendered.text == text && ranges.unwrap_or(Value::Null) == expected["generation"];
            (!same).then(|| format!("{label}:\n{:?}\n{text:?}", rendered.text))
        }
    }
}

#[test]
fn constructs_of_the_language_render_as_in_transformers() {
    let fixture = fixture();
    let cases = fixture["constructs"].as_array().unwrap();
    assert!(cases.len() > 800);
    let different: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            let source = case["template"].as_str().unwrap();
            let rendered = render(source, &fixture["variables"], &fixture["chats"]["system"], None, false);
            difference(source, rendered, case)
        })
        .collect();
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn templates_in_the_style_of_published_models_render_as_in_transformers() {
    let fixture = fixture();
    let cases = fixture["pairs"].as_array().unwrap();
    assert!(cases.len() > 300 && fixture["templates"].as_object().unwrap().len() > 100);
    let different: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            let (template, chat) = (case["template"].as_str().unwrap(), case["chat"].as_str().unwrap());
            let rendered = render(
                fixture["templates"][template].as_str().unwrap(),
                &case["arguments"],
                &fixture["chats"][chat],
                (case["tools"] == true).then_some(&fixture["tools"]),
                case["add_generation_prompt"] == true,
            );
            difference(&format!("{template} on {chat}"), rendered, case)
        })
        .collect();
    assert!(different.is_empty(), "{}", different.join("\n"));
}
