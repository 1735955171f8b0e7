//! Cross-entropy over the targets that count: only positions that carry loss reach the head.

use crate::batch::Batch;
use crate::head;
use mlx_ext::Result;
use mlx_rs::{Array, Dtype, ops};
use models::{Input, Model, Pass};

/// How the head is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadGradient {
    /// Its weights do not train; the gradient for what it reads is made in the forward pass.
    OfInputs,
    /// It trains, or carries an adapter; that gradient is made in the forward pass too.
    OfAll,
    /// All logits at once, and MLX derives the gradient: what the others are tested against.
    Derived,
}

/// Returns the weighted sum of the losses of `batch` in nats, `f32`; the head takes `chunk` rows at a time, or as many
/// as suit its vocabulary.
pub(crate) fn weighted_sum(
    model: &Model,
    batch: &Batch,
    (gradient, chunk): (HeadGradient, Option<usize>),
    pass: Pass<'_>,
) -> Result<Array> {
    let rows = rows_with_loss(model, batch, pass)?;
    if gradient == HeadGradient::Derived {
        let losses = token_losses(model, &rows, &batch.targets)?;
        return Ok(losses.multiply(&batch.weights)?.sum(None)?);
    }
    let chunk = chunk.unwrap_or_else(|| head::chunk_rows(model.vocabulary()));
    let trains = gradient == HeadGradient::OfAll;
    head::weighted_sum(model, &rows, (&batch.targets, &batch.weights), (chunk, trains))
}

/// The states that enter a block, evaluated: what comes before it is then no part of a gradient.
pub(crate) fn entering(model: &Model, batch: &Batch, block: usize) -> Result<Array> {
    let states = model.entering(input_of(batch), block)?;
    states.eval()?;
    Ok(states)
}

/// Returns the loss of every target of `batch` in nats, `[N]`, `f32`, unweighted.
pub(crate) fn of_each_target(model: &Model, batch: &Batch) -> Result<Array> {
    let rows = rows_with_loss(model, batch, Pass::default())?;
    let mut losses = Vec::new();
    for (start, end) in head::chunks(rows.dim(0) as usize, head::chunk_rows(model.vocabulary())) {
        let (rows, targets) = (head::slice(&rows, start, end)?, head::slice(&batch.targets, start, end)?);
        let chunk = token_losses(model, &rows, &targets)?;
        chunk.eval()?;
        losses.push(chunk);
    }
    Ok(ops::concatenate(&losses, 0)?)
}

fn input_of(batch: &Batch) -> Input<'_> {
    Input { tokens: &batch.tokens, segments: batch.segments.as_ref(), cache: None }
}

/// The hidden states that the head has to score, `[N, D]`.
fn rows_with_loss(model: &Model, batch: &Batch, pass: Pass<'_>) -> Result<Array> {
    let hidden = model.hidden_with(input_of(batch), pass)?;
    let flat = hidden.reshape(&[-1, model.hidden_size()])?;
    Ok(flat.take_axis(&batch.positions, 0)?)
}

/// −log p of `targets [N]` after hidden states `rows [N, D]`: `[N]`, `f32` whatever the model computes in.
fn token_losses(model: &Model, rows: &Array, targets: &Array) -> Result<Array> {
    let logits = model.logits(rows)?.as_dtype(Dtype::Float32)?;
    let picked = logits.take_along_axis(targets.expand_dims(1)?, 1)?.squeeze_axes(&[1])?;
    Ok(logits.logsumexp_axis(-1, false)?.subtract(picked)?)
}
