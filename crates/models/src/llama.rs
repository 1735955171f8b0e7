//! Llama-family decoder: RMS norm, rotary positions, grouped-query attention, SwiGLU.
//!
//! Papers: arXiv:2302.13971, arXiv:2407.21783 (rope scaling). Checked against `mlx_lm/models/llama.py`; golden logits
//! in `tests/golden/llama` and `tests/golden/llama3-rope`. Covers Llama 2 and 3, Yi, Dolphin, SmolLM and TinyLlama.
//! [`crate::mistral`] and [`crate::qwen2`] are this decoder with other biases and windows: they fill in a [`Shape`].

use crate::attention::{Context, attend, join_heads, split_heads};
use crate::backbone::{Backbone, Block};
use crate::config::local_layers;
use crate::layers::{Layer, Linear, Visit, join, rms_norm, silu};
use crate::mlp::Mlp;
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
    head_dim: Option<i32>,
    vocab_size: i32,
    rms_norm_eps: f32,
    #[serde(default = "default_rope_theta")]
    rope_theta: f32,
    rope_scaling: Option<RopeScaling>,
    #[serde(default)]
    rope_traditional: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    sliding_window: Option<i32>,
    layer_types: Option<Vec<String>>,
    tie_word_embeddings: Option<bool>,
}

fn default_rope_theta() -> f32 {
    10_000.0
}

/// Sizes and variations of the decoder.
pub(crate) struct Shape {
    pub(crate) hidden_size: i32,
    pub(crate) intermediate_size: i32,
    pub(crate) heads: i32,
    pub(crate) key_value_heads: i32,
    pub(crate) head_dim: i32,
    pub(crate) vocab_size: i32,
    pub(crate) eps: f32,
    pub(crate) rope: Rope,
    /// Whether `q_proj`, `k_proj` and `v_proj` have a bias.
    pub(crate) input_bias: bool,
    /// Whether `o_proj` has one.
    pub(crate) output_bias: bool,
    /// Whether the maps of the feed-forward layer have one.
    pub(crate) mlp_bias: bool,
    /// What local layers see.
    pub(crate) window: Option<i32>,
    /// For every layer whether it is local.
    pub(crate) local_layers: Vec<bool>,
}

#[derive(Clone)]
struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    rope: Rope,
    is_local: bool,
    heads: i32,
    key_value_heads: i32,
    scale: f32,
}

impl Attention {
    fn new(builder: &Builder<'_>, shape: &Shape, is_local: bool, path: &str) -> Self {
        let (width, head_dim) = (shape.hidden_size, shape.head_dim);
        let (queries, keys) = (shape.heads * head_dim, shape.key_value_heads * head_dim);
        let input =
            |name: &str, outputs: i32| builder.linear(&join(path, name), width, outputs, shape.input_bias);
        Self {
            q_proj: input("q_proj", queries),
            k_proj: input("k_proj", keys),
            v_proj: input("v_proj", keys),
            o_proj: builder.linear(&join(path, "o_proj"), queries, width, shape.output_bias),
            rope: shape.rope.clone(),
            is_local,
            heads: shape.heads,
            key_value_heads: shape.key_value_heads,
            scale: (head_dim as f32).powf(-0.5),
        }
    }

    /// `x [B, L, D]` → `[B, L, D]`.
    fn forward(&self, x: &Array, layer: usize, context: &mut Context<'_>) -> Result<Array> {
        let queries = split_heads(&self.q_proj.forward(x)?, self.heads)?;
        let keys = split_heads(&self.k_proj.forward(x)?, self.key_value_heads)?;
        let values = split_heads(&self.v_proj.forward(x)?, self.key_value_heads)?;
        let queries = self.rope.forward(&queries, &context.offset)?;
        let keys = self.rope.forward(&keys, &context.offset)?;
        let (keys, values) = context.extend(layer, keys, values)?;
        let attended = attend(&queries, &keys, &values, self.scale, context.mask(self.is_local))?;
        self.o_proj.forward(&join_heads(&attended)?)
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
    fn new(builder: &Builder<'_>, shape: &Shape, is_local: bool, path: &str) -> Self {
        let norm = |name: &str| builder.norm(&join(path, name), shape.hidden_size);
        let widths = (shape.hidden_size, shape.intermediate_size);
        Self {
            self_attn: Attention::new(builder, shape, is_local, &join(path, "self_attn")),
            mlp: Mlp::new(builder, &join(path, "mlp"), widths, shape.mlp_bias, silu),
            input_layernorm: norm("input_layernorm"),
            post_attention_layernorm: norm("post_attention_layernorm"),
            eps: shape.eps,
        }
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
        visitor(&join(path, "self_attn.q_proj"), Layer::Linear(&mut self.self_attn.q_proj));
        visitor(&join(path, "self_attn.k_proj"), Layer::Linear(&mut self.self_attn.k_proj));
        visitor(&join(path, "self_attn.v_proj"), Layer::Linear(&mut self.self_attn.v_proj));
        visitor(&join(path, "self_attn.o_proj"), Layer::Linear(&mut self.self_attn.o_proj));
        visitor(&join(path, "post_attention_layernorm"), Layer::Norm(&mut self.post_attention_layernorm));
        self.mlp.visit(&join(path, "mlp"), visitor);
    }
}

/// Builds the decoder of this shape.
pub(crate) fn assemble(builder: &Builder<'_>, shape: &Shape, tied: Option<bool>) -> Result<Built, String> {
    let sizes = (shape.vocab_size, shape.hidden_size);
    let block =
        |index: usize, path: &str| Ok(TransformerBlock::new(builder, shape, shape.local_layers[index], path));
    let backbone = Backbone::load(builder, sizes, shape.local_layers.len(), block, (rms_norm, shape.eps))?;
    Ok(Built {
        decoder: Box::new(backbone.windowed(shape.window)),
        hidden_size: shape.hidden_size,
        vocabulary: shape.vocab_size,
        tied,
        softcap: None,
        logit_scale: None,
    })
}

/// Builds the model that `config.json` describes.
pub(crate) fn build(builder: &Builder<'_>) -> Result<Built, String> {
    let args: ModelArgs = builder.args()?;
    let heads = args.num_attention_heads;
    let head_dim = args.head_dim.unwrap_or(args.hidden_size / heads);
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
        input_bias: args.attention_bias,
        output_bias: args.attention_bias,
        mlp_bias: args.mlp_bias,
        window: args.sliding_window,
        local_layers: local_layers(args.num_hidden_layers, args.layer_types.as_deref(), |_| false)?,
    };
    assemble(builder, &shape, args.tie_word_embeddings)
}
