//! Root-mean-square norms.

use std::ops::Range;

use mlx_rs::{Array, Dtype};

use crate::error::Result;
use crate::host::{HostOp, Input};
use crate::kernels::lanes::{Lanes, kernel, map_to, sum_of, update};
use crate::kernels::threads::for_rows;
use crate::transforms::custom_vjp;

/// Rows whose share of the weight's gradient is summed before it is added to the total.
const ROWS_PER_SUM: usize = 64;

/// Settings of a norm.
#[derive(Clone, Copy)]
struct Settings {
    eps: f32,
    /// Added to the weight.
    above: f32,
}

/// Returns x / √(mean(x²) + eps) · (weight + above) over the last axis, as `fast::rms_norm` does: `x [..., D]`, `weight [D]`.
///
/// Saves `x` only for the gradient. Heads `[B, H, L, D]` may be a transposed view, and the result is one as well: its
/// memory has the order `[B, L, H, D]`.
pub fn rms_norm(x: &Array, weight: &Array, eps: f32, above: f32) -> Result<Array> {
    if x.ndim() == 4 {
        let by_token = rms_norm_of_rows(&x.transpose_axes(&[0, 2, 1, 3])?, weight, Settings { eps, above })?;
        return Ok(by_token.transpose_axes(&[0, 2, 1, 3])?);
    }
    rms_norm_of_rows(x, weight, Settings { eps, above })
}

fn rms_norm_of_rows(x: &Array, weight: &Array, settings: Settings) -> Result<Array> {
    let function = custom_vjp(
        move |inputs| Ok(vec![forward(&inputs[0], &inputs[1], settings)?]),
        move |inputs, by, _| {
            let (x, weight) = (&inputs[0], &inputs[1]);
            // MLX evaluates only what is asked for: a frozen weight costs nothing.
            Ok(vec![backward(x, weight, &by[0], settings)?, weight_gradient(x, &by[0], settings)?])
        },
    )?;
    Ok(function.call(&[x.clone(), weight.clone()])?.swap_remove(0))
}

fn forward(x: &Array, weight: &Array, settings: Settings) -> Result<Array> {
    let op = HostOp::new("rms_norm").strided_input(x).input(weight).output(x.shape(), Dtype::Float32);
    op.build_one(move |inputs, outputs| {
        let weight = raised(inputs[1].slice(), settings.above);
        let width = weight.len();
        let out = outputs[0].slice();
        for_rows(out.len() / width.max(1), width, [out], &|rows, [out]| {
            normalize(rows, &inputs[0], &weight, settings.eps, out);
        });
    })
}

fn backward(x: &Array, weight: &Array, by: &Array, settings: Settings) -> Result<Array> {
    let op = HostOp::new("rms_norm_gradient").strided_input(x).input(weight).strided_input(by);
    op.output(x.shape(), Dtype::Float32).build_one(move |inputs, outputs| {
        let weight = raised(inputs[1].slice(), settings.above);
        let width = weight.len();
        let out = outputs[0].slice();
        for_rows(out.len() / width.max(1), 2 * width, [out], &|rows, [out]| {
            gradient(rows, [&inputs[0], &inputs[2]], &weight, settings.eps, out);
        });
    })
}

/// Returns the gradient of the weight, `[D]`: sums over blocks of rows, added in order.
fn weight_gradient(x: &Array, by: &Array, settings: Settings) -> Result<Array> {
    let width = x.dim(-1);
    let op = HostOp::new("rms_norm_weight_gradient").strided_input(x).strided_input(by);
    op.output(&[width], Dtype::Float32).build_one(move |inputs, outputs| {
        let width = width as usize;
        let rows = inputs[0].shape()[..inputs[0].shape().len() - 1].iter().product::<i32>() as usize;
        let blocks = rows.div_ceil(ROWS_PER_SUM);
        let mut sums = vec![0.0; blocks * width];
        for_rows(blocks, 2 * ROWS_PER_SUM * width, [&mut sums], &|range, [sums]| {
            for (block, sum) in range.zip(sums.chunks_exact_mut(width)) {
                let rows = block * ROWS_PER_SUM..rows.min((block + 1) * ROWS_PER_SUM);
                add_weight_gradient(rows, [&inputs[0], &inputs[1]], settings.eps, sum);
            }
        });
        let total = outputs[0].slice::<f32>();
        total.fill(0.0);
        for sum in sums.chunks_exact(width.max(1)) {
            total.iter_mut().zip(sum).for_each(|(total, sum)| *total += sum);
        }
    })
}

fn raised(weight: &[f32], above: f32) -> Vec<f32> {
    weight.iter().map(|weight| weight + above).collect()
}

