//! A language model of any architecture: what they share, and the one table of their names.

use crate::attention::Input;
use crate::config::normalized;
use crate::error::{Error, Result};
use crate::layers::{Adapter, Embedding, Layer, Linear, QuantizationSettings, Visit, Weight, join};
use crate::weights::{Loader, TensorFiles};
use crate::{cohere, gemma2, gemma3, llama, mistral, phi3, qwen2, qwen3};
use mlx_ext::{Quantization, QuantizationMode};
use mlx_rs::{Array, Dtype, ops};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// What an architecture has to offer.
pub(crate) trait Decoder: Visit {
    /// Token ids → what enters a block: `[B, L, D]`.
    fn entering(&self, input: Input<'_>, block: usize) -> mlx_ext::Result<Array>;
    /// Token ids → what the head reads, after the last norm: `[B, L, D]`.
    fn hidden(&self, input: Input<'_>, pass: Pass<'_>) -> mlx_ext::Result<Array>;
    /// The token embedding, which a tied head reads.
    fn embedding(&self) -> &Embedding;
    /// The same, to change.
    fn embedding_mut(&mut self) -> &mut Embedding;
    /// How many blocks it has.
    fn layer_count(&self) -> usize;
    /// A copy that shares every array.
    fn boxed_clone(&self) -> Box<dyn Decoder>;
}

/// A decoder without its head, as an architecture's file builds it.
pub(crate) struct Built {
    pub(crate) decoder: Box<dyn Decoder>,
    pub(crate) hidden_size: i32,
    pub(crate) vocabulary: i32,
    /// What `config.json` says of the head; `None` leaves it to whether there is an `lm_head`.
    pub(crate) tied: Option<bool>,
    /// logits → cap · tanh(logits / cap).
    pub(crate) softcap: Option<f32>,
    /// logits → logits · scale.
    pub(crate) logit_scale: Option<f32>,
}

/// What a builder needs.
pub(crate) struct Builder<'a> {
    pub(crate) loader: &'a Loader,
    /// The table of `config.json` that describes the text model.
    pub(crate) config: &'a Value,
    /// All of `config.json`.
    pub(crate) whole_config: &'a Value,
    /// What every tensor name begins with (`language_model` in a multimodal folder).
    pub(crate) prefix: &'a str,
    pub(crate) quantization: &'a QuantizationSettings,
}

impl Builder<'_> {
    /// Reads the architecture's `ModelArgs`, which see no nulls and only transformers 4's names.
    pub(crate) fn args<T: serde::de::DeserializeOwned>(&self) -> Result<T, String> {
        serde_json::from_value(normalized(self.config)).map_err(|error| error.to_string())
    }

    pub(crate) fn linear(&self, path: &str, inputs: i32, outputs: i32, bias: bool) -> Linear {
        Linear::load(self.loader, path, (inputs, outputs), bias, self.quantization)
    }

    pub(crate) fn embedding(&self, path: &str, vocabulary: i32, width: i32) -> Embedding {
        Embedding::load(self.loader, path, vocabulary, width, self.quantization)
    }

    pub(crate) fn norm(&self, path: &str, width: i32) -> Array {
        self.loader.take(&join(path, "weight"), &[width])
    }
}

type Build = fn(&Builder<'_>) -> Result<Built, String>;

/// Every `model_type` that can be loaded.
const ARCHITECTURES: &[(&str, Build)] = &[
    ("cohere", cohere::build),
    ("gemma2", gemma2::build),
    ("gemma3", gemma3::build_multimodal),
    ("gemma3_text", gemma3::build),
    ("llama", llama::build),
    ("mistral", mistral::build),
    ("phi3", phi3::build),
    ("qwen2", qwen2::build),
    ("qwen3", qwen3::build),
];

/// The `model_type`s that can be loaded, sorted.
pub fn supported_model_types() -> Vec<&'static str> {
    ARCHITECTURES.iter().map(|(name, _)| *name).collect()
}

