//! Situations that users of other tools have reported, tried on the built programs: chats, their targets and their ends.

#![expect(clippy::unwrap_used, reason = "a failing helper fails its test")]

use std::path::{Path, PathBuf};

use dataset::{Split, TextTokenizer};
use outputs::{Document as _, Stats};
use serde_json::{Value, json};
use testutil::{Program, Ran, Sandbox, golden};

const ALL: &str = "split={ by = \"ratio\", validation = 0.0, test = 0.0, seed = 0 }";
const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
/// Writes reasoning only after the last question, and an empty block into the last turn.
const THINKING: &str = "{%- set last = namespace(question=-1) %}{%- for m in messages %}{%- if m.role == 'user' %}{%- set last.question = loop.index0 %}{%- endif %}{%- endfor %}\
    {%- for m in messages %}{{- '<|im_start|>' + (m.role if m.role != 'tool' else 'user') + '\n' }}\
    {%- if m.role == 'assistant' and (loop.last or m.reasoning_content and loop.index0 > last.question) %}{{- '<think>\n' + (m.reasoning_content or '') + '\n</think>\n\n' }}{%- endif %}\
    {{- m.content or '' }}{%- for c in m.tool_calls or [] %}{{- '<call>' + (c.function | tojson) + '</call>' }}{%- endfor %}{{- '<|im_end|>\n' }}{%- endfor %}\
    {%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}";

/// A tokenizer folder in a sandbox.
struct Case {
    sandbox: Sandbox,
}

impl Case {
    /// Makes a copy of a golden tokenizer with more control tokens and another template.
    fn new(tokens: &[&str], config: &Value) -> Self {
        let sandbox = Sandbox::new();
        let source = fs_err::read_to_string(golden("llama").join("tokenizer.json")).unwrap();
        let mut tokenizer: Value = serde_json::from_str(&source).unwrap();
        for (index, content) in tokens.iter().enumerate() {
            let token = json!({"id": 384 + index, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true});
            tokenizer["added_tokens"].as_array_mut().unwrap().push(token);
        }
        sandbox.write("tokenizer/tokenizer.json", tokenizer.to_string());
        let source = fs_err::read_to_string(golden("llama").join("tokenizer_config.json")).unwrap();
        let mut settings: Value = serde_json::from_str(&source).unwrap();
        settings.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
        sandbox.write("tokenizer/tokenizer_config.json", settings.to_string());
        Self { sandbox }
    }

    fn prepare(&self, rows: &[Value], settings: &[&str]) -> Ran {
        let lines: Vec<String> = rows.iter().map(|row| format!("{row}\n")).collect();
        let data = self.sandbox.write("rows.jsonl", lines.concat());
        let mut program = Program::built("prepare-data");
        program.arg("--tokenizer").arg(self.sandbox.join("tokenizer")).arg("--data").arg(data);
        program.arg("--store").arg(self.sandbox.store()).args(["--set", ALL]);
        for setting in settings {
            program.args(["--set", setting]);
        }
        program.run()
    }

    /// Prepares chats and returns the texts of the targets of each row.
    fn targets(&self, chats: &[Value], settings: &[&str]) -> Vec<Vec<String>> {
        let rows: Vec<Value> = chats.iter().map(|messages| json!({"messages": messages})).collect();
        targets(&self.prepare(&rows, settings).path())
    }
}

/// Returns the texts of the targets of each training row.
fn targets(artifact: &Path) -> Vec<Vec<String>> {
    let tokenizer = TextTokenizer::open(&artifact.join("data/tokenizer")).unwrap();
    let split = Split::open(&artifact.join("data/tokens/train.safetensors")).unwrap();
    let of_row = |row: usize| {
        let row = split.row(row);
        let flags: Vec<(u8, u32)> = row.trained.iter().copied().zip(row.tokens.iter().copied()).collect();
        let runs = flags.chunk_by(|left, right| left.0 == right.0).filter(|run| run[0].0 == 1);
        let text = |run: &[(u8, u32)]| {
            tokenizer.decode(&run.iter().map(|&(_, token)| token).collect::<Vec<_>>(), false).unwrap()
        };
        runs.map(text).collect()
    };
    (0..split.len()).map(of_row).collect()
}

