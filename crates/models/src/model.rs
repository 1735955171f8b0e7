//! A language model of any architecture: backbone and head.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Array, ops, random, transforms};
use serde_json::Value;

use crate::architectures::{self, Architecture};
use crate::attention::Input;
use crate::backbone::{Decoder, Pass};
use crate::builder::{Builder, join};
use crate::cache::PREFILL_TOKENS;
use crate::config;
use crate::error::{Error, Result};
use crate::keys;
use crate::layers::{Adapter, Layer, LayerMut, Linear, scalar};
use crate::loader::Loader;
use crate::module::trainable_arrays;
use crate::options::LoadOptions;
use crate::quantization::QuantizationSettings;
use crate::rope::switching_context;
use crate::section::Section;
use crate::weight::Weight;
use crate::weights::{TensorFiles, canonical_name, weight_files};

/// Standard deviation of fresh weights.
const FRESH_DEVIATION: f32 = 0.02;

/// The parts of a head: logits = cap · tanh(scale · adapted(hidden) / cap).
pub struct Head<'a> {
    /// Weight, `[V, D]`.
    pub weight: &'a Weight,
    /// Trained low-rank update of a head that is not the token embedding.
    pub adapter: Option<&'a Adapter>,
    /// logits → cap · tanh(logits / cap), after the scale.
    pub softcap: Option<f32>,
    /// logits → logits · scale.
    pub scale: Option<f32>,
}

/// A language model.
pub struct Model {
    decoder: Box<dyn Decoder>,
    lm_head: Option<Linear>,
    /// Path of the text model's tensors.
    path: String,
    hidden_size: i32,
    vocabulary: i32,
    softcap: Option<f32>,
    logit_scale: Option<f32>,
    /// Number of tokens above which all tokens of a row are rotated differently, if there is one.
    switching_context: Option<i32>,
    config: Value,
}

impl Clone for Model {
    /// Returns a copy that shares every array.
    fn clone(&self) -> Self {
        Self {
            decoder: self.decoder.boxed_clone(),
            lm_head: self.lm_head.clone(),
            path: self.path.clone(),
            config: self.config.clone(),
            ..*self
        }
    }
}

impl Model {
    /// Loads a Hugging Face model folder and evaluates all weights, so that no later step pays for loading.
    ///
    /// # Errors
    ///
    /// Fails when the architecture is not supported; names every missing, unknown and misshapen tensor.
    pub fn load(folder: &Path, options: &LoadOptions) -> Result<Self> {
        Self::load_section(folder, options, Section::WHOLE)
    }

    /// As [`Model::load`], but reads only the weights of one section. The others are placeholders, which take no memory unless they
    /// are used.
    ///
    /// # Errors
    ///
    /// As [`Model::load`].
    pub fn load_section(folder: &Path, options: &LoadOptions, section: Section) -> Result<Self> {
        let config_path = folder.join("config.json");
        let config = config::read(&config_path)?;
        let files = TensorFiles::open(folder)?;
        let tensors = if section == Section::WHOLE {
            files.arrays()?
        } else {
            let outline = Self::outline(folder, options)?;
            files.some_arrays(&|stored| outline.has_in(section, &canonical_name(stored)))?
        };
        Self::complete(&config_path, config, text_tensors(tensors), options, section)
    }

    /// Loads only what [`Model::logits`] uses: the head or, if they are tied, the token embedding.
    ///
    /// # Errors
    ///
    /// As [`Model::load`]; other weights are not read.
    pub fn load_head(folder: &Path, options: &LoadOptions) -> Result<Self> {
        let config_path = folder.join("config.json");
        let files = TensorFiles::open(folder)?;
        let mut tensors = text_tensors(files.placeholders()?);
        for (name, array) in &mut tensors {
            let layer = name.rsplit_once('.').map_or("", |(path, _)| path);
            if layer.ends_with("lm_head") || layer.ends_with("embed_tokens") {
                let stored = files.names().find(|stored| canonical_name(stored) == *name);
                *array = files.array(stored.expect("the names come from these files"))?;
            }
        }
        let loader = Loader::new(tensors, options.dtype);
        let mut model = Self::build(&config_path, config::read(&config_path)?, &loader, options.unpack)?;
        loader.finish(folder)?;
        model.keep_only_head()?;
        transforms::eval(model.parameters().values())?;
        Ok(model)
    }

