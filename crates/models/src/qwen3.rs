//! Qwen 3 decoder: as Llama's, with RMS norms on the queries and keys of every head and a head width of its own.
//!
//! Paper: arXiv:2505.09388. Checked against `mlx_lm/models/qwen3.py`; golden logits in `tests/golden/qwen3`.
//! Differs from it: where `use_sliding_window` is set, the layers from `max_window_layers` on see only the window. Rows
//! that fit in the window come out the same.

use crate::attention::{Context, attend, join_heads, split_heads};
use crate::backbone::{Backbone, Block};
use crate::layers::{Layer, Linear, Visit, join, rms_norm, silu};
use crate::mlp::Mlp;
use crate::model::{Builder, Built};
use crate::qwen2::WindowArgs;
use crate::rope::{Rope, RopeScaling};
use mlx_ext::Result;
use mlx_rs::Array;
use serde::Deserialize;

#[derive(Debug, Clone, Deserialize)]
struct ModelArgs {
    hidden_size: i32,
    num_hidden_layers: usize,
    intermediate_size: i32,
    num_attention_heads: i32,
    num_key_value_heads: Option<i32>,
    #[serde(default = "default_head_dim")]
    head_dim: i32,
    vocab_size: i32,
    rms_norm_eps: f32,
    #[serde(default = "default_rope_theta")]
    rope_theta: f32,
    rope_scaling: Option<RopeScaling>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(flatten)]
    window: WindowArgs,
    tie_word_embeddings: Option<bool>,
}

fn default_head_dim() -> i32 {
    128
}

fn default_rope_theta() -> f32 {
    1_000_000.0
}

#[derive(Clone)]
struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    q_norm: Array,
    k_norm: Array,
    rope: Rope,
    is_local: bool,
    heads: i32,
    key_value_heads: i32,
    scale: f32,
    eps: f32,
}

impl Attention {
    fn new(builder: &Builder<'_>, args: &ModelArgs, is_local: bool, path: &str) -> Result<Self, String> {
        let (width, head_dim) = (args.hidden_size, args.head_dim);
        let heads = args.num_attention_heads;
        let key_value_heads = args.num_key_value_heads.unwrap_or(heads);
        let linear = |name: &str, inputs: i32, outputs: i32| {
            builder.linear(&join(path, name), inputs, outputs, args.attention_bias)
        };
        Ok(Self {
            q_proj: linear("q_proj", width, heads * head_dim),
            k_proj: linear("k_proj", width, key_value_heads * head_dim),
            v_proj: linear("v_proj", width, key_value_heads * head_dim),
            o_proj: linear("o_proj", heads * head_dim, width),
            q_norm: builder.norm(&join(path, "q_norm"), head_dim),
            k_norm: builder.norm(&join(path, "k_norm"), head_dim),
            rope: Rope::new(head_dim, args.rope_theta, args.rope_scaling.as_ref())?,
            is_local,
            heads,
            key_value_heads,
            scale: (head_dim as f32).powf(-0.5),
            eps: args.rms_norm_eps,
        })
    }

    /// `x [B, L, D]` → `[B, L, D]`.
    fn forward(&self, x: &Array, layer: usize, context: &mut Context<'_>) -> Result<Array> {
        let queries = split_heads(&self.q_proj.forward(x)?, self.heads)?;
        let keys = split_heads(&self.k_proj.forward(x)?, self.key_value_heads)?;
        let values = split_heads(&self.v_proj.forward(x)?, self.key_value_heads)?;
        let queries = rms_norm(&queries, &self.q_norm, self.eps)?;
        let keys = rms_norm(&keys, &self.k_norm, self.eps)?;
        let queries = self.rope.forward(&queries, &context.offset)?;
        let keys = self.rope.forward(&keys, &context.offset)?;
        let (keys, values) = context.extend(layer, keys, values)?;
        let attended = attend(&queries, &keys, &values, self.scale, context.mask(self.is_local))?;
        self.o_proj.forward(&join_heads(&attended)?)
    }

    fn visit(&mut self, path: &str, visitor: &mut dyn FnMut(&str, Layer<'_>)) {
        visitor(&join(path, "q_proj"), Layer::Linear(&mut self.q_proj));
        visitor(&join(path, "k_proj"), Layer::Linear(&mut self.k_proj));
        visitor(&join(path, "v_proj"), Layer::Linear(&mut self.v_proj));
        visitor(&join(path, "o_proj"), Layer::Linear(&mut self.o_proj));
        visitor(&join(path, "q_norm"), Layer::Norm(&mut self.q_norm));
        visitor(&join(path, "k_norm"), Layer::Norm(&mut self.k_norm));
    }
}

#[derive(Clone)]
struct TransformerBlock {
    self_attn: Attention,
    mlp: Mlp,
    input_layernorm: Array,
    post_attention_layernorm: Array,
    eps: f32,
}

impl TransformerBlock {
    fn new(builder: &Builder<'_>, args: &ModelArgs, is_local: bool, path: &str) -> Result<Self, String> {
        let norm = |name: &str| builder.norm(&join(path, name), args.hidden_size);
        let widths = (args.hidden_size, args.intermediate_size);
        Ok(Self {
            self_attn: Attention::new(builder, args, is_local, &join(path, "self_attn"))?,
            mlp: Mlp::new(builder, &join(path, "mlp"), widths, false, silu),
            input_layernorm: norm("input_layernorm"),
            post_attention_layernorm: norm("post_attention_layernorm"),
            eps: args.rms_norm_eps,
        })
    }
}

impl Block for TransformerBlock {
    fn forward(&self, x: &Array, layer: usize, context: &mut Context<'_>) -> Result<Array> {
        let normed = rms_norm(x, &self.input_layernorm, self.eps)?;
        let h = x.add(self.self_attn.forward(&normed, layer, context)?)?;
        let normed = rms_norm(&h, &self.post_attention_layernorm, self.eps)?;
        Ok(h.add(self.mlp.forward(&normed)?)?)
    }
}

impl Visit for TransformerBlock {
    fn visit(&mut self, path: &str, visitor: &mut dyn FnMut(&str, Layer<'_>)) {
        visitor(&join(path, "input_layernorm"), Layer::Norm(&mut self.input_layernorm));
        self.self_attn.visit(&join(path, "self_attn"), visitor);
        visitor(&join(path, "post_attention_layernorm"), Layer::Norm(&mut self.post_attention_layernorm));
        self.mlp.visit(&join(path, "mlp"), visitor);
    }
}

/// Builds the model that `config.json` describes.
pub(crate) fn build(builder: &Builder<'_>) -> Result<Built, String> {
    let args: ModelArgs = builder.args()?;
    let sizes = (args.vocab_size, args.hidden_size);
    let local_layers = args.window.local_layers(args.num_hidden_layers)?;
    let block = |index: usize, path: &str| TransformerBlock::new(builder, &args, local_layers[index], path);
    let backbone = Backbone::load(builder, sizes, local_layers.len(), block, (rms_norm, args.rms_norm_eps))?;
    Ok(Built {
        decoder: Box::new(backbone.windowed(args.window.window())),
        hidden_size: args.hidden_size,
        vocabulary: args.vocab_size,
        tied: args.tie_word_embeddings,
        softcap: None,
        logit_scale: None,
    })
}
