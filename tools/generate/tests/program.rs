//! The program as a person or a script meets it, on the tiny golden models.

#![expect(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use serde_json::{Value, json};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

fn expected(name: &str) -> Value {
    serde_json::from_slice(&fs_err::read(golden(name).join("expected.json")).unwrap()).unwrap()
}

fn command(model: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_generate"));
    command.arg("--model").arg(model).args(arguments).env_remove("ASHLAR_STORE");
    command
}

fn generate(model: &Path, arguments: &[&str]) -> Output {
    command(model, arguments).output().unwrap()
}

fn with_stdin(mut command: Command, text: &str) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn failed(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    text(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Rows with prompts of several lengths.
fn rows_file(folder: &Path) -> PathBuf {
    let path = folder.join("rows.jsonl");
    let prompts =
        ["Aloha", "He umikumamalua ka nui o keia mau Mokupuni", "E", "Aloha", "ka moana Pakifika nei"];
    let rows = prompts.iter().enumerate();
    let rows: Vec<String> =
        rows.map(|(id, prompt)| json!({"id": id, "prompt": prompt}).to_string()).collect();
    fs_err::write(&path, rows.join("\n") + "\n").unwrap();
    path
}

/// The adapters of a golden training run, as a folder that mlx-lm would write.
fn adapters(folder: &Path) -> PathBuf {
    let adapters = folder.join("adapters");
    fs_err::create_dir_all(&adapters).unwrap();
    let case = golden("train-lora-llama");
    fs_err::copy(case.join("final.safetensors"), adapters.join("adapters.safetensors")).unwrap();
    let case: Value = serde_json::from_slice(&fs_err::read(case.join("expected.json")).unwrap()).unwrap();
    let config = json!({
        "fine_tune_type": case["fine_tune_type"],
        "lora_parameters": case["lora_parameters"],
        "num_layers": case["num_layers"],
    });
    fs_err::write(adapters.join("adapter_config.json"), config.to_string()).unwrap();
    adapters
}

#[test]
fn greedy_tokens_are_those_of_the_reference() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["llama", "gemma3_text"] {
        let expected = expected(name);
        let input = folder.path().join("prompt.jsonl");
        fs_err::write(&input, json!({"prompt_tokens": expected["greedy_prompt"]}).to_string()).unwrap();
        let output = generate(
            &golden(name),
            &["--input", input.to_str().unwrap(), "--max-tokens", "24", "--token-ids", "--dtype", "float32"],
        );
        let line = &lines(&output)[0];
        assert_eq!(line["generated_ids"], expected["greedy_tokens"], "{name}");
        assert_eq!((&line["generated_tokens"], &line["finish_reason"]), (&json!(24), &json!("length")));
    }
}

#[test]
fn a_prompt_goes_through_the_template_unless_it_is_raw() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("rows.jsonl");
    let ids = |rows: &Value, more: &[&str]| {
        fs_err::write(&input, rows.to_string()).unwrap();
        let fixed = ["--input", input.to_str().unwrap(), "--max-tokens", "8", "--token-ids"];
        lines(&generate(&golden("llama"), &[&fixed[..], more].concat()))[0]["generated_ids"].clone()
    };
    // The conversations of the reference, as the template renders them, are what the program makes of messages.
    let chat = &expected("llama")["chats"][0];
    let asked = json!([chat["messages"][0]]);
    let by_messages = ids(&json!({"messages": asked}), &[]);
    assert_eq!(by_messages, ids(&json!({"messages": chat["messages"]}), &[]), "the reference is left out");
    let prompt = &chat["messages"][0]["content"];
    assert_eq!(by_messages, ids(&json!({"prompt": prompt}), &[]));
    let rendered =
        chat["text"].as_str().unwrap().split("assistant\n").next().unwrap().to_owned() + "assistant\n";
    assert_eq!(by_messages, ids(&json!({"prompt": rendered}), &["--raw"]));
    assert_ne!(by_messages, ids(&json!({"prompt": prompt}), &["--raw"]));
    assert_ne!(by_messages, ids(&json!({"prompt": prompt}), &["--system", "Be brief."]));
}

#[test]
fn the_same_seed_gives_the_same_text_and_another_seed_another() {
    let sample = |seed: &str| {
        let fixed = ["--prompt", "Aloha", "--max-tokens", "30", "--temperature", "1", "--top-p", "0.95"];
        text(&generate(&golden("llama"), &[&fixed[..], &["--seed", seed]].concat()))
    };
    let first = sample("5");
    assert!(first.ends_with('\n') && first.trim().len() > 10, "{first:?}");
    assert_eq!(first, sample("5"));
    assert_ne!(first, sample("6"));
}

