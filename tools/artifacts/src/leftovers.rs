//! Leftovers: what is in a store besides artifacts: workspaces, staging folders, quarantine, trash and temporary files.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::{Error, Result};

/// Kind of a leftover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Resume folder of a run that has not finished, or was killed just after it had.
    Workspace,
    /// Folder in which an artifact is being written, or was when its process died.
    Staging,
    /// Damaged artifact, or second result of a nondeterministic stage.
    Quarantined,
    /// Folder that a killed gc did not delete.
    Trash,
    /// File written beside its target by a process that was killed, or workspace that such a process did not delete.
    Temporary,
}

impl Kind {
    /// Returns the name in `--json`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Workspace => "workspace",
            Self::Staging => "staging",
            Self::Quarantined => "quarantine",
            Self::Trash => "trash",
            Self::Temporary => "temporary",
        }
    }

    /// Returns the name in the plural.
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::Workspace => "workspaces",
            Self::Staging => "staging",
            Self::Quarantined => "quarantine",
            Self::Trash => "trash",
            Self::Temporary => "temporary",
        }
    }
}

/// A file or folder besides the artifacts.
#[derive(Debug, Clone)]
pub(crate) struct Leftover {
    /// Its kind.
    pub(crate) kind: Kind,
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Bytes of the files in it.
    pub(crate) bytes: u64,
    /// Newest modification time of what is in it.
    pub(crate) modified: SystemTime,
}

/// Lists the leftovers of the store in the folder `root`.
///
/// # Errors
///
/// Fails when a folder of the store cannot be listed.
pub(crate) fn find(root: &Path) -> Result<Vec<Leftover>> {
    let mut found = Vec::new();
    for stage in children(&root.join(".work"))? {
        for path in children(&stage)? {
            // A run renames its workspace before it deletes it.
            let kind = if begins_with(&path, ".") { Kind::Temporary } else { Kind::Workspace };
            found.extend(measure(kind, &path));
        }
    }
    for (folder, kind) in [(".quarantine", Kind::Quarantined), (".trash", Kind::Trash)] {
        for path in children(&root.join(folder))? {
            found.extend(measure(kind, &path));
        }
    }
    // The store itself may be a link, but nothing else in it is followed.
    for path in if root.is_dir() { sorted(root)? } else { Vec::new() } {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(".STORE-") {
            found.extend(measure(Kind::Temporary, &path));
        } else if name == "refs" || name == ".kept" {
            let hidden = children(&path)?.into_iter().filter(|path| begins_with(path, "."));
            found.extend(hidden.filter_map(|path| measure(Kind::Temporary, &path)));
        } else if artifact::check_stage(&name).is_ok() {
            let staging = children(&path)?.into_iter().filter(|path| begins_with(path, ".tmp-"));
            found.extend(staging.filter_map(|path| measure(staging_kind(&path), &path)));
        }
    }
    Ok(found)
}

/// Returns the kind of what has the name of a staging folder: a file or link is never in use.
fn staging_kind(path: &Path) -> Kind {
    if is_folder(path) { Kind::Staging } else { Kind::Temporary }
}

fn begins_with(path: &Path, start: &str) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(start.as_bytes()))
}

fn is_folder(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
}

/// Lists the entries of a folder, sorted; none if it is missing, a link or no folder, or is private to another user.
fn children(dir: &Path) -> Result<Vec<PathBuf>> {
    if !is_folder(dir) {
        return Ok(Vec::new());
    }
    match sorted(dir) {
        Err(Error::Io(error)) if error.kind() == ErrorKind::PermissionDenied => Ok(Vec::new()),
        listed => listed,
    }
}

fn sorted(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut paths: Vec<PathBuf> = crate::catalog::list(dir)?.into_iter().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

/// Measures a leftover; `None` if it is gone meanwhile.
fn measure(kind: Kind, path: &Path) -> Option<Leftover> {
    let (mut bytes, mut modified) = (0, None);
    add_up(path, &mut bytes, &mut modified)?;
    Some(Leftover { kind, path: path.to_owned(), bytes, modified: modified? })
}

fn add_up(path: &Path, bytes: &mut u64, modified: &mut Option<SystemTime>) -> Option<()> {
    let metadata = path.symlink_metadata().ok()?;
    *modified = (*modified).max(metadata.modified().ok());
    if metadata.is_dir() {
        for entry in fs_err::read_dir(path).ok()?.flatten() {
            // What disappears while it is measured does not count.
            let _ = add_up(&entry.path(), bytes, modified);
        }
    } else {
        *bytes = bytes.saturating_add(metadata.size());
    }
    Some(())
}
