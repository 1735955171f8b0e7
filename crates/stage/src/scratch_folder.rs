//! Where a run with `--out` keeps what it needs to go on after it was killed.

use std::fs::TryLockError;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use failure::{Context, Result};
use fs_err::File;
use rustix::fs::Mode;

use crate::args::CommonArgs;
use crate::identity::Identity;

/// Names a folder that builds may share; it is used if it is there, and does not matter otherwise.
const VARIABLE: &str = "ASHLAR_SCRATCH";

/// A folder for the state of a run; removed by [`ScratchFolder::remove`], or on drop where nobody would look for it.
#[derive(Debug)]
pub(crate) struct ScratchFolder {
    path: PathBuf,
    temporary: Option<tempfile::TempDir>,
    /// Held as long as the folder is in use.
    _lock: Option<File>,
}

impl ScratchFolder {
    /// Takes the folder that was asked for, else one in the shared folder, else a temporary one.
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
                    tracing::debug!("keeping state in `{}`", dir.display());
                    return Ok(Self { path: dir.join(&name), temporary: None, _lock: Some(lock) });
                }
                Ok(None) => tracing::info!("another process works in `{}`; keeping no state", dir.display()),
                Err(error) => tracing::warn!("keeping no state in `{}`: {error}", dir.display()),
            }
        }
        let temporary = tempfile::tempdir().context("creating a temporary folder")?;
        Ok(Self { path: temporary.path().to_owned(), temporary: Some(temporary), _lock: None })
    }

    /// Returns the folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it: the artifact is written.
    pub(crate) fn remove(self) -> std::io::Result<()> {
        match self.temporary {
            Some(temporary) => temporary.close(),
            None => fs_err::remove_dir_all(self.path),
        }
    }
}

/// Makes a folder and locks it; `None` if another process has it. The next attempt may run as another user (Nix has a
/// row of them), so that what is made in it is open to all; who may enter the shared folder is its owner's choice.
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
        // The one who had it may just have removed it.
        let same = fs_err::metadata(path)
            .is_ok_and(|now| folder.metadata().is_ok_and(|held| held.ino() == now.ino()));
        if same {
            return Ok(Some(folder));
        }
    }
}
