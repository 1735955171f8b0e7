//! The files with one line per row.

use std::collections::BTreeMap;
use std::path::Path;

use failure::{Error, Result};
use outputs::{Line, Prediction, TokenLosses};

use crate::inputs::TestSplit;
use crate::outcome::Outcome;
use crate::rows::Rows;
use crate::scores::ScoredAnswers;
use crate::statistics::Column;

/// Writes `predictions.jsonl`.
pub(crate) fn write_predictions(
    rows: &Rows,
    outcomes: &[Outcome],
    scored: &ScoredAnswers,
    columns: &[Column],
    out: &Path,
) -> Result<()> {
    let position: BTreeMap<usize, usize> =
        rows.asked.iter().enumerate().map(|(at, &row)| (row, at)).collect();
    let lines = rows.all.iter().enumerate().map(|(index, row)| {
        let mut line = Prediction {
            id: row.id.clone(),
            group: row.group.clone(),
            prompt: row.prompt.clone(),
            reference: row.reference.clone(),
            scores: row_scores(index, outcomes, columns),
            ..Prediction::default()
        };
        for (system, outcome) in outcomes.iter().enumerate() {
            let name = || outcome.name.clone();
            if let Some(losses) = &outcome.losses {
                line.losses.insert(name(), losses[index]);
            }
            let (Some(answer), Some(&at)) = (outcome.answers.get(&index), position.get(&index)) else {
                continue;
            };
            line.predictions.insert(name(), answer.text.as_ref().ok().cloned());
            if answer.is_unfinished {
                line.unfinished.push(name());
            }
            let scored = &scored.0[system][at];
            if let Some(text) = scored.text.as_ref().filter(|text| Some(*text) != answer.text.as_ref().ok()) {
                line.extracted.insert(name(), text.clone());
            }
            if let Some(reason) = &scored.failure {
                line.failures.insert(name(), reason.clone());
            }
        }
        Ok::<_, Error>(line)
    });
    Prediction::write_all(out, lines)
}

/// Returns the scores of a row by metric and model, without those that `losses` has already.
fn row_scores(
    row: usize,
    outcomes: &[Outcome],
    columns: &[Column],
) -> BTreeMap<String, BTreeMap<String, f64>> {
    let is_of_answers = |column: &&Column| column.name != "loss" && column.name != "perplexity";
    let scores = columns.iter().filter(is_of_answers).filter_map(|column| {
        let at = column.rows.binary_search(&row).ok()?;
        let of = outcomes
            .iter()
            .zip(&column.systems)
            .filter_map(|(outcome, counts)| Some((outcome.name.clone(), counts.as_ref()?.row_scores()[at])));
        Some((column.name.clone(), of.collect()))
    });
    scores.collect()
}

/// Writes `token_losses.jsonl`.
pub(crate) fn write_token_losses(
    rows: &Rows,
    split: &TestSplit,
    outcomes: &[Outcome],
    out: &Path,
) -> Result<()> {
    let lines = rows.all.iter().enumerate().map(|(index, row)| {
        let targets = split.targets(index);
        let texts = targets.iter().map(|&token| split.tokenizer.decode(&[token], false));
        let texts = texts.collect::<dataset::Result<Vec<String>>>()?;
        let (mut losses, mut perplexities) = (BTreeMap::new(), BTreeMap::new());
        for outcome in outcomes {
            let (Some(tokens), Some(sums)) = (&outcome.token_losses, &outcome.losses) else { continue };
            losses.insert(outcome.name.clone(), tokens[index].iter().map(|&loss| f64::from(loss)).collect());
            let sum = sums[index];
            if sum.tokens > 0 {
                perplexities.insert(outcome.name.clone(), (sum.loss / sum.tokens as f64).exp());
            }
        }
        Ok::<_, Error>(TokenLosses { id: row.id.clone(), losses, perplexities, targets, texts })
    });
    TokenLosses::write_all(out, lines)
}
