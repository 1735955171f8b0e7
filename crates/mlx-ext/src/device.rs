//! The device that MLX runs on, and its properties that affect results.

use std::collections::BTreeMap;

use mlx_rs::{Device, Dtype};

use crate::error::{Error, Result, install_handler};
use crate::gpu;
use crate::memory::{available_memory, set_limits};
use crate::probe;
use crate::products::Products;
use crate::unpacking::{Unpack, Unpacking};

/// Version of MLX that this build links.
pub const MLX_VERSION: &str = mlx_sys::VERSION;

/// Options of [`init`].
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Maximum memory of MLX in bytes; `None` means 80 % of the available memory of the device that computes.
    pub max_memory_bytes: Option<usize>,
    /// What to do with packed weights.
    pub unpack: Unpack,
    /// Precision of the factors of products on a CPU.
    pub products: Products,
}

impl Options {
    /// Makes options from a limit in gigabytes (10⁹ bytes).
    pub fn with_max_gigabytes(gigabytes: Option<f64>) -> Self {
        Self { max_memory_bytes: gigabytes.map(|gigabytes| (gigabytes * 1e9) as usize), ..Self::default() }
    }

    /// Makes options from a limit in gigabytes (10⁹ bytes) and the name of an [`Unpack`].
    pub fn for_model(gigabytes: Option<f64>, unpack: &str) -> Self {
        Self::with_max_gigabytes(gigabytes).unpacking(Unpack::from_name(unpack))
    }

    /// Sets what to do with packed weights.
    #[must_use]
    pub fn unpacking(self, unpack: Unpack) -> Self {
        Self { unpack, ..self }
    }

    /// Sets the precision of the factors of products on a CPU.
    #[must_use]
    pub fn multiplying(self, products: Products) -> Self {
        Self { products, ..self }
    }
}

/// Backend and device that MLX runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// `cpu`, `metal` or `cuda`.
    pub name: &'static str,
    /// Class of the device, such as `x86_64-fma` or `applegpu_g15s`.
    pub device: String,
    /// On a CPU, what else decides the last bits: the C library, and a hash of fixed results.
    pub arithmetic: BTreeMap<String, String>,
    /// Memory limit in bytes.
    pub memory_limit: usize,
    /// What to do with packed weights.
    pub unpack: Unpack,
}

impl Backend {
    /// Returns the facts that enter the key of a stage that computes with floats.
    pub fn numerics(&self, dtype: &str) -> BTreeMap<String, String> {
        let facts =
            [("mlx", MLX_VERSION), ("backend", self.name), ("device", &self.device), ("dtype", dtype)];
        // On a CPU the choice changes no bytes.
        let unpack =
            (self.is_gpu() && self.unpack == Unpack::Resident).then_some(("unpack", self.unpack.name()));
        let facts = facts.into_iter().chain(unpack).map(|(name, value)| (name.to_owned(), value.to_owned()));
        facts.chain(self.arithmetic.clone()).collect()
    }

    /// Returns whether MLX runs on a GPU.
    pub fn is_gpu(&self) -> bool {
        self.name != "cpu"
    }
}

/// Returns whether MLX of this build runs on a GPU.
pub fn runs_on_gpu() -> bool {
    mlx_sys::BACKEND != "cpu"
}

impl Backend {
    /// Returns what this backend does with packed weights when it computes in `dtype`.
    ///
    /// On a CPU both choices give the same bytes in `float32`: a panel of a weight is unpacked inside the product, at
    /// little cost, so the smaller one is the default. Other types have no such product there, and MLX's own is about a
    /// hundred times as slow as one with unpacked weights, so these are always unpacked.
    pub fn unpacking(&self, dtype: Dtype) -> Unpacking {
        let has_kernels = !self.is_gpu() && dtype == Dtype::Float32;
        let (resident, reason) = match self.unpack {
            _ if !has_kernels && !self.is_gpu() => {
                (true, "a CPU multiplies packed weights only in `float32`")
            }
            Unpack::Resident => (true, "as set"),
            Unpack::Transient => (false, "as set"),
            Unpack::Auto if has_kernels => (false, "products unpack a panel at a time, with the same result"),
            Unpack::Auto => (false, "the GPU multiplies packed weights"),
        };
        Unpacking { resident, reason }
    }
}

