//! Choice of the next token from the logits of a row.
//!
//! In the order of transformers: repetition penalty, temperature, top-k, top-p, min-p, then one draw. The draw comes
//! from ChaCha8 at (seed, row, position), so a row depends neither on the size of its batch nor on other rows.

mod candidates;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeSet;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Settings of the choice; the default is greedy.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most likely token, the first of equals.
    pub temperature: f64,
    /// Number of most likely tokens to keep; 0 keeps all.
    pub top_k: usize,
    /// Keeps the fewest most likely tokens whose probabilities reach this sum; 1 keeps all.
    pub top_p: f64,
    /// Keeps tokens whose probability is at least this multiple of the highest one; 0 keeps all.
    pub min_p: f64,
    /// Makes tokens less likely that occur in the row or its prompt (arXiv:1909.05858); 1 has no effect.
    pub repetition_penalty: f64,
    /// Seed of the random numbers.
    pub seed: u64,
    /// Number of the first row; every row has its own random numbers.
    pub first_row: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
            first_row: 0,
        }
    }
}

/// Number of most likely tokens to sort before sorting more.
const SORTED_AT_FIRST: usize = 1024;

/// A token that may be chosen, and its probability relative to that of the most likely token.
type Candidate = (u32, f64);

impl Sampling {
    /// Returns whether the choice is the most likely token of the unchanged logits.
    pub(crate) fn is_argmax(&self) -> bool {
        self.temperature == 0.0 && !self.penalizes()
    }

    fn penalizes(&self) -> bool {
        (self.repetition_penalty - 1.0).abs() > f64::EPSILON
    }

    /// Chooses the token at `position` of row `row`, which already contains the tokens `seen`; `None` if the highest logit
    /// is not finite.
    pub(crate) fn choose(
        &self,
        logits: &[f32],
        seen: &BTreeSet<u32>,
        row: u64,
        position: u64,
    ) -> Option<u32> {
        let mut logits = Cow::Borrowed(logits);
        if self.penalizes() {
            penalize(logits.to_mut(), seen, self.repetition_penalty as f32);
        }
        let best = argmax(&logits)?;
        if self.temperature == 0.0 {
            return Some(best);
        }
        let uniform = uniform(self.seed, self.first_row + row, position);
        let fast = self.choose_fast(&logits, best, uniform);
        Some(fast.unwrap_or_else(|| pick(&self.candidates(&logits, best), uniform)))
    }

    /// Returns the tokens that pass the filters, sorted by id.
    fn candidates(&self, logits: &[f32], best: u32) -> Vec<Candidate> {
        let highest = logits[best as usize];
        let shares = logits.iter().enumerate();
        let shares = shares.map(|(id, &logit)| (id as u32, self.share(logit, highest)));
        let candidates: Vec<Candidate> = shares.filter(|&(_, share)| share > 0.0).collect();
        self.filtered(candidates)
    }

    /// Returns the candidates that pass the filters, sorted by id.
    fn filtered(&self, mut candidates: Vec<Candidate>) -> Vec<Candidate> {
        if self.top_k > 0 && self.top_k < candidates.len() {
            candidates.select_nth_unstable_by(self.top_k - 1, by_likelihood);
            candidates.truncate(self.top_k);
        }
        if self.top_p < 1.0 {
            keep_top_p(&mut candidates, self.top_p);
        }
        candidates.retain(|&(_, share)| share >= self.min_p);
        candidates.sort_unstable_by_key(|&(id, _)| id);
        candidates
    }
}

/// Orders the most likely first; of equals, the lower id.
fn by_likelihood(a: &Candidate, b: &Candidate) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

fn argmax(logits: &[f32]) -> Option<u32> {
    // `max` skips NaN, and compilers turn this into vector instructions.
    let mut lanes = [f32::NEG_INFINITY; 16];
    let mut chunks = logits.chunks_exact(lanes.len());
    for chunk in &mut chunks {
        for (lane, &logit) in lanes.iter_mut().zip(chunk) {
            *lane = if logit > *lane { logit } else { *lane };
        }
    }
    let highest = lanes.iter().chain(chunks.remainder()).fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    if !highest.is_finite() {
        return None;
    }
    logits.iter().position(|&logit| logit >= highest).map(|best| best as u32)
}

