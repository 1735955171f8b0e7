//! A bias and an activation in one pass, over the buffer of a product.

use mlx_rs::Array;

use crate::error::Result;
use crate::host::HostOp;
use crate::kernels::lanes::{kernel, update};
use crate::kernels::threads::for_rows;

/// Elementwise function after a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pointwise {
    /// The number itself.
    Identity,
    /// ½x(1 + erf(x/√2)).
    Gelu,
}

/// Returns function(x + bias) for `x [..., D]` and `bias [D]`, both `f32`. The result takes over the buffer of `x` if nothing
/// else needs that.
///
/// Without a gradient of its own.
///
/// # Errors
///
/// Returns the error of MLX; shapes that do not fit are an error of the evaluation.
pub fn biased(x: &Array, bias: &Array, function: Pointwise) -> Result<Array> {
    HostOp::new("biased").input(x).input(bias).output_over(0).build_one(move |inputs, outputs| {
        let bias = inputs[1].slice::<f32>();
        let (width, out) = (bias.len(), outputs[0].slice::<f32>());
        assert!(width > 0 && out.len().is_multiple_of(width), "rows of {width} numbers");
        let cost = if function == Pointwise::Gelu { 8 * width } else { 2 * width };
        for_rows(out.len() / width, cost, [out], &|_, [out]| {
            for row in out.chunks_exact_mut(width) {
                match function {
                    Pointwise::Identity => add(row, bias),
                    Pointwise::Gelu => gelu(row, bias),
                }
            }
        });
    })
}

kernel! {
    fn add(row: &mut [f32], bias: &[f32]) {
        update!([row], [bias], row + bias);
    }
}

kernel! {
    fn gelu(row: &mut [f32], bias: &[f32]) {
        update!([row], [bias], (row + bias).gelu());
    }
}

#[cfg(test)]
mod tests {
    use mlx_rs::ops;

    use super::*;
    use crate::kernels::testing::{elements, everywhere, normal};

    fn plain(x: &Array, bias: &Array, function: Pointwise) -> Result<Array> {
        let x = x.add(bias)?;
        if function == Pointwise::Identity {
            return Ok(x);
        }
        let share = ops::erf(x.multiply(Array::from_f32(std::f32::consts::FRAC_1_SQRT_2))?)?;
        Ok(x.multiply(share.add(Array::from_f32(1.0))?)?.multiply(Array::from_f32(0.5))?)
    }

    #[test]
    fn values_are_those_of_mlx() -> Result<()> {
        for function in [Pointwise::Identity, Pointwise::Gelu] {
            for shape in [&[1][..], &[3, 16], &[2, 5, 37], &[300, 100], &[0, 8]] {
                let x = normal(shape, 1)?.multiply(Array::from_f32(3.0))?;
                let bias = normal(&shape[shape.len() - 1..], 2)?;
                let found = elements(&everywhere(|| Ok(vec![biased(&x, &bias, function)?]))?[0]);
                let expected = elements(&plain(&x, &bias, function)?);
                for ((found, expected), x) in found.iter().zip(&expected).zip(elements(&x.add(&bias)?)) {
                    assert!(
                        (found - expected).abs() <= 5e-7 * x.abs().max(1.0),
                        "{found} and {expected} of {x}"
                    );
                }
            }
        }
        Ok(())
    }

    #[test]
    fn extreme_numbers_have_the_limits_as_results() -> Result<()> {
        let x = Array::from_slice(&[-1e30_f32, -20.0, -0.0, 0.0, 20.0, 1e30, f32::INFINITY, f32::NAN], &[8]);
        let found = elements(&biased(&x, &Array::zeros::<f32>(&[8])?, Pointwise::Gelu)?);
        assert_eq!(found[..7], [0.0, 0.0, 0.0, 0.0, 20.0, 1e30, f32::INFINITY]);
        assert!(found[7].is_nan());
        Ok(())
    }
}
