//! Memory: how much the machine has, and how much of it MLX may use.

#[cfg(target_os = "linux")]
use std::path::Path;

use crate::error::{Result, install_handler};
#[cfg(target_os = "macos")]
use crate::gpu::recommended_working_set;
use crate::host::set_run_ahead;

/// Bytes of freed buffers that MLX keeps on a CPU. MLX reuses only buffers of nearly the same size, so a large cache wastes
/// memory when batches vary in length; the C library's allocator reuses all of them ([`keep_pages`]).
const CPU_CACHE_BYTES: usize = 16 << 20;

/// Share of the memory limit that MLX may keep as freed buffers on a GPU: an eighth. Batches come in few shapes, so a step
/// finds most of its buffers again, and the rest of the card stays free for what is live.
const GPU_CACHE_SHARE: usize = 8;

/// Number of host operations that MLX may prepare ahead of completed work on a CPU: about one block of a model.
///
/// Otherwise MLX allocates results for up to a hundred operations before the first is done. Its own way to hold back,
/// a memory limit, makes the evaluating thread poll, which takes a core from the matrix products.
const RUN_AHEAD: usize = 2;

/// Limits the memory of MLX to `bytes`, and its cache of freed buffers to a size that suits the device.
///
/// Work that would exceed the limit waits until buffers are freed.
pub fn set_limits(bytes: usize, gpu: bool) -> Result<()> {
    install_handler();
    mlx_rs::memory::set_memory_limit(bytes)?;
    let cache = if gpu { bytes / GPU_CACHE_SHARE } else { CPU_CACHE_BYTES };
    mlx_rs::memory::set_cache_limit(cache)?;
    if !gpu {
        keep_pages();
        set_run_ahead(RUN_AHEAD);
    }
    Ok(())
}

/// Keeps freed memory in the process. The system would zero returned pages when they are allocated again, which takes a
/// third of the time of a training step.
fn keep_pages() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // Largest block that the C library takes from its heap; larger ones are mapped and unmapped each time.
        const LARGEST_HEAP_BLOCK: i32 = 32 << 20;
        // SAFETY: `mallopt` only sets parameters of the allocator; a refused value changes nothing.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGEST_HEAP_BLOCK);
            libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
            libc::mallopt(libc::M_TOP_PAD, 64 << 20);
        }
    }
}

/// Returns the bytes that this process can still allocate: the minimum over the machine and its cgroups; `None` on systems
/// that do not report it.
pub fn available_memory() -> Option<usize> {
    #[cfg(target_os = "linux")]
    {
        let machine = field_of("/proc/meminfo", "MemAvailable:");
        [machine, cgroup_left()].into_iter().flatten().min()
    }
    #[cfg(target_os = "macos")]
    {
        // On unified memory, the working set that Metal recommends is the best estimate.
        recommended_working_set()
    }
    #[cfg(not(any(target_os = "linux", target_os = "macos")))]
    {
        None
    }
}

/// Returns the resident memory of this process in bytes; `None` on systems that do not report it.
pub fn resident_memory() -> Option<usize> {
    #[cfg(target_os = "linux")]
    {
        field_of("/proc/self/status", "VmRSS:")
    }
    #[cfg(not(target_os = "linux"))]
    {
        None
    }
}

/// Returns the largest resident memory that this process has had, in bytes; `None` on systems that do not report it.
pub fn peak_resident_memory() -> Option<usize> {
    #[cfg(target_os = "linux")]
    {
        field_of("/proc/self/status", "VmHWM:")
    }
    #[cfg(not(target_os = "linux"))]
    {
        None
    }
}

/// Reads `Name:   123 kB` from a file of the kernel and returns bytes.
#[cfg(target_os = "linux")]
fn field_of(file: &str, name: &str) -> Option<usize> {
    let table = fs_err::read_to_string(file).ok()?;
    let line = table.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<usize>().ok().map(|kib| kib * 1024)
}

/// Returns the bytes left below the limits of this process's cgroups.
#[cfg(target_os = "linux")]
fn cgroup_left() -> Option<usize> {
    let groups = fs_err::read_to_string("/proc/self/cgroup").ok()?;
    left_in_groups(&groups, Path::new("/sys/fs/cgroup"))
}

/// Names of a cgroup's files.
#[cfg(target_os = "linux")]
struct GroupFiles {
    limit: &'static str,
    usage: &'static str,
    /// Field of `memory.stat` with the bytes of inactive file pages.
    inactive: &'static str,
}

