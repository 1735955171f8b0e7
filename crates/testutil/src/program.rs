//! Programs as a user runs them: a clean environment, the exit code, and both streams.

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use regex::Regex;

use crate::files::workspace_root;

/// Variables of the caller that would change what a program does.
const REMOVED_VARIABLES: [&str; 14] = [
    "CLICOLOR_FORCE",
    "COLUMNS",
    "DATA",
    "MAKEFLAGS",
    "MAKELEVEL",
    "MAKEOVERRIDES",
    "MFLAGS",
    "MODEL",
    "MODEL_DIR",
    "PIPELINE",
    "RUST_LOG",
    "SET",
    "SOURCE_DATE_EPOCH",
    "STORE",
];
/// Prefixes of further such variables.
const REMOVED_PREFIXES: [&str; 2] = ["ASHLAR_", "HF_"];

/// A program about to run, with arguments added as for [`Command`].
///
/// Starts in the root of this checkout, with an empty stdin, both streams captured, and without the caller's variables
/// for these programs, the model hub and make.
#[derive(Debug)]
pub struct Program {
    command: Command,
}

impl Program {
    /// Returns the program at `path`, or the one of that name in `PATH`.
    pub fn new(path: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(path);
        command.current_dir(workspace_root());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            let is_ours = REMOVED_PREFIXES.iter().any(|prefix| text.starts_with(prefix));
            if is_ours || REMOVED_VARIABLES.contains(&&*text) {
                command.env_remove(&name);
            }
        }
        Self { command }
    }

    /// Returns a program of this workspace from [`built_programs`].
    pub fn built(name: &str) -> Self {
        Self::new(built_programs().join(name))
    }

    /// Adds an argument.
    pub fn arg(&mut self, argument: impl AsRef<OsStr>) -> &mut Self {
        self.command.arg(argument);
        self
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(&mut self, arguments: impl IntoIterator<Item = S>) -> &mut Self {
        self.command.args(arguments);
        self
    }

    /// Sets a variable of its environment.
    pub fn env(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        self.command.env(name, value);
        self
    }

    /// Sets the folder it runs in.
    pub fn current_dir(&mut self, folder: impl AsRef<Path>) -> &mut Self {
        self.command.current_dir(folder);
        self
    }

    /// Returns the command, for settings that have no method here.
    pub fn command(&mut self) -> &mut Command {
        &mut self.command
    }

    /// Starts the program.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    #[track_caller]
    pub fn spawn(&mut self) -> Child {
        self.command.spawn().unwrap_or_else(|error| panic!("cannot start {:?}: {error}", self.command))
    }

    /// Runs the program to its end.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    #[track_caller]
    pub fn run(&mut self) -> Ran {
        self.spawn().wait_with_output().expect("the output of a child can be read").into()
    }

    /// Runs the program to its end with `text` as its stdin.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    #[track_caller]
    pub fn run_with_stdin(&mut self, text: &str) -> Ran {
        self.command.stdin(Stdio::piped());
        let mut child = self.spawn();
        let mut stdin = child.stdin.take().expect("stdin is piped");
        let text = text.to_owned();
        // A program that ends before it has read everything is not an error here.
        let writer = std::thread::spawn(move || drop(stdin.write_all(text.as_bytes())));
        let output = child.wait_with_output().expect("the output of a child can be read");
        writer.join().expect("the writer does not panic");
        output.into()
    }
}

/// Returns the folder with the built programs of the workspace: the parent of the running test's `deps`.
///
/// # Panics
///
/// If they are not built: cargo does not build the programs of other packages for a test.
pub fn built_programs() -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    let folder = test.ancestors().nth(2).expect("a test is in `deps` of the build folder").to_owned();
    let hint = "`cargo build --workspace --bins` builds them (`make test` does both)";
    assert!(folder.join("train").is_file(), "no programs in `{}`: {hint}", folder.display());
    folder
}

/// The outcome of a process.
#[derive(Debug)]
pub struct Ran {
    /// Exit code, unless a signal ended the process.
    pub code: Option<i32>,
    /// Signal that ended the process.
    pub signal: Option<i32>,
    /// Standard output, read by programs.
    pub stdout: String,
    /// Standard error, read by people.
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("programs print UTF-8");
        Self { stdout: text(output.stdout), stderr: text(output.stderr), ..output.status.into() }
    }
}

