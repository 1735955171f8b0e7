//! Attention of few queries, as in generation: every key and value is read once, where the cache holds it.

use rayon::prelude::*;

use super::forward::{Inputs, row_statistics};
use super::heads::{Bounds, KeyRange, QueryBlock, Sizes};
use super::lanes::{
    Scores, add_values, cap_hide_and_raise, exp_and_sum, factors_of, scale, scaled, scores_of_keys,
};

/// Number of keys of one piece of work.
const KEYS: usize = 256;

/// Most rows, queries times the heads that share a key-value head, for which this is faster than blocks of products.
const ROWS: usize = 16;

/// Multiplications below which a second thread does not pay.
const PARALLEL_FROM: usize = 1 << 17;

/// Returns whether a call has few queries.
pub(super) fn is_for(sizes: &Sizes) -> bool {
    sizes.length * sizes.group <= ROWS
}

/// Sums over the keys of one piece, for all rows of a key-value head.
struct Partial {
    maxima: Vec<f32>,
    totals: Vec<f32>,
    /// Values times exp(score − maximum), `[rows, D]`.
    sums: Vec<f32>,
}

/// Computes what [`forward`](super::forward::forward) does.
pub(super) fn decode(inputs: &Inputs<'_>, out: &mut [f32], statistics: &mut [f32]) {
    let sizes = &inputs.sizes;
    let pieces: Vec<(QueryBlock, KeyRange)> = (0..sizes.batch * sizes.key_value_heads)
        .flat_map(|head| {
            let block = QueryBlock {
                batch: head / sizes.key_value_heads,
                key_value_head: head % sizes.key_value_heads,
                start: 0,
                count: sizes.length,
            };
            let range = KeyRange::of(&inputs.visible, &block);
            range.blocks(KEYS).map(move |piece| (block, range.part(piece, KEYS)))
        })
        .collect();
    let work: usize = pieces.iter().map(|(_, keys)| keys.count()).sum::<usize>();
    let sum = |(block, keys): &(QueryBlock, KeyRange)| sum_piece(inputs, block, *keys);
    let partials: Vec<Partial> = if work * sizes.group * sizes.length * sizes.width < PARALLEL_FROM {
        pieces.iter().map(sum).collect()
    } else {
        pieces.par_iter().with_max_len(1).map(sum).collect()
    };
    out.fill(0.0);
    let nothing = row_statistics(0.0, 0.0);
    statistics.chunks_exact_mut(2).for_each(|slot| slot.copy_from_slice(&nothing));
    let mut parts = pieces.iter().zip(partials).peekable();
    while let Some(((block, _), mut first)) = parts.next() {
        while let Some((_, next)) = parts.next_if(|((other, _), _)| other == block) {
            first.add(next, sizes.width);
        }
        first.finish(sizes, block, out, statistics);
    }
}

fn sum_piece(inputs: &Inputs<'_>, block: &QueryBlock, keys: KeyRange) -> Partial {
    let sizes = &inputs.sizes;
    let (rows, width) = (sizes.group * block.count, sizes.width);
    let mut queries = vec![0.0; rows * width];
    block.gather(sizes, &inputs.queries, inputs.rule.scale, &mut queries);
    let mut bounds = Bounds::default();
    bounds.fill(sizes, &inputs.visible, block);
    let mut scores = vec![0.0; rows * keys.count()];
    let heads = (block.batch, block.key_value_head);
    scores_of_keys(&queries, &inputs.keys, heads, keys, &mut scores);
    let mut partial = Partial {
        maxima: vec![f32::NEG_INFINITY; rows],
        totals: vec![0.0; rows],
        sums: vec![0.0; rows * width],
    };
    let hides = !bounds.all_see(keys);
    let mut these = Scores {
        scores: &mut scores,
        rows,
        key: keys.start as i32,
        bounds: hides.then_some((&bounds.first, &bounds.last)),
        cap: inputs.rule.cap,
    };
    cap_hide_and_raise(&mut these, &mut partial.maxima);
    exp_and_sum(&mut scores, &partial.maxima, &mut partial.totals);
    add_values(&scores, &inputs.values, heads, keys, &mut partial.sums);
    partial
}

impl Partial {
    /// Adds the sums of the next piece.
    fn add(&mut self, mut next: Partial, width: usize) {
        let mut factors = vec![0.0; self.maxima.len()];
        let raised: Vec<f32> = self.maxima.iter().zip(&next.maxima).map(|(&a, &b)| larger(a, b)).collect();
        for part in [&mut *self, &mut next] {
            factors_of(&part.maxima, &raised, &mut factors);
            for (row, &factor) in factors.iter().enumerate() {
                part.totals[row] *= factor;
                scale(&mut part.sums[row * width..][..width], factor);
            }
        }
        self.maxima = raised;
        self.totals.iter_mut().zip(&next.totals).for_each(|(sum, number)| *sum += number);
        self.sums.iter_mut().zip(&next.sums).for_each(|(sum, number)| *sum += number);
    }

    /// Writes the outputs of a block.
    fn finish(&self, sizes: &Sizes, block: &QueryBlock, out: &mut [f32], statistics: &mut [f32]) {
        let width = sizes.width;
        block.for_each_row(sizes, |row, head, query| {
            let [maximum, inverse] = row_statistics(self.maxima[row], self.totals[row]);
            let token = block.batch * sizes.length + query;
            let target = &mut out[(token * sizes.heads() + head) * width..][..width];
            scaled(target, &self.sums[row * width..][..width], inverse);
            let at = (block.batch * sizes.heads() + head) * sizes.length + query;
            statistics[2 * at..][..2].copy_from_slice(&[maximum, inverse]);
        });
    }
}

/// Returns the larger number, or NaN if there is one.
fn larger(a: f32, b: f32) -> f32 {
    if a.is_nan() || a > b { a } else { b }
}
