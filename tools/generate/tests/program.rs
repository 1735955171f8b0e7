//! Runs the program on the tiny golden models.

#![expect(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use testutil::{Program, Ran, Sandbox, golden};

fn expected(name: &str) -> Value {
    serde_json::from_slice(&fs_err::read(golden(name).join("expected.json")).unwrap()).unwrap()
}

fn generate(model: &Path, arguments: &[&str]) -> Ran {
    program(model, arguments).run()
}

fn program(model: &Path, arguments: &[&str]) -> Program {
    let mut program = Program::new(env!("CARGO_BIN_EXE_generate"));
    program.arg("--model").arg(model).args(arguments);
    program
}

fn text(ran: &Ran) -> String {
    ran.succeeded().to_owned()
}

fn lines(ran: &Ran) -> Vec<Value> {
    ran.succeeded().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Writes rows with prompts of several lengths.
fn rows_file(sandbox: &Sandbox) -> PathBuf {
    let prompts =
        ["Aloha", "He umikumamalua ka nui o keia mau Mokupuni", "E", "Aloha", "ka moana Pakifika nei"];
    let rows = prompts.iter().enumerate();
    let rows: Vec<String> =
        rows.map(|(id, prompt)| json!({"id": id, "prompt": prompt}).to_string()).collect();
    sandbox.write("rows.jsonl", rows.join("\n") + "\n")
}

/// Makes a folder like that of mlx-lm with the adapters of a golden training run.
fn adapters(sandbox: &Sandbox) -> PathBuf {
    let weights = fs_err::read(golden("train-lora-llama").join("final.safetensors")).unwrap();
    sandbox.write("adapters/adapters.safetensors", weights);
    let case = expected("train-lora-llama");
    let config = json!({
        "fine_tune_type": case["fine_tune_type"],
        "lora_parameters": case["lora_parameters"],
        "num_layers": case["num_layers"],
    });
    sandbox.write("adapters/adapter_config.json", config.to_string());
    sandbox.join("adapters")
}

#[test]
fn greedy_tokens_are_those_of_the_reference() {
    let sandbox = Sandbox::new();
    for name in ["llama", "gemma3_text"] {
        let expected = expected(name);
        let input = sandbox.join("prompt.jsonl");
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
    let sandbox = Sandbox::new();
    let input = sandbox.join("rows.jsonl");
    let ids = |rows: &Value, more: &[&str]| {
        fs_err::write(&input, rows.to_string()).unwrap();
        let fixed = ["--input", input.to_str().unwrap(), "--max-tokens", "8", "--token-ids"];
        lines(&generate(&golden("llama"), &[&fixed[..], more].concat()))[0]["generated_ids"].clone()
    };
    // The program renders messages as the reference does.
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
    let sandbox = Sandbox::new();
    let input = rows_file(&sandbox);
    for sampling in [&[][..], &["--temperature", "0.9", "--top-k", "40", "--repetition-penalty", "1.1"]] {
        let fixed = ["--input", input.to_str().unwrap(), "--max-tokens", "16", "--batch-size"];
        let with = |size| lines(&generate(&golden("llama"), &[&fixed[..], &[size], sampling].concat()));
        let together = with("5");
        let ids: Vec<&Value> = together.iter().map(|line| &line["id"]).collect();
        assert_eq!(ids, [0, 1, 2, 3, 4]);
        assert_eq!(together, with("1"));
        assert_eq!(together, with("2"));
        // The first row draws the same random numbers as a single prompt.
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
    let sandbox = Sandbox::new();
    let output = sandbox.join("out.jsonl");
    let options = ["--max-tokens", "4", "--input", "-", "--output", output.to_str().unwrap()];
    let done = program(&golden("llama"), &options).run_with_stdin("id,prompt\na,Aloha\nb,\"E, ka\"\n");
    assert_eq!(text(&done), "");
    let written = fs_err::read_to_string(&output).unwrap();
    let rows: Vec<Value> = written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((rows.len(), &rows[0]["id"], &rows[1]["prompt"]), (2, &json!("a"), &json!("E, ka")));
}

#[test]
fn rows_go_to_pipes_and_devices_without_waiting_for_a_reader() {
    let sandbox = Sandbox::new();
    let input = rows_file(&sandbox);
    let fixed = ["--input", input.to_str().unwrap(), "--max-tokens", "2", "--output"];
    let to = |path: &str| program(&golden("llama"), &[&fixed[..], &[path]].concat());
    let expected = text(&generate(&golden("llama"), &fixed[..4]));
    assert_eq!(text(&to("/dev/stdout").run()), expected);
    assert_eq!(text(&to("/dev/null").run()), "");

    let pipe = sandbox.join("pipe");
    Program::new("mkfifo").arg(&pipe).run().succeeded();
    let mut limited = Program::new("timeout");
    limited
        .args(["60", env!("CARGO_BIN_EXE_generate"), "--model"])
        .arg(golden("llama"))
        .args(fixed)
        .arg(&pipe);
    insta::assert_snapshot!(limited.run().failed(2), @"
    error: opening the output
      caused by: `[SANDBOX]/pipe` is a named pipe that nobody reads
    hint: start the program that reads it first, or name a file
    ");
    let reader = Program::new("cat").arg(&pipe).spawn();
    to(pipe.to_str().unwrap()).run().succeeded();
    assert_eq!(text(&Ran::from(reader.wait_with_output().unwrap())), expected);

    let folder = to(sandbox.path().to_str().unwrap()).run().failed(2);
    assert!(folder.contains("is a folder\nhint: name a file"), "{folder}");
    // Behind what a shell wrote before, not over it.
    let script = r#"echo before >"$0"; "$@" >>"$0""#;
    let mut shell = Program::new("sh");
    shell.args(["-c", script]).arg(sandbox.join("log")).arg(env!("CARGO_BIN_EXE_generate")).arg("--model");
    shell.arg(golden("llama")).args(fixed).arg("/dev/stdout").run().succeeded();
    assert_eq!(sandbox.read("log"), format!("before\n{expected}"));
}

#[test]
fn limit_of_the_shell_on_files_is_an_error_that_names_the_file() {
    let sandbox = Sandbox::new();
    let row = json!({"prompt": "Aloha", "note": "x".repeat(100_000)});
    let input = sandbox.write("rows.jsonl", row.to_string());
    let script = r#"ulimit -f 8; exec "$@""#;
    let mut shell = sandbox.program("sh");
    shell.args(["-c", script, "sh", env!("CARGO_BIN_EXE_generate"), "--model"]).arg(golden("llama"));
    shell.args(["--max-tokens", "2", "--output", "answers.jsonl", "--input"]).arg(input);
    let said = shell.run().failed(74);
    assert!(said.contains("answers.jsonl`") && said.contains("File too large"), "{said}");
}

#[test]
#[cfg(target_os = "linux")]
fn stdout_is_named_when_it_cannot_be_written() {
    let sandbox = Sandbox::new();
    let input = rows_file(&sandbox);
    let input = ["--input", input.to_str().unwrap()];
    for task in [&["--prompt", "Aloha"][..], &["--chat"], &input] {
        let mut program = program(&golden("llama"), &[task, &["--max-tokens", "2"]].concat());
        let full = fs_err::OpenOptions::new().write(true).open("/dev/full").unwrap();
        program.command().stdout(full.into_file());
        let ran = program.run_with_stdin("Aloha\n");
        assert_eq!(ran.code, Some(74), "{task:?}: {}", ran.stderr);
        ran.says(&["error: writing to stdout\n", "caused by: No space left on device"]);
    }
}

#[test]
fn compare_shows_the_base_beside_the_adapters() {
    let sandbox = Sandbox::new();
    let adapters = adapters(&sandbox);
    let adapters = ["--adapters", adapters.to_str().unwrap(), "--max-tokens", "24"];
    let ask = ["--prompt", "Aloha kakou"];
    let alone = text(&generate(&golden("llama"), &[&ask[..], &["--max-tokens", "24"]].concat()));
    let adapted = text(&generate(&golden("llama"), &[&ask[..], &adapters].concat()));
    assert_ne!(alone, adapted);
    let both = text(&generate(&golden("llama"), &[&ask[..], &adapters, &["--compare"]].concat()));
    assert_eq!(both, format!("=== base ===\n{alone}\n=== adapters ===\n{adapted}"));

    let input = sandbox.join("row.jsonl");
    fs_err::write(&input, json!({"prompt": "Aloha kakou"}).to_string()).unwrap();
    let rows = ["--input", input.to_str().unwrap(), "--compare"];
    let row = &lines(&generate(&golden("llama"), &[&rows[..], &adapters].concat()))[0];
    assert_eq!(row["base_generated"].as_str().unwrap().trim_end(), alone.trim_end());
    assert_eq!(row["generated"].as_str().unwrap().trim_end(), adapted.trim_end());
}

#[test]
fn answers_of_an_earlier_run_are_left_out() {
    let sandbox = Sandbox::new();
    let input = sandbox.join("rows.jsonl");
    let mut row = json!({"id": 7, "prompt": "Aloha"});
    for prefix in ["", "base_"] {
        for name in ["generated", "generated_tokens", "generated_ids", "finish_reason"] {
            row[format!("{prefix}{name}")] = json!("old");
        }
    }
    fs_err::write(&input, row.to_string()).unwrap();
    let rows = ["--input", input.to_str().unwrap(), "--max-tokens", "2"];
    let row = &lines(&generate(&golden("llama"), &rows))[0];
    let names: Vec<&str> = row.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, ["id", "prompt", "generated", "generated_tokens", "finish_reason"]);
    assert_ne!(row["generated"], "old");
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
    let talk = |lines: &str| {
        program(&golden("llama"), &["--chat", "--max-tokens", "6", "--verbose"]).run_with_stdin(lines)
    };
    let one = text(&talk("Aloha\n"));
    let two = talk("Aloha\n\nE komo mai\n/reset\nAloha\n/quit\nnever\n");
    let log = two.stderr.clone();
    let two = text(&two);
    assert!(two.starts_with(&one) && two.ends_with(&one) && two.len() > 2 * one.len(), "{two:?}");
    let turns: Vec<&str> = log.lines().filter(|line| line.starts_with("prompt ")).collect();
    assert_eq!(turns.len(), 3, "{log}");
    assert!(turns[1].contains(" cached) in "), "the first turn is not read again: {log}");
}

#[test]
fn unusable_arguments_are_named_with_a_hint() {
    let sandbox = Sandbox::new();
    let (none, empty, broken) = (sandbox.join("none"), sandbox.join("empty"), sandbox.join("broken"));
    fs_err::create_dir(&empty).unwrap();
    fs_err::create_dir(&broken).unwrap();
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        fs_err::copy(golden("llama").join(file), broken.join(file)).unwrap();
    }
    let llama = golden("llama");
    let adapters = ["--prompt", "x", "--adapters", broken.to_str().unwrap()];
    let cases: [(&Path, &[&str]); 5] = [
        (&none, &["--prompt", "x"]),
        (&empty, &["--prompt", "x"]),
        (&broken, &["--prompt", "x"]),
        (&llama, &adapters),
        (&llama, &["--prompt", "", "--raw"]),
    ];
    let reports = cases.map(|(model, arguments)| generate(model, arguments).failed(65));
    insta::assert_snapshot!(reports.concat(), @"
    error: opening the model
      caused by: artifact `[SANDBOX]/none` does not exist
    hint: give the folder that a stage printed, its label, or a folder that contains `config.json`
    error: opening the model
      caused by: `[SANDBOX]/empty` is not an artifact: it has no file `COMMIT`
    hint: give the folder that a stage printed, its label, or a folder that contains `config.json`
    error: loading the model
      caused by: `[SANDBOX]/broken` holds no model*.safetensors file
    hint: pass the folder that holds the weights and config.json of a model
    error: opening the adapters
      caused by: `[SANDBOX]/broken` is not an artifact: it has no file `COMMIT`
    hint: give the folder that a stage printed, its label, or a folder that contains `adapter_config.json`
    error: reading the prompt
      caused by: the prompt is empty
    ");
    generate(&llama, &[]).failed(2);
    generate(&llama, &["--prompt", "x", "--top-p", "2"]).failed(2);
}

#[test]
fn a_bad_row_is_named_before_any_work() {
    let sandbox = Sandbox::new();
    let input = sandbox.join("rows.jsonl");
    let asked = |rows: &str| {
        fs_err::write(&input, rows).unwrap();
        generate(&golden("llama"), &["--input", input.to_str().unwrap()]).failed(65)
    };
    let reports = [
        "{\"prompt\": \"a\"}\n{\"question\": \"b\"}\n",
        "{\"prompt_tokens\": [1, 99999]}\n",
        "{\"prompt_tokens\": 1}\n",
        "{\"prompt\": 5}\n",
        "{\"messages\": []}\n",
    ]
    .map(asked);
    insta::assert_snapshot!(reports.concat(), @"
    error: reading the rows
      caused by: [SANDBOX]/rows.jsonl:2: the row has no prompt; its fields are `question`
    hint: a row has `prompt` (text or messages), `messages` (and perhaps `tools`), or `prompt_tokens` (a list of ids)
    error: reading the rows
      caused by: [SANDBOX]/rows.jsonl:1: token 99999 is not one of the model's 384
    hint: a row has `prompt` (text or messages), `messages` (and perhaps `tools`), or `prompt_tokens` (a list of ids)
    error: reading the rows
      caused by: [SANDBOX]/rows.jsonl:1: `prompt_tokens` is not a list of token ids
    hint: a row has `prompt` (text or messages), `messages` (and perhaps `tools`), or `prompt_tokens` (a list of ids)
    error: reading the rows
      caused by: [SANDBOX]/rows.jsonl:1: `prompt` is neither text nor messages
    hint: a row has `prompt` (text or messages), `messages` (and perhaps `tools`), or `prompt_tokens` (a list of ids)
    error: reading the rows
      caused by: [SANDBOX]/rows.jsonl:1: the conversation has no question
    hint: a row has `prompt` (text or messages), `messages` (and perhaps `tools`), or `prompt_tokens` (a list of ids)
    ");
    let same = ["--input", input.to_str().unwrap(), "--output", input.to_str().unwrap()];
    insta::assert_snapshot!(generate(&golden("llama"), &same).failed(2), @"error: `--output` would overwrite the file of `--input`");
}

/// Runs in a pseudo-terminal, made by `script`.
#[cfg(target_os = "linux")]
mod terminal {
    use std::io::{Read as _, Write as _};
    use std::process::{Child, ChildStdin, Command, Stdio};
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    use super::*;

    struct Terminal {
        child: Child,
        keys: ChildStdin,
        screen: Arc<Mutex<Vec<u8>>>,
    }

    impl Terminal {
        fn start(arguments: &str) -> Option<Self> {
            let model = golden("llama");
            // A shell that stays would receive the Ctrl-C too and exit with 130.
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
        terminal.wait_for(|screen| screen.contains("press Ctrl-C again, or type /quit, to leave"));
        terminal.press("Aloha\n");
        terminal.wait_for(|screen| prompts(screen) >= 3);
        terminal.press("/quit\n");
        assert_eq!(terminal.child.wait().unwrap().code(), Some(0));
    }
}
