//! Half-precision types and their accessors, the same on every processor.
//!
//! The C interface declares them only where the compiler has native half types (ARM). They are bit patterns to us:
//! all that crosses the border is a pointer, so the accessors go through their 16-bit integer twins' layout.

/// IEEE half precision, as its bits.
#[repr(transparent)]
#[derive(Debug, Copy, Clone, Default)]
pub struct float16_t(pub u16);

/// Brain floating point, as its bits.
pub type bfloat16_t = u16;

#[cfg(target_arch = "aarch64")]
use crate::mlx_array;

#[cfg(target_arch = "aarch64")]
unsafe extern "C" {
    pub fn mlx_array_item_float16(res: *mut float16_t, arr: mlx_array) -> ::std::os::raw::c_int;
    pub fn mlx_array_item_bfloat16(res: *mut bfloat16_t, arr: mlx_array) -> ::std::os::raw::c_int;
    pub fn mlx_array_data_float16(arr: mlx_array) -> *const float16_t;
    pub fn mlx_array_data_bfloat16(arr: mlx_array) -> *const bfloat16_t;
}

#[cfg(not(target_arch = "aarch64"))]
mod twins {
    use super::{bfloat16_t, float16_t};
    use crate::{mlx_array, mlx_array_data_uint16, mlx_array_item_uint16};
    use std::os::raw::c_int;

    /// # Safety
    ///
    /// As for `mlx_array_item_uint16`: `res` is writable, `arr` holds one 16-bit element.
    pub unsafe fn mlx_array_item_float16(res: *mut float16_t, arr: mlx_array) -> c_int {
        // SAFETY: `float16_t` is a transparent `u16`; the rest is the caller's promise.
        unsafe { mlx_array_item_uint16(res.cast(), arr) }
    }

    /// # Safety
    ///
    /// As for `mlx_array_item_uint16`: `res` is writable, `arr` holds one 16-bit element.
    pub unsafe fn mlx_array_item_bfloat16(res: *mut bfloat16_t, arr: mlx_array) -> c_int {
        // SAFETY: the caller's promise.
        unsafe { mlx_array_item_uint16(res, arr) }
    }

    /// # Safety
    ///
    /// As for `mlx_array_data_uint16`: `arr` is a live, evaluated array of 16-bit elements.
    pub unsafe fn mlx_array_data_float16(arr: mlx_array) -> *const float16_t {
        // SAFETY: `float16_t` is a transparent `u16`; the rest is the caller's promise.
        unsafe { mlx_array_data_uint16(arr).cast() }
    }

    /// # Safety
    ///
    /// As for `mlx_array_data_uint16`: `arr` is a live, evaluated array of 16-bit elements.
    pub unsafe fn mlx_array_data_bfloat16(arr: mlx_array) -> *const bfloat16_t {
        // SAFETY: the caller's promise.
        unsafe { mlx_array_data_uint16(arr) }
    }
}

#[cfg(not(target_arch = "aarch64"))]
pub use twins::*;
