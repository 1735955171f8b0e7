//! Cross-entropy over targets; only positions with a target reach the head.

use mlx_ext::Result;
use mlx_ext::host::uses_host;
use mlx_ext::kernels::{self, LossHead};
use mlx_rs::{Array, Dtype, ops};
use models::{Input, Model, Pass};

use crate::batch::Batch;
use crate::head::{self, HeadOptions, Targets};

/// Settings for the gradient of the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadGradient {
    /// The head is frozen; the gradient of its inputs is computed in the forward pass.
    OfInputs,
    /// The head is trained or has an adapter; all gradients are computed in the forward pass.
    OfAll,
    /// All logits at one time, differentiated by MLX: the reference that the others are tested against.
    #[cfg(feature = "test-hooks")]
    Derived,
}

/// Returns the weighted sum of the losses of `batch` in nats, `f32`.
///
/// `chunk_rows` is the number of rows that the head takes at a time; `None` chooses it by the vocabulary.
pub(crate) fn batch_loss(
    model: &Model,
    batch: &Batch,
    gradient: HeadGradient,
    chunk_rows: Option<usize>,
    pass: Pass<'_>,
) -> Result<Array> {
    let hidden = hidden_at_targets(model, batch, pass)?;
    let is_trained = match gradient {
        HeadGradient::OfInputs => false,
        HeadGradient::OfAll => true,
        #[cfg(feature = "test-hooks")]
        HeadGradient::Derived => {
            let losses = cross_entropies(&model.logits(&hidden)?, &batch.targets)?;
            return Ok(losses.multiply(&batch.weights)?.sum(None)?);
        }
    };
    let chunk_rows = chunk_rows.unwrap_or_else(|| head::chunk_rows(model.vocabulary()));
    let targets = Targets { tokens: batch.targets.clone(), weights: batch.weights.clone() };
    head::chunked_loss(model, &hidden, targets, HeadOptions { chunk_rows, is_trained })
}

/// Returns the states that enter a block, `[B, L, D]`; they do not depend on traced parameters, so earlier blocks are not
/// traced.
pub(crate) fn entering(model: &Model, batch: &Batch, block: usize) -> Result<Array> {
    model.entering(input_of(batch), block)
}

/// Returns the states that enter block `end`, `[B, L, D]`.
pub(crate) fn through(model: &Model, batch: &Batch, pass: Pass<'_>, end: usize) -> Result<Array> {
    model.through(input_of(batch), pass, end)
}

/// Returns what enters the head at every target of `batch`, `[N, D]`.
pub(crate) fn states_of_targets(model: &Model, batch: &Batch, pass: Pass<'_>) -> Result<Array> {
    hidden_at_targets(model, batch, pass)
}

/// Returns the unweighted loss of every target of `batch` in nats, `[N]`, `f32`; `hidden` is what enters the head there.
pub(crate) fn losses_of_targets(model: &Model, hidden: &Array, batch: &Batch) -> Result<Array> {
    let mut losses = Vec::new();
    for (start, end) in head::chunks(hidden.dim(0) as usize, head::chunk_rows(model.vocabulary())) {
        let (rows, targets) = (head::slice(hidden, start, end)?, head::slice(&batch.targets, start, end)?);
        let logits = model.logits(&rows)?;
        let chunk = if uses_host(&logits) {
            kernels::cross_entropy(&logits, &targets, LossHead { scale: 1.0, cap: None })?
        } else {
            cross_entropies(&logits, &targets)?
        };
        chunk.eval()?;
        losses.push(chunk);
    }
    Ok(ops::concatenate(&losses, 0)?)
}

fn input_of(batch: &Batch) -> Input<'_> {
    Input {
        tokens: &batch.tokens,
        segments: batch.segments.as_ref(),
        lengths: Some(&batch.lengths),
        cache: None,
    }
}

/// Returns the hidden states at the positions with a target, `[N, D]`.
fn hidden_at_targets(model: &Model, batch: &Batch, pass: Pass<'_>) -> Result<Array> {
    let hidden = model.hidden_with(input_of(batch), pass)?;
    let flat = hidden.reshape(&[-1, model.hidden_size()])?;
    Ok(flat.take_axis(&batch.positions, 0)?)
}

/// Returns −log p of `targets` `[N]` given logits `[N, V]`: `[N]`, `f32` whatever the model computes in.
fn cross_entropies(logits: &Array, targets: &Array) -> Result<Array> {
    let logits = logits.as_dtype(Dtype::Float32)?;
    let picked = logits.take_along_axis(targets.expand_dims(1)?, 1)?.squeeze_axes(&[1])?;
    Ok(logits.logsumexp_axis(-1, false)?.subtract(picked)?)
}
