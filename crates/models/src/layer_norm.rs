//! The norm of mean and variance with weight and bias, as encoders use it.

use mlx_ext::Result;
use mlx_ext::host::uses_host;
use mlx_ext::kernels::{self, Added};
use mlx_rs::{Array, fast};

use crate::builder::Builder;
use crate::layers::Linear;

/// A norm over the last axis, with weight and bias.
pub(crate) struct LayerNorm {
    parameters: kernels::LayerNorm,
}

impl LayerNorm {
    /// Loads the norm at the builder's path; old checkpoints call its parameters `gamma` and `beta`.
    pub(crate) fn new(at: &Builder<'_>, width: i32, eps: f32) -> Self {
        let is_old = at.loader.has(&at.name("gamma"));
        let (weight, bias) = if is_old { ("gamma", "beta") } else { ("weight", "bias") };
        let (weight, bias) = (at.take(weight, &[width]), at.take(bias, &[width]));
        Self { parameters: kernels::LayerNorm { weight, bias, eps } }
    }

    /// `x [..., D]` → `[..., D]`.
    pub(crate) fn forward(&self, x: &Array) -> Result<Array> {
        if self.is_on_host(x) {
            return self.parameters.call(x, Added::default());
        }
        let kernels::LayerNorm { weight, bias, eps } = &self.parameters;
        Ok(fast::layer_norm(x, Some(weight), Some(bias), *eps)?)
    }

    /// Returns the norm of map(x) + residual: `x [..., in]`, `residual [..., D]` → `[..., D]`.
    pub(crate) fn after(&self, map: &Linear, x: &Array, residual: &Array) -> Result<Array> {
        if self.is_on_host(x) && uses_host(residual) && map.adapter.is_none() {
            let added = Added { shift: map.bias.as_ref(), residual: Some(residual) };
            return self.parameters.call(&map.weight.project(x)?, added);
        }
        self.forward(&map.forward(x)?.add(residual)?)
    }

    fn is_on_host(&self, x: &Array) -> bool {
        [x, &self.parameters.weight, &self.parameters.bias].into_iter().all(uses_host)
    }
}
