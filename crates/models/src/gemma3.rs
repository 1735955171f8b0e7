//! Gemma 3 text decoder: four norms per block, normalized queries and keys, gated GELU, scaled embeddings; most layers
//! have a sliding window and their own rotation base.
//!
//! Paper: arXiv:2503.19786. Checked against `mlx_lm/models/gemma3_text.py`; golden logits in `tests/golden/gemma3_text`
//! and, for the multimodal folder (text part only), `tests/golden/gemma3`.

use mlx_ext::Result;
use mlx_rs::{Array, Dtype, ops};
use serde::Deserialize;
use serde_json::Value;

use crate::activation::{Activation, ActivationName, GELU_TANH, activation};
use crate::attention::{Context, Scoring, attend, split_heads};
use crate::backbone::{Backbone, BackboneArgs, Block, Built};
use crate::builder::Builder;
use crate::config::local_layers;
use crate::keys::{Keys, Off};
use crate::layers::{Linear, Norm, NormKind, project_all};
use crate::mlp::Mlp;
use crate::module::module;
use crate::rope::{Rope, RopeScaling};
use crate::settings::Settings;

/// Keys of `config.json`. Programs read `hidden_activation`; `hidden_act` is a leftover of Gemma 1.
pub(crate) const KEYS: Keys = Keys {
    followed: &[
        "_sliding_window_pattern",
        "final_logit_softcapping",
        "hidden_act",
        "hidden_activation",
        "layer_types",
        "query_pre_attn_scalar",
        "rope_local_base_freq",
        "rope_parameters",
        "sliding_window",
        "sliding_window_pattern",
    ],
    // transformers reads it and does not apply it; other programs do.
    off: &[Off::only("attn_logit_softcapping", "null")],
};

/// Context in tokens of a `config.json` that does not name it.
const DEFAULT_CONTEXT: u64 = 131_072;

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
    /// Settings per kind of layer, as transformers 5 writes them.
    rope_parameters: Option<RopeParameters>,
    query_pre_attn_scalar: f32,
    sliding_window: i32,
    sliding_window_pattern: usize,
    /// Kind of every layer, which transformers 5 writes instead of a pattern.
    layer_types: Option<Vec<String>>,
    final_logit_softcapping: Option<f32>,
    hidden_activation: Option<ActivationName>,
    tie_word_embeddings: Option<bool>,
}

impl Default for ModelArgs {
    /// Returns the values for settings that a `config.json` leaves out.
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
            sliding_window: 4096,
            sliding_window_pattern: 6,
            layer_types: None,
            final_logit_softcapping: None,
            hidden_activation: None,
            tie_word_embeddings: None,
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
        if new.and_then(|new| new.partial_rotary_factor).is_some_and(|share| share < 1.0) {
            return Err("`partial_rotary_factor` is not supported in `rope_parameters`".to_owned());
        }
        let base = new.and_then(|new| new.rope_theta).unwrap_or(base);
        Rope::new(self.head_dim, base, new.or(scaling))
    }

    fn queries(&self) -> i32 {
        self.num_attention_heads * self.head_dim
    }

    fn keys(&self) -> i32 {
        self.num_key_value_heads * self.head_dim
    }

    fn activation(&self) -> Result<Activation, String> {
        activation(self.hidden_activation.as_ref(), "hidden_activation", GELU_TANH)
    }

    /// Returns for each layer whether it has a window.
    fn local_layers(&self) -> Result<Vec<bool>, String> {
        let is_local = |layer: usize| !(layer + 1).is_multiple_of(self.sliding_window_pattern);
        local_layers(self.num_hidden_layers, self.layer_types.as_deref(), is_local)
    }

    /// Returns whether the head is the token embedding, which a multimodal model may say beside its `text_config`.
    fn tied(&self, builder: &Builder<'_>) -> Option<bool> {
        let outer = || builder.whole_config.get("tie_word_embeddings").and_then(Value::as_bool);
        self.tie_word_embeddings.or_else(outer)
    }

    fn norm(&self, at: &Builder<'_>, width: i32) -> Norm {
        Norm::new(at, NormKind::RmsAboveOne, &[width], self.rms_norm_eps)
    }
}

module! {
    /// Grouped-query attention with normalized queries and keys.
    struct Attention(at, args: &ModelArgs, is_local: bool) {
        q_proj: Linear = Linear::new(at, args.hidden_size, args.queries(), false),
        k_proj: Linear = Linear::new(at, args.hidden_size, args.keys(), false),
        v_proj: Linear = Linear::new(at, args.hidden_size, args.keys(), false),
        o_proj: Linear = Linear::new(at, args.queries(), args.hidden_size, false),
        q_norm: Norm = args.norm(at, args.head_dim),
        k_norm: Norm = args.norm(at, args.head_dim),
    } with {
        rope: Rope = args.rope(is_local)?,
        is_local: bool = is_local,
        heads: i32 = args.num_attention_heads,
        key_value_heads: i32 = args.num_key_value_heads,
        scoring: Scoring = Scoring { scale: args.query_pre_attn_scalar.powf(-0.5), cap: None },
    }
}

impl Attention {
    /// `x [B, L, D]` → `[B, L, D]`.
    fn forward(&self, x: &Array, layer: usize, context: &mut Context<'_>) -> Result<Array> {
        let [queries, keys, values] = project_all(x, [&self.q_proj, &self.k_proj, &self.v_proj])?;
        let queries = split_heads(&queries, self.heads)?;
        let keys = split_heads(&keys, self.key_value_heads)?;
        let values = split_heads(&values, self.key_value_heads)?;
        let queries = self.rope.forward_in(&self.q_norm.forward(&queries)?, context)?;
        let keys = self.rope.forward_in(&self.k_norm.forward(&keys)?, context)?;
        let (keys, values) = context.extend(layer, keys, values)?;
        let attended = attend(&queries, &keys, &values, self.scoring, context.mask(self.is_local))?;
        self.o_proj.forward(&attended)
    }
}

