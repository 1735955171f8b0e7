//! Precision of the factors of matrix products on a CPU.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Type to which products of `float32` matrices round their factors on a CPU. Sums are `float32` either way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Products {
    /// Factors as they are.
    #[default]
    Float32,
    /// Factors with 8 bits of precision, about twice as fast, on processors with AVX-512 and its `bfloat16` instructions.
    Bfloat16,
}

impl Products {
    /// Returns whether it is the default.
    pub fn is_float32(&self) -> bool {
        *self == Self::Float32
    }

    /// Makes all later products of this process round their factors so.
    pub(crate) fn start(self, backend: &'static str) -> Result<()> {
        let factors = match self {
            Self::Float32 => mlx_sys::gemm::Factors::Float32,
            Self::Bfloat16 => mlx_sys::gemm::Factors::Bfloat16,
        };
        if !self.is_float32() && (backend != "cpu" || !factors.is_available()) {
            return Err(Error::NoBfloat16Products { backend });
        }
        factors.use_for_products();
        Ok(())
    }
}
