//! Folders of other tools that hold what was asked for one level below: one per checkpoint, per commit or per adapter.

use std::cmp::Reverse;
use std::path::{Path, PathBuf};

/// Returns the folder in `folder` that `holds` what is wanted: the one with the highest number at the end of its name
/// (`checkpoint-500`), or the first by name.
pub fn last_folder_in(folder: &Path, holds: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let number = |path: &Path| -> Option<u64> {
        path.file_name()?.to_string_lossy().rsplit(['-', '_']).next()?.parse().ok()
    };
    let entries = fs_err::read_dir(folder).ok()?;
    let inside = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir() && holds(path));
    inside.max_by_key(|path| (number(path), Reverse(path.clone())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_compared_as_numbers() -> std::io::Result<()> {
        let folder = tempfile::tempdir()?;
        let found = |holds: fn(&Path) -> bool| last_folder_in(folder.path(), holds);
        for name in ["checkpoint-500", "checkpoint-60", "final", "runs"] {
            fs_err::create_dir(folder.path().join(name))?;
        }
        fs_err::write(folder.path().join("checkpoint-900"), "")?;
        assert_eq!(found(|_| true), Some(folder.path().join("checkpoint-500")));
        assert_eq!(
            found(|path| !path.to_string_lossy().contains("point")),
            Some(folder.path().join("final"))
        );
        assert_eq!(found(|_| false), None);
        assert_eq!(last_folder_in(&folder.path().join("nowhere"), |_| true), None);
        Ok(())
    }
}
