//! Destination folders of settings files and new artifacts.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::args::Reproduce;
use crate::error::{Error, Result};
use crate::places::resolved;

/// Name of the store in the folder of `--into`, or of one run below it.
const STORE: &str = "artifacts";

/// The folder that holds settings files and the store with the new artifacts.
#[derive(Debug)]
pub(super) struct Folders {
    root: PathBuf,
}

impl Folders {
    /// Returns the folder of `--into`; to run the commands, makes a new folder below it, so that no stage finds the result of
    /// an earlier run.
    pub(super) fn new(options: &Reproduce) -> Result<Self> {
        let root = if options.run { new_folder(&options.into)? } else { options.into.clone() };
        Ok(Self { root })
    }

    /// Returns the store for the new artifacts.
    pub(super) fn store(&self) -> PathBuf {
        self.root.join(STORE)
    }

    /// Returns the settings file of a stage. It lies outside the store, which holds artifacts only.
    pub(super) fn settings(&self, stage: &str) -> PathBuf {
        self.root.join("settings").join(format!("{stage}.toml"))
    }
}

/// Makes a folder `run-N` that did not exist.
fn new_folder(into: &Path) -> Result<PathBuf> {
    fs_err::create_dir_all(into)?;
    let mut number = 1_u64;
    loop {
        let folder = into.join(format!("run-{number}"));
        match fs_err::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Fails if the new artifacts would be written to the store of the old ones, where they would be compared with themselves.
pub(super) fn refuse_the_store(store: &Path, options: &Reproduce) -> Result<()> {
    let (store, into) = (resolved(store), resolved(&options.into));
    let is_printed_store = !options.run && resolved(&options.into.join(STORE)) == store;
    if !into.starts_with(&store) && !is_printed_store {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "`--into {}` leads into the store, whose artifacts would be compared with themselves; choose another folder",
        options.into.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(into: &Path, run: bool) -> Reproduce {
        let artifact = "train".to_owned();
        Reproduce { artifact, run, only: false, files: Vec::new(), into: into.to_owned(), bin: None }
    }

    #[test]
    fn every_run_has_a_folder_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let into = dir.path().join("a/b");
        let folders = [(); 2].map(|()| Folders::new(&options(&into, true)).unwrap());
        assert_ne!(folders[0].store(), folders[1].store());
        assert_eq!(folders[1].settings("train"), into.join("run-2/settings/train.toml"));
        let printed = Folders::new(&options(&dir.path().join("c"), false)).unwrap();
        assert_eq!(printed.store(), dir.path().join("c/artifacts"));
        assert!(!dir.path().join("c").exists(), "printing makes no folder");
    }

    #[test]
    fn the_store_is_refused_under_every_name() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("artifacts");
        fs_err::create_dir(&store).unwrap();
        fs_err::create_dir(dir.path().join("other")).unwrap();
        std::os::unix::fs::symlink(&store, dir.path().join("link")).unwrap();
        for (into, run, refused) in [
            ("artifacts", true, true),
            ("artifacts", false, true),
            ("artifacts/", true, true),
            ("other/../artifacts", true, true),
            ("link", true, true),
            ("link/again", true, true),
            ("artifacts/again", false, true),
            // The store of the script would be that of the old artifacts; a run has a folder of its own.
            ("", false, true),
            ("", true, false),
            ("other", true, false),
            ("other", false, false),
            ("artifacts-again", true, false),
        ] {
            let found = refuse_the_store(&store, &options(&dir.path().join(into), run));
            assert_eq!(found.is_err(), refused, "`{into}`, run: {run}");
        }
    }
}
