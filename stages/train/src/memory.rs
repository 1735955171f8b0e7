//! Estimate of the memory that a run needs, from sizes alone: within 15 % of ten measured runs on a CPU (`tests/memory.rs`).

use std::fmt;
use std::path::Path;

use failure::{Error, Result};
use mlx_ext::Backend;
use models::{Layer, LoadOptions, Model, Section};
use serde_json::Value;
use tuner::FineTuneType;

use crate::config::Config;
use crate::inputs::Inputs;

/// On a GPU, a recomputed block peaks at roughly the memory that this many blocks otherwise retain: its activations, their
/// gradients, and work that runs ahead.
const RECOMPUTED_LAYERS: usize = 7;

/// Bytes of a process beside its arrays, on a CPU: code, and free memory that the C library's allocator keeps.
const PROCESS_BYTES: usize = 80 << 20;

/// Copies of the gradient of an embedding that exist while the shares of the chunks of the head and of the rows are added.
const EMBEDDING_GRADIENTS: usize = 3;

/// Memory of a run at its peak, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// Frozen weights of the model.
    pub weights: usize,
    /// Trainable parameters and the optimizer's moments.
    pub trained: usize,
    /// Gradients of the trainable parameters. They are complete only when no activations are left.
    pub gradients: usize,
    /// Activations that the forward pass keeps for the backward pass.
    pub activations: usize,
    /// Logits of one chunk and their gradient.
    pub head: usize,
    /// The process without its arrays.
    pub process: usize,
}

impl Estimate {
    /// Estimates a run from the longest row of the training split.
    ///
    /// # Errors
    ///
    /// Fails when the model or the training split cannot be read, or does not fit the settings.
    pub fn new(inputs: &Inputs<'_>, config: &Config, backend: &Backend) -> Result<Self> {
        Self::of_section(inputs, config, backend, Section::WHOLE)
    }

    /// As [`Estimate::new`], for one of several processes that share the blocks of the model.
    ///
    /// # Errors
    ///
    /// As [`Estimate::new`], and when the model cannot be shared in this way.
    pub fn of_section(
        inputs: &Inputs<'_>,
        config: &Config,
        backend: &Backend,
        section: Section,
    ) -> Result<Self> {
        let sizes = Sizes::read(inputs.model, config, backend, section)?;
        let split = inputs.open_split("train")?;
        let longest = (0..split.len()).map(|row| split.row_length(row)).max().unwrap_or(1);
        // No micro-batch has more lines than the split has rows.
        let config = Config { batch_size: config.batch_size.min(split.len().max(1)), ..config.clone() };
        Ok(Self::of(&sizes, longest, &config, backend))
    }

    fn of(sizes: &Sizes, longest: usize, config: &Config, backend: &Backend) -> Self {
        let length = if config.pack_tokens > 0 { config.pack_tokens } else { longest };
        let length = length.next_multiple_of(config.pad_to());
        let tokens = config.lines_together().saturating_mul(length);
        let rows = tokens.min(tuner::head_chunk_rows(sizes.vocabulary as i32));
        let numbers = |shape: &Vec<i32>| shape.iter().map(|&extent| extent as usize).product::<usize>();
        let trainable: usize = sizes.trainable.iter().map(numbers).sum();
        let embeddings = sizes.trainable.iter().filter(|shape| shape[0] as usize == sizes.vocabulary);
        let embeddings: usize = embeddings.map(numbers).sum();
        let moments = config.optimizer().state_bytes(sizes.trainable.iter().map(Vec::as_slice));
        Self {
            weights: sizes.frozen_bytes,
            // Parameters and gradients are `f32`.
            trained: 4 * trainable + moments,
            gradients: 4 * (trainable + EMBEDDING_GRADIENTS * embeddings),
            activations: sizes.activations(length, config, backend),
            head: if sizes.has_head { 2 * 4 * rows * sizes.vocabulary } else { 0 },
            process: if backend.is_gpu() { 0 } else { PROCESS_BYTES },
        }
    }

