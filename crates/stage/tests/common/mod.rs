//! Runs the example stage `tally` as a process.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// Returns the built example program.
pub(crate) fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let path = test.ancestors().nth(2).unwrap().join("examples/tally");
        if !path.exists() {
            // `cargo test --test NAME` does not build examples.
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let built =
                Command::new(cargo).args(["build", "-q", "-p", "stage", "--example", "tally"]).status();
            assert!(built.unwrap().success());
        }
        path
    })
}

/// A folder with a store and an input file.
pub(crate) struct Home {
    dir: tempfile::TempDir,
}

/// What a run left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Returns the path that was printed.
    #[track_caller]
    pub(crate) fn path(&self) -> PathBuf {
        assert_eq!(self.code, 0, "{}", self.stderr);
        assert_eq!(self.stdout.lines().count(), 1, "{}", self.stdout);
        PathBuf::from(self.stdout.trim_end())
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Home {
    pub(crate) fn new() -> Self {
        let home = Self { dir: tempfile::tempdir().unwrap() };
        home.write("data.txt", "one\ntwo\nthree\n");
        home
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.path().join("artifacts")
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        fs_err::write(&path, text).unwrap();
        path
    }

    /// Prepares a run with `--data data.txt` and further arguments, separated by spaces.
    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(program());
        command.current_dir(self.path()).args(["--data", "data.txt"]).args(arguments.split_whitespace());
        command.env_remove("ASHLAR_STORE").env_remove("ASHLAR_FAULT").env_remove("SOURCE_DATE_EPOCH");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, arguments: &str) -> Ran {
        self.command(arguments).output().unwrap().into()
    }

    pub(crate) fn run_with(&self, arguments: &str, name: &str, value: &str) -> Ran {
        self.command(arguments).env(name, value).output().unwrap().into()
    }

    /// Lists all visible artifacts of the stage; each must verify.
    pub(crate) fn artifacts(&self) -> Vec<PathBuf> {
        let Ok(dir) = fs_err::read_dir(self.store().join("tally")) else { return Vec::new() };
        let paths: Vec<PathBuf> = dir
            .map(|entry| entry.unwrap().path())
            .filter(|path| !path.file_name().unwrap().to_str().unwrap().starts_with('.'))
            .collect();
        for path in &paths {
            artifact::Artifact::open_with(path, artifact::Level::Hash).unwrap();
        }
        paths
    }

    /// Lists what is left of unfinished work in the stage's folder.
    pub(crate) fn leftovers(&self) -> usize {
        let Ok(dir) = fs_err::read_dir(self.store().join("tally")) else { return 0 };
        dir.filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with('.')).count()
    }
}
