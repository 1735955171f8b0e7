//! The mark of an output folder: a file that names the process writing it.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;

use crate::error::Result;
use crate::os;

/// Marks a folder that is being written; a later run may empty it once its process is dead.
pub(super) const INCOMPLETE: &str = "INCOMPLETE";
/// Beginning of the name of a mark that is not in place yet, or is being taken over.
pub(super) const LOOSE_MARK: &str = ".INCOMPLETE-";
/// First line of a mark. The second one has the boot and the number of the process.
const FIRST_LINE: &str = "this folder is being written\n";
/// Longest mark that is read, in bytes.
const MARK_BYTES: u64 = 4096;

/// Returns whether a file of this name may be a mark.
pub(super) fn is_name(name: &str) -> bool {
    name == INCOMPLETE || name.starts_with(LOOSE_MARK)
}

/// Returns the text of the mark of this process.
pub(super) fn text() -> String {
    format!("{FIRST_LINE}{} {}\n", os::boot_id(), std::process::id())
}

/// Kind of a file that is named like a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// A mark.
    Whole,
    /// A mark that a process is writing, or did not finish.
    Torn,
    /// Not written by this program.
    Foreign,
    /// No longer there: a process renamed or removed it.
    Gone,
}

impl Found {
    /// Reads the file `path`, which is named like a mark.
    pub(super) fn at(path: &Path) -> Result<Self> {
        let is_gone = |error: &std::io::Error| error.kind() == ErrorKind::NotFound;
        let mut bytes = Vec::new();
        let read = match path.symlink_metadata() {
            Ok(found) if !found.is_file() => return Ok(Self::Foreign),
            Ok(_) => os::open_file(path).map(|file| file.take(MARK_BYTES).read_to_end(&mut bytes)),
            Err(error) => Err(error),
        };
        match read {
            Err(error) if is_gone(&error) => Ok(Self::Gone),
            Err(error) => Err(error.into()),
            Ok(Err(error)) => Err(os::named(error, "read", path).into()),
            Ok(Ok(_)) => Ok(Self::of(&bytes)),
        }
    }

    fn of(bytes: &[u8]) -> Self {
        let first_line = FIRST_LINE.as_bytes();
        if bytes.starts_with(first_line) {
            Self::Whole
        } else if first_line.starts_with(bytes) || bytes.iter().all(|&byte| byte == 0) {
            Self::Torn
        } else {
            Self::Foreign
        }
    }
}

/// The process that writes to a folder.
pub(super) struct Mark {
    boot: String,
    pub(super) pid: i32,
}

impl Mark {
    pub(super) fn read(path: &Path) -> Option<Self> {
        Some(Self::read_from(&os::open_file(path).ok()?))
    }

    /// Reads a mark. A torn or unreadable one names no process.
    pub(super) fn read_from(file: &File) -> Self {
        let mut text = String::new();
        let _ = file.take(MARK_BYTES).read_to_string(&mut text);
        let (boot, pid) = text.lines().nth(1).unwrap_or_default().split_once(' ').unwrap_or_default();
        Self { boot: boot.to_owned(), pid: pid.parse().unwrap_or(0) }
    }

    /// Returns whether the process number can be looked up. A mark without one was torn by a crash, or is older.
    pub(super) fn is_this_boot(&self) -> bool {
        self.boot == os::boot_id() || self.boot.is_empty()
    }

    pub(super) fn describe(&self) -> String {
        format!(" (process {})", self.pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_this_program_writes_is_a_mark() {
        assert_eq!(Found::of(text().as_bytes()), Found::Whole);
        assert_eq!(Found::of(FIRST_LINE.as_bytes()), Found::Whole);
        for torn in [&b""[..], b"this folder", &[0; 40]] {
            assert_eq!(Found::of(torn), Found::Torn);
        }
        for foreign in [&b"todo: chapter 3\n"[..], b"this folder is mine", b"\n"] {
            assert_eq!(Found::of(foreign), Found::Foreign);
        }
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(INCOMPLETE);
        assert_eq!(Found::at(&path).unwrap(), Found::Gone);
        fs_err::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert_eq!(Found::at(&path).unwrap(), Found::Foreign);
    }
}
