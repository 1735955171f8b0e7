//! The programs as a user runs them, and what they left.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use artifact::{Artifact, Level, TreeHash};

use crate::root;

/// Returns the folder with the built programs: the one beside the folder of the running test.
///
/// # Panics
///
/// When they were not built: cargo does not build the programs of other packages for a test.
pub fn programs() -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    let folder = test.ancestors().nth(2).expect("it lies in `deps` of the build folder").to_owned();
    let hint = "`cargo build --workspace --bins` makes them (`make test` does both)";
    assert!(folder.join("train").is_file(), "no programs in `{}`: {hint}", folder.display());
    folder
}

/// Returns a command without the variables that would change what a program does, in the repository's root.
pub fn command(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new(program.as_ref());
    command.current_dir(root()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for name in ["ASHLAR_STORE", "ASHLAR_FAULT", "ASHLAR_MIN_FREE_BYTES", "SOURCE_DATE_EPOCH"] {
        command.env_remove(name);
    }
    // A test run by `make test` is no part of that make, and its settings are not for the make of a test.
    for name in ["MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "MODEL", "PIPELINE", "STORE", "SET"] {
        command.env_remove(name);
    }
    command
}

/// How a program ended.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code, unless a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// What it printed for programs.
    pub stdout: String,
    /// What it printed for people.
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            signal: output.status.signal(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ran {
    /// Returns the artifact that was printed: one line, nothing else.
    pub fn path(&self) -> Result<PathBuf> {
        ensure!(self.code == Some(0), "ended with {:?}:\n{}", self.code, self.stderr);
        let line = self.stdout.strip_suffix('\n').context("stdout does not end in a newline")?;
        ensure!(!line.is_empty() && !line.contains('\n'), "stdout is not one line:\n{}", self.stdout);
        Ok(line.into())
    }
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Result<Ran> {
    Ok(command.output().with_context(|| format!("running {command:?}"))?.into())
}

/// Returns the tree hash of every visible artifact of a store, by `STAGE/NAME`; every byte of each is verified.
pub fn trees(store: &Path) -> Result<BTreeMap<String, TreeHash>> {
    let mut found = BTreeMap::new();
    for stage in visible(store)? {
        for name in visible(&store.join(&stage))? {
            let artifact = Artifact::open_with(&store.join(&stage).join(&name), Level::Hash)?;
            found.insert(format!("{stage}/{name}"), artifact.tree());
        }
    }
    Ok(found)
}

/// Lists the folders that do not begin with a dot.
fn visible(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    if folder.is_dir() {
        for entry in fs_err::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type()?.is_dir() && !name.starts_with('.') {
                names.push(name);
            }
        }
    }
    Ok(names)
}

/// Copies a file or folder with all times and rights.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").args([from, to]).status()?;
    ensure!(status.success(), "cannot copy `{}`", from.display());
    Ok(())
}

/// Removes a folder, if it is there, with artifacts in it, which are read-only.
pub fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        Command::new("chmod").args(["-R", "u+w"]).arg(folder).status()?;
        fs_err::remove_dir_all(folder)?;
    }
    Ok(())
}

/// A folder of its own, with a store.
#[derive(Debug)]
pub struct Place {
    folder: PathBuf,
    /// Removes the folder at the end.
    _temporary: Option<tempfile::TempDir>,
}

impl Place {
    /// Makes an empty one.
    pub fn new() -> Result<Self> {
        let temporary = tempfile::tempdir()?;
        Ok(Self { folder: temporary.path().to_owned(), _temporary: Some(temporary) })
    }

    /// Starts anew in a folder that stays.
    pub fn at(folder: &Path) -> Result<Self> {
        remove(folder)?;
        fs_err::create_dir_all(folder)?;
        Ok(Self { folder: folder.to_owned(), _temporary: None })
    }

    /// Returns the folder.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Returns the store's folder.
    pub fn store(&self) -> PathBuf {
        self.path().join("artifacts")
    }

    /// Prepares a run of a stage with `tests/fixtures/small.toml` and the store of this place.
    pub fn stage(&self, stage: &str, arguments: &[&str]) -> Command {
        self.stage_in(&self.store(), stage, arguments)
    }

    /// As [`Place::stage`], with another store.
    pub fn stage_in(&self, store: &Path, stage: &str, arguments: &[&str]) -> Command {
        let mut command = command(programs().join(stage));
        command.args(["--config", "tests/fixtures/small.toml", "--store"]).arg(store).args(arguments);
        command
    }

    /// Runs a stage that must succeed and returns its artifact.
    pub fn make(&self, stage: &str, arguments: &[&str]) -> Result<String> {
        let path = run(&mut self.stage(stage, arguments))?.path().with_context(|| stage.to_owned())?;
        Ok(path.to_string_lossy().into_owned())
    }

    /// Imports the model in a folder, relative to the repository, and returns the artifact.
    pub fn model(&self, folder: &str) -> Result<String> {
        self.make("import-model", &["--model-dir", folder])
    }

    /// Makes the dataset of real rows for the tokenizer of a model artifact.
    pub fn dataset(&self, model: &str) -> Result<String> {
        self.make("prepare-data", &["--tokenizer", model, "--data", "data/haw-eng"])
    }
}
