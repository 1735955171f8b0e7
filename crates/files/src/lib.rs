//! Opens and reads files that users name.
//!
//! Opening a named pipe waits until somebody writes to it, and a device such as `/dev/zero` never ends. So only regular files
//! are opened, through symbolic links, and reading stops at a limit. Files of an artifact are opened by the crate `artifact`,
//! which follows no links.
//!
//! ```
//! # fn main() -> std::io::Result<()> {
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("config.json");
//! fs_err::write(&path, "{}")?;
//! assert_eq!(files::read_text(&path, 16)?, "{}");
//! assert!(files::read_text(&path, 1).is_err());
//! assert!(files::open("/dev/zero".as_ref()).is_err());
//! # Ok(())
//! # }
//! ```

use std::error::Error;
use std::fmt;
use std::fs::FileType;
use std::io::{self, Read as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use fs_err::File;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use rustix::fs::OFlags;

/// Longest settings or description file, in bytes.
pub const MAX_JSON_BYTES: u64 = 16 << 20;

/// Opens the regular file `path` for reading, through symbolic links.
///
/// # Errors
///
/// Fails with [`io::ErrorKind::InvalidData`] on a folder, pipe, socket or device, without waiting for it.
pub fn open(path: &Path) -> io::Result<File> {
    // A pipe would wait for a writer, and a terminal could become that of this process.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
    let file = fs_err::OpenOptions::new().read(true).custom_flags(flags).open(path);
    let kind = match &file {
        Ok(file) => file.metadata()?.file_type(),
        // A socket cannot be opened.
        Err(_) => match fs_err::metadata(path) {
            Ok(metadata) if !metadata.is_file() => metadata.file_type(),
            _ => return file,
        },
    };
    if kind.is_file() {
        file
    } else {
        Err(invalid(path, &format!("is {}, not a regular file", describe(kind))))
    }
}

fn describe(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

fn invalid(path: &Path, reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("`{}` {reason}", path.display()))
}

/// Reads a regular file of at most `limit` bytes.
///
/// # Errors
///
/// As [`open`], and fails on a longer file without reading on.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // The length of a file may change while it is read, and some files have none.
    open(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(invalid(path, &format!("has more than the {limit} bytes that are read of such a file")));
    }
    Ok(bytes)
}

/// Reads a regular UTF-8 file of at most `limit` bytes.
///
/// # Errors
///
/// As [`read`], and fails on bytes that are not UTF-8.
pub fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    String::from_utf8(read(path, limit)?).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        invalid(path, &format!("is not UTF-8 text: byte {place} (counted from 0) begins no character"))
    })
}

/// Creates a file without a name in `folder`, which is gone when it is closed. Errors call it `temporary file`.
///
/// # Errors
///
/// Fails when the file cannot be created.
pub fn temporary(folder: &Path) -> io::Result<File> {
    let named = |source: io::Error| {
        io::Error::new(source.kind(), NoTemporaryFile { folder: folder.to_owned(), source })
    };
    Ok(File::from_parts(tempfile::tempfile_in(folder).map_err(named)?, folder.join("temporary file")))
}

/// A temporary file cannot be created.
#[derive(Debug)]
struct NoTemporaryFile {
    folder: PathBuf,
    source: io::Error,
}

impl fmt::Display for NoTemporaryFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failed to create a temporary file in `{}`: {}", self.folder.display(), self.source)
    }
}

impl Error for NoTemporaryFile {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use rustix::fs::{CWD, Mode};

    use super::*;

    fn reason(path: &Path) -> String {
        let error = open(path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().starts_with(&format!("`{}`", path.display())));
        error.to_string()
    }

    #[test]
    fn only_regular_files_are_opened_and_nothing_waits() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        rustix::fs::mkfifoat(CWD, path("pipe"), Mode::from_raw_mode(0o600)).unwrap();
        assert!(reason(&path("pipe")).contains("a named pipe"));
        assert!(reason(folder.path()).contains("a folder"));
        assert!(reason(Path::new("/dev/zero")).contains("a device"));
        let _listener = UnixListener::bind(path("socket")).unwrap();
        assert!(reason(&path("socket")).contains("a socket"));
        fs_err::os::unix::fs::symlink("/dev/zero", path("link")).unwrap();
        assert!(reason(&path("link")).contains("a device"));
        fs_err::os::unix::fs::symlink("loop", path("loop")).unwrap();
        assert!(open(&path("loop")).unwrap_err().to_string().contains("loop"));
        assert_eq!(open(&path("missing")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn reading_stops_at_the_limit_and_at_bytes_that_are_no_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert!(read(&path, 1000).unwrap_err().to_string().contains("more than the 1000 bytes"));
        fs_err::write(&path, b"ab\xFF").unwrap();
        assert_eq!(read(&path, 3).unwrap(), b"ab\xFF");
        let error = read_text(&path, 3).unwrap_err();
        assert!(
            error.to_string().ends_with("is not UTF-8 text: byte 2 (counted from 0) begins no character")
        );
    }

    #[test]
    fn errors_of_temporary_files_name_their_folder() {
        let folder = tempfile::tempdir().unwrap();
        let file = temporary(folder.path()).unwrap();
        let error = file.set_len(u64::MAX).unwrap_err().to_string();
        assert!(error.contains(&format!("{}/temporary file", folder.path().display())), "{error}");
        let error = temporary(&folder.path().join("missing")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("/missing`: No such file"), "{error}");
    }
}
