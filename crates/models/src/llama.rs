//! Llama-family decoder: RMS norm, rotary positions, grouped-query attention, SwiGLU.
//!
//! Papers: arXiv:2302.13971, arXiv:2407.21783 (rope scaling). Checked against `mlx_lm/models/llama.py`; golden logits
//! in `tests/golden/llama` and `tests/golden/llama3-rope`. Covers Llama 2 and 3, Yi, Dolphin, SmolLM and TinyLlama.
//! Mistral, Qwen 2 and Qwen 3 are variations of this decoder: their files turn [`ModelArgs`] into a [`Shape`].

use mlx_ext::Result;
use mlx_rs::Array;
use serde::Deserialize;

use crate::activation::{Activation, ActivationName, SILU, activation};
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

/// Keys of `config.json`. For transformers a `sliding_window` alone means nothing here.
pub(crate) const KEYS: Keys = Keys {
    followed: &[
        "hidden_act",
        "is_llama_config",
        "layer_types",
        "max_window_layers",
        "rope_traditional",
        "sliding_window",
    ],
    off: &[Off::no("rope_interleaved"), Off::no("use_sliding_window")],
};

/// Settings of `config.json` that Llama, Mistral and Qwen share.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ModelArgs {
    pub(crate) hidden_size: i32,
    pub(crate) num_hidden_layers: usize,
    pub(crate) intermediate_size: i32,
    pub(crate) num_attention_heads: i32,
    pub(crate) num_key_value_heads: Option<i32>,
    pub(crate) head_dim: Option<i32>,
    pub(crate) hidden_act: Option<ActivationName>,
    pub(crate) vocab_size: i32,
    pub(crate) rms_norm_eps: f32,
    pub(crate) rope_theta: Option<f32>,
    pub(crate) rope_scaling: Option<RopeScaling>,
    #[serde(default)]
    pub(crate) rope_traditional: bool,
    #[serde(default)]
    pub(crate) attention_bias: bool,
    #[serde(default)]
    pub(crate) mlp_bias: bool,
    pub(crate) sliding_window: Option<i32>,
    pub(crate) layer_types: Option<Vec<String>>,
    pub(crate) tie_word_embeddings: Option<bool>,
}

impl ModelArgs {
    /// Returns the width of a head: an equal share of the model's width, unless `config.json` sets it.
    pub(crate) fn head_width(&self) -> i32 {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    /// Returns the decoder of these settings, given the width of a head and the base of the rotation.
    ///
    /// It has no biases, and no layer has a window.
    ///
    /// # Errors
    ///
    /// Fails when the rope scaling or the activation is not supported.
    pub(crate) fn shape(&self, head_dim: i32, rope_theta: f32) -> Result<Shape, String> {
        let rope = Rope::new(head_dim, rope_theta, self.rope_scaling.as_ref())?;
        Ok(Shape {
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            heads: self.num_attention_heads,
            key_value_heads: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            head_dim,
            vocab_size: self.vocab_size,
            eps: self.rms_norm_eps,
            activation: activation(self.hidden_act.as_ref(), "hidden_act", SILU)?,
            rope: if self.rope_traditional { rope.interleaved() } else { rope },
            biases: Biases::default(),
            head_norms: false,
            window: None,
            local_layers: vec![false; self.num_hidden_layers],
            tied: self.tie_word_embeddings,
        })
    }
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
    pub(crate) activation: Activation,
    pub(crate) rope: Rope,
    pub(crate) biases: Biases,
    /// Whether the queries and keys of every head are normalized.
    pub(crate) head_norms: bool,
    /// Number of tokens that local layers see; `None` for all.
    pub(crate) window: Option<i32>,
    /// Whether a layer is local, for each layer.
    pub(crate) local_layers: Vec<bool>,
    /// Whether the head reads the token embedding; `None` if that depends on whether `lm_head` exists.
    pub(crate) tied: Option<bool>,
}

/// Linear maps that have a bias; by default none.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Biases {
    /// `q_proj`, `k_proj` and `v_proj`.
    pub(crate) inputs: bool,
    /// `o_proj`.
    pub(crate) output: bool,
    /// The maps of the feed-forward layer.
    pub(crate) mlp: bool,
}

impl Shape {
    /// Returns the width of all queries.
    fn queries(&self) -> i32 {
        self.heads * self.head_dim
    }

    /// Returns the width of all keys, which is that of all values.
    fn keys(&self) -> i32 {
        self.key_value_heads * self.head_dim
    }

