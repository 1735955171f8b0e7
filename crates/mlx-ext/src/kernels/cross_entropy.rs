//! Cross-entropy of rows of logits.

use std::ops::Range;

use mlx_rs::{Array, Dtype};

use crate::error::Result;
use crate::host::{HostOp, Input};
use crate::kernels::lanes::{Lanes, WIDTH, kernel, update};
use crate::kernels::threads::for_rows;

/// Numbers that are summed in `f32` before the sum is added to a total in `f64`.
const PER_SUM: usize = 1024;

/// Mapping from the outputs of the head's linear map to the logits: z = cap · tanh(scale · y / cap).
#[derive(Debug, Clone, Copy)]
pub struct LossHead {
    /// Factor of the outputs.
    pub scale: f32,
    /// Limit of the logits.
    pub cap: Option<f32>,
}

/// Returns −log p of `targets` for each row of `outputs`, `[N]`, `f32`: `outputs [N, V]` of the head's linear map,
/// `targets [N]`, `i32`.
///
/// # Errors
///
/// Returns the error of MLX.
pub fn cross_entropy(outputs: &Array, targets: &Array, head: LossHead) -> Result<Array> {
    let op = HostOp::new("cross_entropy").strided_input(outputs).input(targets);
    op.output(&outputs.shape()[..1], Dtype::Float32).build_one(move |inputs, outputs| {
        let width = inputs[0].dim(1);
        let losses = outputs[0].slice();
        for_rows(losses.len(), width, [losses], &|rows, [losses]| {
            let mut buffer = vec![0.0; width];
            for (row, loss) in rows.zip(losses) {
                buffer.copy_from_slice(inputs[0].nth_row(row));
                *loss = log_loss(&mut buffer, inputs[1].slice::<i32>()[row], head).loss;
            }
        });
    })
}

/// Returns weight · −log p of each row, `[N]`, and its gradient for `outputs`, `[N, V]`, over the buffer of `outputs` if
/// nothing else needs that. `weights [N]`, `f32`.
///
/// Plain arrays without a gradient of their own: they are the value and the gradient.
///
/// # Errors
///
/// Returns the error of MLX.
pub fn cross_entropy_with_gradient(
    outputs: &Array,
    targets: &Array,
    weights: &Array,
    head: LossHead,
) -> Result<[Array; 2]> {
    let op = HostOp::new("cross_entropy_with_gradient").input(outputs).input(targets).input(weights);
    let results =
        op.output(&outputs.shape()[..1], Dtype::Float32).output_over(0).build(move |inputs, outputs| {
            let [losses, gradient] = outputs else { unreachable!("two outputs") };
            let width = gradient.dim(1);
            let (losses, gradient) = (losses.slice(), gradient.slice());
            for_rows(losses.len(), 4 * width, [losses, gradient], &|rows, [losses, gradient]| {
                weighted_rows(rows, &inputs[1], &inputs[2], head, losses, gradient);
            });
        })?;
    let [losses, gradient] = <[Array; 2]>::try_from(results).expect("two outputs");
    Ok([losses, gradient])
}

fn weighted_rows(
    rows: Range<usize>,
    targets: &Input<'_>,
    weights: &Input<'_>,
    head: LossHead,
    losses: &mut [f32],
    gradient: &mut [f32],
) {
    let width = gradient.len() / rows.len();
    for ((row, loss), y) in rows.zip(losses).zip(gradient.chunks_exact_mut(width)) {
        let (target, weight) = (targets.slice::<i32>()[row], weights.slice::<f32>()[row]);
        let found = log_loss(y, target, head);
        *loss = found.loss * weight;
        gradient_of_row(y, target as usize, weight, found, head);
    }
}

/// Loss of a row, with the sums that its gradient needs.
#[derive(Clone, Copy)]
struct RowLoss {
    loss: f32,
    highest: f32,
    /// Σ exp(z − highest).
    total: f32,
}

kernel! {
    /// Replaces outputs y of the linear map by exp(z − max z), or by z if there is a cap, and returns the loss.
    fn log_loss(y: &mut [f32], target: i32, head: LossHead) -> RowLoss {
        let scale = Lanes::splat(head.scale);
        match head.cap {
            None if head.scale == 1.0 => {}
            None => update!([y], [], y * scale),
            Some(cap) => {
                let (inverse, cap) = (Lanes::splat(head.scale / cap), Lanes::splat(cap));
                update!([y], [], (y * inverse).tanh() * cap);
            }
        }
        let highest = highest_of(y);
        let at_target = y[target as usize];
        let limit = Lanes::splat(highest);
        let keep = head.cap.is_none();
        let mut total = 0.0_f64;
        for chunk in y.chunks_mut(PER_SUM) {
            let mut sum = Lanes::splat(0.0);
            let (blocks, rest) = chunk.as_chunks_mut::<WIDTH>();
            for block in blocks {
                let power = (Lanes(*block) - limit).exp();
                sum = sum + power;
                if keep {
                    *block = power.0;
                }
            }
            if !rest.is_empty() {
                let power = (Lanes::load_part(rest, f32::NEG_INFINITY) - limit).exp();
                sum = sum + power;
                if keep {
                    power.store_part(rest);
                }
            }
            total += f64::from(sum.sum());
        }
        let loss = (f64::from(highest) + total.ln() - f64::from(at_target)) as f32;
        RowLoss { loss, highest, total: total as f32 }
    }
}

