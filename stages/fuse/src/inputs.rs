//! Inputs of the stage and the size of its result.

use std::path::Path;

use failure::Result;
use stage::{Input, Run};

use crate::config::{Config, Quantized};
use crate::gguf::Gguf;
use crate::json::read_json;

/// Bytes of dequantized weights per byte of quantized ones, from 4 bits to 16.
const DEQUANTIZED_GROWTH: u64 = 4;

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
    let exports = u64::from(config.gguf != Gguf::None) + u64::from(config.quantize.is_some());
    model_bytes * growth * (1 + exports)
}
