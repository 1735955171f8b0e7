//! Nomic's BERT: rotary positions, a gated feed-forward layer, no biases, norms after every part.
//!
//! Paper: arXiv:2402.01613. Checked against transformers; vectors in `tests/encoders/nomic-bert/`.
//! Differs from it: the keys of the first published `config.json` are read too, and rows are not padded.

use mlx_ext::Result;
use mlx_rs::Array;
use mlx_rs::ops::split_equal;
use serde::Deserialize;
use serde_json::Value;

use crate::activation::{Activation, ActivationName, SILU};
use crate::attention::Offset;
use crate::builder::Builder;
use crate::keys::{Keys, Off};
use crate::layer_norm::LayerNorm;
use crate::layers::{Embedding, Linear};
use crate::network::{Network, Rows};
use crate::rope::Rope;

pub(crate) const KEYS: Keys = Keys {
    followed: &[
        "activation_function",
        "attention_probs_dropout_prob",
        "classifier_dropout",
        "dense_seq_output",
        "fused_bias_fc",
        "fused_dropout_add_ln",
        "hidden_act",
        "hidden_dropout_prob",
        "layer_norm_eps",
        "layer_norm_epsilon",
        "max_trained_positions",
        "mlp_checkpoint_lvl",
        "n_embd",
        "n_head",
        "n_inner",
        "n_layer",
        "n_positions",
        "pad_vocab_size_multiple",
        "rotary_emb_base",
        "rotary_emb_scale_base",
        "scale_attn_weights",
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
        "type_vocab_size",
        "use_flash_attn",
        "use_xentropy",
        "vocab_size",
    ],
    off: &[
        Off::no("causal"),
        Off::no("mlp_fc1_bias"),
        Off::no("mlp_fc2_bias"),
        Off::no("parallel_block"),
        Off::no("parallel_block_tied_norm"),
        Off::no("prenorm"),
        Off::no("qkv_proj_bias"),
        Off::no("reorder_and_upcast_attn"),
        Off::no("rotary_emb_interleaved"),
        Off::no("scale_attn_by_inverse_layer_idx"),
        Off::no("use_rms_norm"),
        Off::only("rotary_emb_fraction", "1.0"),
        Off::only("rotary_scaling_factor", "1.0"),
    ],
};

#[derive(Debug, Clone, Deserialize)]
struct ModelArgs {
    #[serde(alias = "n_embd")]
    hidden_size: i32,
    #[serde(alias = "n_layer")]
    num_hidden_layers: usize,
    #[serde(alias = "n_inner")]
    intermediate_size: i32,
    #[serde(alias = "n_head")]
    num_attention_heads: i32,
    vocab_size: i32,
    type_vocab_size: i32,
    #[serde(alias = "n_positions")]
    max_position_embeddings: i32,
    #[serde(alias = "layer_norm_epsilon")]
    layer_norm_eps: f32,
    #[serde(alias = "rotary_emb_base")]
    rope_theta: f32,
    rope_scaling: Option<Value>,
    hidden_act: Option<ActivationName>,
    activation_function: Option<String>,
}

impl ModelArgs {
    /// Returns the activation of the gate.
    fn activation(&self) -> Result<Activation, String> {
        match (&self.hidden_act, self.activation_function.as_deref()) {
            (Some(name), None) => name.function("hidden_act"),
            (None, Some("swiglu")) => Ok(SILU),
            (None, Some(other)) => {
                Err(format!("`activation_function` is `{other}`; only swiglu is supported"))
            }
            _ => Err("one of `hidden_act` and `activation_function` must be set".to_owned()),
        }
    }
}

struct TransformerBlock {
    qkv: Linear,
    out_proj: Linear,
    /// The plain half of the feed-forward layer.
    fc11: Linear,
    /// The half with the activation.
    fc12: Linear,
    fc2: Linear,
    norm1: LayerNorm,
    norm2: LayerNorm,
    activation: Activation,
    heads: i32,
    rope: Rope,
}