#[cfg(target_os = "linux")]
const VERSION_1: GroupFiles = GroupFiles {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    inactive: "total_inactive_file",
};

#[cfg(target_os = "linux")]
const VERSION_2: GroupFiles =
    GroupFiles { limit: "memory.max", usage: "memory.current", inactive: "inactive_file" };

/// Returns the fewest bytes left in any cgroup: those in `groups` (`/proc/self/cgroup`) and their ancestors, version 1 or 2.
#[cfg(target_os = "linux")]
fn left_in_groups(groups: &str, root: &Path) -> Option<usize> {
    let lefts = groups.lines().flat_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (kinds, path) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let (root, files) = match kinds {
            "" => (root.to_owned(), &VERSION_2),
            kinds if kinds.split(',').any(|kind| kind == "memory") => (root.join("memory"), &VERSION_1),
            _ => return Vec::new(),
        };
        // In a container the path may be that of the host, while the group is mounted at the root.
        let below = root.join(path.trim_start_matches('/'));
        let folders = below.ancestors().take_while(|folder| folder.starts_with(&root));
        folders.filter_map(|folder| left_in_group(folder, files)).collect()
    });
    lefts.min()
}

/// Returns the bytes left in one cgroup, counting inactive file pages as free; `None` without a limit.
#[cfg(target_os = "linux")]
fn left_in_group(folder: &Path, files: &GroupFiles) -> Option<usize> {
    let number = |name: &str| fs_err::read_to_string(folder.join(name)).ok()?.trim().parse::<usize>().ok();
    // Version 1 writes the largest number of whole pages for "no limit".
    let limit = number(files.limit).filter(|&bytes| bytes < 1 << 60)?;
    let table = fs_err::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let fields = table.lines().filter_map(|line| line.split_once(' '));
    let idle = fields
        .filter(|(name, _)| *name == files.inactive)
        .filter_map(|(_, bytes)| bytes.parse::<usize>().ok());
    let used = number(files.usage)?.saturating_sub(idle.sum());
    Some(limit.saturating_sub(used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_memory_of_machine_and_process_is_known() {
        assert!(available_memory().is_some_and(|bytes| bytes > 1 << 24));
        assert!(resident_memory().is_some_and(|bytes| bytes > 1 << 20));
    }

    /// Writes the files of a group.
    #[cfg(target_os = "linux")]
    fn group(folder: &Path, files: &[(&str, &str)]) {
        fs_err::create_dir_all(folder).expect("a new folder");
        for (name, text) in files {
            fs_err::write(folder.join(name), text).expect("a new file");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn cgroups_of_both_versions_count_and_the_tightest_wins() {
        let root = &std::env::temp_dir().join(format!("ashlar-cgroups-{}", std::process::id()));
        assert_eq!(left_in_groups("0::/a/b\n", root), None);
        group(&root.join("a/b"), &[("memory.max", "max\n"), ("memory.current", "5\n")]);
        assert_eq!(left_in_groups("0::/a/b\n", root), None);
        let stat = "anon 3000\ninactive_file 200\nactive_file 7\n";
        let limited = [("memory.max", "9000\n"), ("memory.current", "5000\n"), ("memory.stat", stat)];
        group(&root.join("a"), &limited);
        assert_eq!(left_in_groups("0::/a/b\n", root), Some(4200));
        group(&root.join("a/b"), &[("memory.max", "6000\n"), ("memory.current", "5000\n")]);
        assert_eq!(left_in_groups("0::/a/b\n", root), Some(1000));
        // Already above its limit, and a path that only the host has.
        group(&root.join("a/b"), &[("memory.max", "4000\n"), ("memory.current", "5000\n")]);
        assert_eq!(left_in_groups("0::/a/b\n", root), Some(0));
        assert_eq!(left_in_groups("0::/a/elsewhere\n", root), Some(4200));

        let old = "12:cpu,cpuacct:/job\n5:memory:/job\n";
        let limited = [("memory.limit_in_bytes", "8000\n"), ("memory.usage_in_bytes", "3000\n")];
        group(&root.join("memory/job"), &limited);
        assert_eq!(left_in_groups(old, root), Some(5000));
        let idle = [("memory.stat", "inactive_file 1\ntotal_inactive_file 500\n")];
        group(&root.join("memory/job"), &idle);
        assert_eq!(left_in_groups(old, root), Some(5500));
        group(&root.join("memory/job"), &[("memory.limit_in_bytes", "9223372036854771712\n")]);
        assert_eq!(left_in_groups(old, root), None);
        fs_err::remove_dir_all(root).expect("it was made above");
    }
}
