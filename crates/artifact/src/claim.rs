//! Claims: a file in a folder that names the process working there, where no lock keeps others out.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::liveness::{CLAIM, Liveness};
use crate::lock::Tried;
use crate::{atomic, lock, os};

/// Number of tries to do something while others come and go.
pub(crate) const ATTEMPTS: usize = 20;

/// Outcome of [`lock_folder`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locked {
    /// The lock keeps the processes of all machines out.
    Excludes,
    /// Locks are missing or do nothing, or may exclude only the processes of this machine.
    MayNotExclude,
    /// Another process has the lock.
    Busy,
}

/// Outcome of [`claim_folder`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claimed {
    /// The folder is that of this process.
    Ours,
    /// The process that claimed it may be alive.
    Theirs,
    /// The folder is gone, or the claim of a dead process was removed: try again.
    Again,
}

/// Tries to lock the opened folder at `path`, until it is closed; warns once if the file system has no locks.
///
/// # Errors
///
/// Fails when the folder cannot be locked.
pub fn lock_folder(path: &Path, folder: &File) -> Result<Locked> {
    Ok(match lock::try_lock(path, folder)? {
        Tried::Busy => Locked::Busy,
        Tried::Locked if lock::excludes(path) => Locked::Excludes,
        Tried::Locked | Tried::Unsupported => Locked::MayNotExclude,
    })
}

/// Tries once to make a folder that of this process, where no lock keeps others out.
///
/// # Errors
///
/// Fails when the folder cannot be written.
pub fn claim_folder(dir: &Path) -> Result<Claimed> {
    let path = dir.join(CLAIM);
    match atomic::write_new_file(&path, text().as_bytes()) {
        Ok(true) => return Ok(Claimed::Ours),
        Ok(false) => {}
        // The process that worked in it has just removed it.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Claimed::Again),
        Err(error) => return Err(error.into()),
    }
    if Liveness::of_workspace(dir) != Liveness::Dead {
        return Ok(Claimed::Theirs);
    }
    // One of several processes can rename the claim of a dead one.
    let taken = dir.join(format!(".{CLAIM}-{}", std::process::id()));
    if os::rename_over(&path, &taken)? {
        os::remove_file(&taken)?;
    }
    Ok(Claimed::Again)
}

/// Removes the claim of this process from a folder, so that a process of any machine can claim it. Other files stay.
///
/// # Errors
///
/// Fails when the file cannot be removed.
pub fn release_folder(dir: &Path) -> Result<()> {
    let path = dir.join(CLAIM);
    let is_ours = os::read_small(&path, text().len() as u64).is_ok_and(|claim| claim == text().as_bytes());
    if is_ours {
        os::remove_file(&path)?;
    }
    Ok(())
}

/// Removes a folder that this process has claimed or locked.
///
/// # Errors
///
/// Fails when it cannot be removed.
pub fn remove_claimed_folder(dir: &Path) -> Result<()> {
    // Renamed first: where no lock keeps others out, another process may begin to use the folder.
    let removed = removed_name(dir);
    os::remove_tree(&removed)?;
    if os::rename_over(dir, &removed)? {
        for _ in 0..ATTEMPTS {
            match os::remove_tree(&removed) {
                // A process that was kept out by no lock has just written into it.
                Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {}
                result => return Ok(result?),
            }
        }
        tracing::debug!("`{}` is in use and stays", removed.display());
    }
    Ok(())
}

fn removed_name(dir: &Path) -> PathBuf {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    dir.with_file_name(format!(".{name}-{}", std::process::id()))
}

/// Returns whether a folder has an entry besides a claim and hidden ones; `false` if it does not exist.
///
/// # Errors
///
/// Fails when the folder cannot be listed.
pub fn has_content(dir: &Path) -> io::Result<bool> {
    let is_content = |entry: &fs_err::DirEntry| {
        let name = entry.file_name();
        name != CLAIM && !name.as_encoded_bytes().starts_with(b".")
    };
    match os::entries(dir) {
        Ok(entries) => Ok(entries.iter().any(is_content)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Returns the text of a claim of this process.
fn text() -> String {
    format!("{} {}\n", os::boot_id(), std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_belongs_to_one_process_until_it_is_released_or_removed() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("work");
        let claim = || claim_folder(&dir).unwrap();
        assert_eq!(claim(), Claimed::Again, "there is no folder");
        fs_err::create_dir(&dir).unwrap();
        assert_eq!((claim(), claim()), (Claimed::Ours, Claimed::Theirs), "this process is alive");
        release_folder(&dir).unwrap();
        assert_eq!(claim(), Claimed::Ours);
        fs_err::write(dir.join(CLAIM), format!("00000000 {}\n", std::process::id())).unwrap();
        release_folder(&dir).unwrap();
        assert_eq!(claim(), Claimed::Theirs, "the claim of another machine stays");
        assert!(!has_content(&dir).unwrap());
        fs_err::write(dir.join("state"), "").unwrap();
        assert!(has_content(&dir).unwrap());
        remove_claimed_folder(&dir).unwrap();
        assert_eq!(fs_err::read_dir(home.path()).unwrap().count(), 0);
        assert!(!has_content(&dir).unwrap());
    }
}
