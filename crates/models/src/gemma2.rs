//! Gemma 2 decoder: four norms per block, capped attention scores and logits, gated GELU, scaled embeddings, and a
//! sliding window in every other layer.
//!
//! Paper: arXiv:2408.00118. Checked against `mlx_lm/models/gemma2.py`; golden logits in `tests/golden/gemma2`.
//! Differs from it: `sliding_window` applies, to the first layer and every second one after it unless `layer_types`
//! says otherwise. Rows that fit into the window give the same result.

use mlx_ext::Result;
use mlx_ext::kernels::Gate;
use mlx_rs::Array;
use serde::Deserialize;

use crate::attention::{Context, Scoring, attend, split_heads};
use crate::backbone::{Backbone, BackboneArgs, Block, Built};
use crate::builder::Builder;
use crate::config::local_layers;
use crate::layers::{Linear, Norm, NormKind, project_all};
use crate::mlp::Mlp;
use crate::module::module;
use crate::rope::{Rope, RopeScaling};

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

impl ModelArgs {
    fn queries(&self) -> i32 {
        self.num_attention_heads * self.head_dim
    }

    fn keys(&self) -> i32 {
        self.num_key_value_heads * self.head_dim
    }

    fn norm(&self, at: &Builder<'_>) -> Norm {
        Norm::new(at, NormKind::RmsAboveOne, &[self.hidden_size], self.rms_norm_eps)
    }
}

/// Returns a cap: the default if `config.json` does not name it, `None` if it is null. For other settings, null means the
/// default.
fn cap(builder: &Builder<'_>, name: &str, read: Option<f32>, default: f32) -> Option<f32> {
    match builder.config.get(name) {
        Some(value) if value.is_null() => None,
        _ => Some(read.unwrap_or(default)),
    }
}

module! {
    /// Grouped-query attention with capped scores.
    struct Attention(at, args: &ModelArgs, is_local: bool, cap: Option<f32>) {
        q_proj: Linear = Linear::new(at, args.hidden_size, args.queries(), false),
        k_proj: Linear = Linear::new(at, args.hidden_size, args.keys(), false),
        v_proj: Linear = Linear::new(at, args.hidden_size, args.keys(), false),
        o_proj: Linear = Linear::new(at, args.queries(), args.hidden_size, false),
    } with {
        rope: Rope = Rope::new(args.head_dim, args.rope_theta, args.rope_scaling.as_ref())?,
        is_local: bool = is_local,
        heads: i32 = args.num_attention_heads,
        key_value_heads: i32 = args.num_key_value_heads,
        scoring: Scoring = Scoring { scale: args.query_pre_attn_scalar.powf(-0.5), cap },
    }
}

impl Attention {
    /// `x [B, L, D]` → `[B, L, D]`.
    fn forward(&self, x: &Array, layer: usize, context: &mut Context<'_>) -> Result<Array> {
        let [queries, keys, values] = project_all(x, [&self.q_proj, &self.k_proj, &self.v_proj])?;
        let queries = split_heads(&queries, self.heads)?;
        let keys = split_heads(&keys, self.key_value_heads)?;
        let values = split_heads(&values, self.key_value_heads)?;
        let queries = self.rope.forward(&queries, &context.offset)?;
        let keys = self.rope.forward(&keys, &context.offset)?;
        let (keys, values) = context.extend(layer, keys, values)?;
        let attended = attend(&queries, &keys, &values, self.scoring, context.mask(self.is_local))?;
        self.o_proj.forward(&attended)
    }
}

module! {
    struct TransformerBlock(at, args: &ModelArgs, is_local: bool, cap: Option<f32>) {
        input_layernorm: Norm = args.norm(at),
        self_attn: Attention = Attention::new(at, args, is_local, cap)?,
        post_attention_layernorm: Norm = args.norm(at),
        pre_feedforward_layernorm: Norm = args.norm(at),
        mlp: Mlp = Mlp::new(at, args.hidden_size, args.intermediate_size, false, Gate::GeluTanh)?,
        post_feedforward_layernorm: Norm = args.norm(at),
    } with {}
}

impl Block for TransformerBlock {
    fn forward(&self, x: &Array, layer: usize, context: &mut Context<'_>) -> Result<Array> {
        let attended = self.self_attn.forward(&self.input_layernorm.forward(x)?, layer, context)?;
        let h = x.add(self.post_attention_layernorm.forward(&attended)?)?;
        let inner = self.mlp.forward(&self.pre_feedforward_layernorm.forward(&h)?)?;
        Ok(h.add(self.post_feedforward_layernorm.forward(&inner)?)?)
    }
}

/// Builds the model that `config.json` describes.
pub(crate) fn build(builder: &Builder<'_>) -> Result<Built, String> {
    let args: ModelArgs = builder.args()?;
    let types = args.layer_types.as_deref();
    let local_layers = local_layers(args.num_hidden_layers, types, |layer| layer.is_multiple_of(2))?;
    let score_cap = cap(builder, "attn_logit_softcapping", args.attn_logit_softcapping, 50.0);
    let backbone = BackboneArgs {
        vocab_size: args.vocab_size,
        hidden_size: args.hidden_size,
        layers: local_layers.len(),
        norm: NormKind::RmsAboveOne,
        eps: args.rms_norm_eps,
        window: args.sliding_window,
        embedding_scale: Some((args.hidden_size as f32).sqrt()),
    };
    let block =
        |at: &Builder<'_>, index: usize| TransformerBlock::new(at, &args, local_layers[index], score_cap);
    Ok(Built {
        decoder: Box::new(Backbone::new(&builder.at("model"), &backbone, &block)?),
        hidden_size: args.hidden_size,
        vocabulary: args.vocab_size,
        tied: Some(true),
        softcap: cap(builder, "final_logit_softcapping", args.final_logit_softcapping, 30.0),
        logit_scale: None,
    })
}
