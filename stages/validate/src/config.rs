//! Settings of the stage.

use models::ComputeDtype;
use serde::{Deserialize, Serialize};

/// Name of the split that is scored.
pub(crate) const SPLIT: &str = "validation";

/// Settings of the stage `validate`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Number of rows scored together.
    pub batch_size: usize,
    /// Type that the model computes in: `auto`, `float32`, `bfloat16` or `float16`.
    pub dtype: ComputeDtype,
    /// Number of prompts that every checkpoint answers, from the start of the split; 0 for none.
    pub answered_rows: usize,
    /// Most tokens of an answer.
    pub max_tokens: usize,
    /// Number of prompts answered together.
    pub generation_batch_size: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            batch_size: 16,
            dtype: ComputeDtype::Auto,
            answered_rows: 0,
            max_tokens: 256,
            generation_batch_size: 16,
        }
    }
}

impl stage::Config for Config {
    const STAGE: &'static str = "validate";
    const VERSION: u32 = 5;

    fn problems(&self) -> Vec<String> {
        let sizes = [
            (self.batch_size, "batch_size"),
            (self.max_tokens, "max_tokens"),
            (self.generation_batch_size, "generation_batch_size"),
        ];
        let zeros = sizes.iter().filter(|(size, _)| *size == 0);
        zeros.map(|(_, name)| format!("`{name}` must be at least 1")).collect()
    }

    fn slug(&self) -> String {
        "validation".to_owned()
    }
}
