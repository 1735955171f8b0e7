//! Settings of the stage.

use metrics::bootstrap::Bootstrap;
use serde::{Deserialize, Serialize};

/// Settings of the stage `select-best`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Number of times that the rows are drawn for the interval.
    pub resamples: usize,
    /// Share of the drawn values inside the interval.
    pub confidence: f64,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { resamples: 1000, confidence: 0.95, seed: 1 }
    }
}

impl stage::Config for Config {
    const STAGE: &'static str = "select-best";
    const VERSION: u32 = 1;

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !(100..=1_000_000).contains(&self.resamples) {
            problems.push(format!("`resamples` is {}; it must be 100 to 1000000", self.resamples));
        }
        if !(self.confidence > 0.5 && self.confidence < 1.0) {
            problems.push(format!("`confidence` is {}; it must be above 0.5 and below 1", self.confidence));
        }
        problems
    }

    fn slug(&self) -> String {
        "lowest-loss".to_owned()
    }
}

impl Config {
    /// Returns the settings of the bootstrap.
    pub(crate) fn bootstrap(&self) -> Bootstrap {
        Bootstrap { resamples: self.resamples, confidence: self.confidence, seed: self.seed }
    }
}
