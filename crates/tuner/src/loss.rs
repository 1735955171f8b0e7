//! Cross-entropy over the targets that count, without ever holding the logits of a whole batch.
//!
//! Only positions that carry loss reach the head, in chunks. Where the head itself is frozen, each chunk's gradient is
//! made in the forward pass, beside its loss, so that a chunk's logits live no longer than the chunk.

use crate::batch::Batch;
use mlx_ext::Result;
use mlx_rs::{Array, Dtype, ops};
use models::{Input, Model, PlainHead, scalar};

/// Logits of about this many numbers are alive at a time.
const CHUNK_NUMBERS: usize = 1 << 24;

/// Fewer rows than this would read the head's weights too often.
const SMALLEST_CHUNK: usize = 64;

/// How the head is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Head {
    /// Its weights do not train: the gradient is made in the forward pass.
    Frozen,
    /// It trains, or carries an adapter: MLX derives the gradient.
    Trained,
}

/// Returns the weighted sum of the losses of `batch` in nats, `f32`.
///
/// With `recompute`, the inner values of blocks are computed again for the gradient.
pub(crate) fn weighted_sum(model: &Model, batch: &Batch, head: Head, recompute: bool) -> Result<Array> {
    let rows = rows_with_loss(model, batch, recompute)?;
    match head {
        Head::Frozen if model.plain_head().is_some() => frozen_head(model, &rows, batch),
        _ => trained_head(model, &rows, batch),
    }
}

/// Returns the loss of every target of `batch` in nats, `[N]`, `f32`, unweighted.
pub(crate) fn of_each_target(model: &Model, batch: &Batch) -> Result<Array> {
    let rows = rows_with_loss(model, batch, false)?;
    let count = rows.dim(0) as usize;
    let mut losses = Vec::new();
    for (start, end) in chunks(count, model.vocabulary()) {
        let chunk = token_losses(model, &slice(&rows, start, end)?, &slice(&batch.targets, start, end)?)?;
        chunk.eval()?;
        losses.push(chunk);
    }
    Ok(ops::concatenate(&losses, 0)?)
}

/// The hidden states that the head has to score, `[N, D]`.
fn rows_with_loss(model: &Model, batch: &Batch, recompute: bool) -> Result<Array> {
    let input = Input { tokens: &batch.tokens, segments: batch.segments.as_ref(), cache: None };
    let hidden = if recompute { model.hidden_recomputed(input)? } else { model.hidden(input)? };
    let flat = hidden.reshape(&[-1, model.hidden_size()])?;
    Ok(flat.take_axis(&batch.positions, 0)?)
}

/// −log p of `targets [N]` after hidden states `rows [N, D]`: `[N]`, `f32` whatever the model computes in.
fn token_losses(model: &Model, rows: &Array, targets: &Array) -> Result<Array> {
    let logits = model.logits(rows)?.as_dtype(Dtype::Float32)?;
    let picked = logits.take_along_axis(targets.expand_dims(1)?, 1)?.squeeze_axes(&[1])?;
    Ok(logits.logsumexp_axis(-1, false)?.subtract(picked)?)
}

fn chunks(count: usize, vocabulary: i32) -> impl Iterator<Item = (usize, usize)> {
    let size = (CHUNK_NUMBERS / vocabulary.max(1) as usize).max(SMALLEST_CHUNK);
    (0..count).step_by(size).map(move |start| (start, (start + size).min(count)))
}

fn slice(array: &Array, start: usize, end: usize) -> Result<Array> {
    if start == 0 && end == array.dim(0) as usize {
        return Ok(array.clone());
    }
    let range = start as i32..end as i32;
    Ok(match array.ndim() {
        1 => ops::indexing::TryIndexOp::try_index(array, range)?,
        _ => ops::indexing::TryIndexOp::try_index(array, (range, ..))?,
    })
}