fn penalize(logits: &mut [f32], seen: &BTreeSet<u32>, penalty: f32) {
    for &token in seen {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
        }
    }
}

/// Keeps the fewest most likely candidates whose shares reach `top_p` of the sum of all; at least one.
fn keep_top_p(candidates: &mut Vec<Candidate>, top_p: f64) {
    candidates.sort_unstable_by_key(|&(id, _)| id);
    let wanted = top_p * candidates.iter().map(|&(_, share)| share).sum::<f64>();
    let mut sorted = SORTED_AT_FIRST;
    loop {
        if sorted < candidates.len() {
            candidates.select_nth_unstable_by(sorted - 1, by_likelihood);
        }
        let end = sorted.min(candidates.len());
        candidates[..end].sort_unstable_by(by_likelihood);
        let mut sum = 0.0;
        let reached = candidates[..end].iter().position(|&(_, share)| {
            sum += share;
            sum >= wanted
        });
        match reached {
            Some(last) => return candidates.truncate(last + 1),
            // Rounding may leave the sum of all just below the target.
            None if end == candidates.len() => return,
            None => sorted *= 16,
        }
    }
}

/// Returns the candidate in whose interval of the cumulated shares `uniform`, in [0, 1), falls.
fn pick(candidates: &[Candidate], uniform: f64) -> u32 {
    let wanted = uniform * candidates.iter().map(|&(_, share)| share).sum::<f64>();
    let mut sum = 0.0;
    let found = candidates.iter().find(|&&(_, share)| {
        sum += share;
        sum > wanted
    });
    found.or(candidates.last()).expect("the most likely token passes every filter").0
}

