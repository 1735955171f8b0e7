//! Cutting a large vocabulary before anything is sorted.
//!
//! Sorting 262,144 tokens, or only computing their probabilities one by one, takes half as long as a pass of a small
//! model. Here tokens are counted in buckets by their logit, in one sweep of vector instructions; only tokens near the end of
//! top-k or top-p are sorted. The fast way works with sums whose last digits may differ from those of the plain way, so it
//! answers only if the answer does not depend on them. Tests compare both.

use super::{Candidate, Sampling, by_likelihood, pick};

/// Smallest vocabulary for which this pays.
pub(super) const SMALLEST: usize = 4096;
/// Buckets per unit of (highest − logit) / temperature.
const PER_UNIT: f32 = 64.0;
/// Number of buckets; the last one also takes all tokens with a share below e⁻³².
const BUCKETS: usize = 2048;
/// Largest number of tokens that are handled one by one.
const FEW: usize = 8192;
/// Relative difference of two sums that makes a decision safe: sums of shares are off by less than 1e-10.
const SAFE: f64 = 1e-9;
/// Tokens that are put into buckets together, and passed over together if none of them is in a range.
const FILTERED: usize = 32;
/// Tokens whose shares are summed together.
const BLOCK: usize = 512;

/// The vocabulary in buckets, the most likely tokens first.
struct Buckets<'a> {
    logits: &'a [f32],
    highest: f32,
    scale: f32,
    shares: Vec<f64>,
    counts: Vec<u32>,
    sums: Vec<f64>,
}

/// The last token that passes a filter, in the order of likelihood.
#[derive(Clone, Copy)]
struct Last {
    id: usize,
    logit: f32,
}

#[expect(clippy::float_cmp, reason = "equal logits are ordered by id")]
impl Last {
    /// Returns whether the token passes.
    fn passes(self, id: usize, logit: f32) -> bool {
        logit > self.logit || (logit == self.logit && id <= self.id)
    }
}

impl Sampling {
    /// Chooses as the plain way does; `None` where rounding could decide.
    pub(super) fn choose_fast(&self, logits: &[f32], best: u32, uniform: f64) -> Option<u32> {
        if logits.len() < SMALLEST {
            return None;
        }
        let buckets = Buckets::new(logits, logits[best as usize], self.temperature);
        if self.top_k > 0 {
            // The most likely k are in the first buckets, whole; the plain way does the rest with those.
            let end = buckets.first_with_count(self.top_k)?;
            return Some(pick(&self.filtered(buckets.tokens(end, self)), uniform));
        }
        let last = if self.top_p < 1.0 { Some(buckets.last_of_top_p(self)?) } else { None };
        if self.min_p > 0.0 {
            return None;
        }
        buckets.pick(last, uniform)
    }

    /// Returns the share of a token relative to the most likely one, as the plain way computes it.
    pub(super) fn share(&self, logit: f32, highest: f32) -> f64 {
        ((f64::from(logit) - f64::from(highest)) / self.temperature).exp()
    }
}

impl<'a> Buckets<'a> {
    fn new(logits: &'a [f32], highest: f32, temperature: f64) -> Self {
        let mut shares = vec![0.0; logits.len()];
        mlx_ext::shares(logits, highest, 1.0 / temperature, &mut shares);
        let scale = PER_UNIT / temperature as f32;
        let mut buckets =
            Self { logits, highest, scale, shares, counts: vec![0; BUCKETS], sums: vec![0.0; BUCKETS] };
        for (logits, shares) in logits.chunks(FILTERED).zip(buckets.shares.chunks(FILTERED)) {
            let mut places = [0; FILTERED];
            for (place, &logit) in places.iter_mut().zip(logits) {
                *place = bucket_of(logit, highest, scale);
            }
            for (&place, &share) in places.iter().zip(shares) {
                buckets.counts[place] += u32::from(share > 0.0);
                buckets.sums[place] += share;
            }
        }
        buckets
    }

