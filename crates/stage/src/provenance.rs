//! Provenance of a run: times, machine and arguments, which differ between runs.

use std::cell::Cell;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use artifact::{format_utc, now};
use serde_json::{Value, json};

/// Environment variables that may explain a difference between two runs.
const ENVIRONMENT: [&str; 5] =
    ["ASHLAR_STORE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "OMP_NUM_THREADS", "RAYON_NUM_THREADS"];

/// Provenance of a run, recorded from its start.
#[derive(Debug)]
pub(crate) struct Recorder {
    begun: Instant,
    start: SystemTime,
    resumed: Cell<bool>,
}

impl Recorder {
    pub(crate) fn start() -> Self {
        Self { begun: Instant::now(), start: now(), resumed: Cell::new(false) }
    }

    /// Returns the time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Records whether the run resumed from an earlier one.
    pub(crate) fn note_resumed(&self, resumed: bool) {
        self.resumed.set(resumed);
    }

    /// Returns whether output must be reproducible to the byte, because `SOURCE_DATE_EPOCH` is set.
    pub(crate) fn is_reproducible() -> bool {
        std::env::var_os("SOURCE_DATE_EPOCH").is_some()
    }

    /// Returns the content of `provenance.json`.
    pub(crate) fn finish(&self) -> Value {
        let tool = json!({
            "name": program_name(), "version": env!("CARGO_PKG_VERSION"), "rust": env!("CARGO_PKG_RUST_VERSION"),
        });
        let platform = json!({"os": std::env::consts::OS, "arch": std::env::consts::ARCH});
        if Self::is_reproducible() {
            return json!({"tool": tool, "platform": platform});
        }
        let mut provenance = json!({
            "tool": tool,
            "platform": platform,
            "arguments": redacted_arguments(std::env::args().skip(1)),
            "start": format_utc(self.start),
            "end": format_utc(now()),
            "wall_seconds": (self.begun.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
            "cpu_seconds": cpu_seconds(),
            "resumed": self.resumed.get(),
            "threads": std::thread::available_parallelism().map_or(1, usize::from),
        });
        let environment: serde_json::Map<String, Value> = ENVIRONMENT
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?.into())))
            .filter(|(name, _)| name != "ASHLAR_STORE")
            .collect();
        let optional: [(&str, Option<Value>); 5] = [
            ("cpu", cpu_model().map(Value::from)),
            ("memory_bytes", proc_kilobytes("/proc/meminfo", "MemTotal:").map(Value::from)),
            ("peak_memory_bytes", proc_kilobytes("/proc/self/status", "VmHWM:").map(Value::from)),
            ("git", git()),
            ("environment", Some(environment.into()).filter(|value: &Value| value != &json!({}))),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                provenance[name] = value;
            }
        }
        provenance
    }
}

fn program_name() -> String {
    let program = std::env::args().next().unwrap_or_default();
    program.rsplit('/').next().unwrap_or_default().to_owned()
}

/// Keeps flags and settings, and replaces paths with `…`.
fn redacted_arguments(arguments: impl Iterator<Item = String>) -> Vec<String> {
    let redact = |text: &str| {
        if text.contains('/') || text.contains('~') { "…".to_owned() } else { text.to_owned() }
    };
    arguments
        .map(|argument| match argument.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => format!("{flag}={}", redact(value)),
            _ => redact(&argument),
        })
        .collect()
}

fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let milliseconds = time.tv_sec * 1000 + time.tv_nsec / 1_000_000;
    milliseconds as f64 / 1000.0
}

fn proc_kilobytes(path: &str, field: &str) -> Option<u64> {
    let text = fs_err::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

fn cpu_model() -> Option<String> {
    let text = fs_err::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Returns the revision of the git repository in the current folder, if any.
fn git() -> Option<Value> {
    let run = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output();
        let output = output.ok().filter(|output| output.status.success())?;
        String::from_utf8(output.stdout).ok()
    };
    let revision = run(&["rev-parse", "HEAD"])?;
    let dirty = run(&["status", "--porcelain", "--untracked-files=no"]).is_none_or(|text| !text.is_empty());
    Some(json!({"revision": revision.trim(), "dirty": dirty}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_redacted_and_settings_are_kept() {
        let arguments = ["--model", "/home/me/m", "--set", "train.rank=8", "--out=/x/y", "-v"];
        let kept = redacted_arguments(arguments.iter().map(ToString::to_string));
        assert_eq!(kept, ["--model", "…", "--set", "train.rank=8", "--out=…", "-v"]);
    }
}
