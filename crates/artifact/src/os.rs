//! Every call to the operating system on which durability rests.
//!
//! Each call passes a fault [`point`] first, so that tests can make the N-th call fail or kill the process there.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use tempfile::{NamedTempFile, TempDir};

/// Passes a fault point: in tests, the operation may be made to fail, or the process be killed.
#[cfg(feature = "fault-injection")]
pub(crate) fn point(operation: &str, path: &Path) -> io::Result<()> {
    crate::faults::count_operation().map_err(|error| named(error, operation, path))
}

/// Does nothing: fault points need the feature `fault-injection`.
#[cfg(not(feature = "fault-injection"))]
#[expect(clippy::unnecessary_wraps, reason = "fault points can fail in tests")]
pub(crate) fn point(_operation: &str, _path: &Path) -> io::Result<()> {
    Ok(())
}

/// An I/O error with the operation and the path that it is about.
#[derive(Debug, thiserror::Error)]
#[error("failed to {operation} `{}`: {source}", path.display())]
struct Named {
    operation: String,
    path: PathBuf,
    source: io::Error,
}

/// Adds operation and path to an error; the kind and, as its source, the error number stay.
pub(crate) fn named(source: io::Error, operation: &str, path: &Path) -> io::Error {
    io::Error::new(source.kind(), Named { operation: operation.to_owned(), path: path.to_owned(), source })
}

/// Repeats `operation` while it is interrupted by a signal.
pub(crate) fn retry<T>(mut operation: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match operation() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Runs one named operation on a path, with fault point, retry and path in the message.
fn call<T>(operation: &str, path: &Path, mut body: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    retry(|| {
        point(operation, path)?;
        body()
    })
    .map_err(|error| if error.get_ref().is_some() { error } else { named(error, operation, path) })
}

/// Opens a regular file for reading; never follows a symlink, never hangs on a pipe.
pub(crate) fn open_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = retry(|| rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from))
        .map_err(|error| named(error, "open", path))?;
    Ok(File::from(file))
}

/// Creates a file that must not exist, writes it and flushes it to the disk.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = call("create", path, || {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(0o644))?))
    })?;
    call("write", path, || Ok(()))?;
    file.write_all(bytes).map_err(|error| named(error, "write", path))?;
    call("sync", path, || file.sync_all())
}

/// Creates a temporary file in `dir`, as readable as other new files; it is removed on drop.
pub(crate) fn create_temporary(dir: &Path, prefix: &OsStr) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix).permissions(Permissions::from_mode(0o666));
    call("create a file in", dir, || builder.tempfile_in(dir))
}

/// Creates a temporary folder in `dir`, as readable as other new folders; it is removed on drop.
pub(crate) fn create_temporary_dir(dir: &Path, prefix: &str) -> io::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix).permissions(Permissions::from_mode(0o777));
    call("create a folder in", dir, || builder.tempdir_in(dir))
}

/// Flushes a temporary file to the disk.
pub(crate) fn sync_temporary(file: &NamedTempFile) -> io::Result<()> {
    call("sync", file.path(), || file.as_file().sync_all())
}

/// Gives a temporary file its name; replaces the file of that name.
pub(crate) fn persist(file: NamedTempFile, to: &Path) -> io::Result<()> {
    let file = file.into_temp_path();
    rename(&file, to)?;
    // The temporary name is gone.
    let _ = file.keep();
    Ok(())
}

/// Gives a temporary file its name; returns `false` if there is a file of that name.
pub(crate) fn persist_new(file: NamedTempFile, to: &Path) -> io::Result<bool> {
    retry(|| point("rename", to))?;
    match file.into_temp_path().persist_noclobber(to) {
        Ok(()) => Ok(true),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(named(error.error, "rename", to)),
    }
}

/// Flushes a file's bytes to the disk.
pub(crate) fn sync_file(path: &Path) -> io::Result<()> {
    let file = open_file(path)?;
    call("sync", path, || file.sync_all())
}

