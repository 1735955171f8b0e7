//! The folders of downloads below the one for the resume state.

use std::path::Path;

/// Folder with the files from the hub.
pub(crate) const DOWNLOAD: &str = "download";
/// Folder with the wheel.
pub(crate) const WHEEL: &str = "wheel";

/// Returns whether an earlier process left a downloaded file, or a part of one, in the folder `resume`.
pub(crate) fn has_downloads(resume: &Path) -> bool {
    let mut folders = vec![resume.join(DOWNLOAD), resume.join(WHEEL)];
    while let Some(folder) = folders.pop() {
        for entry in fs_err::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(found) if found.is_dir() => folders.push(entry.path()),
                Ok(found) if found.len() > 0 => return true,
                _ => {}
            }
        }
    }
    false
}
