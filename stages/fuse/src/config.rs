//! Settings of the stage.

use models::ComputeDtype;
use serde::{Deserialize, Serialize};

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
    /// `f16`, `q8_0`, `q4_0` or `q4_1`: also write the fused model as one GGUF file; empty for none.
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
    const VERSION: u32 = 7;

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
