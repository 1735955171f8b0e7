//! Targets of many templates and chats: each turn's targets are what the model would have to write, up to its end token.

#![expect(clippy::unwrap_used, reason = "a failing helper fails its test")]

use std::path::Path;

use dataset::{EncodeSettings, Encoded, OnRewrittenTurn, RawRow, Record, TextTokenizer, encode};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Control tokens of the templates; the first ones end answers.
const CONTROLS: [&str; 26] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<end_of_turn>",
    "<|end|>",
    "<｜end▁of▁sentence｜>",
    "<|END_OF_TURN_TOKEN|>",
    "<|end_of_text|>",
    "</s>",
    "<|im_start|>",
    "<|im_sep|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<start_of_turn>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<|START_OF_TURN_TOKEN|>",
    "<|CHATBOT_TOKEN|>",
    "<|USER_TOKEN|>",
    "<|start_of_role|>",
    "<|end_of_role|>",
    "</answer>",
    "<s>",
    "<|return|>",
];
const ENDS: usize = 8;
/// First free id of the tokenizer.
const FIRST_ID: u32 = 384;

/// A tokenizer folder with a template.
struct Folder {
    _folder: TempDir,
    tokenizer: TextTokenizer,
}

fn folder(template: &str, ends: &[&str]) -> Folder {
    let source = fs_err::read_to_string(testutil::golden("llama").join("tokenizer.json")).unwrap();
    let mut tokenizer: Value = serde_json::from_str(&source).unwrap();
    let added = tokenizer["added_tokens"].as_array_mut().unwrap();
    let known: Vec<String> =
        added.iter().map(|token| token["content"].as_str().unwrap().to_owned()).collect();
    for (index, content) in
        CONTROLS.iter().enumerate().filter(|(_, content)| !known.contains(&(**content).to_owned()))
    {
        added.push(
            json!({"id": FIRST_ID + index as u32, "content": content, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}),
        );
    }
    let folder = tempfile::tempdir().unwrap();
    fs_err::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let config = json!({"bos_token": "<s>", "eos_token": "</s>", "chat_template": template});
    fs_err::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let opened = TextTokenizer::open(folder.path()).unwrap();
    let eos: Vec<u32> = ends.iter().map(|end| opened.encode(end, false).unwrap()[0]).collect();
    fs_err::write(folder.path().join("ids.json"), json!({"bos": null, "eos": eos, "pad": null}).to_string())
        .unwrap();
    let tokenizer = TextTokenizer::open(folder.path()).unwrap();
    Folder { _folder: folder, tokenizer }
}

fn encoded(tokenizer: &TextTokenizer, messages: &Value, settings: EncodeSettings) -> Encoded {
    let row = RawRow { line: 1, fields: json!({"messages": messages}).as_object().unwrap().clone() };
    encode(tokenizer, &Record::from_row(row, Path::new("x.jsonl")).unwrap(), settings).unwrap()
}

/// Returns the text of each run of targets.
fn targets(tokenizer: &TextTokenizer, encoded: &Encoded) -> Vec<String> {
    let flags: Vec<(u8, u32)> = encoded.trained.iter().copied().zip(encoded.tokens.iter().copied()).collect();
    flags
        .chunk_by(|left, right| left.0 == right.0)
        .filter(|run| run[0].0 == 1)
        .map(|run| tokenizer.decode(&run.iter().map(|&(_, token)| token).collect::<Vec<_>>(), false).unwrap())
        .collect()
}

fn family_templates() -> Vec<(String, String)> {
    let fixture: Value = serde_json::from_str(include_str!("fixtures/rendered.json")).unwrap();
    let walks = ["attribute", "item", "index", "slice", "macro"];
    let all = fixture["templates"].as_object().unwrap().clone();
    all.into_iter()
        .filter(|(name, _)| walks.iter().any(|walk| name.ends_with(&format!("-{walk}"))))
        .map(|(name, source)| (name, source.as_str().unwrap().to_owned()))
        .collect()
}

fn chats() -> Vec<Value> {
    let user = |text: &str| json!({"role": "user", "content": text});
    let assistant = |text: &str| json!({"role": "assistant", "content": text});
    vec![
        json!([user("a"), assistant("b")]),
        json!([
            user("a"),
            assistant("the same"),
            user("a"),
            assistant("the same"),
            user("a"),
            assistant("the same")
        ]),
        json!([user("q"), assistant("<answer>42</answer>")]),
        json!([user("q"), assistant("<answer>4</answer>"), user("q"), assistant("so </answer> it is")]),
        json!([user("e"), assistant("e"), user("n"), assistant("end")]),
        json!([user("a"), assistant("line\nline\n\nline"), user("ʻo"), assistant("ʻae, 🌊")]),
        json!([user("assistant\nb"), assistant("user\na")]),
    ]
}

