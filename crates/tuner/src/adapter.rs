//! Trainable parameters: adapters on selected layers, or the layers themselves.

mod files;
mod peft;

pub use files::{load_adapters, save_adapters};
pub use peft::save_peft;

use mlx_rs::ops;
use models::{Adapter, LayerMut, Linear, Model, Weight, join};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::seed;

/// Kind of fine-tuning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FineTuneType {
    /// Low-rank updates (arXiv:2106.09685).
    Lora,
    /// Low-rank updates of the direction plus a trained magnitude (arXiv:2402.09353).
    Dora,
    /// The weights themselves.
    Full,
}

/// Settings of adapters: which parameters are trained, and the shape of adapters.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is an independent switch")]
pub struct AdapterSettings {
    /// Kind of fine-tuning.
    pub fine_tune_type: FineTuneType,
    /// Number of blocks to train, counted from the last; `None` for all.
    pub num_layers: Option<usize>,
    /// Linear layers to adapt, by their name in a block (`self_attn.q_proj`) or in the model (`lm_head`); empty for all
    /// in the blocks.
    pub keys: Vec<String>,
    /// Rank of adapters.
    pub rank: i32,
    /// Strength of adapters: scale = alpha / rank, or alpha / √rank.
    pub alpha: f32,
    /// Use scale = alpha / √rank (arXiv:2312.03732).
    pub rank_stabilized: bool,
    /// Share of an adapter's inputs that is dropped in training, 0 to 1.
    pub dropout: f32,
    /// Also train the head (a tied head is trained with the embedding, and only with `full`).
    pub lm_head: bool,
    /// Also train the token embedding; only with `full`.
    pub embeddings: bool,
    /// Also train the norms; `full` always trains those in its blocks.
    pub norms: bool,
}

impl Default for AdapterSettings {
    fn default() -> Self {
        Self {
            fine_tune_type: FineTuneType::Lora,
            num_layers: None,
            keys: Vec::new(),
            rank: 8,
            alpha: 16.0,
            rank_stabilized: false,
            dropout: 0.0,
            lm_head: false,
            embeddings: false,
            norms: false,
        }
    }
}

impl AdapterSettings {
    /// Returns the scale, alpha / rank or alpha / √rank.
    pub fn scale(&self) -> f32 {
        let rank = self.rank as f32;
        self.alpha / if self.rank_stabilized { rank.sqrt() } else { rank }
    }
}

/// Trainable parameters of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trainable {
    /// Names, sorted.
    pub names: Vec<String>,
    /// Number of trainable parameters.
    pub trainable: usize,
    /// Number of frozen parameters.
    pub frozen: usize,
}

/// Adds fresh adapters to `model`, or selects the weights to train, and returns the trainable parameters.
///
/// A fresh adapter does not change the model: `a` is uniform within ±1/√in, `b` is zero, and DoRA's magnitudes are the
/// row norms.
///
/// # Errors
///
/// Fails when a setting names a layer that the model does not have or that cannot be trained.
pub fn attach(model: &mut Model, settings: &AdapterSettings, seed: u64) -> Result<Trainable> {
    let layers = model.layer_count();
    if let Some(wanted) = settings.num_layers.filter(|&wanted| wanted > layers) {
        return Err(Error::settings(
            format!("`num_layers` is {wanted}, but the model has {layers} layers"),
            "set num_layers = 0 to train all of them",
        ));
    }
    let (names, unused) = place(model, settings, seed)?;
    if let Some(key) = unused.first() {
        return Err(Error::settings(
            format!("`keys` names `{key}`, but the model has no such layer"),
            "names are relative to a block, such as `self_attn.q_proj`",
        ));
    }
    let covered = settings.embeddings && settings.fine_tune_type == FineTuneType::Full;
    if settings.lm_head && !covered && !names.iter().any(|name| name.contains("lm_head.")) {
        return Err(Error::settings(
            "lm_head = true, but this model's head is its token embedding",
            "set lm_head = false, or fine_tune_type = \"full\" and embeddings = true",
        ));
    }
    Ok(count(model, names))
}

/// Adds adapters or selects the weights to train; returns the sorted names of the trainable parameters, and the keys that
/// match no layer.
fn place(model: &mut Model, settings: &AdapterSettings, seed: u64) -> Result<(Vec<String>, Vec<String>)> {
    let layers = model.layer_count();
    let first = layers.saturating_sub(settings.num_layers.unwrap_or(layers));
    let mut names = Vec::new();
    let mut used = vec![false; settings.keys.len()];
    for (path, layer) in model.layers_mut() {
        let position = Position::of(&path, first);
        match layer {
            LayerMut::Linear(linear) if settings.fine_tune_type == FineTuneType::Full => {
                full_linear(&path, &position, linear, settings, &mut names)?;
            }
            LayerMut::Linear(linear) if position.adapts(&path, settings, &mut used) => {
                adapt(&path, linear, settings, seed, &mut names)?;
            }
            LayerMut::Linear(_) => {}
            LayerMut::Embedding(embedding) => {
                full_embedding(&path, &embedding.weight, settings, &mut names)?;
            }
            LayerMut::Norm(_) => {
                let in_blocks = settings.fine_tune_type == FineTuneType::Full && position.in_trained_block();
                if settings.norms || in_blocks {
                    names.push(join(&path, "weight"));
                }
            }
        }
    }
    names.sort();
    let unused = settings.keys.iter().zip(used).filter(|(_, used)| !used);
    Ok((names, unused.map(|(key, _)| key.clone()).collect()))
}

