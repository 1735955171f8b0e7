//! Settings of the report.

use serde::{Deserialize, Serialize};

/// Settings that change the bytes of a report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Heading of the page; if empty, it is derived from the name of the model.
    pub title: String,
    /// Number of translations to show.
    pub samples: u32,
    /// Number of steps that the smoothed training curve averages; 0 for 50 or a fiftieth of the run, whichever is more.
    pub smoothing_steps: u32,
    /// Number of times that rows are drawn for an interval.
    pub resamples: u32,
    /// Share of the drawn values inside an interval.
    pub confidence: f64,
    /// Seed of the intervals and of the shuffled references.
    pub seed: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            title: String::new(),
            samples: 8,
            smoothing_steps: 0,
            resamples: 2000,
            confidence: 0.95,
            seed: 1,
        }
    }
}

impl stage::Config for Config {
    const STAGE: &'static str = "report";
    const VERSION: u32 = 1;

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.title.chars().count() > 200 {
            problems.push("`title` is longer than 200 characters".to_owned());
        }
        if self.samples > 200 {
            problems.push(format!("`samples` is `{}`: must be at most 200", self.samples));
        }
        if !(100..=1_000_000).contains(&self.resamples) {
            problems.push(format!("`resamples` is `{}`: must be between 100 and 1000000", self.resamples));
        }
        if !(self.confidence > 0.0 && self.confidence < 1.0) {
            problems.push(format!("`confidence` is `{}`: must be between 0 and 1", self.confidence));
        }
        problems
    }

    fn slug(&self) -> String {
        "page".to_owned()
    }
}

impl Config {
    pub(crate) fn bootstrap(&self) -> metrics::bootstrap::Bootstrap {
        metrics::bootstrap::Bootstrap {
            resamples: self.resamples as usize,
            confidence: self.confidence,
            seed: u64::from(self.seed),
        }
    }

    /// Returns the confidence as text, such as `95 %`.
    pub(crate) fn confidence_label(&self) -> String {
        let percent = (self.confidence * 1000.0).round() / 10.0;
        format!("{percent}\u{202f}%")
    }
}

#[cfg(test)]
mod tests {
    use stage::Config as _;

    use super::*;

    #[test]
    fn every_problem_is_reported() {
        assert!(Config::default().problems().is_empty());
        let config = Config { resamples: 1, confidence: f64::NAN, samples: 999, ..Config::default() };
        assert_eq!(config.problems().len(), 3);
        assert_eq!(Config::default().confidence_label(), "95\u{202f}%");
    }
}
