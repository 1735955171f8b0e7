//! Phi 3, 3.5 and 4 decoder: as Llama's, with queries, keys and values in one matrix, gate and up in another, and a
//! rotation of only part of each head (Phi 4 mini).
//!
//! Paper: arXiv:2404.14219. Checked against `mlx_lm/models/phi3.py`; golden logits in `tests/golden/phi3` and
//! `tests/golden/phi3-longrope`.
//! Differs from it: `sliding_window` applies. Rows that fit into the window give the same result.

use mlx_ext::Result;
use mlx_rs::Array;
use serde::Deserialize;

use crate::activation::{Activation, ActivationName, SILU, activation};
use crate::attention::{Context, Scoring, attend, split_heads};
use crate::backbone::{Backbone, BackboneArgs, Block, Built};
use crate::builder::Builder;
use crate::keys::{Keys, Off};
use crate::layers::{Linear, Norm, NormKind};
use crate::module::module;
use crate::rope::{Rope, RopeScaling};

/// Keys of `config.json`.
pub(crate) const KEYS: Keys = Keys {
    followed: &["hidden_act", "partial_rotary_factor", "sliding_window"],
    off: &[Off::only("full_attn_mod", "1"), Off::only("interpolate_factor", "1"), Off::no("lm_head_bias")],
};

#[derive(Debug, Clone, Deserialize)]
struct ModelArgs {
    hidden_size: i32,
    num_hidden_layers: usize,
    intermediate_size: i32,
    num_attention_heads: i32,
    num_key_value_heads: Option<i32>,
    head_dim: Option<i32>,
    hidden_act: Option<ActivationName>,
    vocab_size: i32,
    rms_norm_eps: f32,
    #[serde(default = "default_rope_theta")]
    rope_theta: f32,
    rope_scaling: Option<RopeScaling>,
    #[serde(default = "default_partial_rotary_factor")]
    partial_rotary_factor: f32,
    original_max_position_embeddings: Option<f32>,
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

impl ModelArgs {
    fn key_value_heads(&self) -> i32 {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    fn head_dim(&self) -> i32 {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    /// Returns the width of all queries.
    fn queries(&self) -> i32 {
        self.num_attention_heads * self.head_dim()
    }

    /// Returns the width of all keys, which is that of all values.
    fn keys(&self) -> i32 {
        self.key_value_heads() * self.head_dim()
    }

    fn rope(&self) -> Result<Rope, String> {
        let rotated = (self.head_dim() as f32 * self.partial_rotary_factor) as i32;
        // transformers takes the types of older files, `su` and `yarn`, for longrope here.
        let scaling = self.rope_scaling.as_ref().map(|it| it.of_phi3(self.original_max_position_embeddings));
        Rope::new(rotated, self.rope_theta, scaling.as_ref())
    }

    fn norm(&self, at: &Builder<'_>) -> Norm {
        Norm::new(at, NormKind::Rms, &[self.hidden_size], self.rms_norm_eps)
    }
}

module! {
    /// Grouped-query attention with queries, keys and values in one matrix.
    struct Attention(at, args: &ModelArgs) {
        qkv_proj: Linear = Linear::new(at, args.hidden_size, args.queries() + 2 * args.keys(), false),
        o_proj: Linear = Linear::new(at, args.queries(), args.hidden_size, false),
    } with {
        rope: Rope = args.rope()?,
        heads: i32 = args.num_attention_heads,
        key_value_heads: i32 = args.key_value_heads(),
        /// Where keys and values start in the output of `qkv_proj`.
        cuts: [i32; 2] = [args.queries(), args.queries() + args.keys()],
        scoring: Scoring = Scoring { scale: (args.head_dim() as f32).powf(-0.5), cap: None },
    }
}

impl Attention {
    /// `x [B, L, D]` → `[B, L, D]`.
    fn forward(&self, x: &Array, layer: usize, context: &mut Context<'_>) -> Result<Array> {
        let parts = self.qkv_proj.forward(x)?.split_at_indices(&self.cuts, -1)?;
        let queries = split_heads(&parts[0], self.heads)?;
        let keys = split_heads(&parts[1], self.key_value_heads)?;
        let values = split_heads(&parts[2], self.key_value_heads)?;
        let queries = self.rope.forward_in(&queries, context)?;
        let keys = self.rope.forward_in(&keys, context)?;
        let (keys, values) = context.extend(layer, keys, values)?;
        let attended = attend(&queries, &keys, &values, self.scoring, context.mask(true))?;
        self.o_proj.forward(&attended)
    }
}

module! {
    /// Gated layer with gate and up in one matrix.
    struct Mlp(at, width: i32, inner: i32, activation: Activation) {
        gate_up_proj: Linear = Linear::new(at, width, 2 * inner, false),
        down_proj: Linear = Linear::new(at, inner, width, false),
    } with {
        activation: Activation = activation,
    }
}

impl Mlp {
    /// `x [B, L, D]` → `[B, L, D]`.
    fn forward(&self, x: &Array) -> Result<Array> {
        let parts = self.gate_up_proj.forward(x)?.split_equal(2, -1)?;
        self.activation.gate_into(&parts[0], &parts[1], &self.down_proj)
    }
}

module! {
    struct TransformerBlock(at, args: &ModelArgs, activation: Activation) {
        input_layernorm: Norm = args.norm(at),
        self_attn: Attention = Attention::new(at, args)?,
        post_attention_layernorm: Norm = args.norm(at),
        mlp: Mlp = Mlp::new(at, args.hidden_size, args.intermediate_size, activation)?,
    } with {}
}

impl Block for TransformerBlock {
    fn forward(&self, x: &Array, layer: usize, context: &mut Context<'_>) -> Result<Array> {
        let h = x.add(self.self_attn.forward(&self.input_layernorm.forward(x)?, layer, context)?)?;
        Ok(h.add(self.mlp.forward(&self.post_attention_layernorm.forward(&h)?)?)?)
    }
}

/// Builds the model that `config.json` describes.
pub(crate) fn build(builder: &Builder<'_>) -> Result<Built, String> {
    let args: ModelArgs = builder.args()?;
    let backbone = BackboneArgs {
        vocab_size: args.vocab_size,
        hidden_size: args.hidden_size,
        layers: args.num_hidden_layers,
        norm: NormKind::Rms,
        eps: args.rms_norm_eps,
        window: args.sliding_window,
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
        logit_scale: None,
    })
}
