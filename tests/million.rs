//! Memory of preparing and training on many rows: a few bytes per row, independent of their content.
//!
//! `ASHLAR_ROWS=1000000` (`make million`) runs the full size, which takes minutes per case.

#![cfg(target_os = "linux")]

use std::fmt::Write as _;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use outputs::{Document as _, Stats};
use testutil::{Program, Ran, Sandbox};

/// Memory that a million rows may need beyond that of a few thousand.
const BYTES_FOR_A_MILLION: u64 = 300 << 20;
/// Difference of a program's memory between equal runs.
const NOISE_BYTES: u64 = 8 << 20;
/// Number of rows of the small dataset, the base of the comparison.
const FEW: usize = 5_000;

fn rows() -> Result<usize> {
    match std::env::var("ASHLAR_ROWS") {
        Ok(rows) => rows.parse().context("`ASHLAR_ROWS` is a number of rows"),
        Err(_) => Ok(25_000),
    }
}

/// Returns a hash of `seed`.
fn mixed(seed: usize) -> u64 {
    let mut mixed = (seed as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed ^ (mixed >> 31)
}

/// Writes rows of about twenty words in groups of two; one row in 500 repeats the text of another.
fn generate(folder: &Path, rows: usize) -> Result<PathBuf> {
    let path = folder.join(format!("{rows}.jsonl"));
    let mut file = BufWriter::new(fs_err::File::create(&path)?);
    let mut line = String::new();
    for row in 0..rows {
        let text = if row % 500 == 499 { row - 250 } else { row };
        line.clear();
        write!(line, "{{\"prompt\":\"He aha ka helu")?;
        for word in 0..8 {
            write!(line, " w{}", mixed(16 * text + word) % 50_000)?;
        }
        write!(line, "?\",\"completion\":\"")?;
        for word in 0..4 {
            write!(line, "h{} no ", mixed(16 * text + 8 + word) % 5_000)?;
        }
        writeln!(line, "{text}\",\"group\":\"group {}\"}}", row / 2)?;
        file.write_all(line.as_bytes())?;
    }
    file.flush()?;
    Ok(path)
}

/// Runs a program to its end; returns its outcome, its peak resident memory in bytes, and its duration.
fn watched(program: &mut Program) -> Result<(Ran, u64, Duration)> {
    let begun = Instant::now();
    let mut child = program.spawn();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait()?.is_none() {
        let text = fs_err::read_to_string(&status).unwrap_or_default();
        let kibibytes = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak = kibibytes.and_then(|number| number.trim().parse().ok()).unwrap_or(0).max(peak);
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok((child.wait_with_output()?.into(), peak << 10, begun.elapsed()))
}

/// Makes a dataset of `rows` rows and trains two steps on it; returns the peak memory of both programs.
fn peaks(sandbox: &Sandbox, model: &str, rows: usize, by: &str) -> Result<[u64; 2]> {
    let data = generate(sandbox.path(), rows)?;
    let train = "batch_size = 4\nnum_layers = 1\nkeys = ['self_attn.q_proj']\nwarmup_steps = 0\nsteps = 2";
    let prepare = format!("on_leak = 'drop'\nsplit = {{ by = '{by}' }}");
    let settings = format!("[prepare-data]\n{prepare}\n[train]\n{train}\n");
    let config = sandbox.write(&format!("{by}.toml"), settings);
    let stage = |stage: &str| {
        let mut program = Program::built(stage);
        program.arg("--config").arg(&config).arg("--store").arg(sandbox.store());
        program
    };
    let mut prepare = stage("prepare-data");
    let (ran, prepared, prepare_time) = watched(prepare.args(["--tokenizer", model, "--data"]).arg(&data))?;
    let dataset = ran.path();
    let dropped = Stats::read(&dataset.join("data").join(Stats::FILE))?.leaks.dropped_train_rows.count;
    ensure!(dropped > rows as u64 / 20_000, "only {dropped} repeated rows were dropped");
    let mut train = stage("train");
    let (ran, trained, train_time) = watched(train.args(["--model", model, "--dataset"]).arg(&dataset))?;
    ran.path();
    let line = format!(
        "{rows} rows by {by}: prepare-data {} MiB in {prepare_time:.1?}, train {} MiB in {train_time:.1?}\n",
        prepared >> 20,
        trained >> 20
    );
    std::io::stderr().write_all(line.as_bytes())?;
    fs_err::remove_file(data)?;
    Ok([prepared, trained])
}

/// Compares the memory for many rows with that for few, split by `by`.
fn compare(by: &str) -> Result<()> {
    let sandbox = Sandbox::new();
    let model = sandbox.model("tests/golden/gemma3_text");
    let many = rows()?;
    let few = peaks(&sandbox, &model, FEW, by)?;
    let peaks = peaks(&sandbox, &model, many, by)?;
    let allowed = NOISE_BYTES + BYTES_FOR_A_MILLION * (many - FEW) as u64 / 1_000_000;
    for ((few, many), stage) in few.into_iter().zip(peaks).zip(["prepare-data", "train"]) {
        let more = many.saturating_sub(few);
        ensure!(more <= allowed, "{stage} by {by}: {more} bytes more, {allowed} allowed");
    }
    Ok(())
}

#[test]
fn memory_grows_by_some_bytes_per_row() -> Result<()> {
    compare("ratio")
}

#[test]
fn memory_grows_by_some_bytes_per_row_in_groups_of_two() -> Result<()> {
    compare("group")
}