#[test]
fn a_batch_gives_each_row_what_it_would_get_alone_in_the_order_of_the_rows() {
    let folder = tempfile::tempdir().unwrap();
    let input = rows_file(folder.path());
    for sampling in [&[][..], &["--temperature", "0.9", "--top-k", "40", "--repetition-penalty", "1.1"]] {
        let fixed = ["--input", input.to_str().unwrap(), "--max-tokens", "16", "--batch-size"];
        let with = |size| lines(&generate(&golden("llama"), &[&fixed[..], &[size], sampling].concat()));
        let together = with("5");
        let ids: Vec<&Value> = together.iter().map(|line| &line["id"]).collect();
        assert_eq!(ids, [0, 1, 2, 3, 4]);
        assert_eq!(together, with("1"));
        assert_eq!(together, with("2"));
        // The first row draws the numbers that a single prompt draws.
        let alone = ["--prompt", "Aloha", "--max-tokens", "16"];
        let alone = text(&generate(&golden("llama"), &[&alone[..], sampling].concat()));
        assert_eq!(
            together[0]["generated"].as_str().unwrap().trim_end_matches('\n'),
            alone.trim_end_matches('\n')
        );
        assert_eq!(together[0]["generated"] == together[3]["generated"], sampling.is_empty());
    }
}

#[test]
fn rows_go_to_a_file_and_come_from_stdin_or_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.jsonl");
    let options = ["--max-tokens", "4", "--input", "-", "--output", output.to_str().unwrap()];
    let done = with_stdin(command(&golden("llama"), &options), "id,prompt\na,Aloha\nb,\"E, ka\"\n");
    assert_eq!(text(&done), "");
    let written = fs_err::read_to_string(&output).unwrap();
    let rows: Vec<Value> = written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((rows.len(), &rows[0]["id"], &rows[1]["prompt"]), (2, &json!("a"), &json!("E, ka")));
}

#[test]
fn compare_shows_the_base_beside_the_adapters() {
    let folder = tempfile::tempdir().unwrap();
    let adapters = adapters(folder.path());
    let adapters = ["--adapters", adapters.to_str().unwrap(), "--max-tokens", "24"];
    let ask = ["--prompt", "Aloha kakou"];
    let alone = text(&generate(&golden("llama"), &[&ask[..], &["--max-tokens", "24"]].concat()));
    let adapted = text(&generate(&golden("llama"), &[&ask[..], &adapters].concat()));
    assert_ne!(alone, adapted);
    let both = text(&generate(&golden("llama"), &[&ask[..], &adapters, &["--compare"]].concat()));
    assert_eq!(both, format!("=== base ===\n{alone}\n=== adapters ===\n{adapted}"));

    let input = folder.path().join("row.jsonl");
    fs_err::write(&input, json!({"prompt": "Aloha kakou"}).to_string()).unwrap();
    let rows = ["--input", input.to_str().unwrap(), "--compare"];
    let row = &lines(&generate(&golden("llama"), &[&rows[..], &adapters].concat()))[0];
    assert_eq!(row["base_generated"].as_str().unwrap().trim_end(), alone.trim_end());
    assert_eq!(row["generated"].as_str().unwrap().trim_end(), adapted.trim_end());
}

#[test]
fn a_stop_text_ends_the_answer_before_it() {
    let ask = ["--prompt", "Aloha", "--max-tokens", "24"];
    let whole = text(&generate(&golden("llama"), &ask));
    let middle: String = whole.chars().skip(6).take(2).collect();
    let cut = text(&generate(&golden("llama"), &[&ask[..], &["--stop", &middle]].concat()));
    assert_eq!(cut.trim_end_matches('\n'), whole[..whole.find(&middle).unwrap()].trim_end_matches('\n'));
}

#[test]
fn a_chat_in_a_pipe_answers_line_by_line_and_keeps_the_turns() {
    let model = golden("llama");
    let talk =
        |lines: &str| with_stdin(command(&model, &["--chat", "--max-tokens", "6", "--verbose"]), lines);
    let one = text(&talk("Aloha\n"));
    let two = talk("Aloha\n\nE komo mai\n/reset\nAloha\n/quit\nnever\n");
    let told = String::from_utf8(two.stderr.clone()).unwrap();
    let two = text(&two);
    assert!(two.starts_with(&one) && two.ends_with(&one) && two.len() > 2 * one.len(), "{two:?}");
    let turns: Vec<&str> = told.lines().filter(|line| line.starts_with("prompt ")).collect();
    assert_eq!(turns.len(), 3, "{told}");
    assert!(turns[1].contains(" known) in "), "the first turn is not read again: {told}");
}

