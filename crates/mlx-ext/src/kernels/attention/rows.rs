//! Attention in both directions within rows of any length, as in encoders: forward only.
//!
//! The tokens of all rows form one matrix, so that rows need no padding. Blocks begin at the start of a row, and sums have one
//! order, so a row's result does not depend on the rows beside it nor on the number of threads.

use std::cell::RefCell;
use std::ops::Range;

use mlx_rs::{Array, Dtype};
use rayon::prelude::*;

use super::lanes::{Scores, cap_hide_and_raise, exp_and_sum, scaled};
use super::product::{Extents, Matrix, multiply};
use super::shared::Shared;
use crate::error::Result;
use crate::host::{HostOp, Input};

/// Most queries of a block. All keys of a row meet a block at one time.
const QUERIES: usize = 64;

/// Multiplications of the smallest piece of work that another thread may take.
const LEAST_WORK: usize = 1 << 16;

/// Memory that a thread uses for block after block.
#[derive(Default)]
struct Scratch {
    /// Queries times the scale, `[queries, D]`.
    queries: Vec<f32>,
    /// Scores, then exponentials, `[keys, queries]`.
    scores: Vec<f32>,
    /// Sums of values times exponentials, `[queries, D]`.
    sums: Vec<f32>,
    maxima: Vec<f32>,
    totals: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Queries, keys or values of all tokens, `[T, H·D]` with any distance between tokens.
#[derive(Clone, Copy)]
struct Tokens<'a> {
    data: &'a [f32],
    stride: usize,
}

/// Queries of one head of a row.
#[derive(Debug, Clone)]
struct Block {
    /// Tokens of the row.
    row: Range<usize>,
    /// Tokens whose queries these are.
    queries: Range<usize>,
    head: usize,
}

/// Returns softmax(q kᵀ · scale) v within every row: `queries`, `keys` and `values` `[T, H·D]`, `f32` → `[T, H·D]`.
///
/// `starts [N + 1]`, `i32`, has the first token of every row, then T. Inputs are read in place if their last axis is contiguous.
/// Without a gradient of its own.
///
/// # Errors
///
/// Returns the error of MLX; shapes and starts that do not fit are an error of the evaluation.
pub fn attend_rows(projected: &[Array; 3], starts: &Array, heads: usize, scale: f32) -> Result<Array> {
    let [queries, keys, values] = projected;
    HostOp::new("attention of rows")
        .strided_input(queries)
        .strided_input(keys)
        .strided_input(values)
        .input(starts)
        .output(queries.shape(), Dtype::Float32)
        .build_one(move |inputs, outputs| {
            let width = inputs[0].dim(1);
            assert!(heads > 0 && width.is_multiple_of(heads), "{heads} heads in {width} numbers");
            assert!(inputs[..3].iter().all(|it| it.shape() == inputs[0].shape()), "inputs of one shape");
            let blocks = blocks(inputs[3].slice(), inputs[0].dim(0), heads);
            let tokens = [0, 1, 2].map(|index| in_place(&inputs[index]));
            attend(tokens, &blocks, width / heads, scale, outputs[0].slice());
        })
}

/// Returns the blocks of all rows, long rows last.
///
/// # Panics
///
/// Panics if the starts do not divide the tokens.
fn blocks(starts: &[i32], tokens: usize, heads: usize) -> Vec<Block> {
    let place = |start: i32| usize::try_from(start).expect("a row starts at a token");
    assert!(
        starts.first() == Some(&0) && starts.last().copied().map(place) == Some(tokens),
        "rows of all {tokens} tokens"
    );
    let mut blocks = Vec::new();
    for pair in starts.windows(2) {
        let row = place(pair[0])..place(pair[1]);
        for head in 0..heads {
            for start in row.clone().step_by(QUERIES) {
                blocks.push(Block { row: row.clone(), queries: start..row.end.min(start + QUERIES), head });
            }
        }
    }
    blocks
}

