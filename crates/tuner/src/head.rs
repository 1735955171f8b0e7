//! The head and its loss, in chunks, each with its gradient made in the forward pass.
//!
//! The logits of a batch are never there at once: a chunk's logits, its share of the loss and its share of every gradient
//! are made together, before the next chunk begins, and the whole is one function with a gradient of its own.

use mlx_ext::Result;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Array, Dtype, ops};
use models::{Adapter, Head, Model, Weight, scalar};

/// Logits of about this many numbers are alive at a time.
const CHUNK_NUMBERS: usize = 1 << 24;

/// Fewer rows than this would read the head's weights too often.
const SMALLEST_CHUNK: usize = 64;

/// Rows of a chunk.
pub(crate) fn chunk_rows(vocabulary: i32) -> usize {
    (CHUNK_NUMBERS / vocabulary.max(1) as usize).max(SMALLEST_CHUNK)
}

/// Where the chunks of `count` rows begin and end.
pub(crate) fn chunks(count: usize, size: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..count).step_by(size).map(move |start| (start, (start + size).min(count)))
}

/// The part of `array` from row `start` to row `end`.
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

/// Returns the weighted sum of the losses of `targets [N]` after hidden states `rows [N, D]`, in nats, `f32`.
///
/// The head takes `chunk` rows at a time. The gradient reaches `rows` and, if the head `trains`, what of it may train.
pub(crate) fn weighted_sum(
    model: &Model,
    rows: &Array,
    (targets, weights): (&Array, &Array),
    (chunk, trains): (usize, bool),
) -> Result<Array> {
    let (mut model, targets, weights) = (model.clone(), targets.clone(), weights.clone());
    let mut inputs = vec![rows.clone()];
    if trains {
        model.visit_head(&mut |array| inputs.push(array.clone()));
    }
    let function = mlx_ext::custom_vjp(
        move |inputs| {
            let mut model = model.clone();
            let mut values = inputs[1..].iter();
            if trains {
                model.visit_head(&mut |array| {
                    *array = values.next().expect("as many as were collected").clone();
                });
            }
            LinearMap::new(&model.head())?.loss_and_gradients(
                &inputs[0],
                (&targets, &weights),
                (chunk, trains),
            )
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
    /// `[V]`, `f32`: the norms that DoRA divides by; no gradient flows through them.
    norms: Option<Array>,
}

/// What a chunk adds.
struct Part {
    loss: Array,
    /// `[n, D]`
    of_rows: Array,
    /// The same for the rows as dropout left them, `[n, D]`.
    of_dropped: Option<Array>,
    /// In the order of [`Model::visit_head`].
    of_parameters: Vec<Array>,
}

impl<'a> LinearMap<'a> {
    fn new(head: &'a Head<'a>) -> Result<Self> {
        let dora = head.adapter.filter(|adapter| adapter.magnitude.is_some());
        Ok(Self { head, norms: dora.map(|adapter| adapted_norms(head.weight, adapter)).transpose()? })
    }

    /// The sum of the losses, its gradient for `rows`, and, if the head `trains`, those for its parameters.
    fn loss_and_gradients(
        &self,
        rows: &Array,
        (targets, weights): (&Array, &Array),
        (chunk, trains): (usize, bool),
    ) -> Result<Vec<Array>> {
        let adapter = self.head.adapter;
        // One mask for all rows, whatever the chunks.
        let dropped = adapter.map_or_else(|| Ok(rows.clone()), |adapter| adapter.dropped(rows))?;
        let (mut losses, mut of_rows, mut of_dropped) = (Vec::new(), Vec::new(), Vec::new());
        let mut of_parameters: Vec<Array> = Vec::new();
        for (start, end) in chunks(rows.dim(0) as usize, chunk) {
            let part = |array: &Array| slice(array, start, end);
            let mut h = part(rows)?;
            if let (Some(loss), Some(gradient)) = (losses.last(), of_rows.last()) {
                // All of a chunk is done before the next begins: its logits live no longer.
                let before: Vec<Array> =
                    [loss, gradient].into_iter().chain(&of_parameters).cloned().collect();
                h = mlx_ext::after(&h, &before)?;
            }
            let new = self.chunk((&h, &part(&dropped)?), (&part(targets)?, &part(weights)?), trains)?;
            losses.push(new.loss.reshape(&[1])?);
            of_rows.push(new.of_rows);
            of_dropped.extend(new.of_dropped);
            of_parameters = match of_parameters.len() {
                0 => new.of_parameters,
                _ => of_parameters
                    .iter()
                    .zip(&new.of_parameters)
                    .map(|(a, b)| Ok(a.add(b)?))
                    .collect::<Result<_>>()?,
            };
        }
        let mut of_rows = ops::concatenate(&of_rows, 0)?;
        if let Some(adapter) = adapter {
            of_rows = of_rows.add(adapter.dropped(&ops::concatenate(&of_dropped, 0)?)?)?;
        }
        let loss = ops::concatenate(&losses, 0)?.sum(None)?;
        Ok([loss, of_rows].into_iter().chain(of_parameters).collect())
    }

    /// One chunk: `h [n, D]`, and `x`, the same as dropout left it.
    fn chunk(
        &self,
        (h, x): (&Array, &Array),
        (targets, weights): (&Array, &Array),
        trains: bool,
    ) -> Result<Part> {
        let (weight, wide) = (self.head.weight, Dtype::Float32);
        let Some(adapter) = self.head.adapter else {
            let (loss, slope) = cross_entropy(self.head, &weight.project(h)?, targets, weights)?;
            let of_weight = if trains { Some(slope.t().matmul(h)?) } else { None };
            let of_rows = weight.project_back(&slope)?;
            return Ok(Part {
                loss,
                of_rows,
                of_dropped: None,
                of_parameters: of_weight.into_iter().collect(),
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
        let (loss, mut slope) = cross_entropy(self.head, &mapped, targets, weights)?;
        let mut of_magnitude = None;
        if let (Some(factor), Some(norms)) = (&factor, &self.norms) {
            of_magnitude = Some(slope.multiply(&plain)?.as_dtype(wide)?.sum_axis(0, false)?.divide(norms)?);
            slope = slope.multiply(factor)?;
        }
        let pulled = slope.matmul(b.t())?.multiply(&scale)?;
        let mut of_parameters = Vec::new();
        if trains {
            of_parameters.push(x.t().matmul(&pulled)?.as_dtype(wide)?);
            of_parameters.push(inner.t().matmul(&slope)?.as_dtype(wide)?);
            of_parameters.extend(of_magnitude);
        }
        let of_rows = weight.project_back(&slope)?;
        Ok(Part { loss, of_rows, of_dropped: Some(pulled.matmul(a.t())?), of_parameters })
    }
}

/// The weighted sum of the losses of a chunk, and its gradient for what the head's linear map made, `[n, V]`.
///
/// With p = softmax(z), ∂loss/∂z = p − onehot, where z = cap · tanh(scale · y / cap).
fn cross_entropy(
    head: &Head<'_>,
    mapped: &Array,
    targets: &Array,
    weights: &Array,
) -> Result<(Array, Array)> {
    let mut logits = mapped.as_dtype(Dtype::Float32)?;
    let mut bend = None;
    if let Some(scale) = head.scale {
        logits = logits.multiply(scalar(scale, &logits)?)?;
    }
    if let Some(cap) = head.softcap {
        let cap = scalar(cap, &logits)?;
        let bent = ops::tanh(logits.divide(&cap)?)?;
        bend = Some(scalar(1.0, &bent)?.subtract(bent.square()?)?);
        logits = bent.multiply(&cap)?;
    }
    let column = targets.expand_dims(1)?;
    let weights = weights.expand_dims(1)?;
    let highest = logits.max_axis(-1, true)?;
    let picked = logits.take_along_axis(&column, 1)?;
    // One exponential a logit: for the sum and for the gradient.
    let powers = logits.subtract(&highest)?.exp()?;
    let total = powers.sum_axis(-1, true)?;
    let losses = highest.add(total.log()?)?.subtract(picked)?;
    let loss = losses.multiply(&weights)?.sum(None)?;

    let share = powers.multiply(weights.divide(total)?)?;
    let at_target = share.take_along_axis(&column, 1)?.subtract(&weights)?;
    let mut slope = share.put_along_axis(&column, &at_target, 1)?;
    if let Some(bend) = bend {
        slope = slope.multiply(bend)?;
    }
    if let Some(scale) = head.scale {
        slope = slope.multiply(scalar(scale, &slope)?)?;
    }
    Ok((loss, slope.as_dtype(mapped.dtype())?))
}

/// The norm of each row of the weight with the adapter's update, `[V]`, `f32`, a slice of rows at a time.
fn adapted_norms(weight: &Weight, adapter: &Adapter) -> Result<Array> {
    let (a, b) = (&adapter.a, &adapter.b);
    let (width, vocabulary) = (a.dim(0), b.dim(1));
    let step = (CHUNK_NUMBERS as i32 / width).max(1);
    let mut norms: Vec<Array> = Vec::new();
    for start in (0..vocabulary).step_by(step as usize) {
        let end = (start + step).min(vocabulary);
        let mut rows = ops::arange::<_, i32>(start, end, None)?;
        if let Some(before) = norms.last() {
            rows = mlx_ext::after(&rows, std::slice::from_ref(before))?;
        }
        let delta = b.try_index((.., start..end))?.t().matmul(a.t())?;
        let delta = delta.multiply(Array::from_f32(adapter.scale))?;
        let adapted = weight.rows(&rows)?.as_dtype(Dtype::Float32)?.add(delta)?;
        norms.push(adapted.square()?.sum_axis(1, false)?.sqrt()?);
    }
    Ok(ops::concatenate(&norms, 0)?)
}
