//! Git LFS pointers: small text files in place of large ones.

use std::io::Read;
use std::path::Path;

/// First bytes of every Git LFS pointer.
const START: &[u8] = b"version https://git-lfs.github.com/spec/v1";

/// Description of such a file, for messages.
pub const LFS_POINTER: &str =
    "a Git LFS pointer in place of the file itself (the clone was made without Git LFS)";

/// Returns whether a file with these first bytes is a Git LFS pointer.
pub fn is_lfs_pointer(start: &[u8]) -> bool {
    start.starts_with(START)
}

/// Returns whether the file `path` is a Git LFS pointer; false if it cannot be read or is not a regular file.
pub fn file_is_lfs_pointer(path: &Path) -> bool {
    let mut start = [0; START.len()];
    let read = files::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && is_lfs_pointer(&start)
}

/// Returns the command that fetches the content of the file `path`, for hints.
pub fn lfs_hint(path: &Path) -> String {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    format!("fetch the content with `git lfs install && git -C '{}' lfs pull`", folder.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_is_told_from_other_files() -> std::io::Result<()> {
        let folder = tempfile::tempdir()?;
        let (pointer, short) = (folder.path().join("pointer"), folder.path().join("short"));
        fs_err::write(&pointer, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")?;
        fs_err::write(&short, "version")?;
        assert!(file_is_lfs_pointer(&pointer));
        assert!(!file_is_lfs_pointer(&short) && !file_is_lfs_pointer(&folder.path().join("missing")));
        assert!(lfs_hint(Path::new("model.safetensors")).contains("git -C '.' lfs pull"));
        Ok(())
    }
}
