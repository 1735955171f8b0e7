//! Qwen 2 and 2.5 decoder: that of Llama, with a bias on queries, keys and values.
//!
//! Paper: arXiv:2407.10671. Checked against `mlx_lm/models/qwen2.py`; golden logits in `tests/golden/qwen2`.
//! Differs from it: where `use_sliding_window` is set, the layers from `max_window_layers` on see only the window. Rows
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
    vocab_size: i32,
    rms_norm_eps: f32,
    #[serde(default = "default_rope_theta")]
    rope_theta: f32,
    rope_scaling: Option<RopeScaling>,
    #[serde(default)]
    rope_traditional: bool,
    #[serde(flatten)]
    window: WindowArgs,
    tie_word_embeddings: Option<bool>,
}

fn default_rope_theta() -> f32 {
    1_000_000.0
}

/// Which layers of a Qwen model see only a window: none in any published model that does not ask for it.
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
    /// The window, if it is in use.
    pub(crate) fn window(&self) -> Option<i32> {
        self.sliding_window.filter(|_| self.use_sliding_window)
    }

    /// For every layer whether it is local.
    pub(crate) fn local_layers(&self, layers: usize) -> Result<Vec<bool>, String> {
        local_layers(layers, self.layer_types.as_deref(), |layer| layer >= self.max_window_layers)
    }
}

/// Builds the model that `config.json` describes.
pub(crate) fn build(builder: &Builder<'_>) -> Result<Built, String> {
    let args: ModelArgs = builder.args()?;
    let heads = args.num_attention_heads;
    let head_dim = args.hidden_size / heads;
    let rope = Rope::new(head_dim, args.rope_theta, args.rope_scaling.as_ref())?;
    let shape = Shape {
        hidden_size: args.hidden_size,
        intermediate_size: args.intermediate_size,
        heads,
        key_value_heads: args.num_key_value_heads.unwrap_or(heads),
        head_dim,
        vocab_size: args.vocab_size,
        eps: args.rms_norm_eps,
        rope: if args.rope_traditional { rope.interleaved() } else { rope },
        input_bias: true,
        output_bias: false,
        mlp_bias: false,
        window: args.window.window(),
        local_layers: args.window.local_layers(args.num_hidden_layers)?,
    };
    assemble(builder, &shape, args.tie_word_embeddings)
}
