//! Gradient of attention: scores are computed again, block by block.
//!
//! A pair of a block of queries and a block of keys adds to the gradients of both. Pairs run in diagonals: in each, every
//! block occurs once at most, so threads never write the same numbers, and every sum has one order.

use std::cell::RefCell;

use rayon::prelude::*;

use super::forward::Inputs;
use super::heads::{Bounds, Heads, KeyRange, QueryBlock};
use super::lanes::{OfRows, Scores, dots, probabilities_and_gradients, scaled};
use super::product::{Extents, Matrix, multiply};
use super::shared::Shared;

/// Number of keys of a block.
const KEYS: usize = 128;

/// Memory that a thread uses for pair after pair.
#[derive(Default)]
struct Scratch {
    bounds: Bounds,
    /// Scores, then probabilities, `[keys, rows]`.
    scores: Vec<f32>,
    /// Gradients of probabilities, then of scores, `[keys, rows]`.
    gradients: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Results of the forward pass, and the gradient of its output.
#[derive(Clone, Copy)]
pub(super) struct Outcome<'a> {
    /// `[B, H, L, D]`.
    pub(super) out: Heads<'a>,
    /// `[B, H, L, 2]`: see [`row_statistics`](super::forward::row_statistics).
    pub(super) statistics: &'a [f32],
    /// `[B, H, L, D]`.
    pub(super) cotangent: Heads<'a>,
}

/// Gradients of the inputs, in the order of tokens: `[B, L, H, D]` and twice `[B, S, K, D]`.
pub(super) struct Gradients<'a> {
    pub(super) queries: &'a mut [f32],
    pub(super) keys: &'a mut [f32],
    pub(super) values: &'a mut [f32],
}

/// Rows of all blocks of queries, block after block.
struct Gathered {
    /// Queries times the scale, `[rows, D]`.
    queries: Vec<f32>,
    /// Gradients of the output, `[rows, D]`.
    cotangents: Vec<f32>,
    /// Gradients of the queries, without the scale, `[rows, D]`.
    gradients: Vec<f32>,
    /// Largest scores.
    maxima: Vec<f32>,
    /// Inverse sums of exponentials.
    inverses: Vec<f32>,
    /// Products of each output with its gradient.
    deltas: Vec<f32>,
}

/// Computes the gradients of queries, keys and values.
pub(super) fn backward(inputs: &Inputs<'_>, outcome: &Outcome<'_>, gradients: &mut Gradients<'_>) {
    let sizes = &inputs.sizes;
    let mut gathered = gather(inputs, outcome);
    gradients.keys.fill(0.0);
    gradients.values.fill(0.0);
    let shared = SharedGradients {
        queries: Shared::new(&mut gathered.gradients),
        keys: Shared::new(gradients.keys),
        values: Shared::new(gradients.values),
    };
    let rows = Rows {
        queries: &gathered.queries,
        cotangents: &gathered.cotangents,
        maxima: &gathered.maxima,
        inverses: &gathered.inverses,
        deltas: &gathered.deltas,
    };
    for diagonal in diagonals(inputs) {
        diagonal.into_par_iter().with_max_len(1).for_each(|pair| {
            SCRATCH.with_borrow_mut(|scratch| add_pair(inputs, &rows, &pair, &shared, scratch));
        });
    }
    let per_token = sizes.heads() * sizes.width;
    let out = Shared::new(gradients.queries);
    for_each_block(inputs, |index, block| {
        let start = first_row(inputs, index) * sizes.width;
        block.for_each_row(sizes, |row, head, query| {
            let token = block.batch * sizes.length + query;
            // SAFETY: every query of every head is a row of one block.
            let target = unsafe { out.part(token * per_token + head * sizes.width, sizes.width) };
            let source = &gathered.gradients[start + row * sizes.width..][..sizes.width];
            scaled(target, source, inputs.rule.scale);
        });
    });
}

