//! The attention kernel against plain MLX, which has all scores in one array.

use anyhow::{Result, ensure};
use mlx_ext::kernels::Attention;
use mlx_ext::{Options, value_and_grad};
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Array, Dtype, ops};

/// Outputs of the kernel and of the reference, absolute; gradients relative to their largest number.
const CLOSE: f32 = 2e-5;

fn start() {
    mlx_ext::init(&Options::default()).expect("a CPU");
}

/// Pseudo-random numbers around zero.
fn numbers(shape: &[i32], seed: u64) -> Array {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let count = shape.iter().product::<i32>();
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    Array::from_iter((0..count).map(next), shape)
}

/// Rules that hide keys, besides the order of tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Hidden {
    Nothing,
    /// Keys of other segments; the number is the length of the longest segment.
    Segments(i32),
    /// Keys on the left.
    Padding,
}

#[derive(Debug, Clone, Copy)]
struct Case {
    batch: i32,
    heads: i32,
    key_value_heads: i32,
    length: i32,
    past: i32,
    width: i32,
    window: Option<i32>,
    cap: Option<f32>,
    hidden: Hidden,
}

const PLAIN: Case = Case {
    batch: 1,
    heads: 2,
    key_value_heads: 1,
    length: 37,
    past: 0,
    width: 32,
    window: None,
    cap: None,
    hidden: Hidden::Nothing,
};

impl Case {
    fn inputs(&self) -> Result<[Array; 3]> {
        let seen = self.past + self.length;
        // Heads come as linear maps write them, and keys as a part of a larger cache.
        let queries = numbers(&[self.batch, self.length, self.heads, self.width], 1);
        let cache = |seed| -> Result<Array> {
            let cache = numbers(&[self.batch, self.key_value_heads, seen + 5, self.width], seed);
            Ok(cache.try_index((.., .., 0..seen, ..))?)
        };
        let queries = queries.multiply(Array::from_f32(2.0))?.transpose_axes(&[0, 2, 1, 3])?;
        Ok([queries, cache(2)?, cache(3)?])
    }

    /// Returns the first key of the segment or behind the padding, of every row and query.
    fn first(&self) -> Option<Vec<Vec<i32>>> {
        let rows = (0..self.batch).map(|row| match self.hidden {
            Hidden::Nothing => vec![0; self.length as usize],
            Hidden::Padding => vec![(row * 7 + 3) % (self.past + self.length); self.length as usize],
            Hidden::Segments(longest) => {
                let (mut starts, mut start, mut size) = (Vec::new(), 0, 1 + row % longest);
                for token in 0..self.length {
                    if token == start + size {
                        (start, size) = (token, size % longest + 1);
                    }
                    starts.push(self.past + start);
                }
                starts
            }
        });
        (self.hidden != Hidden::Nothing).then(|| rows.collect())
    }

    fn kernel(&self) -> Attention {
        let first = self.first().map(|rows| match self.hidden {
            Hidden::Padding => {
                let firsts: Vec<i32> = rows.iter().map(|row| row[0]).collect();
                Array::from_slice(&firsts, &[self.batch, 1])
            }
            _ => Array::from_slice(&rows.concat(), &[self.batch, self.length]),
        });
        let window = self.window.map(|window| window as usize);
        Attention { scale: 0.3, cap: self.cap, window, first }
    }

    /// Returns 1 where the query sees the key, `[B, 1, 1, L, S]`.
    fn visible(&self) -> Array {
        let (first, seen) = (self.first(), self.past + self.length);
        let mut mask = Vec::new();
        for row in 0..self.batch as usize {
            for query in 0..self.length {
                let first = first.as_ref().map_or(0, |first| first[row][query as usize]);
                let last = self.past + query;
                let reach = self.window.unwrap_or(i32::MAX);
                mask.extend(
                    (0..seen).map(|key| i32::from(first <= key && key <= last && last - key < reach)),
                );
            }
        }
        Array::from_slice(&mask, &[self.batch, 1, 1, self.length, seen])
    }

    fn reference(&self, queries: &Array, keys: &Array, values: &Array) -> mlx_ext::Result<Array> {
        let group = self.heads / self.key_value_heads;
        let queries = queries.reshape(&[self.batch, self.key_value_heads, group, self.length, self.width])?;
        let scores = queries.matmul(keys.expand_dims(2)?.swap_axes(-1, -2)?)?;
        let mut scores = scores.multiply(Array::from_f32(0.3))?;
        if let Some(cap) = self.cap {
            let cap = Array::from_f32(cap);
            scores = ops::tanh(scores.divide(&cap)?)?.multiply(&cap)?;
        }
        let visible = self.visible().ne(Array::from_int(0))?;
        let scores = ops::select(&visible, &scores, Array::from_f32(f32::MIN))?;
        // A query that sees nothing has the output zero.
        let weights = ops::softmax_axis(&scores, -1, true)?.multiply(visible.as_dtype(Dtype::Float32)?)?;
        let attended = weights.matmul(values.expand_dims(2)?)?;
        let attended = attended.reshape(&[self.batch, self.heads, self.length, self.width])?;
        Ok(attended.transpose_axes(&[0, 2, 1, 3])?.reshape(&[self.batch, self.length, -1])?)
    }

    /// Returns the output, and the gradients of a weighted sum of it.
    fn outcome(
        &self,
        attend: impl Fn(&Array, &Array, &Array) -> mlx_ext::Result<Array>,
    ) -> Result<Vec<Array>> {
        let weights = numbers(&[self.batch, self.length, self.heads * self.width], 9);
        let inputs = self.inputs()?;
        let sum = |inputs: &[Array]| -> mlx_ext::Result<Vec<Array>> {
            let out = attend(&inputs[0], &inputs[1], &inputs[2])?;
            Ok(vec![out.multiply(&weights)?.sum(None)?, out])
        };
        let (values, gradients) = value_and_grad(sum, &inputs, 3)?;
        Ok([vec![values[1].clone()], gradients].concat())
    }

