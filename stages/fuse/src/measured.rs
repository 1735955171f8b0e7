//! Remains of a model after it was measured: its loss, and what is needed to compare its logits.

use dataset::Split;
use failure::Result;
use mlx_rs::ops::indexing::TryIndexOp as _;
use mlx_rs::{Array, Dtype, ops};
use models::{Input, Model};
use outputs::FusionCost;
use tuner::{Batch, Score};

use crate::states::States;

/// Number of rows whose logits are compared.
const COMPARED_ROWS: usize = 4;

/// Number of logits of one model that are compared at a time, approximately.
const COMPARED_LOGITS: usize = 1 << 23;

/// A model that was scored on the validation split, without its blocks.
pub(crate) struct Measured {
    score: Score,
    /// Input of the head for every token of the first rows, `[N, D]`.
    hidden: Array,
    /// The head; `None` if it is the other model's.
    head: Option<Model>,
}

impl Measured {
    /// Scores `model` on the validation split, then drops it, or all but its head if `own_head` is set. Hands what enters its
    /// head at the targets to `states`, if there are any.
    pub(crate) fn new(
        mut model: Model,
        split: &Split,
        batch_size: usize,
        own_head: bool,
        mut states: Option<&mut States>,
    ) -> Result<Self> {
        let score = tuner::score_states(&model, split, "validation", batch_size, &mut |rows| {
            states.as_mut().map_or(Ok(()), |states| states.push(rows))
        })?;
        let hidden = hidden(&model, split)?;
        let head = if own_head {
            model.keep_only_head().map_err(models::Error::from)?;
            Some(model)
        } else {
            None
        };
        Ok(Self { score, hidden, head })
    }

    /// Compares the adapted model, which this is, with the fused one.
    ///
    /// # Panics
    ///
    /// Panics when neither has kept its head.
    pub(crate) fn compare(&self, fused: &Self) -> Result<FusionCost> {
        Ok(FusionCost {
            adapter_loss: self.score.mean_loss(),
            fused_loss: fused.score.mean_loss(),
            max_logit_difference: self.max_logit_difference(fused)?.into(),
            tokens: self.score.tokens(),
            ..FusionCost::default()
        })
    }

    /// Returns the largest difference between the logits of two models, a few rows at a time.
    fn max_logit_difference(&self, other: &Self) -> models::Result<f32> {
        let heads = [&self.head, &other.head];
        let any = heads.iter().find_map(|head| head.as_ref()).expect("a model keeps its head");
        let [ours, theirs] = heads.map(|head| head.as_ref().unwrap_or(any));
        let step = (COMPARED_LOGITS as i32 / any.vocabulary().max(1)).max(1);
        let mut largest = 0.0_f32;
        for start in (0..self.hidden.dim(0)).step_by(step as usize) {
            let end = (start + step).min(self.hidden.dim(0));
            let ours = logits(ours, &self.hidden.try_index((start..end, ..))?)?;
            let theirs = logits(theirs, &other.hidden.try_index((start..end, ..))?)?;
            let difference: f32 = ours.subtract(theirs)?.abs()?.max(None)?.item_exact();
            // Unlike `max`, keeps a NaN.
            largest = if difference > largest || difference.is_nan() { difference } else { largest };
        }
        Ok(largest)
    }
}

/// Returns the input of the head for every token of the first rows, `[N, D]`.
fn hidden(model: &Model, split: &Split) -> models::Result<Array> {
    let mut rows = Vec::new();
    for row in 0..split.len().min(COMPARED_ROWS) as u32 {
        let batch = Batch::of_rows(split, &[row], 1);
        let hidden = model.hidden(Input::tokens(&batch.tokens))?.reshape(&[-1, model.hidden_size()])?;
        hidden.eval()?;
        rows.push(hidden);
    }
    Ok(ops::concatenate(&rows, 0)?)
}

/// Returns the logits of hidden states `[n, D]`: `[n, V]`, `f32`.
fn logits(head: &Model, hidden: &Array) -> models::Result<Array> {
    Ok(head.logits(hidden)?.as_dtype(Dtype::Float32)?)
}
