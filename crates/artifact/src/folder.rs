//! Writing one artifact outside a store (`--out`): without locks and workspaces.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::os;
use crate::reader::{Artifact, COMMIT, DATA, Level, MANIFEST, PROVENANCE, SUMS, TELEMETRY};
use crate::seal::{Draft, seal};

/// Marks a folder that is being written; a later run may empty it.
const INCOMPLETE: &str = "INCOMPLETE";

/// A folder that is becoming an artifact; removed on drop unless sealed.
#[derive(Debug)]
pub struct Folder {
    dir: PathBuf,
    data: PathBuf,
    telemetry: PathBuf,
    sealed: bool,
}

impl Folder {
    /// Starts an artifact in `out`, which must be missing, empty, or left behind by a killed run.
    ///
    /// # Errors
    ///
    /// Fails when the folder contains anything else.
    pub fn begin(out: &Path) -> Result<Self> {
        let entries = match fs_err::read_dir(out) {
            Ok(entries) => entries.count(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error.into()),
        };
        if entries > 0 && !out.join(INCOMPLETE).exists() {
            let reason = if out.join(COMMIT).exists() { "already holds an artifact" } else { "is not empty" };
            return Err(Error::Occupied { path: out.to_owned(), reason: reason.to_owned() });
        }
        let folder =
            Self { dir: out.to_owned(), data: out.join(DATA), telemetry: out.join(TELEMETRY), sealed: false };
        folder.clear();
        os::create_dir_all(out)?;
        os::write_new(&out.join(INCOMPLETE), b"this folder is being written\n")?;
        os::create_dir(&folder.data)?;
        os::create_dir(&folder.telemetry)?;
        Ok(folder)
    }

    /// Returns the folder to fill with named outputs.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Returns the folder for files outside the tree hash.
    pub fn telemetry(&self) -> &Path {
        &self.telemetry
    }

    /// Removes the telemetry folder, for artifacts that must be identical on every run.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be removed.
    pub fn drop_telemetry(&self) -> Result<()> {
        Ok(os::remove_tree(&self.telemetry)?)
    }

    /// Checks, hashes and flushes the data and makes the folder an artifact.
    ///
    /// # Errors
    ///
    /// Fails and removes the folder when data is refused, when `before_commit` fails, or on an I/O error.
    pub fn seal(mut self, draft: &Draft, before_commit: &mut dyn FnMut() -> Result<()>) -> Result<Artifact> {
        let dir = self.dir.clone();
        // A crash before the mark is removed leaves a folder that readers refuse.
        let marker = dir.join(INCOMPLETE);
        seal(&dir, draft, before_commit)?;
        fs_err::remove_file(&marker)?;
        os::sync_dir(&dir)?;
        self.sealed = true;
        Artifact::open_with(&dir, Level::Size)
    }

    fn clear(&self) {
        for name in [DATA, TELEMETRY] {
            let _ = os::remove_tree(&self.dir.join(name));
        }
        for name in [COMMIT, SUMS, MANIFEST, PROVENANCE, INCOMPLETE] {
            let _ = fs_err::remove_file(self.dir.join(name));
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.sealed {
            self.clear();
            let _ = fs_err::remove_dir(&self.dir);
        }
    }
}

/// Writes an artifact at `out`; `fill` is called with the empty `data` folder.
///
/// # Errors
///
/// As [`Folder::begin`] and [`Folder::seal`], or what `fill` returns.
pub fn write_folder(out: &Path, draft: &Draft, fill: impl FnOnce(&Path) -> Result<()>) -> Result<Artifact> {
    let folder = Folder::begin(out)?;
    fill(folder.data())?;
    folder.seal(draft, &mut || Ok(()))
}