    /// Makes a model of `config.json` with fresh weights drawn from `seed`: normal with standard deviation 0.02, norms
    /// at their neutral value, biases zero.
    ///
    /// # Errors
    ///
    /// Fails when the architecture is not supported or a setting is missing.
    pub fn random(config_path: &Path, seed: u64) -> Result<Self> {
        Self::random_section(config_path, seed, Section::WHOLE)
    }

    /// As [`Model::random`], for a process that runs one section: other weights are placeholders.
    ///
    /// # Errors
    ///
    /// As [`Model::random`].
    pub fn random_section(config_path: &Path, seed: u64, section: Section) -> Result<Self> {
        let config = config::read(config_path)?;
        let loader = Loader::new(BTreeMap::new(), None);
        let outline = Self::build(config_path, config.clone(), &loader, false)?;
        let constants = outline.initial_constants();
        let mut tensors = BTreeMap::new();
        for (index, (name, array)) in outline.parameters().into_iter().enumerate() {
            let fresh = if !outline.has_in(section, &name) {
                array
            } else if let Some(&constant) = constants.get(&name) {
                ops::full::<f32>(array.shape(), Array::from_f32(constant))?
            } else {
                let key = random::key(seed.wrapping_mul(1_000_003).wrapping_add(index as u64))?;
                random::normal::<f32>(array.shape(), None, Some(FRESH_DEVIATION), &key)?
            };
            tensors.insert(name, fresh);
        }
        Self::complete(config_path, config, tensors, &LoadOptions::default(), section)
    }

    /// Makes a model with placeholders instead of weights, to count parameters and bytes without memory or time: shapes
    /// and types are those that [`Model::load`] would give or, in a folder without weights, [`Model::random`].
    ///
    /// # Errors
    ///
    /// Fails as [`Model::load`] does, but reads only the headers of weight files.
    pub fn outline(folder: &Path, options: &LoadOptions) -> Result<Self> {
        let config_path = folder.join("config.json");
        let files = weight_files(folder)?;
        if files.is_empty() {
            let config = config::read(&config_path)?;
            let loader = Loader::new(BTreeMap::new(), options.dtype);
            return Self::build(&config_path, config, &loader, options.unpack);
        }
        Self::outline_of(&config_path, &files, options)
    }

    /// Makes a model with placeholders, as [`Model::outline`], of a `config.json` and weight files in any folder.
    ///
    /// # Errors
    ///
    /// As [`Model::outline`].
    pub fn outline_of(config_path: &Path, files: &[PathBuf], options: &LoadOptions) -> Result<Self> {
        let config = config::read(config_path)?;
        let folder = config_path.parent().unwrap_or(Path::new("."));
        let tensors = text_tensors(TensorFiles::open_all(folder, files.to_vec())?.placeholders()?);
        let loader = Loader::new(tensors, options.dtype);
        let outline = Self::build(config_path, config, &loader, options.unpack)?;
        loader.finish(folder)?;
        Ok(outline)
    }

    /// Builds a model, checks that it used all tensors, and evaluates those of a section.
    fn complete(
        config_path: &Path,
        config: Value,
        tensors: BTreeMap<String, Array>,
        options: &LoadOptions,
        section: Section,
    ) -> Result<Self> {
        let loader = Loader::new(tensors, options.dtype);
        let model = Self::build(config_path, config, &loader, options.unpack)?;
        loader.finish(config_path.parent().unwrap_or(Path::new(".")))?;
        let parameters = model.parameters();
        let used = parameters.iter().filter(|(name, _)| model.has_in(section, name));
        transforms::eval(used.map(|(_, array)| array))?;
        Ok(model)
    }

