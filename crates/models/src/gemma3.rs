//! Gemma 3 text decoder: four norms a block, normed queries and keys, local layers with a sliding window and a base
//! of their own between global ones, gated GELU, scaled embeddings.
//!
//! Paper: arXiv:2503.19786. Checked against `mlx_lm/models/gemma3_text.py`; golden logits in `tests/golden/gemma3_text`
//! and, for the multimodal folder (text part only), `tests/golden/gemma3`.

use crate::attention::{Context, attend, join_heads, split_heads};
use crate::backbone::{Backbone, Block};
use crate::config::local_layers;
use crate::layers::{Layer, Linear, Visit, gelu_tanh, join, rms_norm_above_one as rms_norm};
use crate::mlp::Mlp;
use crate::model::{Builder, Built};
use crate::rope::{Rope, RopeScaling};
use mlx_ext::Result;
use mlx_rs::{Array, Dtype, ops};
use serde::Deserialize;
use serde_json::Value;

#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
struct ModelArgs {
    hidden_size: i32,
    num_hidden_layers: usize,
    intermediate_size: i32,
    num_attention_heads: i32,
    num_key_value_heads: i32,
    head_dim: i32,
    vocab_size: i32,
    rms_norm_eps: f32,
    rope_theta: f32,
    rope_local_base_freq: f32,
    rope_scaling: Option<RopeScaling>,
    /// transformers 5 has settings for each kind of layer here.
    rope_parameters: Option<RopeParameters>,
    query_pre_attn_scalar: f32,
    sliding_window: i32,
    sliding_window_pattern: usize,
    /// transformers 5 lists the kind of every layer instead of a pattern.
    layer_types: Option<Vec<String>>,
}