/// Flushes the entries of a folder; does nothing on file systems that cannot.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    call("sync folder", path, || {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        match dir.sync_all() {
            Err(error) if unsupported(&error) => {
                tracing::debug!("the file system of `{}` cannot flush folders", path.display());
                Ok(())
            }
            result => result,
        }
    })
}

fn unsupported(error: &io::Error) -> bool {
    [Errno::INVAL, Errno::NOTSUP, Errno::NOTTY].iter().any(|e| error.raw_os_error() == Some(e.raw_os_error()))
}

/// Sets permission bits.
pub(crate) fn chmod(path: &Path, mode: u32) -> io::Result<()> {
    call("change the mode of", path, || fs_err::set_permissions(path, Permissions::from_mode(mode)))
}

/// Creates one folder that must not exist.
pub(crate) fn create_dir(path: &Path) -> io::Result<()> {
    call("create folder", path, || fs_err::create_dir(path))
}

/// Creates a folder and its parents where missing.
pub(crate) fn create_dir_all(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    call("create folder", path, || fs_err::create_dir_all(path))
}

/// Renames and replaces.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    call("rename", from, || fs_err::rename(from, to))
}

/// Renames a non-empty folder; returns `false` when the target exists.
///
/// A plain rename serves where the file system cannot rename exclusively: it never replaces a folder that is not empty, and a
/// published folder is not.
pub(crate) fn rename_exclusive(from: &Path, to: &Path) -> io::Result<bool> {
    call("rename", from, || {
        let mut result = rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE);
        if let Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) = result {
            result = rustix::fs::rename(from, to);
        }
        match result {
            Ok(()) => Ok(true),
            Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    })
}

/// Returns the free space for a normal user at `path`, in bytes; the path need not exist.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    let existing = path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("."));
    let existing = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
    let stat = retry(|| rustix::fs::statvfs(existing).map_err(io::Error::from))
        .map_err(|error| named(error, "measure", existing))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Removes a folder, read-only ones in it included; does nothing if there is none.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    match fs_err::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            make_writable(path);
            fs_err::remove_dir_all(path)
        }
        Err(error) => Err(error),
    }
}

fn make_writable(dir: &Path) {
    let _ = fs_err::set_permissions(dir, Permissions::from_mode(0o755));
    for entry in fs_err::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            make_writable(&entry.path());
        }
    }
}

/// Returns eight hexadecimal digits that identify this boot of this machine.
pub(crate) fn boot_id() -> &'static str {
    static ID: OnceLock<String> = OnceLock::new();
    ID.get_or_init(|| {
        let linux = fs_err::read_to_string("/proc/sys/kernel/random/boot_id").ok();
        let text = linux.or_else(|| {
            let output =
                std::process::Command::new("sysctl").args(["-n", "kern.bootsessionuuid"]).output().ok()?;
            String::from_utf8(output.stdout).ok()
        });
        let digits: String = text
            .unwrap_or_default()
            .chars()
            .filter(char::is_ascii_hexdigit)
            .take(8)
            .map(|c| c.to_ascii_lowercase())
            .collect();
        if digits.len() == 8 { digits } else { "00000000".to_owned() }
    })
}

/// Returns whether `path` is on a network or user-space file system, where locks may silently do nothing.
pub(crate) fn is_network(path: &Path) -> bool {
    // nfs, smb, cifs, smb2, lustre, gpfs, fuse, 9p, ceph, afs
    const KINDS: [u64; 10] = [
        0x6969,
        0x517B,
        0xFF53_4D42,
        0xFE53_4D42,
        0x0BD0_0BD0,
        0x4750_4653,
        0x6573_5546,
        0x0102_1997,
        0x00C3_6400,
        0x5346_414F,
    ];
    cfg!(target_os = "linux")
        && rustix::fs::statfs(path).is_ok_and(|stat| KINDS.contains(&(stat.f_type as u64 & 0xFFFF_FFFF)))
}

/// Returns whether a process of this machine is alive.
pub(crate) fn process_is_alive(pid: i32) -> bool {
    rustix::process::Pid::from_raw(pid)
        .is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(Errno::SRCH))
}
