//! How much memory a run will take, before it starts: from sizes alone. Measured runs took 0.8 to 1.3 times as much
//! (`docs/experiments.md`).

use std::fmt;

use failure::{Error, Result};
use mlx_ext::Backend;
use serde_json::Value;
use tuner::{FineTuneType, OptimizerName};

use crate::config::Config;
use crate::inputs::Inputs;

/// A block that is computed again has its inner values, their gradients and what runs ahead in memory at once: about as
/// much as so many blocks keep otherwise.
const RECOMPUTED_LAYERS: usize = 7;

/// What a run will hold at its peak, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// The model's weights.
    pub weights: usize,
    /// Parameters that train, their gradients and the optimizer's state.
    pub trained: usize,
    /// What the forward pass keeps for the backward pass.
    pub activations: usize,
    /// A chunk of logits and its gradient.
    pub head: usize,
}

impl Estimate {
    /// Estimates a run over the longest rows of the training split.
    ///
    /// # Errors
    ///
    /// Fails when the model's `config.json` or the split cannot be read.
    pub fn new(inputs: &Inputs<'_>, config: &Config, backend: &Backend) -> Result<Self> {
        let text = fs_err::read_to_string(inputs.model.join("config.json"))?;
        let config_json = serde_json::from_str(&text).map_err(Error::bad_input)?;
        let shape = Shape::of(&config_json);
        let split = inputs.open_split("train")?;
        let longest = (0..split.len()).map(|row| split.row_length(row)).max().unwrap_or(1);
        Ok(Self::of(&shape, longest, config, backend))
    }

    fn of(shape: &Shape, longest: usize, config: &Config, backend: &Backend) -> Self {
        let float = if config.dtype.name(backend) == "float32" { 4 } else { 2 };
        let length = if config.pack_tokens > 0 { config.pack_tokens } else { longest };
        let length = length.next_multiple_of(config.pad_to);
        let tokens = config.batch_size * length;
        let trained_layers =
            if config.num_layers > 0 { config.num_layers.min(shape.layers) } else { shape.layers };

        let trained = shape.trained(config, trained_layers);
        // Weights that train are there once, as parameters.
        let moved = if config.fine_tune_type == FineTuneType::Full { trained } else { 0 };
        let dense = shape.parameters().saturating_sub(moved) * float;
        let packed = shape.bits.map_or(0, |bits| shape.parameters() * (bits + 1) / 8);
        let weights = match shape.bits {
            Some(_) if backend.is_gpu() => packed,
            Some(_) => dense + packed,
            None => dense,
        };
        let moments = match config.optimizer {
            OptimizerName::Adam | OptimizerName::Adamw => 2,
            OptimizerName::Lion | OptimizerName::Muon => 1,
            OptimizerName::Sgd => usize::from(config.momentum > 0.0),
            OptimizerName::Adafactor => 0,
        };
        let scores = 3 * config.batch_size * shape.heads * length * length;
        let kept = tokens * (10 * shape.width + 4 * shape.attention + 6 * shape.inner) + scores;
        let recomputed = config.gradient_checkpointing;
        let kept_layers = if recomputed { trained_layers.min(RECOMPUTED_LAYERS) } else { trained_layers };
        let between = tokens * shape.width * trained_layers;
        let rows = tokens.min(((1 << 24) / shape.vocabulary.max(1)).max(64));
        Self {
            weights,
            trained: 4 * (2 + moments) * trained,
            // Not all is kept: much is freed on the way, or made in the place of what it is made of.
            activations: float * (kept * kept_layers + between) * 3 / 5,
            head: 2 * 4 * rows * shape.vocabulary,
        }
    }

    /// All together.
    pub fn total(&self) -> usize {
        self.weights + self.trained + self.activations + self.head
    }

    /// Whether the run cannot fit into `limit`, however wrong the estimate is.
    fn is_hopeless(&self, limit: usize) -> bool {
        self.weights + self.trained + self.head + self.activations / 2 > limit
    }

    /// Fails when the run cannot fit into `limit`, and warns when it may not.
    ///
    /// # Errors
    ///
    /// Names the settings to change.
    pub fn check(&self, limit: usize) -> Result<()> {
        if self.is_hopeless(limit) {
            let message = format!("the run needs about {self}, but the limit is {}", gigabytes(limit));
            return Err(Error::failed(message).hinted(self.remedy()));
        }
        if self.total() > limit {
            tracing::warn!("memory is tight: about {self} of {}; {}", gigabytes(limit), self.remedy());
        }
        Ok(())
    }

    /// What `--plan` says of a run that may not fit into `limit`.
    pub fn advice(&self, limit: usize) -> Option<String> {
        let verdict = if self.is_hopeless(limit) { "does not fit" } else { "may not fit" };
        (self.total() > limit)
            .then(|| format!("{verdict} into the limit of {}: {}", gigabytes(limit), self.remedy()))
    }

    fn remedy(&self) -> &'static str {
        if self.activations > self.weights.max(self.trained) {
            "lower `batch_size` (raise `accumulation` instead), set gradient_checkpointing = true, lower `max_tokens` \
             of prepare-data or `num_layers`; or raise --max-memory"
        } else if self.trained > self.weights {
            "lower `num_layers` or `rank`, use fine_tune_type = \"lora\" or optimizer = \"adafactor\"; or raise \
             --max-memory"
        } else {
            "use a smaller or quantized model, or dtype = \"bfloat16\"; or raise --max-memory"
        }
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of memory (weights {}, trained state {}, activations {}, head {})",
            gigabytes(self.total()),
            gigabytes(self.weights),
            gigabytes(self.trained),
            gigabytes(self.activations),
            gigabytes(self.head)
        )
    }
}

