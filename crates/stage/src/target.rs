//! Output files named on the command line.
//!
//! The name may be a pipe or a device, such as `/dev/stdout`, `/dev/null` or `>(program)` of a shell. Opening a named pipe would block until a
//! reader opens it, so a pipe without a reader is refused.

use std::fs::FileType;
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use failure::{Context, Error, Result};
use fs_err::File;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use rustix::fs::OFlags;

use crate::output;

/// Names of stdout.
const STDOUT: [&str; 3] = ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];
/// Names of open files and of folders with such names. Their targets are written in place, not replaced.
const OPENED: [&str; 3] = ["/dev/fd", "/dev/stderr", "/proc"];
/// Maximum number of symbolic links to follow.
const LINKS: usize = 40;

/// Returns whether a path is a name of stdout.
pub fn is_stdout(path: &Path) -> bool {
    STDOUT.iter().any(|name| path == Path::new(name))
}

/// Creates or truncates a file, following symbolic links. Also opens pipes and devices.
///
/// # Errors
///
/// Fails on a folder, a socket and a named pipe without a reader (exit 2), and if the file cannot be opened.
pub fn create_file(path: &Path) -> Result<File> {
    // A pipe would wait for a reader, and a terminal could become that of this process.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
    let mut options = fs_err::OpenOptions::new();
    match options.write(true).create(true).truncate(true).custom_flags(flags).open(path) {
        Ok(file) => {
            wait_for_reader(&file).with_context(|| format!("opening `{}`", path.display()))?;
            Ok(file)
        }
        Err(error) => match fs_err::metadata(path) {
            Ok(found) => Err(refusal(path, found.file_type()).unwrap_or_else(|| error.into())),
            Err(_) => Err(error.into()),
        },
    }
}

/// Restores blocking writes.
fn wait_for_reader(file: &File) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(file.file())?;
    Ok(rustix::fs::fcntl_setfl(file.file(), flags - OFlags::NONBLOCK)?)
}

/// Returns the error for a file that cannot be opened for writing because of its type.
fn refusal(path: &Path, kind: FileType) -> Option<Error> {
    let (what, hint) = if kind.is_dir() {
        ("is a folder", "name a file")
    } else if kind.is_fifo() {
        ("is a named pipe that nobody reads", "start the program that reads it first, or name a file")
    } else if kind.is_socket() {
        ("is a socket", "name a file")
    } else {
        return None;
    };
    Some(Error::usage(format!("`{}` {what}", path.display())).hinted(hint))
}

/// Writes a whole file. A regular file, also behind symbolic links, is replaced atomically. Stdout, pipes and devices are written
/// directly; a closed pipe is ignored.
///
/// # Errors
///
/// As [`create_file`], and if the bytes cannot be written.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    if is_stdout(path) {
        return output::print_bytes(bytes);
    }
    let is_regular = match fs_err::metadata(path) {
        Ok(found) => found.is_file(),
        Err(error) if error.kind() == ErrorKind::NotFound => true,
        Err(error) => return Err(error.into()),
    };
    if is_regular && !OPENED.iter().any(|name| path.starts_with(name)) {
        return Ok(artifact::atomic::write_file(&through_links(path), bytes)?);
    }
    match create_file(path)?.write_all(bytes) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// Follows symbolic links to a target, which need not exist.
fn through_links(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        let Ok(target) = fs_err::read_link(&path) else { break };
        path = path.parent().unwrap_or(Path::new("")).join(target);
    }
    path
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::{MetadataExt as _, symlink};
    use std::os::unix::net::UnixListener;

    use rustix::fs::{CWD, Mode};

    use super::*;

    fn pipe(path: &Path) {
        rustix::fs::mkfifoat(CWD, path, Mode::from_raw_mode(0o600)).unwrap();
    }

    #[test]
    fn what_cannot_be_written_is_named_without_waiting() {
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name);
        pipe(&path("pipe"));
        let _listener = UnixListener::bind(path("socket")).unwrap();
        symlink("pipe", path("link")).unwrap();
        let cases = [
            ("pipe", "is a named pipe that nobody reads"),
            ("link", "is a named pipe that nobody reads"),
            ("socket", "is a socket"),
            ("", "is a folder"),
        ];
        for (name, what) in cases {
            let errors = [create_file(&path(name)).unwrap_err(), write_file(&path(name), b"x").unwrap_err()];
            for error in errors {
                assert_eq!(error.to_string(), format!("`{}` {what}", path(name).display()));
                assert_eq!((error.kind().exit_code(), error.hints().len()), (2, 1), "{name}");
            }
        }
        let error = create_file(&path("missing/file")).unwrap_err().to_string();
        assert!(error.contains("missing/file"), "{error}");
        write_file(&path("missing/file"), b"x").unwrap_err();
    }

    #[test]
    fn pipes_with_a_reader_and_devices_are_written() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("pipe");
        pipe(&path);
        // More than a pipe holds, so that the writer has to wait.
        let bytes = vec![b'x'; 300_000];
        let reading = path.clone();
        let reader = std::thread::spawn(move || {
            let mut file = fs_err::File::open(reading).unwrap();
            let mut read = Vec::new();
            file.read_to_end(&mut read).map(|_| read).unwrap()
        });
        let written = loop {
            match write_file(&path, &bytes) {
                Err(error) if error.to_string().ends_with("nobody reads") => std::thread::yield_now(),
                written => break written,
            }
        };
        written.unwrap();
        assert!(reader.join().unwrap() == bytes);
        write_file(Path::new("/dev/null"), b"x").unwrap();
        create_file(Path::new("/dev/null")).unwrap().write_all(b"x").unwrap();
    }

    #[test]
    fn a_file_is_replaced_whole_also_behind_links() {
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name);
        fs_err::create_dir(path("folder")).unwrap();
        fs_err::write(path("folder/page"), "old").unwrap();
        symlink("folder/second", path("first")).unwrap();
        symlink("page", path("folder/second")).unwrap();
        let before = fs_err::metadata(path("folder/page")).unwrap().ino();
        write_file(&path("first"), b"new").unwrap();
        assert_eq!(fs_err::read(path("folder/page")).unwrap(), b"new");
        assert!(path("first").is_symlink() && path("folder/second").is_symlink());
        assert_ne!(fs_err::metadata(path("folder/page")).unwrap().ino(), before, "written in place");
        // A link to nothing stays, too.
        fs_err::remove_file(path("folder/page")).unwrap();
        write_file(&path("first"), b"again").unwrap();
        assert_eq!(fs_err::read(path("folder/page")).unwrap(), b"again");
        assert_eq!(fs_err::read_dir(path("folder")).unwrap().count(), 2, "nothing remains beside it");
        symlink("loop", path("loop")).unwrap();
        write_file(&path("loop"), b"x").unwrap_err();
        assert!(path("loop").is_symlink());
    }

    #[test]
    fn the_names_of_stdout_are_known() {
        assert!(is_stdout(Path::new("/dev/stdout")) && is_stdout(Path::new("/dev/fd/1")));
        assert!(!is_stdout(Path::new("stdout")) && !is_stdout(Path::new("/dev/fd/10")));
    }
}
