//! Gemma 2 decoder: four norms a block, capped attention scores and logits, gated GELU, scaled embeddings, and a
//! sliding window in every other layer.
//!
//! Paper: arXiv:2408.00118. Checked against `mlx_lm/models/gemma2.py`; golden logits in `tests/golden/gemma2`.
//! Differs from it: `sliding_window` is obeyed, by the first layer and every second after it unless `layer_types` says
//! otherwise. Rows that fit in the window come out the same.

use crate::attention::{Context, attend, attend_capped, join_heads, split_heads};
use crate::backbone::{Backbone, Block};
use crate::config::local_layers;
use crate::layers::{Layer, Linear, Visit, gelu_tanh, join, rms_norm_above_one as rms_norm};
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
    num_key_value_heads: i32,
    head_dim: i32,
    vocab_size: i32,
    rms_norm_eps: f32,
    #[serde(default = "default_rope_theta")]
    rope_theta: f32,
    rope_scaling: Option<RopeScaling>,
    attn_logit_softcapping: Option<f32>,
    final_logit_softcapping: Option<f32>,
    #[serde(default = "default_query_pre_attn_scalar")]
    query_pre_attn_scalar: f32,
    sliding_window: Option<i32>,
    layer_types: Option<Vec<String>>,
}

fn default_rope_theta() -> f32 {
    10_000.0
}

fn default_query_pre_attn_scalar() -> f32 {
    144.0
}

/// A cap that `config.json` does not name has its usual value; one that is null, unlike other settings, is none.
fn cap(builder: &Builder<'_>, name: &str, read: Option<f32>, usual: f32) -> Option<f32> {
    match builder.config.get(name) {
        Some(value) if value.is_null() => None,
        _ => Some(read.unwrap_or(usual)),
    }
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
    cap: Option<f32>,
}

impl Attention {
    fn new(builder: &Builder<'_>, args: &ModelArgs, is_local: bool, path: &str) -> Result<Self, String> {
        let (width, head_dim) = (args.hidden_size, args.head_dim);
        let (heads, key_value_heads) = (args.num_attention_heads, args.num_key_value_heads);
        let linear =
            |name: &str, inputs: i32, outputs: i32| builder.linear(&join(path, name), inputs, outputs, false);
        Ok(Self {
            q_proj: linear("q_proj", width, heads * head_dim),
            k_proj: linear("k_proj", width, key_value_heads * head_dim),
            v_proj: linear("v_proj", width, key_value_heads * head_dim),
            o_proj: linear("o_proj", heads * head_dim, width),
            rope: Rope::new(head_dim, args.rope_theta, args.rope_scaling.as_ref())?,
            is_local,
            heads,
            key_value_heads,
            scale: args.query_pre_attn_scalar.powf(-0.5),
            cap: cap(builder, "attn_logit_softcapping", args.attn_logit_softcapping, 50.0),
        })
    }

    /// `x [B, L, D]` → `[B, L, D]`.
    fn forward(&self, x: &Array, layer: usize, context: &mut Context<'_>) -> Result<Array> {
        let queries = split_heads(&self.q_proj.forward(x)?, self.heads)?;
        let keys = split_heads(&self.k_proj.forward(x)?, self.key_value_heads)?;
        let values = split_heads(&self.v_proj.forward(x)?, self.key_value_heads)?;
        let queries = self.rope.forward(&queries, &context.offset)?;
        let keys = self.rope.forward(&keys, &context.offset)?;
        let (keys, values) = context.extend(layer, keys, values)?;
        let mask = context.mask(self.is_local);
        let attended = match self.cap {
            Some(cap) => attend_capped(&queries, &keys, &values, (self.scale, cap), mask)?,
            None => attend(&queries, &keys, &values, self.scale, mask)?,
        };
        self.o_proj.forward(&join_heads(&attended)?)
    }