kernel! {
    /// Replaces what [`log_loss`] left in a row by the gradient: with p = softmax(z), ∂loss/∂z = weight · (p − onehot).
    fn gradient_of_row(y: &mut [f32], target: usize, weight: f32, row: RowLoss, head: LossHead) {
        let share = Lanes::splat(weight / row.total);
        let factor = Lanes::splat(head.scale);
        let Some(cap) = head.cap else {
            let share = share * factor;
            update!([y], [], y * share);
            y[target] -= weight * head.scale;
            return;
        };
        let (limit, inverse) = (Lanes::splat(row.highest), Lanes::splat(1.0 / cap));
        let at_target = slope(Lanes::splat(y[target]), inverse, factor).0[0];
        update!([y], [], (y - limit).exp() * share * slope(y, inverse, factor));
        y[target] -= weight * at_target;
    }
}

/// Returns ∂z/∂y = scale · (1 − (z/cap)²).
#[inline(always)]
fn slope(z: Lanes, inverse_cap: Lanes, scale: Lanes) -> Lanes {
    let bent = z * inverse_cap;
    (Lanes::splat(1.0) - bent * bent) * scale
}

#[inline(always)]
fn highest_of(y: &[f32]) -> f32 {
    let (blocks, rest) = y.as_chunks::<WIDTH>();
    let mut highest = Lanes::load_part(rest, f32::NEG_INFINITY);
    for block in blocks {
        highest = Lanes(*block).max(highest);
    }
    highest.largest()
}

#[cfg(test)]
mod tests {
    use mlx_rs::ops;

    use super::*;
    use crate::kernels::testing::{bits, everywhere, near, normal};

    fn plain(y: &Array, targets: &Array, weights: &Array, head: LossHead) -> Result<[Array; 2]> {
        let targets = targets.expand_dims(1)?;
        let loss_of = |inputs: &[Array]| -> Result<Vec<Array>> {
            let mut z = inputs[0].multiply(Array::from_f32(head.scale))?;
            if let Some(cap) = head.cap {
                z = ops::tanh(z.divide(Array::from_f32(cap))?)?.multiply(Array::from_f32(cap))?;
            }
            let picked = z.take_along_axis(&targets, 1)?.squeeze_axes(&[1])?;
            let losses = z.logsumexp_axis(-1, false)?.subtract(picked)?;
            Ok(vec![losses.multiply(weights)?.sum(None)?, losses])
        };
        let (values, gradients) = crate::transforms::value_and_grad(loss_of, std::slice::from_ref(y), 1)?;
        Ok([values[1].multiply(weights)?, gradients[0].clone()])
    }

    #[test]
    fn values_and_gradients_are_those_of_mlx() -> Result<()> {
        let heads = [
            LossHead { scale: 1.0, cap: None },
            LossHead { scale: 0.25, cap: None },
            LossHead { scale: 0.5, cap: Some(3.0) },
        ];
        for (rows, width) in [(1, 1), (3, 17), (5, 16), (2, 5000), (70, 1030)] {
            for head in heads {
                let y = normal(&[rows, width], 1)?.multiply(Array::from_f32(4.0))?;
                let targets = Array::from_iter((0..rows).map(|row| row * 7 % width), &[rows]);
                let weights = Array::from_iter((0..rows).map(|row| 0.5 + row as f32 % 3.0), &[rows]);
                let expected = plain(&y, &targets, &weights, head)?;
                let ours =
                    everywhere(|| Ok(cross_entropy_with_gradient(&y, &targets, &weights, head)?.into()))?;
                near(&ours[0], &expected[0], 1e-5);
                near(&ours[1], &expected[1], 1e-5);
                let unweighted = cross_entropy(&y, &targets, head)?.multiply(&weights)?;
                assert_eq!(bits(&unweighted), bits(&ours[0]));
            }
        }
        Ok(())
    }

    #[test]
    fn extreme_logits() -> Result<()> {
        let y =
            Array::from_slice(&[1e30_f32, 0.0, -1e30, 5e4, 5e4, -5e4, f32::NEG_INFINITY, 0.0, 0.0], &[3, 3]);
        let targets = Array::from_slice(&[0, 1, 2], &[3]);
        let weights = Array::ones::<f32>(&[3])?;
        let head = LossHead { scale: 1.0, cap: None };
        let [losses, gradient] = cross_entropy_with_gradient(&y, &targets, &weights, head)?;
        near(&losses, &Array::from_slice(&[0.0, 2_f32.ln(), 2_f32.ln()], &[3]), 1e-6);
        let expected = [0.0, 0.0, 0.0, 0.5, -0.5, 0.0, 0.0, 0.5, -0.5];
        near(&gradient, &Array::from_slice(&expected, &[3, 3]), 1e-6);
        let broken = Array::from_slice(&[f32::NAN, 0.0], &[1, 2]);
        let losses = cross_entropy(&broken, &Array::from_slice(&[1], &[1]), head)?;
        assert!(losses.item_exact::<f32>().is_nan());
        Ok(())
    }
}
