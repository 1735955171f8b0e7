//! Whether the process that owns a staging folder or workspace is alive.
//!
//! A staging folder is named after its process. A workspace has a claim that names its process where there are no locks or
//! they may exclude only the processes of one machine. Process numbers are only unique within one boot of one machine.

use std::io::ErrorKind;
use std::path::Path;

use crate::os;

/// Prefix of the names of staging folders; boot and process number follow.
pub(crate) const STAGING: &str = ".tmp-";
/// Name of the file with the claim of a folder.
pub const CLAIM: &str = "claim";
/// Maximum size of a claim.
const CLAIM_BYTES: u64 = 64 << 10;

/// State of the process that owns a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Liveness {
    /// It has ended, or the folder has no owner.
    Dead,
    /// It is running.
    Alive,
    /// It ran on another machine or in an earlier boot of this one.
    Unknown,
}

impl Liveness {
    /// Returns the state of the owner of a staging folder, `.tmp-BOOT-PID-…`.
    pub(crate) fn of_staging(dir: &Path) -> Self {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        let mut parts = name.strip_prefix(STAGING).unwrap_or_default().split('-');
        Self::named(parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
    }

    /// Returns the state of the owner of a workspace. Every process claims its workspace where there are no locks, and on a network
    /// file system.
    pub(crate) fn of_workspace(dir: &Path) -> Self {
        match os::read_small(&dir.join(CLAIM), CLAIM_BYTES) {
            Ok(claim) => {
                let claim = String::from_utf8_lossy(&claim);
                let (boot, pid) = claim.trim_end().split_once(' ').unwrap_or_default();
                Self::named(boot, pid)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Self::Dead,
            Err(_) => Self::Unknown,
        }
    }

    fn named(boot: &str, pid: &str) -> Self {
        if boot != os::boot_id() {
            return Self::Unknown;
        }
        // 0 and negative numbers are process groups.
        let pid = pid.parse::<u32>().ok().and_then(|pid| i32::try_from(pid).ok());
        if pid.is_some_and(os::process_is_alive) { Self::Alive } else { Self::Dead }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Process number above the limit of every kernel.
    const NO_PROCESS: u32 = 99_999_999;

    #[test]
    fn a_staging_folder_belongs_to_the_process_in_its_name() {
        let boot = os::boot_id();
        let owner = |name: &str| Liveness::of_staging(Path::new("store/train").join(name).as_path());
        assert_eq!(owner(&format!(".tmp-{boot}-{}-abc", std::process::id())), Liveness::Alive);
        assert_eq!(owner(&format!(".tmp-{boot}-{NO_PROCESS}-abc")), Liveness::Dead);
        for pid in ["0", "-1", "x", "4294967295", ""] {
            assert_eq!(owner(&format!(".tmp-{boot}-{pid}-abc")), Liveness::Dead, "{pid}");
        }
        assert_eq!(owner(&format!(".tmp-00000000-{}-abc", std::process::id())), Liveness::Unknown);
        assert_eq!(owner(".tmp-"), Liveness::Unknown);
    }

    #[test]
    fn a_workspace_belongs_to_the_process_in_its_claim() {
        let folder = tempfile::tempdir().unwrap();
        let owner = |claim: &str| {
            fs_err::write(folder.path().join(CLAIM), claim).unwrap();
            Liveness::of_workspace(folder.path())
        };
        assert_eq!(Liveness::of_workspace(folder.path()), Liveness::Dead);
        let (boot, pid) = (os::boot_id(), std::process::id());
        assert_eq!(owner(&format!("{boot} {pid}\n")), Liveness::Alive);
        assert_eq!(owner(&format!("{boot} {NO_PROCESS}\n")), Liveness::Dead);
        assert_eq!(owner(&format!("00000000 {pid}\n")), Liveness::Unknown);
        assert_eq!(owner(""), Liveness::Unknown, "cut off by a crash");
    }
}