/// How to load a model.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoadOptions {
    /// The type to compute in; `None` keeps the type of the weights.
    pub dtype: Option<Dtype>,
    /// Keep an unpacked twin of every packed weight (a CPU should: its packed products are very slow).
    pub unpack: bool,
}

impl LoadOptions {
    /// What suits a backend: the type asked for, and unpacked weights on a CPU.
    pub fn on(backend: &mlx_ext::Backend, dtype: ComputeDtype) -> Self {
        Self { dtype: Some(dtype.on(backend)), unpack: !backend.is_gpu() }
    }
}

/// The type a model computes in, as a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ComputeDtype {
    /// `float32` on a CPU, `bfloat16` on a GPU.
    Auto,
    /// 32 bits.
    Float32,
    /// 16 bits with the exponent of 32.
    Bfloat16,
    /// 16 bits, IEEE.
    Float16,
}

impl ComputeDtype {
    /// The type itself.
    pub fn on(self, backend: &mlx_ext::Backend) -> Dtype {
        match self {
            Self::Auto if backend.is_gpu() => Dtype::Bfloat16,
            Self::Auto | Self::Float32 => Dtype::Float32,
            Self::Bfloat16 => Dtype::Bfloat16,
            Self::Float16 => Dtype::Float16,
        }
    }

    /// Its name, as it enters a key.
    pub fn name(self, backend: &mlx_ext::Backend) -> &'static str {
        match self.on(backend) {
            Dtype::Bfloat16 => "bfloat16",
            Dtype::Float16 => "float16",
            _ => "float32",
        }
    }
}

/// How a pass is run that makes a gradient; no cache goes with it.
#[derive(Clone, Copy, Default)]
pub struct Pass<'a> {
    /// Whether only what stands between blocks is kept for the gradient, and the rest computed again.
    pub recompute: bool,
    /// A block, and the states that enter it ([`Model::entering`]); `None` starts at the tokens.
    pub from: Option<(usize, &'a Array)>,
}

/// The parts of a head: logits = cap · tanh(scale · adapted(hidden) / cap).
pub struct Head<'a> {
    /// `[V, D]`.
    pub weight: &'a Weight,
    /// The trained difference, of a head that is not the token embedding.
    pub adapter: Option<&'a Adapter>,
    /// logits → cap · tanh(logits / cap), after the scale.
    pub softcap: Option<f32>,
    /// logits → logits · scale.
    pub scale: Option<f32>,
}

/// A language model: backbone and head.
pub struct Model {
    decoder: Box<dyn Decoder>,
    lm_head: Option<Linear>,
    prefix: String,
    hidden_size: i32,
    vocabulary: i32,
    softcap: Option<f32>,
    logit_scale: Option<f32>,
    config: Value,
}

impl Clone for Model {
    fn clone(&self) -> Self {
        Self {
            decoder: self.decoder.boxed_clone(),
            lm_head: self.lm_head.clone(),
            prefix: self.prefix.clone(),
            config: self.config.clone(),
            ..*self
        }
    }
}

impl Model {
    /// Loads a Hugging Face model folder.
    ///
    /// # Errors
    ///
    /// Fails when the architecture is not supported, and names every missing, unknown and mis-shaped tensor.
    pub fn load(folder: &Path, options: &LoadOptions) -> Result<Self> {
        let config_path = folder.join("config.json");
        let config = read_config(&config_path)?;
        let tensors = sanitize(TensorFiles::open(folder)?.arrays()?);
        Self::build(&config_path, config, tensors, options)
    }

