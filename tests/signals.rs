//! A signal ends work within five seconds, while a stage hashes, copies, tokenizes or validates, and while `generate` waits for others.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use testutil::{Program, Ran, Sandbox, golden, trees};

/// Longest time from a signal to the end.
const PROMISED: Duration = Duration::from_secs(5);
/// Time for a busy machine to notice that.
const SLACK: Duration = Duration::from_secs(2);

/// Sends SIGTERM and checks that the process ends with 143, in time and without a result.
fn terminate(child: Child) -> Result<Ran> {
    let pid = Pid::from_raw(child.id().cast_signed()).context("a child has an id")?;
    let begun = Instant::now();
    kill_process(pid, Signal::TERM)?;
    let ran = Ran::from(child.wait_with_output()?);
    let took = begun.elapsed();
    ensure!(took < PROMISED + SLACK, "it took {took:?}: {}", ran.stderr);
    ensure!((ran.code, ran.stdout.as_str()) == (Some(143), ""), "{:?} {}", ran.code, ran.stderr);
    Ok(ran)
}

fn rows(count: usize) -> String {
    let row = |row: usize| format!("{{\"prompt\":\"word {row}\",\"completion\":\"answer {row}\"}}\n");
    (0..count).map(row).collect()
}

/// Sends SIGTERM shortly after the process has said `text`, as [`terminate`] does; the result has all of its stderr.
fn terminate_after(text: &str, mut child: Child) -> Result<Ran> {
    let mut stderr = BufReader::new(child.stderr.take().context("stderr is piped")?);
    let mut said = String::new();
    while !said.contains(text) {
        ensure!(stderr.read_line(&mut said)? > 0, "`{text}` is missing in:\n{said}");
    }
    let rest = std::thread::spawn(move || stderr.read_to_string(&mut said).map(|_| said));
    sleep(Duration::from_millis(300));
    let mut ran = terminate(child)?;
    ran.stderr = rest.join().ok().context("the reader does not panic")??;
    Ok(ran)
}

#[test]
fn a_validation_is_interrupted_and_the_resumed_run_has_the_same_bytes() -> Result<()> {
    let sandbox = Sandbox::new();
    let model = sandbox.model("tests/golden/gemma3_text");
    // Each validation takes some seconds.
    for (name, count) in [("train", 16), ("validation", 2000), ("test", 2)] {
        sandbox.write(&format!("data/{name}.jsonl"), rows(count));
    }
    let program = |name: &str| sandbox.program(testutil::built_programs().join(name));
    let dataset = program("prepare-data")
        .args(["--tokenizer", &model, "--data", "data", "--set", "on_leak=allow"])
        .run()
        .path_text();
    let train = |store: &str| {
        let mut train = program("train");
        train.args(["--model", &model, "--dataset", &dataset, "--store", store, "--save-every", "100"]);
        for setting in ["steps=2", "report_every=1", "validation_every=1", "batch_size=1"] {
            train.args(["--set", setting]);
        }
        train
    };
    for said in ["50% 1/2", "resuming after step 1"] {
        let ran = terminate_after(said, train("cut").spawn())?;
        ran.says(&["saved a resume state after step 1", "run the same command again"]);
        ensure!(!ran.stderr.contains("validation loss"), "it went on: {}", ran.stderr);
    }
    ensure!(trees(&sandbox.join("cut")).is_empty(), "an unfinished run is published");
    let (cut, unbroken) = (train("cut").run(), train("unbroken").run());
    cut.says(&["resuming after step 1"]);
    cut.path();
    unbroken.path();
    ensure!(trees(&sandbox.join("cut")) == trees(&sandbox.join("unbroken")), "{}", cut.stderr);
    Ok(())
}

#[test]
fn a_run_that_keeps_no_state_says_so_when_it_is_interrupted() -> Result<()> {
    let sandbox = Sandbox::new();
    let model = sandbox.model("tests/golden/gemma3_text");
    let dataset = sandbox.dataset(&model);
    let train = |more: &[&str]| {
        let mut train = sandbox.program(testutil::built_programs().join("train"));
        train.args(["--model", &model, "--dataset", &dataset, "--out", "out", "--set", "steps=1000000"]);
        train.args(["--set", "report_every=1"]).args(more);
        train
    };
    let ran = terminate_after("1/1000000", train(&[]).spawn())?;
    ran.says(&["nothing is kept of this run", "--resume-dir"]);
    ensure!(!ran.stderr.contains("to resume"), "{}", ran.stderr);
    // With a folder for the state, the message is true.
    terminate_after("1/1000000", train(&["--resume-dir", "kept"]).spawn())?.says(&["again to resume"]);
    let ran = terminate_after("resuming after step", train(&["--resume-dir", "kept"]).spawn())?;
    ran.says(&["again to resume"]);
    Ok(())
}