    /// Returns the settings of the decoder.
    pub(crate) fn settings(&self, builder: &Builder<'_>) -> Settings {
        let rope = self.rope.rotary();
        Settings {
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            heads: self.heads,
            key_value_heads: self.key_value_heads,
            head_dim: self.head_dim,
            vocabulary: self.vocab_size,
            eps: self.eps,
            activation: self.activation.name(),
            query_scalar: self.head_dim as f32,
            local_rope: rope.clone(),
            rope,
            window: self.window,
            local_layers: self.local_layers.clone(),
            output_bias: self.biases.output,
            softcap: None,
            tied: self.tied,
            context: builder.context(),
        }
    }

    fn head_norm(&self, at: &Builder<'_>) -> Option<Norm> {
        self.head_norms.then(|| Norm::new(at, NormKind::Rms, &[self.head_dim], self.eps))
    }

    fn norm(&self, at: &Builder<'_>) -> Norm {
        Norm::new(at, NormKind::Rms, &[self.hidden_size], self.eps)
    }
}

module! {
    /// Grouped-query attention with rotary positions.
    struct Attention(at, shape: &Shape, is_local: bool) {
        q_proj: Linear = Linear::new(at, shape.hidden_size, shape.queries(), shape.biases.inputs),
        k_proj: Linear = Linear::new(at, shape.hidden_size, shape.keys(), shape.biases.inputs),
        v_proj: Linear = Linear::new(at, shape.hidden_size, shape.keys(), shape.biases.inputs),
        o_proj: Linear = Linear::new(at, shape.queries(), shape.hidden_size, shape.biases.output),
        q_norm: Option<Norm> = shape.head_norm(at),
        k_norm: Option<Norm> = shape.head_norm(at),
    } with {
        rope: Rope = shape.rope.clone(),
        is_local: bool = is_local,
        heads: i32 = shape.heads,
        key_value_heads: i32 = shape.key_value_heads,
        scoring: Scoring = Scoring { scale: (shape.head_dim as f32).powf(-0.5), cap: None },
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
        let attended = attend(&queries, &keys, &values, self.scoring, context.mask(self.is_local))?;
        self.o_proj.forward(&attended)
    }
}

module! {
    struct TransformerBlock(at, shape: &Shape, is_local: bool) {
        input_layernorm: Norm = shape.norm(at),
        self_attn: Attention = Attention::new(at, shape, is_local)?,
        post_attention_layernorm: Norm = shape.norm(at),
        mlp: Mlp = Mlp::new(at, shape.hidden_size, shape.intermediate_size, shape.biases.mlp, shape.activation)?,
    } with {}
}

impl Block for TransformerBlock {
    fn forward(&self, x: &Array, layer: usize, context: &mut Context<'_>) -> Result<Array> {
        let h = x.add(self.self_attn.forward(&self.input_layernorm.forward(x)?, layer, context)?)?;
        Ok(h.add(self.mlp.forward(&self.post_attention_layernorm.forward(&h)?)?)?)
    }
}

/// Builds the decoder of a shape.
pub(crate) fn assemble(builder: &Builder<'_>, shape: &Shape) -> Result<Built, String> {
    let args = BackboneArgs {
        vocab_size: shape.vocab_size,
        hidden_size: shape.hidden_size,
        layers: shape.local_layers.len(),
        norm: NormKind::Rms,
        eps: shape.eps,
        window: shape.window,
        embedding_scale: None,
    };
    let block = |at: &Builder<'_>, index: usize| TransformerBlock::new(at, shape, shape.local_layers[index]);
    Ok(Built {
        decoder: Box::new(Backbone::new(&builder.at("model"), &args, &block)?),
        hidden_size: shape.hidden_size,
        vocabulary: shape.vocab_size,
        tied: shape.tied,
        softcap: None,
        logit_scale: None,
    })
}

/// Builds the model that `config.json` describes.
pub(crate) fn build(builder: &Builder<'_>) -> Result<Built, String> {
    assemble(builder, &shape(builder)?)
}

/// Returns the settings of the model that `config.json` describes.
pub(crate) fn settings(builder: &Builder<'_>) -> Result<Settings, String> {
    Ok(shape(builder)?.settings(builder))
}

fn shape(builder: &Builder<'_>) -> Result<Shape, String> {
    let args: ModelArgs = builder.args()?;
    Ok(Shape {
        biases: Biases { inputs: args.attention_bias, output: args.attention_bias, mlp: args.mlp_bias },
        window: args.sliding_window,
        local_layers: local_layers(args.num_hidden_layers, args.layer_types.as_deref(), |_| false)?,
        ..args.shape(args.head_width(), args.rope_theta.unwrap_or(10_000.0))?
    })
}
