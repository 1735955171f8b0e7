//! Elementwise loops, compiled for several instruction sets; each gives the same bits.
//!
//! Scores are stored by key: `[keys, rows]`. So a loop over rows handles neighbours in memory, and sums over keys are
//! taken in the order of keys, whatever the width of the vectors.

use super::heads::{Heads, KeyRange};

/// Scores below this make no probability that `f32` can hold.
const LOWEST_EXPONENT: f32 = -87.336_54;

/// Returns eˣ for x ≤ 88, to about 1 unit in the last place; 0 below the smallest normal number.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding and subtracting 1.5 · 2²³ rounds to an integer, which the low bits then hold.
    const ROUND: f32 = 12_582_912.0;
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4_f32;
    p = p.mul_add(r, 1.398_199_9e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 1.666_666_6e-1);
    p = p.mul_add(r, 0.5);
    p = p.mul_add(r * r, r) + 1.0;
    let power = f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    if x < LOWEST_EXPONENT { 0.0 } else { p * power }
}

/// Returns tanh x with a small relative error.
#[inline(always)]
fn tanh(x: f32) -> f32 {
    let size = x.abs();
    // 1 − 2 / (e²ˣ + 1) loses digits near zero, where the series is short.
    let clipped = if size > 15.0 { 15.0 } else { size };
    let large = 1.0 - 2.0 / (exp(2.0 * clipped) + 1.0);
    let s = x * x;
    let mut p = -5.704_988_7e-3_f32;
    p = p.mul_add(s, 2.063_909e-2);
    p = p.mul_add(s, -5.373_971_6e-2);
    p = p.mul_add(s, 1.333_144_2e-1);
    p = p.mul_add(s, -3.333_328e-1);
    let small = (p * s).mul_add(size, size);
    let y = if size < 0.625 { small } else { large };
    let y = if x.is_nan() { x } else { y };
    y.copysign(x)
}

/// Defines functions whose bodies are compiled with AVX-512, AVX2, and neither; the best for the processor runs.
macro_rules! by_instruction_set {
    ($($(#[$doc:meta])* pub(super) fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block)*) => {$(
        $(#[$doc])*
        pub(super) fn $name($($argument: $type),*) {
            #[inline(always)]
            fn body($($argument: $type),*) $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
                fn wide($($argument: $type),*) {
                    body($($argument),*);
                }
                #[target_feature(enable = "avx2,fma")]
                fn medium($($argument: $type),*) {
                    body($($argument),*);
                }
                if is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("fma")
                {
                    // SAFETY: the processor has these instructions.
                    return unsafe { wide($($argument),*) };
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: the processor has these instructions.
                    return unsafe { medium($($argument),*) };
                }
            }
            body($($argument),*);
        }
    )*};
}

/// Scores of a block, `[keys, rows]`, and which of them count.
pub(super) struct Scores<'a> {
    pub(super) scores: &'a mut [f32],
    pub(super) rows: usize,
    /// Index of the first key.
    pub(super) key: i32,
    /// First and last visible key of every row; `None` if all rows see all keys.
    pub(super) bounds: Option<(&'a [i32], &'a [i32])>,
    /// Limit of the scores: s → cap · tanh(s / cap).
    pub(super) cap: Option<f32>,
}

/// Numbers of every row, of which probabilities and their gradients are made.
pub(super) struct OfRows<'a> {
    /// Largest score.
    pub(super) maxima: &'a [f32],
    /// Inverse of the sum of exponentials.
    pub(super) inverses: &'a [f32],
    /// Product of the output with its gradient.
    pub(super) deltas: &'a [f32],
}

