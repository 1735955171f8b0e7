//! A temporary workspace: a folder with a store, and the stages run in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use artifact::{Artifact, Level, TreeHash};

use crate::files::remove;
use crate::program::{Program, Ran};

/// Settings for small runs of every stage, relative to the root of this checkout.
pub const SMALL_SETTINGS: &str = "tests/fixtures/small.toml";

/// A folder with a store, removed when dropped.
#[derive(Debug)]
pub struct Sandbox {
    folder: PathBuf,
    /// Removes the folder when dropped; `None` for a folder that stays.
    _temporary: Option<tempfile::TempDir>,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Sandbox {
    /// Makes an empty temporary folder.
    ///
    /// # Panics
    ///
    /// If the folder cannot be made.
    pub fn new() -> Self {
        let temporary = tempfile::tempdir().expect("a temporary folder can be made");
        Self { folder: temporary.path().to_owned(), _temporary: Some(temporary) }
    }

    /// Empties a folder that stays after the test.
    ///
    /// # Panics
    ///
    /// If the folder cannot be made.
    pub fn at(folder: &Path) -> Self {
        remove(folder);
        fs_err::create_dir_all(folder).expect("a folder for a test can be made");
        Self { folder: folder.to_owned(), _temporary: None }
    }

    /// Returns the folder.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Returns the path of `name` in the folder.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.join(name)
    }

    /// Returns the folder of the store: `artifacts`, where stages look for it by default.
    pub fn store(&self) -> PathBuf {
        self.join("artifacts")
    }

    /// Writes a file, with its folders, and returns its path.
    ///
    /// # Panics
    ///
    /// If it cannot be written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        let folder = path.parent().expect("a file has a folder");
        fs_err::create_dir_all(folder).expect("a folder in the sandbox can be made");
        fs_err::write(&path, content).expect("a file in the sandbox can be written");
        path
    }

    /// Reads a text file of the sandbox.
    ///
    /// # Panics
    ///
    /// If it cannot be read.
    #[track_caller]
    pub fn read(&self, name: impl AsRef<Path>) -> String {
        fs_err::read_to_string(self.join(name)).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Returns the program at `path`, such as `env!("CARGO_BIN_EXE_train")`, run in the folder.
    pub fn program(&self, path: impl AsRef<Path>) -> Program {
        let mut program = Program::new(path.as_ref());
        program.current_dir(self.path());
        program
    }

    /// Returns a run of a built stage with [`SMALL_SETTINGS`] and the store; it starts in the root of this checkout.
    pub fn stage(&self, stage: &str, arguments: &[&str]) -> Program {
        self.stage_in(&self.store(), stage, arguments)
    }

    /// Returns what [`Sandbox::stage`] does, with another store.
    pub fn stage_in(&self, store: &Path, stage: &str, arguments: &[&str]) -> Program {
        let mut program = Program::built(stage);
        program.args(["--config", SMALL_SETTINGS, "--store"]).arg(store).args(arguments);
        program
    }

    /// Runs a stage that must succeed and returns the path of its artifact.
    ///
    /// # Panics
    ///
    /// If it fails.
    #[track_caller]
    pub fn make(&self, stage: &str, arguments: &[&str]) -> String {
        self.stage(stage, arguments).run().path_text()
    }

    /// Imports the model in a folder, relative to the root of this checkout, and returns the artifact.
    #[track_caller]
    pub fn model(&self, folder: &str) -> String {
        self.make("import-model", &["--model-dir", folder])
    }

    /// Makes a dataset of `data/haw-eng` with the tokenizer of a model artifact, and returns the artifact.
    #[track_caller]
    pub fn dataset(&self, model: &str) -> String {
        self.make("prepare-data", &["--tokenizer", model, "--data", "data/haw-eng"])
    }

    /// Returns the visible artifacts of the store; see [`trees`].
    #[track_caller]
    pub fn trees(&self) -> BTreeMap<String, TreeHash> {
        trees(&self.store())
    }

    /// Runs a program that must fail with `code` and publish nothing; returns its filtered stderr.
    ///
    /// # Panics
    ///
    /// If it succeeds, ends with another code, prints to stdout, or publishes an artifact.
    #[track_caller]
    pub fn refused(&self, program: &mut Program, code: i32) -> String {
        let before = self.trees();
        let ran: Ran = program.run();
        let said = ran.failed(code);
        assert_eq!(self.trees(), before, "a failed stage published something:\n{said}");
        said
    }
}

/// Returns the tree hash of every visible artifact of a store, by `STAGE/NAME`, after verifying every byte of each.
///
/// # Panics
///
/// If an artifact is damaged.
#[track_caller]
pub fn trees(store: &Path) -> BTreeMap<String, TreeHash> {
    let mut found = BTreeMap::new();
    for stage in visible_folders(store) {
        for name in visible_folders(&store.join(&stage)) {
            let path = store.join(&stage).join(&name);
            let artifact = Artifact::open_with(&path, Level::Hash).unwrap_or_else(|error| panic!("{error}"));
            found.insert(format!("{stage}/{name}"), artifact.tree());
        }
    }
    found
}

/// Lists the names of the folders that do not begin with a dot.
fn visible_folders(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs_err::read_dir(folder) else { return Vec::new() };
    let folders =
        entries.map(|entry| entry.expect("the folder is readable")).filter(|entry| entry.path().is_dir());
    let names = folders.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| !name.starts_with('.')).collect()
}
