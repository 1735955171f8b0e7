//! Mistral decoder: that of Llama, with a sliding window in every layer.
//!
//! Paper: arXiv:2310.06825. Checked against `mlx_lm/models/llama.py`, which reads these models; golden logits in
//! `tests/golden/mistral` and `tests/golden/mistral-layers`.
//! Differs from it: `sliding_window` counts without `layer_types` too, as it did when the models were trained. Rows
//! that fit in the window come out the same.

use crate::config::local_layers;
use crate::llama::{Shape, assemble};
use crate::model::{Builder, Built};
use crate::rope::{Rope, RopeScaling};
use serde::Deserialize;

#[derive(Debug, Clone, Deserialize)]
struct ModelArgs {
    hidden_size: i32,
    num_hidden_layers: usize,
    intermediate_size: i32,
    num_attention_heads: i32,
    num_key_value_heads: Option<i32>,
    head_dim: Option<i32>,
    vocab_size: i32,
    rms_norm_eps: f32,
    #[serde(default = "default_rope_theta")]
    rope_theta: f32,
    rope_scaling: Option<RopeScaling>,
    /// Null in the versions that see everything.
    sliding_window: Option<i32>,
    /// Ministral lists which layers have the window.
    layer_types: Option<Vec<String>>,
    tie_word_embeddings: Option<bool>,
}

fn default_rope_theta() -> f32 {
    10_000.0
}

/// Builds the model that `config.json` describes.
pub(crate) fn build(builder: &Builder<'_>) -> Result<Built, String> {
    let args: ModelArgs = builder.args()?;
    let heads = args.num_attention_heads;
    let head_dim = args.head_dim.unwrap_or(args.hidden_size / heads);
    let shape = Shape {
        hidden_size: args.hidden_size,
        intermediate_size: args.intermediate_size,
        heads,
        key_value_heads: args.num_key_value_heads.unwrap_or(heads),
        head_dim,
        vocab_size: args.vocab_size,
        eps: args.rms_norm_eps,
        rope: Rope::new(head_dim, args.rope_theta, args.rope_scaling.as_ref())?,
        input_bias: false,
        output_bias: false,
        mlp_bias: false,
        window: args.sliding_window,
        local_layers: local_layers(args.num_hidden_layers, args.layer_types.as_deref(), |_| true)?,
    };
    assemble(builder, &shape, args.tie_word_embeddings)
}
