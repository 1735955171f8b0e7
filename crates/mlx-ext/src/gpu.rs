//! The GPU and its properties.

use std::ffi::{CStr, CString};

use mlx_rs::{Device, DeviceType};

use crate::error::check;

/// Makes the GPU of this build's backend the default device and returns its class; `None` if there is none.
pub(crate) fn select() -> Option<String> {
    let available = match mlx_sys::BACKEND {
        "cuda" => cuda_is_available(),
        _ => metal_is_available(),
    };
    if !available {
        return None;
    }
    let gpu = Device::new(DeviceType::Gpu, 0);
    Device::set_default(&gpu);
    ["architecture", "device_name"].iter().find_map(|key| info(key)).map(|text| text.replace(' ', "-"))
}

/// Variables of MLX on CUDA. It reads them once, at the first use.
///
/// - By default MLX rounds the factors of `f32` products to 10 bits of mantissa (TF32), so that losses would differ from those
///   of a CPU by 1e-4. For speed there is `dtype = "bfloat16"`.
/// - Its caches of graphs and attention plans fail after a number of distinct shapes, which training with rows of many lengths
///   reaches; the cache of gradients, the smallest, after 128.
const CUDA_VARIABLES: [(&str, &str); 3] = [
    ("MLX_ENABLE_TF32", "0"),
    ("MLX_ENABLE_CACHE_THRASHING_CHECK", "0"),
    ("MLX_CUDA_SDPA_BACKWARD_CACHE_SIZE", "256"),
];

/// Sets the variables of MLX on CUDA.
pub(crate) fn set_cuda_variables() {
    for (name, value) in CUDA_VARIABLES {
        // SAFETY: called at the start of the program; its only other thread waits for signals and reads no variable.
        unsafe { std::env::set_var(name, value) };
    }
}

fn metal_is_available() -> bool {
    let mut available = false;
    // SAFETY: writes one bool.
    unsafe { mlx_sys::mlx_metal_is_available(&raw mut available) == 0 && available }
}

fn cuda_is_available() -> bool {
    let mut available = false;
    // SAFETY: writes one bool.
    unsafe { mlx_sys::mlx_cuda_is_available(&raw mut available) == 0 && available }
}

/// Returns the working set that Metal recommends, in bytes.
#[cfg(target_os = "macos")]
pub(crate) fn recommended_working_set() -> Option<usize> {
    number("max_recommended_working_set_size")
}

/// Returns the bytes that can still be allocated on a GPU with its own memory: what no other process uses; `None` without
/// one. A GPU of Apple shares the memory of the machine.
pub(crate) fn available_memory() -> Option<usize> {
    (mlx_sys::BACKEND == "cuda").then(|| number("free_memory").or_else(|| number("total_memory")))?
}

/// Returns a property of the GPU that is a number; `None` if it has none of that name, or 0.
fn number(key: &str) -> Option<usize> {
    with_info(|device| {
        let key = CString::new(key).ok()?;
        let mut value = 0_usize;
        // SAFETY: a live table and a NUL-terminated key; writes one size.
        let status = unsafe { mlx_sys::mlx_device_info_get_size(&raw mut value, device, key.as_ptr()) };
        check(status).ok().map(|()| value).filter(|&bytes| bytes > 0)
    })
}

fn info(key: &str) -> Option<String> {
    with_info(|device| {
        let key = CString::new(key).ok()?;
        let mut text = std::ptr::null();
        // SAFETY: a live table and a NUL-terminated key; on success the text lives as long as the table.
        let status = unsafe { mlx_sys::mlx_device_info_get_string(&raw mut text, device, key.as_ptr()) };
        check(status).ok()?;
        // SAFETY: checked above; copied before the table is freed.
        (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
    })
}

/// Runs `read` on the properties of the default GPU.
fn with_info<T>(read: impl FnOnce(mlx_sys::mlx_device_info) -> Option<T>) -> Option<T> {
    // SAFETY: handles made and freed here, in this order, and not kept.
    unsafe {
        let device = mlx_sys::mlx_device_new_type(mlx_sys::mlx_device_type__MLX_GPU, 0);
        let mut table = mlx_sys::mlx_device_info_new();
        let status = mlx_sys::mlx_device_info_get(&raw mut table, device);
        let value = if check(status).is_ok() { read(table) } else { None };
        mlx_sys::mlx_device_info_free(table);
        mlx_sys::mlx_device_free(device);
        value
    }
}
