//! Runs the example stage `tally` as a process.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use testutil::{Program, Ran, Sandbox};

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
    sandbox: Sandbox,
}

impl Home {
    pub(crate) fn new() -> Self {
        let home = Self { sandbox: Sandbox::new() };
        home.write("data.txt", "one\ntwo\nthree\n");
        home
    }

    pub(crate) fn path(&self) -> &Path {
        self.sandbox.path()
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.sandbox.store()
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        self.sandbox.write(name, text)
    }

    /// Prepares a run with `--data data.txt` and further arguments, separated by spaces.
    pub(crate) fn command(&self, arguments: &str) -> Program {
        let mut command = self.sandbox.program(program());
        command.args(["--data", "data.txt"]).args(arguments.split_whitespace());
        command
    }

    pub(crate) fn run(&self, arguments: &str) -> Ran {
        self.command(arguments).run()
    }

    pub(crate) fn run_with(&self, arguments: &str, name: &str, value: &str) -> Ran {
        self.command(arguments).env(name, value).run()
    }

    /// Lists all visible artifacts; each must verify.
    pub(crate) fn artifacts(&self) -> Vec<String> {
        let all = self.sandbox.trees().into_keys();
        all.filter(|name| name.starts_with("tally/")).collect()
    }

    /// Counts the remains of unfinished work in the stage's folder.
    pub(crate) fn leftovers(&self) -> usize {
        let Ok(dir) = fs_err::read_dir(self.store().join("tally")) else { return 0 };
        dir.filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with('.')).count()
    }
}
