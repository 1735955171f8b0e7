//! Merges trained adapters into their base model and measures the cost.
//!
//! The result is a complete Hugging Face folder. Tensors without an adapter keep their bytes. A quantized base is
//! dequantized, or its changed layers are quantized again. The loss of the fused model on the validation split is compared
//! with that of the adapter, and a model that lost too much is refused.

mod card;
pub mod gguf;
mod write;

use std::path::Path;

use dataset::Split;
use failure::{Context as _, Error, Kind, Result};
use mlx_ext::Backend;
use mlx_rs::{Array, Dtype};
use models::{ComputeDtype, LoadOptions, Model};
use outputs::{Document as _, FusionCost};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use stage::{Input, Job, Run};
use tuner::Batch;

use crate::gguf::Gguf;

/// Treatment of a quantized base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quantized {
    /// The fused model is not quantized: no precision is lost, but it needs more memory.
    Dequantize,
    /// Changed layers are quantized again with the settings of the base.
    Requantize,
}

/// Settings of the stage `fuse`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `auto`, `float32`, `bfloat16` or `float16`: the type in which losses are measured.
    pub dtype: ComputeDtype,
    /// `dequantize` or `requantize`.
    pub quantized: Quantized,
    /// Largest increase of the loss from the adapter to the fused model, in nats per target.
    pub max_loss_increase: f64,
    /// Number of rows scored together.
    pub batch_size: usize,
    /// `f16` or `q8_0`: also write the fused model as one GGUF file; empty for none.
    pub gguf: Gguf,
    /// Also write the adapters in PEFT's format.
    pub peft: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            dtype: ComputeDtype::Auto,
            quantized: Quantized::Dequantize,
            max_loss_increase: 0.01,
            batch_size: 16,
            gguf: Gguf::None,
            peft: false,
        }
    }
}

impl stage::Config for Config {
    const STAGE: &'static str = "fuse";
    const VERSION: u32 = 4;

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.batch_size == 0 {
            problems.push("`batch_size` must be at least 1".to_owned());
        }
        if self.max_loss_increase < 0.0 {
            problems.push("`max_loss_increase` must not be negative".to_owned());
        }
        if self.gguf != Gguf::None && self.quantized == Quantized::Requantize {
            problems
                .push("`gguf` needs `quantized = \"dequantize\"`, because it has its own formats".to_owned());
        }
        problems
    }

    fn slug(&self) -> String {
        "fused".to_owned()
    }
}

/// Folders and files that a run reads.
pub struct Inputs<'a> {
    /// The base model.
    pub model: &'a Path,
    /// The adapters.
    pub adapters: &'a Path,
    /// `tokens` of a dataset; its validation split is scored.
    pub tokens: &'a Path,
    /// `import.json` of the base model, if there is one.
    pub origin: Option<&'a Path>,
    /// `stats.json` of the dataset, if there is one.
    pub stats: Option<&'a Path>,
    /// `rows` of the dataset, if there are any: each row names its source file.
    pub rows: Option<&'a Path>,
}

/// Number of rows whose logits are compared.
const COMPARED_ROWS: usize = 4;

/// Bytes of dequantized weights per byte of quantized ones, from 4 bits to 16.
const DEQUANTIZED_GROWTH: u64 = 4;

/// Opens another output of the artifact of `input` for the model card; `None` if it has no such output.
///
/// # Errors
///
/// As [`Run::input`].
pub fn optional_input(
    run: &mut Run<Config>,
    role: &str,
    input: &Input,
    locator: &Path,
    output: &str,
) -> Result<Option<Input>> {
    let exists = input.artifact().is_some() && input.manifest().outputs.contains_key(output);
    exists.then(|| run.input(role, locator, output)).transpose()
}

/// Estimates how many bytes a run writes for the base model in `model`.
pub fn expected_bytes(model: &Input, config: &Config) -> u64 {
    let files = model.manifest().files.iter();
    let is_model = |file: &&artifact::File| model.artifact().is_none() || file.role == outputs::MODEL;
    let model_bytes: u64 = files.filter(is_model).map(|file| file.size).sum();
    let base_config = read_json(&model.path().join("config.json"));
    let is_quantized = base_config.is_ok_and(|config| config.get("quantization").is_some());
    let growth = match config.quantized {
        Quantized::Dequantize if is_quantized => DEQUANTIZED_GROWTH,
        _ => 1,
    };
    let fused = model_bytes * growth;
    match config.gguf {
        Gguf::None => fused,
        Gguf::F16 | Gguf::Q8_0 => fused * 2,
    }
}

