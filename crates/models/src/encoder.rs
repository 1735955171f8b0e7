//! Sentence encoders: a text's tokens → one vector.
//!
//! Reads folders of sentence-transformers: `modules.json` names pooling and normalization. A folder without it is pooled by the
//! mean, as sentence-transformers does.

use std::collections::BTreeMap;
use std::path::Path;

use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Array, Dtype, ops};
use serde::Deserialize;
use serde_json::Value;

use crate::builder::Builder;
use crate::config::{self, normalized};
use crate::error::{Error, Result};
use crate::keys::Keys;
use crate::loader::Loader;
use crate::network::{Network, Rows};
use crate::options::LoadOptions;
use crate::quantization::QuantizationSettings;
use crate::weights::TensorFiles;
use crate::{bert, nomic_bert};

/// Files that a folder of an encoder may have beside those of any model.
pub const ENCODER_FILES: [&str; 4] =
    ["modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", POOLING_FILE];
/// Settings of pooling where sentence-transformers writes them.
const POOLING_FILE: &str = "1_Pooling/config.json";
/// Parts of checkpoints that only tasks other than encoding use.
const UNUSED: [&str; 5] = ["pooler.", "cls.", "lm_head.", "classifier.", "embeddings.position_ids"];
/// Names that some checkpoints put in front of every tensor.
const PREFIXES: [&str; 4] = ["bert.", "roberta.", "model.", "0.auto_model."];
/// Tokens that are computed together at most, whatever the batch size.
const TOKENS_AT_A_TIME: usize = 4096;

/// Builds the network that `config.json` describes.
type Build = fn(&Builder<'_>) -> Result<Box<dyn Network>, String>;

/// The supported architectures, sorted by `model_type`.
const ARCHITECTURES: [(&str, &Keys, Build); 4] = [
    ("bert", &bert::KEYS, bert::build),
    ("nomic_bert", &nomic_bert::KEYS, nomic_bert::build),
    ("roberta", &bert::KEYS, bert::build_roberta),
    ("xlm-roberta", &bert::KEYS, bert::build_roberta),
];

/// Returns the values of `model_type` that [`Encoder`] supports, sorted.
pub fn supported_encoders() -> Vec<&'static str> {
    ARCHITECTURES.iter().map(|(name, ..)| *name).collect()
}

/// Method of pooling token vectors into one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pooling {
    /// Their mean.
    Mean,
    /// That of the first token.
    First,
}

/// A sentence encoder.
pub struct Encoder {
    network: Box<dyn Network>,
    pooling: Pooling,
    normalizes: bool,
    max_tokens: usize,
    lowers_case: bool,
}

/// `sentence_bert_config.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TextSettings {
    max_seq_length: Option<usize>,
    do_lower_case: bool,
}

/// An entry of `modules.json`.
#[derive(Debug, Deserialize)]
struct Module {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: String,
}

impl Encoder {
    /// Loads the folder of an encoder and evaluates all weights.
    ///
    /// # Errors
    ///
    /// Fails when the architecture, the pooling or a further module is not supported; names every missing, unknown and misshapen
    /// tensor.
    pub fn load(folder: &Path, options: &LoadOptions) -> Result<Self> {
        let tensors = tensors(folder)?;
        let loader = Loader::new(tensors, options.dtype);
        let mut encoder = Self::build(folder, &loader)?;
        loader.finish(folder)?;
        encoder.max_tokens = encoder.max_tokens.min(encoder.network.max_tokens());
        Ok(encoder)
    }

    /// Checks that the folder holds a supported encoder, without reading its weights. Returns the number of tokens that have an
    /// embedding.
    ///
    /// # Errors
    ///
    /// As [`Encoder::load`].
    pub fn check(folder: &Path) -> Result<u32> {
        let files = TensorFiles::open(folder)?;
        let loader = Loader::new(canonical(files.placeholders()?), None);
        let encoder = Self::build(folder, &loader)?;
        loader.finish(folder)?;
        Ok(encoder.vocabulary())
    }

    /// Returns the number of tokens that have an embedding.
    fn vocabulary(&self) -> u32 {
        self.network.vocabulary().unsigned_abs()
    }

