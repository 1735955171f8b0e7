//! Every hint about rows in the situation that prints it, and the file after its advice was followed.

#![expect(clippy::unwrap_used, reason = "a failing helper fails its test")]

use std::path::Path;

use dataset::{EncodeSettings, OnRewrittenTurn, Record, Result, RowReader, TextTokenizer, encode};

/// Reads and encodes every row of a file.
fn read(path: &Path, tokenizer: &TextTokenizer, settings: EncodeSettings) -> Result<usize> {
    let mut reader = RowReader::open(path)?;
    let mut count = 0;
    while let Some(row) = reader.next_row()? {
        let record =
            row.and_then(|row| Record::from_row(row, path)).map_err(|problem| problem.in_file(path))?;
        encode(tokenizer, &record, settings)?;
        count += 1;
    }
    Ok(count)
}

/// A file that is refused, parts of the message and of its hint, and the file that the hint asks for.
struct Case(&'static str, &'static str, &'static str, &'static str);

/// Rows of a chat as JSON, with the given assistant message.
fn chat(message: &str) -> String {
    format!("{{\"messages\": [{{\"role\": \"user\", \"content\": \"a\"}}, {message}]}}\n")
}

fn check(cases: &[Case], wrap: fn(&str) -> String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows");
    let tokenizer = TextTokenizer::open(&testutil::golden("llama")).unwrap();
    for Case(bad, reason, hint, good) in cases {
        fs_err::write(&path, wrap(bad)).unwrap();
        let error = read(&path, &tokenizer, EncodeSettings::default()).expect_err(bad);
        let report = failure::Error::from(error).report();
        assert!(report.contains(reason), "{bad}: `{reason}` is not in {report}");
        let hints: Vec<&str> = report.lines().filter(|line| line.starts_with("hint: ")).collect();
        assert!(hints.len() == 1 && hints[0].contains(hint), "{bad}: `{hint}` is not the hint of {report}");
        fs_err::write(&path, wrap(good)).unwrap();
        let count = read(&path, &tokenizer, EncodeSettings::default())
            .unwrap_or_else(|error| panic!("{good}: {}", failure::Error::from(error).report()));
        assert!(count > 0, "{good}: no rows");
    }
}

const MESSAGE: &str = "a message is `{\"role\": \"user\", \"content\": \"…\"}`";
const CALL: &str =
    "a tool call is `{\"type\": \"function\", \"function\": {\"name\": \"…\", \"arguments\": {…}}}`";
const FLAG: &str = "write `\"train\": false` or `\"weight\": 0`";
const AS_TEXT: &str = "write it as a JSON string, in double quotes";
const ANSWER: &str = r#"{"role": "assistant", "content": "b"}"#;