fn gigabytes(bytes: usize) -> String {
    format!("{:.2} GB", bytes as f64 / 1e9)
}

/// The sizes that matter, from `config.json`.
struct Shape {
    layers: usize,
    width: usize,
    inner: usize,
    heads: usize,
    /// Heads times their width.
    attention: usize,
    /// The same for keys and values.
    key_value: usize,
    vocabulary: usize,
    tied: bool,
    bits: Option<usize>,
}

impl Shape {
    fn of(config: &Value) -> Self {
        let text = config.get("text_config").unwrap_or(config);
        let number = |name: &str| text.get(name).and_then(Value::as_u64).map(|number| number as usize);
        let (width, heads) = (number("hidden_size").unwrap_or(0), number("num_attention_heads").unwrap_or(1));
        let head = number("head_dim").unwrap_or(width / heads.max(1));
        let tied = config.get("tie_word_embeddings").or(text.get("tie_word_embeddings"));
        let is_gemma = config["model_type"].as_str().is_some_and(|name| name.starts_with("gemma"));
        Self {
            layers: number("num_hidden_layers").unwrap_or(0),
            width,
            inner: number("intermediate_size").unwrap_or(4 * width),
            heads,
            attention: heads * head,
            key_value: number("num_key_value_heads").unwrap_or(heads) * head,
            vocabulary: number("vocab_size").unwrap_or(262_144),
            tied: tied.and_then(Value::as_bool).unwrap_or(is_gemma),
            bits: config.pointer("/quantization/bits").and_then(Value::as_u64).map(|bits| bits as usize),
        }
    }

    /// Inputs and outputs of the linear maps of a block, under their usual names.
    fn maps(&self) -> [(&'static str, usize, usize); 7] {
        [
            ("self_attn.q_proj", self.width, self.attention),
            ("self_attn.k_proj", self.width, self.key_value),
            ("self_attn.v_proj", self.width, self.key_value),
            ("self_attn.o_proj", self.attention, self.width),
            ("mlp.gate_proj", self.width, self.inner),
            ("mlp.up_proj", self.width, self.inner),
            ("mlp.down_proj", self.inner, self.width),
        ]
    }

    fn block(&self) -> usize {
        self.maps().iter().map(|(_, inputs, outputs)| inputs * outputs).sum()
    }

    fn table(&self) -> usize {
        self.vocabulary * self.width
    }

    fn parameters(&self) -> usize {
        self.layers * self.block() + self.table() * if self.tied { 1 } else { 2 }
    }

    /// Numbers that train.
    fn trained(&self, config: &Config, layers: usize) -> usize {
        if config.fine_tune_type == FineTuneType::Full {
            let head = usize::from(config.lm_head && !self.tied) + usize::from(config.embeddings);
            return layers * self.block() + head * self.table();
        }
        let adapted = |name: &str| config.keys.is_empty() || config.keys.iter().any(|key| key == name);
        let rank = config.rank.max(1) as usize;
        let block: usize =
            self.maps().iter().filter(|(name, ..)| adapted(name)).map(|(_, i, o)| rank * (i + o)).sum();
        let head = if config.lm_head && !self.tied { rank * (self.width + self.vocabulary) } else { 0 };
        layers * block + head
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn gemma() -> Shape {
        Shape::of(&json!({
            "model_type": "gemma3_text", "hidden_size": 640, "num_hidden_layers": 18, "intermediate_size": 2048,
            "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 262_144,
        }))
    }

    fn cpu() -> Backend {
        Backend { name: "cpu", device: "x86_64".to_owned(), memory_limit: 1 << 30 }
    }

    #[test]
    fn a_model_of_270_million_has_that_many() {
        let millions = gemma().parameters() / 1_000_000;
        assert!((265..=270).contains(&millions), "{millions}");
    }

    #[test]
    fn settings_move_their_part_of_the_estimate() {
        let plain = Config::default();
        let of = |config: &Config| Estimate::of(&gemma(), 512, config, &cpu());
        let full = Config { fine_tune_type: FineTuneType::Full, ..plain.clone() };
        assert!(of(&full).trained > 20 * of(&plain).trained);
        let recomputed = Config { gradient_checkpointing: true, ..plain.clone() };
        assert!(of(&recomputed).activations * 2 < of(&plain).activations);
        let halved = Config { batch_size: 2, ..plain.clone() };
        assert!(of(&plain).activations.abs_diff(of(&halved).activations * 2) <= 2);
        assert!(of(&plain).head < 600_000_000);
    }

    #[test]
    fn what_cannot_fit_names_the_settings_to_change() {
        let config = Config { batch_size: 64, ..Config::default() };
        let estimate = Estimate::of(&gemma(), 2048, &config, &cpu());
        let error = estimate.check(4_000_000_000).expect_err("it does not fit").to_string();
        assert!(error.contains("4.00 GB"), "{error}");
        assert!(estimate.check(usize::MAX).is_ok());
    }
}
