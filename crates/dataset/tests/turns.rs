//! Choice of targets, with templates that behave like those of published models.

#![expect(clippy::unwrap_used, reason = "a failing helper fails its test")]

use std::path::Path;

use dataset::{
    ControlTokens, EncodeSettings, Encoded, LossOn, OnRewrittenTurn, RawRow, Record, Shape, TextTokenizer,
    encode,
};
use serde_json::{Value, json};

/// Returns the byte-level tokenizer of a golden case (end of text 1, beginning 2, `<|start|>` 3, `<|end|>` 4) with a template.
fn tokenizer(template: Option<&str>) -> TextTokenizer {
    let golden = testutil::golden("llama").join("tokenizer.json");
    let folder = tempfile::tempdir().unwrap();
    fs_err::copy(golden, folder.path().join("tokenizer.json")).unwrap();
    let config = json!({"bos_token": "<bos>", "eos_token": {"content": "<eos>"}, "chat_template": template});
    fs_err::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    TextTokenizer::open(folder.path()).unwrap()
}

fn record(fields: &Value) -> Record {
    let row = RawRow { line: 1, fields: fields.as_object().unwrap().clone() };
    Record::from_row(row, Path::new("x.jsonl")).unwrap()
}

/// Returns the text of each sequence of targets.
fn trained(tokenizer: &TextTokenizer, encoded: &Encoded) -> Vec<String> {
    let flags = encoded.trained.iter().copied().zip(encoded.tokens.iter().copied()).collect::<Vec<_>>();
    let runs = flags.chunk_by(|left, right| left.0 == right.0).filter(|run| run[0].0 == 1);
    runs.map(|run| tokenizer.decode(&run.iter().map(|&(_, token)| token).collect::<Vec<_>>(), false).unwrap())
        .collect()
}

fn chat(template: &str, messages: &Value) -> (TextTokenizer, Encoded) {
    let tokenizer = tokenizer(Some(template));
    let encoded = encode(&tokenizer, &record(&json!({"messages": messages})), LossOn::Completions).unwrap();
    (tokenizer, encoded)
}

fn two_turns() -> Value {
    json!([
        {"role": "user", "content": "aloha"}, {"role": "assistant", "content": " hello "},
        {"role": "user", "content": "aloha"}, {"role": "assistant", "content": "hello"},
    ])
}

const CHATML: &str = "{% for m in messages %}{{ '<|start|>' + m.role + '\n' + m.content + '<|end|>\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}";

#[test]
fn every_turn_is_a_target_even_when_turns_are_equal() {
    let (tokenizer, encoded) = chat(CHATML, &two_turns());
    assert_eq!(trained(&tokenizer, &encoded), [" hello <|end|>", "hello<|end|>"]);
    assert!(encoded.prompt_is_prefix);
    let prompt = tokenizer.decode(&encoded.tokens[..encoded.prompt_length], false).unwrap();
    assert_eq!(Some(prompt), encoded.prompt);
    assert_eq!(encoded.reference.as_deref(), Some("hello"));
}

#[test]
fn the_asked_message_is_the_last_target_whatever_follows_it() {
    let mut messages = two_turns();
    let asked = |messages: &Value| {
        let (_, encoded) = chat(CHATML, messages);
        (encoded.asked_message, encoded.reference.unwrap_or_default())
    };
    assert_eq!(asked(&messages), (Some(3), "hello".to_owned()));
    messages.as_array_mut().unwrap().push(json!({"role": "user", "content": "mahalo"}));
    assert_eq!(asked(&messages), (Some(3), "hello".to_owned()));
    messages[3]["weight"] = 0.into();
    assert_eq!(asked(&messages), (Some(1), " hello ".to_owned()));
}

#[test]
fn a_template_without_generation_header_trains_what_it_writes_before_the_answer() {
    let template = "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}\
        {% else %}{{ ' ' + m.content.strip() + eos_token }}{% endif %}{% endfor %}";
    let (tokenizer, encoded) = chat(template, &two_turns());
    assert_eq!(trained(&tokenizer, &encoded), [" hello<eos>", " hello<eos>"]);
}