/// Sends SIGTERM once `ready` returns, and checks that the process ends with 143 and in time, while nobody touches its pipes.
fn terminate_untouched(mut child: Child, ready: fn(&mut Child) -> Result<()>) -> Result<()> {
    ready(&mut child)?;
    let pid = Pid::from_raw(child.id().cast_signed()).context("a child has an id")?;
    let begun = Instant::now();
    kill_process(pid, Signal::TERM)?;
    while begun.elapsed() < PROMISED + SLACK {
        if let Some(status) = child.try_wait()? {
            ensure!(status.code() == Some(143), "{status}");
            return Ok(());
        }
        sleep(Duration::from_millis(20));
    }
    child.kill()?;
    child.wait()?;
    bail!("it did not end by itself")
}

/// Waits until the process has loaded the model.
fn loaded(child: &mut Child) -> Result<()> {
    let mut said = String::new();
    BufReader::new(child.stderr.as_mut().context("stderr is piped")?).read_line(&mut said)?;
    ensure!(said.starts_with("loaded in "), "{said}");
    sleep(Duration::from_millis(300));
    Ok(())
}

/// Waits until the process has filled its stdout.
fn blocked(child: &mut Child) -> Result<()> {
    let stdout = child.stdout.as_ref().context("stdout is piped")?;
    let (begun, mut waiting) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_mins(1) {
        sleep(Duration::from_millis(300));
        let now = rustix::io::ioctl_fionread(stdout)?;
        if now > 0 && now == waiting {
            return Ok(());
        }
        waiting = now;
    }
    child.kill()?;
    bail!("it writes nothing")
}

fn generate(arguments: &[&str]) -> Program {
    let mut generate = Program::built("generate");
    generate.arg("--model").arg(golden("llama")).args(["--max-tokens", "1", "--verbose"]).args(arguments);
    generate
}

#[test]
fn generate_ends_while_it_waits_for_its_prompt() -> Result<()> {
    let mut program = generate(&["--prompt", "-"]);
    program.command().stdin(Stdio::piped());
    terminate_untouched(program.spawn(), loaded)
}

#[test]
fn generate_ends_while_nobody_reads_its_answers() -> Result<()> {
    let sandbox = Sandbox::new();
    // More than a pipe holds.
    let row = serde_json::json!({"prompt": "Aloha", "note": "x".repeat(1 << 20)});
    let rows = sandbox.write("rows.jsonl", row.to_string());
    terminate_untouched(generate(&["--input", &rows.to_string_lossy()]).spawn(), blocked)
}

#[test]
fn an_import_of_a_huge_file_is_interrupted() -> Result<()> {
    let sandbox = Sandbox::new();
    testutil::files::copy_files(&golden("llama"), &sandbox.join("model"));
    // 64 GiB without a byte on the disk; reading them takes a minute.
    let bytes = 1_u64 << 36;
    let header = format!(r#"{{"w":{{"dtype":"U8","shape":[{bytes}],"data_offsets":[0,{bytes}]}}}}"#);
    let path = sandbox.join("model/model.safetensors");
    fs_err::write(&path, [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat())?;
    let length = 8 + header.len() as u64 + bytes;
    fs_err::OpenOptions::new().write(true).open(path)?.set_len(length)?;
    let child = import(&sandbox, "model").spawn();
    sleep(Duration::from_millis(1500));
    terminate(child)?;
    ensure!(sandbox.trees().is_empty(), "an unfinished import is published");
    Ok(())
}

fn import(sandbox: &Sandbox, folder: &str) -> Program {
    let mut import = sandbox.program(testutil::built_programs().join("import-model"));
    import.args(["--model-dir", folder]);
    import
}

#[test]
fn a_dataset_of_many_rows_is_interrupted() -> Result<()> {
    let sandbox = Sandbox::new();
    sandbox.write("rows.jsonl", rows(3_000_000));
    let mut prepare = sandbox.program(testutil::built_programs().join("prepare-data"));
    prepare.arg("--tokenizer").arg(golden("gemma3_text")).args(["--data", "rows.jsonl"]);
    let child = prepare.spawn();
    sleep(Duration::from_secs(3));
    terminate(child)?;
    ensure!(sandbox.trees().is_empty(), "an unfinished dataset is published");
    ensure!(leftovers(&sandbox.store()) <= 1, "more than one staging folder is left");
    // The next run clears what was left.
    sandbox.write("rows.jsonl", rows(20));
    prepare.run().path();
    ensure!(leftovers(&sandbox.store()) == 0, "a staging folder is left");
    Ok(())
}

/// Counts the staging folders of prepare-data.
fn leftovers(store: &Path) -> usize {
    let Ok(entries) = fs_err::read_dir(store.join("prepare-data")) else { return 0 };
    entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with('.')).count()
}
