//! Operating-system failures: disk, permissions, file descriptors, memory.

use std::error::Error as StdError;
use std::io;

use rustix::io::Errno;

use crate::chain::causes;
use crate::kind::Kind;

/// Returns the kind of the operating-system failure among the causes of `error`: disk, file descriptors or memory. Such a failure
/// says nothing about an input.
pub(crate) fn kind(error: &(dyn StdError + 'static)) -> Option<Kind> {
    const SHORTAGES: [Errno; 4] = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN];
    of_system(error).find_map(|error| match Kind::of_io(error) {
        Kind::Storage => Some(Kind::Storage),
        _ => errno(error).is_some_and(|errno| SHORTAGES.contains(&errno)).then_some(Kind::Failed),
    })
}

/// Returns the remedy for the first operating-system failure among the causes of `error`.
pub fn remedy(error: &(dyn StdError + 'static)) -> Option<&'static str> {
    of_system(error).find_map(|error| match (error.kind(), errno(error)) {
        (io::ErrorKind::StorageFull, _) => {
            Some("free some space on that disk, then run the same command again")
        }
        (io::ErrorKind::QuotaExceeded, _) => {
            Some("free some space of this user or raise its quota, then run the same command again")
        }
        (io::ErrorKind::ReadOnlyFilesystem, _) => {
            Some("mount that file system for writing, or name a folder on another one")
        }
        (io::ErrorKind::FileTooLarge, _) => Some(
            "raise the limit for the size of a file (`ulimit -f`), or name a folder on another file system",
        ),
        (io::ErrorKind::PermissionDenied, _) => Some("give this user the right to use that file or folder"),
        (io::ErrorKind::CrossesDevices, _) => Some(
            "keep all folders of a store on one file system: link or mount the whole store, not a folder in it",
        ),
        (_, Some(Errno::IO)) => Some("check the disk and its cables, then run the same command again"),
        (_, Some(Errno::MFILE | Errno::NFILE)) => Some("raise the limit for open files (`ulimit -n`)"),
        (_, Some(Errno::NOMEM)) => {
            Some("end other programs that need memory, or raise the limit for this one")
        }
        _ => None,
    })
}

/// Returns the I/O errors among the causes of `error`, outermost first.
fn of_system<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a io::Error> {
    causes(error).filter_map(|cause| cause.downcast_ref())
}

/// Returns the error number.
fn errno(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw_os_error)
}
