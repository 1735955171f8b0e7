//! Half-precision types and their accessors, the same on every processor.
//!
//! The C interface declares the accessors only where the compiler has native half types (ARM). Here the types are bit
//! patterns, and only pointers cross the border, so elsewhere the accessors for `u16` do the same work.

/// Bits of an IEEE half-precision number.
#[repr(transparent)]
#[derive(Debug, Copy, Clone, Default)]
pub struct float16_t(pub u16);

/// Bits of a bfloat16 number.
pub type bfloat16_t = u16;

#[cfg(target_arch = "aarch64")]
use std::os::raw::c_int;

#[cfg(target_arch = "aarch64")]
use crate::mlx_array;

#[cfg(target_arch = "aarch64")]
unsafe extern "C" {
    /// Writes the element of a scalar `arr` to `res`; returns 0 on success.
    pub fn mlx_array_item_float16(res: *mut float16_t, arr: mlx_array) -> c_int;
    /// Writes the element of a scalar `arr` to `res`; returns 0 on success.
    pub fn mlx_array_item_bfloat16(res: *mut bfloat16_t, arr: mlx_array) -> c_int;
    /// Returns a pointer to the elements of an evaluated array.
    pub fn mlx_array_data_float16(arr: mlx_array) -> *const float16_t;
    /// Returns a pointer to the elements of an evaluated array.
    pub fn mlx_array_data_bfloat16(arr: mlx_array) -> *const bfloat16_t;
}

#[cfg(not(target_arch = "aarch64"))]
mod over_u16 {
    use std::os::raw::c_int;

    use super::{bfloat16_t, float16_t};
    use crate::{mlx_array, mlx_array_data_uint16, mlx_array_item_uint16};

    /// Writes the element of a scalar `arr` to `res`; returns 0 on success.
    ///
    /// # Safety
    ///
    /// As for `mlx_array_item_uint16`: `res` is writable, `arr` holds one 16-bit element.
    pub unsafe fn mlx_array_item_float16(res: *mut float16_t, arr: mlx_array) -> c_int {
        // SAFETY: `float16_t` is a transparent `u16`; the rest is the caller's promise.
        unsafe { mlx_array_item_uint16(res.cast(), arr) }
    }

    /// Writes the element of a scalar `arr` to `res`; returns 0 on success.
    ///
    /// # Safety
    ///
    /// As for `mlx_array_item_uint16`: `res` is writable, `arr` holds one 16-bit element.
    pub unsafe fn mlx_array_item_bfloat16(res: *mut bfloat16_t, arr: mlx_array) -> c_int {
        // SAFETY: the caller's promise.
        unsafe { mlx_array_item_uint16(res, arr) }
    }

    /// Returns a pointer to the elements of an evaluated array.
    ///
    /// # Safety
    ///
    /// As for `mlx_array_data_uint16`: `arr` is a live, evaluated array of 16-bit elements.
    pub unsafe fn mlx_array_data_float16(arr: mlx_array) -> *const float16_t {
        // SAFETY: `float16_t` is a transparent `u16`; the rest is the caller's promise.
        unsafe { mlx_array_data_uint16(arr).cast() }
    }

    /// Returns a pointer to the elements of an evaluated array.
    ///
    /// # Safety
    ///
    /// As for `mlx_array_data_uint16`: `arr` is a live, evaluated array of 16-bit elements.
    pub unsafe fn mlx_array_data_bfloat16(arr: mlx_array) -> *const bfloat16_t {
        // SAFETY: the caller's promise.
        unsafe { mlx_array_data_uint16(arr) }
    }
}

#[cfg(not(target_arch = "aarch64"))]
pub use over_u16::*;