    /// Builds the model that `config` describes from the loader's tensors, with placeholders for missing ones.
    pub(crate) fn build(config_path: &Path, config: Value, loader: &Loader, unpack: bool) -> Result<Self> {
        let config_error = |reason: String| Error::Config { path: config_path.to_owned(), reason };
        let architecture = architectures::of_config(config_path, &config)?;
        check_keys(config_path, &config, architecture)?;
        let quantization =
            QuantizationSettings::read(&config, unpack, loader.has_only_floats()).map_err(config_error)?;
        let (text_config, path) = config::text_part(&config);
        let builder = Builder::new(loader, text_config, &config, &quantization, path);
        let built = (architecture.build)(&builder).map_err(config_error)?;
        let head = builder.at("lm_head");
        let has_head = loader.has(&head.name("weight"));
        let is_tied = built.tied.unwrap_or(!has_head);
        let lm_head = (!is_tied).then(|| Linear::new(&head, built.hidden_size, built.vocabulary, false));
        if is_tied && has_head {
            // Some tied checkpoints contain the head twice.
            for part in ["weight", "scales", "biases"] {
                loader.ignore(&head.name(part));
            }
        }
        Ok(Self {
            decoder: built.decoder,
            lm_head,
            path: path.to_owned(),
            hidden_size: built.hidden_size,
            vocabulary: built.vocabulary,
            softcap: built.softcap,
            logit_scale: built.logit_scale,
            switching_context: switching_context(text_config),
            config,
        })
    }

    /// Returns the parameters that do not start at random, by name, with their initial value.
    fn initial_constants(&self) -> BTreeMap<String, f32> {
        let constant = |(path, layer): (String, Layer<'_>)| match layer {
            Layer::Norm(norm) => Some((join(&path, "weight"), norm.neutral_weight())),
            Layer::Linear(Linear { bias: Some(_), .. }) => Some((join(&path, "bias"), 0.0)),
            Layer::Linear(_) | Layer::Embedding(_) => None,
        };
        self.layers().into_iter().filter_map(constant).collect()
    }

    /// Returns `config.json` as it was read.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// Returns the width of the residual stream, D.
    pub fn hidden_size(&self) -> i32 {
        self.hidden_size
    }

    /// Returns the number of tokens that the head scores, V.
    pub fn vocabulary(&self) -> i32 {
        self.vocabulary
    }

    /// Returns the number of blocks.
    pub fn layer_count(&self) -> usize {
        self.decoder.layer_count()
    }

    /// Returns whether the layer or parameter of a name is in a section.
    pub fn has_in(&self, section: Section, name: &str) -> bool {
        section.has(name, self.layer_count(), self.has_tied_head())
    }

    /// Token ids → input of the head, `[B, L, D]`.
    pub fn hidden(&self, input: Input<'_>) -> mlx_ext::Result<Array> {
        let Some(trained) = self.switching_context else {
            return self.decoder.hidden(input, Pass::default());
        };
        let Input { tokens, cache: Some(cache), .. } = input else {
            return self.decoder.hidden(input, Pass::default());
        };
        let next = cache.record(tokens, trained)?;
        let past = next.dim(1) - tokens.dim(1);
        for start in (0..past).step_by(PREFILL_TOKENS) {
            let piece = next.try_index((.., start..past.min(start + PREFILL_TOKENS as i32)))?;
            self.decoder.hidden(Input::cached(&piece, cache), Pass::default())?;
            transforms::eval(cache.arrays())?;
        }
        self.decoder.hidden(Input::cached(tokens, cache), Pass::default())
    }

    /// As [`Model::hidden`], for a pass that will be differentiated.
    pub fn hidden_with(&self, input: Input<'_>, pass: Pass<'_>) -> mlx_ext::Result<Array> {
        debug_assert!(input.cache.is_none(), "a cache has no gradient");
        self.decoder.hidden(input, pass)
    }