    /// Makes a model of `config` with fresh weights drawn from `seed`: normal with standard deviation 0.02, norms at
    /// their neutral value, biases zero.
    pub fn random(config_path: &Path, seed: u64) -> Result<Self> {
        let config = read_config(config_path)?;
        let (shapes, neutral) = parameter_shapes(config_path, &config)?;
        let mut tensors = BTreeMap::new();
        for (index, (name, shape)) in shapes.iter().enumerate() {
            let constant = match name.rsplit_once('.') {
                Some((_, "bias")) => Some(0.0),
                Some((path, _)) if path.ends_with("norm") => Some(neutral),
                _ => None,
            };
            let array = if let Some(constant) = constant {
                mlx_rs::ops::full::<f32>(shape, Array::from_f32(constant))?
            } else {
                let key = mlx_rs::random::key(seed.wrapping_mul(1_000_003).wrapping_add(index as u64))?;
                mlx_rs::random::normal::<f32>(shape, None, Some(0.02), &key)?
            };
            tensors.insert(name.clone(), array);
        }
        Self::build(config_path, config, tensors, &LoadOptions::default())
    }

    fn build(
        config_path: &Path,
        config: Value,
        tensors: BTreeMap<String, Array>,
        options: &LoadOptions,
    ) -> Result<Self> {
        let bad = |reason: String| Error::Config { path: config_path.to_owned(), reason };
        let folder = config_path.parent().unwrap_or(Path::new("."));
        let quantization = quantization_settings(&config, options.unpack).map_err(bad)?;
        let (text_config, prefix) = text_part(&config);
        let loader = Loader::new(tensors, options.dtype);
        let builder = Builder {
            loader: &loader,
            config: text_config,
            whole_config: &config,
            prefix,
            quantization: &quantization,
        };
        let built = builder_of(config_path, &config)?(&builder).map_err(bad)?;
        let head = join(prefix, "lm_head");
        let has_head = loader.has(&join(&head, "weight"));
        let lm_head = (!built.tied.unwrap_or(!has_head))
            .then(|| builder.linear(&head, built.hidden_size, built.vocabulary, false));
        if lm_head.is_none() && has_head {
            // Some tied checkpoints carry the head twice.
            for part in ["weight", "scales", "biases"].map(|part| join(&head, part)) {
                if loader.has(&part) {
                    loader.take_raw(&part);
                }
            }
        }
        let prefix = prefix.to_owned();
        loader.finish(folder)?;
        let model = Self {
            decoder: built.decoder,
            lm_head,
            prefix,
            hidden_size: built.hidden_size,
            vocabulary: built.vocabulary,
            softcap: built.softcap,
            logit_scale: built.logit_scale,
            config,
        };
        model.evaluate()?;
        Ok(model)
    }

    /// Evaluates every weight once, so that no step carries the work of loading.
    fn evaluate(&self) -> Result<()> {
        let mut copy = self.clone();
        let arrays: Vec<Array> = copy.parameters().into_values().collect();
        Ok(mlx_rs::transforms::eval(&arrays)?)
    }

    /// `config.json` as it was read.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// Width of the residual stream, D.
    pub fn hidden_size(&self) -> i32 {
        self.hidden_size
    }

    /// Number of tokens the head scores, V.
    pub fn vocabulary(&self) -> i32 {
        self.vocabulary
    }

    /// Number of blocks.
    pub fn layer_count(&self) -> usize {
        self.decoder.layer_count()
    }

    /// Token ids → what the head reads, `[B, L, D]`.
    pub fn hidden(&self, input: Input<'_>) -> mlx_ext::Result<Array> {
        self.decoder.hidden(input, Pass::default())
    }

    /// As [`Model::hidden`], for a gradient.
    pub fn hidden_with(&self, input: Input<'_>, pass: Pass<'_>) -> mlx_ext::Result<Array> {
        debug_assert!(input.cache.is_none(), "a cache has no gradient");
        self.decoder.hidden(input, pass)
    }

    /// Token ids → the states that enter a block, `[B, L, D]`; [`Model::hidden_with`] goes on from there.
    pub fn entering(&self, input: Input<'_>, block: usize) -> mlx_ext::Result<Array> {
        debug_assert!(
            input.cache.is_none(),
            "a pass through a part of the blocks leaves a cache half filled"
        );
        self.decoder.entering(input, block)
    }

