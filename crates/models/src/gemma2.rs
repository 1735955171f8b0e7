//! Gemma 2 decoder: four norms per block, capped attention scores and logits, gated GELU, scaled embeddings, and a
//! sliding window in every other layer.
//!
//! Paper: arXiv:2408.00118. Checked against `mlx_lm/models/gemma2.py`; golden logits in `tests/golden/gemma2`.
//! Differs from it: `sliding_window` applies, to the first layer and every second one after it unless `layer_types`
//! says otherwise. Rows that fit into the window give the same result.

use mlx_ext::Result;
use mlx_rs::Array;
use serde::Deserialize;

use crate::activation::{Activation, ActivationName, GELU_TANH, activation};
use crate::attention::{Context, Scoring, attend, split_heads};
use crate::backbone::{Backbone, BackboneArgs, Block, Built};
use crate::builder::Builder;
use crate::config::{local_layers, or_if_absent};
use crate::keys::Keys;
use crate::layers::{Linear, Norm, NormKind, project_all};
use crate::mlp::Mlp;
use crate::module::module;
use crate::rope::{Rope, RopeScaling};

/// Keys of `config.json`. Programs read `hidden_activation`; `hidden_act` is a leftover of Gemma 1.
pub(crate) const KEYS: Keys = Keys {
    followed: &[
        "attn_logit_softcapping",
        "final_logit_softcapping",
        "hidden_act",
        "hidden_activation",
        "layer_types",
        "query_pre_attn_scalar",
        "sliding_window",
    ],
    off: &[],
};

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
    /// Without a default: that of mlx-lm differs from that of transformers.
    query_pre_attn_scalar: f32,
    hidden_activation: Option<ActivationName>,
    tie_word_embeddings: Option<bool>,
    sliding_window: Option<i32>,
    layer_types: Option<Vec<String>>,
}

fn default_rope_theta() -> f32 {
    10_000.0
}

/// Window of a `config.json` that does not name one.
const DEFAULT_WINDOW: i32 = 4096;

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
        let queries = self.rope.forward_in(&queries, context)?;
        let keys = self.rope.forward_in(&keys, context)?;
        let (keys, values) = context.extend(layer, keys, values)?;
        let attended = attend(&queries, &keys, &values, self.scoring, context.mask(self.is_local))?;
        self.o_proj.forward(&attended)
    }
}

module! {
    struct TransformerBlock(at, args: &ModelArgs, is_local: bool, cap: Option<f32>, activation: Activation) {
        input_layernorm: Norm = args.norm(at),
        self_attn: Attention = Attention::new(at, args, is_local, cap)?,
        post_attention_layernorm: Norm = args.norm(at),
        pre_feedforward_layernorm: Norm = args.norm(at),
        mlp: Mlp = Mlp::new(at, args.hidden_size, args.intermediate_size, false, activation)?,
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
    let config = builder.config;
    let score_cap = or_if_absent(config, "attn_logit_softcapping", args.attn_logit_softcapping, 50.0);
    let activation = activation(args.hidden_activation.as_ref(), "hidden_activation", GELU_TANH)?;
    let backbone = BackboneArgs {
        vocab_size: args.vocab_size,
        hidden_size: args.hidden_size,
        layers: local_layers.len(),
        norm: NormKind::RmsAboveOne,
        eps: args.rms_norm_eps,
        window: or_if_absent(config, "sliding_window", args.sliding_window, DEFAULT_WINDOW),
        embedding_scale: Some((args.hidden_size as f32).sqrt()),
    };
    let block = |at: &Builder<'_>, index: usize| {
        TransformerBlock::new(at, &args, local_layers[index], score_cap, activation)
    };
    Ok(Built {
        decoder: Box::new(Backbone::new(&builder.at("model"), &backbone, &block)?),
        hidden_size: args.hidden_size,
        vocabulary: args.vocab_size,
        tied: Some(args.tie_word_embeddings.unwrap_or(true)),
        softcap: or_if_absent(config, "final_logit_softcapping", args.final_logit_softcapping, 30.0),
        logit_scale: None,
    })
}
