//! The scores of each model, and the floors to compare them with.

use std::collections::BTreeMap;

use failure::Result;
use metrics::{Bleu, Chrf, exact_match};
use outputs::{ModelScores, Scores};

use crate::inputs::{SPLIT, TestSplit};
use crate::outcome::Outcome;

/// Scores by name of the metric.
type TextScores = BTreeMap<String, f64>;

/// Computes `metrics.json`; `seed` shuffles the references of the floor.
pub(crate) fn scores(split: &TestSplit, outcomes: &[Outcome], seed: u64) -> Result<Scores> {
    let references = split.references();
    let models = outcomes.iter().map(|outcome| {
        let answers: Vec<&str> = split.asked.iter().map(|row| outcome.answers[row].as_str()).collect();
        (outcome.name.clone(), model_scores(outcome, &answers, &references))
    });
    Ok(Scores {
        models: models.collect(),
        rows: split.rows.len() as u64,
        split: SPLIT.to_owned(),
        floors: floors(&split.sources(), &references, seed)?,
    })
}

fn model_scores(outcome: &Outcome, answers: &[&str], references: &[&str]) -> ModelScores {
    let tokens: u64 = outcome.losses.iter().map(|row| row.tokens).sum();
    let loss = outcome.losses.iter().map(|row| row.loss).sum::<f64>() / tokens as f64;
    ModelScores {
        generated_rows: answers.len() as u64,
        loss,
        perplexity: loss.exp(),
        tokens,
        text: text_scores(answers, references),
    }
}

/// Returns the scores of answers; empty without answers.
fn text_scores(answers: &[&str], references: &[&str]) -> TextScores {
    if answers.is_empty() {
        return TextScores::new();
    }
    let pairs = || answers.iter().copied().zip(references.iter().copied());
    let scores = [
        ("bleu", Bleu::default().corpus(pairs())),
        ("chrf", Chrf::CHRF.corpus(pairs())),
        ("chrf_plus_plus", Chrf::CHRF_PLUS_PLUS.corpus(pairs())),
        ("exact_match", exact_match(pairs())),
    ];
    scores.map(|(name, score)| (name.to_owned(), score)).into()
}

/// Returns the scores of answers made without a model: the copied source, and the reference of another row.
fn floors(sources: &[&str], references: &[&str], seed: u64) -> Result<BTreeMap<String, TextScores>> {
    if references.is_empty() {
        return Ok(BTreeMap::new());
    }
    let floors = metrics::floor::floors(sources, references, seed, text_scores)?;
    let copied = ("copied_source".to_owned(), floors.copied_source);
    let shuffled = floors.shuffled_reference.map(|scores| ("shuffled_reference".to_owned(), scores));
    Ok(std::iter::once(copied).chain(shuffled).collect())
}
