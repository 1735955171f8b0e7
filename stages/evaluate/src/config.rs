//! Settings of the stage.

use std::collections::BTreeMap;

use metrics::bootstrap::Bootstrap;
use metrics::{Extraction, Metric};
use models::ComputeDtype;
use serde::{Deserialize, Serialize};

use crate::guard::GENERAL_ENGLISH;

/// Subgroups by the length of the reference.
pub(crate) const LENGTH: &str = "length";
/// Subgroups by the group of the row, such as its story.
pub(crate) const GROUP: &str = "group";

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
    /// Number of texts that the encoder reads together.
    pub encoder_batch_size: usize,
    /// Names of the scores of answers, in the order in which they are shown.
    pub metrics: Vec<String>,
    /// Rule that finds the text to score in an answer; the whole answer without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extract: Option<Extract>,
    /// Number of times that rows are drawn for an interval.
    pub resamples: usize,
    /// Share of the drawn values inside an interval.
    pub confidence: f64,
    /// What is drawn: `row`, `group`, or `auto` for groups if the rows have at least five.
    pub unit: Unit,
    /// What divides the rows into subgroups: `length`, `group`, or columns of the dataset or of a predictions file.
    pub subgroups: Vec<String>,
    /// Seed of the draws, and of the shuffled references that set the floor.
    pub seed: u64,
    /// Names of scores in a `--scores` file in which higher is better.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub higher_is_better: Vec<String>,
    /// Names of scores in a `--scores` file in which lower is better, such as `wer`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lower_is_better: Vec<String>,
    /// What a model must achieve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate: Option<GateSettings>,
    /// Models behind chat completions endpoints, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub endpoints: BTreeMap<String, EndpointSettings>,
    /// Whether to write `token_losses.jsonl`: the loss of every target.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub token_losses: bool,
}

/// Rule that finds the text to score; exactly one of them is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Extract {
    /// Name of the tag whose last pair surrounds the text.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tag: String,
    /// Regular expression; the first group of its last match is the text.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pattern: String,
    /// Path of a field, names separated by points, in an answer that is JSON.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub json_field: String,
    /// What is scored if the answer does not have it.
    pub otherwise: Otherwise,
}

/// Text that is scored if a rule finds nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Otherwise {
    /// The whole answer.
    #[default]
    Whole,
    /// Nothing: the row counts as failed.
    Fail,
}

/// What a bootstrap draws.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Groups, if the rows have enough of them; otherwise rows.
    #[default]
    Auto,
    /// Rows.
    Row,
    /// Groups.
    Group,
}

/// What a model must achieve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GateSettings {
    /// Metric in which the model must be better beyond noise, such as `loss` or `chrf`.
    pub metric: String,
    /// Smallest gain, in units of the metric.
    pub min_gain: f64,
    /// Name of the model; empty for `fused`, or else for the last model.
    pub model: String,
    /// Guard set, on which the loss must not rise: a text file with paragraphs, a file of rows, or an artifact of `prepare-data`.
    /// Or `general-english`, a text that comes with the program. The key has the content of a file, not its path.
    #[serde(skip_serializing_if = "is_path")]
    pub guard: String,
    /// Largest rise of the loss on the guard set, in nats per target.
    pub max_loss: f64,
}

impl Default for GateSettings {
    fn default() -> Self {
        Self {
            metric: "loss".to_owned(),
            min_gain: 0.0,
            model: String::new(),
            guard: String::new(),
            max_loss: 0.1,
        }
    }
}

