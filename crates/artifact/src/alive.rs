//! Whether a process may still use a folder that gc would remove, where no lock tells.
//!
//! A staging folder is named after its process, and a workspace has a claim with the number of the process that works in it where
//! locks are missing. Numbers of processes mean something within one boot of one machine only.

use std::io::ErrorKind;
use std::path::Path;

use crate::os;

/// Beginning of the names of staging folders; boot and process number follow.
const STAGING: &str = ".tmp-";
/// Names the process that works in a workspace.
const CLAIM: &str = "claim";
/// Longest claim.
const CLAIM_BYTES: u64 = 64 << 10;

/// The process that a folder belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum User {
    /// It is dead, or there is none.
    Nobody,
    /// It is alive.
    Alive,
    /// It is of another machine, or was of an earlier boot of this one.
    Unknown,
}

impl User {
    /// Returns the user of a staging folder, `.tmp-BOOT-PID-…`.
    pub(crate) fn of_staging(dir: &Path) -> Self {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        let mut parts = name.strip_prefix(STAGING).unwrap_or_default().split('-');
        Self::named(parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
    }

    /// Returns the user of a workspace. A process always claims it where locks are missing.
    pub(crate) fn of_workspace(dir: &Path) -> Self {
        match os::read_small(&dir.join(CLAIM), CLAIM_BYTES) {
            Ok(claim) => {
                let claim = String::from_utf8_lossy(&claim);
                let (boot, pid) = claim.trim_end().split_once(' ').unwrap_or_default();
                Self::named(boot, pid)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Self::Nobody,
            Err(_) => Self::Unknown,
        }
    }

    fn named(boot: &str, pid: &str) -> Self {
        if boot != os::boot_id() {
            return Self::Unknown;
        }
        // Zero and negative numbers mean groups of processes.
        let pid = pid.parse::<u32>().ok().and_then(|pid| i32::try_from(pid).ok());
        if pid.is_some_and(os::process_is_alive) { Self::Alive } else { Self::Nobody }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process number that is never given: the kernels' limits are lower.
    const NO_PROCESS: u32 = 99_999_999;

    #[test]
    fn a_staging_folder_belongs_to_the_process_in_its_name() {
        let boot = os::boot_id();
        let user = |name: &str| User::of_staging(Path::new("store/train").join(name).as_path());
        assert_eq!(user(&format!(".tmp-{boot}-{}-abc", std::process::id())), User::Alive);
        assert_eq!(user(&format!(".tmp-{boot}-{NO_PROCESS}-abc")), User::Nobody);
        for pid in ["0", "-1", "x", "4294967295", ""] {
            assert_eq!(user(&format!(".tmp-{boot}-{pid}-abc")), User::Nobody, "{pid}");
        }
        assert_eq!(user(&format!(".tmp-00000000-{}-abc", std::process::id())), User::Unknown);
        assert_eq!(user(".tmp-"), User::Unknown);
    }

    #[test]
    fn a_workspace_belongs_to_the_process_in_its_claim() {
        let folder = tempfile::tempdir().unwrap();
        let user = |claim: &str| {
            fs_err::write(folder.path().join(CLAIM), claim).unwrap();
            User::of_workspace(folder.path())
        };
        assert_eq!(User::of_workspace(folder.path()), User::Nobody);
        let (boot, pid) = (os::boot_id(), std::process::id());
        assert_eq!(user(&format!("{boot} {pid}\n")), User::Alive);
        assert_eq!(user(&format!("{boot} {NO_PROCESS}\n")), User::Nobody);
        assert_eq!(user(&format!("00000000 {pid}\n")), User::Unknown);
        assert_eq!(user(""), User::Unknown, "cut off by a crash");
    }
}
