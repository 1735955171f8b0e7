//! Memory: what the machine has, and how much of it MLX may use.

use crate::error::{Result, install_handler};

/// Freed buffers that MLX keeps for reuse on a CPU. It reuses only a buffer of nearly the same size, so with batches of
/// many lengths a wide cache hoards memory; the allocator beneath reuses any of them ([`keep_pages`]).
const CPU_CACHE_BYTES: usize = 16 << 20;

/// Limits MLX to `bytes`, and what it keeps of freed buffers to what suits the device.
///
/// The limit is back-pressure: work that would pass it waits for buffers to come free.
pub fn set_limits(bytes: usize, gpu: bool) -> Result<()> {
    install_handler();
    mlx_rs::memory::set_memory_limit(bytes)?;
    let cache = if gpu { bytes / 2 } else { CPU_CACHE_BYTES };
    mlx_rs::memory::set_cache_limit(cache)?;
    if !gpu {
        keep_pages();
    }
    Ok(())
}

/// Keeps freed memory in the process instead of handing it back to the system, which would zero it page by page when it
/// is asked for again: a third of the time of a training step.
fn keep_pages() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // The largest block that the C library takes from its heap; larger ones are mapped and unmapped each time.
        const LARGEST_HEAP_BLOCK: i32 = 32 << 20;
        // SAFETY: `mallopt` only sets parameters of the allocator; a refused value changes nothing.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGEST_HEAP_BLOCK);
            libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
            libc::mallopt(libc::M_TOP_PAD, 64 << 20);
        }
    }
}

/// Returns the bytes that this process could still take: the smaller of what the machine and its cgroup have left.
/// `None` where the system does not say.
pub fn available_memory() -> Option<usize> {
    #[cfg(target_os = "linux")]
    {
        let machine = field_of("/proc/meminfo", "MemAvailable:");
        [machine, cgroup_left()].into_iter().flatten().min()
    }
    #[cfg(target_os = "macos")]
    {
        // What Metal recommends as a working set is the honest figure on unified memory.
        crate::device::recommended_working_set()
    }
    #[cfg(not(any(target_os = "linux", target_os = "macos")))]
    {
        None
    }
}

/// Returns the resident memory of this process in bytes, where the system tells.
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

/// Reads `Name:   123 kB` from one of the kernel's tables, in bytes.
#[cfg(target_os = "linux")]
fn field_of(file: &str, name: &str) -> Option<usize> {
    let table = fs_err::read_to_string(file).ok()?;
    let line = table.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<usize>().ok().map(|kib| kib * 1024)
}

/// What the cgroup (version 2) of this process has left below its limit.
#[cfg(target_os = "linux")]
fn cgroup_left() -> Option<usize> {
    let groups = fs_err::read_to_string("/proc/self/cgroup").ok()?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let number = |name: &str| -> Option<usize> {
        let path = format!("/sys/fs/cgroup{group}/{name}");
        fs_err::read_to_string(path).ok()?.trim().parse().ok()
    };
    Some(number("memory.max")?.saturating_sub(number("memory.current")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_machine_tells_its_memory() {
        assert!(available_memory().is_some_and(|bytes| bytes > 1 << 24));
        assert!(resident_memory().is_some_and(|bytes| bytes > 1 << 20));
    }
}