/// Starts MLX: installs the error handler and sets the default device, memory limits and a fixed seed.
///
/// # Errors
///
/// Fails when the machine lacks the device of this build's backend, or the instructions for the products that are asked for.
pub fn init(options: &Options) -> Result<Backend> {
    #[cfg(target_os = "linux")]
    std::hint::black_box(mlx_sys::blas::keep());
    install_handler();
    // Random numbers come from explicit keys; this only removes the clock from the default state.
    mlx_rs::random::seed(0)?;
    let name = mlx_sys::BACKEND;
    if name == "cuda" {
        gpu::set_cuda_variables();
    }
    let device = match name {
        "cpu" => {
            Device::set_default(&Device::cpu());
            cpu_class()
        }
        _ => gpu::select().ok_or(Error::NoDevice { backend: name })?,
    };
    let memory_limit = match options.max_memory_bytes {
        Some(bytes) => bytes,
        // What the device can allocate: a GPU's own memory, not that of its host.
        None => {
            gpu::available_memory().or_else(available_memory).map_or(usize::MAX / 2, |bytes| bytes / 5 * 4)
        }
    };
    set_limits(memory_limit, name != "cpu")?;
    #[cfg(target_os = "macos")]
    if let Some(bytes) = gpu::recommended_working_set() {
        mlx_rs::memory::set_wired_limit(bytes)?;
    }
    let mut arithmetic = BTreeMap::new();
    if name == "cpu" {
        arithmetic.extend(probe::c_library().map(|library| ("c_library".to_owned(), library)));
        arithmetic.insert("probe".to_owned(), probe::fingerprint()?);
    }
    options.products.start(name)?;
    if !options.products.is_float32() {
        arithmetic.insert("probe_of_products".to_owned(), probe::fingerprint()?);
    }
    Ok(Backend { name, device, arithmetic, memory_limit, unpack: options.unpack })
}

/// Returns the class of the processor: with fused multiply-add, wider vectors change no bits.
fn cpu_class() -> String {
    let architecture = std::env::consts::ARCH;
    #[cfg(target_arch = "x86_64")]
    if mlx_sys::gemm::Level::detect() != mlx_sys::gemm::Level::Plain {
        return format!("{architecture}-fma");
    }
    architecture.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starting_reports_device_and_numerics() -> Result<()> {
        let backend = init(&Options { max_memory_bytes: Some(1 << 30), ..Options::default() })?;
        assert_eq!(backend.memory_limit, 1 << 30);
        let numerics = backend.numerics("float32");
        assert_eq!(numerics["mlx"], MLX_VERSION);
        assert_eq!(numerics["device"], backend.device);
        if backend.name == "cpu" {
            assert_eq!(numerics["probe"].len(), 16);
        }
        Ok(())
    }

    #[test]
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    fn rounded_factors_are_asked_for_and_have_a_key_of_their_own() -> Result<()> {
        let plain = init(&Options::default())?;
        let asked = Options::default().multiplying(Products::Bfloat16);
        if !mlx_sys::gemm::Factors::Bfloat16.is_available() || plain.is_gpu() {
            assert!(matches!(init(&asked), Err(Error::NoBfloat16Products { .. })));
            return Ok(());
        }
        let x = mlx_rs::random::normal::<f32>(&[40, 300], None, None, None)?;
        let exact = x.matmul(x.t())?;
        exact.eval()?;
        let rounded = init(&asked)?;
        let near = x.matmul(x.t())?;
        near.eval()?;
        init(&Options::default())?;
        let again = x.matmul(x.t())?;
        again.eval()?;
        let apart = |other: &mlx_rs::Array| -> Result<f32> {
            Ok(exact.subtract(other)?.abs()?.max(None)?.item_exact::<f32>())
        };
        assert!(apart(&near)? > 0.0 && apart(&near)? < 1.0, "{}", apart(&near)?);
        assert!(apart(&again)?.abs() < f32::MIN_POSITIVE, "the default is back");
        assert!(rounded.numerics("float32") != plain.numerics("float32"));
        assert_eq!(rounded.arithmetic["probe"], plain.arithmetic["probe"]);
        Ok(())
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_fast_blas_is_the_one_that_mlx_calls() -> Result<()> {
        init(&Options::default())?;
        assert!(crate::matmul_gflops()? > 20.0, "the reference BLAS makes about 3 GFLOP/s");
        Ok(())
    }

    #[test]
    fn packed_weights_stay_packed_where_products_can_read_them() {
        let backend = |name, unpack| Backend {
            name,
            device: String::new(),
            arithmetic: std::collections::BTreeMap::new(),
            memory_limit: 1,
            unpack,
        };
        let resident = |name, unpack, dtype| backend(name, unpack).unpacking(dtype).resident;
        assert!(!resident("cpu", Unpack::Auto, Dtype::Float32));
        assert!(resident("cpu", Unpack::Auto, Dtype::Bfloat16));
        assert!(!resident("cuda", Unpack::Auto, Dtype::Bfloat16));
        assert!(resident("cpu", Unpack::Resident, Dtype::Float32));
        assert!(resident("cpu", Unpack::Transient, Dtype::Bfloat16));
        assert!(resident("cuda", Unpack::Resident, Dtype::Bfloat16));
    }
}