/// The template keeps reasoning only in the last turn, so the first messages alone do not give the beginning of the text.
#[test]
fn turns_are_found_when_the_template_rewrites_history() {
    let template = "{% for m in messages %}{% set c = m.content %}{% if m.role == 'assistant' and not loop.last %}\
        {% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}{{ '<|start|>' + m.role + '\n' + c + '<|end|>\n' }}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}";
    let messages = json!([
        {"role": "user", "content": "1?"}, {"role": "assistant", "content": "<think>\na\n</think>\n\none"},
        {"role": "user", "content": "2?"}, {"role": "assistant", "content": "<think>\nb\n</think>\n\ntwo"},
    ]);
    let (tokenizer, encoded) = chat(template, &messages);
    assert_eq!(trained(&tokenizer, &encoded), ["<think>\nb\n</think>\n\ntwo<|end|>"]);
    assert!(encoded.prompt_is_prefix);
    assert_eq!(encoded.turns.rewritten, 1);
    let settings = EncodeSettings { on_rewritten_turn: OnRewrittenTurn::Train, ..EncodeSettings::default() };
    let encoded = encode(&tokenizer, &record(&json!({"messages": messages})), settings).unwrap();
    assert_eq!(trained(&tokenizer, &encoded), ["one<|end|>", "<think>\nb\n</think>\n\ntwo<|end|>"]);
    let settings = EncodeSettings { on_rewritten_turn: OnRewrittenTurn::Error, ..settings };
    let error = encode(&tokenizer, &record(&json!({"messages": messages})), settings).unwrap_err();
    assert!(error.to_string().contains("message 2"), "{error}");
}

#[test]
fn a_prompt_with_text_that_the_conversation_lacks_is_detected() {
    let template = "{% for m in messages %}{{ '<|start|>' + m.role + '\n' + m.content + '<|end|>' }}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|start|>assistant\n<think>\n' }}{% endif %}";
    let (tokenizer, encoded) = chat(template, &two_turns());
    assert_eq!((trained(&tokenizer, &encoded), encoded.turns.rewritten), (Vec::new(), 2));
    let settings = EncodeSettings { on_rewritten_turn: OnRewrittenTurn::Train, ..EncodeSettings::default() };
    let encoded = encode(&tokenizer, &record(&json!({"messages": two_turns()})), settings).unwrap();
    assert_eq!(trained(&tokenizer, &encoded), [" hello <|end|>", "hello<|end|>"]);
    assert!(!encoded.prompt_is_prefix);
    let prompt = tokenizer.decode(&encoded.tokens[..encoded.prompt_length], false).unwrap();
    assert!(prompt.ends_with("<|start|>assistant\n"), "{prompt}");
}

#[test]
fn tool_calls_are_targets_and_tool_results_are_not() {
    let template = "{% for m in messages %}<|start|>{{ m.role }}\n{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% else %}{{ m.content }}{% endif %}<|end|>\n{% endfor %}\
        {% if add_generation_prompt %}<|start|>assistant\n{% endif %}";
    let messages = json!([
        {"role": "user", "content": "hi"}, {"role": "assistant", "content": null, "tool_calls": [{"name": "f"}]},
        {"role": "tool", "content": "25"}, {"role": "assistant", "content": "warm"},
    ]);
    let (tokenizer, encoded) = chat(template, &messages);
    assert_eq!(trained(&tokenizer, &encoded), ["[{\"name\": \"f\"}]<|end|>", "warm<|end|>"]);
}

#[test]
fn generation_blocks_are_targets_with_the_end_token_after_them() {
    let template = "{% for m in messages %}<|start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}<|end|>\n\
        {%- else %}{{ m.content }}<|end|>{% endif %}{% endfor %}";
    let (tokenizer, encoded) = chat(template, &two_turns());
    assert_eq!(trained(&tokenizer, &encoded), [" hello <|end|>", "hello<|end|>"]);
}

#[test]
fn without_special_tokens_the_text_up_to_the_next_message_ends_a_turn() {
    let template = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n\n' }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
    let messages = json!([
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "bcd"},
        {"role": "user", "content": "e"}, {"role": "assistant", "content": "fgh"},
    ]);
    let (tokenizer, encoded) = chat(template, &messages);
    let runs = trained(&tokenizer, &encoded);
    assert_eq!(runs.iter().map(|run| run.trim_start()).collect::<Vec<_>>(), ["bcd\n\n", "fgh\n\n"]);
}

