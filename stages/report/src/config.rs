//! Settings of the report.

use serde::{Deserialize, Serialize};

/// Settings that change the bytes of a report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Heading of the page; if empty, it is derived from the name of the model.
    pub title: String,
    /// Number of rows in the table of examples: the best, the worst and evenly spaced ranks between them.
    pub samples: u32,
    /// Number of rows that got worse to show apart.
    pub regressions: u32,
    /// Number of training rows to show token by token.
    pub token_rows: u32,
    /// Number of steps that the smoothed training curve averages; 0 for 50 or a fiftieth of the run, whichever is more.
    pub smoothing_steps: u32,
    /// Number of times that rows are drawn for an interval, where evaluate measured none.
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
            samples: 5000,
            regressions: 5,
            token_rows: 3,
            smoothing_steps: 0,
            resamples: 2000,
            confidence: 0.95,
            seed: 1,
        }
    }
}

impl stage::Config for Config {
    const STAGE: &'static str = "report";
    const VERSION: u32 = 5;

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.title.chars().count() > 200 {
            problems.push("`title` is longer than 200 characters".to_owned());
        }
        for (name, value, most) in [
            ("samples", self.samples, 20_000),
            ("regressions", self.regressions, 200),
            ("token_rows", self.token_rows, 100),
        ] {
            if value > most {
                problems.push(format!("`{name}` is `{value}`: must be at most {most}"));
            }
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

    /// Returns the confidence as text, such as `95%`.
    pub(crate) fn confidence_label(&self) -> String {
        let percent = (self.confidence * 1000.0).round() / 10.0;
        format!("{percent}%")
    }
}

#[cfg(test)]
mod tests {
    use stage::Config as _;

    use super::*;

    #[test]
    fn every_problem_is_reported() {
        assert!(Config::default().problems().is_empty());
        let config = Config { resamples: 1, confidence: f64::NAN, samples: 99_999, ..Config::default() };
        assert_eq!(config.problems().len(), 3);
        assert_eq!(Config::default().confidence_label(), "95%");
    }
}
