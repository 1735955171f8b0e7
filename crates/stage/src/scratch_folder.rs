//! The scratch folder: where a run with `--out` keeps its resume state.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use artifact::{CLAIM, Claimed, Locked};
use failure::{Context, Result};
use fs_err::File;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::args::CommonArgs;
use crate::folders::make_folder;
use crate::identity::Identity;

/// Environment variable with a folder that builds share; ignored if there is no such folder.
const VARIABLE: &str = "ASHLAR_SCRATCH";

/// Folder for the resume state of a run. A temporary one is removed on drop, the others by [`ScratchFolder::remove`].
#[derive(Debug)]
pub(crate) struct ScratchFolder {
    path: PathBuf,
    /// Flag or variable that chooses the folder.
    chosen_by: &'static str,
    temporary: Option<tempfile::TempDir>,
    /// Keeps other processes away from a folder that is not temporary.
    _hold: Option<Hold>,
}

/// The lock of a folder, and its claim where the lock may not exclude others. Dropping it gives both up.
#[derive(Debug)]
struct Hold {
    path: PathBuf,
    _lock: File,
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Err(error) = artifact::release_folder(&self.path) {
            tracing::warn!("the next run may start from the beginning: {}", failure::describe(&error));
        }
    }
}

impl ScratchFolder {
    /// Opens the folder of `--resume-dir`, else one in the shared folder, else a temporary one.
    pub(crate) fn new(common: &CommonArgs, id: &Identity) -> Result<Self> {
        let name = format!("{}-{}", id.stage, id.key.short());
        if let Some(dir) = &common.resume_dir {
            make_folder("--resume-dir", dir)?;
            let path = dir.join(name);
            let locked = lock(&path, Privacy::AsItIs);
            if let Some(hold) = locked.with_context(|| format!("locking `{}`", path.display()))? {
                return Ok(Self { path, chosen_by: "--resume-dir", temporary: None, _hold: Some(hold) });
            }
            tracing::warn!("{}", describe_use(&path));
            return Self::temporary();
        }
        // Users do not share folders.
        let name = format!("{name}-{}", rustix::process::geteuid().as_raw());
        if let Some(dir) = shared().filter(|dir| dir.is_dir()) {
            let path = dir.join(&name);
            match lock_private(&path) {
                Ok(Some(hold)) => {
                    tracing::debug!("keeping the resume state in `{}`", dir.display());
                    return Ok(Self { path, chosen_by: VARIABLE, temporary: None, _hold: Some(hold) });
                }
                Ok(None) => tracing::info!("{}", describe_use(&path)),
                Err(error) => {
                    tracing::warn!(
                        "cannot use `{}`, so this run cannot be resumed: {}",
                        dir.display(),
                        failure::describe(&error)
                    );
                }
            }
        }
        Self::temporary()
    }

    /// Creates a temporary folder.
    pub(crate) fn temporary() -> Result<Self> {
        let temporary = tempfile::tempdir().context("creating a temporary folder")?;
        let path = temporary.path().to_owned();
        Ok(Self { path, chosen_by: "TMPDIR", temporary: Some(temporary), _hold: None })
    }

    /// Returns whether the folder outlives this process.
    pub(crate) fn is_kept(&self) -> bool {
        self.temporary.is_none()
    }

    /// Fails if the bytes of the resume state do not fit; the error names the flag or variable that chose the folder.
    pub(crate) fn check_space(&self, needed_bytes: u64) -> Result<()> {
        let free_bytes = artifact::free_bytes(&self.path)?;
        if free_bytes >= needed_bytes {
            return Ok(());
        }
        let error = artifact::Error::NoSpace { path: self.path.clone(), needed_bytes, free_bytes };
        let hint = format!("free some space, or set `{}` to a folder with more", self.chosen_by);
        Err(error).context("checking the folder for the resume state").hint(hint)
    }

    /// Returns whether an earlier process of this run left something to resume from.
    pub(crate) fn is_left(common: &CommonArgs, id: &Identity) -> bool {
        Self::left(common, id).is_some()
    }

