//! Tensor names and settings of the architectures that can be written as GGUF.

use std::path::Path;

use failure::Result;
use gguf::{GEMMA_LAYERS, LAYERS, Storage};
use models::{Llama3, Scaling, Settings, TensorFiles, canonical_name};

use super::header::{Datum, Metadata};
use super::limits::{self, yarn_share};
use super::{Change, Gguf, Tensor, WITHOUT_GGUF, missing, unsupported};
use crate::json::read_json;

/// Architectures of llama.cpp that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    Gemma3,
    Llama,
    Qwen2,
    Qwen3,
}

/// Supported values of `model_type`, each with the architecture in llama.cpp.
const ARCHITECTURES: [(&str, Name); 6] = [
    ("gemma3", Name::Gemma3),
    ("gemma3_text", Name::Gemma3),
    ("llama", Name::Llama),
    ("mistral", Name::Llama),
    ("qwen2", Name::Qwen2),
    ("qwen3", Name::Qwen3),
];

impl Name {
    /// Returns the name in a file.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Gemma3 => "gemma3",
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }
}

/// Returns the name of a tensor within the text model, given its canonical name.
fn text_name(canonical: &str) -> &str {
    canonical.strip_prefix("language_model.").unwrap_or(canonical)
}

/// An architecture with the settings of one model.
pub(super) struct Architecture {
    name: Name,
    settings: Settings,
}

impl Architecture {
    /// Reads the settings of the model in `folder`.
    ///
    /// # Errors
    ///
    /// Names the setting that llama.cpp does not follow.
    pub(super) fn new(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let config = read_json(&path)?;
        let model_type = config["model_type"].as_str().unwrap_or("(none)");
        let Some((_, name)) = ARCHITECTURES.into_iter().find(|(known, _)| *known == model_type) else {
            let known = ARCHITECTURES.map(|(known, _)| format!("`{known}`")).join(", ");
            return Err(unsupported(
                &format!("a `{model_type}` model"),
                &format!("supported types are {known}"),
            ));
        };
        let settings = Settings::read(&path)?;
        limits::check(name, &settings)?;
        Ok(Self { name, settings })
    }