/// Returns 1 / √(mean(x²) + eps).
#[inline(always)]
fn inverse_size(x: &[f32], eps: f32) -> f32 {
    let width = x.len() as f32;
    let squares = sum_of!(sum, [x], x.mul_add(x, sum));
    1.0 / (squares / width + eps).sqrt()
}

kernel! {
    fn normalize(rows: Range<usize>, x: &Input<'_>, weight: &[f32], eps: f32, out: &mut [f32]) {
        for (row, out) in rows.zip(out.chunks_exact_mut(weight.len())) {
            let x = x.nth_row::<f32>(row);
            let inverse = Lanes::splat(inverse_size(x, eps));
            map_to!(out, [x, weight], x * inverse * weight);
        }
    }
}

kernel! {
    /// dx = s · (g − x · s² · mean(g · x)) with g = by · weight and s the inverse size of x.
    fn gradient(rows: Range<usize>, inputs: [&Input<'_>; 2], weight: &[f32], eps: f32, out: &mut [f32]) {
        for (row, out) in rows.zip(out.chunks_exact_mut(weight.len())) {
            let (x, by) = (inputs[0].nth_row::<f32>(row), inputs[1].nth_row::<f32>(row));
            let inverse = inverse_size(x, eps);
            let product = sum_of!(sum, [x, by, weight], (by * weight).mul_add(x, sum));
            let along = Lanes::splat(-inverse * inverse * (product / x.len() as f32));
            let inverse = Lanes::splat(inverse);
            map_to!(out, [x, by, weight], inverse * x.mul_add(along, by * weight));
        }
    }
}

kernel! {
    fn add_weight_gradient(rows: Range<usize>, inputs: [&Input<'_>; 2], eps: f32, sum: &mut [f32]) {
        for row in rows {
            let (x, by) = (inputs[0].nth_row::<f32>(row), inputs[1].nth_row::<f32>(row));
            let inverse = Lanes::splat(inverse_size(x, eps));
            update!([sum], [x, by], (x * inverse).mul_add(by, sum));
        }
    }
}

#[cfg(test)]
mod tests {
    use mlx_rs::fast;

    use super::*;
    use crate::kernels::testing::{Case, check, normal};

    fn plain(inputs: &[Array], above: f32) -> Result<Array> {
        let weight = inputs[1].add(Array::from_f32(above))?;
        Ok(fast::rms_norm(&inputs[0], Some(&weight), 1e-6)?)
    }

    #[test]
    fn values_and_gradients_are_those_of_mlx() -> Result<()> {
        for shape in [&[1][..], &[3, 16], &[2, 5, 37], &[2, 3, 4, 33], &[1, 2, 300, 64], &[0, 8]] {
            let weight = normal(&shape[shape.len() - 1..], 1)?;
            for above in [0.0, 1.0] {
                check(&Case {
                    inputs: vec![normal(shape, 2)?, weight.clone()],
                    ours: &|inputs| rms_norm(&inputs[0], &inputs[1], 1e-6, above),
                    plain: &|inputs| plain(inputs, above),
                    tolerance: 2e-5,
                })?;
            }
        }
        Ok(())
    }

    #[test]
    fn transposed_heads_and_slices_need_no_copy() -> Result<()> {
        let projected = normal(&[2, 7, 3 * 40], 3)?;
        let heads =
            |x: &Array| -> Result<Array> { Ok(x.reshape(&[2, 7, 3, 40])?.transpose_axes(&[0, 2, 1, 3])?) };
        check(&Case {
            inputs: vec![projected, normal(&[40], 4)?],
            ours: &|inputs| rms_norm(&heads(&inputs[0])?, &inputs[1], 1e-6, 1.0),
            plain: &|inputs| plain(&[heads(&inputs[0])?, inputs[1].clone()], 1.0),
            tolerance: 2e-5,
        })
    }

    #[test]
    fn extreme_rows_stay_finite_or_fail_as_in_mlx() -> Result<()> {
        let x = Array::from_slice(&[0.0, 0.0, 1e-20, -1e-20, 1e18, -1e18, f32::NAN, 1.0], &[4, 2]);
        let weight = Array::ones::<f32>(&[2])?;
        let (ours, plain) = (rms_norm(&x, &weight, 1e-6, 0.0)?, plain(&[x, weight], 0.0)?);
        ours.eval()?;
        plain.eval()?;
        for (a, b) in ours.as_slice::<f32>().iter().zip(plain.as_slice::<f32>()) {
            assert!((a - b).abs() <= 1e-5 * b.abs() || a.is_nan() && b.is_nan(), "{a} {b}");
        }
        Ok(())
    }
}
