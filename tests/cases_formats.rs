//! Files as other tools write them: functions from before there were tools, preference data, saved datasets, columns, marks in
//! front of a file, templates in a folder of their own.

#![expect(clippy::unwrap_used, reason = "a failing helper fails its test")]

use std::path::{Path, PathBuf};
use std::process::Command;

use dataset::{Split, TextTokenizer};
use outputs::{Document as _, Stats};
use serde_json::{Value, json};
use testutil::{Program, Ran, Sandbox, files, golden};

const ALL: &str = "split={ by = \"ratio\", validation = 0.0, test = 0.0, seed = 0 }";
const SHARED: &str = "split={ by = \"ratio\", validation = 0.2, test = 0.0, seed = 0 }";
/// Writes tools, calls and results, but no message of another role.
const WITH_TOOLS: &str = "{%- for t in tools or [] %}{{- '[' + t.function.name + ']' }}{%- endfor %}\
    {%- for m in messages %}{%- if m.role in ['system', 'user', 'tool'] %}{{- '<|start|>' + m.role + '\n' + m.content + '<|end|>\n' }}\
    {%- elif m.role == 'assistant' %}{{- '<|start|>assistant\n' + (m.content or '') }}\
    {%- for c in m.tool_calls or [] %}{{- c.function.name + '(' + (c.function.arguments | tojson) + ')' }}{%- endfor %}{{- '<|end|>\n' }}{%- endif %}\
    {%- endfor %}{%- if add_generation_prompt %}{{- '<|start|>assistant\n' }}{%- endif %}";
const WITHOUT_TOOLS: &str = "{% for m in messages %}{{ '<|start|>' + m.role + '\n' + m.content + '<|end|>\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}";

/// Copies a golden model, with another chat template.
fn model(sandbox: &Sandbox, template: &str) -> PathBuf {
    let folder = sandbox.join("model");
    files::copy_files(&golden("llama"), &folder);
    fs_err::write(folder.join("chat_template.jinja"), template).unwrap();
    folder
}

fn prepare(sandbox: &Sandbox, tokenizer: &Path, data: &Path, settings: &[&str]) -> Ran {
    let mut program = Program::built("prepare-data");
    program.arg("--tokenizer").arg(tokenizer).arg("--data").arg(data).arg("--store").arg(sandbox.store());
    for setting in [ALL].iter().chain(settings) {
        program.args(["--set", setting]);
    }
    program.run()
}

fn lines(rows: &[Value]) -> String {
    let lines: Vec<String> = rows.iter().map(|row| format!("{row}\n")).collect();
    lines.concat()
}

/// Returns the text of every training row, and of its targets.
fn texts(artifact: &Path) -> Vec<(String, String)> {
    let tokenizer = TextTokenizer::open(&artifact.join("data/tokenizer")).unwrap();
    let split = Split::open(&artifact.join("data/tokens/train.safetensors")).unwrap();
    let text = |tokens: &[u32]| tokenizer.decode(tokens, false).unwrap();
    let of_row = |row: usize| {
        let row = split.row(row);
        let trained = row.tokens.iter().zip(row.trained).filter(|(_, flag)| **flag == 1);
        (text(row.tokens), text(&trained.map(|(&token, _)| token).collect::<Vec<_>>()))
    };
    (0..split.len()).map(of_row).collect()
}

/// Returns the part in backticks of a message's hint that begins with `start`.
fn command_of<'a>(stderr: &'a str, start: &str) -> &'a str {
    let hint = stderr.lines().find(|line| line.starts_with("hint:")).unwrap();
    hint.split('`').skip(1).step_by(2).find(|command| command.starts_with(start)).unwrap()
}

#[test]
fn functions_of_before_tools_train_as_tool_calls() {
    let sandbox = Sandbox::new();
    let tokenizer = model(&sandbox, WITH_TOOLS);
    let wind = json!({"name": "wind", "parameters": {"type": "object"}});
    let answer = json!({"role": "assistant", "content": "NE."});
    let old = json!({"functions": [wind], "messages": [
        {"role": "user", "content": "Wind?"},
        {"role": "assistant", "content": null, "function_call": {"name": "wind", "arguments": "{\"at\": \"Hana\"}"}},
        {"role": "function", "name": "wind", "content": "NE 12"},
        answer,
    ]});
    let new = json!({"tools": [{"type": "function", "function": wind}], "messages": [
        {"role": "user", "content": "Wind?"},
        {"role": "assistant", "tool_calls": [{"function": {"name": "wind", "arguments": {"at": "Hana"}}}]},
        {"role": "tool", "content": "NE 12"},
        answer,
    ]});
    let data = sandbox.write("rows.jsonl", lines(&[old, new]));
    let found = texts(&prepare(&sandbox, &tokenizer, &data, &[]).path());
    assert_eq!(found[0], found[1]);
    assert!(found[0].0.starts_with("[wind]<|start|>user") && found[0].0.contains("tool\nNE 12"), "{found:?}");
    assert_eq!(found[0].1, "wind({\"at\": \"Hana\"})<|end|>NE.<|end|>");
}

