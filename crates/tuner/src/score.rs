//! The loss of a model on a whole split, row by row.

use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::loss;
use crate::vocabulary::check_vocabulary;
use dataset::Split;
use models::Model;
use serde::{Deserialize, Serialize};

/// The loss of one row.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RowScore {
    /// Sum over its targets, in nats.
    pub loss: f64,
    /// Targets that count.
    pub tokens: usize,
}

/// The loss of a split.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// Of every row, in the order of the split.
    pub rows: Vec<RowScore>,
}

impl Score {
    /// Targets that count.
    pub fn tokens(&self) -> usize {
        self.rows.iter().map(|row| row.tokens).sum()
    }

    /// Mean loss a target, in nats: every target counts the same, whatever row it stands in.
    pub fn mean_loss(&self) -> f64 {
        self.rows.iter().map(|row| row.loss).sum::<f64>() / self.tokens() as f64
    }
}

/// Scores every row of `split`, `batch_size` at a time, rows of like length together.
///
/// # Errors
///
/// Fails when the split has no target that counts or a token that the model does not know, or when a loss is not finite.
pub fn score(model: &Model, split: &Split, name: &str, batch_size: usize) -> Result<Score> {
    check_vocabulary(model, split, name)?;
    let mut order: Vec<u32> = (0..split.len() as u32).collect();
    order.sort_by_key(|&row| (split.row_length(row as usize), row));
    let mut rows = vec![RowScore { loss: 0.0, tokens: 0 }; split.len()];
    for batch_rows in order.chunks(batch_size.max(1)) {
        let batch = Batch::of_rows(split, batch_rows, 1);
        for (&row, score) in batch_rows.iter().zip(score_batch(model, &batch)?) {
            if !score.loss.is_finite() {
                return Err(Error::NotFinite { split: name.to_owned(), row, value: score.loss });
            }
            rows[row as usize] = score;
        }
    }
    let score = Score { rows };
    if score.tokens() == 0 {
        return Err(Error::NothingToLearn { split: name.to_owned() });
    }
    Ok(score)
}

/// Scores the rows of a batch, in the order of its lines; a row without a target has the loss 0.
pub fn score_batch(model: &Model, batch: &Batch) -> Result<Vec<RowScore>> {
    if batch.target_count() == 0 {
        return Ok(vec![RowScore { loss: 0.0, tokens: 0 }; batch.targets_of_row.len()]);
    }
    let losses = loss::of_each_target(model, batch)?;
    losses.eval()?;
    let mut losses = losses.as_slice::<f32>().iter();
    let row = |&tokens: &usize| {
        let loss = losses.by_ref().take(tokens).map(|&loss| f64::from(loss)).sum();
        RowScore { loss, tokens }
    };
    Ok(batch.targets_of_row.iter().map(row).collect())
}
