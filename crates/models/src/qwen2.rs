//! Qwen 2 and 2.5 decoder: Llama's, with a bias on queries, keys and values.
//!
//! Paper: arXiv:2407.10671. Checked against `mlx_lm/models/qwen2.py`; golden logits in `tests/golden/qwen2`.
//! Differs from it: if `use_sliding_window` is set, the layers from `max_window_layers` on have a sliding window. Rows
//! that fit into the window give the same result.

use serde::Deserialize;

use crate::backbone::Built;
use crate::builder::Builder;
use crate::config::local_layers;
use crate::llama::{Biases, ModelArgs, Shape, assemble};

/// Settings of the sliding window of Qwen models; no published model uses it by default.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct WindowArgs {
    #[serde(default)]
    use_sliding_window: bool,
    sliding_window: Option<i32>,
    #[serde(default = "default_max_window_layers")]
    max_window_layers: usize,
    layer_types: Option<Vec<String>>,
}

fn default_max_window_layers() -> usize {
    28
}

impl WindowArgs {
    /// Returns the window in tokens, if it is in use.
    pub(crate) fn window(&self) -> Option<i32> {
        self.sliding_window.filter(|_| self.use_sliding_window)
    }

    /// Returns for each layer whether it is local.
    pub(crate) fn local_layers(&self, layers: usize) -> Result<Vec<bool>, String> {
        local_layers(layers, self.layer_types.as_deref(), |layer| layer >= self.max_window_layers)
    }
}

/// Builds the model that `config.json` describes.
pub(crate) fn build(builder: &Builder<'_>) -> Result<Built, String> {
    let args: ModelArgs = builder.args()?;
    let window: WindowArgs = builder.args()?;
    let shape = Shape {
        biases: Biases { inputs: true, ..Biases::default() },
        window: window.window(),
        local_layers: window.local_layers(args.num_hidden_layers)?,
        ..args.shape(args.equal_share(), args.rope_theta.unwrap_or(1_000_000.0))?
    };
    assemble(builder, &shape)
}