    fn visit(&mut self, path: &str, visitor: &mut dyn FnMut(&str, Layer<'_>)) {
        visitor(&join(path, "q_proj"), Layer::Linear(&mut self.q_proj));
        visitor(&join(path, "k_proj"), Layer::Linear(&mut self.k_proj));
        visitor(&join(path, "v_proj"), Layer::Linear(&mut self.v_proj));
        visitor(&join(path, "o_proj"), Layer::Linear(&mut self.o_proj));
    }
}

#[derive(Clone)]
struct TransformerBlock {
    self_attn: Attention,
    mlp: Mlp,
    input_layernorm: Array,
    post_attention_layernorm: Array,
    pre_feedforward_layernorm: Array,
    post_feedforward_layernorm: Array,
    eps: f32,
}

impl TransformerBlock {
    fn new(builder: &Builder<'_>, args: &ModelArgs, is_local: bool, path: &str) -> Result<Self, String> {
        let norm = |name: &str| builder.norm(&join(path, name), args.hidden_size);
        let widths = (args.hidden_size, args.intermediate_size);
        Ok(Self {
            self_attn: Attention::new(builder, args, is_local, &join(path, "self_attn"))?,
            mlp: Mlp::new(builder, &join(path, "mlp"), widths, false, gelu_tanh),
            input_layernorm: norm("input_layernorm"),
            post_attention_layernorm: norm("post_attention_layernorm"),
            pre_feedforward_layernorm: norm("pre_feedforward_layernorm"),
            post_feedforward_layernorm: norm("post_feedforward_layernorm"),
            eps: args.rms_norm_eps,
        })
    }
}

impl Block for TransformerBlock {
    fn forward(&self, x: &Array, layer: usize, context: &mut Context<'_>) -> Result<Array> {
        let normed = rms_norm(x, &self.input_layernorm, self.eps)?;
        let attended = self.self_attn.forward(&normed, layer, context)?;
        let h = x.add(rms_norm(&attended, &self.post_attention_layernorm, self.eps)?)?;
        let inner = self.mlp.forward(&rms_norm(&h, &self.pre_feedforward_layernorm, self.eps)?)?;
        Ok(h.add(rms_norm(&inner, &self.post_feedforward_layernorm, self.eps)?)?)
    }
}

impl Visit for TransformerBlock {
    fn visit(&mut self, path: &str, visitor: &mut dyn FnMut(&str, Layer<'_>)) {
        let norm = |name: &str| join(path, name);
        visitor(&norm("input_layernorm"), Layer::Norm(&mut self.input_layernorm));
        self.self_attn.visit(&join(path, "self_attn"), visitor);
        visitor(&norm("post_attention_layernorm"), Layer::Norm(&mut self.post_attention_layernorm));
        visitor(&norm("pre_feedforward_layernorm"), Layer::Norm(&mut self.pre_feedforward_layernorm));
        self.mlp.visit(&join(path, "mlp"), visitor);
        visitor(&norm("post_feedforward_layernorm"), Layer::Norm(&mut self.post_feedforward_layernorm));
    }
}

/// Builds the model that `config.json` describes.
pub(crate) fn build(builder: &Builder<'_>) -> Result<Built, String> {
    let args: ModelArgs = builder.args()?;
    let sizes = (args.vocab_size, args.hidden_size);
    let types = args.layer_types.as_deref();
    let local_layers = local_layers(args.num_hidden_layers, types, |layer| layer.is_multiple_of(2))?;
    let block = |index: usize, path: &str| TransformerBlock::new(builder, &args, local_layers[index], path);
    let backbone = Backbone::load(builder, sizes, local_layers.len(), block, (rms_norm, args.rms_norm_eps))?;
    Ok(Built {
        decoder: Box::new(backbone.windowed(args.sliding_window).scaled((args.hidden_size as f32).sqrt())),
        hidden_size: args.hidden_size,
        vocabulary: args.vocab_size,
        tied: Some(true),
        softcap: cap(builder, "final_logit_softcapping", args.final_logit_softcapping, 30.0),
        logit_scale: None,
    })
}