/// Returns the number of rows of the blocks before that of an index.
fn first_row(inputs: &Inputs<'_>, index: usize) -> usize {
    let (sizes, block) = (&inputs.sizes, QueryBlock::at(&inputs.sizes, index));
    let head = block.batch * sizes.key_value_heads + block.key_value_head;
    (head * sizes.length + block.start) * sizes.group
}

fn for_each_block(inputs: &Inputs<'_>, visit: impl Fn(usize, &QueryBlock) + Sync) {
    let sizes = &inputs.sizes;
    let blocks = sizes.batch * sizes.key_value_heads * QueryBlock::per_head(sizes);
    (0..blocks).into_par_iter().with_min_len(4).for_each(|index| visit(index, &QueryBlock::at(sizes, index)));
}

fn gather(inputs: &Inputs<'_>, outcome: &Outcome<'_>) -> Gathered {
    let sizes = &inputs.sizes;
    let rows = sizes.batch * sizes.heads() * sizes.length;
    let numbers = || vec![0.0_f32; rows * sizes.width];
    let mut gathered = Gathered {
        queries: numbers(),
        cotangents: numbers(),
        gradients: numbers(),
        maxima: vec![0.0; rows],
        inverses: vec![0.0; rows],
        deltas: vec![0.0; rows],
    };
    let (queries, cotangents) = (Shared::new(&mut gathered.queries), Shared::new(&mut gathered.cotangents));
    let (maxima, inverses) = (Shared::new(&mut gathered.maxima), Shared::new(&mut gathered.inverses));
    let deltas = Shared::new(&mut gathered.deltas);
    for_each_block(inputs, |index, block| {
        let (start, count) = (first_row(inputs, index), sizes.group * block.count);
        // SAFETY: the rows of different blocks do not overlap.
        let (queries, cotangents, maxima, inverses, deltas) = unsafe {
            (
                queries.part(start * sizes.width, count * sizes.width),
                cotangents.part(start * sizes.width, count * sizes.width),
                maxima.part(start, count),
                inverses.part(start, count),
                deltas.part(start, count),
            )
        };
        block.gather(sizes, &inputs.queries, inputs.rule.scale, queries);
        block.gather(sizes, &outcome.cotangent, 1.0, cotangents);
        block.for_each_row(sizes, |row, head, query| {
            let of_row = (block.batch * sizes.heads() + head) * sizes.length + query;
            [maxima[row], inverses[row]] =
                [outcome.statistics[2 * of_row], outcome.statistics[2 * of_row + 1]];
            let out = outcome.out.row(block.batch, head, query);
            dots(out, &cotangents[row * sizes.width..][..sizes.width], &mut deltas[row..=row]);
        });
    });
    gathered
}

/// Rows of all blocks, to be read.
struct Rows<'a> {
    queries: &'a [f32],
    cotangents: &'a [f32],
    maxima: &'a [f32],
    inverses: &'a [f32],
    deltas: &'a [f32],
}

struct SharedGradients<'a> {
    queries: Shared<'a>,
    keys: Shared<'a>,
    values: Shared<'a>,
}

/// A block of queries and the keys of one block that it sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pair {
    /// Index of the block of queries.
    queries: usize,
    keys: KeyRange,
}

/// Returns the pairs that see each other; in the list of one diagonal, no block occurs twice.
fn diagonals(inputs: &Inputs<'_>) -> Vec<Vec<Pair>> {
    let sizes = &inputs.sizes;
    let per_head = QueryBlock::per_head(sizes);
    let key_blocks = sizes.keys.div_ceil(KEYS);
    let mut diagonals = vec![Vec::new(); per_head + key_blocks];
    for queries in 0..sizes.batch * sizes.key_value_heads * per_head {
        let range = KeyRange::of(&inputs.visible, &QueryBlock::at(sizes, queries));
        for block in range.blocks(KEYS) {
            let diagonal = &mut diagonals[queries % per_head + key_blocks - block];
            diagonal.push(Pair { queries, keys: range.part(block, KEYS) });
        }
    }
    diagonals.retain(|pairs| !pairs.is_empty());
    diagonals
}

