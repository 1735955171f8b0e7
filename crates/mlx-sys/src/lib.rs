//! Bindings to MLX's C interface (mlx-c 0.7.0) over a prebuilt libmlx 0.32.2.
//!
//! Replaces the published crate of the same name, whose build script builds MLX itself and only on a Mac.
//! What differs: the library comes from MLX's own wheel ([`BACKEND`] says which one), the bindings are kept in the
//! repository (`native/bindings.sh` makes them anew), the half-precision types exist on every processor,
//! and on Linux a fast BLAS stands in front of the reference one that the wheel bundles ([`blas`]).
//!
//! Leaves everything safe to `mlx-rs` and `mlx-ext`.

#![expect(
    non_camel_case_types,
    non_upper_case_globals,
    unreachable_pub,
    missing_docs,
    reason = "the generated names are the C interface's own"
)]

#[cfg(target_os = "linux")]
pub mod blas;
mod half;
#[cfg(not(target_os = "macos"))]
mod mach;

pub use half::*;

/// Which libmlx this build links: `cpu`, `metal` or `cuda`.
pub const BACKEND: &str = env!("ASHLAR_BACKEND");

/// C's `FILE`, of which only pointers are passed on.
#[repr(C)]
pub struct FILE {
    _opaque: [u8; 0],
}

include!("bindings.rs");
