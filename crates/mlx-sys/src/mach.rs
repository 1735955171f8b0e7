//! The only symbol of Apple's kernel interface that `mlx-rs` calls on every platform.

use std::time::Instant;

/// Returns nanoseconds of a monotonic clock, from which `mlx-rs` seeds its default random state.
///
/// Results do not depend on it, because `mlx-ext` sets the seed before anything random happens.
#[unsafe(no_mangle)]
pub extern "C" fn mach_approximate_time() -> u64 {
    use std::sync::OnceLock;
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}