    /// Returns the largest sum of what exists at one time.
    pub fn total(&self) -> usize {
        self.constant().saturating_add(self.gradients.max(self.activations.saturating_add(self.head)))
    }

    /// Returns what exists all the time.
    fn constant(&self) -> usize {
        self.weights + self.trained + self.process
    }

    /// Returns whether the run cannot fit into `limit` even if the estimate is much too high.
    fn is_hopeless(&self, limit: usize) -> bool {
        self.constant().saturating_add(self.gradients.max(self.activations / 2 + self.head)) > limit
    }

    /// Checks that the run can fit into `limit`; warns if it may not.
    ///
    /// # Errors
    ///
    /// Fails if the run cannot fit, and names the settings to change.
    pub fn check(&self, limit: usize) -> Result<()> {
        if self.is_hopeless(limit) {
            let message = format!("the run needs about {self}, but the limit is {}", gigabytes(limit));
            return Err(Error::failed(message).hinted(self.remedy()));
        }
        if self.total() > limit {
            tracing::warn!(
                "the run may not fit into memory: it needs about {self}, and the limit is {}; {}",
                gigabytes(limit),
                self.remedy()
            );
        }
        Ok(())
    }

    /// Returns advice for `--plan` if the run may not fit into `limit`.
    pub fn advice(&self, limit: usize) -> Option<String> {
        let verdict = if self.is_hopeless(limit) { "does not fit" } else { "may not fit" };
        (self.total() > limit)
            .then(|| format!("{verdict} into the limit of {}; {}", gigabytes(limit), self.remedy()))
    }

    /// Returns the settings to change, by what needs most of the memory.
    fn remedy(&self) -> &'static str {
        if self.activations > self.weights.max(self.trained + self.gradients) {
            "lower `batch_size` (and raise `accumulation`), set gradient_checkpointing = true, lower `num_layers` or \
             prepare-data's `max_tokens`, or raise `--max-memory`"
        } else if self.trained + self.gradients > self.weights {
            "lower `num_layers` or `rank`, set fine_tune_type = \"lora\" or optimizer = \"adafactor\", or raise \
             `--max-memory`"
        } else {
            "use a smaller or quantized model, set unpack = \"transient\" if it is quantized, divide the model among ranks \
             (`--shard-layers`), or raise `--max-memory`"
        }
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of memory (weights {}, trained state {}, gradients {}, activations {}, head {})",
            gigabytes(self.total()),
            gigabytes(self.weights),
            gigabytes(self.trained),
            gigabytes(self.gradients),
            gigabytes(self.activations),
            gigabytes(self.head)
        )
    }
}

/// Formats a number of bytes in decimal gigabytes.
pub(crate) fn gigabytes(bytes: usize) -> String {
    format!("{:.2} GB", bytes as f64 / 1e9)
}

/// Sizes of a model and of its trainable parameters.
struct Sizes {
    /// Number of blocks whose activations are kept.
    layers: usize,
    has_head: bool,
    width: usize,
    /// Width inside the MLP.
    inner: usize,
    heads: usize,
    /// Number of heads times their width.
    attention: usize,
    /// Number of heads of the keys times their width.
    keys: usize,
    /// Outputs of all linear maps of a block.
    outputs: usize,
    /// Norms of a block over its width.
    norms: usize,
    /// Whether queries and keys have norms.
    has_query_norms: bool,
    vocabulary: usize,
    /// Memory of the weights that are not trainable.
    frozen_bytes: usize,
    /// Shapes of the trainable parameters.
    trainable: Vec<Vec<i32>>,
}

