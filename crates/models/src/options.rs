//! Options of loading a model.

use mlx_rs::Dtype;
use serde::{Deserialize, Serialize};

/// Settings for loading a model.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoadOptions {
    /// Type to compute in; `None` keeps the type of the weights.
    pub dtype: Option<Dtype>,
    /// Whether to keep an unpacked copy of every packed weight.
    pub unpack: bool,
}

impl LoadOptions {
    /// Returns the options for a backend: the type asked for, and what suits it for packed weights.
    pub fn on(backend: &mlx_ext::Backend, dtype: ComputeDtype) -> Self {
        let dtype = dtype.on(backend);
        Self { dtype: Some(dtype), unpack: backend.unpacking(dtype).resident }
    }
}

/// Setting for the type that a model computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ComputeDtype {
    /// `float32` on a CPU, `bfloat16` on a GPU.
    Auto,
    /// 32 bits.
    Float32,
    /// 16 bits with the exponent range of 32.
    Bfloat16,
    /// 16 bits, IEEE.
    Float16,
}

impl ComputeDtype {
    /// Returns the type on a backend.
    pub fn on(self, backend: &mlx_ext::Backend) -> Dtype {
        match self {
            Self::Auto if backend.is_gpu() => Dtype::Bfloat16,
            Self::Auto | Self::Float32 => Dtype::Float32,
            Self::Bfloat16 => Dtype::Bfloat16,
            Self::Float16 => Dtype::Float16,
        }
    }

    /// Returns the name of the type, as it enters a key.
    pub fn name(self, backend: &mlx_ext::Backend) -> &'static str {
        match self.on(backend) {
            Dtype::Bfloat16 => "bfloat16",
            Dtype::Float16 => "float16",
            _ => "float32",
        }
    }
}