    fn build(folder: &Path, loader: &Loader) -> Result<Self> {
        let path = folder.join("config.json");
        let config = config::read(&path)?;
        let fail = |reason: String| Error::Config { path: path.clone(), reason };
        let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or("(none)");
        let (_, keys, build) =
            ARCHITECTURES.iter().find(|(name, ..)| *name == model_type).ok_or_else(|| {
                Error::Unsupported {
                    path: path.clone(),
                    model_type: model_type.to_owned(),
                    supported: supported_encoders(),
                }
            })?;
        if let Value::Object(table) = normalized(&config) {
            let problems = keys.encoder_problems(&table);
            if !problems.is_empty() {
                return Err(Error::Keys { path, problems });
            }
        }
        let quantization =
            QuantizationSettings::read(&config, false, loader.has_only_floats()).map_err(fail)?;
        let builder = Builder::new(loader, &config, &config, &quantization, "");
        let network = build(&builder).map_err(fail)?;
        let settings: TextSettings =
            read_json(&folder.join("sentence_bert_config.json"))?.unwrap_or_default();
        let (pooling, normalizes) = modules(folder)?;
        Ok(Self {
            network,
            pooling,
            normalizes,
            max_tokens: settings.max_seq_length.unwrap_or(usize::MAX),
            lowers_case: settings.do_lower_case,
        })
    }

    /// Returns the text as the tokenizer must get it.
    pub fn prepared(&self, text: &str) -> String {
        // sentence-transformers strips every text.
        let text = text.trim();
        if self.lowers_case { text.to_lowercase() } else { text.to_owned() }
    }

    /// Cuts off the tokens that the encoder does not read; the last token, which ends the text, stays.
    pub fn truncated(&self, mut tokens: Vec<u32>) -> Vec<u32> {
        if tokens.len() > self.max_tokens
            && let Some(last) = tokens.pop()
        {
            tokens.truncate(self.max_tokens.saturating_sub(1));
            tokens.push(last);
        }
        tokens
    }

    /// Returns the vector of every row of tokens, in their order; a row without tokens has zeros.
    ///
    /// Rows are not padded, so their vectors do not depend on the rows beside them.
    ///
    /// # Errors
    ///
    /// Fails when a token has no embedding, and when MLX fails.
    pub fn encode(&self, rows: &[Vec<u32>], batch_size: usize) -> Result<Vec<Vec<f32>>> {
        let vocabulary = self.vocabulary();
        if let Some(&token) = rows.iter().flatten().find(|&&token| token >= vocabulary) {
            return Err(Error::UnknownToken { token, vocabulary });
        }
        let mut order: Vec<usize> = (0..rows.len()).filter(|&row| !rows[row].is_empty()).collect();
        order.sort_by_key(|&row| rows[row].len());
        let mut vectors = vec![Vec::new(); rows.len()];
        let mut rest = &order[..];
        while !rest.is_empty() {
            let (batch, others) = rest.split_at(Self::batch(rows, rest, batch_size));
            rest = others;
            let joined: Vec<&[u32]> = batch.iter().map(|&row| &rows[row][..]).collect();
            let pooled = self.pooled(&Rows::new(&joined))?;
            pooled.eval()?;
            let width = pooled.dim(1) as usize;
            for (&row, vector) in batch.iter().zip(pooled.as_slice::<f32>().chunks_exact(width)) {
                vectors[row] = vector.to_vec();
            }
        }
        let width = vectors.iter().map(Vec::len).max().unwrap_or(0);
        vectors.iter_mut().filter(|vector| vector.is_empty()).for_each(|vector| vector.resize(width, 0.0));
        Ok(vectors)
    }

    /// Returns how many of the rows `rest`, sorted by length, are computed together.
    fn batch(rows: &[Vec<u32>], rest: &[usize], batch_size: usize) -> usize {
        let mut tokens = 0;
        let fits = rest.iter().take(batch_size.max(1)).take_while(|&&row| {
            tokens += rows[row].len();
            tokens <= TOKENS_AT_A_TIME
        });
        fits.count().max(1)
    }

