//! Cohere decoder (Command R, Aya): layer norm without bias, attention and feed-forward side by side in a block,
//! rotation of neighbouring dimensions, scaled logits.
//!
//! Paper: arXiv:2405.15032 (Aya 23). Checked against `mlx_lm/models/cohere.py`; golden logits in `tests/golden/cohere`
//! and `tests/golden/cohere-qk-norm`.

use crate::attention::{Context, attend, join_heads, split_heads};
use crate::backbone::{Backbone, Block};
use crate::layers::{Layer, Linear, Visit, join, layer_norm, silu};
use crate::mlp::Mlp;
use crate::model::{Builder, Built};
use crate::rope::{Rope, RopeScaling};
use mlx_ext::Result;
use mlx_rs::{Array, fast};
use serde::Deserialize;

#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
struct ModelArgs {
    hidden_size: i32,
    num_hidden_layers: usize,
    intermediate_size: i32,
    num_attention_heads: i32,
    num_key_value_heads: Option<i32>,
    rope_theta: f32,
    rope_scaling: Option<RopeScaling>,
    vocab_size: i32,
    layer_norm_eps: f32,
    logit_scale: f32,
    attention_bias: bool,
    layer_norm_bias: bool,
    use_qk_norm: bool,
}

impl Default for ModelArgs {
    /// What a `config.json` may leave out.
    fn default() -> Self {
        Self {
            hidden_size: 8192,
            num_hidden_layers: 40,
            intermediate_size: 22_528,
            num_attention_heads: 64,
            num_key_value_heads: None,
            rope_theta: 8_000_000.0,
            rope_scaling: None,
            vocab_size: 256_000,
            layer_norm_eps: 1e-5,
            logit_scale: 0.0625,
            attention_bias: false,
            layer_norm_bias: false,
            use_qk_norm: false,
        }
    }
}

/// Layer norms of queries and keys, with weights of their own for every head: `[H, D]` and `[K, D]`.
#[derive(Clone)]
struct HeadNorms {
    q_norm: Array,
    k_norm: Array,
}

#[derive(Clone)]
struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    norms: Option<HeadNorms>,
    rope: Rope,
    heads: i32,
    key_value_heads: i32,
    scale: f32,
    eps: f32,
}

impl Attention {
    fn new(builder: &Builder<'_>, args: &ModelArgs, path: &str) -> Result<Self, String> {
        let (width, heads) = (args.hidden_size, args.num_attention_heads);
        let key_value_heads = args.num_key_value_heads.unwrap_or(heads);
        let head_dim = width / heads;
        let linear = |name: &str, inputs: i32, outputs: i32| {
            builder.linear(&join(path, name), inputs, outputs, args.attention_bias)
        };
        let norm = |name: &str, heads: i32| {
            builder.loader.take(&join(path, &format!("{name}.weight")), &[heads, head_dim])
        };
        Ok(Self {
            q_proj: linear("q_proj", width, heads * head_dim),
            k_proj: linear("k_proj", width, key_value_heads * head_dim),
            v_proj: linear("v_proj", width, key_value_heads * head_dim),
            o_proj: linear("o_proj", heads * head_dim, width),
            norms: args.use_qk_norm.then(|| HeadNorms {
                q_norm: norm("q_norm", heads),
                k_norm: norm("k_norm", key_value_heads),
            }),
            rope: Rope::new(head_dim, args.rope_theta, args.rope_scaling.as_ref())?.interleaved(),
            heads,
            key_value_heads,
            scale: (head_dim as f32).powf(-0.5),
            eps: args.layer_norm_eps,
        })
    }