    /// Returns the folder, if an earlier process of this run left something there to resume from.
    pub(crate) fn left(common: &CommonArgs, id: &Identity) -> Option<PathBuf> {
        let name = format!("{}-{}", id.stage, id.key.short());
        let path = match &common.resume_dir {
            Some(dir) => dir.join(name),
            None => shared()?.join(format!("{name}-{}", rustix::process::geteuid().as_raw())),
        };
        Some(path).filter(|path| artifact::has_content(path).unwrap_or(false))
    }

    /// Returns the folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether an earlier process left something in it.
    #[cfg(test)]
    fn has_state(&self) -> bool {
        artifact::has_content(&self.path).unwrap_or(false)
    }

    /// Removes the folder after the artifact was written.
    pub(crate) fn remove(self) -> Result<()> {
        match self.temporary {
            Some(temporary) => Ok(temporary.close()?),
            None => Ok(artifact::remove_claimed_folder(&self.path)?),
        }
    }
}

/// Returns the folder that the environment variable names, if it is set.
fn shared() -> Option<PathBuf> {
    std::env::var_os(VARIABLE).filter(|dir| !dir.is_empty()).map(PathBuf::from)
}

/// Describes a folder that another process uses; where locks do not tell, what to do if there is none.
fn describe_use(path: &Path) -> String {
    let claim = path.join(CLAIM);
    if claim.exists() {
        let (path, claim) = (path.display(), claim.display());
        return format!(
            "another process may be using `{path}`, so this run cannot be resumed; if there is none, remove `{claim}`"
        );
    }
    format!("another process uses `{}`; this run cannot be resumed", path.display())
}

/// Creates a folder that only this user can read and write, and locks it; returns `None` if another process uses it.
///
/// A run resumes from the content of the folder, so it must come from this user: a folder of somebody else, a link, and a folder
/// that others could replace are errors.
fn lock_private(path: &Path) -> Result<Option<Hold>> {
    check_parent(path)?;
    lock(path, Privacy::Required)
}

/// Who may read and write a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Privacy {
    /// Only this user.
    Required,
    /// Unrestricted: the user chose the folder and its permissions.
    AsItIs,
}

/// Creates a folder if it does not exist, and locks it; also claims it where the lock may not exclude others. Returns `None` if
/// another process uses it, or may.
fn lock(path: &Path, privacy: Privacy) -> Result<Option<Hold>> {
    let mode = if privacy == Privacy::Required { Mode::RWXU } else { Mode::RWXU | Mode::RWXG | Mode::RWXO };
    loop {
        match rustix::fs::mkdir(path, mode) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(std::io::Error::from(errno).into()),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = match rustix::fs::open(path, flags, Mode::empty()) {
            // The process that held the lock has just removed it.
            Err(Errno::NOENT) => continue,
            opened => std::fs::File::from(opened.map_err(std::io::Error::from)?),
        };
        let folder = File::from_parts(folder, path);
        if privacy == Privacy::Required {
            check_private(&folder, path)?;
        }
        let claimed = match artifact::lock_folder(path, folder.file())? {
            Locked::Busy => Claimed::Theirs,
            Locked::Excludes => Claimed::Ours,
            Locked::MayNotExclude => artifact::claim_folder(path)?,
        };
        match claimed {
            // The process that had the folder may have removed it in the meantime.
            Claimed::Ours if is_at(&folder, path) => {
                return Ok(Some(Hold { path: path.to_owned(), _lock: folder }));
            }
            Claimed::Theirs => return Ok(None),
            // What was claimed is another folder.
            Claimed::Ours => artifact::release_folder(path)?,
            Claimed::Again => {}
        }
    }
}

/// Returns whether `path` still names the folder that was opened.
fn is_at(folder: &File, path: &Path) -> bool {
    fs_err::symlink_metadata(path)
        .is_ok_and(|now| folder.metadata().is_ok_and(|opened| opened.ino() == now.ino()))
}

