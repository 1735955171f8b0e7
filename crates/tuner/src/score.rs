//! Losses of a model on a whole split, per row or per target.

use dataset::Split;
use mlx_rs::Array;
use models::{Model, Pass};
use outputs::RowLoss;

use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::loss;
use crate::ranks::Ranks;
use crate::sharding::Shard;
use crate::sharing;
use crate::vocabulary::check_vocabulary;

/// Number of tokens, padding included, that are scored together at most if they are in several rows, on a CPU and on a GPU:
/// more would need memory for activations and take as long.
const TOKENS_AT_A_TIME: [usize; 2] = [2048, 1 << 16];

/// Losses of a model on a split.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// Loss of every row, in the order of the split.
    pub rows: Vec<RowLoss>,
}

impl Score {
    /// Returns the number of targets.
    pub fn tokens(&self) -> u64 {
        self.rows.iter().map(|row| row.tokens).sum()
    }

    /// Returns the mean loss in nats per target; every target counts the same, whatever row it is in.
    pub fn mean_loss(&self) -> f64 {
        self.rows.iter().map(|row| row.loss).sum::<f64>() / self.tokens() as f64
    }
}

/// Sums up the losses of a row's targets, in nats.
pub fn row_loss(losses: &[f32]) -> RowLoss {
    RowLoss { loss: losses.iter().map(|&loss| f64::from(loss)).sum(), tokens: losses.len() as u64 }
}

/// Scores every row of `split`, `batch_size` rows at a time, rows of similar length together.
///
/// # Errors
///
/// Fails when the split has no targets or a token that the model does not know, or when a loss is not finite.
pub fn score(model: &Model, split: &Split, name: &str, batch_size: usize) -> Result<Score> {
    score_states(model, split, name, batch_size, &mut |_| Ok(()))
}

/// Scores as [`score`] does, and calls `visit` with what enters the head at the targets, `[N, D]`, some rows at a time. The
/// order of the targets depends only on the split, the number of rows and the device.
///
/// # Errors
///
/// As [`score`], and returns the error of `visit`.
pub fn score_states(
    model: &Model,
    split: &Split,
    name: &str,
    batch_size: usize,
    visit: &mut dyn FnMut(&Array) -> Result<()>,
) -> Result<Score> {
    let mut rows = vec![row_loss(&[]); split.len()];
    let row = &mut |row: usize, losses: &[f32]| rows[row] = row_loss(losses);
    let losses = &mut |_: usize, batch: &Batch| losses_of_batch(model, batch, visit).map(Some);
    let visitor = &mut Visitor { stop: &mut |_| Ok(false), losses, row };
    each_row(model, split, name, batch_size, visitor)?;
    Ok(Score { rows })
}

/// The processes that score a split.
pub(crate) enum Scorer<'a> {
    /// This one.
    Alone,
    /// Ranks that share the batches.
    OfRows(&'a Ranks),
    /// Ranks that share the blocks of the model.
    OfBlocks(Shard<'a>),
}

impl Scorer<'_> {
    fn ranks(&self) -> Option<&Ranks> {
        match self {
            Self::Alone => None,
            Self::OfRows(ranks) | Self::OfBlocks(Shard { ranks, .. }) => Some(ranks),
        }
    }

    /// Returns the losses of batch `index`; `None` if another rank has them.
    fn losses(&self, model: &Model, index: usize, batch: &Batch) -> Result<Option<Vec<f32>>> {
        match self {
            Self::OfRows(ranks) if !ranks.has(index) => Ok(None),
            Self::OfBlocks(_) if batch.target_count() == 0 => Ok(None),
            Self::OfBlocks(shard) => Ok(shard.losses(model, batch)?.map(|losses| numbers_of(&losses, batch))),
            Self::Alone | Self::OfRows(_) => losses_of_batch(model, batch, &mut |_| Ok(())).map(Some),
        }
    }
}

/// As [`score`], by several ranks, all of which get the whole result.
///
/// Calls `stop` with the index of every batch before it is scored; returns `None` once `stop` returns true, which it must do on
/// all ranks for the same batch.
///
/// # Errors
///
/// As [`score`], and when a rank is lost.
pub(crate) fn score_by_ranks(
    stop: &mut dyn FnMut(usize) -> Result<bool>,
    model: &Model,
    split: &Split,
    name: &str,
    batch_size: usize,
    by: &Scorer<'_>,
) -> Result<Option<Score>> {
    let mut rows = vec![row_loss(&[]); split.len()];
    let row = &mut |row: usize, losses: &[f32]| rows[row] = row_loss(losses);
    let losses = &mut |index: usize, batch: &Batch| by.losses(model, index, batch);
    let visitor = &mut Visitor { stop, losses, row };
    if !each_row(model, split, name, batch_size, visitor)? {
        return Ok(None);
    }
    let rows = match by.ranks() {
        Some(ranks) => sharing::row_losses(ranks, &rows)?,
        None => rows,
    };
    Ok(Some(Score { rows }))
}