    pub(super) fn name(&self) -> &'static str {
        self.name.text()
    }

    /// Returns the settings of the model.
    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    fn is_gemma(&self) -> bool {
        self.name == Name::Gemma3
    }

    pub(super) fn metadata(&self) -> Result<Metadata> {
        let (name, settings) = (self.name(), &self.settings);
        let mut all = Metadata::new();
        let mut push = |key: &str, value: Datum| all.push((format!("{name}.{key}"), value));
        let size = |number: i32| Datum::from(number as u64);
        push("context_length", self.context_length()?.into());
        push("embedding_length", size(settings.hidden_size));
        push("block_count", (settings.layers() as u64).into());
        push("feed_forward_length", size(settings.intermediate_size));
        push("attention.head_count", size(settings.heads));
        push("attention.head_count_kv", size(settings.key_value_heads));
        push("attention.key_length", size(settings.head_dim));
        push("attention.value_length", size(settings.head_dim));
        push("rope.dimension_count", size(settings.rope.dimensions));
        push("vocab_size", size(settings.vocabulary));
        push("attention.layer_norm_rms_epsilon", Datum::F32(settings.eps));
        if self.is_gemma() {
            push("attention.sliding_window", self.gemma_window()?.into());
            push("attention.sliding_window_pattern", self.window_pattern()?.into());
            push("rope.freq_base_swa", Datum::F32(settings.local_rope.base));
        }
        push("rope.freq_base", Datum::F32(settings.rope.base));
        for (key, value) in self.scaling() {
            push(key, value);
        }
        if let Some(cap) = settings.softcap {
            push("final_logit_softcapping", Datum::F32(cap));
        }
        Ok(all)
    }

    /// Returns the context length in tokens. llama.cpp supports sliding windows for Gemma only; the other architectures
    /// compute the same without a window if the context is not longer than it.
    pub(super) fn context_length(&self) -> Result<u64> {
        let longest = self.settings.context;
        let longest = longest.ok_or_else(|| missing("config.json", "max_position_embeddings"))?;
        let is_limited = !self.is_gemma() && self.settings.has_window(longest);
        let window = self.settings.window.filter(|_| is_limited);
        Ok(window.map_or(longest, |window| window as u64))
    }

    fn gemma_window(&self) -> Result<u64> {
        let window = self.settings.window.ok_or_else(|| missing("config.json", "sliding_window"))?;
        Ok(window as u64)
    }

    fn scaling(&self) -> Vec<(&'static str, Datum)> {
        match self.settings.rope.scaling {
            // The factors of Llama 3 are written as a tensor; longrope is refused before.
            Scaling::None | Scaling::Llama3(_) | Scaling::Longrope => Vec::new(),
            Scaling::Linear(factor) => {
                vec![("rope.scaling.type", "linear".into()), ("rope.scaling.factor", Datum::F32(factor))]
            }
            Scaling::Yarn(yarn) => {
                let mut all = vec![
                    ("rope.scaling.type", "yarn".into()),
                    ("rope.scaling.factor", Datum::F32(yarn.factor)),
                    ("rope.scaling.original_context_length", (yarn.trained_context as u64).into()),
                ];
                all.extend(yarn_share(yarn).map(|share| ("rope.scaling.attn_factor", Datum::F32(share))));
                all
            }
        }
    }

    /// Returns the distance between blocks without a sliding window.
    fn window_pattern(&self) -> Result<u64> {
        let local = &self.settings.local_layers;
        let period = local.iter().position(|is_local| !is_local).map_or(local.len() + 1, |first| first + 1);
        let fits = local.iter().enumerate().all(|(index, is_local)| *is_local != ((index + 1) % period == 0));
        if fits {
            Ok(period as u64)
        } else {
            Err(unsupported("a model with irregular `layer_types`", WITHOUT_GGUF))
        }
    }

    /// Returns all tensors, sorted by their names in the folder.
    pub(super) fn tensors(&self, files: &TensorFiles, kind: Gguf) -> Result<Vec<Tensor>> {
        let mut all = Vec::new();
        let is_tied = self.settings.tied == Some(true);
        let blocks = self.settings.layers();
        for stored in files.names() {
            let name = canonical_name(stored);
            let name = text_name(&name);
            let is_vision = ["vision_tower.", "multi_modal_projector."]
                .iter()
                .any(|part| name.strip_prefix("model.").unwrap_or(name).starts_with(part));
            let is_second_head = is_tied && name.starts_with("lm_head.");
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
        if let Scaling::Llama3(scaling) = self.settings.rope.scaling {
            let computed = self.llama3_factors(scaling);
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
    fn translate(&self, name: &str) -> Option<(String, Change)> {
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
                    // llama.cpp rotates neighbours in this architecture, as models with `rope_traditional` do.
                    ("self_attn.q_proj" | "self_attn.k_proj", Name::Llama)
                        if !self.settings.rope.interleaved =>
                    {
                        Change::Interleave { head_rows: self.settings.head_dim as usize }
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
    fn llama3_factors(&self, scaling: Llama3) -> Vec<f32> {
        let Llama3 { factor, low_freq_factor, high_freq_factor, trained_context } = scaling;
        let [factor, low, high, original] =
            [factor, low_freq_factor, high_freq_factor, trained_context].map(f64::from);
        let dimensions = self.settings.rope.dimensions;
        let base = f64::from(self.settings.rope.base);
        let divisor = |index: i32| {
            let wave = std::f64::consts::TAU * base.powf(f64::from(2 * index) / f64::from(dimensions));
            gguf::llama3_divisor(wave, original, factor, [low, high])
        };
        (0..dimensions / 2).map(|index| divisor(index) as f32).collect()
    }
}
