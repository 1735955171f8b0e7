//! The output head and its loss, computed in chunks, with gradients made in the forward pass.
//!
//! The logits of a whole batch never exist at one time. For each chunk of rows, the logits, their share of the loss and
//! their share of every gradient are computed before the next chunk begins. To MLX the whole is one function with a
//! custom gradient.

use mlx_ext::Result;
use mlx_ext::host::uses_host;
use mlx_ext::kernels::{self, LossHead};
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Array, Dtype, ops};
use models::{Adapter, Head, Model, scalar};

/// Number of logits that exist at one time, approximately: on a CPU and on a GPU.
const CHUNK_NUMBERS: [usize; 2] = [1 << 24, 1 << 27];

/// Smallest number of rows in a chunk, on a CPU and on a GPU; smaller chunks would read the weights of the head too often. A
/// GPU computes more per byte that it reads.
const SMALLEST_CHUNK: [usize; 2] = [64, 512];

/// Returns the number of rows whose logits exist at one time on the device of this build.
pub fn chunk_rows(vocabulary: i32) -> usize {
    let device = usize::from(mlx_ext::runs_on_gpu());
    (CHUNK_NUMBERS[device] / vocabulary.max(1) as usize).max(SMALLEST_CHUNK[device])
}

/// Splits `count` rows into chunks of `size`, and yields the start and end of each.
pub(crate) fn chunks(count: usize, size: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..count).step_by(size).map(move |start| (start, (start + size).min(count)))
}

/// Returns the rows `start..end` of `array`.
pub(crate) fn slice(array: &Array, start: usize, end: usize) -> Result<Array> {
    if start == 0 && end == array.dim(0) as usize {
        return Ok(array.clone());
    }
    let range = start as i32..end as i32;
    Ok(match array.ndim() {
        1 => array.try_index(range)?,
        _ => array.try_index((range, ..))?,
    })
}

/// Targets with their weights.
#[derive(Debug, Clone)]
pub(crate) struct Targets {
    /// Token ids, `[N]`, `i32`.
    pub(crate) tokens: Array,
    /// Weights, `[N]`, `f32`.
    pub(crate) weights: Array,
}

impl Targets {
    fn slice(&self, start: usize, end: usize) -> Result<Self> {
        Ok(Self { tokens: slice(&self.tokens, start, end)?, weights: slice(&self.weights, start, end)? })
    }
}

/// Settings for computing the head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadOptions {
    /// Number of rows in a chunk.
    pub(crate) chunk_rows: usize,
    /// Whether the head's own parameters get gradients.
    pub(crate) is_trained: bool,
}

/// Returns the weighted sum of the losses of `targets` `[N]` given hidden states `[N, D]`, in nats, `f32`.
///
/// Gradients flow to `hidden` and, if the head is trained, to its trainable parameters.
pub(crate) fn chunked_loss(
    model: &Model,
    hidden: &Array,
    targets: Targets,
    options: HeadOptions,
) -> Result<Array> {
    let mut model = model.clone();
    let mut inputs = vec![hidden.clone()];
    if options.is_trained {
        inputs.extend(model.trainable_head().into_iter().map(|array| array.clone()));
    }
    let function = mlx_ext::custom_vjp(
        move |inputs| {
            let mut model = model.clone();
            if options.is_trained {
                for (array, value) in model.trainable_head().into_iter().zip(&inputs[1..]) {
                    *array = value.clone();
                }
            }
            LinearMap::new(&model.head())?.loss_and_gradients(&inputs[0], &targets, options)
        },
        |_, cotangents, outputs| {
            let scaled = |output: &Array| Ok(output.multiply(cotangents[0].as_dtype(output.dtype())?)?);
            outputs[1..].iter().map(scaled).collect()
        },
    )?;
    Ok(function.call(&inputs)?.swap_remove(0))
}

/// The linear map of a head, y = f ⊙ (Wh + s · (d(h) a) b) with dropout d and DoRA's factor f, and its loss.
struct LinearMap<'a> {
    head: &'a Head<'a>,
    /// Norms that DoRA divides by, `[V]`, `f32`; no gradient flows through them.
    norms: Option<Array>,
}