fn stats(artifact: &Path) -> Stats {
    Stats::read(&artifact.join("data/stats.json")).unwrap()
}

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

fn assistant(text: &str) -> Value {
    json!({"role": "assistant", "content": text})
}

fn call(content: &Value, arguments: &Value) -> Value {
    let function = json!({"name": "wind", "arguments": arguments});
    json!({"role": "assistant", "content": content, "tool_calls": [{"type": "function", "function": function}]})
}

#[test]
fn calls_in_earlier_turns_are_targets_whatever_their_content_is() {
    let case = Case::new(
        &["<|im_start|>", "<|im_end|>"],
        &json!({"chat_template": THINKING, "eos_token": "<|im_end|>"}),
    );
    let result = json!({"role": "tool", "content": "NE 12"});
    let chat = |content: Value| {
        json!([user("Wind?"), call(&content, &json!({"at": "Kailua"})), result, assistant("NE.")])
    };
    let called = "<call>{\"name\": \"wind\", \"arguments\": {\"at\": \"Kailua\"}}</call><|im_end|>";
    let last = "<think>\n\n</think>\n\nNE.<|im_end|>".to_owned();
    let found = case.targets(&[chat(json!("")), chat(json!(null)), chat(json!("I look."))], &[]);
    assert_eq!(found[0], [called.to_owned(), last.clone()]);
    assert_eq!(found[1], [called.to_owned(), last.clone()]);
    assert_eq!(found[2], [format!("I look.{called}"), last]);
}

#[test]
fn a_turn_ends_with_its_end_token_even_after_another_control_token() {
    let template = CHATML.replace("<|im_start|>", "<|start|>").replace("<|im_end|>", "<|end|>");
    let case = Case::new(&["<done>", "</done>"], &json!({"chat_template": template}));
    let chats = [json!([user("2 + 3?"), assistant("<done>5</done>"), user("1?"), assistant("</done>")])];
    assert_eq!(case.targets(&chats, &[]), [["<done>5</done><|end|>", "</done><|end|>"]]);
}

#[test]
fn an_empty_answer_is_its_end_token() {
    let case = Case::new(&[], &json!({}));
    let found = case.targets(&[json!([user("a"), assistant("")]), json!([user("b"), assistant("c")])], &[]);
    assert_eq!(found[0], ["<|end|>"]);
}

#[test]
fn reasoning_that_the_template_drops_is_not_learned_away() {
    let case = Case::new(
        &["<|im_start|>", "<|im_end|>"],
        &json!({"chat_template": THINKING, "eos_token": "<|im_end|>"}),
    );
    let thinks =
        |text: &str, why: &str| json!({"role": "assistant", "content": text, "reasoning_content": why});
    let rows =
        [json!({"messages": [user("1 + 1?"), thinks("2", "count"), user("+ 1?"), thinks("3", "add")]})];
    let ran = case.prepare(&rows, &[]);
    assert_eq!(targets(&ran.path()), [["<think>\nadd\n</think>\n\n3<|im_end|>"]]);
    assert_eq!(stats(&ran.path()).splits["train"].rewritten_turns.count, 1);
    ran.says(&["reasoning", "on_rewritten_turn", "rows.jsonl:1"]);
    assert_eq!(targets(&case.prepare(&rows, &["on_rewritten_turn=\"train\""]).path())[0].len(), 2);
    case.prepare(&rows, &["on_rewritten_turn=\"error\""]).failed(65);
}

#[test]
fn messages_that_say_so_are_no_targets() {
    let case = Case::new(&[], &json!({}));
    let flagged = |key: &str, value: Value| {
        let mut message = assistant("no");
        message[key] = value;
        json!([user("a"), message, user("b"), assistant("yes")])
    };
    let chats =
        [flagged("weight", json!(0)), flagged("train", json!(false)), flagged("training", json!(false))];
    assert_eq!(case.targets(&chats, &[]), [["yes<|end|>"]; 3]);
    let unclear = [json!({"messages": flagged("loss_scale", json!(0.3))})];
    case.prepare(&unclear, &[]).says(&["rows.jsonl:1", "loss_scale", "hint: "]);
}