    /// Calls `visitor` on the arrays of the head that may train.
    pub fn visit_head(&mut self, visitor: &mut dyn FnMut(&mut Array)) {
        match &mut self.lm_head {
            Some(head) => crate::backbone::each_that_may_train(head, visitor),
            None => crate::backbone::each_that_may_train(self.decoder.embedding_mut(), visitor),
        }
    }

    /// What the head makes of hidden states: `[..., D]` → `[..., V]`.
    pub fn logits(&self, hidden: &Array) -> mlx_ext::Result<Array> {
        let mut logits = match &self.lm_head {
            Some(head) => head.forward(hidden)?,
            None => self.decoder.embedding().weight.project(hidden)?,
        };
        if let Some(scale) = self.logit_scale {
            logits = logits.multiply(crate::scalar(scale, &logits)?)?;
        }
        if let Some(cap) = self.softcap {
            let cap = crate::scalar(cap, &logits)?;
            logits = ops::tanh(logits.divide(&cap)?)?.multiply(&cap)?;
        }
        Ok(logits)
    }

    /// The head in its parts.
    pub fn head(&self) -> Head<'_> {
        let (weight, adapter) = match &self.lm_head {
            Some(Linear { weight, adapter, bias: None, .. }) => (weight, adapter.as_ref()),
            Some(_) => unreachable!("a head is built without a bias"),
            None => (&self.decoder.embedding().weight, None),
        };
        Head { weight, adapter, softcap: self.softcap, scale: self.logit_scale }
    }

    /// Whether the head reads the token embedding.
    pub fn has_tied_head(&self) -> bool {
        self.lm_head.is_none()
    }

    /// Calls `visitor` on every layer, under its checkpoint name and always in the same order.
    pub fn visit(&mut self, visitor: &mut dyn FnMut(&str, Layer<'_>)) {
        let prefix = join(&self.prefix, "model");
        self.decoder.visit(&prefix, visitor);
        if let Some(head) = &mut self.lm_head {
            visitor(&join(&self.prefix, "lm_head"), Layer::Linear(head));
        }
    }

    /// Every array of the model by name: weights, biases and adapters.
    pub fn parameters(&mut self) -> BTreeMap<String, Array> {
        let mut all = BTreeMap::new();
        self.visit_parameters(&mut |name, array| {
            all.insert(name.to_owned(), array.clone());
        });
        all
    }

    /// Calls `visitor` on every array of the model, by name.
    pub fn visit_parameters(&mut self, visitor: &mut dyn FnMut(&str, &mut Array)) {
        self.visit(&mut |path, layer| match layer {
            Layer::Norm(weight) => visitor(&join(path, "weight"), weight),
            Layer::Embedding(embedding) => embedding.weight.visit(path, visitor),
            Layer::Linear(linear) => {
                linear.weight.visit(path, visitor);
                if let Some(bias) = &mut linear.bias {
                    visitor(&join(path, "bias"), bias);
                }
                if let Some(adapter) = &mut linear.adapter {
                    visitor(&join(path, "lora_a"), &mut adapter.a);
                    visitor(&join(path, "lora_b"), &mut adapter.b);
                    if let Some(magnitude) = &mut adapter.magnitude {
                        visitor(&join(path, "m"), magnitude);
                    }
                }
            }
        });
    }
}

fn read_config(path: &Path) -> Result<Value> {
    let text = fs_err::read_to_string(path)?;
    serde_json::from_str(&text)
        .map_err(|error| Error::Config { path: path.to_owned(), reason: error.to_string() })
}

fn builder_of(path: &Path, config: &Value) -> Result<Build> {
    let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or("(none)");
    let found = ARCHITECTURES.iter().find(|(name, _)| *name == model_type);
    found.map(|(_, build)| *build).ok_or_else(|| Error::Unsupported {
        path: path.to_owned(),
        model_type: model_type.to_owned(),
        supported: supported_model_types(),
    })
}

/// The part of `config.json` that describes the text model, and what its tensors' names begin with.
fn text_part(config: &Value) -> (&Value, &'static str) {
    match config.get("text_config").filter(|text| !text.is_null()) {
        Some(text) => (text, "language_model"),
        None => (config, ""),
    }
}

