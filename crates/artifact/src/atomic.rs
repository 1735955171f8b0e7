//! Atomic writes: a file or folder appears under its name whole, or not at all.
//!
//! Everything that is written and then renamed goes through this module: the bytes are written beside the target, flushed to
//! the disk, renamed, and the folder that holds the target is flushed.
//!
//! After a crash at any moment, the target is what it was before, or it is the complete new file or folder; once the function
//! has returned, it is the new one. A hidden temporary file (`.NAME-…`) or folder (`.NAME`) may remain beside it. Leftover
//! files are never read; a leftover folder is removed by the next [`write_folder`] to the same path. Where a folder replaces
//! another, the old one is removed first, so a crash in between leaves neither.
//!
//! [`write_folder`] is for folders inside a folder of the program. Use [`write_new_folder`] for a folder that a user named: it never
//! removes or replaces anything beside it. Its temporary folder (`.unfinished-…`) remains only if the process is
//! killed.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::os;

/// Beginning of the names of folders that [`write_new_folder`] fills.
const UNFINISHED: &str = ".unfinished-";

/// Writes a file and replaces the one that is there.
///
/// # Errors
///
/// Fails without changing `path` when the file cannot be written.
pub fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = write_beside(path, bytes)?;
    os::persist(new, path)?;
    os::sync_dir(os::parent(path))
}

/// Writes a file unless there is one; returns whether it was written.
///
/// If several processes do so at the same time, one of them succeeds. A crash may lose the file, but leaves it whole: its folder is
/// not flushed.
///
/// # Errors
///
/// Fails when the file cannot be written.
pub(crate) fn write_new_file(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    let new = write_beside(path, bytes)?;
    os::persist_new(new, path)
}

/// Fills a new folder with `fill`, then gives it the name `path`; a folder of that name is replaced.
///
/// Only one process may write to the same path at a time.
///
/// # Errors
///
/// Returns the error of `fill`, or fails when the folder cannot be written. The unfinished folder stays until the next call.
pub fn write_folder<T, E: From<io::Error>>(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<T, E>,
) -> Result<T, E> {
    let unfinished = path.with_file_name(hidden(path));
    os::remove_tree(&unfinished)?;
    os::create_dir_all(os::parent(path))?;
    os::create_dir(&unfinished)?;
    let filled = fill(&unfinished)?;
    sync_tree(&unfinished)?;
    os::remove_tree(path)?;
    os::rename(&unfinished, path)?;
    os::sync_dir(os::parent(path))?;
    Ok(filled)
}

/// Fills a new folder with `fill` and renames it to `path`. Returns `None` if `path` exists by then.
///
/// Nothing beside `path` is touched. If several processes write to the same path, one of them succeeds. `fill` must create at least one
/// file.
///
/// # Errors
///
/// Fails when `fill` does and when the folder cannot be written; the unfinished folder is removed. If the last flush fails, the folder
/// is complete, but a power failure may lose it.
pub fn write_new_folder<T, E: From<io::Error>>(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<T, E>,
) -> Result<Option<T>, E> {
    let parent = os::parent(path);
    os::create_dir_all(parent)?;
    let unfinished = os::create_temporary_dir(parent, UNFINISHED)?;
    let filled = fill(unfinished.path())?;
    sync_tree(unfinished.path())?;
    if !os::rename_exclusive(unfinished.path(), path)? {
        return Ok(None);
    }
    // It has another name now, and stays.
    let _ = unfinished.keep();
    os::sync_dir(parent)?;
    Ok(Some(filled))
}

/// Renames a file that was written elsewhere on the same file system, flushed first; replaces the one that is there.
///
/// # Errors
///
/// Fails without changing `to` when the file cannot be flushed or renamed.
pub fn move_file(from: &Path, to: &Path) -> io::Result<()> {
    os::sync_file(from)?;
    os::rename(from, to)?;
    os::sync_dir(os::parent(to))
}

/// Writes and flushes a temporary file in the folder of `path`.
fn write_beside(path: &Path, bytes: &[u8]) -> io::Result<NamedTempFile> {
    let mut prefix = hidden(path);
    prefix.push("-");
    let mut file = os::create_temporary(os::parent(path), &prefix)?;
    os::retry(|| os::point("write", path))?;
    file.write_all(bytes).map_err(|error| os::named(error, "write", path))?;
    os::done("write", file.path());
    os::sync_temporary(&file)?;
    Ok(file)
}

/// Writes a file that may be lost or torn by a power failure, and replaces the one that is there.
///
/// Only the user can change it, whatever the umask.
pub(crate) fn write_cache(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut prefix = hidden(path);
    prefix.push("-");
    let mut file = tempfile::Builder::new().prefix(&prefix).tempfile_in(os::parent(path))?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

/// Flushes all files and folders below `dir`, and `dir` itself, to the disk.
fn sync_tree(dir: &Path) -> io::Result<()> {
    for entry in os::entries(dir)? {
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sync_tree(&entry.path())?;
        } else if kind.is_file() {
            os::sync_file(&entry.path())?;
        }
    }
    os::sync_dir(dir)
}