    /// Returns the index after the first buckets that hold at least `count` tokens; `None` if there are fewer or too many.
    fn first_with_count(&self, count: usize) -> Option<usize> {
        let mut sum = 0;
        for (bucket, &tokens) in self.counts.iter().enumerate() {
            sum += tokens as usize;
            if sum >= count {
                return (bucket + 1 < BUCKETS && sum <= FEW).then_some(bucket + 1);
            }
        }
        None
    }

    /// Returns the tokens of the first `end` buckets with their exact shares, by id.
    fn tokens(&self, end: usize, sampling: &Sampling) -> Vec<Candidate> {
        self.tokens_in(0..end, sampling)
    }

    fn tokens_in(&self, range: std::ops::Range<usize>, sampling: &Sampling) -> Vec<Candidate> {
        // Logits outside of these bounds, which are one bucket too wide on either side, are passed over many at a time.
        let bound = |bucket: usize| self.highest - (bucket as f32 - 1.0) / self.scale;
        let (above, below) = (bound(range.start), bound(range.end + 2));
        let has_last = range.end == BUCKETS;
        let mut tokens = Vec::new();
        for start in (0..self.logits.len()).step_by(FILTERED) {
            let logits = &self.logits[start..(start + FILTERED).min(self.logits.len())];
            // Numbers and not conditions, which compilers turn into branches.
            let is_near =
                |logit: f32| u8::from(logit <= above) & (u8::from(logit >= below) | u8::from(has_last));
            if logits.iter().fold(0, |any, &logit| any | is_near(logit)) == 0 {
                continue;
            }
            for (id, &logit) in (start..).zip(logits) {
                if self.shares[id] > 0.0 && range.contains(&bucket_of(logit, self.highest, self.scale)) {
                    tokens.push((id as u32, sampling.share(logit, self.highest)));
                }
            }
        }
        tokens
    }

    /// Returns the last of the fewest most likely tokens whose shares reach top-p of the sum of all.
    fn last_of_top_p(&self, sampling: &Sampling) -> Option<Last> {
        let wanted = sampling.top_p * self.sums.iter().sum::<f64>();
        let mut sum = 0.0;
        let mut bucket = 0;
        while bucket < BUCKETS && sum + self.sums[bucket] < wanted {
            sum += self.sums[bucket];
            bucket += 1;
        }
        // The last bucket has no lower end.
        if bucket + 1 >= BUCKETS {
            return None;
        }
        let mut tokens = self.tokens_in(bucket..bucket + 1, sampling);
        tokens.sort_unstable_by(by_likelihood);
        let mut reached = None;
        for &(id, share) in &tokens {
            let before = sum;
            sum += share;
            if sum >= wanted {
                let is_safe = sum > wanted * (1.0 + SAFE) && before < wanted * (1.0 - SAFE);
                reached = is_safe.then_some(id as usize);
                break;
            }
        }
        let id = reached?;
        let logit = self.logits[id];
        // Logits this close to each other could have equal shares, and the plain way orders those by id.
        (logit.abs() > 1e-7 * sampling.temperature as f32).then_some(Last { id, logit })
    }

    /// Picks among the tokens up to `last`, or all, in the order of their ids.
    fn pick(&self, last: Option<Last>, uniform: f64) -> Option<u32> {
        let passes = |id: usize| last.is_none_or(|last| last.passes(id, self.logits[id]));
        let share = |id: usize| if passes(id) { self.shares[id] } else { 0.0 };
        let sum = |start: usize| {
            let end = (start + BLOCK).min(self.logits.len());
            let lowest = match last {
                None => f32::NEG_INFINITY,
                Some(last) if end <= last.id => last.logit,
                Some(last) if start > last.id => last.logit.next_up(),
                Some(_) => return (start..end).map(share).sum::<f64>(),
            };
            mlx_ext::sum_of_shares(&self.logits[start..end], &self.shares[start..end], lowest)
        };
        let blocks: Vec<f64> = (0..self.logits.len()).step_by(BLOCK).map(sum).collect();
        let total: f64 = blocks.iter().sum();
        let wanted = uniform * total;
        let (low, high) = (wanted - SAFE * total, wanted + SAFE * total);
        let mut sum = 0.0;
        let block = blocks.iter().position(|block| {
            let crosses = sum + block > low;
            if !crosses {
                sum += block;
            }
            crosses
        })?;
        let start = block * BLOCK;
        for id in start..(start + BLOCK).min(self.logits.len()) {
            let share = share(id);
            sum += share;
            if sum > low {
                return (sum > high && share > 0.0 && sum - share < low).then_some(id as u32);
            }
        }
        None
    }
}

