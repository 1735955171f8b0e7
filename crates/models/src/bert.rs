//! BERT and XLM-RoBERTa encoders: learned positions, attention in both directions, norms after every part.
//!
//! Papers: arXiv:1810.04805, arXiv:1911.02116. Checked against transformers; vectors in `tests/encoders/bert/`.
//! Differs from it: rows are not padded. The tokens of all rows form one matrix, and only attention looks at single rows.

use mlx_ext::Result;
use mlx_rs::Array;
use serde::Deserialize;

use crate::activation::{Activation, ActivationName};
use crate::builder::Builder;
use crate::infer::{activate, project};
use crate::keys::{Keys, Off};
use crate::layer_norm::LayerNorm;
use crate::layers::{Embedding, Linear};
use crate::network::{Network, Rows};

pub(crate) const KEYS: Keys = Keys {
    followed: &[
        "attention_probs_dropout_prob",
        "classifier_dropout",
        "hidden_act",
        "hidden_dropout_prob",
        "layer_norm_eps",
        "type_vocab_size",
    ],
    off: &[Off::only("position_embedding_type", "\"absolute\"")],
};

#[derive(Debug, Clone, Deserialize)]
struct ModelArgs {
    hidden_size: i32,
    num_hidden_layers: usize,
    intermediate_size: i32,
    num_attention_heads: i32,
    hidden_act: ActivationName,
    vocab_size: i32,
    max_position_embeddings: i32,
    type_vocab_size: i32,
    layer_norm_eps: f32,
    pad_token_id: Option<i32>,
}

/// Attention in both directions.
struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    dense: Linear,
    norm: LayerNorm,
    heads: i32,
}

impl Attention {
    fn new(at: &Builder<'_>, args: &ModelArgs) -> Self {
        let (own, output) = (at.at("self"), at.at("output"));
        let linear = |at: &Builder<'_>| Linear::new(at, args.hidden_size, args.hidden_size, true);
        Self {
            query: linear(&own.at("query")),
            key: linear(&own.at("key")),
            value: linear(&own.at("value")),
            dense: linear(&output.at("dense")),
            norm: LayerNorm::new(&output.at("LayerNorm"), args.hidden_size, args.layer_norm_eps),
            heads: args.num_attention_heads,
        }
    }

    /// `x [T, D]` → `[T, D]`, the tokens of all rows one after the other.
    fn forward(&self, x: &Array, rows: &Rows) -> Result<Array> {
        let projected = [project(&self.query, x)?, project(&self.key, x)?, project(&self.value, x)?];
        let attended = rows.attend(&projected, self.heads)?;
        self.norm.after(&self.dense, &attended, x)
    }
}

struct TransformerBlock {
    attention: Attention,
    intermediate: Linear,
    output: Linear,
    norm: LayerNorm,
    activation: Activation,
}

impl TransformerBlock {
    fn new(at: &Builder<'_>, args: &ModelArgs) -> Result<Self, String> {
        let (width, inner) = (args.hidden_size, args.intermediate_size);
        let output = at.at("output");
        Ok(Self {
            attention: Attention::new(&at.at("attention"), args),
            intermediate: Linear::new(&at.at("intermediate").at("dense"), width, inner, true),
            output: Linear::new(&output.at("dense"), inner, width, true),
            norm: LayerNorm::new(&output.at("LayerNorm"), args.hidden_size, args.layer_norm_eps),
            activation: args.hidden_act.function("hidden_act")?,
        })
    }

    /// `x [T, D]` → `[T, D]`.
    fn forward(&self, x: &Array, rows: &Rows) -> Result<Array> {
        let attended = self.attention.forward(x, rows)?;
        let inner = activate(self.activation, &self.intermediate, &attended)?;
        self.norm.after(&self.output, &inner, &attended)
    }
}

/// The encoder.
struct Bert {
    word_embeddings: Embedding,
    position_embeddings: Embedding,
    token_type_embeddings: Embedding,
    norm: LayerNorm,
    layers: Vec<TransformerBlock>,
    vocabulary: i32,
    /// Number of the first position.
    first_position: i32,
    positions: i32,
}

impl Network for Bert {
    fn vocabulary(&self) -> i32 {
        self.vocabulary
    }

    fn max_tokens(&self) -> usize {
        (self.positions - self.first_position) as usize
    }

    fn hidden(&self, rows: &Rows) -> Result<Array> {
        let words = self.word_embeddings.forward(rows.tokens())?;
        let positions = rows.positions().add(Array::from_int(self.first_position))?;
        let positions = self.position_embeddings.forward(&positions)?;
        // Every token is of the first kind: there is no second text.
        let kind = self.token_type_embeddings.forward(&Array::from_slice(&[0], &[1]))?;
        let mut x = self.norm.forward(&words.add(positions)?.add(kind)?)?;
        for layer in &self.layers {
            x = layer.forward(&x, rows)?;
        }
        Ok(x)
    }
}

/// Builds BERT, whose positions begin at 0.
pub(crate) fn build(builder: &Builder<'_>) -> Result<Box<dyn Network>, String> {
    assemble(builder, |_| 0)
}

/// Builds XLM-RoBERTa, whose positions begin after that of padding.
pub(crate) fn build_roberta(builder: &Builder<'_>) -> Result<Box<dyn Network>, String> {
    assemble(builder, |args| args.pad_token_id.unwrap_or(1).saturating_add(1))
}

fn assemble(
    builder: &Builder<'_>,
    first_position: impl Fn(&ModelArgs) -> i32,
) -> Result<Box<dyn Network>, String> {
    let args: ModelArgs = builder.args()?;
    if args.num_attention_heads < 1 || args.hidden_size % args.num_attention_heads != 0 {
        return Err("`hidden_size` is not a multiple of `num_attention_heads`".to_owned());
    }
    let (first_position, positions) = (first_position(&args), args.max_position_embeddings);
    if first_position < 0 || first_position >= positions {
        return Err(format!(
            "the first position is {first_position} (after `pad_token_id`), but `max_position_embeddings` is {positions}"
        ));
    }
    let at = builder.at("embeddings");
    let table = |name: &str, rows: i32| Embedding::new(&at.at(name), rows, args.hidden_size);
    let encoder = builder.at("encoder").at("layer");
    let layers = (0..args.num_hidden_layers)
        .map(|index| TransformerBlock::new(&encoder.at(&index.to_string()), &args));
    Ok(Box::new(Bert {
        word_embeddings: table("word_embeddings", args.vocab_size),
        position_embeddings: table("position_embeddings", args.max_position_embeddings),
        token_type_embeddings: table("token_type_embeddings", args.type_vocab_size),
        norm: LayerNorm::new(&at.at("LayerNorm"), args.hidden_size, args.layer_norm_eps),
        layers: layers.collect::<Result<_, String>>()?,
        vocabulary: args.vocab_size,
        first_position,
        positions,
    }))
}
