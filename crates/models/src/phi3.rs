//! Phi 3, 3.5 and 4 decoder: as Llama's, with queries, keys and values in one matrix, gate and up in another, and
//! rotation of only a part of each head (Phi 4 mini).
//!
//! Paper: arXiv:2404.14219. Checked against `mlx_lm/models/phi3.py`; golden logits in `tests/golden/phi3` and
//! `tests/golden/phi3-longrope`.
//! Differs from it: `sliding_window` is obeyed. Rows that fit in the window come out the same.

use crate::attention::{Context, attend, join_heads, split_heads};
use crate::backbone::{Backbone, Block};
use crate::layers::{Layer, Linear, Visit, join, rms_norm, silu};
use crate::model::{Builder, Built};
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
    vocab_size: i32,
    rms_norm_eps: f32,
    #[serde(default = "default_rope_theta")]
    rope_theta: f32,
    rope_scaling: Option<RopeScaling>,
    #[serde(default = "default_partial_rotary_factor")]
    partial_rotary_factor: f32,
    sliding_window: Option<i32>,
    #[serde(default)]
    tie_word_embeddings: bool,
}

fn default_rope_theta() -> f32 {
    10_000.0
}

fn default_partial_rotary_factor() -> f32 {
    1.0
}

#[derive(Clone)]
struct Attention {
    qkv_proj: Linear,
    o_proj: Linear,
    rope: Rope,
    heads: i32,
    key_value_heads: i32,
    head_dim: i32,
    scale: f32,
}

impl Attention {
    fn new(builder: &Builder<'_>, args: &ModelArgs, path: &str) -> Result<Self, String> {
        let (width, heads) = (args.hidden_size, args.num_attention_heads);
        let key_value_heads = args.num_key_value_heads.unwrap_or(heads);
        let head_dim = width / heads;
        let rotated = (head_dim as f32 * args.partial_rotary_factor) as i32;
        let outputs = (heads + 2 * key_value_heads) * head_dim;
        Ok(Self {
            qkv_proj: builder.linear(&join(path, "qkv_proj"), width, outputs, false),
            o_proj: builder.linear(&join(path, "o_proj"), heads * head_dim, width, false),
            rope: Rope::new(rotated, args.rope_theta, args.rope_scaling.as_ref())?,
            heads,
            key_value_heads,
            head_dim,
            scale: (head_dim as f32).powf(-0.5),
        })
    }

    /// `x [B, L, D]` → `[B, L, D]`.
    fn forward(&self, x: &Array, layer: usize, context: &mut Context<'_>) -> Result<Array> {
        let values_from = (self.heads + self.key_value_heads) * self.head_dim;
        let cuts = [self.heads * self.head_dim, values_from];
        let parts = self.qkv_proj.forward(x)?.split_at_indices(&cuts, -1)?;
        let queries = split_heads(&parts[0], self.heads)?;
        let keys = split_heads(&parts[1], self.key_value_heads)?;
        let values = split_heads(&parts[2], self.key_value_heads)?;
        let queries = self.rope.forward(&queries, &context.offset)?;
        let keys = self.rope.forward(&keys, &context.offset)?;
        let (keys, values) = context.extend(layer, keys, values)?;
        let attended = attend(&queries, &keys, &values, self.scale, context.mask(true))?;
        self.o_proj.forward(&join_heads(&attended)?)
    }
}

#[derive(Clone)]
struct Mlp {
    gate_up_proj: Linear,
    down_proj: Linear,
}

impl Mlp {
    fn new(builder: &Builder<'_>, args: &ModelArgs, path: &str) -> Self {
        let (width, inner) = (args.hidden_size, args.intermediate_size);
        Self {
            gate_up_proj: builder.linear(&join(path, "gate_up_proj"), width, 2 * inner, false),
            down_proj: builder.linear(&join(path, "down_proj"), inner, width, false),
        }
    }

    fn forward(&self, x: &Array) -> Result<Array> {
        let parts = self.gate_up_proj.forward(x)?.split_equal(2, -1)?;
        self.down_proj.forward(&silu(&parts[0])?.multiply(&parts[1])?)
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
    fn new(builder: &Builder<'_>, args: &ModelArgs, path: &str) -> Result<Self, String> {
        let norm = |name: &str| builder.norm(&join(path, name), args.hidden_size);
        Ok(Self {
            self_attn: Attention::new(builder, args, &join(path, "self_attn"))?,
            mlp: Mlp::new(builder, args, &join(path, "mlp")),
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
        visitor(&join(path, "self_attn.qkv_proj"), Layer::Linear(&mut self.self_attn.qkv_proj));
        visitor(&join(path, "self_attn.o_proj"), Layer::Linear(&mut self.self_attn.o_proj));
        visitor(&join(path, "post_attention_layernorm"), Layer::Norm(&mut self.post_attention_layernorm));
        visitor(&join(path, "mlp.gate_up_proj"), Layer::Linear(&mut self.mlp.gate_up_proj));
        visitor(&join(path, "mlp.down_proj"), Layer::Linear(&mut self.mlp.down_proj));
    }
}

/// Builds the model that `config.json` describes.
pub(crate) fn build(builder: &Builder<'_>) -> Result<Built, String> {
    let args: ModelArgs = builder.args()?;
    let sizes = (args.vocab_size, args.hidden_size);
    let block = |_: usize, path: &str| TransformerBlock::new(builder, &args, path);
    let backbone =
        Backbone::load(builder, sizes, args.num_hidden_layers, block, (rms_norm, args.rms_norm_eps))?;
    Ok(Built {
        decoder: Box::new(backbone.windowed(args.sliding_window)),
        hidden_size: args.hidden_size,
        vocabulary: args.vocab_size,
        tied: Some(args.tie_word_embeddings),
        softcap: None,
        logit_scale: None,
    })
}
