//! The one symbol of Apple's kernel interface that `mlx-rs` calls everywhere.

use std::time::Instant;

/// Nanoseconds of a clock that never goes back; `mlx-rs` seeds its default random state with it.
/// Ashlar seeds explicitly before anything random happens, so no result depends on it.
#[unsafe(no_mangle)]
pub extern "C" fn mach_approximate_time() -> u64 {
    use std::sync::OnceLock;
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}