/// Brings the names that other tools write to ours: drops the vision part and buffers that hold no weight.
fn sanitize(tensors: BTreeMap<String, Array>) -> BTreeMap<String, Array> {
    tensors
        .into_iter()
        .filter(|(name, _)| {
            let vision = [
                "vision_tower.",
                "multi_modal_projector.",
                "model.vision_tower.",
                "model.multi_modal_projector.",
            ];
            !vision.iter().any(|part| name.starts_with(part)) && !name.ends_with("rotary_emb.inv_freq")
        })
        .map(|(name, array)| (canonical_name(&name), array))
        .collect()
}

/// Returns our name of a stored tensor: transformers 5 turned `language_model.model.` into `model.language_model.`
pub fn canonical_name(stored: &str) -> String {
    match stored.strip_prefix("model.language_model.") {
        Some(rest) => format!("language_model.model.{rest}"),
        None => stored.to_owned(),
    }
}

fn quantization_settings(config: &Value, unpack: bool) -> Result<QuantizationSettings, String> {
    let mut settings = QuantizationSettings { unpack, ..Default::default() };
    let tables = ["quantization", "quantization_config"].map(|name| config.get(name));
    let Some(table) = tables.into_iter().flatten().find(|table| !table.is_null()) else {
        return Ok(settings);
    };
    let table = table.as_object().ok_or("`quantization` is not a table")?;
    if let (Some(method), false) =
        (table.get("quant_method"), table.contains_key("bits") && table.contains_key("mode"))
    {
        return Err(format!("weights quantized by {method} are not supported"));
    }
    let read = |table: &serde_json::Map<String, Value>| -> Result<Quantization, String> {
        let number = |name: &str| table.get(name).and_then(Value::as_i64).map(|number| number as i32);
        let mode = table.get("mode").and_then(Value::as_str).unwrap_or("affine");
        Ok(Quantization {
            bits: number("bits").ok_or("`quantization` lacks `bits`")?,
            group_size: number("group_size").ok_or("`quantization` lacks `group_size`")?,
            mode: QuantizationMode::from_name(mode)
                .ok_or(format!("quantization mode `{mode}` is not supported"))?,
        })
    };
    // Tensors tell their widths themselves; this only refuses what is not known.
    read(table)?;
    for (path, value) in table {
        if let Some(table) = value.as_object() {
            settings.overrides.insert(path.clone(), read(table)?);
        }
    }
    Ok(settings)
}

/// Names and shapes of the parameters that `config` describes, and the neutral value of its norms.
fn parameter_shapes(path: &Path, config: &Value) -> Result<(BTreeMap<String, Vec<i32>>, f32)> {
    let bad = |reason: String| Error::Config { path: path.to_owned(), reason };
    let quantization = QuantizationSettings::default();
    let (text_config, prefix) = text_part(config);
    // An empty set of tensors hands out stand-ins of the right shapes.
    let loader = Loader::new(BTreeMap::new(), None);
    let builder = Builder {
        loader: &loader,
        config: text_config,
        whole_config: config,
        prefix,
        quantization: &quantization,
    };
    let built = builder_of(path, config)?(&builder).map_err(bad)?;
    let tied = built.tied.unwrap_or(true);
    let lm_head =
        (!tied).then(|| builder.linear(&join(prefix, "lm_head"), built.hidden_size, built.vocabulary, false));
    let mut model = Model {
        decoder: built.decoder,
        lm_head,
        prefix: prefix.to_owned(),
        hidden_size: built.hidden_size,
        vocabulary: built.vocabulary,
        softcap: None,
        logit_scale: None,
        config: Value::Null,
    };
    let shapes = model.parameters().into_iter().map(|(name, array)| (name, array.shape().to_vec())).collect();
    let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
    // Gemma's norms multiply by 1 + weight.
    Ok((shapes, if model_type.starts_with("gemma") { 0.0 } else { 1.0 }))
}
