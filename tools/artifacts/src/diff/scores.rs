//! Scores of two evaluations, and the intervals of their differences.
//!
//! Over the same rows, a difference gets the paired interval that `evaluate` computes between two models, with the draws that
//! its artifact records. Over other rows, the intervals of both scores are combined.

use std::collections::BTreeMap;
use std::path::PathBuf;

use artifact::Artifact;
use metrics::bootstrap::Bootstrap;
use metrics::resample::{Units, distributions};
use metrics::{Counts, Formula, Metric as Score};
use outputs::{Document as _, Line as _, ModelScores, Prediction, Scores, Statistics};

use super::Metric;

/// Interval of a difference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Interval {
    pub(super) low: f64,
    pub(super) high: f64,
    /// The probability that it covers the difference, such as 0.95.
    pub(super) confidence: f64,
    /// Whether the same rows were drawn for both.
    pub(super) is_paired: bool,
}

/// An evaluation: its scores and its rows.
struct Evaluation {
    scores: Scores,
    rows: Vec<Prediction>,
}

impl Evaluation {
    /// Reads an evaluation; `None` for an artifact of another stage, or one whose files cannot be read.
    fn read(artifact: &Artifact) -> Option<Self> {
        let scores = Scores::read(&artifact.output_dir(outputs::SCORES)?).ok()?;
        let read = |path: PathBuf| Prediction::read(&path).ok()?.collect::<Result<Vec<_>, _>>().ok();
        let rows = artifact.output_dir(outputs::PREDICTIONS).and_then(read);
        Some(Self { scores, rows: rows.unwrap_or_default() })
    }

    /// Returns the confidence of its intervals, if they are recorded.
    fn confidence(&self) -> Option<f64> {
        self.scores.statistics.as_ref().map(|found| found.confidence)
    }

    /// Returns the counts of a model's score on the rows that have it, with the indices of these rows.
    fn counts(&self, model: &str, metric: &str) -> Option<(Vec<usize>, Counts)> {
        let losses = |formula| {
            let rows = self.rows.iter().enumerate();
            let found = rows.filter_map(|(at, row)| Some((at, row.losses.get(model)?)));
            let (at, sums): (Vec<usize>, Vec<[f64; 2]>) =
                found.map(|(at, row)| (at, [row.loss, row.tokens as f64])).unzip();
            (at, Counts::of_ratios(formula, &sums))
        };
        let (at, counts) = match (metric, Score::by_name(metric)) {
            ("loss", _) => losses(Formula::MEAN),
            ("perplexity", _) => losses(Formula::Perplexity),
            (_, Some(score)) => {
                let rows = self.rows.iter().enumerate();
                let (at, pairs): (Vec<usize>, Vec<_>) =
                    rows.filter_map(|(at, row)| Some((at, answer(row, model)?))).unzip();
                (at, score.counts(&pairs))
            }
            _ => {
                let rows = self.rows.iter().enumerate();
                let found = rows.filter_map(|(at, row)| Some((at, *row.scores.get(metric)?.get(model)?)));
                let (at, scores): (Vec<usize>, Vec<f64>) = found.unzip();
                (at, Counts::of_scores(&scores))
            }
        };
        (!at.is_empty()).then_some((at, counts))
    }
}

/// Returns the text of a model's answer that is scored (`None` for a failure) and the reference; `None` if it was not asked.
fn answer<'a>(row: &'a Prediction, model: &str) -> Option<(Option<&'a str>, &'a str)> {
    let whole = row.predictions.get(model)?.as_deref();
    let scored = row.extracted.get(model).map(String::as_str).or(whole);
    Some((scored, &row.reference))
}

