//! Loss sums and perplexity.

use std::iter::Sum;
use std::ops::{Add, AddAssign};

/// A sum of cross-entropies in nats, and the number of targets in it.
///
/// Sums can be added, means cannot. Keeping rows and batches as sums until the end weights every mean by targets.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LossSum {
    /// Sum of the cross-entropies, in nats.
    pub nats: f64,
    /// Number of targets.
    pub tokens: u64,
}

impl LossSum {
    /// Makes a sum of `nats` over `tokens` targets.
    pub fn new(nats: f64, tokens: u64) -> Self {
        Self { nats, tokens }
    }

    /// Returns the mean loss in nats per target; `None` without targets.
    pub fn mean(self) -> Option<f64> {
        (self.tokens > 0).then(|| self.nats / self.tokens as f64)
    }

    /// Returns e to the mean loss; `None` without targets.
    ///
    /// A mean above about 709 nats overflows to infinity, which is not an error.
    pub fn perplexity(self) -> Option<f64> {
        self.mean().map(f64::exp)
    }
}

impl Add for LossSum {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { nats: self.nats + other.nats, tokens: self.tokens + other.tokens }
    }
}

impl AddAssign for LossSum {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for LossSum {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_rows_weigh_more_than_short_ones() {
        let total: LossSum = [LossSum::new(10.0, 1), LossSum::new(9.0, 9)].into_iter().sum();
        assert_eq!(total.mean(), Some(1.9));
    }

    #[test]
    fn perplexity_of_a_uniform_guess_is_the_number_of_choices() {
        let perplexity = LossSum::new(5.0 * 32f64.ln(), 5).perplexity().expect("five tokens");
        assert!((perplexity - 32.0).abs() < 1e-12);
    }

    #[test]
    fn no_tokens_means_no_loss() {
        assert_eq!(LossSum::default().mean(), None);
        assert_eq!(LossSum::default().perplexity(), None);
    }
}