#[test]
fn hints_about_messages() {
    let cases = [
        Case(r#""b""#, "message 2 is not an object", MESSAGE, ANSWER),
        Case(r#"{"content": "b"}"#, "has no `role`", MESSAGE, ANSWER),
        Case(r#"{"role": "assistant"}"#, "has no `content`", MESSAGE, ANSWER),
        Case(r#"{"role": "assistant", "content": []}"#, "has no `content`", MESSAGE, ANSWER),
        Case(
            r#"{"role": "assistant", "content": 1.5}"#,
            "a number as `content`",
            AS_TEXT,
            r#"{"role": "assistant", "content": "1.5"}"#,
        ),
        Case(
            r#"{"role": "assistant", "content": [7]}"#,
            "a number among the parts",
            AS_TEXT,
            r#"{"role": "assistant", "content": ["7"]}"#,
        ),
        Case(
            r#"{"role": "assistant", "content": "b", "reasoning_content": ["c"]}"#,
            "a list as `reasoning_content`",
            AS_TEXT,
            r#"{"role": "assistant", "content": "b", "reasoning_content": "c"}"#,
        ),
        Case(
            r#"{"role": "assistant", "content": [{"type": "image_url", "image_url": {}}, {"type": "text", "text": "b"}]}"#,
            "not text: `image_url`",
            "only text trains here: leave such rows out, or remove the part",
            r#"{"role": "assistant", "content": [{"type": "text", "text": "b"}]}"#,
        ),
        Case(
            r#"{"role": "assistant", "content": [{"type": "thought", "thought": "b"}]}"#,
            "a part of the unknown type `thought`",
            "give the text as a string, or as parts `{\"type\": \"text\", \"text\": \"…\"}`",
            r#"{"role": "assistant", "content": [{"type": "text", "text": "b"}]}"#,
        ),
        Case(
            r#"{"role": "assistant", "content": "b", "weight": 0.5}"#,
            "neither 0 nor 1",
            FLAG,
            r#"{"role": "assistant", "content": "b", "weight": 0}"#,
        ),
        Case(
            r#"{"role": "assistant", "content": "b", "loss_mask": 1}"#,
            "may say what trains",
            FLAG,
            r#"{"role": "assistant", "content": "b", "train": false}"#,
        ),
        Case(
            r#"{"role": "assistant", "content": "b", "train": true, "weight": 0}"#,
            "contradicts its other flags",
            FLAG,
            r#"{"role": "assistant", "content": "b", "train": false}"#,
        ),
    ];
    check(&cases, chat);
}

#[test]
fn hints_about_tool_calls() {
    let tool_calls = |calls: &str| {
        chat(&format!("{{\"role\": \"assistant\", \"content\": \"call f\", \"tool_calls\": {calls}}}"))
    };
    // The template of this tokenizer writes no calls, so what is right here is a message without any.
    let none = r#"{"role": "assistant", "content": "call f"}"#;
    for (calls, reason) in [
        (r#"{"name": "f"}"#, "`tool_calls` that are not a list"),
        (r#""f()""#, "`tool_calls` that are not a list"),
        (r#"[{"arguments": {}}]"#, "without the name of a function"),
        (r#"[{"function": {"name": "f", "arguments": 5}}]"#, "a number as `arguments`"),
    ] {
        let bad: &'static str = tool_calls(calls).leak();
        check(&[Case(bad, reason, CALL, chat(none).leak())], str::to_owned);
    }
    let given: &'static str =
        tool_calls(r#"[{"type": "function", "function": {"name": "zzz", "arguments": {"x": 1}}}]"#).leak();
    let hint = "use a chat template that takes tool calls, or write the call into `content`";
    let written = r#"{"role": "assistant", "content": "zzz(x=1)"}"#;
    check(
        &[Case(given, "does not write the tool call of message 2", hint, chat(written).leak())],
        str::to_owned,
    );
}

#[test]
fn hints_about_tools_and_turns() {
    let with_tools = |tools: &str| {
        format!(
            "{{\"messages\": [{{\"role\": \"user\", \"content\": \"a\"}}, {ANSWER}], \"tools\": {tools}}}\n"
        )
    };
    let right: &'static str = with_tools(r#"[{"type": "function", "function": {"name": "f"}}]"#).leak();
    for (tools, reason) in [(r#"{"f": 1}"#, "`tools` is not a list"), (r#"["f"]"#, "tool 1 is not an object")]
    {
        let bad: &'static str = with_tools(tools).leak();
        check(&[Case(bad, reason, "write a list of JSON schemas", right)], str::to_owned);
    }
    let turns = |turn: &str| {
        format!(
            "{{\"conversations\": [{{\"from\": \"human\", \"value\": \"a\"}}, {turn}, {{\"from\": \"gpt\", \"value\": \"b\"}}]}}\n"
        )
    };
    let turn = "a turn is `{\"from\": \"human\", \"value\": \"…\"}`";
    let call = "write a call as JSON text: `{\"name\": \"…\", \"arguments\": {…}}`";
    let right: &'static str = turns(r#"{"from": "human", "value": "c"}"#).leak();
    for (bad, reason, hint) in [
        (r#"{"from": "narrator", "value": "c"}"#, "from `narrator`", turn),
        (r#"{"from": 3, "value": "c"}"#, "a `from` that is not a text", turn),
        (r#"{"from": "function_call", "value": "call f"}"#, "whose text is not a call", call),
    ] {
        let bad: &'static str = turns(bad).leak();
        check(&[Case(bad, reason, hint, right)], str::to_owned);
    }
}

#[test]
fn hints_about_fields() {
    let shapes = "a row needs `messages`, `prompt` and `completion`, or `text`";
    let right = "{\"text\": \"a\"}\n";
    let cases = [
        Case("{\"question\": \"a\"}\n", "no known shape", shapes, right),
        Case(
            "{\"prompt\": \"a\"}\n",
            "`prompt` without `completion`",
            shapes,
            "{\"prompt\": \"a\", \"completion\": \"b\"}\n",
        ),
        Case(
            "{\"completion\": \"a\"}\n",
            "`completion` without `prompt`",
            shapes,
            "{\"prompt\": \"a\", \"completion\": \"b\"}\n",
        ),
        Case(
            "{\"messages\": 5}\n",
            "`messages` is not a list",
            "a list of messages is",
            "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n",
        ),
        Case("{\"text\": \" \"}\n", "`text` is empty", "fill it in, or leave such rows out", right),
        Case("{\"text\": 7}\n", "`text` is not a string", AS_TEXT, "{\"text\": \"7\"}\n"),
        Case(
            "{\"text\": \"a\", \"id\": [1]}\n",
            "neither a string nor a number",
            "write a string or a number, or leave the field out",
            "{\"text\": \"a\", \"id\": 1}\n",
        ),
        Case(
            "{\"text\": \"a\", \"weight\": -1}\n",
            "is not a number above 0",
            "correct the number, or leave the field out",
            right,
        ),
        Case(
            "{\"text\": \"a\\u0000b\"}\n",
            "holds a NUL character",
            "remove it; NUL characters never belong to a text",
            "{\"text\": \"ab\"}\n",
        ),
        Case(
            "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"images\": [\"x.png\"]}\n",
            "the row holds `images`",
            "leave such rows out, or remove the field",
            "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n",
        ),
        Case(
            "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"loss_mask\": [0]}\n",
            "the row has `loss_mask`",
            "write `\"weight\": 0` into the messages",
            "{\"messages\": [{\"role\": \"user\", \"content\": \"a\", \"weight\": 0}]}\n",
        ),
        Case(
            "{\"instruction\": \"a\", \"output\": \"b\", \"history\": \"c\"}\n",
            "`history` is not a list",
            "write `history` as a list of pairs",
            "{\"instruction\": \"a\", \"output\": \"b\", \"history\": [[\"c\", \"d\"]]}\n",
        ),
        Case(
            "{\"prompt\": \"a\", \"completion\": \"b\", \"label\": false}\n{\"prompt\": \"a\", \"completion\": \"b\"}\n",
            "`label` is false",
            "keep only the good ones",
            "{\"prompt\": \"a\", \"completion\": \"b\"}\n",
        ),
    ];
    check(&cases, str::to_owned);
}

#[test]
fn hints_about_lines_and_cells() {
    let right = "{\"text\": \"a\"}\n";
    let quotes = "put the cell in double quotes and double each quote inside it";
    let names = "line 1 names the columns: give each a different name";
    let cases = [
        Case(
            "{\"text\": \"a\"}\n[1]\n",
            "the row is not a JSON object",
            "write a row as `{\"text\": …}`",
            right,
        ),
        Case(
            "{\"text\": \"a\"}\n{\"text\": \n",
            "not JSON",
            "correct the line, or set `on_bad_row = \"skip\"`",
            right,
        ),
        Case(
            "[{\"text\": \"a\"}",
            "the array is not closed",
            "`python3 -m json.tool '",
            "[{\"text\": \"a\"}]",
        ),
        Case(
            "[{\"text\": \"a\"}\n{\"text\": \"b\"}]",
            "a comma or `]` is missing",
            "correct the JSON there",
            "[{\"text\": \"a\"},\n{\"text\": \"b\"}]",
        ),
        Case("text,id\n\"a\"b,1\n", "quote", quotes, "text,id\n\"a\"\"b\",1\n"),
        Case(
            "text,id\n\"a,1\n",
            "is not closed",
            "close the quote, or double it if it is text",
            "text,id\n\"a\",1\n",
        ),
        Case(
            "text,id\na,b,1\n",
            "3 cells where the header names 2",
            "quote a cell that contains the delimiter",
            "text,id\n\"a,b\",1\n",
        ),
        Case("text,text\na,b\n", "has the same name as another", names, "text,id\na,b\n"),
        Case("text,\na,b\n", "has no name", names, "text,id\na,b\n"),
        Case("\n\n", "holds no rows", "an input file needs at least one row", right),
    ];
    check(&cases, str::to_owned);
}

#[test]
fn hints_about_whole_files_are_commands_that_work() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = TextTokenizer::open(&testutil::golden("llama")).unwrap();
    let utf16: Vec<u8> = "\u{FEFF}text,id\nʻokina,1\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut latin = b"{\"text\": \"caf".to_vec();
    latin.extend(b"\xE9\"}\n");
    for (name, bytes, reason) in [
        ("it's CR.csv", b"text,id\ra,1\r".to_vec(), "end in CR alone"),
        ("rows 16.csv", utf16, "UTF-16"),
        ("latin.jsonl", latin, "not valid UTF-8"),
    ] {
        let path = folder.path().join(name);
        fs_err::write(&path, bytes).unwrap();
        let error = read(&path, &tokenizer, EncodeSettings::default()).expect_err(name);
        let report = failure::Error::from(error).report();
        assert!(report.contains(reason), "{report}");
        let hint = report.lines().find(|line| line.starts_with("hint: ")).unwrap();
        let command = hint.split('`').nth(1).unwrap();
        let target = command.rsplit("> ").next().unwrap();
        let made = if target == "NEW" {
            folder.path().join("NEW")
        } else {
            target.trim_matches('\'').replace("'\\''", "'").into()
        };
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", command]).current_dir(folder.path());
        assert!(shell.status().unwrap().success(), "{command}");
        assert_eq!(read(&made, &tokenizer, EncodeSettings::default()).unwrap(), 1, "{command}");
    }
}

#[test]
fn the_hint_about_rewritten_turns_works() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs_err::copy(testutil::golden("llama").join(name), folder.path().join(name)).unwrap();
    }
    let template = "{% for m in messages %}{{ '<|start|>' + m.role + '\n' + (m.reasoning_content or '' if loop.last else '') + m.content + '<|end|>\n' }}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}";
    fs_err::write(folder.path().join("chat_template.jinja"), template).unwrap();
    let tokenizer = TextTokenizer::open(folder.path()).unwrap();
    let path = folder.path().join("rows.jsonl");
    let answer = r#"{"role": "assistant", "content": "b", "reasoning_content": "c"}"#;
    let user = r#"{"role": "user", "content": "a"}"#;
    fs_err::write(&path, format!("{{\"messages\": [{user}, {answer}, {user}, {answer}]}}\n")).unwrap();
    let with = |on_rewritten_turn| EncodeSettings { on_rewritten_turn, ..EncodeSettings::default() };
    let error = read(&path, &tokenizer, with(OnRewrittenTurn::Error)).unwrap_err();
    let report = failure::Error::from(error).report();
    assert!(
        report.contains("such turns drop reasoning, for example: set `on_rewritten_turn = \"skip\"`"),
        "{report}"
    );
    assert_eq!(read(&path, &tokenizer, with(OnRewrittenTurn::Skip)).unwrap(), 1);
}

#[test]
fn settings_that_are_far_too_long_are_not_read() {
    let folder = tempfile::tempdir().unwrap();
    testutil::files::copy(&testutil::golden("llama"), &folder.path().join("model"));
    for name in ["tokenizer_config.json", "special_tokens_map.json", "generation_config.json"] {
        let path = folder.path().join("model").join(name);
        let kept = fs_err::read(&path).ok();
        fs_err::write(&path, format!("{{\"x\":[{}0]}}", "0,".repeat(9 << 20))).unwrap();
        let error = TextTokenizer::open(&folder.path().join("model")).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("has more than the 16777216 bytes"), "{error}");
        match kept {
            Some(bytes) => fs_err::write(&path, bytes).unwrap(),
            None => fs_err::remove_file(&path).unwrap(),
        }
    }
}

#[test]
fn settings_of_another_type_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    testutil::files::copy(&testutil::golden("llama"), &path);
    for (name, text, reason) in [
        ("tokenizer_config.json", "[]", "not a table in braces"),
        ("tokenizer_config.json", "{\"chat_template\": 5}", "`chat_template` is a number, expected a text"),
        ("tokenizer_config.json", "{\"chat_template\": {}}", "`chat_template` is a table, expected a text"),
        ("chat_template.json", "{\"chat_template\": false}", "`chat_template` is a switch, expected a text"),
        ("tokenizer_config.json", "{\"chat_template\": null}", ""),
    ] {
        fs_err::write(path.join("tokenizer_config.json"), "{}").unwrap();
        fs_err::write(path.join(name), text).unwrap();
        let checked = dataset::check_templates(&path).map_err(|error| error.to_string());
        fs_err::remove_file(path.join(name)).unwrap();
        match checked {
            Err(error) => {
                assert!(!reason.is_empty() && error.contains(name) && error.contains(reason), "{error}");
            }
            Ok(()) => assert_eq!(reason, "", "{name}: {text}"),
        }
    }
}

#[test]
fn chat_templates_that_are_too_long_together_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    testutil::files::copy(&testutil::golden("llama"), &path);
    let named = path.join("additional_chat_templates");
    fs_err::create_dir_all(&named).unwrap();
    for index in 0..5 {
        fs_err::write(named.join(format!("t{index}.jinja")), "x".repeat(1 << 20)).unwrap();
    }
    for error in [TextTokenizer::open(&path).unwrap_err(), dataset::check_templates(&path).unwrap_err()] {
        assert!(error.to_string().contains("more than 4 MiB in all"), "{error}");
    }
}
