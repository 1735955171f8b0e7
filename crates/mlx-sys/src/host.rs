//! Operations of an MLX graph that run a function of this program (`native/host.cpp`).

use std::os::raw::{c_char, c_int, c_void};

use crate::{mlx_dtype, mlx_stream, mlx_vector_array};

/// An evaluated array as a host operation sees it.
#[repr(C)]
pub struct ashlar_view {
    /// First element; null if the array has no elements or if an output has taken over its contents.
    pub data: *mut c_void,
    /// Extent of each axis.
    pub shape: *const i32,
    /// Distance between neighbours along each axis, in elements.
    pub strides: *const i64,
    /// Number of axes.
    pub dims: usize,
}

/// Description of one result of a host operation.
#[repr(C)]
pub struct ashlar_output {
    /// Extent of each axis.
    pub shape: *const i32,
    /// Number of axes.
    pub dims: usize,
    /// Element type.
    pub dtype: mlx_dtype,
    /// Index of the input whose contents the result starts with, or -1.
    pub takes: i32,
}

/// Computes the outputs from the inputs. Returns zero, or another number with a NUL-terminated message of at most
/// `capacity` bytes. Called on the thread of a stream; it must neither unwind nor call MLX.
pub type ashlar_body = unsafe extern "C" fn(
    payload: *const c_void,
    inputs: *const ashlar_view,
    outputs: *mut ashlar_view,
    message: *mut c_char,
    capacity: usize,
) -> c_int;

unsafe extern "C" {
    /// Makes the outputs of a host operation, to be computed when they are evaluated. `strided` tells for each input
    /// whether `body` accepts any strides of all axes but the last; other inputs are row-major, by a copy if
    /// necessary. Takes ownership of `payload`, also when it fails.
    pub fn ashlar_host_operation(
        result: *mut mlx_vector_array,
        name: *const c_char,
        inputs: mlx_vector_array,
        strided: *const bool,
        outputs: *const ashlar_output,
        output_count: usize,
        body: ashlar_body,
        payload: *mut c_void,
        free_payload: unsafe extern "C" fn(*mut c_void),
        stream: mlx_stream,
    ) -> c_int;

    /// Bounds the number of host operations that are prepared and not yet done: evaluation sleeps at the bound.
    pub fn ashlar_set_run_ahead(operations: usize);
}
