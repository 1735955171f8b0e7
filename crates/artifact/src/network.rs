//! Telling network and user-space file systems, where locks may silently do nothing, from local ones.

use std::path::Path;

use crate::os;

/// Types of file systems that other machines, or a program, serve. Names with a dot behind them (`fuse.sshfs`) count too.
const NETWORK_TYPES: [&str; 38] = [
    "9p",
    "acfs",
    "afpfs",
    "afs",
    "autofs",
    "beegfs",
    "ceph",
    "cifs",
    "coda",
    "ftp",
    "fuse",
    "fuse-t",
    "fuseblk",
    "gfs",
    "gfs2",
    "glusterfs",
    "gpfs",
    "lustre",
    "macfuse",
    "mmfs",
    "ncpfs",
    "nfs",
    "nfs4",
    "ocfs2",
    "orangefs",
    "osxfuse",
    "panfs",
    "prl_fs",
    "pvfs2",
    "smb2",
    "smb3",
    "smbfs",
    "sshfs",
    "vboxsf",
    "virtiofs",
    "vmhgfs",
    "webdav",
    "wekafs",
];

/// Returns whether `path` is on a network or user-space file system.
pub(crate) fn is_network(path: &Path) -> bool {
    os::is_network_planned()
        || file_system_type(path).is_some_and(|name| is_network_type(&name))
        || is_served(path)
}

/// Returns whether a lock on `path` that the system grants keeps the processes of other machines out, too.
///
/// Of the network file systems, that is known only of those whose options in the table of mounts say so.
pub(crate) fn locks_reach_machines(path: &Path) -> bool {
    !is_network(path)
        || (!os::is_network_planned() && mount(path).is_some_and(|mount| mount.locks_on_server()))
}

/// A mounted file system.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    /// Type, such as `nfs4`.
    kind: String,
    /// Options, separated by commas.
    options: String,
}

impl Mount {
    /// Returns whether its locks are those of the server, as far as its options say.
    fn locks_on_server(&self) -> bool {
        let has = |option: &str| self.options.split(',').any(|found| found == option);
        match self.kind.as_str() {
            "nfs" | "nfs4" => has("local_lock=none") && !has("nolock"),
            "lustre" => has("flock"),
            _ => false,
        }
    }
}

fn is_network_type(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let base = name.split('.').next().unwrap_or_default();
    NETWORK_TYPES.contains(&base)
}

fn file_system_type(path: &Path) -> Option<String> {
    Some(mount(path)?.kind)
}

/// Returns the file system that `path` is on, from the table of mounts.
#[cfg(target_os = "linux")]
fn mount(path: &Path) -> Option<Mount> {
    use std::os::unix::fs::MetadataExt as _;
    let device = fs_err::metadata(path).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    find_mount(&fs_err::read_to_string("/proc/self/mountinfo").ok()?, &format!("{major}:{minor}"))
}

/// Finds the file system with a device number (`8:1`) in the text of `/proc/self/mountinfo`.
#[cfg(any(target_os = "linux", test))]
fn find_mount(mounts: &str, device: &str) -> Option<Mount> {
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some(device))?;
    let mut words = line.split_once(" - ")?.1.split(' ');
    let kind = words.next()?.to_owned();
    Some(Mount { kind, options: words.nth(1).unwrap_or_default().to_owned() })
}

#[cfg(target_os = "macos")]
fn mount(path: &Path) -> Option<Mount> {
    let stat = rustix::fs::statfs(path).ok()?;
    let name = stat.f_fstypename.iter().take_while(|byte| **byte != 0);
    let kind = name.map(|&byte| char::from(byte.cast_unsigned())).collect();
    Some(Mount { kind, options: String::new() })
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn mount(_path: &Path) -> Option<Mount> {
    None
}

/// Returns whether the system says itself that the file system is not local.
#[cfg(target_os = "macos")]
fn is_served(path: &Path) -> bool {
    /// `MNT_LOCAL` of `<sys/mount.h>`.
    const LOCAL: u32 = 0x1000;
    rustix::fs::statfs(path).is_ok_and(|stat| stat.f_flags & LOCAL == 0)
}

/// Recognizes what the table of mounts does not show, such as NFS in a container without `/proc`.
#[cfg(target_os = "linux")]
fn is_served(path: &Path) -> bool {
    // nfs, smb, cifs, smb2, lustre, gpfs, fuse, 9p, ceph, afs, beegfs, orangefs, vboxsf
    const MAGIC: [u64; 13] = [
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
        0x1983_0326,
        0x2003_0528,
        0x786F_4256,
    ];
    rustix::fs::statfs(path).is_ok_and(|stat| MAGIC.contains(&(stat.f_type as u64 & 0xFFFF_FFFF)))
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn is_served(_path: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
24 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
31 24 0:45 / /home rw,nosuid shared:9 - nfs4 server:/home rw,vers=4.2,local_lock=none,addr=10.0.0.1
32 24 0:46 / /mnt/a\\040b rw - fuse.sshfs me@host:/ rw
33 24 0:47 / /tmp rw - tmpfs tmpfs rw
";

    #[test]
    fn types_are_found_by_device() {
        for (device, name, network) in [
            ("8:1", "ext4", false),
            ("0:45", "nfs4", true),
            ("0:46", "fuse.sshfs", true),
            ("0:47", "tmpfs", false),
        ] {
            let found = find_mount(MOUNTS, device).unwrap();
            assert_eq!((found.kind.as_str(), is_network_type(&found.kind)), (name, network));
            assert_eq!(found.locks_on_server(), name == "nfs4");
        }
        assert_eq!(find_mount(MOUNTS, "0:4"), None);
    }

    #[test]
    fn locks_of_the_server_are_told_from_local_ones() {
        for (kind, options, expected) in [
            ("nfs4", "rw,vers=4.2,local_lock=none", true),
            ("nfs", "rw,vers=3,mountvers=3,local_lock=none", true),
            ("nfs", "rw,vers=3,nolock,local_lock=all", false),
            ("nfs4", "rw,local_lock=flock", false),
            ("nfs4", "rw", false),
            ("lustre", "rw,flock,lazystatfs", true),
            ("lustre", "rw,localflock", false),
            ("cifs", "rw,vers=3.1.1", false),
        ] {
            let mount = Mount { kind: kind.to_owned(), options: options.to_owned() };
            assert_eq!(mount.locks_on_server(), expected, "{mount:?}");
        }
    }

    #[test]
    fn network_types_are_told_from_local_ones() {
        for name in
            ["nfs", "CIFS", "smbfs", "webdav", "macfuse", "fuse.gcsfuse", "beegfs", "vboxsf", "prl_fs", "9p"]
        {
            assert!(is_network_type(name), "{name}");
        }
        for name in ["ext4", "apfs", "hfs", "btrfs", "xfs", "zfs", "overlay", "tmpfs", "f2fs", "nfsd", ""] {
            assert!(!is_network_type(name), "{name}");
        }
        assert!(NETWORK_TYPES.is_sorted());
    }

    #[test]
    fn the_temporary_folder_has_a_type() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!cfg!(target_os = "linux") || file_system_type(dir.path()).is_some());
    }
}
