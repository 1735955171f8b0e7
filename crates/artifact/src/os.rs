//! Every call to the operating system on which durability rests.
//!
//! Each call passes a fault [`point`] first, so that tests can make the N-th call fail or kill the process there.

use std::ffi::OsStr;
use std::fs::{File, Permissions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use tempfile::{NamedTempFile, TempDir};

use crate::digest::FileHash;

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

/// Reports a finished operation to the observer of tests.
#[cfg(feature = "fault-injection")]
pub(crate) fn done(operation: &str, path: &Path) {
    crate::faults::done(operation, path);
}

/// Does nothing: only tests observe.
#[cfg(not(feature = "fault-injection"))]
pub(crate) fn done(_operation: &str, _path: &Path) {}

/// Returns whether tests make every file system one of the network.
#[cfg(feature = "fault-injection")]
pub(crate) fn is_network_planned() -> bool {
    crate::faults::is_network_planned()
}

/// Returns `false`: only tests plan a network.
#[cfg(not(feature = "fault-injection"))]
pub(crate) fn is_network_planned() -> bool {
    false
}

/// Returns whether this machine refuses a second lock on a file or folder that this process has locked.
pub(crate) fn refuses_second_lock(path: &Path) -> bool {
    let second = open_lock(path).or_else(|_| open_dir(path));
    is_network_planned()
        || second.is_ok_and(|second| matches!(try_lock(&second), Err(TryLockError::WouldBlock)))
}

/// Tries to lock an opened file exclusively, against other processes.
pub(crate) fn try_lock(file: &File) -> Result<(), TryLockError> {
    #[cfg(feature = "fault-injection")]
    if let Some(planned) = crate::faults::planned_lock() {
        return planned;
    }
    file.try_lock()
}

/// Tries to lock an opened file against exclusive locks.
pub(crate) fn try_lock_shared(file: &File) -> Result<(), TryLockError> {
    #[cfg(feature = "fault-injection")]
    if let Some(planned) = crate::faults::planned_lock() {
        return planned;
    }
    file.try_lock_shared()
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
    .inspect(|_| done(operation, path))
    .map_err(|error| if error.get_ref().is_some() { error } else { named(error, operation, path) })
}

/// Opens a regular file for reading; never follows a symlink, never hangs on a pipe.
pub(crate) fn open_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = retry(|| rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from))
        .map_err(|error| named(error, "open", path))?;
    Ok(File::from(file))
}

/// Lists a folder.
pub(crate) fn entries(dir: &Path) -> io::Result<Vec<fs_err::DirEntry>> {
    // Interrupted in the middle, it is listed again.
    retry(|| fs_err::read_dir(dir)?.collect())
}

/// Longest file that describes an artifact: a manifest of a million files has half of it.
const LONGEST_RECORD: u64 = 256 << 20;

/// Reads a regular file that describes an artifact; never follows a symlink, never hangs on a pipe.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    read_limited(path, open_file(path)?, LONGEST_RECORD)
}

/// Reads a small regular file, through symlinks; fails if it is longer than `limit` bytes.
pub(crate) fn read_small(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    read_limited(path, open_through_links(path)?, limit)
}

fn read_limited(path: &Path, file: File, limit: u64) -> io::Result<Vec<u8>> {
    let refused =
        |text: &str| named(io::Error::new(io::ErrorKind::InvalidData, text.to_owned()), "read", path);
    if !file.metadata().map_err(|error| named(error, "look at", path))?.is_file() {
        return Err(refused("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| named(error, "read", path))?;
    if bytes.len() as u64 > limit { Err(refused("it is too long")) } else { Ok(bytes) }
}

/// Opens a file for reading, through symlinks; never hangs on a pipe.
pub(crate) fn open_through_links(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = retry(|| rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from))
        .map_err(|error| named(error, "open", path))?;
    Ok(File::from(file))
}

/// Opens an existing file for locking and reading; never follows a symlink, never hangs on a pipe.
pub(crate) fn open_existing(path: &Path) -> io::Result<File> {
    let open = |flags| {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        retry(|| rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from))
    };
    let opened = open(OFlags::RDWR).or_else(|_| open(OFlags::RDONLY));
    Ok(File::from(opened.map_err(|error| named(error, "open", path))?))
}

/// Returns whether `path` still names the file or folder that was opened.
pub(crate) fn is_at(file: &File, path: &Path) -> bool {
    let Ok(opened) = file.metadata() else { return false };
    path.symlink_metadata().is_ok_and(|named| (opened.dev(), opened.ino()) == (named.dev(), named.ino()))
}

/// Creates a file that must not exist, writes it and flushes it to the disk.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = call("create", path, || {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(0o644))?))
    })?;
    retry(|| point("write", path))?;
    file.write_all(bytes).map_err(|error| named(error, "write", path))?;
    done("write", path);
    call("sync", path, || file.sync_all())
}

