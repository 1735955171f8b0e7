//! Attention forward: blocks of queries against blocks of keys, with a running maximum and sum for every row.

use std::cell::RefCell;

use rayon::prelude::*;

use super::Rule;
use super::heads::{Bounds, Heads, KeyRange, QueryBlock, Sizes, Visible};
use super::lanes::{Scores, cap_hide_and_raise, exp_and_sum, factors_of, scale, scaled};
use super::product::{Extents, Matrix, multiply};
use super::shared::Shared;

/// Number of keys whose scores are computed at one time.
const KEYS: usize = 256;

/// Memory that a thread uses for block after block.
#[derive(Default)]
struct Scratch {
    bounds: Bounds,
    /// Queries times the scale, `[rows, D]`.
    queries: Vec<f32>,
    /// Sums of values times exp(score − maximum), `[rows, D]`.
    sums: Vec<f32>,
    /// Scores, `[keys, rows]`.
    scores: Vec<f32>,
    maxima: Vec<f32>,
    old_maxima: Vec<f32>,
    factors: Vec<f32>,
    totals: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Inputs of a call.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) queries: Heads<'a>,
    pub(super) keys: Heads<'a>,
    pub(super) values: Heads<'a>,
    pub(super) visible: Visible<'a>,
    pub(super) sizes: Sizes,
    pub(super) rule: Rule,
}

/// Computes the outputs `[B, L, H, D]` and the [statistics](row_statistics) of the scores of every query, `[B, H, L, 2]`.
///
/// The output of a query that sees no key is zero.
pub(super) fn forward(inputs: &Inputs<'_>, out: &mut [f32], statistics: &mut [f32]) {
    let sizes = &inputs.sizes;
    let (out, statistics) = (Shared::new(out), Shared::new(statistics));
    let blocks = sizes.batch * sizes.key_value_heads * QueryBlock::per_head(sizes);
    // Later queries see more keys: they come first, so that the last pieces of work are small.
    (0..blocks).into_par_iter().with_max_len(1).rev().for_each(|index| {
        let block = QueryBlock::at(sizes, index);
        SCRATCH.with_borrow_mut(|scratch| {
            attend_block(inputs, &block, scratch);
            block.for_each_row(sizes, |row, head, query| {
                let [maximum, inverse] = row_statistics(scratch.maxima[row], scratch.totals[row]);
                let token = block.batch * sizes.length + query;
                // SAFETY: every query of every head is a row of one block.
                let target = unsafe { out.part((token * sizes.heads() + head) * sizes.width, sizes.width) };
                scaled(target, &scratch.sums[row * sizes.width..][..sizes.width], inverse);
                let at = (block.batch * sizes.heads() + head) * sizes.length + query;
                // SAFETY: as above.
                let slot = unsafe { statistics.part(2 * at, 2) };
                slot.copy_from_slice(&[maximum, inverse]);
            });
        });
    });
}

/// Returns what makes probabilities of the scores of a query, p = exp(score − maximum) · inverse: its largest score, and
/// the inverse of its sum of exponentials. A query that sees no key has +∞ and 0.
pub(super) fn row_statistics(maximum: f32, total: f32) -> [f32; 2] {
    if total == 0.0 { [f32::INFINITY, 0.0] } else { [maximum, 1.0 / total] }
}

/// Fills `sums`, `maxima` and `totals` of a block.
fn attend_block(inputs: &Inputs<'_>, block: &QueryBlock, scratch: &mut Scratch) {
    let sizes = &inputs.sizes;
    let (rows, width) = (sizes.group * block.count, sizes.width);
    let Scratch { bounds, queries, sums, scores, maxima, old_maxima, factors, totals } = scratch;
    bounds.fill(sizes, &inputs.visible, block);
    queries.resize(rows * width, 0.0);
    block.gather(sizes, &inputs.queries, inputs.rule.scale, queries);
    sums.resize(rows * width, 0.0);
    sums.fill(0.0);
    for (numbers, value) in [(&mut *maxima, f32::NEG_INFINITY), (totals, 0.0), (factors, 1.0)] {
        numbers.clear();
        numbers.resize(rows, value);
    }
    let range = KeyRange::of(&inputs.visible, block);
    for part in range.blocks(KEYS).map(|index| range.part(index, KEYS)) {
        scores.resize(part.count() * rows, 0.0);
        let (keys, key_stride) = inputs.keys.rows(block.batch, block.key_value_head, part.start);
        // SAFETY: `part` is within the keys, and the other two have these extents.
        unsafe {
            multiply(
                Extents { rows, columns: part.count(), sums: width },
                Matrix::by_rows(queries.as_ptr(), width as isize),
                Matrix::by_columns(keys, key_stride),
                Matrix::by_columns(scores.as_mut_ptr(), rows as isize),
                false,
            );
        }
        old_maxima.clone_from(maxima);
        let hides = !bounds.all_see(part);
        let mut these = Scores {
            scores,
            rows,
            key: part.start as i32,
            bounds: hides.then_some((&bounds.first, &bounds.last)),
            cap: inputs.rule.cap,
        };
        cap_hide_and_raise(&mut these, maxima);
        if part.start > range.start {
            factors_of(old_maxima, maxima, factors);
            for (row, &factor) in factors.iter().enumerate().filter(|&(_, &factor)| factor != 1.0) {
                totals[row] *= factor;
                scale(&mut sums[row * width..][..width], factor);
            }
        }
        exp_and_sum(scores, maxima, totals);
        let (values, value_stride) = inputs.values.rows(block.batch, block.key_value_head, part.start);
        // SAFETY: as above.
        unsafe {
            multiply(
                Extents { rows, columns: width, sums: part.count() },
                Matrix::by_columns(scores.as_ptr(), rows as isize),
                Matrix::by_rows(values, value_stride),
                Matrix::by_rows(sums.as_mut_ptr(), width as isize),
                true,
            );
        }
    }
}
