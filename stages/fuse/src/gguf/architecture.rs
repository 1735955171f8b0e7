//! Tensor names and settings of the architectures that can be written as GGUF.

use failure::Result;
use gguf::{GEMMA_LAYERS, LAYERS, Storage};
use models::{TensorFiles, canonical_name};
use serde_json::Value;

use super::header::{Datum, Metadata};
use super::{Change, Gguf, Tensor, WITHOUT_GGUF, missing, unsupported};

/// Supported values of `model_type`, each with the architecture's name in llama.cpp.
const ARCHITECTURES: [(&str, &str); 6] = [
    ("gemma3", "gemma3"),
    ("gemma3_text", "gemma3"),
    ("llama", "llama"),
    ("mistral", "llama"),
    ("qwen2", "qwen2"),
    ("qwen3", "qwen3"),
];

/// Returns the name of a tensor within the text model, given its canonical name.
pub(super) fn text_name(canonical: &str) -> &str {
    canonical.strip_prefix("language_model.").unwrap_or(canonical)
}

/// An architecture with the settings of one model.
pub(super) struct Architecture<'a> {
    name: &'static str,
    /// The text model's part of `config.json`.
    config: &'a Value,
    heads: u64,
    key_heads: u64,
    head_dim: u64,
}

impl<'a> Architecture<'a> {
    pub(super) fn new(config: &'a Value) -> Result<Self> {
        let model_type = config["model_type"].as_str().unwrap_or("(none)");
        let Some((_, name)) = ARCHITECTURES.into_iter().find(|(known, _)| *known == model_type) else {
            let known = ARCHITECTURES.map(|(known, _)| format!("`{known}`")).join(", ");
            return Err(unsupported(
                &format!("a `{model_type}` model"),
                &format!("supported types are {known}"),
            ));
        };
        let config = config.get("text_config").unwrap_or(config);
        let number = |name: &str| config.get(name).and_then(Value::as_u64);
        let required = |name: &str| number(name).ok_or_else(|| missing("config.json", name));
        let heads = required("num_attention_heads")?;
        let head_dim = match number("head_dim") {
            Some(head_dim) => head_dim,
            None => required("hidden_size")? / heads.max(1),
        };
        Ok(Self { name, config, heads, key_heads: number("num_key_value_heads").unwrap_or(heads), head_dim })
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    fn is_gemma(&self) -> bool {
        self.name == "gemma3"
    }

    /// Returns a table of `config.json`; `None` if it is null.
    fn table(&self, name: &str) -> Option<&Value> {
        self.config.get(name).filter(|value| value.is_object())
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.config.get(name).and_then(Value::as_u64)
    }

    fn float(&self, name: &str) -> Option<f64> {
        let rope = self.table("rope_parameters").and_then(|rope| rope.get(name));
        self.config.get(name).or(rope).and_then(Value::as_f64)
    }

    pub(super) fn metadata(&self) -> Result<Metadata> {
        let name = self.name;
        let mut all = Metadata::new();
        let mut push = |key: &str, value: Datum| all.push((format!("{name}.{key}"), value));
        let number = |key: &str| self.number(key).ok_or_else(|| missing("config.json", key));
        push("context_length", self.context_length()?.into());
        push("embedding_length", number("hidden_size")?.into());
        push("block_count", number("num_hidden_layers")?.into());
        push("feed_forward_length", number("intermediate_size")?.into());
        push("attention.head_count", self.heads.into());
        push("attention.head_count_kv", self.key_heads.into());
        push("attention.key_length", self.head_dim.into());
        push("attention.value_length", self.head_dim.into());
        push("rope.dimension_count", self.head_dim.into());
        push("vocab_size", number("vocab_size")?.into());
        let epsilon = self.float("rms_norm_eps").unwrap_or(1e-6) as f32;
        push("attention.layer_norm_rms_epsilon", Datum::F32(epsilon));
        if self.is_gemma() {
            self.check_gemma()?;
            push("attention.sliding_window", number("sliding_window")?.into());
            push("attention.sliding_window_pattern", self.window_pattern()?.into());
            let local = self.float("rope_local_base_freq").unwrap_or(10_000.0);
            push("rope.freq_base_swa", Datum::F32(local as f32));
        }
        let default = if self.is_gemma() { 1_000_000.0 } else { 10_000.0 };
        push("rope.freq_base", Datum::F32(self.float("rope_theta").unwrap_or(default) as f32));
        for (key, value) in self.scaling()? {
            push(key, value);
        }
        Ok(all)
    }

    /// Returns the context length in tokens. llama.cpp supports sliding windows for Gemma only; the other architectures
    /// compute the same without a window if the context is not longer than it.
    fn context_length(&self) -> Result<u64> {
        let name = "max_position_embeddings";
        let longest = self.number(name).ok_or_else(|| missing("config.json", name))?;
        let window = self.number("sliding_window").filter(|_| self.name == "llama");
        Ok(window.map_or(longest, |window| window.min(longest)))
    }

    fn scaling_table(&self) -> Option<(&Value, &str)> {
        let table = self.table("rope_scaling").or_else(|| self.table("rope_parameters"))?;
        let kind = table.get("rope_type").or_else(|| table.get("type")).and_then(Value::as_str);
        kind.filter(|kind| *kind != "default").map(|kind| (table, kind))
    }

    fn scaling(&self) -> Result<Vec<(&'static str, Datum)>> {
        if self
            .table("rope_parameters")
            .is_some_and(|rope| rope.as_object().is_some_and(|it| it.values().any(Value::is_object)))
        {
            return Err(unsupported("a model with rope settings per kind of layer", WITHOUT_GGUF));
        }
        let Some((table, kind)) = self.scaling_table() else { return Ok(Vec::new()) };
        let factor = table["factor"].as_f64().ok_or_else(|| missing("config.json", "rope_scaling.factor"))?;
        let factor = factor as f32;
        let mut all = Vec::new();
        match kind {
            // Its factors are written as a tensor.
            "llama3" => return Ok(all),
            "linear" | "yarn" => {
                all.push(("rope.scaling.type", kind.into()));
                all.push(("rope.scaling.factor", Datum::F32(factor)));
            }
            other => {
                let hint = "supported kinds are `linear`, `llama3` and `yarn`";
                return Err(unsupported(&format!("rope scaling `{other}`"), hint));
            }
        }
        if kind == "yarn" {
            let name = "original_max_position_embeddings";
            let original = table.get(name).and_then(Value::as_u64);
            let original = original.ok_or_else(|| missing("config.json", &format!("rope_scaling.{name}")))?;
            all.push(("rope.scaling.original_context_length", original.into()));
        }
        Ok(all)
    }

    fn check_gemma(&self) -> Result<()> {
        let scalar = self.float("query_pre_attn_scalar").unwrap_or(256.0);
        let is_largest = self.config["num_hidden_layers"] == 62;
        if !is_largest && (scalar - self.head_dim as f64).abs() > 0.5 {
            let width = self.head_dim;
            let subject = format!("a model with `query_pre_attn_scalar` {scalar} and `head_dim` {width}");
            return Err(unsupported(
                &subject,
                "llama.cpp needs both to be equal; remove `fuse.gguf` from the settings",
            ));
        }
        Ok(())
    }

    /// Returns the distance between blocks without a sliding window.
    fn window_pattern(&self) -> Result<u64> {
        let Some(kinds) = self.config.get("layer_types").and_then(Value::as_array) else {
            return Ok(self.config.get("sliding_window_pattern").and_then(Value::as_u64).unwrap_or(6));
        };
        let is_full = |kind: &Value| kind == "full_attention";
        let period = kinds.iter().position(is_full).map_or(kinds.len() + 1, |first| first + 1);
        let fits = kinds.iter().enumerate().all(|(index, kind)| is_full(kind) == ((index + 1) % period == 0));
        if fits {
            Ok(period as u64)
        } else {
            Err(unsupported("a model with irregular `layer_types`", WITHOUT_GGUF))
        }
    }

    /// Returns all tensors, sorted by their names in the folder.
    pub(super) fn tensors(&self, files: &TensorFiles, kind: Gguf) -> Result<Vec<Tensor>> {
        let mut all = Vec::new();
        let tied = self.config["tie_word_embeddings"] == true;
        let blocks = self.number("num_hidden_layers").unwrap_or(0) as usize;
        for stored in files.names() {
            let name = canonical_name(stored);
            let name = text_name(&name);
            let is_vision = ["vision_tower.", "multi_modal_projector."]
                .iter()
                .any(|part| name.strip_prefix("model.").unwrap_or(name).starts_with(part));
            let is_second_head = tied && name.starts_with("lm_head.");
            if is_vision || is_second_head || name.ends_with("rotary_emb.inv_freq") {
                continue;
            }
            let shape = files.info(stored).expect("the name is one of the folder's").shape.clone();
            let (translated, change) = self
                .translate(name)
                .ok_or_else(|| unsupported(&format!("the tensor `{stored}`"), WITHOUT_GGUF))?;
            let storage = match &shape[..] {
                [_] => Storage::F32,
                [_, width] => kind.storage(&translated, *width, blocks),
                _ => Storage::F16,
            };
            let stored = Some(stored.to_owned());
            all.push(Tensor { name: translated, stored, shape, storage, change, computed: Vec::new() });
        }
        if let Some((table, "llama3")) = self.scaling_table() {
            let computed = self.llama3_factors(table)?;
            all.push(Tensor {
                name: "rope_freqs.weight".to_owned(),
                stored: None,
                shape: vec![computed.len()],
                storage: Storage::F32,
                change: Change::Nothing,
                computed,
            });
        }
        Ok(all)
    }

    /// Returns the name in GGUF of a canonical tensor name, and the change of its values.
    pub(super) fn translate(&self, name: &str) -> Option<(String, Change)> {
        let (path, part) = name.rsplit_once('.')?;
        let norm = if self.is_gemma() { Change::AddOne } else { Change::Nothing };
        let (path, change) = match path {
            "model.embed_tokens" => ("token_embd".to_owned(), Change::Nothing),
            "model.norm" => ("output_norm".to_owned(), norm),
            "lm_head" => ("output".to_owned(), Change::Nothing),
            path => {
                let (index, layer) = path.strip_prefix("model.layers.")?.split_once('.')?;
                let gemma = if self.is_gemma() { &GEMMA_LAYERS[..] } else { &[] };
                let (_, translated) = gemma.iter().chain(&LAYERS).find(|(known, _)| *known == layer)?;
                let is_norm = layer.ends_with("norm");
                let change = match (layer, self.name) {
                    ("self_attn.q_proj" | "self_attn.k_proj", "llama") => {
                        Change::Interleave { head_rows: self.head_dim as usize }
                    }
                    _ if is_norm => norm,
                    _ => Change::Nothing,
                };
                (format!("blk.{index}.{translated}"), change)
            }
        };
        Some((format!("{path}.{part}"), change))
    }

    /// Returns the divisor of each rotary frequency under llama3's scaling: 1 for short waves, `factor` for long ones.
    fn llama3_factors(&self, table: &Value) -> Result<Vec<f32>> {
        let number = |name: &str| {
            let number = table.get(name).and_then(Value::as_f64);
            number.ok_or_else(|| missing("config.json", &format!("rope_scaling.{name}")))
        };
        let (factor, low, high) =
            (number("factor")?, number("low_freq_factor")?, number("high_freq_factor")?);
        let original = number("original_max_position_embeddings")?;
        let base = self.float("rope_theta").unwrap_or(10_000.0);
        let divisor = |index: u64| {
            let wave = std::f64::consts::TAU * base.powf((2 * index) as f64 / self.head_dim as f64);
            if wave < original / high {
                1.0
            } else if wave > original / low {
                factor
            } else {
                let smooth = (original / wave - low) / (high - low);
                1.0 / ((1.0 - smooth) / factor + smooth)
            }
        };
        Ok((0..self.head_dim / 2).map(|index| divisor(index) as f32).collect())
    }
}
