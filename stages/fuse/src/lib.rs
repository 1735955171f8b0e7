//! Works trained adapters into their base model, and measures what that costs.
//!
//! The result is a complete Hugging Face folder. Tensors that no adapter touches keep their bytes. A quantized base is
//! either unpacked as a whole, or packed again after the change; the loss of the result is held against that of the
//! adapter on held-out rows, and a result that lost too much is refused.

mod card;
pub mod gguf;
mod write;

use anyhow::{Context, Result, bail};
use dataset::Split;
use gguf::Gguf;
use mlx_ext::Backend;
use models::{ComputeDtype, LoadOptions, Model};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::Path;
use tuner::Batch;

/// What becomes of a quantized base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quantized {
    /// The fused model is not quantized: nothing is lost, and it takes more room.
    Dequantize,
    /// Changed layers are packed again, with the base's own settings.
    Requantize,
}

/// Settings of the stage `fuse`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `auto`, `float32`, `bfloat16` or `float16`: what losses are measured in.
    pub dtype: ComputeDtype,
    /// `dequantize` or `requantize`.
    pub quantized: Quantized,
    /// How much higher the fused model's loss may be than the adapter's, in nats a token.
    pub max_loss_increase: f64,
    /// Rows scored together.
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
    const VERSION: u32 = 3;

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.batch_size == 0 {
            problems.push("`batch_size` must be at least 1".to_owned());
        }
        if self.max_loss_increase < 0.0 {
            problems.push("`max_loss_increase` must not be negative".to_owned());
        }
        if self.gguf != Gguf::None && self.quantized == Quantized::Requantize {
            problems.push(
                "`gguf` needs `quantized = \"dequantize\"`: it has packed formats of its own".to_owned(),
            );
        }
        problems
    }

    fn slug(&self) -> String {
        "fused".to_owned()
    }
}

/// The folders a run reads.
pub struct Inputs<'a> {
    /// The base model.
    pub model: &'a Path,
    /// The adapters.
    pub adapters: &'a Path,
    /// A dataset's `tokens`, whose validation split is scored.
    pub tokens: &'a Path,
    /// `import.json` of the base model, if it has one.
    pub origin: Option<&'a Path>,
    /// `stats.json` of the dataset, if it has one.
    pub stats: Option<&'a Path>,
    /// `rows` of the dataset, if it has them: they name the files that they came from.
    pub rows: Option<&'a Path>,
}

/// What fusing cost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Cost {
    /// Validation loss with the adapter beside the base, in nats a token.
    pub adapter_loss: f64,
    /// Validation loss of the fused model.
    pub fused_loss: f64,
    /// The largest difference between any two of their logits, on the first rows.
    pub max_logit_difference: f32,
    /// Targets scored.
    pub tokens: u64,
}

/// Rows whose logits are compared one by one.
const COMPARED_ROWS: usize = 4;

/// Writes `model/`, `fuse.json` and, where asked for, `gguf/` and `peft/` into `out`.
///
/// # Errors
///
/// Fails when the adapters do not fit the model, or when the fused model's loss is too much higher.
pub fn run(inputs: &Inputs<'_>, config: &Config, backend: &Backend, out: &Path) -> Result<Cost> {
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
    let increase = cost.fused_loss - cost.adapter_loss;
    if increase > config.max_loss_increase {
        bail!(
            "the fused model's validation loss is {:.4}, {increase:.4} above the adapter's {:.4}; allowed are {}\n\
             hint: set fuse.quantized = \"dequantize\", or allow more with fuse.max_loss_increase",
            cost.fused_loss,
            cost.adapter_loss,
            config.max_loss_increase
        );
    }
    let text = serde_json::to_string_pretty(&json!(cost)).expect("plain numbers");
    fs_err::write(out.join("fuse.json"), text + "\n")?;
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

fn measure(adapted: &Model, fused: &Model, tokens: &Path, batch_size: usize) -> Result<Cost> {
    let split = Split::open(&tokens.join("validation.safetensors"))?;
    let adapter = tuner::score(adapted, &split, "validation", batch_size)?;
    let scored = tuner::score(fused, &split, "validation", batch_size)?;
    let rows: Vec<u32> = (0..split.len().min(COMPARED_ROWS) as u32).collect();
    let batch = Batch::of_rows(&split, &rows, 1);
    let logits = |model: &Model| -> Result<mlx_rs::Array> {
        let logits = model.logits(&model.hidden(models::Input::tokens(&batch.tokens))?)?;
        Ok(logits.as_dtype(mlx_rs::Dtype::Float32)?)
    };
    let difference = logits(adapted)?.subtract(logits(fused)?)?.abs()?.max(None)?;
    Ok(Cost {
        adapter_loss: adapter.mean_loss(),
        fused_loss: scored.mean_loss(),
        max_logit_difference: difference.item_exact(),
        tokens: adapter.tokens(),
    })
}