/// Returns the unweighted losses of all targets of `split` in nats: one list per row, in the order of the split.
///
/// # Errors
///
/// As [`score`].
pub fn token_losses(model: &Model, split: &Split, name: &str, batch_size: usize) -> Result<Vec<Vec<f32>>> {
    let mut rows = vec![Vec::new(); split.len()];
    let row = &mut |row: usize, losses: &[f32]| rows[row] = losses.to_vec();
    let losses = &mut |_: usize, batch: &Batch| losses_of_batch(model, batch, &mut |_| Ok(())).map(Some);
    let visitor = &mut Visitor { stop: &mut |_| Ok(false), losses, row };
    each_row(model, split, name, batch_size, visitor)?;
    Ok(rows)
}

/// Returns the losses of the targets of a batch, given its index; `None` if its rows are skipped.
type LossesOf<'a> = dyn FnMut(usize, &Batch) -> Result<Option<Vec<f32>>> + 'a;

/// Functions that decide what is computed of a split, and receive it.
struct Visitor<'a> {
    /// Called with the index of every batch before anything of it is computed; true ends the work.
    stop: &'a mut dyn FnMut(usize) -> Result<bool>,
    /// Called with every batch.
    losses: &'a mut LossesOf<'a>,
    /// Called with every row and the losses of its targets.
    row: &'a mut dyn FnMut(usize, &[f32]),
}

/// Computes every row of `split`, short rows first; returns whether it came to the end.
fn each_row(
    model: &Model,
    split: &Split,
    name: &str,
    batch_size: usize,
    visitor: &mut Visitor<'_>,
) -> Result<bool> {
    if split.is_empty() {
        return Err(Error::EmptySplit { split: name.to_owned() });
    }
    check_vocabulary(model, split, name)?;
    let mut order: Vec<u32> = (0..split.len() as u32).collect();
    order.sort_by_key(|&row| (split.row_length(row as usize), row));
    let mut targets = 0;
    for (index, batch_rows) in batches(split, &order, batch_size).into_iter().enumerate() {
        if (visitor.stop)(index)? {
            return Ok(false);
        }
        let batch = Batch::of_rows(split, batch_rows, 1);
        targets += batch.target_count();
        let Some(losses) = (visitor.losses)(index, &batch)? else { continue };
        let mut rest = &losses[..];
        for (&row, &targets) in batch_rows.iter().zip(&batch.targets_of_row) {
            let (losses, others) = rest.split_at(targets);
            rest = others;
            if let Some(&value) = losses.iter().find(|loss| !loss.is_finite()) {
                return Err(Error::NotFinite { split: name.to_owned(), row, value: f64::from(value) });
            }
            (visitor.row)(row as usize, losses);
        }
    }
    if targets == 0 {
        return Err(Error::NoTargets { split: name.to_owned() });
    }
    Ok(true)
}

/// Splits rows, short ones first, into batches of at most `batch_size` rows and about [`TOKENS_AT_A_TIME`] tokens.
fn batches<'a>(split: &Split, order: &'a [u32], batch_size: usize) -> Vec<&'a [u32]> {
    let limit = TOKENS_AT_A_TIME[usize::from(mlx_ext::runs_on_gpu())];
    let mut batches = Vec::new();
    for rows in order.chunks(batch_size.max(1)) {
        let longest = rows.last().map_or(1, |&row| split.row_length(row as usize).max(1));
        batches.extend(rows.chunks((limit / longest).max(1)));
    }
    batches
}

/// Returns the mean loss of batches in nats per target, each row with its weight; 0 without targets.
///
/// # Errors
///
/// Fails when the model cannot be run.
pub fn mean_loss(model: &Model, batches: &[Batch]) -> Result<f64> {
    let (mut sum, mut total) = (0.0, 0.0);
    for batch in batches {
        let losses = losses_of_batch(model, batch, &mut |_| Ok(()))?;
        batch.weights.eval()?;
        let weights = batch.weights.as_slice::<f32>();
        sum += losses
            .iter()
            .zip(weights)
            .map(|(&loss, &weight)| f64::from(loss) * f64::from(weight))
            .sum::<f64>();
        total += batch.total_weight;
    }
    Ok(if total > 0.0 { sum / total } else { 0.0 })
}

/// Returns the losses of all targets of a batch, row by row; calls `visit` with what enters the head there.
fn losses_of_batch(
    model: &Model,
    batch: &Batch,
    visit: &mut dyn FnMut(&Array) -> Result<()>,
) -> Result<Vec<f32>> {
    if batch.target_count() == 0 {
        return Ok(Vec::new());
    }
    let states = loss::states_of_targets(model, batch, Pass::default())?;
    let losses = loss::losses_of_targets(model, &states, batch)?;
    losses.eval()?;
    visit(&states)?;
    Ok(numbers_of(&losses, batch))
}

/// Returns the losses of the targets of a batch without those that only fill it up.
fn numbers_of(losses: &Array, batch: &Batch) -> Vec<f32> {
    losses.as_slice::<f32>()[..batch.target_count()].to_vec()
}

/// Scores the rows of a batch, in its order; the loss of a row without targets is 0.
#[cfg(feature = "test-hooks")]
pub fn score_batch(model: &Model, batch: &Batch) -> Result<Vec<RowLoss>> {
    let losses = losses_of_batch(model, batch, &mut |_| Ok(()))?;
    let mut rest = &losses[..];
    let mut rows = Vec::new();
    for &targets in &batch.targets_of_row {
        let (losses, others) = rest.split_at(targets);
        rows.push(row_loss(losses));
        rest = others;
    }
    Ok(rows)
}
