//! The choice among measured checkpoints, and its explanation.

use std::path::Path;

use metrics::resample::Units;
use metrics::{LossSum, paired_losses};
use outputs::{Candidate, CheckpointLosses, Choice, Losses};

use crate::config::Config;
use crate::error::Error;

/// Chooses among checked losses; `path` is the file that errors name.
///
/// # Errors
///
/// Fails when the losses are not of the validation split, or when they lack the base model or a trained checkpoint.
pub fn choose(losses: &Losses, path: &Path, config: &Config) -> Result<Choice, Error> {
    let fail = |reason: String| Error::Losses { path: path.to_owned(), reason };
    if losses.split != "validation" {
        let split = &losses.split;
        return Err(fail(format!(
            "its losses are those of the split `{split}`, but a choice needs `validation`"
        )));
    }
    let base = losses.checkpoints.iter().find(|checkpoint| checkpoint.step == 0);
    let base = base.ok_or_else(|| fail("it has no base model (step 0)".to_owned()))?;
    let mut ranked: Vec<&CheckpointLosses> =
        losses.checkpoints.iter().filter(|checkpoint| checkpoint.step != 0).collect();
    ranked.sort_by_key(|checkpoint| checkpoint.step);
    let candidates = ranked.iter().map(|checkpoint| candidate(checkpoint)).collect();
    // The sort is stable, so the earlier of two equal losses stays first.
    ranked.sort_by(|a, b| a.loss.total_cmp(&b.loss));
    let best = *ranked.first().ok_or_else(|| fail("it has no trained checkpoint".to_owned()))?;
    let mut choice =
        Choice { step: best.step, loss: best.loss, base_loss: base.loss, candidates, ..Choice::default() };
    if let Some(second) = ranked.get(1) {
        let units = Units::auto(best.rows.iter().map(|row| row.group.as_deref()));
        let interval = paired_losses(&row_losses(best), &row_losses(second), &units, &config.bootstrap())
            .map_err(Error::Bootstrap)?;
        choice.runner_up = Some(candidate(second));
        choice.gap = Some(second.loss - best.loss);
        choice.gap_interval = Some([interval.low, interval.high]);
        // The interval over a single row has no width, so it rules out nothing.
        choice.within_noise = interval.low <= 0.0 || units.len() < 2;
    }
    choice.reason = reason(&choice, config);
    Ok(choice)
}

fn candidate(checkpoint: &CheckpointLosses) -> Candidate {
    Candidate { step: checkpoint.step, loss: checkpoint.loss, score: None }
}

fn row_losses(checkpoint: &CheckpointLosses) -> Vec<LossSum> {
    checkpoint.rows.iter().map(|row| LossSum::new(row.loss, row.tokens)).collect()
}

/// Describes the choice in one sentence, which is published in `choice.json`.
fn reason(choice: &Choice, config: &Config) -> String {
    let chosen = format!("step {} has the lowest validation loss, {:.4}", choice.step, choice.loss);
    let runner_up = match (&choice.runner_up, choice.gap, choice.gap_interval) {
        (Some(second), Some(gap), Some([low, high])) => {
            let percent = (config.confidence * 1000.0).round() / 10.0;
            let verdict = if gap == 0.0 {
                "a tie, which goes to the earlier"
            } else if choice.within_noise {
                "within noise"
            } else {
                "beyond noise"
            };
            format!(
                "step {} follows {gap:.4} behind ({percent}% interval {low:.4} to {high:.4}): {verdict}",
                second.step
            )
        }
        _ => "there is no other checkpoint".to_owned(),
    };
    let base = if choice.loss >= choice.base_loss {
        format!("no better than the base model ({:.4})", choice.base_loss)
    } else {
        format!("the base model has {:.4}", choice.base_loss)
    };
    format!("{chosen}; {runner_up}; {base}")
}
