//! Attention in `f32` on a CPU, without the matrix of all queries by all keys, forward and for the gradient.
//!
//! The mask is a rule, not an array: a query sees a run of keys that ends with its own and begins where its segment,
//! its row (behind the padding) or its window begins. Blocks of keys that no query of a block sees are not touched.
//! Sums have one order for a shape, so results do not depend on the number of threads.

mod backward;
mod decode;
mod forward;
mod heads;
mod lanes;
mod product;
mod rows;
mod shared;

use mlx_rs::{Array, Dtype};

use crate::error::Result;
use crate::host::{HostOp, Input};
use crate::kernels::attention::backward::{Gradients, Outcome, backward};
use crate::kernels::attention::forward::{Inputs, forward};
use crate::kernels::attention::heads::{Heads, Sizes, Visible};
use crate::transforms::custom_vjp;

pub use rows::attend_rows;

/// Conversion of scores into weights.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Rule {
    /// Factor of the products of queries and keys.
    scale: f32,
    /// Limit of the scores.
    cap: Option<f32>,
}

/// Attention: the keys that a query sees, and the conversion of scores into weights.
#[derive(Debug, Clone)]
pub struct Attention {
    /// Factor of the products of queries and keys.
    pub scale: f32,
    /// Scores → cap · tanh(scores / cap).
    pub cap: Option<f32>,
    /// Number of keys that a query sees at most, its own included.
    pub window: Option<usize>,
    /// First key that a query may see, `[B or 1, L or 1]`, `i32`: that of its segment, or the first behind the padding.
    pub first: Option<Array>,
}

impl Attention {
    /// Returns softmax(scores) v with joined heads: `q [B, H, L, D]`, `k` and `v` `[B, K, S, D]`, `f32` → `[B, L, H·D]`.
    ///
    /// The last L of the S keys are those of the queries; a query sees keys up to its own. H is a multiple of K. Inputs
    /// of any memory order are read in place if their last axis is contiguous. The output of a query that sees no key
    /// is zero. The gradient computes the scores again; what is kept of the forward pass is its output and two
    /// numbers per query and head.
    ///
    /// # Errors
    ///
    /// Returns the error of MLX; shapes that do not fit are an error of the evaluation.
    pub fn call(&self, queries: &Array, keys: &Array, values: &Array) -> Result<Array> {
        let (of_forward, of_backward) = (self.clone(), self.clone());
        let function = custom_vjp(
            move |inputs| of_forward.forward(inputs),
            move |inputs, cotangents, outputs| of_backward.backward(inputs, &cotangents[0], outputs),
        )?;
        Ok(function.call(&[queries.clone(), keys.clone(), values.clone()])?.swap_remove(0))
    }

    fn rule(&self) -> Rule {
        Rule { scale: self.scale, cap: self.cap }
    }

    fn operation(&self, name: &'static str, inputs: &[Array]) -> HostOp {
        let operation =
            HostOp::new(name).strided_input(&inputs[0]).strided_input(&inputs[1]).strided_input(&inputs[2]);
        match &self.first {
            Some(first) => operation.input(first),
            None => operation,
        }
    }

    /// Returns the output and the statistics of the scores, `[B, H, L, 2]`.
    fn forward(&self, inputs: &[Array]) -> Result<Vec<Array>> {
        let [batch, heads, length, width] = extents(&inputs[0]);
        let (rule, window, has_first) = (self.rule(), self.window, self.first.is_some());
        self.operation("attention", inputs)
            .output(&[batch, length, heads * width], Dtype::Float32)
            .output(&[batch, heads, length, 2], Dtype::Float32)
            .build(move |arrays, outputs| {
                let [out, statistics] = outputs else { unreachable!("two outputs were asked for") };
                with_inputs(&arrays[..3], has_first.then(|| &arrays[3]), rule, window, |inputs| {
                    let run = if decode::is_for(&inputs.sizes) { decode::decode } else { forward };
                    run(inputs, out.slice(), statistics.slice());
                });
            })
    }