/// The same sum where the head trains: each chunk's logits are computed again for the gradient.
fn trained_head(model: &Model, rows: &Array, batch: &Batch) -> Result<Array> {
    let mut sum = Array::from_f32(0.0);
    for (start, end) in chunks(rows.dim(0) as usize, model.vocabulary()) {
        let mut model = model.clone();
        let mut inputs = vec![slice(rows, start, end)?];
        model.visit_head(&mut |array| inputs.push(array.clone()));
        let (targets, weights) = (slice(&batch.targets, start, end)?, slice(&batch.weights, start, end)?);
        let function = mlx_ext::checkpoint(move |inputs| {
            let mut model = model.clone();
            let mut values = inputs[1..].iter();
            model.visit_head(&mut |array| {
                *array = values.next().expect("as many as were collected").clone();
            });
            let losses = token_losses(&model, &inputs[0], &targets)?;
            Ok(vec![losses.multiply(&weights)?.sum(None)?])
        })?;
        sum = sum.add(&function.call(&inputs)?[0])?;
    }
    Ok(sum)
}

/// The same sum with the gradient for `rows` made beside it, chunk by chunk.
fn frozen_head(model: &Model, rows: &Array, batch: &Batch) -> Result<Array> {
    let (model, targets, weights) = (model.clone(), batch.targets.clone(), batch.weights.clone());
    let function = mlx_ext::custom_vjp(
        move |inputs| {
            let head = model.plain_head().expect("checked by the caller");
            let rows = &inputs[0];
            let (mut losses, mut gradients) = (Vec::new(), Vec::new());
            for (start, end) in chunks(rows.dim(0) as usize, model.vocabulary()) {
                let targets = slice(&targets, start, end)?;
                let weights = slice(&weights, start, end)?;
                // One chunk after the other: a chunk's logits live no longer than the chunk.
                let mut chunk = slice(rows, start, end)?;
                if let Some(before) = gradients.last() {
                    chunk = mlx_ext::after(&chunk, std::slice::from_ref(before))?;
                }
                let (loss, gradient) = chunk_with_gradient(&head, &chunk, &targets, &weights)?;
                losses.push(loss.reshape(&[1])?);
                gradients.push(gradient);
            }
            let loss = ops::concatenate(&losses, 0)?.sum(None)?;
            Ok(vec![loss, ops::concatenate(&gradients, 0)?])
        },
        |_, cotangents, outputs| Ok(vec![outputs[1].multiply(cotangents[0].as_dtype(outputs[1].dtype())?)?]),
    )?;
    Ok(function.call(std::slice::from_ref(rows))?.swap_remove(0))
}

/// Loss and gradient of one chunk: with p = softmax(z), ∂loss/∂z = p − onehot, and z = cap · tanh(s · Wh / cap).
fn chunk_with_gradient(
    head: &PlainHead<'_>,
    rows: &Array,
    targets: &Array,
    weights: &Array,
) -> Result<(Array, Array)> {
    let mut logits = head.weight.project(rows)?.as_dtype(Dtype::Float32)?;
    let mut slope = None;
    if let Some(scale) = head.scale {
        logits = logits.multiply(scalar(scale, &logits)?)?;
    }
    if let Some(cap) = head.softcap {
        let cap = scalar(cap, &logits)?;
        let bent = ops::tanh(logits.divide(&cap)?)?;
        slope = Some(scalar(1.0, &bent)?.subtract(bent.square()?)?);
        logits = bent.multiply(&cap)?;
    }
    let column = targets.expand_dims(1)?;
    let picked = logits.take_along_axis(&column, 1)?;
    let total = logits.logsumexp_axis(-1, true)?;
    let weights = weights.expand_dims(1)?;
    let loss = total.subtract(picked)?.multiply(&weights)?.sum(None)?;

    let mut probabilities = logits.subtract(total)?.exp()?;
    let mut at_target = weights.clone();
    if let Some(slope) = slope {
        at_target = at_target.multiply(slope.take_along_axis(&column, 1)?)?;
        probabilities = probabilities.multiply(slope)?;
    }
    let dtype = rows.dtype();
    let pulled =
        head.weight.project_back(&probabilities.as_dtype(dtype)?)?.multiply(weights.as_dtype(dtype)?)?;
    let pushed = head.weight.rows(targets)?.as_dtype(dtype)?.multiply(at_target.as_dtype(dtype)?)?;
    let mut gradient = pulled.subtract(pushed)?;
    if let Some(scale) = head.scale {
        gradient = gradient.multiply(scalar(scale, &gradient)?)?;
    }
    Ok((loss, gradient))
}
