//! The gated feed-forward layer of every family except phi3, which keeps gate and up in one matrix.

use mlx_ext::Result;
use mlx_rs::Array;

use crate::layers::Linear;
use crate::module::module;

/// Activation of the gate.
pub(crate) type Activation = fn(&Array) -> Result<Array>;

module! {
    /// down(activation(gate(x)) · up(x)): SwiGLU with `silu`, GeGLU with `gelu_tanh`.
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
        let gate = (self.activation)(&self.gate_proj.forward(x)?)?;
        self.down_proj.forward(&gate.multiply(self.up_proj.forward(x)?)?)
    }
}