#[test]
fn loss_on_all_makes_all_but_the_first_token_targets() {
    let tokenizer = tokenizer(Some(CHATML));
    let encoded = encode(&tokenizer, &record(&json!({"messages": two_turns()})), LossOn::All).unwrap();
    assert_eq!(encoded.target_count(), encoded.tokens.len() - 1);
    assert_eq!(encoded.trained[0], 0);
}

#[test]
fn plain_text_is_ended_once() {
    let tokenizer = tokenizer(None);
    let text = |text: &str| encode(&tokenizer, &record(&json!({"text": text})), LossOn::Completions).unwrap();
    let encoded = text("aloha");
    assert_eq!(encoded.tokens.last(), Some(&1));
    assert_eq!(encoded, text("aloha<eos>"));
    assert_eq!(encoded.target_count(), encoded.tokens.len() - 1);
}

#[test]
fn pairs_without_a_template_are_joined() {
    let tokenizer = tokenizer(None);
    let encoded = encode(
        &tokenizer,
        &record(&json!({"prompt": "aloha => ", "completion": "hello"})),
        LossOn::Completions,
    )
    .unwrap();
    let runs = trained(&tokenizer, &encoded);
    assert_eq!(runs.len(), 1);
    assert!(runs[0].ends_with("hello<eos>"), "{runs:?}");
    assert_eq!(tokenizer.decode(&encoded.tokens, false).unwrap(), "aloha => hello<eos>");
    let error =
        encode(&tokenizer, &record(&json!({"messages": two_turns()})), LossOn::Completions).unwrap_err();
    assert!(error.to_string().contains("has no chat template"), "{error}");
}

#[test]
fn a_chat_without_an_answer_has_no_targets() {
    let (_, encoded) = chat(CHATML, &json!([{"role": "user", "content": "aloha"}]));
    assert_eq!(encoded.target_count(), 0);
    assert_eq!(encoded.prompt, None);
}

#[test]
fn named_templates_and_template_files_are_found() {
    let golden = testutil::golden("llama").join("tokenizer.json");
    let folder = tempfile::tempdir().unwrap();
    fs_err::copy(golden, folder.path().join("tokenizer.json")).unwrap();
    let list = json!({"chat_template": [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]});
    fs_err::write(folder.path().join("tokenizer_config.json"), list.to_string()).unwrap();
    let rendered = |tools: Option<&Value>| {
        let tokenizer = TextTokenizer::open(folder.path()).unwrap();
        tokenizer.chat_template_for(tools).unwrap().render(&[], false).unwrap()
    };
    let tools = json!([]);
    assert_eq!((rendered(None), rendered(Some(&tools))), ("d".to_owned(), "t".to_owned()));
    fs_err::write(folder.path().join("chat_template.jinja"), "file").unwrap();
    assert_eq!(rendered(None), "file");
    fs_err::write(folder.path().join("ids.json"), r#"{"bos":null,"eos":[4,1],"pad":0}"#).unwrap();
    let tokenizer = TextTokenizer::open(folder.path()).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (None, &[4, 1][..]));
    fs_err::write(folder.path().join("chat_template.jinja"), "a\n{% for %}").unwrap();
    let error = TextTokenizer::open(folder.path()).unwrap_err().to_string();
    assert!(error.starts_with("chat template `chat_template.jinja` line 2: "), "{error}");
}