#[test]
fn parts_are_text_or_refused_by_name() {
    let case =
        Case::new(&[], &json!({"chat_template": CHATML.replace(" + m.content + ", " ~ m.content ~ ")}));
    let part = |text: &str| json!({"type": "text", "text": text});
    let answer = json!({"role": "assistant", "content": [part("Four.")]});
    assert!(case.targets(&[json!([user("2 + 2?"), answer])], &[])[0][0].starts_with("Four."));
    for (bad, word) in [
        (json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}), "image_url"),
        (json!({"type": "input_audio", "input_audio": {"data": "AAAA"}}), "input_audio"),
        (json!({"type": "video"}), "video"),
    ] {
        let rows = [json!({"messages": [{"role": "user", "content": [part("What?"), bad]}, assistant("x")]})];
        let ran = case.prepare(&rows, &[]);
        ran.failed(65);
        ran.says(&["rows.jsonl:1", word, "hint: "]);
    }
    let two = [json!({"messages": [{"role": "user", "content": [part("a"), part("b")]}, assistant("x")]})];
    case.prepare(&two, &[]).failed(65);
}

#[test]
fn arguments_as_json_text_are_an_object_for_a_template_that_dumps_them() {
    let template = "{% for m in messages %}{{ '<|start|>' + m.role + '\n' }}{% if m.tool_calls %}{% for c in m.tool_calls %}\
        {{ c.function.name + ' ' }}{{ c.function.arguments | tojson }}{% endfor %}{% else %}{{ m.content }}{% endif %}{{ '<|end|>\n' }}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}";
    let case = Case::new(&[], &json!({"chat_template": template}));
    let chat = |arguments: Value| json!([user("?"), call(&json!(null), &arguments)]);
    let found =
        case.targets(&[chat(json!("{\"at\": \"Hana\"}")), chat(json!({"at": "Hana"})), chat(json!(""))], &[]);
    assert_eq!(
        found,
        [["wind {\"at\": \"Hana\"}<|end|>"], ["wind {\"at\": \"Hana\"}<|end|>"], ["wind {}<|end|>"]]
    );
    let broken = [json!({"messages": chat(json!("at Hana"))})];
    case.prepare(&broken, &[]).says(&["rows.jsonl:1", "arguments", "hint: "]);
}

#[test]
fn a_template_may_ask_whether_no_tools_are_iterable() {
    let template = "{%- if tools is iterable and tools | length > 0 %}{{- 'TOOLS' }}{%- endif %}{%- for m in messages %}{{- m.role + '=' + m.content + '<|end|>\n' }}{%- endfor %}";
    let case = Case::new(&[], &json!({"chat_template": template}));
    let found = case.targets(&[json!([user("E"), assistant("Ae")])], &["loss_on=\"all\""]);
    assert!(found[0].concat().ends_with("=E<|end|>\nassistant=Ae<|end|>\n"), "{found:?}");
}

#[test]
fn a_row_that_the_template_refuses_is_named_with_the_words_of_the_template() {
    let sandbox = Sandbox::new();
    let data = sandbox.write(
        "rows.jsonl",
        format!("{}\n", json!({"messages": [assistant("E komo mai"), user("Aloha"), assistant("Aloha")]})),
    );
    let mut program = Program::built("prepare-data");
    program.arg("--tokenizer").arg(golden("gemma3_text")).arg("--data").arg(data);
    let ran = program.arg("--store").arg(sandbox.store()).args(["--set", ALL]).run();
    ran.failed(65);
    ran.says(&["rows.jsonl:1", "alternate", "hint: "]);
}

