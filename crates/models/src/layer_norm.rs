//! The norm of mean and variance with weight and bias, as encoders use it.

use mlx_ext::Result;
use mlx_rs::{Array, fast};

use crate::builder::Builder;

/// A norm over the last axis, with weight and bias.
pub(crate) struct LayerNorm {
    weight: Array,
    bias: Array,
    eps: f32,
}

impl LayerNorm {
    /// Loads the norm at the builder's path; old checkpoints call its parameters `gamma` and `beta`.
    pub(crate) fn new(at: &Builder<'_>, width: i32, eps: f32) -> Self {
        let is_old = at.loader.has(&at.name("gamma"));
        let (weight, bias) = if is_old { ("gamma", "beta") } else { ("weight", "bias") };
        Self { weight: at.take(weight, &[width]), bias: at.take(bias, &[width]), eps }
    }

    /// `x [..., D]` → `[..., D]`.
    pub(crate) fn forward(&self, x: &Array) -> Result<Array> {
        Ok(fast::layer_norm(x, Some(&self.weight), Some(&self.bias), self.eps)?)
    }
}