/// Counts trainable and frozen parameters.
fn count(model: &Model, names: Vec<String>) -> Trainable {
    let (mut trainable, mut frozen) = (0, 0);
    for (name, array) in model.parameters() {
        let is_trained = names.binary_search(&name).is_ok();
        *(if is_trained { &mut trainable } else { &mut frozen }) += array.size();
    }
    Trainable { names, trainable, frozen }
}

/// Position of a layer in the model.
enum Position<'a> {
    /// In a trained block, with its name there.
    Trained(&'a str),
    /// In a frozen block.
    Frozen,
    Head,
    Outside,
}

impl<'a> Position<'a> {
    fn of(path: &'a str, first: usize) -> Self {
        if path.ends_with("lm_head") {
            return Self::Head;
        }
        match split_block(path) {
            None => Self::Outside,
            Some((index, name)) if index >= first => Self::Trained(name),
            Some(_) => Self::Frozen,
        }
    }

    fn in_trained_block(&self) -> bool {
        matches!(self, Self::Trained(_))
    }

    /// Returns whether the layer at `path` gets an adapter. A key is a name in a trained block, or a whole path.
    fn adapts(&self, path: &str, settings: &AdapterSettings, used: &mut [bool]) -> bool {
        let in_block = match self {
            Self::Trained(name) => Some(*name),
            Self::Frozen | Self::Head | Self::Outside => None,
        };
        let key = settings.keys.iter().position(|key| key == path || Some(key.as_str()) == in_block);
        if let Some(index) = key {
            used[index] = true;
        }
        match self {
            Self::Trained(_) if settings.keys.is_empty() => true,
            Self::Head if settings.lm_head => true,
            _ => key.is_some(),
        }
    }
}

/// Returns the index of the block that a layer is in, and its name there.
pub(crate) fn split_block(path: &str) -> Option<(usize, &str)> {
    let (_, rest) = path.split_once("layers.")?;
    let (index, name) = rest.split_once('.').unwrap_or((rest, ""));
    Some((index.parse().ok()?, name))
}

fn adapt(
    path: &str,
    linear: &mut Linear,
    settings: &AdapterSettings,
    seed: u64,
    names: &mut Vec<String>,
) -> Result<()> {
    let limit = (linear.inputs as f32).powf(-0.5);
    let key = seed::key(seed, path, &[])?;
    let a = mlx_rs::random::uniform::<_, f32>(-limit, limit, &[linear.inputs, settings.rank], &key)?;
    let b = ops::zeros::<f32>(&[settings.rank, linear.outputs])?;
    names.extend([join(path, "lora_a"), join(path, "lora_b")]);
    let magnitude = if settings.fine_tune_type == FineTuneType::Dora {
        names.push(join(path, "m"));
        Some(linear.row_norms()?)
    } else {
        None
    };
    linear.adapter = Some(Adapter { a, b, scale: settings.scale(), magnitude, norms: None, dropout: None });
    Ok(())
}

fn full_linear(
    path: &str,
    position: &Position<'_>,
    linear: &Linear,
    settings: &AdapterSettings,
    names: &mut Vec<String>,
) -> Result<()> {
    let wanted = match position {
        Position::Trained(_) => true,
        Position::Head => settings.lm_head,
        Position::Frozen | Position::Outside => false,
    };
    if !wanted {
        return Ok(());
    }
    needs_plain_weight(path, &linear.weight)?;
    names.push(join(path, "weight"));
    if linear.bias.is_some() {
        names.push(join(path, "bias"));
    }
    Ok(())
}

fn full_embedding(
    path: &str,
    weight: &Weight,
    settings: &AdapterSettings,
    names: &mut Vec<String>,
) -> Result<()> {
    if !settings.embeddings {
        return Ok(());
    }
    if settings.fine_tune_type != FineTuneType::Full {
        return Err(Error::settings(
            "embeddings = true needs fine_tune_type = \"full\"",
            "set fine_tune_type = \"full\", or embeddings = false",
        ));
    }
    needs_plain_weight(path, weight)?;
    names.push(join(path, "weight"));
    Ok(())
}

fn needs_plain_weight(path: &str, weight: &Weight) -> Result<()> {
    match weight {
        Weight::Dense(_) => Ok(()),
        Weight::Quantized(_) => Err(Error::settings(
            format!("`{path}` is quantized, so its weights cannot be trained"),
            "set fine_tune_type = \"lora\", or import the model with `dequantize`",
        )),
    }
}