impl Default for ModelArgs {
    /// What a `config.json` may leave out.
    fn default() -> Self {
        Self {
            hidden_size: 1152,
            num_hidden_layers: 26,
            intermediate_size: 6912,
            num_attention_heads: 4,
            num_key_value_heads: 1,
            head_dim: 256,
            vocab_size: 262_144,
            rms_norm_eps: 1e-6,
            rope_theta: 1_000_000.0,
            rope_local_base_freq: 10_000.0,
            rope_scaling: None,
            rope_parameters: None,
            query_pre_attn_scalar: 256.0,
            sliding_window: 512,
            sliding_window_pattern: 6,
            layer_types: None,
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct RopeParameters {
    full_attention: Option<RopeScaling>,
    sliding_attention: Option<RopeScaling>,
}

impl ModelArgs {
    fn rope(&self, is_local: bool) -> Result<Rope, String> {
        let (base, scaling, new) = if is_local {
            let new = self.rope_parameters.as_ref().and_then(|kinds| kinds.sliding_attention.as_ref());
            (self.rope_local_base_freq, None, new)
        } else {
            let new = self.rope_parameters.as_ref().and_then(|kinds| kinds.full_attention.as_ref());
            (self.rope_theta, self.rope_scaling.as_ref(), new)
        };
        let base = new.and_then(|new| new.rope_theta).unwrap_or(base);
        Rope::new(self.head_dim, base, new.or(scaling))
    }
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
        let (heads, key_value_heads) = (args.num_attention_heads, args.num_key_value_heads);
        let linear =
            |name: &str, inputs: i32, outputs: i32| builder.linear(&join(path, name), inputs, outputs, false);
        Ok(Self {
            q_proj: linear("q_proj", width, heads * head_dim),
            k_proj: linear("k_proj", width, key_value_heads * head_dim),
            v_proj: linear("v_proj", width, key_value_heads * head_dim),
            o_proj: linear("o_proj", heads * head_dim, width),
            q_norm: builder.norm(&join(path, "q_norm"), head_dim),
            k_norm: builder.norm(&join(path, "k_norm"), head_dim),
            rope: args.rope(is_local)?,
            is_local,
            heads,
            key_value_heads,
            scale: args.query_pre_attn_scalar.powf(-0.5),
            eps: args.rms_norm_eps,
        })
    }

    /// `x [B, L, D]` → `[B, L, D]`.
    fn forward(&self, x: &Array, layer: usize, context: &mut Context<'_>) -> Result<Array> {
        let queries = split_heads(&self.q_proj.forward(x)?, self.heads)?;
        let keys = split_heads(&self.k_proj.forward(x)?, self.key_value_heads)?;
        let values = split_heads(&self.v_proj.forward(x)?, self.key_value_heads)?;
        let queries = self.rope.forward(&rms_norm(&queries, &self.q_norm, self.eps)?, &context.offset)?;
        let keys = self.rope.forward(&rms_norm(&keys, &self.k_norm, self.eps)?, &context.offset)?;
        let (keys, values) = context.extend(layer, keys, values)?;
        let mask = context.mask(self.is_local);
        self.o_proj.forward(&join_heads(&attend(&queries, &keys, &values, self.scale, mask)?)?)
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
        let widths = (args.hidden_size, args.intermediate_size);
        let norm = |name: &str| builder.norm(&join(path, name), args.hidden_size);
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
        let h = add(x, &rms_norm(&attended, &self.post_attention_layernorm, self.eps)?)?;
        let inner = self.mlp.forward(&rms_norm(&h, &self.pre_feedforward_layernorm, self.eps)?)?;
        add(&h, &rms_norm(&inner, &self.post_feedforward_layernorm, self.eps)?)
    }
}

/// x + y, which must not leave the range of `f16`: the residual stream of these models is wide.
fn add(x: &Array, y: &Array) -> Result<Array> {
    if x.dtype() != Dtype::Float16 {
        return Ok(x.add(y)?);
    }
    let sum = x.as_dtype(Dtype::Float32)?.add(y.as_dtype(Dtype::Float32)?)?;
    let largest = half::f16::MAX.to_f32();
    let clipped = ops::clip(&sum, (Array::from_f32(-largest), Array::from_f32(largest)))?;
    Ok(clipped.as_dtype(Dtype::Float16)?)
}

impl Visit for TransformerBlock {
    fn visit(&mut self, path: &str, visitor: &mut dyn FnMut(&str, Layer<'_>)) {
        visitor(&join(path, "input_layernorm"), Layer::Norm(&mut self.input_layernorm));
        visitor(&join(path, "self_attn.q_proj"), Layer::Linear(&mut self.self_attn.q_proj));
        visitor(&join(path, "self_attn.k_proj"), Layer::Linear(&mut self.self_attn.k_proj));
        visitor(&join(path, "self_attn.v_proj"), Layer::Linear(&mut self.self_attn.v_proj));
        visitor(&join(path, "self_attn.o_proj"), Layer::Linear(&mut self.self_attn.o_proj));
        visitor(&join(path, "self_attn.q_norm"), Layer::Norm(&mut self.self_attn.q_norm));
        visitor(&join(path, "self_attn.k_norm"), Layer::Norm(&mut self.self_attn.k_norm));
        visitor(&join(path, "post_attention_layernorm"), Layer::Norm(&mut self.post_attention_layernorm));
        visitor(&join(path, "pre_feedforward_layernorm"), Layer::Norm(&mut self.pre_feedforward_layernorm));
        self.mlp.visit(&join(path, "mlp"), visitor);
        visitor(&join(path, "post_feedforward_layernorm"), Layer::Norm(&mut self.post_feedforward_layernorm));
    }
}

/// Builds the model that `config.json` describes.
pub(crate) fn build(builder: &Builder<'_>) -> Result<Built, String> {
    assemble(builder, &builder.args()?)
}

/// Builds the text part of a multimodal model, whose `text_config` leaves other things out than a text model's.
pub(crate) fn build_multimodal(builder: &Builder<'_>) -> Result<Built, String> {
    let mut args: ModelArgs = builder.args()?;
    let number =
        |table: &Value, name: &str| table.get(name).and_then(Value::as_i64).map(|found| found as i32);
    let text = builder.config;
    args.num_attention_heads = number(text, "num_attention_heads").unwrap_or(8);
    args.num_key_value_heads = number(text, "num_key_value_heads").unwrap_or(4);
    args.vocab_size =
        number(builder.whole_config, "vocab_size").or(number(text, "vocab_size")).unwrap_or(262_208);
    assemble(builder, &args)
}

fn assemble(builder: &Builder<'_>, args: &ModelArgs) -> Result<Built, String> {
    let sizes = (args.vocab_size, args.hidden_size);
    let is_local = |layer: usize| !(layer + 1).is_multiple_of(args.sliding_window_pattern);
    let local_layers = local_layers(args.num_hidden_layers, args.layer_types.as_deref(), is_local)?;
    let block = |index: usize, path: &str| TransformerBlock::new(builder, args, local_layers[index], path);
    let backbone = Backbone::load(builder, sizes, local_layers.len(), block, (rms_norm, args.rms_norm_eps))?;
    // The reference keeps this factor in bfloat16, whatever the model computes in.
    let embedding_scale = half::bf16::from_f32((args.hidden_size as f32).sqrt()).to_f32();
    Ok(Built {
        decoder: Box::new(backbone.windowed(Some(args.sliding_window)).scaled(embedding_scale)),
        hidden_size: args.hidden_size,
        vocabulary: args.vocab_size,
        tied: None,
        softcap: None,
        logit_scale: None,
    })
}