#[test]
fn control_tokens_at_the_ends_of_a_text_belong_to_it_but_not_in_messages() {
    let fields = [
        json!({"text": "<bos>a<eos>"}),
        json!({"prompt": "<bos>a", "completion": "b<eos>"}),
        json!({"prompt": "<bos>a", "completion": "b"}),
        json!({"prompt": "a", "completion": "b<eos>"}),
        json!({"prompt": "a<eos>", "completion": "b"}),
        json!({"prompt": "a", "completion": "<bos>b"}),
        json!({"messages": [{"role": "user", "content": "a"}], "tools": [{"name": "<|end|>"}]}),
    ];
    let found = |template: Option<&str>| {
        let tokens = ControlTokens::new(&tokenizer(template));
        fields.each_ref().map(|fields| tokens.find(&record(fields)).is_some())
    };
    assert_eq!(found(None), [false, false, false, false, true, true, true]);
    assert_eq!(found(Some(CHATML)), [false, true, true, true, true, true, true]);
    let tokens = ControlTokens::new(&tokenizer(Some(CHATML)));
    for fields in &fields[1..] {
        let mut record = record(fields);
        tokens.escape(&mut record);
        assert_eq!(tokens.find(&record), None, "{fields}");
    }
    let mut pair = record(&fields[1]);
    ControlTokens::new(&tokenizer(None)).escape(&mut pair);
    assert_eq!(pair.shape, Shape::Completion { prompt: "<bos>a".into(), completion: "b<eos>".into() });
}

#[test]
fn flags_of_messages_that_the_model_does_not_write_are_followed_or_refused() {
    let tokenizer = tokenizer(Some(CHATML));
    let flagged = |system: Value, user: Value, loss_on: LossOn| {
        let mut messages = json!([
            {"role": "system", "content": "E pōkole."},
            {"role": "user", "content": "aloha"},
            {"role": "assistant", "content": "hello"},
        ]);
        for (index, flags) in [system, user].into_iter().enumerate() {
            messages[index].as_object_mut().unwrap().extend(flags.as_object().unwrap().clone());
        }
        let encoded = encode(&tokenizer, &record(&json!({"messages": messages})), loss_on);
        encoded.map(|encoded| (trained(&tokenizer, &encoded), encoded.turns.excluded))
    };
    let answer = "<|start|>assistant\nhello<|end|>\n";
    let question = "<|start|>user\naloha<|end|>\n";
    let (text, excluded) = flagged(json!({"weight": 0}), json!({}), LossOn::All).unwrap();
    assert_eq!((text, excluded), (vec![format!("{question}{answer}")], 1));
    let (text, excluded) = flagged(json!({"train": false}), json!({"masked": true}), LossOn::All).unwrap();
    assert_eq!((text, excluded), (vec![answer.to_owned()], 2));
    let (text, excluded) = flagged(json!({"weight": 0}), json!({"weight": 0}), LossOn::Completions).unwrap();
    assert_eq!((text, excluded), (vec!["hello<|end|>".to_owned()], 0));
    let refused = flagged(json!({}), json!({"train": true}), LossOn::Completions).unwrap_err();
    assert!(refused.to_string().starts_with("message 2 says that it trains"), "{refused}");
    assert!(flagged(json!({}), json!({"train": true}), LossOn::All).is_ok());
}

#[test]
fn a_flag_of_a_message_that_is_written_with_another_is_followed_to_the_letter() {
    let merged = "{% set system = messages[0].content %}{% for m in messages[1:] %}\
        {{ '<|start|>' + m.role + '\n' + (system + '\n\n' if loop.first else '') + m.content + '<|end|>' }}{% endfor %}";
    let tokenizer = tokenizer(Some(merged));
    let messages = json!([
        {"role": "system", "content": "E pōkole.", "weight": 0},
        {"role": "user", "content": "aloha"},
        {"role": "assistant", "content": "hello"},
    ]);
    let encoded = encode(&tokenizer, &record(&json!({"messages": messages})), LossOn::All).unwrap();
    let found = trained(&tokenizer, &encoded).concat();
    assert_eq!(found, "user\n\n\naloha<|end|><|start|>assistant\nhello<|end|>");
}

#[test]
fn ends_of_turns_that_are_cut_off_are_not_counted() {
    let (_, encoded) = chat(CHATML, &two_turns());
    assert_eq!(encoded.turns.ends.iter().map(|end| end.token).collect::<Vec<_>>(), [Some(4), Some(4)]);
    let kept = |length: usize| {
        let mut cut = encoded.clone();
        cut.truncate(length);
        cut.turns.ends.len()
    };
    let first = encoded.turns.ends[0].at;
    assert_eq!([kept(first - 1), kept(first), kept(encoded.tokens.len())], [0, 1, 2]);
}