impl Sizes {
    /// Reads the sizes of a section of the model in `folder` from its outline, without loading weights.
    fn read(folder: &Path, config: &Config, backend: &Backend, section: Section) -> Result<Self> {
        let options = LoadOptions::on(backend, config.dtype);
        let mut model = Model::outline(folder, &options)?;
        let own = model.layers().into_iter().filter(|(path, _)| model.has_in(section, path));
        let mut frozen_bytes: usize = own.map(|(_, layer)| layer.bytes()).sum();
        let weights = model.parameters();
        let trainable = tuner::attach(&mut model, &config.adapter(), config.seed)?;
        let blocks = section.blocks(model.layer_count());
        let frozen =
            if config.num_layers > 0 { model.layer_count().saturating_sub(config.num_layers) } else { 0 };
        if section != Section::WHOLE {
            tuner::check_sharing(section, model.layer_count(), &trainable)?;
        }
        let parameters = model.parameters();
        // Trainable weights are only in memory as parameters.
        for weight in trainable.names.iter().filter_map(|name| weights.get(name)) {
            frozen_bytes = frozen_bytes.saturating_sub(weight.nbytes());
        }
        let inputs_of = |layer_name: &str| {
            let layers = model.layers().into_iter();
            let inputs = layers.filter_map(|(path, layer)| match layer {
                Layer::Linear(linear) if path.ends_with(layer_name) => Some(linear.inputs as usize),
                _ => None,
            });
            inputs.max().unwrap_or(model.hidden_size() as usize)
        };
        let outputs_of = |layer_name: &str| {
            let layers = model.layers().into_iter();
            let outputs = layers.filter_map(|(path, layer)| match layer {
                Layer::Linear(linear) if path.ends_with(layer_name) => Some(linear.outputs as usize),
                _ => None,
            });
            outputs.sum::<usize>() / model.layer_count().max(1)
        };
        let norm_count = |ending: &str| weights.keys().filter(|name| name.ends_with(ending)).count();
        let of_heads = norm_count("q_norm.weight") + norm_count("k_norm.weight");
        let norms = (norm_count("norm.weight") - of_heads) / model.layer_count().max(1);
        let attention = inputs_of("self_attn.o_proj");
        let text = model.config().get("text_config").unwrap_or(model.config());
        let heads = text.get("num_attention_heads").and_then(Value::as_u64).unwrap_or(1);
        Ok(Self {
            layers: blocks.end - frozen.clamp(blocks.start, blocks.end),
            has_head: section.is_last(),
            width: model.hidden_size() as usize,
            inner: inputs_of("mlp.down_proj"),
            heads: heads as usize,
            attention,
            keys: Some(outputs_of("self_attn.k_proj")).filter(|&keys| keys > 0).unwrap_or(attention),
            outputs: outputs_of(""),
            norms,
            has_query_norms: of_heads > 0,
            vocabulary: model.vocabulary() as usize,
            frozen_bytes,
            trainable: trainable.names.iter().map(|name| parameters[name].shape().to_vec()).collect(),
        })
    }
}

impl Sizes {
    /// Returns the bytes of the activations of rows of `length` tokens that the backward pass needs.
    fn activations(&self, length: usize, config: &Config, backend: &Backend) -> usize {
        usize::try_from(self.wide_activations(length, config, backend)).unwrap_or(usize::MAX)
    }

    /// As [`Sizes::activations`], in 128 bits: lines times tokens times widths may exceed 64.
    fn wide_activations(&self, length: usize, config: &Config, backend: &Backend) -> u128 {
        let [lines, length, width, layers, heads] =
            [config.lines_together(), length, self.width, self.layers, self.heads].map(|size| size as u128);
        let float = if config.dtype.name(backend) == "float32" { 4 } else { 2 };
        let tokens = lines * length;
        let between = tokens * width * layers;
        if float == 4 && !backend.is_gpu() {
            let block = tokens * self.kept_on_host(config) as u128;
            let blocks = if config.gradient_checkpointing { block * 3 / 2 + between } else { block * layers };
            return float * blocks;
        }
        let scores = 3 * lines * heads * length * length;
        let of_token = 10 * self.width + 4 * self.attention + 6 * self.inner;
        let kept = tokens * of_token as u128 + scores;
        let kept_layers =
            if config.gradient_checkpointing { layers.min(RECOMPUTED_LAYERS as u128) } else { layers };
        // Not everything is kept: many arrays are freed early, or computed in place.
        float * (kept * kept_layers + between) * 3 / 5
    }

