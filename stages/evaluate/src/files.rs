//! The files with one line per row.

use std::collections::BTreeMap;
use std::path::Path;

use failure::{Error, Result};
use outputs::{Line, Prediction, TokenLosses};

use crate::inputs::{TestSplit, asked_text, reference};
use crate::outcome::Outcome;

/// Writes `predictions.jsonl`.
pub(crate) fn write_predictions(split: &TestSplit, outcomes: &[Outcome], out: &Path) -> Result<()> {
    let lines = split.rows.iter().enumerate().map(|(index, row)| {
        let losses = outcomes.iter().map(|outcome| (outcome.name.clone(), outcome.losses[index]));
        let predictions = outcomes
            .iter()
            .filter_map(|outcome| Some((outcome.name.clone(), Some(outcome.answers.get(&index)?.clone()))));
        Ok::<_, Error>(Prediction {
            id: row.id.clone(),
            losses: losses.collect(),
            predictions: predictions.collect(),
            prompt: asked_text(row).to_owned(),
            reference: reference(row).to_owned(),
        })
    });
    Prediction::write_all(out, lines)
}

/// Writes `token_losses.jsonl`.
pub(crate) fn write_token_losses(split: &TestSplit, outcomes: &[Outcome], out: &Path) -> Result<()> {
    let lines = split.rows.iter().enumerate().map(|(index, row)| {
        let targets = split.targets(index);
        let texts = targets.iter().map(|&token| split.tokenizer.decode(&[token], false));
        let texts = texts.collect::<dataset::Result<Vec<String>>>()?;
        let (mut losses, mut perplexities) = (BTreeMap::new(), BTreeMap::new());
        for outcome in outcomes {
            let rows = outcome.token_losses.as_ref().expect("the settings ask for them");
            let row = rows[index].iter().map(|&loss| f64::from(loss)).collect();
            losses.insert(outcome.name.clone(), row);
            let sum = outcome.losses[index];
            if sum.tokens > 0 {
                perplexities.insert(outcome.name.clone(), (sum.loss / sum.tokens as f64).exp());
            }
        }
        Ok::<_, Error>(TokenLosses { id: row.id.clone(), losses, perplexities, targets, texts })
    });
    TokenLosses::write_all(out, lines)
}
