//! Leftovers: what is in a store besides artifacts: workspaces, staging folders, quarantine, trash and temporary files.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::Result;

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
    /// File written beside its target by a process that was killed.
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
        for workspace in children(&stage)? {
            found.extend(measure(Kind::Workspace, &workspace));
        }
    }
    for (folder, kind) in [(".quarantine", Kind::Quarantined), (".trash", Kind::Trash)] {
        for path in children(&root.join(folder))? {
            found.extend(measure(kind, &path));
        }
    }
    for path in children(root)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(".STORE-") {
            found.extend(measure(Kind::Temporary, &path));
        } else if (name == "refs" || name == ".kept") && path.is_dir() {
            let hidden = children(&path)?.into_iter().filter(|path| begins_with_dot(path));
            found.extend(hidden.filter_map(|path| measure(Kind::Temporary, &path)));
        } else if !name.starts_with('.') && path.is_dir() {
            let staging =
                |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(".tmp-"));
            found.extend(
                children(&path)?
                    .iter()
                    .filter(|path| staging(path))
                    .filter_map(|p| measure(Kind::Staging, p)),
            );
        }
    }
    Ok(found)
}

fn begins_with_dot(path: &Path) -> bool {
    path.file_name().is_some_and(|name: &OsStr| name.as_encoded_bytes().starts_with(b"."))
}

/// Lists the entries of a folder, sorted; none if it is missing or no folder.
fn children(dir: &Path) -> Result<Vec<PathBuf>> {
    if !dir.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Ok(Vec::new());
    }
    let mut paths = Vec::new();
    for entry in crate::catalog::list(dir)? {
        paths.push(entry.path());
    }
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
        *bytes += metadata.size();
    }
    Some(())
}
