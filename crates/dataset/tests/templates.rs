//! Chat templates render the same text as transformers, whose results are in `fixtures/templates.json`.

#![expect(clippy::unwrap_used, reason = "a failing helper fails its test")]

use std::collections::BTreeMap;

use dataset::{ChatTemplate, Conversation, Date, Error};
use insta::assert_snapshot;
use serde_json::{Value, json};

fn template(source: &str) -> ChatTemplate {
    let tokens = BTreeMap::from([("bos_token".into(), "<s>".into()), ("eos_token".into(), "</s>".into())]);
    ChatTemplate::new(source, "chat_template.jinja", tokens, None).unwrap()
}

fn fixture() -> Value {
    serde_json::from_str(include_str!("fixtures/templates.json")).unwrap()
}

#[test]
fn texts_and_generated_ranges_equal_those_of_transformers() {
    let fixture = fixture();
    let mut different = Vec::new();
    for case in fixture["cases"].as_array().unwrap() {
        let name = case["template"].as_str().unwrap();
        let messages = fixture["messages"][case["messages"].as_str().unwrap()].as_array().unwrap();
        let rendered = template(fixture["templates"][name].as_str().unwrap()).render_full(&Conversation {
            messages,
            tools: (case["tools"] == true).then_some(&fixture["tools"]),
            add_generation_prompt: case["add_generation_prompt"] == true,
        });
        let label = format!("{name} on {} (prompt {})", case["messages"], case["add_generation_prompt"]);
        match (rendered, case["text"].as_str()) {
            (Err(_), None) => {}
            (Ok(rendered), Some(expected)) => {
                if rendered.text != expected {
                    different.push(format!("{label}:\n{}\n--- expected\n{expected}\n", rendered.text));
                }
                let ranges = rendered
                    .generation
                    .map(|ranges| ranges.iter().map(|r| json!([r.start, r.end])).collect());
                if ranges.unwrap_or(Value::Null) != case["generation"] {
                    different.push(format!("{label}: other generated ranges"));
                }
            }
            (Ok(rendered), None) => {
                different.push(format!("{label}: expected a refusal, got {}", rendered.text));
            }
            (Err(error), Some(_)) => different.push(format!("{label}: {error}")),
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn a_syntax_error_names_the_line() {
    let error = ChatTemplate::new("ok\n{% if %}x{% endif %}", "chat_template.jinja", BTreeMap::new(), None)
        .unwrap_err();
    assert!(matches!(error, Error::Template { line: 2, .. }), "{error}");
    assert_snapshot!(failure::Error::from(error).report(), @"
    error: chat template `chat_template.jinja` line 2: syntax error: unexpected end of block
    hint: correct the template in the tokenizer folder
    ");
}

#[test]
fn a_refusal_names_the_line_and_what_the_template_says() {
    let template =
        template("a\n\n{% if messages|length > 1 %}\n{{ raise_exception('only one message') }}{% endif %}");
    let message = json!({"role": "user", "content": "x"});
    assert_eq!(template.render(std::slice::from_ref(&message), false).unwrap(), "a\n\n");
    let error = template.render(&[message.clone(), message], false).unwrap_err();
    assert_snapshot!(failure::Error::from(error).report(), @"
    error: chat template `chat_template.jinja` line 4: only one message
    hint: change the messages to what the template accepts, or change the template
    ");
}

#[test]
fn endless_templates_are_stopped() {
    let loops = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}";
    let error = template(loops).render(&[], false).unwrap_err();
    assert_snapshot!(failure::Error::from(error).report(), @"
    error: chat template `chat_template.jinja` line 1: it works too long, perhaps without end
    hint: check the loops of the template in the tokenizer folder
    ");
    let long = "{% for a in range(9999) %}{{ 'x' * 99999 }}{% endfor %}";
    assert!(template(long).render(&[], false).is_err());
}

#[test]
fn a_date_is_printed_only_if_one_is_set() {
    let source = "{{ strftime_now('%d %b %Y') }}";
    let error = template(source).render(&[], false).unwrap_err();
    assert_snapshot!(failure::Error::from(error).report(), @r#"
    error: chat template `chat_template.jinja` line 1: it prints today's date, which would make every day's data different
    hint: fix the date with the setting `template_date = "YYYY-MM-DD"`
    "#);
    let dated = ChatTemplate::new(source, "x", BTreeMap::new(), Date::parse("2024-07-26")).unwrap();
    assert_eq!(dated.render(&[], false).unwrap(), "26 Jul 2024");
    assert_eq!(template("{{ strftime_now is defined }}").render(&[], false).unwrap(), "False");
}