impl TransformerBlock {
    fn new(at: &Builder<'_>, args: &ModelArgs) -> Result<Self, String> {
        let (width, inner) = (args.hidden_size, args.intermediate_size);
        let linear = |part: &str, name: &str, inputs, outputs| {
            Linear::new(&at.at(part).at(name), inputs, outputs, false)
        };
        let norm = |name: &str| LayerNorm::new(&at.at(name), width, args.layer_norm_eps);
        Ok(Self {
            qkv: linear("attn", "Wqkv", width, 3 * width),
            out_proj: linear("attn", "out_proj", width, width),
            fc11: linear("mlp", "fc11", width, inner),
            fc12: linear("mlp", "fc12", width, inner),
            fc2: linear("mlp", "fc2", inner, width),
            norm1: norm("norm1"),
            norm2: norm("norm2"),
            activation: args.activation()?,
            heads: args.num_attention_heads,
            rope: Rope::new(width / args.num_attention_heads, args.rope_theta, None)?,
        })
    }

    /// `x [T, D]` → `[T, D]`.
    fn forward(&self, x: &Array, rows: &Rows) -> Result<Array> {
        let parts = split_equal(&self.qkv.forward(x)?, 3, 1)?;
        let [queries, keys, values]: [Array; 3] =
            parts.try_into().unwrap_or_else(|_| unreachable!("a third each"));
        let projected = [self.rotated(&queries, rows)?, self.rotated(&keys, rows)?, values];
        let x = &self.norm1.after(&self.out_proj, &rows.attend(&projected, self.heads)?, x)?;
        let inner = self.activation.gate(&self.fc12.forward(x)?, &self.fc11.forward(x)?)?;
        self.norm2.after(&self.fc2, &inner, x)
    }

    /// Rotates all heads by the positions of their tokens: `[T, D]` → `[T, D]`.
    fn rotated(&self, x: &Array, rows: &Rows) -> Result<Array> {
        let (tokens, width) = (x.dim(0), x.dim(1));
        let heads = x.reshape(&[1, tokens, self.heads, width / self.heads])?.transpose_axes(&[0, 2, 1, 3])?;
        let rotated = self.rope.forward(&heads, &Offset::PerToken(rows.positions().clone()))?;
        Ok(rotated.transpose_axes(&[0, 2, 1, 3])?.reshape(&[tokens, width])?)
    }
}

/// The encoder.
struct NomicBert {
    word_embeddings: Embedding,
    token_type_embeddings: Embedding,
    norm: LayerNorm,
    layers: Vec<TransformerBlock>,
    vocabulary: i32,
    positions: i32,
}

impl Network for NomicBert {
    fn vocabulary(&self) -> i32 {
        self.vocabulary
    }

    fn max_tokens(&self) -> usize {
        self.positions as usize
    }

    fn hidden(&self, rows: &Rows) -> Result<Array> {
        let words = self.word_embeddings.forward(rows.tokens())?;
        let kind = self.token_type_embeddings.forward(&Array::from_slice(&[0], &[1]))?;
        let mut x = self.norm.forward(&words.add(kind)?)?;
        for layer in &self.layers {
            x = layer.forward(&x, rows)?;
        }
        Ok(x)
    }
}

/// Builds the encoder that `config.json` describes.
pub(crate) fn build(builder: &Builder<'_>) -> Result<Box<dyn Network>, String> {
    let args: ModelArgs = builder.args()?;
    if args.num_attention_heads < 1 || args.hidden_size % args.num_attention_heads != 0 {
        return Err("the width is not a multiple of the number of heads".to_owned());
    }
    if args.max_position_embeddings < 1 {
        return Err(format!(
            "the number of positions is {}, expected at least 1",
            args.max_position_embeddings
        ));
    }
    if let Some(kind) = args.rope_scaling.as_ref().and_then(|rope| rope["rope_type"].as_str())
        && kind != "default"
    {
        return Err(format!("rope scaling `{kind}` is not supported (supported: default)"));
    }
    let at = builder.at("embeddings");
    let table = |name: &str, rows: i32| Embedding::new(&at.at(name), rows, args.hidden_size);
    let encoder = builder.at("encoder").at("layers");
    let layers = (0..args.num_hidden_layers)
        .map(|index| TransformerBlock::new(&encoder.at(&index.to_string()), &args));
    Ok(Box::new(NomicBert {
        word_embeddings: table("word_embeddings", args.vocab_size),
        token_type_embeddings: table("token_type_embeddings", args.type_vocab_size),
        norm: LayerNorm::new(&builder.at("emb_ln"), args.hidden_size, args.layer_norm_eps),
        layers: layers.collect::<Result<_, String>>()?,
        vocabulary: args.vocab_size,
        positions: args.max_position_embeddings,
    }))
}