#[test]
fn rows_with_tools_use_the_template_for_tools() {
    let named = json!([
        {"name": "default", "template": CHATML},
        {"name": "tool_use", "template": format!("{{{{ tools[0].function.name }}}} {CHATML}")},
    ]);
    let case = Case::new(&[], &json!({"chat_template": named}));
    let chat = json!([user("a"), assistant("b")]);
    let tools = json!([{"type": "function", "function": {"name": "wind", "parameters": {}}}]);
    let rows = [
        json!({"messages": chat}),
        json!({"messages": chat, "tools": tools}),
        json!({"messages": chat, "tools": tools.to_string()}),
    ];
    let found = targets(&case.prepare(&rows, &["loss_on=\"all\""]).path());
    // The first token of a row is never a target.
    assert!(
        found[0].concat().ends_with("im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"),
        "{found:?}"
    );
    assert!(found[1].concat().contains("d <|im_start|>user") && found[2] == found[1], "{found:?}");
}

#[test]
fn template_arguments_change_the_text_and_the_key_and_are_handed_on() {
    let template = CHATML.replace("assistant\n' }}{% endif %}", "assistant\n' }}{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}");
    let case = Case::new(
        &["<|im_start|>", "<|im_end|>"],
        &json!({"chat_template": template, "eos_token": "<|im_end|>"}),
    );
    let rows = [json!({"messages": [user("a"), assistant("<think>\n\n</think>\n\nb")]})];
    let plain = case.prepare(&rows, &[]).path();
    let without = case.prepare(&rows, &["template_arguments={ enable_thinking = false }"]).path();
    assert_ne!(plain, without);
    assert_eq!(targets(&plain), [["<think>\n\n</think>\n\nb<|im_end|>"]]);
    assert_eq!(targets(&without), [["b<|im_end|>"]]);
    let tokenizer = TextTokenizer::open(&without.join("data/tokenizer")).unwrap();
    let asked = tokenizer.chat_template().unwrap().render(&[user("a")], true).unwrap();
    assert!(asked.ends_with("<think>\n\n</think>\n\n"), "{asked}");
}

/// A model that ends its texts with another token than the template ends turns with.
#[test]
fn answers_stop_at_the_end_of_a_turn_though_the_model_names_another_end_token() {
    let sandbox = Sandbox::new();
    let folder = sandbox.join("base");
    testutil::files::copy_files(&golden("llama"), &folder);
    let config = folder.join("config.json");
    let mut settings: Value = serde_json::from_str(&fs_err::read_to_string(&config).unwrap()).unwrap();
    settings["eos_token_id"] = json!(1);
    fs_err::remove_file(&config).unwrap();
    fs_err::write(&config, settings.to_string()).unwrap();
    let model = sandbox.model(&folder.to_string_lossy());
    let row = json!({"messages": [user("say hello"), assistant("hello world")]});
    let data = sandbox.write("rows.jsonl", format!("{row}\n").repeat(16));
    let mut program = Program::built("prepare-data");
    program.args(["--tokenizer", &model, "--data"]).arg(data).arg("--store").arg(sandbox.store());
    program.args(["--set", "split={ by = \"ratio\", validation = 0.2, test = 0.2, seed = 0 }"]);
    let prepared = program.args(["--set", "on_leak=\"allow\""]).run();
    prepared.says(&["`<|end|>` (4)", "not an end token"]);
    let dataset = prepared.path_text();
    let inputs = ["--model", &model, "--dataset", &dataset];
    let train = sandbox.make("train", &[&inputs[..], &["--set", "train.steps=2"]].concat());
    let losses = sandbox.make("validate", &[&inputs[..], &["--train", &train]].concat());
    let best = sandbox.make("select-best", &["--train", &train, "--validate", &losses]);
    let fused =
        PathBuf::from(sandbox.make(
            "fuse",
            &[&inputs[..], &["--adapters", &best, "--set", "fuse.max_loss_increase=9"]].concat(),
        ));
    for file in ["config.json", "generation_config.json"] {
        let text = fs_err::read_to_string(fused.join("data/model").join(file)).unwrap();
        let settings: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(settings["eos_token_id"], json!([1, 4]), "{file}");
    }
    for folder in [fused.join("data/model"), Path::new(&dataset).join("data/tokenizer")] {
        assert_eq!(TextTokenizer::open(&folder).unwrap().eos(), [1, 4]);
    }
    assert!(Path::new(&best).join("data/adapters/chat.json").is_file());
}
