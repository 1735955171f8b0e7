//! Kills and errors at every system call of a program, by means of `strace`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::program::{Program, Ran};

/// Calls on which publishing rests.
const CALLS: [&str; 20] = [
    "openat",
    "read",
    "write",
    "close",
    "fsync",
    "mkdir",
    "unlink",
    "unlinkat",
    "rmdir",
    "rename",
    "renameat2",
    "chmod",
    "fchmod",
    "flock",
    "getdents64",
    "statx",
    "newfstatat",
    "copy_file_range",
    "ioctl",
    "utimensat",
];
/// Calls that may fail, with the errors that they may fail with.
const ERRORS: [(&str, &[&str]); 12] = [
    ("openat", &["EMFILE", "EIO", "EINTR", "ENOSPC", "EROFS", "EDQUOT"]),
    ("write", &["ENOSPC", "EIO", "EDQUOT", "EINTR"]),
    ("read", &["EIO", "EINTR"]),
    ("fsync", &["EIO", "ENOSPC", "EDQUOT", "EINTR"]),
    ("mkdir", &["ENOSPC", "EDQUOT", "EROFS"]),
    ("rename", &["ENOSPC", "EIO", "EROFS"]),
    ("renameat2", &["ENOSPC", "EIO", "EROFS"]),
    ("chmod", &["EIO", "EROFS"]),
    ("getdents64", &["EIO", "EINTR"]),
    ("unlinkat", &["EIO", "EROFS"]),
    ("unlink", &["EIO", "EROFS"]),
    ("copy_file_range", &["EIO", "ENOSPC", "EDQUOT"]),
];

/// Returns a program under `strace` with the given options, which writes the file `trace` into the folder it runs in.
pub fn traced(program: &Path, options: &[&str]) -> Program {
    let mut strace = Program::new("strace");
    strace.args(["-f", "-qq", "-o", "trace"]).args(options).arg(program);
    strace
}

/// System calls of a run by name: how many the loader makes before the program begins, and how many there are.
pub struct Calls(BTreeMap<String, (usize, usize)>);

/// A disturbance of one system call.
#[derive(Debug, Clone)]
pub struct Point {
    /// Option of `strace` that brings it about.
    pub rule: String,
    /// Name of the call.
    pub call: &'static str,
    /// Error that the call returns; `None` for a kill.
    pub error: Option<&'static str>,
}

impl Calls {
    /// Counts the calls of `run`, a successful run in `folder` of a program from [`traced`], beside those of `program --version`.
    ///
    /// Returns `None`, with a message, where there is no `strace` or it cannot trace.
    ///
    /// # Panics
    ///
    /// If the run fails although `strace` works.
    #[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
    pub fn count(program: &Path, folder: &Path, run: impl FnOnce() -> Ran) -> Option<Self> {
        let works = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
        if !works.is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: `strace` cannot trace here");
            return None;
        }
        run().succeeded();
        let whole = read(&folder.join("trace"));
        traced(program, &[]).current_dir(folder).arg("--version").run().succeeded();
        // The loader's calls come first, and do not depend on the arguments.
        let start = read(&folder.join("trace"));
        let pair = |(name, all): (String, usize)| {
            let before = start.get(&name).copied().unwrap_or(0);
            (name, (before, all))
        };
        Some(Self(whole.into_iter().map(pair).collect()))
    }

    /// Lists kills at every `every`-th call.
    pub fn kills(&self, every: usize) -> Vec<Point> {
        let point = |call, turn| {
            let rule = format!("inject={call}:signal=SIGKILL:when={turn}");
            Point { rule, call, error: None }
        };
        CALLS.iter().flat_map(|call| self.turns(call, 0, every).map(|turn| point(*call, turn))).collect()
    }

    /// Lists every error at every `every`-th call.
    pub fn errors(&self, every: usize) -> Vec<Point> {
        let mut points = Vec::new();
        for (call, errors) in ERRORS {
            for (index, error) in errors.iter().enumerate() {
                points.extend(self.turns(call, index, every).map(|turn| {
                    let rule = format!("inject={call}:error={error}:when={turn}");
                    Point { rule, call, error: Some(error) }
                }));
            }
        }
        points
    }

    fn turns(&self, call: &str, offset: usize, every: usize) -> impl Iterator<Item = usize> + use<> {
        let (start, all) = self.0.get(call).copied().unwrap_or_default();
        (start + 1 + offset..=all).step_by(every)
    }
}

/// Counts the calls in a trace by name.
fn read(trace: &Path) -> BTreeMap<String, usize> {
    let text = fs_err::read_to_string(trace).unwrap_or_default();
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let call = line.split_whitespace().nth(1).and_then(|word| word.split_once('('));
        if let Some((name, _)) = call {
            *found.entry(name.to_owned()).or_default() += 1;
        }
    }
    found
}

/// Returns N of `ASHLAR_EVERY=N`, which makes tests try every N-th call, or `usual`.
///
/// # Panics
///
/// If it is not a number.
pub fn every(usual: usize) -> usize {
    std::env::var("ASHLAR_EVERY").map_or(usual, |text| text.parse().expect("ASHLAR_EVERY is a number"))
}

/// Checks how a program with a failing call ended.
///
/// # Panics
///
/// If it was killed, panicked, failed without naming a file, or took an interruption for a failure.
#[track_caller]
pub fn check_ending(ran: &Ran, point: &Point) {
    let what = format!("{}: {:?} {}", point.rule, ran.code, ran.stderr);
    assert!(ran.signal.is_none() && ran.code != Some(101), "{what}");
    if ran.code != Some(0) {
        // A message that cannot be written is not there; standard output has no file name.
        let is_named = ran.stderr.contains('`') || ran.stderr.is_empty() || ran.stderr.contains("stdout");
        assert!(is_named, "names no file: {what}");
        assert!(point.error != Some("EMFILE") || ran.code != Some(65), "blames an input: {what}");
        assert!(
            point.error != Some("EINTR") || point.call == "write",
            "an interruption is not an error: {what}"
        );
    }
}
