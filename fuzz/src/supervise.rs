//! Runs a target in a separate process and watches it: an abort or a hang cannot be caught inside.

use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use failure::{Context as _, Result};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::mutate::Inputs;
use crate::targets::Target;

/// Time of one input before it counts as a hang.
const HANG: Duration = Duration::from_secs(10);
/// Address space of the process, in bytes.
const MAX_BYTES: u64 = 4 << 30;
/// Findings after which a target is given up.
const MAX_FINDINGS: usize = 5;
const POLL: Duration = Duration::from_millis(100);

/// Runs one input in this process.
pub(crate) fn run_one(target: &Target, input: &[u8]) -> Result<()> {
    let folder = tempfile::tempdir()?;
    (target.run)(folder.path(), input)
}

/// Runs inputs from number `first` on until the time is over; writes each number to the file `progress` before.
pub(crate) fn run_as_child(
    target: &Target,
    inputs: &Inputs,
    first: u64,
    progress: &Path,
    time: Duration,
) -> Result<()> {
    let limit = Rlimit { current: Some(MAX_BYTES), maximum: Some(MAX_BYTES) };
    setrlimit(Resource::As, limit).map_err(io::Error::from).context("limiting the memory")?;
    let progress = fs_err::OpenOptions::new().write(true).open(progress)?;
    let folder = tempfile::tempdir()?;
    let begun = Instant::now();
    let mut number = first;
    while begun.elapsed() < time {
        progress.file().write_all_at(&number.to_le_bytes(), 0)?;
        (target.run)(folder.path(), &inputs.get(number))?;
        number += 1;
    }
    progress.file().write_all_at(&number.to_le_bytes(), 0)?;
    Ok(())
}

/// Runs a target for `time`; saves the inputs that show a fault and returns their number.
pub(crate) fn watch(
    target: &Target,
    inputs: &Inputs,
    corpus: &Path,
    findings: &Path,
    time: Duration,
) -> Result<usize> {
    let progress = tempfile::NamedTempFile::new()?;
    let begun = Instant::now();
    let (mut number, mut found) = (0, 0);
    while begun.elapsed() < time && found < MAX_FINDINGS {
        progress.as_file().write_all_at(&number_bytes(number), 0)?;
        let left = time.saturating_sub(begun.elapsed()).as_secs_f64().ceil();
        let mut child = Command::new(std::env::current_exe()?)
            .args([target.name, "--seconds", &left.to_string(), "--seed", &inputs.seed.to_string()])
            .arg("--corpus")
            .arg(corpus)
            .args(["--child", &number.to_string()])
            .arg(progress.path())
            .stderr(Stdio::piped())
            .spawn()?;
        let (mut seen, mut since) = (number, Instant::now());
        let fault = loop {
            std::thread::sleep(POLL);
            let at = read_number(&progress)?;
            if let Some(status) = child.try_wait()? {
                number = at;
                break (!status.success()).then(|| format!("ended with {status}"));
            }
            if at != seen {
                (seen, since) = (at, Instant::now());
            } else if since.elapsed() > HANG {
                child.kill()?;
                number = at;
                break Some(format!("took more than {} s", HANG.as_secs()));
            }
        };
        let output = child.wait_with_output()?;
        let Some(fault) = fault else { continue };
        found += 1;
        save(target, inputs, number, findings, &fault, &output.stderr)?;
        number += 1;
    }
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{}: {number} inputs in {:.0} s, {found} findings",
        target.name,
        begun.elapsed().as_secs_f64()
    )?;
    Ok(found)
}

fn save(
    target: &Target,
    inputs: &Inputs,
    number: u64,
    findings: &Path,
    fault: &str,
    stderr: &[u8],
) -> Result<()> {
    fs_err::create_dir_all(findings)?;
    let path = findings.join(format!("{}-{}-{number}", target.name, inputs.seed));
    fs_err::write(&path, inputs.get(number))?;
    let text = String::from_utf8_lossy(stderr);
    let first: String = text.trim().chars().take(600).collect();
    let mut out = io::stdout().lock();
    Ok(writeln!(out, "{}: input {number} {fault}; saved in `{}`\n  {first}", target.name, path.display())?)
}

fn number_bytes(number: u64) -> [u8; 8] {
    number.to_le_bytes()
}

fn read_number(file: &tempfile::NamedTempFile) -> Result<u64> {
    let mut bytes = [0; 8];
    file.as_file().read_exact_at(&mut bytes, 0)?;
    Ok(u64::from_le_bytes(bytes))
}