/// In the sandbox of Nix, root has the number of users who are not known there.
const UNKNOWN: u32 = 65534;

/// Fails if another user could replace the folder `path` with another.
fn check_parent(path: &Path) -> std::io::Result<()> {
    let parent = path.parent().unwrap_or(path);
    let metadata = fs_err::metadata(parent)?;
    let is_ours = [0, UNKNOWN, rustix::process::geteuid().as_raw()].contains(&metadata.uid());
    let (is_shared, is_sticky) = (metadata.mode() & 0o022 != 0, metadata.mode() & 0o1000 != 0);
    if is_ours && (!is_shared || is_sticky) {
        return Ok(());
    }
    let reason = format!("other users may replace folders in `{}`; run `chmod +t` on it", parent.display());
    Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, reason))
}

/// Fails unless the folder belongs to this user and is closed to others.
fn check_private(folder: &File, path: &Path) -> std::io::Result<()> {
    let metadata = folder.metadata()?;
    // No bit for the group or others.
    let is_closed = metadata.mode().trailing_zeros() >= 6;
    if metadata.uid() == rustix::process::geteuid().as_raw() && is_closed {
        return Ok(());
    }
    let reason = format!("`{}` belongs to another user or is open to others", path.display());
    Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, reason))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        fs_err::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn refused(path: &Path) -> String {
        lock_private(path).expect_err("it must be refused").to_string()
    }

    #[test]
    fn a_folder_is_private_and_the_mask_of_the_process_stays() {
        let shared = tempfile::tempdir().unwrap();
        let path = shared.path().join("train-1");
        let lock = lock_private(&path).unwrap().expect("it is free");
        assert_eq!(fs_err::metadata(&path).unwrap().mode() & 0o777, 0o700);
        let file = shared.path().join("file");
        fs_err::write(&file, "").unwrap();
        assert_eq!(fs_err::metadata(&file).unwrap().mode() & 0o022, 0);
        assert!(lock_private(&path).unwrap().is_none(), "it is locked");
        drop(lock);
        assert!(lock_private(&path).unwrap().is_some());
    }

    #[test]
    fn a_named_folder_belongs_to_one_run_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let material = artifact::KeyMaterial::new("train", 1, serde_json::json!({}));
        let key = material.key().unwrap();
        let id = Identity { stage: "train", slug: "toy".to_owned(), key, material };
        let resume_dir = Some(folder.path().join("keep"));
        let common = CommonArgs { resume_dir, out: Some(folder.path().join("a")), ..CommonArgs::default() };
        let first = ScratchFolder::new(&common, &id).unwrap();
        fs_err::write(first.path().join("state"), "x").unwrap();
        let second = ScratchFolder::new(&common, &id).unwrap();
        assert!(first.is_kept() && !second.is_kept() && !second.has_state());
        second.remove().unwrap();
        assert!(first.has_state(), "the second run leaves it alone");
        drop(first);
        let third = ScratchFolder::new(&common, &id).unwrap();
        assert!(third.is_kept() && third.has_state() && ScratchFolder::is_left(&common, &id));
        third.remove().unwrap();
        assert!(!ScratchFolder::is_left(&common, &id));
        // The user decides who may use a folder that the user names.
        set_mode(&folder.path().join("keep"), 0o777);
        assert!(ScratchFolder::new(&common, &id).unwrap().is_kept());
    }

    #[test]
    fn links_open_folders_and_replaceable_ones_are_refused() {
        let shared = tempfile::tempdir().unwrap();
        let (path, link) = (shared.path().join("train-1"), shared.path().join("train-2"));
        fs_err::create_dir(&path).unwrap();
        set_mode(&path, 0o770);
        assert!(refused(&path).contains("open to others"));
        set_mode(&path, 0o700);
        symlink(&path, &link).unwrap();
        lock_private(&link).unwrap_err();
        set_mode(shared.path(), 0o777);
        assert!(refused(&path).contains("chmod +t"));
        set_mode(shared.path(), 0o1777);
        assert!(lock_private(&path).unwrap().is_some());
    }
}
