//! The gated feed-forward layer of every family but phi3, which keeps gate and up in one matrix.

use crate::layers::{Layer, Linear, join};
use crate::model::Builder;
use mlx_ext::Result;
use mlx_rs::Array;

/// down(activation(gate(x)) · up(x)): SwiGLU with [`crate::layers::silu`], GEGLU with [`crate::layers::gelu_tanh`].
#[derive(Clone)]
pub(crate) struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
    activation: fn(&Array) -> Result<Array>,
}

impl Mlp {
    /// Loads the layer at `path`, `width` wide outside and `inner` inside.
    pub(crate) fn new(
        builder: &Builder<'_>,
        path: &str,
        (width, inner): (i32, i32),
        bias: bool,
        activation: fn(&Array) -> Result<Array>,
    ) -> Self {
        Self {
            gate_proj: builder.linear(&join(path, "gate_proj"), width, inner, bias),
            up_proj: builder.linear(&join(path, "up_proj"), width, inner, bias),
            down_proj: builder.linear(&join(path, "down_proj"), inner, width, bias),
            activation,
        }
    }

    /// `x [B, L, D]` → `[B, L, D]`.
    pub(crate) fn forward(&self, x: &Array) -> Result<Array> {
        let gate = (self.activation)(&self.gate_proj.forward(x)?)?;
        self.down_proj.forward(&gate.multiply(self.up_proj.forward(x)?)?)
    }

    /// Shows the three maps.
    pub(crate) fn visit(&mut self, path: &str, visitor: &mut dyn FnMut(&str, Layer<'_>)) {
        visitor(&join(path, "gate_proj"), Layer::Linear(&mut self.gate_proj));
        visitor(&join(path, "up_proj"), Layer::Linear(&mut self.up_proj));
        visitor(&join(path, "down_proj"), Layer::Linear(&mut self.down_proj));
    }
}