    fn check(&self) -> Result<()> {
        let kernel = self.kernel();
        let found = self.outcome(|q, k, v| kernel.call(q, k, v))?;
        let expected = self.outcome(|q, k, v| self.reference(q, k, v))?;
        for (name, (found, expected)) in ["output", "dq", "dk", "dv"].iter().zip(found.iter().zip(&expected))
        {
            ensure!(found.shape() == expected.shape(), "{name} of {self:?}: {:?}", found.shape());
            let off = found.subtract(expected)?.abs()?.max(None)?.item_exact::<f32>();
            let size = expected.abs()?.max(None)?.item_exact::<f32>().max(1.0);
            ensure!(off <= CLOSE * size, "{name} of {self:?} is off by {off}, of {size}");
        }
        Ok(())
    }
}

#[test]
fn values_and_gradients_are_those_of_plain_mlx() -> Result<()> {
    start();
    for (heads, key_value_heads, width) in
        [(1, 1, 32), (4, 1, 256), (12, 12, 64), (9, 3, 40), (8, 2, 128), (40, 1, 32), (6, 2, 96)]
    {
        Case { heads, key_value_heads, width, batch: 2, ..PLAIN }.check()?;
    }
    for length in [1, 2, 3, 5, 63, 64, 65, 127, 129, 200, 257, 300, 513] {
        Case { length, ..PLAIN }.check()?;
        Case { length, heads: 4, key_value_heads: 4, batch: 3, ..PLAIN }.check()?;
    }
    Ok(())
}

#[test]
fn windows_caps_segments_padding_and_earlier_tokens_work_together() -> Result<()> {
    start();
    let hidden =
        [Hidden::Nothing, Hidden::Segments(1), Hidden::Segments(9), Hidden::Segments(90), Hidden::Padding];
    for window in [None, Some(1), Some(2), Some(7), Some(130), Some(1000)] {
        for hidden in hidden {
            for (length, past) in [(1, 0), (1, 6), (1, 700), (3, 40), (70, 0), (70, 41), (290, 0), (290, 300)]
            {
                let cap = (past % 2 == 0).then_some(1.5);
                Case { length, past, window, hidden, cap, batch: 2, ..PLAIN }.check()?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_gradient_is_the_difference_quotient() -> Result<()> {
    start();
    for cap in [None, Some(2.0)] {
        let case = Case { length: 130, heads: 4, key_value_heads: 2, cap, ..PLAIN };
        let case = Case { hidden: Hidden::Segments(50), window: Some(33), ..case };
        let (kernel, inputs) = (case.kernel(), case.inputs()?);
        let outcome = case.outcome(|q, k, v| kernel.call(q, k, v))?;
        let weights = numbers(&[1, 130, 4 * 32], 9);
        for index in 0..3 {
            let direction = numbers(inputs[index].shape(), 77 + index as u64);
            let at = |step: f32| -> Result<f64> {
                let mut moved = inputs.clone();
                moved[index] = moved[index].add(direction.multiply(Array::from_f32(step))?)?;
                let out = kernel.call(&moved[0], &moved[1], &moved[2])?.multiply(&weights)?.contiguous()?;
                out.eval()?;
                Ok(out.as_slice::<f32>().iter().map(|&x| f64::from(x)).sum())
            };
            let slope = (at(1e-2)? - at(-1e-2)?) / 2e-2;
            let expected = outcome[1 + index].multiply(&direction)?.sum(None)?.item_exact::<f32>();
            let off = (slope - f64::from(expected)).abs();
            ensure!(off <= 2e-3 * f64::from(expected.abs().max(1.0)), "{index}: {slope} and {expected}");
        }
    }
    Ok(())
}

#[test]
fn not_a_number_and_infinity_are_not_hidden() -> Result<()> {
    start();
    for length in [1, 70] {
        let case = Case { length, past: 3, ..PLAIN };
        let [queries, keys, values] = case.inputs()?;
        let bad = keys.multiply(Array::from_f32(f32::NAN))?;
        let out = case.kernel().call(&queries, &bad, &values)?;
        out.eval()?;
        ensure!(out.as_slice::<f32>().iter().all(|x| x.is_nan()), "scores of NaN give NaN");
    }
    Ok(())
}

#[test]
fn shapes_that_do_not_fit_are_errors() -> Result<()> {
    start();
    let [queries, keys, _] = PLAIN.inputs()?;
    let short = keys.try_index((.., .., 0..5, ..))?;
    for values in [&short, &queries] {
        let out = PLAIN.kernel().call(&queries, &keys, values)?;
        ensure!(out.eval().is_err(), "{:?}", values.shape());
    }
    Ok(())
}

#[test]
fn a_long_row_needs_no_square_of_its_length() -> Result<()> {
    start();
    // All scores of both heads would be 512 MiB.
    let case = Case { length: 8192, width: 16, ..PLAIN };
    let kernel = case.kernel();
    let before = mlx_ext::peak_resident_memory().unwrap_or(0);
    for array in case.outcome(|q, k, v| kernel.call(q, k, v))? {
        array.eval()?;
    }
    let grown = mlx_ext::peak_resident_memory().unwrap_or(0) - before;
    ensure!(grown < 64 << 20, "{grown} bytes");
    Ok(())
}
