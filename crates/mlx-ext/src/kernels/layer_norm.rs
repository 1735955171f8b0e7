//! Norms of mean and variance, together with the sum before them.

use mlx_rs::Array;

use crate::error::Result;
use crate::host::HostOp;
use crate::kernels::lanes::{Lanes, WIDTH, kernel, sum_of, update};
use crate::kernels::threads::for_rows;

/// A norm over the last axis, with weight and bias.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    /// `[D]`, `f32`.
    pub weight: Array,
    /// `[D]`, `f32`.
    pub bias: Array,
    /// Added to the variance.
    pub eps: f32,
}

/// Terms that are added to the input of a norm.
#[derive(Debug, Clone, Copy, Default)]
pub struct Added<'a> {
    /// Bias of the map that made the input, `[D]`.
    pub shift: Option<&'a Array>,
    /// Input of the part that the norm ends, `[..., D]`.
    pub residual: Option<&'a Array>,
}

impl LayerNorm {
    /// Returns (y − mean y) / √(variance of y + eps) · weight + bias for y = x + shift + residual, as `fast::layer_norm` does:
    /// `x [..., D]`, `f32`. The result takes over the buffer of `x` if nothing else needs that.
    ///
    /// Without a gradient of its own.
    ///
    /// # Errors
    ///
    /// Returns the error of MLX; shapes that do not fit are an error of the evaluation.
    pub fn call(&self, x: &Array, added: Added<'_>) -> Result<Array> {
        let mut op = HostOp::new("layer_norm").input(x).input(&self.weight).input(&self.bias);
        for array in [added.shift, added.residual].into_iter().flatten() {
            op = op.input(array);
        }
        let (eps, has_shift, has_residual) = (self.eps, added.shift.is_some(), added.residual.is_some());
        op.output_over(0).build_one(move |inputs, outputs| {
            let (weight, bias) = (inputs[1].slice::<f32>(), inputs[2].slice::<f32>());
            let width = weight.len();
            let zeros = vec![0.0; width];
            let shift = if has_shift { inputs[3].slice() } else { &zeros[..] };
            let residual = has_residual.then(|| inputs[inputs.len() - 1].slice::<f32>());
            let out = outputs[0].slice::<f32>();
            assert!(
                width > 0 && out.len().is_multiple_of(width) && bias.len() == width && shift.len() == width,
                "rows of {width} numbers"
            );
            assert!(
                residual.is_none_or(|residual| residual.len() == out.len()),
                "a residual of the same shape"
            );
            for_rows(out.len() / width, 4 * width, [out], &|rows, [out]| {
                for (row, out) in rows.zip(out.chunks_exact_mut(width)) {
                    let residual = residual.map_or(&zeros[..], |residual| &residual[row * width..][..width]);
                    normalize(out, [shift, residual], weight, bias, eps);
                }
            });
        })
    }
}

kernel! {
    fn normalize(row: &mut [f32], terms: [&[f32]; 2], weight: &[f32], bias: &[f32], eps: f32) {
        let [shift, residual] = terms;
        update!([row], [shift, residual], row + shift + residual);
        let width = row.len() as f32;
        let x = &row[..];
        let mean = sum_of!(sum, [x], sum + x) / width;
        let middle = Lanes::splat(mean);
        let mut squares = Lanes::splat(0.0);
        for block in x.chunks(WIDTH) {
            // Lanes beyond the end are the mean, which adds nothing.
            let lanes = if block.len() == WIDTH { Lanes::load(block) } else { Lanes::load_part(block, mean) };
            let off = lanes - middle;
            squares = off.mul_add(off, squares);
        }
        let inverse = Lanes::splat(1.0 / (squares.sum() / width + eps).sqrt());
        update!([row], [weight, bias], ((row - middle) * inverse).mul_add(weight, bias));
    }
}

#[cfg(test)]
mod tests {
    use mlx_rs::fast;

    use super::*;
    use crate::kernels::testing::{everywhere, near, normal};

    #[test]
    fn values_are_those_of_mlx() -> Result<()> {
        for shape in [&[1][..], &[3, 16], &[2, 5, 37], &[300, 384], &[0, 8]] {
            let of_columns = &shape[shape.len() - 1..];
            let (weight, bias) = (normal(of_columns, 1)?, normal(of_columns, 2)?);
            let (x, residual, shift) = (normal(shape, 3)?, normal(shape, 4)?, normal(of_columns, 5)?);
            // Far from zero, where a variance as mean square minus squared mean would lose its digits.
            let x = x.add(Array::from_f32(50.0))?;
            let norm = LayerNorm { weight: weight.clone(), bias: bias.clone(), eps: 1e-5 };
            for (shift, residual) in
                [(None, None), (Some(&shift), None), (None, Some(&residual)), (Some(&shift), Some(&residual))]
            {
                let found = everywhere(|| Ok(vec![norm.call(&x, Added { shift, residual })?]))?;
                let sum =
                    [shift, residual].into_iter().flatten().try_fold(x.clone(), |sum, it| sum.add(it))?;
                near(&found[0], &fast::layer_norm(&sum, Some(&weight), Some(&bias), 1e-5)?, 2e-5);
            }
        }
        Ok(())
    }

    #[test]
    fn an_input_that_is_needed_elsewhere_stays() -> Result<()> {
        let (x, one) = (normal(&[4, 32], 1)?, Array::ones::<f32>(&[32])?);
        let norm = LayerNorm { weight: one.clone(), bias: one, eps: 1e-5 };
        let before = x.sum(None)?.item_exact::<f32>();
        norm.call(&x, Added { shift: None, residual: Some(&x) })?.eval()?;
        assert_eq!(x.sum(None)?.item_exact::<f32>().to_bits(), before.to_bits());
        Ok(())
    }
}