#[test]
fn what_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let none = folder.path().join("none");
    let error = failed(&generate(&none, &["--prompt", "x"]), 65);
    assert!(error.contains("there is no model") && error.contains("none`\nhint: "), "{error}");
    let error = failed(&generate(folder.path(), &["--prompt", "x"]), 65);
    assert!(error.contains("is neither an artifact nor a folder with a `config.json`"), "{error}");
    let broken = folder.path().join("broken");
    fs_err::create_dir(&broken).unwrap();
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        fs_err::copy(golden("llama").join(file), broken.join(file)).unwrap();
    }
    let error = failed(&generate(&broken, &["--prompt", "x"]), 65);
    assert!(error.contains("holds no model*.safetensors file"), "{error}");
    let adapters = ["--prompt", "x", "--adapters", broken.to_str().unwrap()];
    let error = failed(&generate(&golden("llama"), &adapters), 65);
    assert!(error.contains("neither an artifact nor a folder with a `adapter_config.json`"), "{error}");
    failed(&generate(&golden("llama"), &[]), 2);
    failed(&generate(&golden("llama"), &["--prompt", "x", "--top-p", "2"]), 2);
    failed(&generate(&golden("llama"), &["--prompt", "", "--raw"]), 65);
}

#[test]
fn a_bad_row_is_named_before_any_work() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("rows.jsonl");
    let asked = |rows: &str| {
        fs_err::write(&input, rows).unwrap();
        failed(&generate(&golden("llama"), &["--input", input.to_str().unwrap()]), 65)
    };
    let error = asked("{\"prompt\": \"a\"}\n{\"question\": \"b\"}\n");
    assert!(
        error.contains("rows.jsonl:2: the row has no prompt; its fields are `question`\nhint: "),
        "{error}"
    );
    let error = asked("{\"prompt_tokens\": [1, 99999]}\n");
    assert!(error.contains("rows.jsonl:1: token 99999 is not one of the model's 384"), "{error}");
    assert!(asked("{\"prompt\": 5}\n").contains("neither text nor messages"));
    let error = failed(
        &generate(
            &golden("llama"),
            &["--input", input.to_str().unwrap(), "--output", input.to_str().unwrap()],
        ),
        2,
    );
    assert!(error.contains("would overwrite"), "{error}");
}

/// In a terminal of its own, made by `script`.
#[cfg(target_os = "linux")]
mod terminal {
    use super::*;
    use std::io::Read as _;
    use std::process::{Child, ChildStdin};
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    struct Terminal {
        child: Child,
        keys: ChildStdin,
        screen: Arc<Mutex<Vec<u8>>>,
    }

    impl Terminal {
        fn start(arguments: &str) -> Option<Self> {
            let model = golden("llama");
            // A shell that stays would end with 130 of its own: it too meets the Ctrl-C.
            let line =
                format!("exec {} --model {} {arguments}", env!("CARGO_BIN_EXE_generate"), model.display());
            let mut child = Command::new("script")
                .args(["-qefc", &line, "/dev/null"])
                .env_remove("ASHLAR_STORE")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .ok()?;
            let keys = child.stdin.take().unwrap();
            let mut output = child.stdout.take().unwrap();
            let screen = Arc::new(Mutex::new(Vec::new()));
            let shown = Arc::clone(&screen);
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = output.read(&mut buffer) {
                    shown.lock().unwrap().extend(&buffer[..count]);
                }
            });
            Some(Self { child, keys, screen })
        }

        fn screen(&self) -> String {
            String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned()
        }

        fn wait_for(&self, wanted: impl Fn(&str) -> bool) {
            let started = Instant::now();
            while !wanted(&self.screen()) {
                assert!(started.elapsed() < Duration::from_mins(1), "{}", self.screen());
                std::thread::sleep(Duration::from_millis(20));
            }
        }

        fn press(&mut self, keys: &str) {
            self.keys.write_all(keys.as_bytes()).unwrap();
            self.keys.flush().unwrap();
        }
    }

    fn prompts(screen: &str) -> usize {
        screen.matches("> ").count()
    }

    #[test]
    fn ctrl_c_ends_an_answer_and_the_second_one_the_chat() {
        let Some(mut terminal) = Terminal::start("--chat --max-tokens 100000") else {
            return eprintln!("`script` is not installed");
        };
        terminal.wait_for(|screen| screen.contains("/quit leaves") && prompts(screen) == 1);
        terminal.press("Aloha\n");
        terminal.wait_for(|screen| screen.len() > 200);
        terminal.press("\x03");
        terminal.wait_for(|screen| prompts(screen) >= 2);
        terminal.press("\x03");
        assert_eq!(terminal.child.wait().unwrap().code(), Some(130));
    }

    #[test]
    fn an_idle_ctrl_c_says_how_to_leave_and_quit_leaves() {
        let Some(mut terminal) = Terminal::start("--chat --max-tokens 4") else {
            return eprintln!("`script` is not installed");
        };
        terminal.wait_for(|screen| prompts(screen) == 1);
        terminal.press("\x03");
        terminal.wait_for(|screen| screen.contains("once more, or /quit, to leave"));
        terminal.press("Aloha\n");
        terminal.wait_for(|screen| prompts(screen) >= 3);
        terminal.press("/quit\n");
        assert_eq!(terminal.child.wait().unwrap().code(), Some(0));
    }
}