#[test]
fn messages_that_the_template_leaves_out_are_told_and_counted() {
    let sandbox = Sandbox::new();
    let tokenizer = model(&sandbox, WITH_TOOLS);
    let chat = |role: &str| {
        json!({"messages": [{"role": role, "content": "Answer in Hawaiian."}, {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Aloha"}]})
    };
    let data = sandbox.write("rows.jsonl", lines(&[chat("system"), chat("developer"), chat("developer")]));
    let ran = prepare(&sandbox, &tokenizer, &data, &[]);
    ran.says(&["leaves out", "`developer`", "2 rows"]);
    let stats = Stats::read(&ran.path().join("data/stats.json")).unwrap();
    assert_eq!(stats.unwritten_roles.into_iter().collect::<Vec<_>>(), [("developer".to_owned(), 2)]);
    // The hint: a role that the template writes.
    let data = sandbox.write("rows.jsonl", lines(&[chat("system"), chat("system")]));
    let ran = prepare(&sandbox, &tokenizer, &data, &[]);
    assert!(!ran.stderr.contains("leaves out"), "{}", ran.stderr);
}

#[test]
fn examples_of_bad_answers_are_not_learned_and_the_hint_works() {
    let sandbox = Sandbox::new();
    let tokenizer = golden("llama");
    let pair =
        |completion: &str, label: Value| json!({"prompt": "Hi", "completion": completion, "label": label});
    let chat = |answer: &str, label: Value| {
        let messages =
            [json!({"role": "user", "content": "Hi"}), json!({"role": "assistant", "content": answer})];
        json!({"messages": messages, "label": label})
    };
    let cases = [
        ("rows.jsonl", lines(&[pair("Aloha", json!(true)), pair("Go away", json!(false))])),
        ("rows.jsonl", lines(&[chat("Aloha", json!(true)), chat("Go away", json!(false))])),
        ("rows.csv", "prompt,completion,label\nHi,Aloha,True\nHi,Go away,False\n".to_owned()),
    ];
    for (name, text) in cases {
        let data = sandbox.write(name, text);
        let ran = prepare(&sandbox, &tokenizer, &data, &[]);
        ran.failed(65);
        ran.says(&["`label` is false", "hint: "]);
        let setting = command_of(&ran.stderr, "where");
        let found = texts(&prepare(&sandbox, &tokenizer, &data, &[setting]).path());
        assert_eq!((found.len(), found[0].1.contains("Aloha")), (1, true), "{found:?}");
    }
    // A number may be a class.
    let data = sandbox.write("rows.jsonl", lines(&[pair("Aloha", json!(0))]));
    assert_eq!(texts(&prepare(&sandbox, &tokenizer, &data, &[]).path()).len(), 1);
}

#[test]
fn a_file_of_columns_is_named_and_the_hint_works() {
    let sandbox = Sandbox::new();
    let columns = json!({"prompt": ["Hi", "Bye"], "completion": ["Aloha", "A hui hou"]});
    let data = sandbox.write("it's.json", columns.to_string());
    let ran = prepare(&sandbox, &golden("llama"), &data, &[]);
    ran.failed(65);
    ran.says(&["one list for each column", "hint: "]);
    // Without jq there is nothing to run.
    if Command::new("jq").arg("--version").output().is_ok() {
        let command =
            command_of(&ran.stderr, "jq").replace("NEW.jsonl", &sandbox.join("new.jsonl").to_string_lossy());
        assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success(), "{command}");
        let found = texts(&prepare(&sandbox, &golden("llama"), &sandbox.join("new.jsonl"), &[]).path());
        assert_eq!(found.len(), 2);
        assert!(found[1].0.contains("Bye") && found[1].1.contains("A hui hou"), "{found:?}");
    }
}

#[test]
fn other_layouts_are_named_and_the_commands_in_their_hints_work() {
    let messages =
        [json!({"role": "user", "content": "Hi"}), json!({"role": "assistant", "content": "Aloha"})];
    let parts = |role: &str, text: &str| json!({"role": role, "parts": [{"text": text}]});
    let cases = [
        (lines(&[json!({"chosen": messages, "rejected": messages})]), "preference data", "jq"),
        (
            lines(&[json!({"contents": [parts("user", "Hi"), parts("model", "Aloha")]})]),
            "holds the messages",
            "jq",
        ),
        (lines(&[json!({"dialogue": messages})]), "holds the messages", "jq"),
        (json!({"data": [{"prompt": "Hi", "completion": "Aloha"}]}).to_string(), "holds the rows", "jq"),
        (
            "{\"prompt\": \"Hi\", \"completion\": \"Aloha\", \"score\": NaN}\n".to_owned(),
            "JSON has no NaN",
            "python3",
        ),
        (
            "{\"prompt\": \"Hi: NaN\", \"completion\": \"Aloha: Infinity\", \"score\": [1, NaN]}\n\n"
                .to_owned(),
            "JSON has no NaN",
            "python3",
        ),
        (
            "{\"prompt\": \"Hi\", \"completion\": \"Aloha\", \"score\": -Infinity}\n".to_owned(),
            "no Infinity",
            "python3",
        ),
    ];
    for (text, reason, program) in cases {
        let sandbox = Sandbox::new();
        let data = sandbox.write("rows.jsonl", &text);
        let ran = prepare(&sandbox, &golden("llama"), &data, &[]);
        ran.failed(65);
        ran.says(&[reason, "hint: "]);
        let new = sandbox.join("new.jsonl");
        let command = command_of(&ran.stderr, program).replace("NEW.jsonl", "NEW");
        let command = command.replace("NEW", &new.to_string_lossy());
        if Command::new(program).arg("--version").output().is_ok() {
            assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success(), "{command}");
            let found = texts(&prepare(&sandbox, &golden("llama"), &new, &[]).path());
            assert!(found[0].0.contains("Hi") && found[0].1.contains("Aloha"), "{command}: {found:?}");
        }
    }
    let sandbox = Sandbox::new();
    let data =
        sandbox.write("rows.jsonl", lines(&[json!({"prompt": "Hi", "chosen": "Aloha", "rejected": "No"})]));
    let ran = prepare(&sandbox, &golden("llama"), &data, &[]);
    ran.says(&["`prompt` without `completion`", "preference data"]);
    let settings = ["prompt=\"{prompt}\"", "completion=\"{chosen}\""];
    assert!(texts(&prepare(&sandbox, &golden("llama"), &data, &settings).path())[0].1.contains("Aloha"));
}

#[test]
fn templates_that_write_nothing_are_none() {
    let sandbox = Sandbox::new();
    let chat =
        json!({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Aloha"}]});
    let data = sandbox.write("rows.jsonl", lines(&[chat]));
    let blank = model(&sandbox, " \n");
    let config = json!({"bos_token": "<bos>", "eos_token": "<eos>", "chat_template": ""});
    fs_err::write(blank.join("tokenizer_config.json"), config.to_string()).unwrap();
    let ran = prepare(&sandbox, &blank, &data, &[]);
    ran.failed(65);
    ran.says(&["no chat template", "hint: "]);
}

#[test]
fn rows_without_an_assistant_say_which_role_answers_have() {
    let sandbox = Sandbox::new();
    let chat = |role: &str| json!({"messages": [{"role": "user", "content": "Hi"}, {"role": role, "content": "Aloha"}]});
    let data = sandbox.write("rows.jsonl", lines(&[chat("ai"), chat("Assistant")]));
    let ran = prepare(&sandbox, &golden("llama"), &data, &[]);
    ran.failed(65);
    ran.says(&["2 in this split without a target", "give the answers that role"]);
    let data = sandbox.write("rows.jsonl", lines(&[chat("assistant")]));
    assert_eq!(texts(&prepare(&sandbox, &golden("llama"), &data, &[]).path()).len(), 1);
}

#[test]
fn files_that_describe_data_are_no_rows() {
    let sandbox = Sandbox::new();
    let rows = lines(&[json!({"prompt": "Hi", "completion": "Aloha"})]);
    sandbox.write("hub/train.jsonl", &rows);
    sandbox.write("hub/dataset_infos.json", json!({"default": {"splits": {}}}).to_string());
    sandbox.write("hub/README.md", "# Data\n");
    let ran = prepare(&sandbox, &golden("llama"), &sandbox.join("hub"), &[]);
    assert_eq!(texts(&ran.path()).len(), 1);
    ran.says(&["not read", "dataset_infos.json"]);
    // As `save_to_disk` writes it.
    sandbox.write("saved/data-00000-of-00001.arrow", b"ARROW1\0\0");
    sandbox.write("saved/dataset_info.json", json!({"features": {}}).to_string());
    sandbox.write("saved/state.json", json!({"_data_files": []}).to_string());
    let ran = prepare(&sandbox, &golden("llama"), &sandbox.join("saved"), &[]);
    ran.failed(65);
    ran.says(&["data-00000-of-00001.arrow", "hint: "]);
}

#[test]
fn marks_in_front_of_a_file_are_no_text() {
    let sandbox = Sandbox::new();
    for (name, text) in [
        ("a.jsonl", lines(&[json!({"prompt": "Hi", "completion": "Aloha"})])),
        ("a.json", json!([{"prompt": "Hi", "completion": "Aloha"}]).to_string()),
        ("a.csv", "prompt,completion\nHi,Aloha\n".to_owned()),
    ] {
        let plain = prepare(&sandbox, &golden("llama"), &sandbox.write(name, &text), &[]).path();
        for marks in 1..=2 {
            let data = sandbox.write(name, format!("{}{text}", "\u{FEFF}".repeat(marks)));
            let marked = prepare(&sandbox, &golden("llama"), &data, &[]).path();
            assert_eq!(texts(&marked), texts(&plain), "{name} with {marks} marks");
        }
    }
}

#[test]
fn templates_in_a_folder_of_their_own_reach_every_stage() {
    let sandbox = Sandbox::new();
    // Separate files replace the template in `tokenizer_config.json`, so there is one for rows without tools too.
    let folder = model(&sandbox, WITHOUT_TOOLS);
    fs_err::create_dir(folder.join("additional_chat_templates")).unwrap();
    fs_err::write(folder.join("additional_chat_templates/tool_use.jinja"), WITH_TOOLS).unwrap();
    fs_err::write(folder.join("additional_chat_templates/._tool_use.jinja"), "{% broken").unwrap();
    let imported = sandbox.model(&folder.to_string_lossy());
    let chat = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Aloha"}]);
    let tools = json!([{"type": "function", "function": {"name": "wind", "parameters": {}}}]);
    let rows = [json!({"messages": chat}), json!({"messages": chat, "tools": tools})];
    let data = sandbox.write("rows.jsonl", lines(&rows).repeat(12));
    let dataset = prepare(&sandbox, Path::new(&imported), &data, &[SHARED, "on_leak=\"allow\""]).path();
    let found = texts(&dataset);
    let with_tools = found.iter().filter(|(text, _)| text.starts_with("[wind]")).count();
    assert!(with_tools > 0 && with_tools < found.len(), "{found:?}");

    let dataset = dataset.to_string_lossy();
    let inputs = ["--model", &imported, "--dataset", &dataset];
    let train = sandbox.make("train", &[&inputs[..], &["--set", "train.steps=1"]].concat());
    let losses = sandbox.make("validate", &[&inputs[..], &["--train", &train]].concat());
    let best = sandbox.make("select-best", &["--train", &train, "--validate", &losses]);
    let loose = ["--adapters", &best, "--set", "fuse.max_loss_increase=9"];
    let fused = PathBuf::from(sandbox.make("fuse", &[&inputs[..], &loose].concat()));
    let template = fused.join("data/model/additional_chat_templates/tool_use.jinja");
    assert_eq!(fs_err::read_to_string(template).unwrap(), WITH_TOOLS);

    // The token ids of the first prompt are not printed, so a template that refuses shows which one was used.
    fs_err::write(
        folder.join("additional_chat_templates/tool_use.jinja"),
        "{{ raise_exception('tools: ' + tools[0].function.name) }}",
    )
    .unwrap();
    let ask = |rows: &[Value]| {
        let input = sandbox.write("ask.jsonl", lines(rows));
        let mut program = Program::built("generate");
        program.arg("--model").arg(&folder).arg("--input").arg(input).args(["--max-tokens", "2"]).run()
    };
    assert_eq!(ask(&rows[..1]).succeeded().lines().count(), 1);
    let ran = ask(&rows);
    ran.failed(65);
    ran.says(&["ask.jsonl:2", "tools: wind", "hint: "]);
}

#[test]
fn hints_name_the_very_file() {
    let sandbox = Sandbox::new();
    let mut latin = b"{\"prompt\": \"a\", \"completion\": \"caf".to_vec();
    latin.extend([0xE9, b'"', b'}', b'\n']);
    let data = sandbox.write("it's.jsonl", latin);
    let ran = prepare(&sandbox, &golden("llama"), &data, &[]);
    ran.failed(65);
    let command =
        command_of(&ran.stderr, "iconv").replace("NEW", &sandbox.join("new.jsonl").to_string_lossy());
    assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success(), "{command}");
    let found = texts(&prepare(&sandbox, &golden("llama"), &sandbox.join("new.jsonl"), &[]).path());
    assert!(found[0].1.contains("café"), "{found:?}");

    let data = sandbox.write("cut.json", "[{\"prompt\": \"a\", \"completion\": \"b\"},\n");
    let ran = prepare(&sandbox, &golden("llama"), &data, &[]);
    ran.failed(65);
    let command = command_of(&ran.stderr, "python3");
    // The command names the mistake: it fails with a line of its own.
    assert!(command.contains("cut.json"), "{command}");
    assert!(!Command::new("sh").args(["-c", command]).output().unwrap().stderr.is_empty(), "{command}");
}