    /// `x [B, L, D]` → `[B, L, D]`.
    fn forward(&self, x: &Array, layer: usize, context: &mut Context<'_>) -> Result<Array> {
        let mut queries = split_heads(&self.q_proj.forward(x)?, self.heads)?;
        let mut keys = split_heads(&self.k_proj.forward(x)?, self.key_value_heads)?;
        let values = split_heads(&self.v_proj.forward(x)?, self.key_value_heads)?;
        if let Some(norms) = &self.norms {
            queries = self.head_norm(&queries, &norms.q_norm)?;
            keys = self.head_norm(&keys, &norms.k_norm)?;
        }
        let queries = self.rope.forward(&queries, &context.offset)?;
        let keys = self.rope.forward(&keys, &context.offset)?;
        let (keys, values) = context.extend(layer, keys, values)?;
        let attended = attend(&queries, &keys, &values, self.scale, context.mask(false))?;
        self.o_proj.forward(&join_heads(&attended)?)
    }

    /// `x [B, H, L, D]`, `weight [H, D]`.
    fn head_norm(&self, x: &Array, weight: &Array) -> Result<Array> {
        Ok(fast::layer_norm(x, None, None, self.eps)?.multiply(weight.expand_dims(1)?)?)
    }

    fn visit(&mut self, path: &str, visitor: &mut dyn FnMut(&str, Layer<'_>)) {
        visitor(&join(path, "q_proj"), Layer::Linear(&mut self.q_proj));
        visitor(&join(path, "k_proj"), Layer::Linear(&mut self.k_proj));
        visitor(&join(path, "v_proj"), Layer::Linear(&mut self.v_proj));
        visitor(&join(path, "o_proj"), Layer::Linear(&mut self.o_proj));
        if let Some(norms) = &mut self.norms {
            visitor(&join(path, "q_norm"), Layer::Norm(&mut norms.q_norm));
            visitor(&join(path, "k_norm"), Layer::Norm(&mut norms.k_norm));
        }
    }
}

#[derive(Clone)]
struct TransformerBlock {
    self_attn: Attention,
    mlp: Mlp,
    input_layernorm: Array,
    eps: f32,
}

impl TransformerBlock {
    fn new(builder: &Builder<'_>, args: &ModelArgs, path: &str) -> Result<Self, String> {
        let widths = (args.hidden_size, args.intermediate_size);
        Ok(Self {
            self_attn: Attention::new(builder, args, &join(path, "self_attn"))?,
            mlp: Mlp::new(builder, &join(path, "mlp"), widths, false, silu),
            input_layernorm: builder.norm(&join(path, "input_layernorm"), args.hidden_size),
            eps: args.layer_norm_eps,
        })
    }
}

impl Block for TransformerBlock {
    fn forward(&self, x: &Array, layer: usize, context: &mut Context<'_>) -> Result<Array> {
        let normed = layer_norm(x, &self.input_layernorm, self.eps)?;
        let attended = self.self_attn.forward(&normed, layer, context)?;
        Ok(attended.add(self.mlp.forward(&normed)?)?.add(x)?)
    }
}

impl Visit for TransformerBlock {
    fn visit(&mut self, path: &str, visitor: &mut dyn FnMut(&str, Layer<'_>)) {
        visitor(&join(path, "input_layernorm"), Layer::Norm(&mut self.input_layernorm));
        self.self_attn.visit(&join(path, "self_attn"), visitor);
        self.mlp.visit(&join(path, "mlp"), visitor);
    }
}

/// Builds the model that `config.json` describes.
pub(crate) fn build(builder: &Builder<'_>) -> Result<Built, String> {
    let args: ModelArgs = builder.args()?;
    if args.layer_norm_bias {
        // No published model has one.
        return Err("`layer_norm_bias` is not supported".to_owned());
    }
    let sizes = (args.vocab_size, args.hidden_size);
    let block = |_: usize, path: &str| TransformerBlock::new(builder, &args, path);
    let backbone =
        Backbone::load(builder, sizes, args.num_hidden_layers, block, (layer_norm, args.layer_norm_eps))?;
    Ok(Built {
        decoder: Box::new(backbone),
        hidden_size: args.hidden_size,
        vocabulary: args.vocab_size,
        tied: Some(true),
        softcap: None,
        logit_scale: Some(args.logit_scale),
    })
}