/// Returns a number in [0, 1): 53 bits of ChaCha8 keyed with `seed` (8 little-endian bytes, then zeros), stream `row`,
/// block `position`.
fn uniform(seed: u64, row: u64, position: u64) -> f64 {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let mut generator = ChaCha8Rng::from_seed(key);
    generator.set_stream(row);
    generator.set_word_pos(u128::from(position) * 16);
    (generator.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logits whose softmax is 0.5, 0.25, 0.125, 0.0625, 0.0625, in the order of the ids 3, 0, 4, 1, 2.
    fn logits() -> Vec<f32> {
        [0.25_f32, 0.0625, 0.0625, 0.5, 0.125].iter().map(|p| p.ln()).collect()
    }

    fn hot() -> Sampling {
        Sampling { temperature: 1.0, ..Sampling::default() }
    }

    fn kept(sampling: &Sampling) -> Vec<u32> {
        let logits = logits();
        let best = argmax(&logits).expect("numbers");
        sampling.candidates(&logits, best).into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn top_k_keeps_the_most_likely_and_of_equals_the_lower_id() {
        assert_eq!(kept(&hot()), [0, 1, 2, 3, 4]);
        assert_eq!(kept(&Sampling { top_k: 1, ..hot() }), [3]);
        assert_eq!(kept(&Sampling { top_k: 4, ..hot() }), [0, 1, 3, 4]);
        assert_eq!(kept(&Sampling { top_k: 9, ..hot() }), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn top_p_keeps_the_fewest_that_reach_the_sum() {
        assert_eq!(kept(&Sampling { top_p: 0.1, ..hot() }), [3]);
        assert_eq!(kept(&Sampling { top_p: 0.51, ..hot() }), [0, 3]);
        assert_eq!(kept(&Sampling { top_p: 0.76, ..hot() }), [0, 3, 4]);
        assert_eq!(kept(&Sampling { top_p: 0.9, ..hot() }), [0, 1, 3, 4]);
        assert_eq!(kept(&Sampling { top_p: 0.99, ..hot() }), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn top_p_finds_its_end_in_a_large_and_flat_vocabulary() {
        let mut candidates: Vec<Candidate> = (0..50_000).map(|id| (id, 1.0)).collect();
        keep_top_p(&mut candidates, 0.5);
        assert_eq!(candidates.len(), 25_000);
        assert!(candidates.iter().all(|&(id, _)| id < 25_000));
    }

    #[test]
    fn min_p_is_held_against_the_most_likely() {
        assert_eq!(kept(&Sampling { min_p: 0.6, ..hot() }), [3]);
        assert_eq!(kept(&Sampling { min_p: 0.4, ..hot() }), [0, 3]);
        assert_eq!(kept(&Sampling { min_p: 0.2, ..hot() }), [0, 3, 4]);
        assert_eq!(kept(&Sampling { min_p: 0.1, ..hot() }), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn temperature_comes_before_the_filters() {
        // At temperature 1/2 the probabilities are squared: 0.25 of the most likely for the second.
        assert_eq!(kept(&Sampling { temperature: 0.5, min_p: 0.3, ..hot() }), [3]);
        assert_eq!(kept(&Sampling { temperature: 0.5, min_p: 0.2, ..hot() }), [0, 3]);
        // Squares: 64, 16, 4, 1, 1 of 86, so that the first two hold 0.93.
        assert_eq!(kept(&Sampling { temperature: 0.5, top_p: 0.9, ..hot() }), [0, 3]);
    }

    #[test]
    fn temperature_zero_takes_the_first_of_the_most_likely() {
        let choose = |logits: Vec<f32>| Sampling::default().choose(&logits, &BTreeSet::new(), 0, 0);
        assert_eq!(choose(vec![0.0, 2.0, 2.0, -1.0]), Some(1));
        assert_eq!(choose(vec![f32::NAN, -3.0, f32::NEG_INFINITY]), Some(1));
        assert_eq!(choose(vec![f32::NAN, f32::NAN]), None);
        assert_eq!(choose(vec![f32::NEG_INFINITY]), None);
    }

    #[test]
    fn the_repetition_penalty_lowers_what_was_seen_whatever_its_sign() {
        let mut logits = [2.0, -2.0, 1.5, 0.0];
        penalize(&mut logits, &BTreeSet::from([0, 1, 3, 99]), 2.0);
        assert_eq!(logits.map(f32::to_bits), [1.0_f32, -4.0, 1.5, 0.0].map(f32::to_bits));
        let sampling = Sampling { repetition_penalty: 2.0, ..Sampling::default() };
        assert_eq!(sampling.choose(&[2.0, -2.0, 1.5], &BTreeSet::from([0]), 0, 0), Some(2));
        assert_eq!(sampling.choose(&[2.0, -2.0, 1.5], &BTreeSet::new(), 0, 0), Some(0));
    }

    #[test]
    fn random_numbers_are_pinned_to_seed_row_and_position() {
        let bits = |seed, row, position| (uniform(seed, row, position) * (1_u64 << 53) as f64) as u64;
        // The first block of ChaCha8 with a key of zeros begins 3e00ef2f895f40d6 (eSTREAM's vectors).
        assert_eq!(bits(0, 0, 0), 0xd640_5f89_2fef_003e >> 11);
        let all = [bits(0, 0, 0), bits(1, 0, 0), bits(0, 1, 0), bits(0, 0, 1)];
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 4);
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let sampling = hot();
        let mut counts = [0_u32; 5];
        for position in 0..8000 {
            let token = sampling.choose(&logits(), &BTreeSet::new(), 0, position).expect("numbers");
            counts[token as usize] += 1;
        }
        for (count, wanted) in counts.iter().zip([2000.0, 500.0, 500.0, 4000.0, 1000.0]) {
            assert!((f64::from(*count) - wanted).abs() < 150.0, "{counts:?}");
        }
    }

    #[test]
    fn the_ends_of_the_unit_interval_pick_the_first_and_the_last() {
        let candidates = [(7, 0.5), (8, 0.25), (9, 0.25)];
        assert_eq!(pick(&candidates, 0.0), 7);
        assert_eq!(pick(&candidates, 0.5), 8);
        assert_eq!(pick(&candidates, 1.0 - f64::EPSILON / 2.0), 9);
    }
}
