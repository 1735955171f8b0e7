//! Settings of the stage.

use models::{ComputeDtype, Quantize};
use serde::{Deserialize, Serialize};

use crate::gguf::Gguf;

/// Largest increase of the loss by fusing, in nats per target, unless the settings say otherwise.
const FUSING_LIMIT: f64 = 0.01;
/// Largest increase of the loss by quantizing, in nats per target, unless the settings say otherwise.
const QUANTIZING_LIMIT: f64 = 0.1;

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
    /// Also write the fused model quantized for MLX; missing values are the defaults of the mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantize: Option<Quantize>,
    /// Largest increase of the loss by fusing and by quantizing, in nats per target; 0.01 and 0.1 if it is not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_loss_increase: Option<f64>,
    /// Number of rows scored together.
    pub batch_size: usize,
    /// `f16`, `q8_0`, `q6_k`, `q4_k_m`, `q4_0` or `q4_1`: also write the fused model as one GGUF file; empty for none.
    pub gguf: Gguf,
    /// Also write the adapters in PEFT's format.
    pub peft: bool,
    /// Ids on the hub of the datasets that the data come from, `OWNER/NAME`, for the cards; empty for the names of the files.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub datasets: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            dtype: ComputeDtype::Auto,
            quantized: Quantized::Dequantize,
            quantize: None,
            max_loss_increase: None,
            batch_size: 16,
            gguf: Gguf::None,
            peft: false,
            datasets: Vec::new(),
        }
    }
}

impl Config {
    /// Returns the largest increase of the loss from the adapter to the fused model, in nats per target.
    pub(crate) fn fusing_limit(&self) -> f64 {
        self.max_loss_increase.unwrap_or(FUSING_LIMIT)
    }

    /// Returns the largest increase of the loss from the fused model to a quantized one, in nats per target.
    pub(crate) fn quantizing_limit(&self) -> f64 {
        self.max_loss_increase.unwrap_or(QUANTIZING_LIMIT)
    }
}

impl stage::Config for Config {
    const STAGE: &'static str = "fuse";
    const VERSION: u32 = 11;

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.batch_size == 0 {
            problems.push("`batch_size` must be at least 1".to_owned());
        }
        if self.max_loss_increase.is_some_and(|limit| limit < 0.0) {
            problems.push("`max_loss_increase` must not be negative".to_owned());
        }
        for id in self.datasets.iter().filter(|id| !outputs::is_hub_id(id)) {
            problems.push(format!(
                "`datasets` contains `{id}`, expected the id of a dataset on the hub, `OWNER/NAME`"
            ));
        }
        problems.extend(self.quantize.iter().flat_map(Quantize::problems));
        let needs_floats = [("gguf", self.gguf != Gguf::None), ("quantize", self.quantize.is_some())];
        if self.quantized == Quantized::Requantize {
            let named = needs_floats.iter().filter(|(_, is_set)| *is_set);
            problems.extend(named.map(|(name, _)| {
                format!(
                    "`{name}` needs `quantized = \"dequantize\"`, because it quantizes the whole fused model itself"
                )
            }));
        }
        problems
    }

    fn slug(&self) -> String {
        "fused".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use stage::Config as _;

    use super::*;

    #[test]
    fn datasets_that_are_no_ids_are_named() {
        let config = |id: &str| Config {
            datasets: vec!["jane/stories".to_owned(), id.to_owned()],
            ..Config::default()
        };
        assert!(config("squad").problems().is_empty());
        for id in ["", "a b", "https://huggingface.co/datasets/jane/stories", "jane/"] {
            let problems = config(id).problems();
            assert!(
                problems.len() == 1 && problems[0].contains(&format!("`datasets` contains `{id}`")),
                "{problems:?}"
            );
        }
    }
}
