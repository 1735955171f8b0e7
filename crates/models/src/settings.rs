//! What a decoder computes, apart from its weights, for formats that must say the same in other words.

use crate::rope::Rotary;

/// Largest relative difference of two numbers that count as equal: some formats store numbers that these follow from.
const TOLERANCE: f32 = 2e-5;

/// Settings of a decoder: those of its `config.json`, with the defaults of its architecture.
///
/// The decoder is built from the same values.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Width of the residual stream, D.
    pub hidden_size: i32,
    /// Width inside the feed-forward layers.
    pub intermediate_size: i32,
    /// Query heads, H.
    pub heads: i32,
    /// Key-value heads, K.
    pub key_value_heads: i32,
    /// Width of a head.
    pub head_dim: i32,
    /// Rows of the embedding, V.
    pub vocabulary: i32,
    /// Number that the norms add to the mean square.
    pub eps: f32,
    /// Activation of the feed-forward layers, by one name for each formula: `silu`, `gelu`, `gelu_pytorch_tanh` …
    pub activation: &'static str,
    /// Number whose root divides the scores of the attention.
    pub query_scalar: f32,
    /// Rotation in layers that see all tokens.
    pub rope: Rotary,
    /// Rotation in layers with a window.
    pub local_rope: Rotary,
    /// Number of tokens that layers with a window see; `None` for all.
    pub window: Option<i32>,
    /// Whether a layer has the window, for each layer.
    pub local_layers: Vec<bool>,
    /// Whether the outputs of the attention have a bias.
    pub output_bias: bool,
    /// logits → cap · tanh(logits / cap).
    pub softcap: Option<f32>,
    /// Whether the head is the token embedding; `None` if that depends on whether the weights have a head.
    pub tied: Option<bool>,
    /// Number of positions that the model was made for, if it is known.
    pub context: Option<u64>,
}

impl Settings {
    /// Returns the number of blocks.
    pub fn layers(&self) -> usize {
        self.local_layers.len()
    }

    /// Returns whether a layer has a window that is shorter than `context` tokens.
    pub fn has_window(&self, context: u64) -> bool {
        (0..self.layers()).any(|layer| self.window_of(layer, context).is_some())
    }

    /// Returns the window of a layer, unless it is as long as `context`.
    fn window_of(&self, layer: usize, context: u64) -> Option<i32> {
        self.window.filter(|&window| self.local_layers[layer] && (window as u64) < context)
    }

    fn rope_of(&self, layer: usize) -> &Rotary {
        if self.local_layers[layer] { &self.local_rope } else { &self.rope }
    }

    /// Returns the keys of `config.json` that give the two decoders other results in rows of at most `context` tokens.
    ///
    /// Which numbers of a head form a pair is left to the comparison of weights.
    pub fn differences(&self, other: &Self, context: u64) -> Vec<&'static str> {
        let sizes = |it: &Self| {
            [it.hidden_size, it.intermediate_size, it.heads, it.key_value_heads, it.head_dim, it.vocabulary]
        };
        let names = [
            "hidden_size",
            "intermediate_size",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "vocab_size",
        ];
        let sizes = names.into_iter().zip(sizes(self).into_iter().zip(sizes(other)));
        let sizes = sizes.map(|(name, (one, another))| (name, one == another));
        let caps = match (self.softcap, other.softcap) {
            (Some(one), Some(another)) => is_close(one, another),
            (one, another) => one.is_none() && another.is_none(),
        };
        let has_layers = self.layers() == other.layers();
        let each_layer = |is_same: &dyn Fn(usize) -> bool| !has_layers || (0..self.layers()).all(is_same);
        let others = [
            ("num_hidden_layers", has_layers),
            ("rms_norm_eps", is_close(self.eps, other.eps)),
            ("hidden_act", self.activation == other.activation),
            ("query_pre_attn_scalar", is_close(self.query_scalar, other.query_scalar)),
            ("final_logit_softcapping", caps),
            (
                "sliding_window",
                each_layer(&|layer| self.window_of(layer, context) == other.window_of(layer, context)),
            ),
            ("rope_scaling", each_layer(&|layer| self.rope_of(layer).rotates_as(other.rope_of(layer)))),
        ];
        sizes.chain(others).filter(|(_, is_same)| !is_same).map(|(name, _)| name).collect()
    }
}

impl Rotary {
    /// Returns whether another rotation has the same angles and factor.
    fn rotates_as(&self, other: &Self) -> bool {
        self.dimensions == other.dimensions
            && is_close(self.magnitude, other.magnitude)
            && self.frequencies.iter().zip(&other.frequencies).all(|(one, another)| is_close(*one, *another))
    }
}

fn is_close(one: f32, another: f32) -> bool {
    (one - another).abs() <= TOLERANCE * one.abs().max(another.abs())
}