/// A model behind an endpoint of the kind that OpenAI made common.
///
/// Settings of the transport decide whether answers arrive, not which ones, so the key leaves them out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EndpointSettings {
    /// Address below which `/chat/completions` is, such as `http://127.0.0.1:8080/v1`.
    pub base_url: String,
    /// Name of the model in requests.
    pub model: String,
    /// Whether rows may stay without an answer after all retries; they count as 0. Otherwise the run fails, and the next one asks
    /// only for the missing answers.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allow_failed_rows: bool,
    /// Environment variable with the API key; no key is sent if it is not set.
    #[serde(skip_serializing)]
    pub key_variable: String,
    /// Number of times that a request is repeated after a temporary failure.
    #[serde(skip_serializing)]
    pub retries: u32,
    /// Number of requests at the same time.
    #[serde(skip_serializing)]
    pub concurrency: usize,
    /// Seconds after which a request counts as failed.
    #[serde(skip_serializing)]
    pub timeout_seconds: u64,
}

impl Default for EndpointSettings {
    fn default() -> Self {
        Self {
            base_url: String::new(),
            model: String::new(),
            allow_failed_rows: false,
            key_variable: "OPENAI_API_KEY".to_owned(),
            retries: 4,
            concurrency: 4,
            timeout_seconds: 120,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        let metrics = ["chrf", "chrf_plus_plus", "bleu", "ter", "exact_match", "length_ratio", "repetition"];
        Self {
            dtype: ComputeDtype::Auto,
            batch_size: 16,
            generated_rows: 0,
            max_tokens: 256,
            generation_batch_size: 16,
            encoder_batch_size: 32,
            metrics: metrics.map(str::to_owned).into(),
            extract: None,
            resamples: 10_000,
            confidence: 0.95,
            unit: Unit::Auto,
            subgroups: vec![LENGTH.to_owned()],
            seed: 1,
            higher_is_better: Vec::new(),
            lower_is_better: Vec::new(),
            gate: None,
            endpoints: BTreeMap::new(),
            token_losses: false,
        }
    }
}

impl stage::Config for Config {
    const STAGE: &'static str = "evaluate";
    const VERSION: u32 = 5;

    fn problems(&self) -> Vec<String> {
        let sizes = [
            (self.batch_size, "batch_size"),
            (self.max_tokens, "max_tokens"),
            (self.generation_batch_size, "generation_batch_size"),
            (self.encoder_batch_size, "encoder_batch_size"),
        ];
        let zeros = sizes.iter().filter(|(size, _)| *size == 0);
        let mut problems: Vec<String> =
            zeros.map(|(_, name)| format!("`{name}` must be at least 1")).collect();
        for name in &self.metrics {
            if Metric::by_name(name).is_none() {
                let known: Vec<_> = Metric::all().map(Metric::name).collect();
                problems
                    .push(format!("`metrics` has the unknown score `{name}`; known: {}", known.join(", ")));
            }
        }
        if !(100..=1_000_000).contains(&self.resamples) {
            problems.push(format!("`resamples` is {}; it must be 100 to 1000000", self.resamples));
        }
        if !(self.confidence > 0.5 && self.confidence < 1.0) {
            problems.push(format!("`confidence` is {}; it must be above 0.5 and below 1", self.confidence));
        }
        problems.extend(self.direction_problems());
        problems.extend(self.extract.iter().filter_map(|extract| extract.rule().err()));
        problems.extend(self.gate.iter().flat_map(GateSettings::problems));
        for (name, endpoint) in &self.endpoints {
            problems.extend(endpoint.problems(name));
        }
        problems
    }

    fn has_state(folder: &std::path::Path) -> bool {
        crate::kept_lines::is_any_kept(folder)
    }

    fn slug(&self) -> String {
        "test".to_owned()
    }
}

impl Config {
    /// Returns the settings of the bootstrap.
    pub(crate) fn bootstrap(&self) -> Bootstrap {
        Bootstrap { resamples: self.resamples, confidence: self.confidence, seed: self.seed }
    }