/// Returns the file name of `path` with a dot before it.
fn hidden(path: &Path) -> OsString {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or(OsStr::new("unnamed")));
    name
}

/// Lists `root` and all folders below it, the deepest first.
pub(crate) fn dirs_bottom_up(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut dirs = vec![root.to_owned()];
    let mut index = 0;
    while index < dirs.len() {
        let mut children = Vec::new();
        for entry in os::entries(&dirs[index])? {
            if entry.file_type()?.is_dir() {
                children.push(entry.path());
            }
        }
        dirs.append(&mut children);
        index += 1;
    }
    dirs.reverse();
    Ok(dirs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs_err::read_dir(dir).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn file_is_replaced_and_nothing_remains_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write_file(&path, b"1").unwrap();
        write_file(&path, b"2").unwrap();
        assert_eq!(fs_err::read(&path).unwrap(), b"2");
        assert!(!write_new_file(&path, b"3").unwrap());
        assert_eq!(fs_err::read(&path).unwrap(), b"2");
        assert!(write_new_file(&dir.path().join("b"), b"3").unwrap());
        assert_eq!(names(dir.path()), ["a", "b"]);
        assert!(write_file(&dir.path().join("missing/a"), b"1").is_err());
    }

    #[test]
    fn file_is_as_readable_as_any_other() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        fs_err::write(dir.path().join("plain"), "").unwrap();
        write_file(&dir.path().join("atomic"), b"").unwrap();
        let mode = |name: &str| fs_err::metadata(dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode("atomic"), mode("plain"));
    }

    #[test]
    fn folder_is_replaced_whole_and_a_failed_one_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write_folder(&path, |new| fs_err::write(new.join("old"), "")).unwrap();
        let failed = write_folder(&path, |new| {
            fs_err::write(new.join("half"), "")?;
            Err::<(), _>(io::Error::other("no"))
        });
        assert!(failed.is_err());
        assert_eq!(names(&path), ["old"]);
        write_folder(&path, |new| fs_err::create_dir(new.join("sub")).map(|()| 3)).unwrap();
        assert_eq!(names(&path), ["sub"]);
        assert_eq!(names(dir.path()), ["a"]);
    }

    #[test]
    fn new_folder_touches_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let (path, beside) = (dir.path().join("git"), dir.path().join(".git"));
        fs_err::create_dir(&beside).unwrap();
        fs_err::write(beside.join("HEAD"), "").unwrap();
        let failed = write_new_folder(&path, |new| {
            fs_err::write(new.join("half"), "")?;
            Err::<(), _>(io::Error::other("no"))
        });
        assert!(failed.is_err());
        assert_eq!(names(dir.path()), [".git"]);
        let made = write_new_folder(&path, |new| fs_err::write(new.join("a"), "").map(|()| 3)).unwrap();
        assert_eq!(made, Some(3));
        assert_eq!(names(dir.path()), [".git", "git"]);
        assert_eq!((names(&path), names(&beside)), (vec!["a".to_owned()], vec!["HEAD".to_owned()]));
        // Its parents are made.
        let deep = dir.path().join("b/c");
        assert!(write_new_folder(&deep, |new| fs_err::write(new.join("a"), "")).unwrap().is_some());
        assert_eq!(names(&deep), ["a"]);
    }

    #[test]
    fn new_folder_yields_to_what_appears_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let made = write_new_folder(&path, |new| {
            fs_err::create_dir(&path)?;
            fs_err::write(path.join("theirs"), "")?;
            fs_err::write(new.join("ours"), "")
        });
        assert!(made.unwrap().is_none());
        assert_eq!((names(dir.path()), names(&path)), (vec!["a".to_owned()], vec!["theirs".to_owned()]));
        assert!(write_new_folder(&path, |new| fs_err::write(new.join("ours"), "")).unwrap().is_none());
        assert_eq!(names(&path), ["theirs"]);
    }

    #[test]
    fn new_folder_is_as_readable_as_any_other() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        fs_err::create_dir(dir.path().join("plain")).unwrap();
        write_new_folder(&dir.path().join("new"), |new| fs_err::write(new.join("a"), "")).unwrap();
        let mode = |name: &str| fs_err::metadata(dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode("new"), mode("plain"));
    }

    #[test]
    fn moved_file_replaces_the_target() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        fs_err::write(&from, "new").unwrap();
        fs_err::write(&to, "old").unwrap();
        move_file(&from, &to).unwrap();
        assert_eq!(fs_err::read(&to).unwrap(), b"new");
        assert_eq!(names(dir.path()), ["b"]);
    }
}