/// Runs the stage and reports its cost.
///
/// # Errors
///
/// As [`run`].
pub fn run_job(inputs: &Inputs<'_>, config: &Config, backend: &Backend, job: &mut Job) -> Result<()> {
    let cost = run(inputs, config, backend, job.out())?;
    let FusionCost { adapter_loss, fused_loss, max_logit_difference, .. } = cost;
    job.summary(format!(
        "validation loss {adapter_loss:.4} with the adapter, {fused_loss:.4} fused; logits differ by at most \
         {max_logit_difference:.1e}"
    ));
    job.metric("adapter_loss", adapter_loss);
    job.metric("fused_loss", fused_loss);
    Ok(())
}

/// Writes `model/`, `fuse.json` and, if the settings ask for them, `gguf/` and `peft/` into `out`.
///
/// # Errors
///
/// Fails when the adapters do not fit the model, or when the loss increases more than the settings allow.
pub fn run(inputs: &Inputs<'_>, config: &Config, backend: &Backend, out: &Path) -> Result<FusionCost> {
    if config.gguf != Gguf::None {
        gguf::check(inputs.model)?;
    }
    let options = LoadOptions::on(backend, config.dtype);
    let mut adapted = Model::load(inputs.model, &options).context("loading the model")?;
    let trained = tuner::load_adapters(&mut adapted, inputs.adapters).context("loading the adapters")?;
    let folder = out.join("model");
    write::fused_folder(inputs.model, &mut adapted, &trained.names, config.quantized, &folder)?;
    let fused = Model::load(&folder, &options).context("loading the fused model")?;
    let cost = measure(&adapted, &fused, inputs.tokens, config.batch_size)?;
    check_cost(&cost, config.max_loss_increase)?;
    cost.write(out)?;
    card::write(inputs, config, &cost, &folder)?;
    if config.peft {
        tuner::save_peft(&mut adapted, &out.join("peft")).context("writing adapters for PEFT")?;
    }
    if config.gguf != Gguf::None {
        let name = if config.gguf == Gguf::F16 { "model-f16.gguf" } else { "model-q8_0.gguf" };
        fs_err::create_dir_all(out.join("gguf"))?;
        gguf::export(&folder, config.gguf, &out.join("gguf").join(name)).context("writing GGUF")?;
    }
    Ok(cost)
}

/// Scores both models on the validation split and compares their logits on its first rows.
fn measure(adapted: &Model, fused: &Model, tokens: &Path, batch_size: usize) -> Result<FusionCost> {
    let split = Split::open(&tokens.join("validation.safetensors"))?;
    let adapter_score = tuner::score(adapted, &split, "validation", batch_size)?;
    let fused_score = tuner::score(fused, &split, "validation", batch_size)?;
    let rows: Vec<u32> = (0..split.len().min(COMPARED_ROWS) as u32).collect();
    let batch = Batch::of_rows(&split, &rows, 1);
    Ok(FusionCost {
        adapter_loss: adapter_score.mean_loss(),
        fused_loss: fused_score.mean_loss(),
        max_logit_difference: max_difference(&logits(adapted, &batch)?, &logits(fused, &batch)?)?.into(),
        tokens: adapter_score.tokens(),
    })
}

fn logits(model: &Model, batch: &Batch) -> models::Result<Array> {
    let logits = model.logits(&model.hidden(models::Input::tokens(&batch.tokens))?)?;
    Ok(logits.as_dtype(Dtype::Float32)?)
}

fn max_difference(a: &Array, b: &Array) -> models::Result<f32> {
    Ok(a.subtract(b)?.abs()?.max(None)?.item_exact())
}

/// Fails when the fused model's loss is more than `max_increase` above the adapter's.
fn check_cost(cost: &FusionCost, max_increase: f64) -> Result<()> {
    let FusionCost { adapter_loss, fused_loss, .. } = cost;
    let increase = fused_loss - adapter_loss;
    if increase <= max_increase {
        return Ok(());
    }
    let message = format!(
        "the validation loss of the fused model is {fused_loss:.4}, {increase:.4} above the adapter's \
         {adapter_loss:.4}; the limit is {max_increase}"
    );
    Err(Error::failed(message)
        .hinted("set `fuse.quantized` to `dequantize`, or raise the limit with `fuse.max_loss_increase`"))
}

/// Reads a JSON file that a user or another tool wrote.
fn read_json(path: &Path) -> Result<Value> {
    let bytes = fs_err::read(path)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::wrap(Kind::BadInput, error))
        .with_context(|| format!("reading `{}`", path.display()))
}