    /// Describes names whose better direction is given although it is known, or given twice.
    fn direction_problems(&self) -> impl Iterator<Item = String> {
        let lists =
            [("higher_is_better", &self.higher_is_better), ("lower_is_better", &self.lower_is_better)];
        let names = lists.into_iter().flat_map(|(list, names)| names.iter().map(move |name| (list, name)));
        names.filter_map(|(list, name)| {
            if crate::known::known_info(name).is_some() {
                Some(format!("`{list}` has `{name}`, whose better direction is known"))
            } else if list == "lower_is_better" && self.higher_is_better.contains(name) {
                Some(format!("`{name}` is in `higher_is_better` and in `lower_is_better`"))
            } else {
                None
            }
        })
    }

    /// Returns the scores of answers.
    pub(crate) fn answer_metrics(&self) -> Vec<Metric> {
        self.metrics.iter().filter_map(|name| Metric::by_name(name)).collect()
    }
}

impl Extract {
    /// Returns the rule.
    ///
    /// # Errors
    ///
    /// Describes a setting that is not one rule.
    pub(crate) fn rule(&self) -> Result<Extraction, String> {
        match (self.tag.as_str(), self.pattern.as_str(), self.json_field.as_str()) {
            (tag, "", "") if !tag.is_empty() => Ok(Extraction::Tag(tag.to_owned())),
            ("", pattern, "") if !pattern.is_empty() => regex::Regex::new(pattern)
                .map(Extraction::Pattern)
                .map_err(|error| format!("`extract.pattern` is not a regular expression: {error}")),
            ("", "", field) if !field.is_empty() => Ok(Extraction::JsonField(field.to_owned())),
            _ => Err("`extract` needs exactly one of `tag`, `pattern` and `json_field`".to_owned()),
        }
    }
}

/// Returns whether a guard set is a path, whose content is an input of the key.
fn is_path(guard: &str) -> bool {
    guard != GENERAL_ENGLISH
}

impl GateSettings {
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.metric.is_empty() {
            problems.push("`gate.metric` is empty".to_owned());
        }
        for (name, value) in [("min_gain", self.min_gain), ("max_loss", self.max_loss)] {
            if !(value >= 0.0 && value.is_finite()) {
                problems.push(format!("`gate.{name}` is {value}; it must be 0 or more"));
            }
        }
        problems
    }
}

impl EndpointSettings {
    fn problems(&self, name: &str) -> Vec<String> {
        let mut problems = Vec::new();
        if !crate::args::is_name(name) {
            problems.push(format!("`endpoints.{name}`: the name may contain only a-z, 0-9 and _"));
        }
        if !(self.base_url.starts_with("http://") || self.base_url.starts_with("https://")) {
            let url = &self.base_url;
            problems.push(format!("`endpoints.{name}.base_url` is `{url}`, expected http://… or https://…"));
        }
        if self.model.is_empty() {
            problems.push(format!("`endpoints.{name}.model` is empty"));
        }
        if !(1..=256).contains(&self.concurrency) {
            let value = self.concurrency;
            problems.push(format!("`endpoints.{name}.concurrency` is {value}; it must be 1 to 256"));
        }
        if self.retries > 20 {
            problems.push(format!("`endpoints.{name}.retries` is {}; it must be at most 20", self.retries));
        }
        if self.timeout_seconds == 0 {
            problems.push(format!("`endpoints.{name}.timeout_seconds` must be at least 1"));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use stage::Config as _;

    use super::*;

    #[test]
    fn every_problem_is_named() {
        assert!(Config::default().problems().is_empty());
        let endpoint = EndpointSettings { base_url: "localhost".to_owned(), ..EndpointSettings::default() };
        let config = Config {
            metrics: vec!["blue".to_owned()],
            extract: Some(Extract { tag: "a".to_owned(), pattern: "b".to_owned(), ..Extract::default() }),
            gate: Some(GateSettings { max_loss: -1.0, ..GateSettings::default() }),
            endpoints: [("gpt".to_owned(), endpoint)].into(),
            resamples: 5,
            higher_is_better: vec!["wer".to_owned(), "loss".to_owned()],
            lower_is_better: vec!["wer".to_owned()],
            ..Config::default()
        };
        assert_eq!(config.problems().len(), 8, "{:?}", config.problems());
    }
}
