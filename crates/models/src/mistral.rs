//! Mistral decoder: Llama's, with a sliding window in every layer.
//!
//! Paper: arXiv:2310.06825. Checked against `mlx_lm/models/llama.py`, which reads these models; golden logits in
//! `tests/golden/mistral` and `tests/golden/mistral-layers`.
//! Differs from it: `sliding_window` applies without `layer_types` too, as it did when the models were trained. Rows
//! that fit into the window give the same result.

use crate::backbone::Built;
use crate::builder::Builder;
use crate::config::{local_layers, or_if_absent};
use crate::keys::Keys;
use crate::llama::{ModelArgs, Shape, assemble};
use crate::settings::Settings;

/// Keys of `config.json`.
pub(crate) const KEYS: Keys = Keys { followed: &["hidden_act", "layer_types", "sliding_window"], off: &[] };

/// Window of a `config.json` that does not name one.
const DEFAULT_WINDOW: i32 = 4096;

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
    Ok(Shape {
        // `null` in the versions without a window; Ministral lists which layers have one.
        window: or_if_absent(builder.config, "sliding_window", args.sliding_window, DEFAULT_WINDOW),
        local_layers: local_layers(args.num_hidden_layers, args.layer_types.as_deref(), |_| true)?,
        ..args.shape(args.head_width(), args.rope_theta.unwrap_or(10_000.0))?
    })
}