    /// Returns the gradients of queries, keys and values.
    fn backward(&self, inputs: &[Array], cotangent: &Array, outputs: &[Array]) -> Result<Vec<Array>> {
        let ([batch, heads, length, width], [_, key_value_heads, seen, _]) =
            (extents(&inputs[0]), extents(&inputs[1]));
        let (rule, window, has_first) = (self.rule(), self.window, self.first.is_some());
        let of_queries = [batch, length, heads, width];
        let of_keys = [batch, seen, key_value_heads, width];
        let gradients = self
            .operation("attention gradient", inputs)
            .input(&outputs[0])
            .input(&outputs[1])
            .input(cotangent)
            .output(&of_queries, Dtype::Float32)
            .output(&of_keys, Dtype::Float32)
            .output(&of_keys, Dtype::Float32)
            .build(move |arrays, results| {
                let [queries, keys, values] = results else { unreachable!("three outputs were asked for") };
                let [.., out, statistics, cotangent] = arrays else { unreachable!("six inputs at least") };
                with_inputs(&arrays[..3], has_first.then(|| &arrays[3]), rule, window, |inputs| {
                    let shape = inputs.queries.shape;
                    let outcome = Outcome {
                        out: Heads::by_token(out.slice(), shape),
                        statistics: statistics.slice(),
                        cotangent: Heads::by_token(cotangent.slice(), shape),
                    };
                    let mut gradients =
                        Gradients { queries: queries.slice(), keys: keys.slice(), values: values.slice() };
                    backward(inputs, &outcome, &mut gradients);
                });
            })?;
        gradients.iter().map(|gradient| Ok(gradient.transpose_axes(&[0, 2, 1, 3])?)).collect()
    }
}

fn extents(array: &Array) -> [i32; 4] {
    [array.dim(0), array.dim(1), array.dim(2), array.dim(3)]
}

/// Calls `run` with the inputs of an operation, read in place.
fn with_inputs(
    heads: &[Input<'_>],
    first: Option<&Input<'_>>,
    rule: Rule,
    window: Option<usize>,
    run: impl FnOnce(&Inputs<'_>),
) {
    let [queries, keys, values] = [0, 1, 2].map(|index| in_place(&heads[index]));
    let sizes = Sizes::of(&queries, &keys, &values);
    let first = first.map(|first| (first.slice::<i32>(), [first.dim(0), first.dim(1)]));
    let visible = Visible::new(&sizes, first, window);
    run(&Inputs { queries, keys, values, visible, sizes, rule });
}

/// Describes an input with its strides.
fn in_place<'a>(input: &'a Input<'_>) -> Heads<'a> {
    let shape = [0, 1, 2, 3].map(|axis| input.dim(axis));
    let strides =
        [0, 1, 2].map(|axis| usize::try_from(input.strides()[axis]).expect("heads are not reversed"));
    if shape.contains(&0) {
        return Heads::new(&[], shape, strides);
    }
    let last: usize = shape.iter().zip(strides).map(|(extent, stride)| (extent - 1) * stride).sum();
    // SAFETY: the last row that the strides reach is part of the array, and so is everything from its first element on.
    let data = unsafe { std::slice::from_raw_parts(input.as_ptr::<f32>(), last + shape[3]) };
    Heads::new(data, shape, strides)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the outputs, their statistics and the gradients.
    fn outcome(length: usize, past: usize) -> Vec<f32> {
        let (heads, keys, width) = (6, length + past, 40);
        let numbers = |count: usize, factor: usize| -> Vec<f32> {
            (0..count).map(|i| (i * factor % 1009) as f32 / 500.0 - 1.0).collect()
        };
        let (q, k, v) = (
            numbers(heads * length * width, 7),
            numbers(2 * keys * width, 11),
            numbers(2 * keys * width, 13),
        );
        let of_queries = [1, heads, length, width];
        let (queries, [key_heads, value_heads]) = (
            Heads::by_token(&q, of_queries),
            [&k, &v].map(|data| Heads::by_token(data, [1, 2, keys, width])),
        );
        let sizes = Sizes::of(&queries, &key_heads, &value_heads);
        let visible = Visible::new(&sizes, None, Some(300));
        let rule = Rule { scale: 0.3, cap: None };
        let inputs = Inputs { queries, keys: key_heads, values: value_heads, visible, sizes, rule };
        let (mut out, mut statistics) = (vec![0.0; q.len()], vec![0.0; 2 * heads * length]);
        let run = if decode::is_for(&sizes) { decode::decode } else { forward };
        run(&inputs, &mut out, &mut statistics);
        let outcome = Outcome {
            out: Heads::by_token(&out, of_queries),
            statistics: &statistics,
            cotangent: Heads::by_token(&q, of_queries),
        };
        let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
        backward(&inputs, &outcome, &mut Gradients { queries: &mut dq, keys: &mut dk, values: &mut dv });
        [out, statistics, dq, dk, dv].concat()
    }

    #[test]
    fn the_number_of_threads_does_not_change_a_bit() {
        for (length, past) in [(1, 1200), (3, 700), (500, 0), (333, 77)] {
            let with = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
                let numbers = pool.install(|| outcome(length, past));
                numbers.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
            };
            let one = with(1);
            assert!([2, 4, 2].into_iter().all(|threads| with(threads) == one), "{length} after {past}");
        }
    }
}