impl From<ExitStatus> for Ran {
    fn from(status: ExitStatus) -> Self {
        Self { code: status.code(), signal: status.signal(), stdout: String::new(), stderr: String::new() }
    }
}

impl Ran {
    /// Returns the whole of stdout.
    ///
    /// # Panics
    ///
    /// If the process did not succeed.
    #[track_caller]
    pub fn succeeded(&self) -> &str {
        assert_eq!(self.code, Some(0), "signal {:?}\n{}\n{}", self.signal, self.stdout, self.stderr);
        &self.stdout
    }

    /// Returns the path of the artifact that a stage printed.
    ///
    /// # Panics
    ///
    /// If the process did not succeed, or if stdout is not exactly one line.
    #[track_caller]
    pub fn path(&self) -> PathBuf {
        let line = self.succeeded().strip_suffix('\n').unwrap_or_default();
        assert!(!line.is_empty() && !line.contains('\n'), "stdout is not one line:\n{}", self.stdout);
        line.into()
    }

    /// Returns [`Ran::path`] as text, to be an argument of the next program.
    #[track_caller]
    pub fn path_text(&self) -> String {
        self.path().into_os_string().into_string().expect("paths in tests are UTF-8")
    }

    /// Returns stderr as [`filtered`] shows it.
    ///
    /// # Panics
    ///
    /// If the exit code is not `code`, or if something is on stdout.
    #[track_caller]
    pub fn failed(&self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "signal {:?}\n{}\n{}", self.signal, self.stdout, self.stderr);
        assert_eq!(self.stdout, "", "a failed program prints nothing to stdout\n{}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        filtered(&self.stderr)
    }

    /// Fails unless stderr contains every one of `parts`.
    ///
    /// # Panics
    ///
    /// With the first part that is missing.
    #[track_caller]
    pub fn says(&self, parts: &[&str]) {
        for part in parts {
            assert!(self.stderr.contains(part), "`{part}` is missing in:\n{}", self.stderr);
        }
    }
}

/// Replaces what differs between runs, for snapshots: temporary folders, this checkout, hashes, durations and rates.
pub fn filtered(text: &str) -> String {
    let temporary = regex::escape(&std::env::temp_dir().to_string_lossy());
    let root = workspace_root();
    let root = root.canonicalize().unwrap_or(root);
    let root = regex::escape(&root.to_string_lossy());
    let filters = [
        (format!(r"(/private)?{temporary}/\.tmp[A-Za-z0-9]+"), "[SANDBOX]"),
        (root, "[REPOSITORY]"),
        (r"\b[0-9a-f]{64}\b".to_owned(), "[HASH]"),
        (r"\b[0-9a-f]{16}\b".to_owned(), "[HASH]"),
        (r"\b\d+(\.\d+)? ?(ms|s|seconds?|minutes?)\b".to_owned(), "[TIME]"),
        (r"\b\d+ tokens/s\b".to_owned(), "[RATE] tokens/s"),
    ];
    filters.iter().fold(text.to_owned(), |text, (pattern, replacement)| {
        let pattern = Regex::new(pattern).expect("the filters are valid");
        pattern.replace_all(&text, *replacement).into_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_hide_what_differs_between_runs() {
        let sandbox = tempfile::tempdir().unwrap();
        let text = format!(
            "`{}/a`, `{}/data`: {} in 1.5 s, train/0123456789abcdef-lora",
            sandbox.path().display(),
            workspace_root().display(),
            "0a".repeat(32),
        );
        assert_eq!(
            filtered(&text),
            "`[SANDBOX]/a`, `[REPOSITORY]/data`: [HASH] in [TIME], train/[HASH]-lora"
        );
    }

    #[test]
    fn streams_and_exit_code_are_captured() {
        let ran = Program::new("sh").args(["-c", "cat; echo no >&2; exit 3"]).run_with_stdin("yes\n");
        assert_eq!((ran.code, &*ran.stdout, &*ran.stderr), (Some(3), "yes\n", "no\n"));
        let killed = Program::new("sh").args(["-c", "kill -KILL $$"]).run();
        assert_eq!((killed.code, killed.signal), (None, Some(9)));
    }
}