/// Creates a temporary file in `dir`, as readable as other new files; it is removed on drop.
pub(crate) fn create_temporary(dir: &Path, prefix: &OsStr) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix).permissions(Permissions::from_mode(0o666));
    call("create a file in", dir, || {
        builder.tempfile_in(dir).map_err(|error| named(error, "create a file in", dir))
    })
}

/// Creates a temporary folder in `dir`, as readable as other new folders; it is removed on drop.
pub(crate) fn create_temporary_dir(dir: &Path, prefix: &str) -> io::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix).permissions(Permissions::from_mode(0o777));
    call("create a folder in", dir, || {
        builder.tempdir_in(dir).map_err(|error| named(error, "create a folder in", dir))
    })
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
        Ok(()) => {
            done("rename", to);
            Ok(true)
        }
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(named(error.error, "rename", to)),
    }
}

/// Flushes a file's bytes to the disk.
pub(crate) fn sync_file(path: &Path) -> io::Result<()> {
    let file = open_file(path)?;
    call("sync", path, || file.sync_all())
}

/// Flushes what was written to a file through a mapping, so that the next such write sets the times of the file: the system sets
/// them at the first write to a clean page only. A failure is only logged.
pub(crate) fn flush_mapped(path: &Path, file: &File) {
    match rustix::fs::fsync(file) {
        Ok(()) => done("flush", path),
        Err(errno) => tracing::debug!("cannot flush `{}` before it is hashed: {errno}", path.display()),
    }
}

/// Flushes the entries of a folder; does nothing on file systems that cannot.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    call("sync folder", path, || {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir =
            File::from(retry(|| rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from))?);
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

/// Sets permission bits of what is at `path`, which is the folder `root` or below it; a refusal does not matter if it has these bits
/// already. Never follows a symlink from `root` on.
pub(crate) fn chmod_in(root: &Path, path: &Path, mode: u32) -> io::Result<()> {
    call("change the mode of", path, || {
        let file = open_in(root, path)?;
        let has_mode = || file.metadata().is_ok_and(|found| found.mode() & 0o777 == mode);
        match file.set_permissions(Permissions::from_mode(mode)) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && has_mode() => Ok(()),
            result => result,
        }
    })
}

/// Opens the file or folder `path`, which is the folder `root` or below it, name by name; never follows a symlink from `root` on.
fn open_in(root: &Path, path: &Path) -> io::Result<File> {
    let below = path.strip_prefix(root).map_err(io::Error::other)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let mut file = open_dir(root)?;
    for name in below {
        file = File::from(rustix::fs::openat(&file, name, flags, Mode::empty())?);
    }
    Ok(file)
}

/// Creates one folder that must not exist.
pub(crate) fn create_dir(path: &Path) -> io::Result<()> {
    call("create folder", path, || fs_err::create_dir(path))
}

/// Creates a folder and its parents where missing, and flushes the entry of each new one.
pub(crate) fn create_dir_all(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> =
        path.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.is_dir()).collect();
    for dir in missing.into_iter().rev() {
        let created = call("create folder", dir, || match fs_err::create_dir(dir) {
            // Another process was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
            result => result,
        });
        created?;
        sync_dir(parent(dir))?;
    }
    Ok(())
}

/// Returns the folder that holds `path`.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Renames and replaces.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    call("rename", from, || fs_err::rename(from, to))
}

/// Renames a file and replaces the target; returns `false` when the file is gone.
pub(crate) fn rename_over(from: &Path, to: &Path) -> io::Result<bool> {
    call("rename", from, || match rustix::fs::rename(from, to) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno.into()),
    })
}

/// Renames a file; returns `false` when the target exists or the file is gone.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<bool> {
    call("rename", from, || {
        let mut result = rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE);
        if let Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) = result {
            result = rustix::fs::link(from, to).and_then(|()| rustix::fs::unlink(from));
        }
        match result {
            Ok(()) => Ok(true),
            Err(Errno::EXIST | Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    })
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

/// Removes a file; does nothing if there is none.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    call("remove", path, || match fs_err::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    })
}

/// Removes a folder, read-only ones in it included; does nothing if there is none.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    if path.symlink_metadata().is_err() {
        return Ok(());
    }
    call("remove", path, || remove_all(path))
}

fn remove_all(path: &Path) -> io::Result<()> {
    match fs_err::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            make_tree_writable(path);
            fs_err::remove_dir_all(path)
        }
        Err(error) => Err(error),
    }
}

fn make_tree_writable(dir: &Path) {
    if !make_writable(dir) {
        return;
    }
    for entry in entries(dir).into_iter().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            make_tree_writable(&entry.path());
        }
    }
}