module! {
    struct TransformerBlock(at, args: &ModelArgs, is_local: bool, activation: Activation) {
        input_layernorm: Norm = args.norm(at, args.hidden_size),
        self_attn: Attention = Attention::new(at, args, is_local)?,
        post_attention_layernorm: Norm = args.norm(at, args.hidden_size),
        pre_feedforward_layernorm: Norm = args.norm(at, args.hidden_size),
        mlp: Mlp = Mlp::new(at, args.hidden_size, args.intermediate_size, false, activation)?,
        post_feedforward_layernorm: Norm = args.norm(at, args.hidden_size),
    } with {}
}

impl Block for TransformerBlock {
    fn forward(&self, x: &Array, layer: usize, context: &mut Context<'_>) -> Result<Array> {
        let attended = self.self_attn.forward(&self.input_layernorm.forward(x)?, layer, context)?;
        let h = add(x, &self.post_attention_layernorm.forward(&attended)?)?;
        let inner = self.mlp.forward(&self.pre_feedforward_layernorm.forward(&h)?)?;
        add(&h, &self.post_feedforward_layernorm.forward(&inner)?)
    }
}

/// Returns x + y, clipped to the range of `f16` if that is their type: the residual stream of these models is wide.
fn add(x: &Array, y: &Array) -> Result<Array> {
    if x.dtype() != Dtype::Float16 {
        return Ok(x.add(y)?);
    }
    let sum = x.as_dtype(Dtype::Float32)?.add(y.as_dtype(Dtype::Float32)?)?;
    let largest = half::f16::MAX.to_f32();
    let clipped = ops::clip(&sum, (Array::from_f32(-largest), Array::from_f32(largest)))?;
    Ok(clipped.as_dtype(Dtype::Float16)?)
}

/// Builds the model that `config.json` describes.
pub(crate) fn build(builder: &Builder<'_>) -> Result<Built, String> {
    assemble(builder, &builder.args()?)
}

/// Builds the text part of a multimodal model.
pub(crate) fn build_multimodal(builder: &Builder<'_>) -> Result<Built, String> {
    assemble(builder, &multimodal_args(builder)?)
}

/// Returns the settings of the model that `config.json` describes.
pub(crate) fn settings(builder: &Builder<'_>) -> Result<Settings, String> {
    settings_of(builder, &builder.args()?)
}

/// Returns the settings of the text part of a multimodal model.
pub(crate) fn settings_multimodal(builder: &Builder<'_>) -> Result<Settings, String> {
    settings_of(builder, &multimodal_args(builder)?)
}

/// Reads a `text_config`, which has other defaults than the settings of a text model.
fn multimodal_args(builder: &Builder<'_>) -> Result<ModelArgs, String> {
    let mut args: ModelArgs = builder.args()?;
    let number = |table: &Value, name: &str| -> Result<Option<i32>, String> {
        let Some(found) = table.get(name).and_then(Value::as_i64) else { return Ok(None) };
        i32::try_from(found).map(Some).map_err(|_| format!("`{name}` is {found}, which is too large"))
    };
    let text = builder.config;
    args.num_attention_heads = number(text, "num_attention_heads")?.unwrap_or(8);
    args.num_key_value_heads = number(text, "num_key_value_heads")?.unwrap_or(4);
    args.vocab_size =
        number(builder.whole_config, "vocab_size")?.or(number(text, "vocab_size")?).unwrap_or(262_208);
    Ok(args)
}

fn settings_of(builder: &Builder<'_>, args: &ModelArgs) -> Result<Settings, String> {
    Ok(Settings {
        hidden_size: args.hidden_size,
        intermediate_size: args.intermediate_size,
        heads: args.num_attention_heads,
        key_value_heads: args.num_key_value_heads,
        head_dim: args.head_dim,
        vocabulary: args.vocab_size,
        eps: args.rms_norm_eps,
        activation: args.activation()?.name(),
        query_scalar: args.query_pre_attn_scalar,
        rope: args.rope(false)?.rotary(),
        local_rope: args.rope(true)?.rotary(),
        window: Some(args.sliding_window),
        local_layers: args.local_layers()?,
        output_bias: false,
        softcap: args.final_logit_softcapping,
        tied: args.tied(builder),
        context: builder.context().or(Some(DEFAULT_CONTEXT)),
    })
}

fn assemble(builder: &Builder<'_>, args: &ModelArgs) -> Result<Built, String> {
    let local_layers = args.local_layers()?;
    let backbone = BackboneArgs {
        vocab_size: args.vocab_size,
        hidden_size: args.hidden_size,
        layers: local_layers.len(),
        norm: NormKind::RmsAboveOne,
        eps: args.rms_norm_eps,
        window: Some(args.sliding_window),
        // The reference keeps this factor in `bfloat16`, whatever the model computes in.
        embedding_scale: Some(half::bf16::from_f32((args.hidden_size as f32).sqrt()).to_f32()),
    };
    let activation = args.activation()?;
    let block =
        |at: &Builder<'_>, index: usize| TransformerBlock::new(at, args, local_layers[index], activation);
    Ok(Built {
        decoder: Box::new(Backbone::new(&builder.at("model"), &backbone, &block)?),
        hidden_size: args.hidden_size,
        vocabulary: args.vocab_size,
        tied: args.tied(builder),
        softcap: args.final_logit_softcapping,
        logit_scale: None,
    })
}
