//! Settings of the stage.

use models::ComputeDtype;
use serde::{Deserialize, Serialize};

/// Settings of the stage `validate`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Number of rows scored together.
    pub batch_size: usize,
    /// Type that the model computes in: `auto`, `float32`, `bfloat16` or `float16`.
    pub dtype: ComputeDtype,
}

impl Default for Config {
    fn default() -> Self {
        Self { batch_size: 16, dtype: ComputeDtype::Auto }
    }
}

impl stage::Config for Config {
    const STAGE: &'static str = "validate";
    const VERSION: u32 = 2;

    fn problems(&self) -> Vec<String> {
        if self.batch_size == 0 { vec!["`batch_size` must be at least 1".to_owned()] } else { Vec::new() }
    }

    fn slug(&self) -> String {
        "validation".to_owned()
    }
}
