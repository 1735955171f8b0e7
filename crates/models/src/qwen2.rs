//! Qwen 2 and 2.5 decoder: Llama's, with a bias on queries, keys and values.
//!
//! Paper: arXiv:2407.10671. Checked against `mlx_lm/models/qwen2.py`; golden logits in `tests/golden/qwen2`.
//! Differs from it: if `use_sliding_window` is set, the layers from `max_window_layers` on have a sliding window. Rows
//! that fit into the window give the same result.

use serde::Deserialize;
use serde_json::Value;

use crate::backbone::Built;
use crate::builder::Builder;
use crate::config::{local_layers, or_if_absent};
use crate::keys::Keys;
use crate::llama::{Biases, ModelArgs, Shape, assemble};
use crate::settings::Settings;

/// Keys of `config.json`.
pub(crate) const KEYS: Keys = Keys {
    followed: &[
        "hidden_act",
        "layer_types",
        "max_window_layers",
        "rope_traditional",
        "sliding_window",
        "use_sliding_window",
    ],
    off: &[],
};

/// Window of a `config.json` that uses one and does not name it.
const DEFAULT_WINDOW: i32 = 4096;

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
    pub(crate) fn window(&self, config: &Value) -> Option<i32> {
        let window = or_if_absent(config, "sliding_window", self.sliding_window, DEFAULT_WINDOW);
        window.filter(|_| self.use_sliding_window)
    }

    /// Returns for each layer whether it is local.
    pub(crate) fn local_layers(&self, layers: usize) -> Result<Vec<bool>, String> {
        local_layers(layers, self.layer_types.as_deref(), |layer| layer >= self.max_window_layers)
    }
}

/// Builds the model that `config.json` describes.
pub(crate) fn build(builder: &Builder<'_>) -> Result<Built, String> {
    assemble(builder, &shape(builder)?)
}

/// Returns the settings of the model that `config.json` describes.
pub(crate) fn settings(builder: &Builder<'_>) -> Result<Settings, String> {
    Ok(shape(builder)?.settings(builder))
}

fn shape(builder: &Builder<'_>) -> Result<Shape, String> {
    let args: ModelArgs = builder.args()?;
    let window: WindowArgs = builder.args()?;
    Ok(Shape {
        biases: Biases { inputs: true, ..Biases::default() },
        window: window.window(builder.config),
        local_layers: window.local_layers(args.num_hidden_layers)?,
        ..args.shape(args.head_width(), args.rope_theta.unwrap_or(10_000.0))?
    })
}