/// Lets the owner write to a folder; returns `false` and changes nothing if `dir` is a link or belongs to someone else.
pub(crate) fn make_writable(dir: &Path) -> bool {
    open_dir(dir)
        .is_ok_and(|opened| is_ours(&opened) && opened.set_permissions(Permissions::from_mode(0o755)).is_ok())
}

/// Opens a folder; never follows a symlink.
pub(crate) fn open_dir(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = retry(|| rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from))
        .map_err(|error| named(error, "open", path))?;
    Ok(File::from(dir))
}

/// Returns whether an opened file or folder belongs to the user of this process.
pub(crate) fn is_ours(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.uid() == rustix::process::geteuid().as_raw())
}

/// Returns whether an opened file can be believed: a regular file that only its owner, this user or root, can change.
pub(crate) fn is_private(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| {
        let (owner, us) = (metadata.uid(), rustix::process::geteuid().as_raw());
        metadata.is_file() && (owner == us || owner == 0) && metadata.mode() & 0o022 == 0
    })
}

/// Opens a file for locking or as a mark, creating it if needed; never follows a symlink, never waits for a pipe.
pub(crate) fn open_lock(path: &Path) -> io::Result<File> {
    let open = |flags| {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        rustix::fs::open(path, flags, Mode::from_raw_mode(0o666)).map_err(io::Error::from)
    };
    let opened = call("open", path, || match open(OFlags::RDWR | OFlags::CREATE) {
        // Locking needs no right to write, except on some network file systems.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            open(OFlags::RDONLY).map_err(|_| error)
        }
        result => result,
    });
    Ok(File::from(opened?))
}

/// Returns eight hexadecimal digits that identify this boot of this machine and, in a container, its processes' numbering.
pub(crate) fn boot_id() -> &'static str {
    static ID: OnceLock<String> = OnceLock::new();
    ID.get_or_init(|| {
        let linux = fs_err::read_to_string("/proc/sys/kernel/random/boot_id").ok();
        let text = linux.or_else(|| {
            let output =
                std::process::Command::new("sysctl").args(["-n", "kern.bootsessionuuid"]).output().ok()?;
            String::from_utf8(output.stdout).ok()
        });
        // Process numbers of one container mean nothing in another.
        let numbering = fs_err::read_link("/proc/self/ns/pid").unwrap_or_default();
        let text = format!("{} {}", text.unwrap_or_default().trim(), numbering.display());
        FileHash::of(text.as_bytes()).short()[..8].to_owned()
    })
}

/// Returns whether a process with the number space of [`boot_id`] is alive.
pub(crate) fn process_is_alive(pid: i32) -> bool {
    let exists = rustix::process::Pid::from_raw(pid)
        .is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(Errno::SRCH));
    exists && !has_ended(pid)
}

/// Returns whether a process is a zombie. Always `false` where there is no `/proc`.
fn has_ended(pid: i32) -> bool {
    let Ok(text) = fs_err::read(format!("/proc/{pid}/stat")) else { return false };
    // The state follows the name, which is in parentheses and may itself contain parentheses.
    let end = text.iter().rposition(|byte| *byte == b')');
    end.and_then(|end| text.get(end + 2)).is_some_and(|state| b"ZX".contains(state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_mode_matters_only_if_it_differs() {
        // Linux refuses even root to change modes there.
        let root = PathBuf::from(format!("/proc/{}", std::process::id()));
        let path = root.join("status");
        if path.exists() {
            chmod_in(&root, &path, 0o444).unwrap();
            assert_eq!(chmod_in(&root, &path, 0o644).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        }
    }

    #[test]
    fn modes_are_not_changed_through_links() {
        let home = tempfile::tempdir().unwrap();
        let (root, private) = (home.path().join("root"), home.path().join("private"));
        fs_err::create_dir(&root).unwrap();
        fs_err::create_dir(&private).unwrap();
        write_new(&private.join("secret"), b"x").unwrap();
        fs_err::set_permissions(private.join("secret"), Permissions::from_mode(0o600)).unwrap();
        let link = |to: &Path, name: &str| std::os::unix::fs::symlink(to, root.join(name)).unwrap();
        link(&private, "folder");
        link(&private.join("secret"), "file");
        for name in ["folder/secret", "folder", "file"] {
            assert!(chmod_in(&root, &root.join(name), 0o444).is_err(), "{name}");
        }
        assert!(chmod_in(&root.join("folder"), &root.join("folder/secret"), 0o444).is_err());
        assert_eq!(fs_err::metadata(private.join("secret")).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_process_that_ended_is_dead_although_nobody_waited_for_it() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let begun = std::time::Instant::now();
        while process_is_alive(pid) {
            assert!(begun.elapsed().as_secs() < 60, "its remains count as alive");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        child.wait().unwrap();
        assert!(process_is_alive(i32::try_from(std::process::id()).unwrap()));
    }
}
