//! Work of an optimizer's step over whole parameters, in one pass each.

use mlx_rs::{Array, Dtype};

use crate::error::Result;
use crate::host::HostOp;
use crate::kernels::lanes::{Lanes, WIDTH, block_at, kernel, store_at, sum_of};
use crate::kernels::threads::for_rows;

/// Number of elements that one thread handles at a time.
const CHUNK: usize = 1 << 13;

/// Factors of a step of Adam, as MLX's operations on `f32` would use them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamStep {
    /// Multiplies the parameter: 1 − learning rate · weight decay.
    pub keep: f32,
    /// Share of the old first moment.
    pub beta1: f32,
    /// Share of the gradient in the first moment.
    pub rest1: f32,
    /// Share of the old second moment.
    pub beta2: f32,
    /// Share of the squared gradient in the second moment.
    pub rest2: f32,
    /// Learning rate, with the bias correction of the first moment.
    pub rate: f32,
    /// Multiplies the root of the second moment: its bias correction.
    pub root: f32,
    /// Term added to that root.
    pub epsilon: f32,
}

/// Returns the next parameter, first moment and second moment of Adam: four arrays of one shape in, three out.
///
/// m ← β₁ m + (1 − β₁) g, v ← β₂ v + (1 − β₂) g², p ← keep · p − rate · m / (root · √v + ε), each rounded as the plain MLX
/// operations round it. Takes over the buffers of `p`, `m` and `v` if nothing else needs them. No gradient.
///
/// # Errors
///
/// Returns the error of MLX.
pub fn adam(step: AdamStep, p: &Array, g: &Array, m: &Array, v: &Array) -> Result<[Array; 3]> {
    let op = HostOp::new("adam").input(p).input(m).input(v).input(g);
    let outputs = op.output_over(0).output_over(1).output_over(2).build(move |inputs, outputs| {
        let [p, m, v] = outputs else { unreachable!("three outputs") };
        let state = [p.slice(), m.slice(), v.slice()];
        let g = inputs[3].slice();
        let (chunks, whole) = (g.len() / CHUNK, g.len() / CHUNK * CHUNK);
        let parts = state.map(|array: &mut [f32]| array.split_at_mut(whole));
        let [(p, p_rest), (m, m_rest), (v, v_rest)] = parts;
        for_rows(chunks, 7 * CHUNK, [p, m, v], &|rows, [p, m, v]| {
            adam_step(step, &g[rows.start * CHUNK..rows.end * CHUNK], p, m, v);
        });
        adam_step(step, &g[whole..], p_rest, m_rest, v_rest);
    })?;
    let Ok(outputs) = <[Array; 3]>::try_from(outputs) else { unreachable!("three outputs") };
    Ok(outputs)
}

kernel! {
    fn adam_step(step: AdamStep, g: &[f32], p: &mut [f32], m: &mut [f32], v: &mut [f32]) {
        let [keep, beta1, rest1] = [step.keep, step.beta1, step.rest1].map(Lanes::splat);
        let [beta2, rest2] = [step.beta2, step.rest2].map(Lanes::splat);
        let [rate, root, epsilon] = [step.rate, step.root, step.epsilon].map(Lanes::splat);
        for start in (0..g.len()).step_by(WIDTH) {
            let g = block_at(g, start);
            let first = block_at(m, start) * beta1 + g * rest1;
            let second = block_at(v, start) * beta2 + g * g * rest2;
            let change = first * rate / (second.sqrt() * root + epsilon);
            store_at(p, start, block_at(p, start) * keep - change);
            store_at(m, start, first);
            store_at(v, start, second);
        }
    }
}

/// Returns the sum of the squares of all elements, a scalar. No gradient.
///
/// # Errors
///
/// Returns the error of MLX.
pub fn sum_of_squares(x: &Array) -> Result<Array> {
    let chunks = x.size().div_ceil(CHUNK);
    let parts = HostOp::new("squares").input(x).output(&[chunks as i32], Dtype::Float32);
    let parts = parts.build_one(|inputs, outputs| {
        let x = inputs[0].slice();
        let sums = outputs[0].slice();
        for_rows(sums.len(), CHUNK, [sums], &|rows, [sums]| {
            for (row, sum) in rows.zip(sums) {
                *sum = squares(&x[row * CHUNK..x.len().min((row + 1) * CHUNK)]);
            }
        });
    })?;
    Ok(parts.sum(None)?)
}

kernel! {
    fn squares(x: &[f32]) -> f32 {
        sum_of!(sum, [x], x.mul_add(x, sum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{bits, elements, everywhere, normal};

    const STEP: AdamStep = AdamStep {
        keep: 0.999_9,
        beta1: 0.9,
        rest1: 0.1,
        beta2: 0.999,
        rest2: 0.001,
        rate: 0.01,
        root: 3.2,
        epsilon: 1e-8,
    };

    fn plain(step: AdamStep, [p, g, m, v]: &[Array; 4]) -> Result<[Array; 3]> {
        let times = |x: &Array, by: f32| x.multiply(Array::from_f32(by));
        let m = times(m, step.beta1)?.add(times(g, step.rest1)?)?;
        let v = times(v, step.beta2)?.add(times(&g.square()?, step.rest2)?)?;
        let denominator = times(&v.sqrt()?, step.root)?.add(Array::from_f32(step.epsilon))?;
        let change = times(&m, step.rate)?.divide(denominator)?;
        Ok([times(p, step.keep)?.subtract(change)?, m, v])
    }

    #[test]
    fn a_step_of_adam_has_the_bits_of_plain_operations() -> Result<()> {
        for shape in [&[1][..], &[3, 5], &[CHUNK as i32], &[37, 1024], &[2, 3, 9001]] {
            let drawn = |seed| normal(shape, seed);
            let state = [drawn(1)?, drawn(2)?, drawn(3)?, drawn(4)?.square()?];
            let [p, g, m, v] = &state;
            let found = everywhere(|| Ok(adam(STEP, p, g, m, v)?.to_vec()))?;
            for (found, expected) in found.iter().zip(plain(STEP, &state)?) {
                assert_eq!(found.shape(), expected.shape());
                assert!(bits(found) == bits(&expected), "other bits in {shape:?}");
            }
        }
        Ok(())
    }

    #[test]
    fn squares_are_summed() -> Result<()> {
        for shape in [&[][..], &[0], &[1], &[CHUNK as i32 + 1], &[40, 5000]] {
            let x = normal(shape, 7)?;
            let found = everywhere(|| Ok(vec![sum_of_squares(&x)?]))?;
            let expected: f64 = elements(&x).into_iter().map(|x| f64::from(x).powi(2)).sum();
            let found = f64::from(found[0].item_exact::<f32>());
            assert!((found - expected).abs() <= 1e-6 * expected, "{found}, expected {expected}");
        }
        Ok(())
    }
}