/// The text that the template writes for a turn is the rendered chat up to the turn without the prompt that asks for it.
#[test]
fn targets_are_what_follows_the_prompt_up_to_the_end_token() {
    let mut turns = 0;
    for (name, source) in family_templates() {
        for known in [true, false] {
            let ends: &[&str] = if known { &CONTROLS[..ENDS] } else { &["<|return|>"] };
            let Folder { tokenizer, _folder } = folder(&source, ends);
            let template = tokenizer.chat_template().unwrap();
            for messages in chats() {
                let all = messages.as_array().unwrap();
                let full = template.render(all, false).unwrap();
                let mut expected = Vec::new();
                for index in (1..all.len()).step_by(2) {
                    let prompt = template.render(&all[..index], true).unwrap();
                    let through = template.render(&all[..=index], false).unwrap();
                    if !full.starts_with(&prompt) || !full.starts_with(through.trim_end()) {
                        continue;
                    }
                    let written = through.trim_end()[prompt.len()..].to_owned();
                    expected.push(written);
                    turns += 1;
                }
                let found = encoded(&tokenizer, &messages, EncodeSettings::default());
                let found_targets = targets(&tokenizer, &found);
                let label = format!("{name} on {messages}");
                if expected.len() == all.len() / 2 {
                    let trimmed: Vec<&str> = found_targets.iter().map(|text| text.trim_end()).collect();
                    assert_eq!(trimmed, expected, "{label}");
                    assert_eq!(found.turns.ends.len(), expected.len(), "{label}");
                }
                assert_eq!(found.turns.rewritten, 0, "{label}");
            }
        }
    }
    assert!(turns > 1000, "only {turns} turns were compared");
}

/// Reasoning that a template drops is not learned away, and empty blocks make no difference.
#[test]
fn turns_without_their_reasoning_are_no_targets() {
    let template = "{%- set ns = namespace(last=-1) %}{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}\
        {%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' }}{%- if m.role == 'assistant' and loop.index0 > ns.last and (loop.last or m.reasoning_content) %}\
        {{- '<think>\n' + (m.reasoning_content or '') + '\n</think>\n\n' }}{%- endif %}{{- m.content or '' }}\
        {%- for c in m.tool_calls or [] %}{{- '<tool_call>' + (c.function | tojson) + '</tool_call>' }}{%- endfor %}{{- '<|im_end|>\n' }}{%- endfor %}\
        {%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}";
    let Folder { tokenizer, _folder } = folder(template, &["<|im_end|>"]);
    let user = json!({"role": "user", "content": "q"});
    let thinks = json!({"role": "assistant", "content": "a", "reasoning_content": "because"});
    let answers = json!({"role": "assistant", "content": "b"});
    let call = json!({"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]});
    let thinking_call = json!({"role": "assistant", "content": "", "reasoning_content": "look", "tool_calls": [{"function": {"name": "f", "arguments": "{\"x\": 1}"}}]});
    let result = json!({"role": "tool", "content": "1"});
    let call_text = "<tool_call>{\"name\": \"f\", \"arguments\": {\"x\": 1}}</tool_call><|im_end|>";
    let cases: [(Value, Vec<String>, usize); 6] = [
        (json!([user, thinks, user, thinks]), vec!["<think>\nbecause\n</think>\n\na<|im_end|>".into()], 1),
        (
            json!([user, answers, user, answers]),
            vec!["b<|im_end|>".into(), "<think>\n\n</think>\n\nb<|im_end|>".into()],
            0,
        ),
        (
            json!([user, call, result, answers]),
            vec![call_text.into(), "<think>\n\n</think>\n\nb<|im_end|>".into()],
            0,
        ),
        (
            json!([user, thinking_call, result, thinks]),
            vec![
                format!("<think>\nlook\n</think>\n\n{call_text}"),
                "<think>\nbecause\n</think>\n\na<|im_end|>".into(),
            ],
            0,
        ),
        (
            json!([user, thinking_call, result, thinks, user, answers]),
            vec!["<think>\n\n</think>\n\nb<|im_end|>".into()],
            2,
        ),
        (json!([user, thinks, user]), vec![], 1),
    ];
    for (messages, expected, rewritten) in cases {
        let found = encoded(&tokenizer, &messages, EncodeSettings::default());
        assert_eq!((targets(&tokenizer, &found), found.turns.rewritten), (expected, rewritten), "{messages}");
        let all = EncodeSettings { on_rewritten_turn: OnRewrittenTurn::Train, ..EncodeSettings::default() };
        let found = encoded(&tokenizer, &messages, all);
        let turns =
            messages.as_array().unwrap().iter().filter(|message| message["role"] == "assistant").count();
        assert_eq!(targets(&tokenizer, &found).len(), turns, "{messages}");
    }
}

/// Flags of messages decide whatever the template is.
#[test]
fn flagged_turns_are_no_targets_in_any_template() {
    for (name, source) in family_templates() {
        let Folder { tokenizer, _folder } = folder(&source, &CONTROLS[..ENDS]);
        for flag in
            [json!({"weight": 0}), json!({"train": false}), json!({"training": 0}), json!({"masked": true})]
        {
            let mut answer = json!({"role": "assistant", "content": "first"});
            answer.as_object_mut().unwrap().extend(flag.as_object().unwrap().clone());
            let messages = json!([{"role": "user", "content": "a"}, answer, {"role": "user", "content": "b"},
                {"role": "assistant", "content": "second", "weight": 1}]);
            let found = encoded(&tokenizer, &messages, EncodeSettings::default());
            let texts = targets(&tokenizer, &found);
            assert!(texts.len() == 1 && texts[0].contains("second"), "{name} with {flag}: {texts:?}");
            assert_eq!(found.turns.excluded, 1, "{name} with {flag}");
        }
    }
}

/// Values of tool calls reach the text in the form that the template writes, whichever form the data has.
#[test]
fn arguments_are_written_once_in_every_form_that_data_has() {
    let templates = [
        "{{ c.function | tojson }}",
        "{{ '{\"name\": \"' + c.function.name + '\", \"arguments\": ' }}{{ c.function.arguments | tojson }}{{ '}' }}",
        "{{ '{\"name\": \"' + c.function.name + '\", \"arguments\": ' + c.function.arguments + '}' }}",
        "{{ '{\"name\": \"' ~ c.function.name ~ '\", \"arguments\": ' ~ c.function.arguments ~ '}' }}",
        "{{ '{\"name\": \"' + c.function.name + '\", \"arguments\": ' }}{% if c.function.arguments is string %}{{ c.function.arguments }}{% else %}{{ c.function.arguments | tojson }}{% endif %}{{ '}' }}",
        "{{ '{\"name\": \"' + c.function.name + '\", \"arguments\": {' }}{% for k, v in c.function.arguments.items() %}{{ k | tojson }}: {{ v | tojson }}{% if not loop.last %}, {% endif %}{% endfor %}{{ '}}' }}",
        "{{ '%s' % ({'name': c.function.name, 'arguments': c.function.arguments} | tojson) }}",
    ];
    for body in templates {
        let template = format!(
            "{{% for m in messages %}}<|im_start|>{{{{ m.role }}}}\n{{% if m.tool_calls %}}{{% for c in m.tool_calls %}}{body}{{% endfor %}}{{% else %}}{{{{ m.content }}}}{{% endif %}}<|im_end|>\n{{% endfor %}}{{% if add_generation_prompt %}}<|im_start|>assistant\n{{% endif %}}"
        );
        let Folder { tokenizer, _folder } = folder(&template, &["<|im_end|>"]);
        for (arguments, expected) in [
            (json!({"bay": "Hilo", "n": 1}), "{\"bay\": \"Hilo\", \"n\": 1}"),
            (json!("{\"bay\": \"Hilo\", \"n\": 1}"), "{\"bay\": \"Hilo\", \"n\": 1}"),
            (json!({}), "{}"),
            (json!(null), "{}"),
            (json!(""), "{}"),
        ] {
            let messages = json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": null, "tool_calls": [
                {"type": "function", "function": {"name": "tide", "arguments": arguments}}]}]);
            let found = encoded(&tokenizer, &messages, EncodeSettings::default());
            let text = format!("{{\"name\": \"tide\", \"arguments\": {expected}}}<|im_end|>");
            assert_eq!(targets(&tokenizer, &found), [text], "{body} with {arguments}");
        }
    }
}

