//! Bindings to MLX's C interface (mlx-c 0.7.0) over a prebuilt libmlx 0.32.2.
//!
//! Replaces the published crate of the same name, which builds MLX from source and only on a Mac. Differences: the
//! library comes from the official wheel ([`BACKEND`] names the variant), the bindings are in the repository
//! (`native/bindings.sh` regenerates them), half-precision types exist on every processor, and on Linux a fast BLAS
//! overrides the reference BLAS that the wheel bundles ([`blas`]).
//!
//! Safe interfaces are in `mlx-rs` and `mlx-ext`.

#![expect(
    non_camel_case_types,
    non_upper_case_globals,
    unreachable_pub,
    missing_docs,
    reason = "the generated names are the C interface's own"
)]

#[cfg(target_os = "linux")]
pub mod blas;
pub mod gemm;
mod half;
mod host;
#[cfg(not(target_os = "macos"))]
mod mach;
mod workers;

pub use half::*;
pub use host::*;
pub use workers::join_workers;

/// Variant of libmlx that this build links: `cpu`, `metal` or `cuda`.
pub const BACKEND: &str = env!("ASHLAR_BACKEND");

/// Version of MLX that this build links.
pub const VERSION: &str = env!("ASHLAR_MLX_VERSION");

/// C's `FILE`, used only behind pointers.
#[repr(C)]
pub struct FILE {
    _opaque: [u8; 0],
}

include!("bindings.rs");

unsafe extern "C" {
    /// Makes an array over memory that MLX does not own (`native/array_over.cpp`), on a CPU only.
    pub fn ashlar_array_over(
        result: *mut mlx_array,
        data: *mut ::std::os::raw::c_void,
        shape: *const ::std::os::raw::c_int,
        dimensions: ::std::os::raw::c_int,
        dtype: mlx_dtype,
        payload: *mut ::std::os::raw::c_void,
        release: unsafe extern "C" fn(*mut ::std::os::raw::c_void),
    ) -> ::std::os::raw::c_int;
}
