//! The gated feed-forward layer of every family except phi3, which keeps gate and up in one matrix.

use mlx_ext::Result;
use mlx_rs::Array;

use crate::activation::Activation;
use crate::layers::{Linear, project_all};
use crate::module::module;

module! {
    /// down(activation(gate(x)) · up(x)): SwiGLU with `SILU`, GeGLU with `GELU_TANH`.
    pub(crate) struct Mlp(at, width: i32, inner: i32, has_bias: bool, activation: Activation) {
        gate_proj: Linear = Linear::new(at, width, inner, has_bias),
        up_proj: Linear = Linear::new(at, width, inner, has_bias),
        down_proj: Linear = Linear::new(at, inner, width, has_bias),
    } with {
        activation: Activation = activation,
    }
}

impl Mlp {
    /// `x [B, L, D]` → `[B, L, D]`.
    pub(crate) fn forward(&self, x: &Array) -> Result<Array> {
        let [gate, up] = project_all(x, [&self.gate_proj, &self.up_proj])?;
        self.activation.gate_into(&gate, &up, &self.down_proj)
    }
}