/// Lists the scores of the models in either evaluation, `MODEL_METRIC`, with the intervals of their differences; none unless
/// both artifacts are evaluations.
pub(super) fn metrics(old: &Artifact, new: &Artifact) -> Vec<Metric> {
    let (Some(old), Some(new)) = (Evaluation::read(old), Evaluation::read(new)) else { return Vec::new() };
    let is_same =
        !old.rows.is_empty() && old.rows.iter().map(|row| &row.id).eq(new.rows.iter().map(|row| &row.id));
    let mut found = Vec::new();
    let more = new.scores.models.keys().filter(|name| !old.scores.models.contains_key(*name));
    for model in old.scores.models.keys().chain(more) {
        let sides = [&old, &new].map(|side| side.scores.models.get(model));
        let more = new.scores.metrics.keys().filter(|name| !old.scores.metrics.contains_key(*name));
        for metric in old.scores.metrics.keys().chain(more) {
            let [before, after] = sides.map(|scores| scores.and_then(|scores| value(scores, metric)));
            if before.is_none() && after.is_none() {
                continue;
            }
            let paired = if is_same { paired(&old, &new, model, metric) } else { None };
            found.push(Metric {
                name: format!("{model}_{metric}"),
                old: before,
                new: after,
                interval: paired.or_else(|| {
                    let confidence = old.confidence().filter(|found| new.confidence() == Some(*found))?;
                    combined(sides[0]?, sides[1]?, metric, confidence)
                }),
            });
        }
    }
    found
}

fn value(scores: &ModelScores, metric: &str) -> Option<f64> {
    match metric {
        "loss" => scores.loss,
        "perplexity" => scores.perplexity,
        text => scores.text.get(text).copied(),
    }
}

/// Returns the interval of a difference over the same rows, drawn as the new evaluation drew its own.
fn paired(old: &Evaluation, new: &Evaluation, model: &str, metric: &str) -> Option<Interval> {
    let (at, before) = old.counts(model, metric)?;
    let (same, after) = new.counts(model, metric)?;
    if at != same {
        return None;
    }
    let (settings, by_group) = match &new.scores.statistics {
        Some(Statistics { resamples, confidence, seed, unit, .. }) => {
            let settings = Bootstrap {
                resamples: usize::try_from(*resamples).ok()?,
                confidence: *confidence,
                seed: *seed,
            };
            (settings, unit == "group")
        }
        None => (Bootstrap::default(), false),
    };
    let units = if by_group {
        Units::groups(at.iter().map(|&row| new.rows[row].group.as_deref()))
    } else {
        Units::rows(at.len())
    };
    let drawn = distributions(&units, &[&before, &after], &settings).ok()?;
    let interval = drawn[1].minus(&drawn[0]).interval(settings.confidence);
    let Bootstrap { confidence, .. } = settings;
    Some(Interval { low: interval.low, high: interval.high, confidence, is_paired: true })
}

/// Combines the intervals of two scores, of one confidence, as those of independent numbers.
fn combined(old: &ModelScores, new: &ModelScores, metric: &str, confidence: f64) -> Option<Interval> {
    let ([old_low, old_high], [new_low, new_high]) =
        (*old.intervals.get(metric)?, *new.intervals.get(metric)?);
    let (before, after) = (value(old, metric)?, value(new, metric)?);
    Some(Interval {
        low: after - before - (after - new_low).hypot(old_high - before),
        high: after - before + (new_high - after).hypot(before - old_low),
        confidence,
        is_paired: false,
    })
}

/// Adds the headline numbers of the manifests that are no scores.
pub(super) fn with_headlines(scores: Vec<Metric>, old: &Artifact, new: &Artifact) -> Vec<Metric> {
    let mut all: BTreeMap<String, Metric> = BTreeMap::new();
    for name in old.manifest().metrics.keys().chain(new.manifest().metrics.keys()) {
        let (old, new) = (old.manifest().metric(name), new.manifest().metric(name));
        all.insert(name.clone(), Metric { name: name.clone(), old, new, interval: None });
    }
    all.extend(scores.into_iter().map(|metric| (metric.name.clone(), metric)));
    all.into_values().collect()
}
