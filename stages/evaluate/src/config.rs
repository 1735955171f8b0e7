//! Settings of the stage.

use models::ComputeDtype;
use serde::{Deserialize, Serialize};

/// Settings of the stage `evaluate`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Type that the models compute in: `auto`, `float32`, `bfloat16` or `float16`.
    pub dtype: ComputeDtype,
    /// Number of rows scored together.
    pub batch_size: usize,
    /// Number of prompts to answer, from the start of the split; 0 for all.
    pub generated_rows: usize,
    /// Most tokens of an answer.
    pub max_tokens: usize,
    /// Number of prompts answered together.
    pub generation_batch_size: usize,
    /// Seed of the shuffled references that set the floor.
    pub seed: u64,
    /// Whether to write `token_losses.jsonl`: the loss of every target.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub token_losses: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            dtype: ComputeDtype::Auto,
            batch_size: 16,
            generated_rows: 0,
            max_tokens: 256,
            generation_batch_size: 16,
            seed: 1,
            token_losses: false,
        }
    }
}

impl stage::Config for Config {
    const STAGE: &'static str = "evaluate";
    const VERSION: u32 = 2;

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
        "test".to_owned()
    }
}