    /// Returns the numbers that a block keeps for one token where its kernels are ours: inputs of norms and of linear maps,
    /// queries, keys, values and what they attend to, gate and up.
    fn kept_on_host(&self, config: &Config) -> usize {
        let query_norms = if self.has_query_norms { self.attention + self.keys } else { 0 };
        let always =
            (self.norms + 2) * self.width + 2 * (self.attention + self.keys + self.inner) + query_norms;
        let is_one_function = config.fine_tune_type == FineTuneType::Lora && config.dropout == 0.0;
        match config.fine_tune_type {
            _ if is_one_function => always,
            FineTuneType::Full => always + self.inner,
            // The update of each map exists before and after it is scaled and added.
            _ => always + self.inner + self.outputs * 5 / 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tuner::{FineTuneType, OptimizerName};

    use super::*;

    /// Reads the sizes of Gemma 3 270M.
    fn gemma(config: &Config) -> Sizes {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let text = json!({
            "model_type": "gemma3_text", "hidden_size": 640, "num_hidden_layers": 18, "intermediate_size": 2048,
            "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 262_144,
            "tie_word_embeddings": true,
        });
        fs_err::write(folder.path().join("config.json"), text.to_string()).expect("a file can be written");
        Sizes::read(folder.path(), config, &cpu(), Section::WHOLE).expect("the model is supported")
    }

    fn cpu() -> Backend {
        Backend {
            name: "cpu",
            device: "x86_64".to_owned(),
            arithmetic: std::collections::BTreeMap::new(),
            memory_limit: 1 << 30,
            unpack: mlx_ext::Unpack::Auto,
        }
    }

    #[test]
    fn a_model_of_270_million_parameters_is_counted() {
        // 268,098,176 parameters of 4 bytes; adapters are not among them.
        assert_eq!(gemma(&Config::default()).frozen_bytes, 4 * 268_098_176);
    }

    #[test]
    fn settings_change_their_part_of_the_estimate() {
        let plain = Config::default();
        let estimate = |config: &Config| Estimate::of(&gemma(config), 512, config, &cpu());
        let full = Config { fine_tune_type: FineTuneType::Full, ..plain.clone() };
        assert!(estimate(&full).trained > 20 * estimate(&plain).trained);
        let recomputed = Config { gradient_checkpointing: true, ..plain.clone() };
        assert!(estimate(&recomputed).activations * 2 < estimate(&plain).activations);
        let halved = Config { batch_size: 2, ..plain.clone() };
        assert!(estimate(&plain).activations.abs_diff(estimate(&halved).activations * 2) <= 2);
        assert!(estimate(&plain).head < 600_000_000);
        let adafactor = Config { optimizer: OptimizerName::Adafactor, ..full.clone() };
        let sgd = Config { optimizer: OptimizerName::Sgd, ..full.clone() };
        let [adamw, adafactor, sgd] = [&full, &adafactor, &sgd].map(|config| estimate(config).trained);
        assert!(sgd < adafactor && adafactor < adamw, "{sgd}, {adafactor}, {adamw}");
    }

    #[test]
    fn lines_of_any_length_have_an_estimate() {
        for (name, dtype) in
            [("cpu", models::ComputeDtype::Float32), ("cuda", models::ComputeDtype::Bfloat16)]
        {
            // As many lines as a split may have rows.
            let batch_size = u32::MAX as usize;
            let config = Config { batch_size, pad_to: i32::MAX as usize, dtype, ..Config::default() };
            let estimate = Estimate::of(&gemma(&config), 100, &config, &Backend { name, ..cpu() });
            assert_eq!((estimate.activations, estimate.total()), (usize::MAX, usize::MAX), "{name}");
            assert!(estimate.check(1 << 40).is_err());
        }
    }

    #[test]
    fn a_run_that_cannot_fit_names_the_settings_to_change() {
        let config = Config { batch_size: 64, ..Config::default() };
        let estimate = Estimate::of(&gemma(&config), 2048, &config, &cpu());
        let error = estimate.check(4_000_000_000).expect_err("the run does not fit").to_string();
        assert!(error.contains("4.00 GB"), "{error}");
        assert!(estimate.check(usize::MAX).is_ok());
    }

    /// Memory of machines that presets have settings for, in GB.
    const MACHINES: [usize; 3] = [16, 32, 64];

    /// Returns the settings that `make pipeline MODEL=… MEMORY=…` gives this stage.
    fn preset(root: &Path, model: &str, gigabytes: usize) -> Config {
        let files = ["haw-eng.toml", &format!("models/{model}.toml"), &format!("memory/{gigabytes}.toml")]
            .map(|file| root.join(file));
        let store = tempfile::tempdir().expect("a temporary folder can be made");
        let common = stage::CommonArgs {
            config: files.into(),
            store: store.path().into(),
            ..stage::CommonArgs::default()
        };
        let run = stage::Run::<Config>::new(&common);
        run.unwrap_or_else(|error| panic!("{model}: {error}")).config().clone()
    }

    #[test]
    fn every_preset_fits_into_the_machines_that_it_has_settings_for() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../pipelines");
        let backend = Backend { name: "metal", ..cpu() };
        let mut presets = std::collections::BTreeSet::new();
        for entry in fs_err::read_dir(root.join("shapes")).expect("the folder is there").flatten() {
            let file = entry.file_name().to_string_lossy().into_owned();
            let Some(model) = file.strip_suffix(".json") else { continue };
            let text = fs_err::read_to_string(entry.path()).expect("the file can be read");
            let mut shape: Value = serde_json::from_str(&text).expect("the file is JSON");
            // 4 bits, with a scale and a bias of 16 bits for each group of 64.
            let bits = if shape.get("quantization").is_some() { 4.5 } else { 16.0 };
            shape.as_object_mut().expect("it is a table").remove("quantization");
            let folder = tempfile::tempdir().expect("a temporary folder can be made");
            fs_err::write(folder.path().join("config.json"), shape.to_string())
                .expect("a file can be written");
            for gigabytes in MACHINES {
                let config = preset(&root, model, gigabytes);
                let mut sizes = Sizes::read(folder.path(), &config, &backend, Section::WHOLE)
                    .unwrap_or_else(|error| panic!("{model}: {error}"));
                let weights =
                    sizes.frozen_bytes / if config.dtype.name(&backend) == "float32" { 4 } else { 2 };
                sizes.frozen_bytes = (weights as f64 * bits / 8.0) as usize;
                let estimate = Estimate::of(&sizes, 512, &config, &backend);
                let limit = gigabytes * 800_000_000;
                assert!(estimate.total() <= limit, "{model} with {gigabytes} GB needs {estimate}");
                assert_eq!(config.batch_size * config.accumulation, 4, "{model}");
            }
            let is_large = shape["hidden_size"].as_u64() >= Some(1100);
            let config = preset(&root, model, 16);
            assert_eq!((config.steps == 2000, config.patience == 5), (is_large, is_large), "{model}");
            presets.insert(format!("{model}.toml"));
        }
        // The demo is in this repository, and the sentence encoder is not trained.
        presets.extend(["demo.toml".to_owned(), "minilm.toml".to_owned()]);
        for entry in fs_err::read_dir(root.join("models")).expect("the folder is there").flatten() {
            let file = entry.file_name().to_string_lossy().into_owned();
            assert!(presets.contains(&file), "`{file}` has no shape in `pipelines/shapes`");
        }
    }
}
