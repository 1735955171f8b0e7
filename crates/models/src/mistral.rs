//! Mistral decoder: Llama's, with a sliding window in every layer.
//!
//! Paper: arXiv:2310.06825. Checked against `mlx_lm/models/llama.py`, which reads these models; golden logits in
//! `tests/golden/mistral` and `tests/golden/mistral-layers`.
//! Differs from it: `sliding_window` applies without `layer_types` too, as it did when the models were trained. Rows
//! that fit into the window give the same result.

use crate::backbone::Built;
use crate::builder::Builder;
use crate::config::local_layers;
use crate::llama::{ModelArgs, Shape, assemble};

/// Builds the model that `config.json` describes.
pub(crate) fn build(builder: &Builder<'_>) -> Result<Built, String> {
    let args = ModelArgs { rope_traditional: false, ..builder.args()? };
    let head_dim = args.head_dim.unwrap_or(args.equal_share());
    let shape = Shape {
        // `null` in the versions without a window; Ministral lists which layers have one.
        window: args.sliding_window,
        local_layers: local_layers(args.num_hidden_layers, args.layer_types.as_deref(), |_| true)?,
        ..args.shape(head_dim, args.rope_theta.unwrap_or(10_000.0))?
    };
    assemble(builder, &shape)
}
