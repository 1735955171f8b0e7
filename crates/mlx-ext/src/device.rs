//! Which device MLX runs on, and the facts about it that belong to a result.

use crate::error::{Error, Result, check, install_handler};
use mlx_rs::{Device, DeviceType};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString};

/// The MLX that this build links.
pub const MLX_VERSION: &str = "0.32.2";

/// How to start MLX.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The most memory MLX may take, in bytes; `None` takes 80 % of what is available.
    pub max_memory_bytes: Option<usize>,
}

impl Options {
    /// Takes a limit in gigabytes, as a command line gives it.
    pub fn with_max_gigabytes(gigabytes: Option<f64>) -> Self {
        Self { max_memory_bytes: gigabytes.map(|gigabytes| (gigabytes * 1e9) as usize) }
    }
}

/// Where MLX runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// `cpu`, `metal` or `cuda`.
    pub name: &'static str,
    /// The class of device: results are equal bit for bit only within one (`x86_64-v4`, `applegpu_g15s`, …).
    pub device: String,
    /// The memory limit that was set, in bytes.
    pub memory_limit: usize,
}

impl Backend {
    /// Returns what belongs to the key of a stage that computes with floats.
    pub fn numerics(&self, dtype: &str) -> BTreeMap<String, String> {
        [("mlx", MLX_VERSION), ("backend", self.name), ("device", &self.device), ("dtype", dtype)]
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    /// Tells whether MLX runs on a GPU.
    pub fn is_gpu(&self) -> bool {
        self.name != "cpu"
    }
}

/// Starts MLX: errors instead of exits, the default device, memory limits, a fixed seed.
///
/// # Errors
///
/// Fails when this build's backend has no device here.
pub fn init(options: &Options) -> Result<Backend> {
    #[cfg(target_os = "linux")]
    std::hint::black_box(mlx_sys::blas::keep());
    install_handler();
    // Every random number comes from an explicit key; this only takes the clock out of the default state.
    mlx_rs::random::seed(0)?;
    let name = mlx_sys::BACKEND;
    let device = match name {
        "cpu" => {
            Device::set_default(&Device::cpu());
            cpu_class()
        }
        _ => gpu_class().ok_or(Error::NoDevice { backend: name })?,
    };
    let memory_limit = match options.max_memory_bytes {
        Some(bytes) => bytes,
        None => crate::available_memory().map_or(usize::MAX / 2, |bytes| bytes / 5 * 4),
    };
    crate::set_limits(memory_limit, name != "cpu")?;
    #[cfg(target_os = "macos")]
    if let Some(bytes) = recommended_working_set() {
        mlx_rs::memory::set_wired_limit(bytes)?;
    }
    Ok(Backend { name, device, memory_limit })
}

/// The instruction set decides which kernels the BLAS picks, and so the last bits.
fn cpu_class() -> String {
    #[cfg(target_arch = "x86_64")]
    {
        let level = if std::arch::is_x86_feature_detected!("avx512f") {
            "x86_64-v4"
        } else if std::arch::is_x86_feature_detected!("fma") {
            "x86_64-v3"
        } else {
            "x86_64"
        };
        level.to_owned()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        std::env::consts::ARCH.to_owned()
    }
}

fn gpu_class() -> Option<String> {
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

/// What Metal recommends to keep resident, in bytes.
#[cfg(target_os = "macos")]
pub(crate) fn recommended_working_set() -> Option<usize> {
    with_info(|device| {
        let key = CString::new("max_recommended_working_set_size").ok()?;
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

/// Runs `read` on the table of facts about the default GPU.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starting_tells_device_and_numerics() -> Result<()> {
        let backend = init(&Options { max_memory_bytes: Some(1 << 30) })?;
        assert_eq!(backend.memory_limit, 1 << 30);
        let numerics = backend.numerics("float32");
        assert_eq!(numerics["mlx"], MLX_VERSION);
        assert_eq!(numerics["device"], backend.device);
        Ok(())
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_fast_blas_is_the_one_that_mlx_calls() -> Result<()> {
        init(&Options::default())?;
        assert!(crate::matmul_gflops()? > 20.0, "the reference BLAS makes about 3 GFLOP/s");
        Ok(())
    }
}