/// Returns the bucket of a logit; a lower logit is never in an earlier bucket.
fn bucket_of(logit: f32, highest: f32, scale: f32) -> usize {
    ((highest - logit) * scale).min((BUCKETS - 1) as f32) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{RngCore, SeedableRng};

    use super::*;

    /// Returns logits of about the standard deviation `spread`, in steps of `step` (so that many are equal).
    fn logits(seed: u64, spread: f32, step: f32) -> Vec<f32> {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        let mut draw = || generator.next_u32() as f32 / u32::MAX as f32 - 0.5;
        let mut all: Vec<f32> = (0..6000)
            .map(|_| {
                let bell: f32 = (0..12).map(|_| draw()).sum();
                if step > 0.0 { (bell * spread / step).round() * step } else { bell * spread }
            })
            .collect();
        (all[17], all[18], all[19]) = (f32::NAN, f32::NEG_INFINITY, -4000.0);
        all
    }

    #[test]
    fn choices_are_those_of_the_plain_way() {
        let plain = |top_k, top_p, min_p, temperature| Sampling {
            temperature,
            top_k,
            top_p,
            min_p,
            ..Sampling::default()
        };
        let settings = [
            plain(0, 1.0, 0.0, 1.0),
            plain(0, 0.95, 0.0, 0.7),
            plain(0, 0.5, 0.0, 1.5),
            plain(0, 1e-9, 0.0, 1.0),
            plain(0, 0.9999, 0.0, 0.8),
            plain(40, 1.0, 0.0, 1.0),
            plain(40, 0.9, 0.05, 0.8),
            plain(5999, 0.9, 0.0, 0.8),
            plain(1, 1.0, 0.0, 1.0),
            plain(0, 0.9, 0.02, 1.0),
            plain(0, 1.0, 0.1, 1.0),
        ];
        let (mut fast, mut all) = (0, 0);
        for (seed, (spread, step)) in
            [(0.0, 0.0), (0.5, 0.0), (0.5, 0.25), (3.0, 0.0), (3.0, 0.5), (30.0, 0.0), (1e-9, 0.0)]
                .into_iter()
                .enumerate()
        {
            for sampling in &settings {
                for position in 0..40 {
                    let logits = logits(seed as u64 * 1000 + position, spread, step);
                    let best = super::super::argmax(&logits).expect("numbers");
                    let uniform = super::super::uniform(7, 0, position);
                    let expected = pick(&sampling.candidates(&logits, best), uniform);
                    let found = sampling.choose_fast(&logits, best, uniform);
                    assert!(
                        found.is_none_or(|found| found == expected),
                        "{sampling:?}, spread {spread}, step {step}: {found:?} instead of {expected}"
                    );
                    let chosen = Sampling { seed: 7, ..sampling.clone() }.choose(
                        &logits,
                        &BTreeSet::new(),
                        0,
                        position,
                    );
                    assert_eq!(chosen, Some(expected));
                    fast += usize::from(found.is_some());
                    all += 1;
                }
            }
        }
        assert!(fast * 10 > all * 6, "only {fast} of {all} choices were fast");
    }

    #[test]
    fn the_ends_of_the_unit_interval_are_left_to_the_plain_way() {
        let logits = logits(1, 1.0, 0.0);
        let best = super::super::argmax(&logits).expect("numbers");
        let hot = Sampling { temperature: 1.0, ..Sampling::default() };
        assert_eq!(hot.choose_fast(&logits, best, 0.0), None);
        assert_eq!(hot.choose_fast(&logits[..100], best % 100, 0.5), None);
    }
}