/// Loss and gradients of one chunk.
struct ChunkGradients {
    loss: Array,
    /// Gradient of the hidden states, `[n, D]`.
    hidden: Array,
    /// Gradient of the hidden states after dropout, `[n, D]`, if there is an adapter.
    dropped: Option<Array>,
    /// Gradients of the head's parameters, in the order of [`Model::trainable_head`].
    parameters: Vec<Array>,
}

impl<'a> LinearMap<'a> {
    fn new(head: &'a Head<'a>) -> Result<Self> {
        let dora = head.adapter.filter(|adapter| adapter.magnitude.is_some());
        let norms = |adapter: &Adapter| {
            if let Some(norms) = &adapter.norms {
                Ok(norms.clone())
            } else {
                let squares = head.weight.row_squares(adapter.b.dim(1), adapter.a.dim(0))?;
                adapter.adapted_norms(head.weight, &squares)
            }
        };
        Ok(Self { head, norms: dora.map(norms).transpose()? })
    }

    /// Returns the sum of the losses, its gradient for `hidden` and, if the head is trained, for its parameters.
    fn loss_and_gradients(
        &self,
        hidden: &Array,
        targets: &Targets,
        options: HeadOptions,
    ) -> Result<Vec<Array>> {
        let adapter = self.head.adapter;
        // One dropout mask for all rows, so that chunks do not change the result.
        let dropped = adapter.map_or_else(|| Ok(hidden.clone()), |adapter| adapter.dropped(hidden))?;
        let (mut losses, mut of_hidden, mut of_dropped) = (Vec::new(), Vec::new(), Vec::new());
        let mut of_parameters: Vec<Array> = Vec::new();
        for (start, end) in chunks(hidden.dim(0) as usize, options.chunk_rows) {
            let mut h = slice(hidden, start, end)?;
            if let (Some(loss), Some(gradient)) = (losses.last(), of_hidden.last()) {
                // The previous chunk is finished before this one begins, so that its logits are freed.
                let previous: Vec<Array> =
                    [loss, gradient].into_iter().chain(&of_parameters).cloned().collect();
                h = mlx_ext::after(&h, &previous)?;
            }
            let dropped = slice(&dropped, start, end)?;
            let chunk = self.chunk(&h, &dropped, &targets.slice(start, end)?, options.is_trained)?;
            losses.push(chunk.loss.reshape(&[1])?);
            of_hidden.push(chunk.hidden);
            of_dropped.extend(chunk.dropped);
            of_parameters = match of_parameters.len() {
                0 => chunk.parameters,
                _ => of_parameters
                    .iter()
                    .zip(&chunk.parameters)
                    .map(|(a, b)| Ok(a.add(b)?))
                    .collect::<Result<_>>()?,
            };
        }
        let mut of_hidden = ops::concatenate(&of_hidden, 0)?;
        if let Some(adapter) = adapter {
            of_hidden = of_hidden.add(adapter.dropped(&ops::concatenate(&of_dropped, 0)?)?)?;
        }
        let loss = ops::concatenate(&losses, 0)?.sum(None)?;
        Ok([loss, of_hidden].into_iter().chain(of_parameters).collect())
    }