    /// Token ids → states that enter a block, `[B, L, D]`, from which [`Model::hidden_with`] continues.
    pub fn entering(&self, input: Input<'_>, block: usize) -> mlx_ext::Result<Array> {
        debug_assert!(
            input.cache.is_none(),
            "a pass through some of the blocks would fill only their caches"
        );
        self.decoder.entering(input, block)
    }

    /// Runs a pass up to the states that enter block `end`, `[B, L, D]`.
    pub fn through(&self, input: Input<'_>, pass: Pass<'_>, end: usize) -> mlx_ext::Result<Array> {
        debug_assert!(input.cache.is_none(), "a cache has no gradient");
        self.decoder.through(input, pass, end)
    }

    /// Applies the head to hidden states: `[..., D]` → `[..., V]`.
    pub fn logits(&self, hidden: &Array) -> mlx_ext::Result<Array> {
        let mut logits = match &self.lm_head {
            Some(head) => head.forward(hidden)?,
            None => self.decoder.embedding().weight.project(hidden)?,
        };
        if let Some(scale) = self.logit_scale {
            logits = logits.multiply(scalar(scale, &logits)?)?;
        }
        if let Some(cap) = self.softcap {
            let cap = scalar(cap, &logits)?;
            logits = ops::tanh(logits.divide(&cap)?)?.multiply(&cap)?;
        }
        Ok(logits)
    }

    /// Returns the path of the layer that is the head: `lm_head`, or the token embedding if they are tied.
    pub fn head_path(&self) -> String {
        let name = if self.has_tied_head() { "model.embed_tokens" } else { "lm_head" };
        join(&self.path, name)
    }

    /// Returns the sums of squares of the rows of every weight with a DoRA adapter, by the path of its layer.
    ///
    /// They depend only on the base model.
    pub fn dora_squares(&self) -> mlx_ext::Result<BTreeMap<String, Array>> {
        let layers = self.layers().into_iter();
        let adapted = layers.filter_map(|(path, layer)| match layer {
            Layer::Linear(linear) if linear.has_magnitude() => Some((path, linear)),
            _ => None,
        });
        adapted.map(|(path, linear)| Ok((path, linear.row_squares()?))).collect()
    }

    /// Computes the norms that DoRA divides by from `squares` ([`Model::dora_squares`]) and the current adapters, so that
    /// no pass computes them again. They must be computed anew when the adapters change.
    pub fn set_dora_norms(&mut self, squares: &BTreeMap<String, Array>) -> mlx_ext::Result<()> {
        let mut all = Vec::new();
        for (path, layer) in self.layers_mut() {
            let LayerMut::Linear(Linear { weight, adapter: Some(adapter), .. }) = layer else { continue };
            let Some(squares) = squares.get(&path) else { continue };
            let norms = adapter.adapted_norms(weight, squares)?;
            adapter.norms = Some(norms.clone());
            all.push(norms);
        }
        Ok(transforms::eval(&all)?)
    }

    /// Replaces all parameters but those that [`Model::logits`] uses by empty ones, to free their memory.
    pub fn keep_only_head(&mut self) -> mlx_ext::Result<()> {
        let empty = ops::zeros::<f32>(&[0])?;
        let head = self.head_path();
        for (path, layer) in self.layers_mut() {
            match layer {
                LayerMut::Embedding(_) | LayerMut::Linear(_) if path == head => {}
                LayerMut::Embedding(embedding) => embedding.weight = Weight::Dense(empty.clone()),
                LayerMut::Norm(norm) => norm.weight = empty.clone(),
                LayerMut::Linear(linear) => {
                    linear.weight = Weight::Dense(empty.clone());
                    (linear.bias, linear.adapter) = (None, None);
                }
            }
        }
        Ok(())
    }

