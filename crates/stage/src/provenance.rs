//! Provenance of a run: times, machine and arguments, which differ between runs.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant, SystemTime};

use artifact::{Memo, format_utc, now};
use serde_json::{Value, json};

use crate::program;

/// Environment variables that may explain a difference between two runs.
const ENVIRONMENT: [&str; 4] = ["HF_ENDPOINT", "HF_HUB_OFFLINE", "OMP_NUM_THREADS", "RAYON_NUM_THREADS"];

/// Provenance of a run, recorded from its start.
#[derive(Debug)]
pub(crate) struct Recorder {
    begun: Instant,
    start: SystemTime,
    resumed: Cell<bool>,
    resumed_from: RefCell<Option<Value>>,
    memo: Memo,
}

impl Recorder {
    /// Starts now; hashes of programs and libraries are remembered in `memo`.
    pub(crate) fn start(memo: Memo) -> Self {
        let (resumed, resumed_from) = (Cell::new(false), RefCell::new(None));
        Self { begun: Instant::now(), start: now(), resumed, resumed_from, memo }
    }

    /// Returns the time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Records whether the run used what an earlier process left, and the published artifact that it resumed from, if any.
    pub(crate) fn note_resumed(&self, resumed: bool, artifact: Option<Value>) {
        self.resumed.set(resumed || artifact.is_some());
        self.resumed_from.replace(artifact);
    }

    /// Returns whether output must be reproducible to the byte, because `SOURCE_DATE_EPOCH` is set.
    pub(crate) fn is_reproducible() -> bool {
        std::env::var_os("SOURCE_DATE_EPOCH").is_some()
    }

    /// Returns the content of `provenance.json`.
    pub(crate) fn finish(&self) -> Value {
        let mut tool = program::build();
        let (program, library) = program::hashes(&self.memo);
        tool["sha256"] = program.into();
        let platform = json!({"os": std::env::consts::OS, "arch": std::env::consts::ARCH});
        if Self::is_reproducible() {
            let mut provenance = json!({"tool": tool, "platform": platform});
            if let Some(library) = library {
                provenance["numeric_library"] = library;
            }
            return provenance;
        }
        let mut provenance = json!({
            "tool": tool,
            "platform": platform,
            "arguments": redacted_arguments(std::env::args_os().skip(1).map(|it| it.to_string_lossy().into_owned())),
            "start": format_utc(self.start),
            "end": format_utc(now()),
            "wall_seconds": (self.begun.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
            "cpu_seconds": cpu_seconds(),
            "resumed": self.resumed.get(),
            "threads": std::thread::available_parallelism().map_or(1, usize::from),
        });
        let environment: serde_json::Map<String, Value> = ENVIRONMENT
            .iter()
            .filter_map(|name| {
                let value = std::env::var(name).ok()?;
                Some(((*name).to_owned(), without_user_info(&value).into()))
            })
            .collect();
        let optional: [(&str, Option<Value>); 6] = [
            ("cpu", cpu_model().map(Value::from)),
            ("memory_bytes", proc_kilobytes("/proc/meminfo", "MemTotal:").map(Value::from)),
            ("peak_memory_bytes", proc_kilobytes("/proc/self/status", "VmHWM:").map(Value::from)),
            ("numeric_library", library),
            ("resumed_from", self.resumed_from.borrow().clone()),
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

/// Removes user names and passwords (between `://` and `@`) from the URLs in a text.
fn without_user_info(text: &str) -> String {
    let mut parts = text.split("://");
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let is_end = |c: char| matches!(c, '/' | '?' | '#' | '"' | '\'') || c.is_whitespace();
        let (host, rest) = part.split_at(part.find(is_end).unwrap_or(part.len()));
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        kept.extend(["://", host, rest]);
    }
    kept
}

/// Keeps flags and settings, and replaces paths with `…`. In a setting, only a value that is a path from the root is one. Addresses
/// lose names and passwords.
fn redacted_arguments(arguments: impl Iterator<Item = String>) -> Vec<String> {
    let hide = |text: &str, is_path: bool| if is_path { "…".to_owned() } else { without_user_info(text) };
    let is_path = |text: &str| text.contains('/') || text.contains('~');
    let is_absolute = |text: &str| text.starts_with('/') || text.starts_with('~');
    let mut is_setting = false;
    let mut redact = |argument: String| {
        let was_setting = std::mem::replace(&mut is_setting, argument == "--set");
        let (argument, lead) = match argument.strip_prefix("--set=") {
            Some(setting) => (setting.to_owned(), "--set="),
            None => (argument, ""),
        };
        let redacted = match argument.split_once('=') {
            Some((name, value)) if was_setting || !lead.is_empty() => {
                format!("{name}={}", hide(value, is_absolute(value)))
            }
            Some((flag, value)) if flag.starts_with("--") => {
                format!("{flag}={}", hide(value, is_path(value)))
            }
            _ => hide(&argument, is_path(&argument)),
        };
        format!("{lead}{redacted}")
    };
    arguments.map(&mut redact).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lose_names_and_passwords() {
        for (text, kept) in [
            ("https://user:token@mirror/", "https://mirror/"),
            ("https://to@ken@mirror:8080?x=a@b", "https://mirror:8080?x=a@b"),
            ("https://mirror/a@b", "https://mirror/a@b"),
            ("a@b", "a@b"),
            ("[\"http://a:b@x\", \"http://c@y\"]", "[\"http://x\", \"http://y\"]"),
        ] {
            assert_eq!(without_user_info(text), kept);
        }
        let arguments = ["--set", "data=https://user:token@mirror/x"].map(str::to_owned);
        assert_eq!(redacted_arguments(arguments.into_iter()), ["--set", "data=https://mirror/x"]);
    }

    #[test]
    fn paths_are_redacted_and_settings_are_kept() {
        let arguments = ["--model", "/home/me/m", "--set", "train.rank=8", "--out=/x/y", "-v"];
        let kept = redacted_arguments(arguments.iter().map(ToString::to_string));
        assert_eq!(kept, ["--model", "…", "--set", "train.rank=8", "--out=…", "-v"]);
        let arguments = ["--set", "system=be/nice", "--set=data=/home/me", "--model", "base=a/b", "base=c"];
        let kept = redacted_arguments(arguments.iter().map(ToString::to_string));
        assert_eq!(kept, ["--set", "system=be/nice", "--set=data=…", "--model", "…", "base=c"]);
    }
}