    /// Computes one chunk from its hidden states `h` `[n, D]` and `x`, the same after dropout.
    fn chunk(&self, h: &Array, x: &Array, targets: &Targets, is_trained: bool) -> Result<ChunkGradients> {
        let (weight, wide) = (self.head.weight, Dtype::Float32);
        let Some(adapter) = self.head.adapter else {
            let (loss, gradient) = cross_entropy(self.head, &weight.project(h)?, targets)?;
            let of_weight = if is_trained { Some(gradient.t().matmul(h)?.as_dtype(wide)?) } else { None };
            return Ok(ChunkGradients {
                loss,
                hidden: weight.project_back(&gradient)?,
                dropped: None,
                parameters: of_weight.into_iter().collect(),
            });
        };
        let (a, b) = (adapter.a.as_dtype(h.dtype())?, adapter.b.as_dtype(h.dtype())?);
        let scale = scalar(adapter.scale, h)?;
        let inner = x.matmul(&a)?.multiply(&scale)?;
        let plain = weight.project(h)?.add(inner.matmul(&b)?)?;
        let factor = match (&adapter.magnitude, &self.norms) {
            (Some(magnitude), Some(norms)) => Some(magnitude.divide(norms)?.as_dtype(h.dtype())?),
            _ => None,
        };
        let mapped = factor.as_ref().map_or_else(|| Ok(plain.clone()), |factor| plain.multiply(factor))?;
        let (loss, mut gradient) = cross_entropy(self.head, &mapped, targets)?;
        let mut of_magnitude = None;
        if let (Some(factor), Some(norms)) = (&factor, &self.norms) {
            of_magnitude =
                Some(gradient.multiply(&plain)?.as_dtype(wide)?.sum_axis(0, false)?.divide(norms)?);
            gradient = gradient.multiply(factor)?;
        }
        let of_inner = gradient.matmul(b.t())?.multiply(&scale)?;
        let mut of_parameters = Vec::new();
        if is_trained {
            of_parameters.push(x.t().matmul(&of_inner)?.as_dtype(wide)?);
            of_parameters.push(inner.t().matmul(&gradient)?.as_dtype(wide)?);
            of_parameters.extend(of_magnitude);
        }
        Ok(ChunkGradients {
            loss,
            hidden: weight.project_back(&gradient)?,
            dropped: Some(of_inner.matmul(a.t())?),
            parameters: of_parameters,
        })
    }
}

/// Returns the weighted sum of the losses of a chunk, and its gradient for the outputs of the linear map, `[n, V]`.
///
/// With p = softmax(z), ∂loss/∂z = p − onehot, where z = cap · tanh(scale · y / cap).
fn cross_entropy(head: &Head<'_>, mapped: &Array, targets: &Targets) -> Result<(Array, Array)> {
    if uses_host(mapped) {
        let between = LossHead { scale: head.scale.unwrap_or(1.0), cap: head.softcap };
        let [losses, gradient] =
            kernels::cross_entropy_with_gradient(mapped, &targets.tokens, &targets.weights, between)?;
        return Ok((losses.sum(None)?, gradient));
    }
    let mut logits = mapped.as_dtype(Dtype::Float32)?;
    let mut cap_gradient = None;
    if let Some(scale) = head.scale {
        logits = logits.multiply(scalar(scale, &logits)?)?;
    }
    if let Some(cap) = head.softcap {
        let cap = scalar(cap, &logits)?;
        let bent = ops::tanh(logits.divide(&cap)?)?;
        cap_gradient = Some(scalar(1.0, &bent)?.subtract(bent.square()?)?);
        logits = bent.multiply(&cap)?;
    }
    let column = targets.tokens.expand_dims(1)?;
    let weights = targets.weights.expand_dims(1)?;
    let highest = logits.max_axis(-1, true)?;
    let picked = logits.take_along_axis(&column, 1)?;
    // The exponentials serve both the sum and the gradient.
    let powers = logits.subtract(&highest)?.exp()?;
    let total = powers.sum_axis(-1, true)?;
    let losses = highest.add(total.log()?)?.subtract(picked)?;
    let loss = losses.multiply(&weights)?.sum(None)?;

    let share = powers.multiply(weights.divide(total)?)?;
    let at_target = share.take_along_axis(&column, 1)?.subtract(&weights)?;
    let mut gradient = share.put_along_axis(&column, &at_target, 1)?;
    if let Some(cap_gradient) = cap_gradient {
        gradient = gradient.multiply(cap_gradient)?;
    }
    if let Some(scale) = head.scale {
        gradient = gradient.multiply(scalar(scale, &gradient)?)?;
    }
    Ok((loss, gradient.as_dtype(mapped.dtype())?))
}
