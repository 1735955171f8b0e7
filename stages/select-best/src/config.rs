//! Settings of the stage.

use metrics::Metric;
use metrics::bootstrap::Bootstrap;
use serde::{Deserialize, Serialize};

/// Name of the loss as what decides.
pub(crate) const LOSS: &str = "loss";
/// Name of the similarity of meaning, which `validate` measures with an encoder.
pub(crate) const SIMILARITY: &str = "similarity";

/// Settings of the stage `select-best`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What decides: `loss`, `similarity`, or a score of the answers that `validate` collected, such as `chrf`.
    #[serde(skip_serializing_if = "is_loss")]
    pub metric: String,
    /// Number of times that the rows, or their groups, are drawn for the interval.
    pub resamples: usize,
    /// Share of the drawn values inside the interval.
    pub confidence: f64,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { metric: LOSS.to_owned(), resamples: 1000, confidence: 0.95, seed: 1 }
    }
}

impl stage::Config for Config {
    const STAGE: &'static str = "select-best";
    const VERSION: u32 = 3;

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let metric = self.metric.as_str();
        if ![LOSS, SIMILARITY].contains(&metric) && !Metric::by_name(metric).is_some_and(has_direction) {
            let known: Vec<_> =
                Metric::all().filter(|metric| has_direction(*metric)).map(Metric::name).collect();
            problems
                .push(format!("`metric` is `{metric}`; known: {LOSS}, {SIMILARITY}, {}", known.join(", ")));
        }
        if !(100..=1_000_000).contains(&self.resamples) {
            problems.push(format!("`resamples` is {}; it must be 100 to 1000000", self.resamples));
        }
        if !(self.confidence > 0.5 && self.confidence < 1.0) {
            problems.push(format!("`confidence` is {}; it must be above 0.5 and below 1", self.confidence));
        }
        problems
    }

    fn slug(&self) -> String {
        if self.decides_by_loss() {
            "lowest-loss".to_owned()
        } else {
            format!("best-{}", self.metric.replace('_', "-"))
        }
    }
}

fn is_loss(metric: &str) -> bool {
    metric == LOSS
}

fn has_direction(metric: Metric) -> bool {
    metric.better() != metrics::Better::Neither
}

impl Config {
    /// Returns whether the loss decides.
    pub fn decides_by_loss(&self) -> bool {
        self.metric == LOSS
    }

    /// Returns the settings of the bootstrap.
    pub(crate) fn bootstrap(&self) -> Bootstrap {
        Bootstrap { resamples: self.resamples, confidence: self.confidence, seed: self.seed }
    }
}