    /// Returns the vectors of rows, `[N, D]`, `f32`.
    fn pooled(&self, rows: &Rows) -> mlx_ext::Result<Array> {
        let hidden = self.network.hidden(rows)?.as_dtype(Dtype::Float32)?;
        let mut parts = Vec::new();
        for group in rows.groups() {
            let part = hidden.try_index(group.start..group.start + group.rows * group.length)?;
            let part = part.reshape(&[group.rows, group.length, -1])?;
            parts.push(match self.pooling {
                Pooling::Mean => part.mean_axis(1, false)?,
                Pooling::First => part.try_index((.., 0))?,
            });
        }
        let pooled = ops::concatenate(&parts, 0)?;
        if !self.normalizes {
            return Ok(pooled);
        }
        let norms = pooled.square()?.sum_axis(1, true)?.sqrt()?;
        Ok(pooled.divide(ops::maximum(norms, Array::from_f32(1e-12))?)?)
    }
}

/// Reads all tensors under their plain names.
fn tensors(folder: &Path) -> Result<BTreeMap<String, Array>> {
    Ok(canonical(TensorFiles::open(folder)?.arrays()?))
}

/// Removes prefixes, and parts that encoding does not use.
fn canonical(tensors: BTreeMap<String, Array>) -> BTreeMap<String, Array> {
    let plain = |name: String| {
        let short = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix));
        short.map_or_else(|| name.clone(), str::to_owned)
    };
    let named = tensors.into_iter().map(|(name, array)| (plain(name), array));
    named.filter(|(name, _)| !UNUSED.iter().any(|unused| name.starts_with(unused))).collect()
}

/// Returns what `modules.json` says about pooling and normalization.
fn modules(folder: &Path) -> Result<(Pooling, bool)> {
    let path = folder.join("modules.json");
    let Some(modules) = read_json::<Vec<Module>>(&path)? else { return Ok((Pooling::Mean, false)) };
    let (mut pooling, mut normalizes) = (None, false);
    for module in modules {
        match module.kind.rsplit('.').next().unwrap_or_default() {
            "Transformer" => {}
            "Pooling" => pooling = Some(read_pooling(&folder.join(&module.path).join("config.json"))?),
            "Normalize" => normalizes = true,
            other => {
                return Err(Error::Config { path, reason: format!("the module `{other}` is not supported") });
            }
        }
    }
    match pooling {
        Some(pooling) => Ok((pooling, normalizes)),
        None => Err(Error::Config {
            path,
            reason: "it has no pooling, so a text would not have one vector".to_owned(),
        }),
    }
}

fn read_pooling(path: &Path) -> Result<Pooling> {
    let fail = |reason: String| Error::Config { path: path.to_owned(), reason };
    let config: Value = read_json(path)?.ok_or_else(|| fail("the file is missing".to_owned()))?;
    if let Some(mode) = config["pooling_mode"].as_str() {
        return match mode {
            "mean" => Ok(Pooling::Mean),
            "cls" => Ok(Pooling::First),
            other => Err(fail(format!("the pooling `{other}` is not supported (supported: cls, mean)"))),
        };
    }
    let table = config.as_object().ok_or_else(|| fail("expected a table".to_owned()))?;
    let modes = table
        .iter()
        .filter(|(name, value)| name.starts_with("pooling_mode_") && **value == Value::Bool(true));
    let modes: Vec<&str> = modes.map(|(name, _)| name.as_str()).collect();
    match modes.as_slice() {
        ["pooling_mode_mean_tokens"] => Ok(Pooling::Mean),
        ["pooling_mode_cls_token"] => Ok(Pooling::First),
        other => Err(fail(format!(
            "the pooling `{}` is not supported (supported: cls, mean)",
            other.join("` and `")
        ))),
    }
}

/// Reads a JSON file if it is there.
fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    if !path.exists() {
        return Ok(None);
    }
    let text = fs_err::read_to_string(path)?;
    let parsed = serde_json::from_str(&text);
    parsed.map(Some).map_err(|error| Error::Config { path: path.to_owned(), reason: error.to_string() })
}
