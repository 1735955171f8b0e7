//! Cohere decoder (Command R, Aya): layer norm without bias, attention and feed-forward layer in parallel in a block,
//! rotation of neighbouring dimensions, scaled logits.
//!
//! Paper: arXiv:2405.15032 (Aya 23). Checked against `mlx_lm/models/cohere.py`; golden logits in `tests/golden/cohere`
//! and `tests/golden/cohere-qk-norm`.

use mlx_ext::Result;
use mlx_rs::Array;
use serde::Deserialize;

use crate::activation::{Activation, ActivationName, SILU, activation};
use crate::attention::{Context, Scoring, attend, split_heads};
use crate::backbone::{Backbone, BackboneArgs, Block, Built};
use crate::builder::Builder;
use crate::keys::{Keys, Off};
use crate::layers::{Linear, Norm, NormKind, project_all};
use crate::mlp::Mlp;
use crate::module::module;
use crate::rope::{Rope, RopeScaling};

/// Keys of `config.json`.
pub(crate) const KEYS: Keys = Keys {
    followed: &["hidden_act", "layer_norm_eps", "logit_scale", "use_parallel_embedding", "use_qk_norm"],
    off: &[
        // No published model has such biases.
        Off::no("layer_norm_bias"),
        Off::only("position_embedding_type", "\"rope_gptj\""),
        Off::only("use_embedding_sharing", "true"),
        Off::only("use_gated_activation", "true"),
        Off::only("use_parallel_block", "true"),
    ],
};

#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
struct ModelArgs {
    hidden_size: i32,
    num_hidden_layers: usize,
    intermediate_size: i32,
    num_attention_heads: i32,
    num_key_value_heads: Option<i32>,
    head_dim: Option<i32>,
    hidden_act: Option<ActivationName>,
    rope_theta: Option<f32>,
    rope_scaling: Option<RopeScaling>,
    vocab_size: i32,
    layer_norm_eps: f32,
    logit_scale: f32,
    attention_bias: bool,
    use_qk_norm: bool,
    tie_word_embeddings: bool,
}

impl Default for ModelArgs {
    /// Returns the values for settings that a `config.json` leaves out.
    fn default() -> Self {
        Self {
            hidden_size: 8192,
            num_hidden_layers: 40,
            intermediate_size: 22_528,
            num_attention_heads: 64,
            num_key_value_heads: None,
            head_dim: None,
            hidden_act: None,
            rope_theta: None,
            rope_scaling: None,
            vocab_size: 256_000,
            layer_norm_eps: 1e-5,
            logit_scale: 0.0625,
            attention_bias: false,
            use_qk_norm: false,
            tie_word_embeddings: true,
        }
    }
}

impl ModelArgs {
    fn key_value_heads(&self) -> i32 {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    fn head_dim(&self) -> i32 {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    /// Returns the rotation. Its base has no default: that of transformers changed, and mlx-lm has another.
    fn rope(&self) -> Result<Rope, String> {
        let base = self.rope_theta.ok_or("`rope_theta` is missing")?;
        Ok(Rope::new(self.head_dim(), base, self.rope_scaling.as_ref())?.interleaved())
    }

    fn queries(&self) -> i32 {
        self.num_attention_heads * self.head_dim()
    }

    fn keys(&self) -> i32 {
        self.key_value_heads() * self.head_dim()
    }

    fn head_norm(&self, at: &Builder<'_>, heads: i32) -> Option<Norm> {
        let shape = [heads, self.head_dim()];
        self.use_qk_norm.then(|| Norm::new(at, NormKind::LayerPerHead, &shape, self.layer_norm_eps))
    }
}

module! {
    /// Grouped-query attention; the norms of queries and keys have separate weights for every head.
    struct Attention(at, args: &ModelArgs) {
        q_proj: Linear = Linear::new(at, args.hidden_size, args.queries(), args.attention_bias),
        k_proj: Linear = Linear::new(at, args.hidden_size, args.keys(), args.attention_bias),
        v_proj: Linear = Linear::new(at, args.hidden_size, args.keys(), args.attention_bias),
        o_proj: Linear = Linear::new(at, args.queries(), args.hidden_size, args.attention_bias),
        q_norm: Option<Norm> = args.head_norm(at, args.num_attention_heads),
        k_norm: Option<Norm> = args.head_norm(at, args.key_value_heads()),
    } with {
        rope: Rope = args.rope()?,
        heads: i32 = args.num_attention_heads,
        key_value_heads: i32 = args.key_value_heads(),
        scoring: Scoring = Scoring { scale: (args.head_dim() as f32).powf(-0.5), cap: None },
    }
}

impl Attention {
    /// `x [B, L, D]` → `[B, L, D]`.
    fn forward(&self, x: &Array, layer: usize, context: &mut Context<'_>) -> Result<Array> {
        let [queries, keys, values] = project_all(x, [&self.q_proj, &self.k_proj, &self.v_proj])?;
        let mut queries = split_heads(&queries, self.heads)?;
        let mut keys = split_heads(&keys, self.key_value_heads)?;
        let values = split_heads(&values, self.key_value_heads)?;
        if let Some(norm) = &self.q_norm {
            queries = norm.forward(&queries)?;
        }
        if let Some(norm) = &self.k_norm {
            keys = norm.forward(&keys)?;
        }
        let queries = self.rope.forward_in(&queries, context)?;
        let keys = self.rope.forward_in(&keys, context)?;
        let (keys, values) = context.extend(layer, keys, values)?;
        let attended = attend(&queries, &keys, &values, self.scoring, context.mask(false))?;
        self.o_proj.forward(&attended)
    }
}

module! {
    struct TransformerBlock(at, args: &ModelArgs, activation: Activation) {
        input_layernorm: Norm = Norm::new(at, NormKind::Layer, &[args.hidden_size], args.layer_norm_eps),
        self_attn: Attention = Attention::new(at, args)?,
        mlp: Mlp = Mlp::new(at, args.hidden_size, args.intermediate_size, false, activation)?,
    } with {}
}

impl Block for TransformerBlock {
    fn forward(&self, x: &Array, layer: usize, context: &mut Context<'_>) -> Result<Array> {
        let normed = self.input_layernorm.forward(x)?;
        let attended = self.self_attn.forward(&normed, layer, context)?;
        Ok(attended.add(self.mlp.forward(&normed)?)?.add(x)?)
    }
}

/// Builds the model that `config.json` describes.
pub(crate) fn build(builder: &Builder<'_>) -> Result<Built, String> {
    let args: ModelArgs = builder.args()?;
    let backbone = BackboneArgs {
        vocab_size: args.vocab_size,
        hidden_size: args.hidden_size,
        layers: args.num_hidden_layers,
        norm: NormKind::Layer,
        eps: args.layer_norm_eps,
        window: None,
        embedding_scale: None,
    };
    let activation = activation(args.hidden_act.as_ref(), "hidden_act", SILU)?;
    let block = |at: &Builder<'_>, _: usize| TransformerBlock::new(at, &args, activation);
    Ok(Built {
        decoder: Box::new(Backbone::new(&builder.at("model"), &backbone, &block)?),
        hidden_size: args.hidden_size,
        vocabulary: args.vocab_size,
        tied: Some(args.tie_word_embeddings),
        softcap: None,
        logit_scale: Some(args.logit_scale),
    })
}