/// Adds what a pair contributes to the gradients.
fn add_pair(
    inputs: &Inputs<'_>,
    rows: &Rows<'_>,
    pair: &Pair,
    gradients: &SharedGradients<'_>,
    scratch: &mut Scratch,
) {
    let sizes = &inputs.sizes;
    let block = QueryBlock::at(sizes, pair.queries);
    let (count, keys, width) = (sizes.group * block.count, pair.keys.count(), sizes.width);
    let first = first_row(inputs, pair.queries);
    let queries = rows.queries[first * width..][..count * width].as_ptr();
    let cotangents = rows.cotangents[first * width..][..count * width].as_ptr();
    let Scratch { bounds, scores, gradients: of_scores } = scratch;
    bounds.fill(sizes, &inputs.visible, &block);
    scores.resize(keys * count, 0.0);
    of_scores.resize(keys * count, 0.0);
    let (stride, by_row) = (count as isize, width as isize);
    let by_key = Extents { rows: count, columns: keys, sums: width };
    let (key_rows, key_stride) = inputs.keys.rows(block.batch, block.key_value_head, pair.keys.start);
    let (value_rows, value_stride) = inputs.values.rows(block.batch, block.key_value_head, pair.keys.start);
    // SAFETY: the keys of the pair are within the tensors, and scratch and rows have these extents.
    unsafe {
        let out = Matrix::by_columns(scores.as_mut_ptr(), stride);
        let key_columns = Matrix::by_columns(key_rows, key_stride);
        multiply(by_key, Matrix::by_rows(queries, by_row), key_columns, out, false);
        let out = Matrix::by_columns(of_scores.as_mut_ptr(), stride);
        let value_columns = Matrix::by_columns(value_rows, value_stride);
        multiply(by_key, Matrix::by_rows(cotangents, by_row), value_columns, out, false);
    }
    let hides = !bounds.all_see(pair.keys);
    let mut these = Scores {
        scores,
        rows: count,
        key: pair.keys.start as i32,
        bounds: hides.then_some((&bounds.first, &bounds.last)),
        cap: inputs.rule.cap,
    };
    let of_rows = first..first + count;
    let of_rows = OfRows {
        maxima: &rows.maxima[of_rows.clone()],
        inverses: &rows.inverses[of_rows.clone()],
        deltas: &rows.deltas[of_rows],
    };
    probabilities_and_gradients(&mut these, of_scores, &of_rows);
    let key_width = sizes.key_value_heads * width;
    let start = (block.batch * sizes.keys + pair.keys.start) * key_width + block.key_value_head * width;
    let length = (keys - 1) * key_width + width;
    let by_token = Extents { rows: keys, columns: width, sums: count };
    // SAFETY: in a diagonal, each block of keys and each block of queries occurs once for a row and a head. Parts of other
    // heads interleave with these, so addresses are taken and no slices are made.
    unsafe {
        let of_values = Matrix::by_rows(gradients.values.address(start, length), key_width as isize);
        let probabilities = Matrix::by_rows(scores.as_ptr(), stride);
        multiply(by_token, probabilities, Matrix::by_rows(cotangents, by_row), of_values, true);
        let of_keys = Matrix::by_rows(gradients.keys.address(start, length), key_width as isize);
        let slopes = Matrix::by_rows(of_scores.as_ptr(), stride);
        multiply(by_token, slopes, Matrix::by_rows(queries, by_row), of_keys, true);
        let of_queries = Matrix::by_rows(gradients.queries.address(first * width, count * width), by_row);
        let slopes = Matrix::by_columns(of_scores.as_ptr(), stride);
        let by_row = Extents { rows: count, columns: width, sums: keys };
        multiply(by_row, slopes, Matrix::by_rows(key_rows, key_stride), of_queries, true);
    }
}
