//! `config.json` and tensor names of the architectures that can be read from GGUF.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::header::Header;
use crate::keys::{self, Family};
use crate::metadata::{Metadata, missing, shortest};
use crate::names::{GEMMA_LAYERS, LAYERS, OUTER_LAYERS, PHI_LAYERS};
use crate::numbers;
use crate::rope::{self, DEFAULT_BASE, Factors, Rope};

/// Architectures of GGUF that can be read, each with its `model_type`.
const FAMILIES: [(&str, Family, &str); 7] = [
    ("gemma2", Family::Gemma2, "gemma2"),
    ("gemma3", Family::Gemma3, "gemma3_text"),
    ("llama", Family::Llama, "llama"),
    // llama.cpp names this architecture `llama`; other writers use the name of the model.
    ("mistral", Family::Llama, "mistral"),
    ("phi3", Family::Phi3, "phi3"),
    ("qwen2", Family::Qwen2, "qwen2"),
    ("qwen3", Family::Qwen3, "qwen3"),
];

/// Suffixes of the names of biases that a Llama has together or not at all.
const ATTENTION: [&str; 4] = [".attn_q.bias", ".attn_k.bias", ".attn_v.bias", ".attn_output.bias"];
const FEED_FORWARD: [&str; 3] = [".ffn_gate.bias", ".ffn_up.bias", ".ffn_down.bias"];

/// Change of a tensor's rows or values on the way from GGUF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// None.
    Nothing,
    /// Subtracts 1: GGUF stores Gemma's norms as 1 + weight.
    SubtractOne,
    /// Puts the rows of each of this number of heads back in order: llama.cpp rotates neighbours, not halves.
    Separate(usize),
}

/// The architecture of a file with its sizes.
#[derive(Debug)]
pub struct Architecture<'a> {
    header: &'a Header,
    metadata: Metadata<'a>,
    /// Name in GGUF, with which its keys start.
    name: &'static str,
    model_type: &'static str,
    family: Family,
    blocks: u64,
    width: u64,
    heads: u64,
    key_heads: u64,
    head_dim: u64,
    vocabulary: usize,
}

impl<'a> Architecture<'a> {
    /// Reads the sizes of the model.
    ///
    /// # Errors
    ///
    /// Names a key that is missing, unknown or has a value that no model has.
    pub fn new(header: &'a Header) -> Result<Self> {
        let metadata = Metadata::new(header.metadata());
        // Before all else: later parts have no other keys.
        if let Some(count) = metadata.integer("split.count")?.filter(|&count| count > 1) {
            return Err(Error::Part { index: metadata.integer("split.no")?.unwrap_or(0), count });
        }
        let found = metadata.text("general.architecture")?.ok_or_else(|| missing("general.architecture"))?;
        let Some((name, family, model_type)) = FAMILIES.into_iter().find(|(name, ..)| *name == found) else {
            let known = FAMILIES.map(|(name, ..)| format!("`{name}`")).join(", ");
            return Err(Error::Unsupported(format!(
                "the architecture is `{found}`; supported architectures are {known}"
            )));
        };
        numbers::check(metadata, name)?;
        let required = |key: &str| {
            let key = format!("{name}.{key}");
            metadata.integer(&key)?.ok_or_else(|| missing(&key))
        };
        let (width, heads) = (required("embedding_length")?, required("attention.head_count")?);
        let embedding = header.tensor("token_embd.weight");
        let embedding =
            embedding.ok_or_else(|| Error::Content("there is no tensor `token_embd.weight`".into()))?;
        let architecture = Self {
            header,
            metadata,
            name,
            model_type,
            family,
            blocks: required("block_count")?,
            width,
            heads,
            key_heads: metadata.integer(&format!("{name}.attention.head_count_kv"))?.unwrap_or(heads),
            head_dim: metadata.integer(&format!("{name}.attention.key_length"))?.unwrap_or(width / heads),
            vocabulary: embedding.shape[0],
        };
        architecture.check()?;
        Ok(architecture)
    }

