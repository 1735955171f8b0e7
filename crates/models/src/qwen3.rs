//! Qwen 3 decoder: Llama's, with RMS norms on the queries and keys of every head, and a head width that does not depend
//! on the width of the model.
//!
//! Paper: arXiv:2505.09388. Checked against `mlx_lm/models/qwen3.py`; golden logits in `tests/golden/qwen3`.
//! Differs from it: if `use_sliding_window` is set, the layers from `max_window_layers` on have a sliding window. Rows
//! that fit into the window give the same result.

use crate::backbone::Built;
use crate::builder::Builder;
use crate::keys::Keys;
use crate::llama::{Biases, ModelArgs, Shape, assemble};
use crate::qwen2::WindowArgs;
use crate::settings::Settings;

/// Keys of `config.json`.
pub(crate) const KEYS: Keys = Keys {
    followed: &["hidden_act", "layer_types", "max_window_layers", "sliding_window", "use_sliding_window"],
    off: &[],
};

/// Builds the model that `config.json` describes.
pub(crate) fn build(builder: &Builder<'_>) -> Result<Built, String> {
    assemble(builder, &shape(builder)?)
}

/// Returns the settings of the model that `config.json` describes.
pub(crate) fn settings(builder: &Builder<'_>) -> Result<Settings, String> {
    Ok(shape(builder)?.settings(builder))
}

fn shape(builder: &Builder<'_>) -> Result<Shape, String> {
    let args = ModelArgs { rope_traditional: false, ..builder.args()? };
    let window: WindowArgs = builder.args()?;
    Ok(Shape {
        biases: Biases { inputs: args.attention_bias, output: args.attention_bias, mlp: false },
        head_norms: true,
        window: window.window(builder.config),
        local_layers: window.local_layers(args.num_hidden_layers)?,
        ..args.shape(args.head_dim.unwrap_or(128), args.rope_theta.unwrap_or(10_000.0))?
    })
}
