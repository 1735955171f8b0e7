//! The scratch folder: where a run with `--out` keeps its resume state.

use std::fs::TryLockError;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use failure::{Context, Result};
use fs_err::File;
use rustix::fs::Mode;

use crate::args::CommonArgs;
use crate::identity::Identity;

/// Environment variable with a folder that builds share; ignored if there is no such folder.
const VARIABLE: &str = "ASHLAR_SCRATCH";

/// Folder for the resume state of a run. A temporary one is removed on drop, the others by [`ScratchFolder::remove`].
#[derive(Debug)]
pub(crate) struct ScratchFolder {
    path: PathBuf,
    temporary: Option<tempfile::TempDir>,
    /// Held while the folder is in use.
    _lock: Option<File>,
}

impl ScratchFolder {
    /// Opens the folder of `--resume-dir`, else one in the shared folder, else a temporary one.
    pub(crate) fn new(common: &CommonArgs, id: &Identity) -> Result<Self> {
        let name = format!("{}-{}", id.stage, id.key.short());
        if let Some(dir) = &common.resume_dir {
            let path = dir.join(name);
            fs_err::create_dir_all(&path)?;
            return Ok(Self { path, temporary: None, _lock: None });
        }
        let shared = std::env::var_os(VARIABLE).map(PathBuf::from).filter(|dir| dir.is_dir());
        if let Some(dir) = shared {
            match claim(&dir.join(&name)) {
                Ok(Some(lock)) => {
                    tracing::debug!("keeping the resume state in `{}`", dir.display());
                    return Ok(Self { path: dir.join(&name), temporary: None, _lock: Some(lock) });
                }
                Ok(None) => {
                    tracing::info!("another process uses `{}`; this run cannot be resumed", dir.display());
                }
                Err(error) => {
                    tracing::warn!(
                        "cannot use `{}`, so this run cannot be resumed: {}",
                        dir.display(),
                        failure::describe(&error)
                    );
                }
            }
        }
        let temporary = tempfile::tempdir().context("creating a temporary folder")?;
        Ok(Self { path: temporary.path().to_owned(), temporary: Some(temporary), _lock: None })
    }

    /// Returns the folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether an earlier process left something to resume from.
    pub(crate) fn has_state(&self) -> bool {
        fs_err::read_dir(&self.path).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// Removes the folder after the artifact was written.
    pub(crate) fn remove(self) -> std::io::Result<()> {
        match self.temporary {
            Some(temporary) => temporary.close(),
            None => fs_err::remove_dir_all(self.path),
        }
    }
}

/// Creates a folder and locks it; returns `None` if another process holds the lock.
///
/// Nix may retry under another build user, so files are created world-writable; the parent folder restricts access.
fn claim(path: &Path) -> std::io::Result<Option<File>> {
    rustix::process::umask(Mode::empty());
    loop {
        fs_err::create_dir_all(path)?;
        let folder = File::open(path)?;
        match folder.file().try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // The process that held the lock may have removed the folder in the meantime.
        let same = fs_err::metadata(path)
            .is_ok_and(|now| folder.metadata().is_ok_and(|held| held.ino() == now.ino()));
        if same {
            return Ok(Some(folder));
        }
    }
}
