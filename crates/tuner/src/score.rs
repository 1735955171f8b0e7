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

impl RowScore {
    /// Sums up the losses of a row's targets.
    pub fn of(losses: &[f32]) -> Self {
        Self { loss: losses.iter().map(|&loss| f64::from(loss)).sum(), tokens: losses.len() }
    }
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
    let mut rows = vec![RowScore::of(&[]); split.len()];
    each_row(model, split, name, batch_size, &mut |row, losses| rows[row] = RowScore::of(losses))?;
    Ok(Score { rows })
}

/// Returns the losses of the targets of every row of `split`, in nats, unweighted: rows in the order of the split, targets
/// in the order of the row. As [`score`], which sums them up.
///
/// # Errors
///
/// As [`score`].
pub fn token_losses(model: &Model, split: &Split, name: &str, batch_size: usize) -> Result<Vec<Vec<f32>>> {
    let mut rows = vec![Vec::new(); split.len()];
    each_row(model, split, name, batch_size, &mut |row, losses| rows[row] = losses.to_vec())?;
    Ok(rows)
}

/// Calls `visit` with every row of `split` and the losses of its targets, short rows first.
fn each_row(
    model: &Model,
    split: &Split,
    name: &str,
    batch_size: usize,
    visit: &mut dyn FnMut(usize, &[f32]),
) -> Result<()> {
    check_vocabulary(model, split, name)?;
    let mut order: Vec<u32> = (0..split.len() as u32).collect();
    order.sort_by_key(|&row| (split.row_length(row as usize), row));
    let mut targets = 0;
    for batch_rows in order.chunks(batch_size.max(1)) {
        let batch = Batch::of_rows(split, batch_rows, 1);
        targets += batch.target_count();
        let mut rows = batch_rows.iter();
        let mut outcome = Ok(());
        losses_of_batch(model, &batch, &mut |losses| {
            let row = *rows.next().expect("a batch has the rows it was made of");
            let bad = losses.iter().find(|loss| !loss.is_finite());
            if let (Some(value), Ok(())) = (bad, &outcome) {
                outcome = Err(Error::NotFinite { split: name.to_owned(), row, value: f64::from(*value) });
            }
            visit(row as usize, losses);
        })?;
        outcome?;
    }
    if targets == 0 {
        return Err(Error::NoTargets { split: name.to_owned() });
    }
    Ok(())
}

/// Calls `visit` with the losses of the targets of each row of a batch, in the order of its lines.
fn losses_of_batch(model: &Model, batch: &Batch, visit: &mut dyn FnMut(&[f32])) -> Result<()> {
    if batch.target_count() == 0 {
        batch.targets_of_row.iter().for_each(|_| visit(&[]));
        return Ok(());
    }
    let losses = loss::of_each_target(model, batch)?;
    losses.eval()?;
    let mut rest = losses.as_slice::<f32>();
    for &targets in &batch.targets_of_row {
        let (row, others) = rest.split_at(targets);
        visit(row);
        rest = others;
    }
    Ok(())
}

/// Scores the rows of a batch, in the order of its lines; a row without a target has the loss 0.
pub fn score_batch(model: &Model, batch: &Batch) -> Result<Vec<RowScore>> {
    let mut rows = Vec::new();
    losses_of_batch(model, batch, &mut |losses| rows.push(RowScore::of(losses)))?;
    Ok(rows)
}