/// A template that leaves a call or a part out, or writes it as Python would, is refused.
#[test]
fn values_that_a_template_loses_are_refused() {
    let call = json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": null, "tool_calls": [
        {"type": "function", "function": {"name": "tide", "arguments": {"bay": "Hilo"}}}]}]);
    let parts = json!([{"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": "b"}]);
    let object = json!([{"role": "user", "content": "q"}, {"role": "tool", "content": {"m": 1}}, {"role": "assistant", "content": "b"}]);
    let chatml = "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' }}{% endfor %}";
    let repr = "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}{{ c }}{% endfor %}<|im_end|>{% endfor %}";
    let dump = "{% for m in messages %}{{ m.content | tojson }}<|im_end|>{% endfor %}";
    for (source, messages, word) in [
        (chatml, &call, "tool call"),
        (repr, &call, "arguments"),
        (chatml, &parts, "content"),
        (repr, &parts, "content"),
        (dump, &parts, "content"),
        (chatml, &object, "content"),
    ] {
        let Folder { tokenizer, _folder } = folder(source, &["<|im_end|>"]);
        let row = RawRow { line: 1, fields: json!({"messages": messages}).as_object().unwrap().clone() };
        let record = Record::from_row(row, Path::new("x.jsonl")).unwrap();
        let error = encode(&tokenizer, &record, EncodeSettings::default()).unwrap_err();
        assert!(error.to_string().contains(word), "{source}: {error}");
    }
    // One part has one meaning.
    let one = json!([{"role": "user", "content": [{"type": "text", "text": "one"}]}, {"role": "assistant", "content": ["b"]}]);
    let Folder { tokenizer, _folder } = folder(chatml, &["<|im_end|>"]);
    let found = encoded(&tokenizer, &one, EncodeSettings::default());
    assert!(tokenizer.decode(&found.tokens, false).unwrap().contains("user\none<|im_end|>"));
}