by_instruction_set! {
    /// Caps the scores, replaces hidden ones by −∞, and raises the maximum of every row.
    pub(super) fn cap_hide_and_raise(block: &mut Scores<'_>, maxima: &mut [f32]) {
        let rows = block.rows;
        if let Some(cap) = block.cap {
            let inverse = 1.0 / cap;
            for score in block.scores.iter_mut() {
                *score = cap * tanh(*score * inverse);
            }
        }
        let maxima = &mut maxima[..rows];
        for (scores, key) in block.scores.chunks_exact_mut(rows).zip(block.key..) {
            if let Some((first, last)) = block.bounds {
                let (first, last) = (&first[..rows], &last[..rows]);
                for row in 0..rows {
                    let hidden = (first[row] > key) || (last[row] < key);
                    scores[row] = if hidden { f32::NEG_INFINITY } else { scores[row] };
                }
            }
            for row in 0..rows {
                // The second comparison keeps a NaN, so that the row becomes NaN.
                let lower = (maxima[row] < scores[row]) | scores[row].is_nan();
                maxima[row] = if lower { scores[row] } else { maxima[row] };
            }
        }
    }

    /// Replaces scores by exp(score − maximum) and adds them to the sum of their row.
    pub(super) fn exp_and_sum(scores: &mut [f32], maxima: &[f32], sums: &mut [f32]) {
        let rows = maxima.len();
        let sums = &mut sums[..rows];
        for scores in scores.chunks_exact_mut(rows) {
            for row in 0..rows {
                // A row that has seen no key yet has only scores of −∞.
                let maximum = if maxima[row] == f32::NEG_INFINITY { 0.0 } else { maxima[row] };
                let p = exp(scores[row] - maximum);
                scores[row] = p;
                sums[row] += p;
            }
        }
    }

    /// Writes exp(old − new) of maxima that were raised, and 1 for a row that has seen no key.
    pub(super) fn factors_of(old: &[f32], new: &[f32], factors: &mut [f32]) {
        let (old, new) = (&old[..factors.len()], &new[..factors.len()]);
        for row in 0..factors.len() {
            let factor = exp(old[row] - new[row]);
            factors[row] = if old[row] == new[row] { 1.0 } else { factor };
        }
    }

    /// Multiplies numbers by a factor.
    pub(super) fn scale(numbers: &mut [f32], factor: f32) {
        for number in numbers {
            *number *= factor;
        }
    }

    /// Writes `numbers` · `factor`.
    pub(super) fn scaled(target: &mut [f32], numbers: &[f32], factor: f32) {
        for (target, number) in target.iter_mut().zip(numbers) {
            *target = number * factor;
        }
    }

    /// Turns scores into probabilities, and gradients of probabilities into those of scores:
    /// p · (gradient − delta), times the slope of the cap.
    pub(super) fn probabilities_and_gradients(
        block: &mut Scores<'_>,
        gradients: &mut [f32],
        of_rows: &OfRows<'_>,
    ) {
        let rows = block.rows;
        let (maxima, inverses, deltas) = (&of_rows.maxima[..rows], &of_rows.inverses[..rows], &of_rows.deltas[..rows]);
        let by_key = block.scores.chunks_exact_mut(rows).zip(gradients.chunks_exact_mut(rows));
        for ((scores, gradients), key) in by_key.zip(block.key..) {
            if let Some(cap) = block.cap {
                let inverse = 1.0 / cap;
                for row in 0..rows {
                    let t = tanh(scores[row] * inverse);
                    scores[row] = exp(cap * t - maxima[row]) * inverses[row];
                    gradients[row] = (gradients[row] - deltas[row]) * (1.0 - t * t);
                }
            } else {
                for row in 0..rows {
                    scores[row] = exp(scores[row] - maxima[row]) * inverses[row];
                    gradients[row] -= deltas[row];
                }
            }
            if let Some((first, last)) = block.bounds {
                let (first, last) = (&first[..rows], &last[..rows]);
                for row in 0..rows {
                    let hidden = (first[row] > key) || (last[row] < key);
                    scores[row] = if hidden { 0.0 } else { scores[row] };
                    gradients[row] = if hidden { 0.0 } else { gradients[row] };
                }
            }
            for row in 0..rows {
                gradients[row] *= scores[row];
            }
        }
    }

    /// Writes the sum of products of each row of one matrix with the same row of another.
    pub(super) fn dots(a: &[f32], b: &[f32], products: &mut [f32]) {
        let width = a.len() / products.len();
        for (product, (a, b)) in products.iter_mut().zip(a.chunks_exact(width).zip(b.chunks_exact(width))) {
            *product = dot(a, b);
        }
    }

    /// Writes the product of every query `[rows, D]` with every key of a range: `[keys, rows]`.
    pub(super) fn scores_of_keys(
        queries: &[f32],
        keys: &Heads<'_>,
        head: (usize, usize),
        range: KeyRange,
        scores: &mut [f32],
    ) {
        let rows = scores.len() / range.count();
        for (scores, key) in scores.chunks_exact_mut(rows).zip(range.start..) {
            let key = keys.row(head.0, head.1, key);
            for (score, query) in scores.iter_mut().zip(queries.chunks_exact(key.len())) {
                *score = dot(query, key);
            }
        }
    }

    /// Adds every value of a range, times its weight `[keys, rows]`, to the sum of every row, `[rows, D]`.
    pub(super) fn add_values(
        weights: &[f32],
        values: &Heads<'_>,
        head: (usize, usize),
        range: KeyRange,
        sums: &mut [f32],
    ) {
        let rows = weights.len() / range.count();
        for (weights, key) in weights.chunks_exact(rows).zip(range.start..) {
            let value = values.row(head.0, head.1, key);
            for (&weight, sums) in weights.iter().zip(sums.chunks_exact_mut(value.len())) {
                for (sum, number) in sums.iter_mut().zip(value) {
                    *sum = weight.mul_add(*number, *sum);
                }
            }
        }
    }
}

/// Number of partial sums of a product of two rows, whatever the width of the vectors.
const PARTIAL_SUMS: usize = 32;

/// Returns the sum of products of two rows.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; PARTIAL_SUMS];
    let (a, b) = (a.chunks(PARTIAL_SUMS), b.chunks(PARTIAL_SUMS));
    for (a, b) in a.zip(b) {
        if a.len() == PARTIAL_SUMS {
            for lane in 0..PARTIAL_SUMS {
                sums[lane] = a[lane].mul_add(b[lane], sums[lane]);
            }
        } else {
            for lane in 0..a.len() {
                sums[lane] = a[lane].mul_add(b[lane], sums[lane]);
            }
        }
    }
    let mut half = PARTIAL_SUMS / 2;
    while half > 0 {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
        half /= 2;
    }
    sums[0]
}
