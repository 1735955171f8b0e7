//! The choice by the answers of the checkpoints.

use std::path::Path;

use metrics::resample::{Units, distributions};
use metrics::{Better, Counts, Metric};
use outputs::{Candidate, CheckpointAnswers, Choice, Line as _};

use crate::config::{Config, SIMILARITY};
use crate::error::Error;

/// A candidate with the counts of its answers.
struct Scored {
    candidate: Candidate,
    counts: Counts,
    score: f64,
}

/// Replaces the choice by the loss with one by the answers in the file `path`.
///
/// # Errors
///
/// Fails when the file has no answers or similarities of a checkpoint.
pub(crate) fn choose(by_loss: &Choice, path: &Path, config: &Config) -> Result<Choice, Error> {
    let rows = CheckpointAnswers::read(path)?.collect::<outputs::Result<Vec<_>>>()?;
    let fail = |reason: String| Error::Answers { path: path.to_owned(), reason };
    if rows.is_empty() {
        return Err(fail("it has no answers".to_owned()));
    }
    let counts = |step: u64| counts(&rows, step, config).map_err(fail);
    let base = counts(0)?.score();
    let mut scored = Vec::new();
    for candidate in &by_loss.candidates {
        let counts = counts(candidate.step)?;
        let score = counts.score();
        scored.push(Scored { candidate: Candidate { score: Some(score), ..*candidate }, counts, score });
    }
    let candidates = scored.iter().map(|scored| scored.candidate).collect();
    let sign = if is_lower_better(config) { -1.0 } else { 1.0 };
    // The sort is stable, so the earlier of two equal scores stays first.
    scored.sort_by(|a, b| (sign * b.score).total_cmp(&(sign * a.score)));
    let best = &scored[0];
    let mut choice = Choice {
        step: best.candidate.step,
        loss: best.candidate.loss,
        base_loss: by_loss.base_loss,
        metric: Some(config.metric.clone()),
        score: Some(best.score),
        base_score: Some(base),
        candidates,
        ..Choice::default()
    };
    if let Some(second) = scored.get(1) {
        let settings = config.bootstrap();
        let units = Units::auto(rows.iter().map(|row| row.group.as_deref()));
        let drawn =
            distributions(&units, &[&best.counts, &second.counts], &settings).map_err(Error::Bootstrap)?;
        let gap = drawn[0].minus(&drawn[1]).interval(config.confidence);
        let ends = [sign * gap.low, sign * gap.high];
        choice.runner_up = Some(second.candidate);
        choice.gap = Some(sign * gap.value);
        choice.gap_interval = Some([ends[0].min(ends[1]), ends[0].max(ends[1])]);
        choice.within_noise = ends[0].min(ends[1]) <= 0.0 || units.len() < 2;
    }
    choice.reason = reason(&choice, &config.metric, rows.len());
    Ok(choice)
}

fn is_lower_better(config: &Config) -> bool {
    Metric::by_name(&config.metric).is_some_and(|metric| metric.better() == Better::Lower)
}

/// Counts the answers of one step.
fn counts(rows: &[CheckpointAnswers], step: u64, config: &Config) -> Result<Counts, String> {
    let Some(metric) = Metric::by_name(&config.metric) else {
        debug_assert_eq!(config.metric, SIMILARITY);
        let similarity = |row: &CheckpointAnswers| row.similarity.get(&step).copied();
        let scores: Option<Vec<f64>> = rows.iter().map(similarity).collect();
        return scores
            .map(|scores| Counts::of_scores(&scores))
            .ok_or(format!("it has no similarity of step {step}"));
    };
    let answer = |row: &CheckpointAnswers| row.answers.get(&step).cloned();
    let answers: Option<Vec<String>> = rows.iter().map(answer).collect();
    let answers = answers.ok_or(format!("it has no answers of step {step}"))?;
    let pairs: Vec<_> = answers
        .iter()
        .zip(rows)
        .map(|(answer, row)| (Some(answer.as_str()), row.reference.as_str()))
        .collect();
    Ok(metric.counts(&pairs))
}

/// Describes the choice in one sentence, which is published in `choice.json`.
fn reason(choice: &Choice, metric: &str, rows: usize) -> String {
    let score = choice.score.unwrap_or_default();
    let chosen = format!("step {} has the best {metric} of {rows} answers, {score:.4}", choice.step);
    let runner_up = match (&choice.runner_up, choice.gap, choice.gap_interval) {
        (Some(second), Some(gap), Some([low, high])) => {
            let verdict = if choice.within_noise { "within noise" } else { "beyond noise" };
            format!(
                "step {} follows {gap:.4} behind (interval {low:.4} to {high:.4}): {verdict}",
                second.step
            )
        }
        _ => "there is no other checkpoint".to_owned(),
    };
    format!("{chosen}; {runner_up}; the base model has {:.4}", choice.base_score.unwrap_or_default())
}