fn in_place<'a>(input: &'a Input<'_>) -> Tokens<'a> {
    let (count, width) = (input.dim(0), input.dim(1));
    let stride = usize::try_from(input.strides()[0]).expect("tokens are not reversed");
    if count == 0 || width == 0 {
        return Tokens { data: &[], stride };
    }
    // SAFETY: the last token that the stride reaches is part of the array, and so is everything from its first element on.
    let data = unsafe { std::slice::from_raw_parts(input.as_ptr::<f32>(), (count - 1) * stride + width) };
    Tokens { data, stride }
}

impl<'a> Tokens<'a> {
    /// Returns one head of a token.
    fn head(&self, token: usize, head: usize, width: usize) -> &'a [f32] {
        &self.data[token * self.stride + head * width..][..width]
    }

    /// Returns one head of tokens as a matrix whose rows are tokens, after checking that all are there.
    fn matrix(&self, tokens: &Range<usize>, head: usize, width: usize) -> *const f32 {
        self.head(tokens.end - 1, head, width);
        self.head(tokens.start, head, width).as_ptr()
    }
}

fn attend(tokens: [Tokens<'_>; 3], blocks: &[Block], width: usize, scale: f32, out: &mut [f32]) {
    let per_token = out.len() / blocks.last().map_or(1, |block| block.row.end).max(1);
    let out = Shared::new(out);
    let work: usize = blocks.iter().map(|it| 2 * it.row.len() * it.queries.len() * width).sum();
    let least = (blocks.len() * LEAST_WORK / work.max(1)).clamp(1, blocks.len().max(1));
    blocks.par_iter().with_min_len(least).for_each(|block| {
        SCRATCH.with_borrow_mut(|scratch| {
            attend_block(tokens, block, width, scale, scratch);
            for (index, token) in block.queries.clone().enumerate() {
                // SAFETY: every token of every head belongs to one block.
                let target = unsafe { out.part(token * per_token + block.head * width, width) };
                scaled(target, &scratch.sums[index * width..][..width], 1.0 / scratch.totals[index]);
            }
        });
    });
}

/// Fills `sums` and `totals` of a block.
fn attend_block(tokens: [Tokens<'_>; 3], block: &Block, width: usize, scale: f32, scratch: &mut Scratch) {
    let [of_queries, of_keys, of_values] = tokens;
    let (count, keys) = (block.queries.len(), block.row.len());
    let Scratch { queries, scores, sums, maxima, totals } = scratch;
    queries.resize(count * width, 0.0);
    for (target, token) in queries.chunks_exact_mut(width).zip(block.queries.clone()) {
        scaled(target, of_queries.head(token, block.head, width), scale);
    }
    scores.resize(keys * count, 0.0);
    sums.resize(count * width, 0.0);
    for (numbers, value) in [(&mut *maxima, f32::NEG_INFINITY), (totals, 0.0)] {
        numbers.clear();
        numbers.resize(count, value);
    }
    let of_scores = count as isize;
    // SAFETY: the keys and values of the row were checked to be within the inputs; scratch has these extents.
    unsafe {
        multiply(
            Extents { rows: count, columns: keys, sums: width },
            Matrix::by_rows(queries.as_ptr(), width as isize),
            Matrix::by_columns(of_keys.matrix(&block.row, block.head, width), of_keys.stride as isize),
            Matrix::by_columns(scores.as_mut_ptr(), of_scores),
            false,
        );
    }
    let mut these = Scores { scores, rows: count, key: 0, bounds: None, cap: None };
    cap_hide_and_raise(&mut these, maxima);
    exp_and_sum(scores, maxima, totals);
    // SAFETY: as above.
    unsafe {
        multiply(
            Extents { rows: count, columns: width, sums: keys },
            Matrix::by_columns(scores.as_ptr(), of_scores),
            Matrix::by_rows(of_values.matrix(&block.row, block.head, width), of_values.stride as isize),
            Matrix::by_rows(sums.as_mut_ptr(), width as isize),
            false,
        );
    }
}

#[cfg(test)]
mod tests {
    use mlx_rs::fast;
    use mlx_rs::ops::indexing::TryIndexOp;

    use super::*;
    use crate::kernels::testing::{bits, elements, near, normal};

    const HEADS: i32 = 3;
    const WIDTH: i32 = 8;

    fn starts(lengths: &[i32]) -> Array {
        let mut starts = vec![0];
        for length in lengths {
            starts.push(starts[starts.len() - 1] + length);
        }
        Array::from_slice(&starts, &[starts.len() as i32])
    }

    /// Returns queries, keys and values as parts of one matrix.
    fn parts(tokens: i32) -> Result<[Array; 3]> {
        let all = normal(&[tokens, 3 * HEADS * WIDTH], 1)?;
        let part = |index: i32| all.try_index((.., index * HEADS * WIDTH..(index + 1) * HEADS * WIDTH));
        Ok([part(0)?, part(1)?, part(2)?])
    }

    fn call(projected: &[Array; 3], lengths: &[i32]) -> Result<Array> {
        attend_rows(projected, &starts(lengths), HEADS as usize, 0.7)
    }

    #[test]
    fn every_row_attends_to_itself_as_in_mlx() -> Result<()> {
        let lengths = [1, 2, 63, 64, 65, 200];
        let projected = parts(lengths.iter().sum())?;
        let found = call(&projected, &lengths)?;
        let mut first = 0;
        for length in lengths {
            let heads = |all: &Array| -> Result<Array> {
                let row = all.try_index(first..first + length)?;
                Ok(row.reshape(&[1, length, HEADS, WIDTH])?.transpose_axes(&[0, 2, 1, 3])?)
            };
            let [q, k, v] = [heads(&projected[0])?, heads(&projected[1])?, heads(&projected[2])?];
            let plain = fast::scaled_dot_product_attention(q, k, v, 0.7, None, None)?;
            let plain = plain.transpose_axes(&[0, 2, 1, 3])?.reshape(&[length, HEADS * WIDTH])?;
            near(&found.try_index(first..first + length)?, &plain, 1e-5);
            first += length;
        }
        Ok(())
    }

    #[test]
    fn a_row_does_not_depend_on_others_nor_on_threads() -> Result<()> {
        let projected = parts(300)?;
        let together = bits(&call(&projected, &[30, 70, 200])?);
        let mut alone = Vec::new();
        for (first, length) in [(0, 30), (30, 70), (100, 200)] {
            let row = |index: usize| projected[index].try_index(first..first + length);
            alone.extend(bits(&call(&[row(0)?, row(1)?, row(2)?], &[length])?));
        }
        assert!(together == alone, "bits of rows alone");
        for threads in [1, 2, 4] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            let data: Vec<Vec<f32>> = projected.iter().map(elements).collect();
            let tokens = [0, 1, 2].map(|it: usize| Tokens { data: &data[it], stride: 24 });
            let mut out = vec![0.0; 300 * 24];
            pool.install(|| attend(tokens, &blocks(&[0, 30, 100, 300], 300, 3), 8, 0.7, &mut out));
            assert!(
                out.iter().map(|number| number.to_bits()).eq(together.iter().copied()),
                "{threads} threads"
            );
        }
        Ok(())
    }

    #[test]
    fn no_tokens_and_a_number_that_is_not_finite() -> Result<()> {
        assert_eq!(call(&parts(0)?, &[])?.shape(), [0, HEADS * WIDTH]);
        let mut projected = parts(5)?;
        projected[1] = projected[1].multiply(Array::from_f32(f32::NAN))?;
        assert!(elements(&call(&projected, &[5])?).iter().all(|number| number.is_nan()));
        let refused = attend_rows(&parts(5)?, &starts(&[4]), HEADS as usize, 0.7)?.eval();
        assert!(refused.is_err());
        Ok(())
    }
}