    /// Returns the parts of the head.
    pub fn head(&self) -> Head<'_> {
        let (weight, adapter) = match &self.lm_head {
            Some(Linear { weight, adapter, bias: None, .. }) => (weight, adapter.as_ref()),
            Some(_) => unreachable!("a head is built without a bias"),
            None => (&self.decoder.embedding().weight, None),
        };
        Head { weight, adapter, softcap: self.softcap, scale: self.logit_scale }
    }

    /// Returns the arrays of the head that fine-tuning may train, always in the same order.
    pub fn trainable_head(&mut self) -> Vec<&mut Array> {
        match &mut self.lm_head {
            Some(head) => trainable_arrays(head),
            None => trainable_arrays(self.decoder.embedding_mut()),
        }
    }

    /// Returns whether the head reads the token embedding.
    pub fn has_tied_head(&self) -> bool {
        self.lm_head.is_none()
    }

    /// Returns every layer under its checkpoint name, always in the same order.
    pub fn layers(&self) -> Vec<(String, Layer<'_>)> {
        let mut layers = Vec::new();
        self.decoder.collect(&join(&self.path, "model"), &mut layers);
        layers.extend(self.lm_head.as_ref().map(|head| (join(&self.path, "lm_head"), Layer::Linear(head))));
        layers
    }

    /// Returns every layer for changing, as [`Model::layers`].
    pub fn layers_mut(&mut self) -> Vec<(String, LayerMut<'_>)> {
        let mut layers = Vec::new();
        self.decoder.collect_mut(&join(&self.path, "model"), &mut layers);
        layers
            .extend(self.lm_head.as_mut().map(|head| (join(&self.path, "lm_head"), LayerMut::Linear(head))));
        layers
    }

    /// Returns every array of the model by name: weights, biases and adapters. The copies share their data.
    pub fn parameters(&self) -> BTreeMap<String, Array> {
        let layers = self.layers().into_iter();
        let arrays = layers.flat_map(|(path, layer)| layer.arrays(&path));
        arrays.map(|(name, array)| (name, array.clone())).collect()
    }

    /// Returns every array of the model by name, for changing, in the order of the layers.
    pub fn parameters_mut(&mut self) -> Vec<(String, &mut Array)> {
        self.layers_mut().into_iter().flat_map(|(path, layer)| layer.arrays(&path)).collect()
    }

    /// Returns the bytes that the model occupies in memory, unpacked copies of weights included.
    pub fn bytes(&self) -> usize {
        self.layers().into_iter().map(|(_, layer)| layer.bytes()).sum()
    }
}

/// Checks that the `config.json` at `path` describes a model that this program computes, without its weights.
///
/// # Errors
///
/// Fails when the architecture is not supported, and names every key that is not followed.
pub fn check_config(path: &Path) -> Result<()> {
    let config = config::read(path)?;
    check_keys(path, &config, architectures::of_config(path, &config)?)
}

/// Checks every key of `config.json` against the allow-list of its architecture.
fn check_keys(path: &Path, config: &Value, architecture: &Architecture) -> Result<()> {
    let (text, part) = config::text_part(config);
    let mut problems = Vec::new();
    if let Value::Object(table) = config::normalized(text) {
        problems.extend(architecture.keys.problems(&table));
    }
    if let (false, Value::Object(table)) = (part.is_empty(), config) {
        problems.extend(keys::outer_problems(table));
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::Keys { path: path.to_owned(), problems }) }
}

/// Returns the tensors of the text model under our names, without vision parts and buffers that hold no weights.
fn text_tensors(stored: BTreeMap<String, Array>) -> BTreeMap<String, Array> {
    const VISION: [&str; 4] =
        ["vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector."];
    let is_weight = |name: &str| {
        !VISION.iter().any(|part| name.starts_with(part)) && !name.ends_with("rotary_emb.inv_freq")
    };
    let weights = stored.into_iter().filter(|(name, _)| is_weight(name));
    weights.map(|(name, array)| (canonical_name(&name), array)).collect()
}