    /// Returns the number of rows of the embedding.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    fn check(&self) -> Result<()> {
        keys::check(self.metadata, self.name, self.family)?;
        let layout = self.metadata.text(&self.key("tensor_data_layout"))?;
        if layout.is_some_and(|layout| layout != "Meta AI original pth") {
            return Err(Error::Unsupported(format!(
                "the layout of tensors is `{}`",
                layout.unwrap_or_default()
            )));
        }
        if self.integer("attention.value_length")?.is_some_and(|length| length != self.head_dim) {
            return Err(Error::Unsupported(
                "keys and values of different widths are not supported".to_owned(),
            ));
        }
        if self.family == Family::Llama { self.check_biases() } else { Ok(()) }
    }

    /// Checks that each group of layers has biases in all blocks or in none, since `config.json` has one setting for each group.
    fn check_biases(&self) -> Result<()> {
        let names = self.header.tensors().iter().map(|tensor| tensor.name.as_str());
        let is_bias = |name: &&str| name.starts_with("blk.") && name.rsplit('.').next() == Some("bias");
        let biases: BTreeSet<&str> = names.filter(is_bias).collect();
        let Some(first) = biases.first() else { return Ok(()) };
        if self.is_mistral()? {
            return Err(Error::Unsupported(format!(
                "the tensor `{first}` is not supported: Mistral models, and Llamas with a sliding window, have no biases"
            )));
        }
        for layers in [&ATTENTION[..], &FEED_FORWARD] {
            let found = biases.iter().find(|name| layers.iter().any(|layer| name.contains(layer)));
            let Some(found) = found else { continue };
            let blocks = 0..self.blocks;
            let mut expected = blocks.flat_map(|block| layers.iter().map(move |layer| (block, layer)));
            let missing = expected.find_map(|(block, layer)| {
                let name = format!("blk.{block}{layer}");
                (!biases.contains(name.as_str())).then_some(name)
            });
            if let Some(missing) = missing {
                return Err(Error::Unsupported(format!(
                    "there is the tensor `{found}`, but no tensor `{missing}`: models with biases for only some layers \
                     are not supported"
                )));
            }
        }
        Ok(())
    }

    /// Returns whether the model has a window in every layer, which only this kind of Llama has.
    fn is_mistral(&self) -> Result<bool> {
        Ok(self.model_type == "mistral" || self.window()?.is_some())
    }

    /// Returns the window in tokens, if there is one.
    fn window(&self) -> Result<Option<u64>> {
        Ok(self.integer("attention.sliding_window")?.filter(|&window| window > 0))
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.name)
    }

    fn integer(&self, key: &str) -> Result<Option<u64>> {
        self.metadata.integer(&self.key(key))
    }

    fn float(&self, key: &str) -> Result<Option<f64>> {
        self.metadata.float(&self.key(key))
    }

    fn is_gemma(&self) -> bool {
        matches!(self.family, Family::Gemma2 | Family::Gemma3)
    }

    /// Returns the content of `config.json` without tokens and quantization.
    ///
    /// # Errors
    ///
    /// Names a key or tensor that is missing or that no `config.json` can say.
    pub fn config(&self, factors: Factors) -> Result<Map<String, Value>> {
        let integer = |key: &str| self.integer(key)?.ok_or_else(|| missing(&self.key(key)));
        let epsilon = self.float("attention.layer_norm_rms_epsilon")?;
        let epsilon = epsilon.ok_or_else(|| missing(&self.key("attention.layer_norm_rms_epsilon")))?;
        let mut config = Map::new();
        let mut put = |name: &str, value: Value| config.insert(name.to_owned(), value);
        put("model_type", self.model_type.into());
        put("hidden_size", self.width.into());
        put("num_hidden_layers", self.blocks.into());
        put("intermediate_size", integer("feed_forward_length")?.into());
        put("num_attention_heads", self.heads.into());
        put("num_key_value_heads", self.key_heads.into());
        put("head_dim", self.head_dim.into());
        put("vocab_size", self.vocabulary.into());
        put("max_position_embeddings", integer("context_length")?.into());
        put("rms_norm_eps", shortest(epsilon));
        put("tie_word_embeddings", self.header.tensor("output.weight").is_none().into());
        let is_gemma = self.is_gemma();
        put("hidden_act", if is_gemma { "gelu_pytorch_tanh" } else { "silu" }.into());
        if is_gemma {
            put("hidden_activation", "gelu_pytorch_tanh".into());
        }
        config.extend(self.family_config()?);
        config.extend(self.rope(factors).config()?);
        Ok(config)
    }

    fn rope(&self, factors: Factors) -> Rope<'_> {
        Rope {
            metadata: self.metadata,
            architecture: self.name,
            head_dim: self.head_dim,
            is_partial: self.family == Family::Phi3,
            has_local_layers: self.family == Family::Gemma3,
            factors,
        }
    }

    /// Returns the settings that only some families have.
    fn family_config(&self) -> Result<Map<String, Value>> {
        let window = self.window()?;
        let required_window = || {
            let key = self.key("attention.sliding_window");
            window.ok_or_else(|| {
                if self.header.metadata().contains_key(&key) {
                    Error::Content(format!("`{key}` is 0, but this architecture has a window"))
                } else {
                    missing(&key)
                }
            })
        };
        let mut config = Map::new();
        let mut put = |name: &str, value: Value| config.insert(name.to_owned(), value);
        match self.family {
            Family::Llama => {
                let has_bias = |layer: &str| self.header.tensor(&format!("blk.0{layer}")).is_some();
                put("attention_bias", has_bias(ATTENTION[0]).into());
                put("mlp_bias", has_bias(FEED_FORWARD[0]).into());
                if self.is_mistral()? {
                    put("model_type", "mistral".into());
                    put("sliding_window", window.map_or(Value::Null, Value::from));
                }
            }
            Family::Qwen2 | Family::Qwen3 => {
                put("use_sliding_window", false.into());
            }
            Family::Phi3 => {
                put("sliding_window", window.map_or(Value::Null, Value::from));
            }
            Family::Gemma2 => {
                for name in ["attn_logit_softcapping", "final_logit_softcapping"] {
                    let cap = self.float(name)?.ok_or_else(|| missing(&self.key(name)))?;
                    if cap <= 0.0 {
                        let key = self.key(name);
                        return Err(Error::Content(format!("`{key}` is {cap}, expected a number above 0")));
                    }
                    put(name, shortest(cap));
                }
                put("sliding_window", required_window()?.into());
                put("query_pre_attn_scalar", self.query_scalar(46).into());
            }
            Family::Gemma3 => {
                let pattern = self.integer("attention.sliding_window_pattern")?.unwrap_or(6);
                put("sliding_window", required_window()?.into());
                put("sliding_window_pattern", pattern.into());
                put("query_pre_attn_scalar", self.query_scalar(62).into());
                let local = self.float("rope.freq_base_swa")?.unwrap_or(DEFAULT_BASE);
                put("rope_local_base_freq", shortest(local));
                if let Some(cap) = self.float("final_logit_softcapping")?.filter(|&cap| cap > 0.0) {
                    put("final_logit_softcapping", shortest(cap));
                }
            }
        }
        Ok(config)
    }

    /// Returns the number whose root divides the queries. GGUF does not store it: llama.cpp takes the width of a head,
    /// except for the largest model of the family, known by its `blocks`.
    fn query_scalar(&self, blocks: u64) -> u64 {
        if self.blocks == blocks { self.width / self.heads } else { self.head_dim }
    }

    /// Returns the name in a folder of a tensor of GGUF, and its change; `None` for tensors that `config.json` covers.
    ///
    /// # Errors
    ///
    /// Names a tensor that models of this architecture do not have.
    pub fn translate(&self, name: &str) -> Result<Option<(String, Change)>> {
        if rope::TENSORS.contains(&name) {
            return Ok(None);
        }
        let unknown = || Error::Unsupported(format!("the tensor `{name}` is not supported"));
        let (path, part) = name.rsplit_once('.').ok_or_else(unknown)?;
        if part != "weight" && part != "bias" {
            return Err(unknown());
        }
        let outer = OUTER_LAYERS.iter().find(|(_, known)| *known == path);
        let (layer, folder_path) = if let Some((layer, _)) = outer {
            (*layer, (*layer).to_owned())
        } else {
            let (index, known) =
                path.strip_prefix("blk.").and_then(|rest| rest.split_once('.')).ok_or_else(unknown)?;
            let index: u64 = index.parse().map_err(|_| unknown())?;
            let layer = self.layer(known).filter(|_| index < self.blocks).ok_or_else(unknown)?;
            (layer, format!("model.layers.{index}.{layer}"))
        };
        let change = match (layer, self.family) {
            ("self_attn.q_proj", Family::Llama) => Change::Separate(self.heads as usize),
            ("self_attn.k_proj", Family::Llama) => Change::Separate(self.key_heads as usize),
            _ if layer.ends_with("norm") && self.is_gemma() => Change::SubtractOne,
            _ => Change::Nothing,
        };
        Ok(Some((format!("{folder_path}.{part}"), change)))
    }

    fn layer(&self, name: &str) -> Option<&'static str> {
        let own: &[(&str, &str)] = match self.family {
            Family::Gemma2 | Family::Gemma3 => &GEMMA_LAYERS,
            Family::Phi3 => &PHI_LAYERS,
            Family::Llama | Family::Qwen2 | Family::Qwen3 => &[],
        };
        own.iter().chain(&LAYERS).find(|(_, known)| *known == name).map(|(layer, _)| *layer)
    }
}
