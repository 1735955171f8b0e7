//! BLEU (Papineni et al. 2002) with one reference per row.

use crate::ngrams::{matches, of_words};
use crate::text::{self, SACREBLEU};
use crate::tokenize::Tokenization;

/// Longest n-gram, in words.
pub const MAX_ORDER: usize = 4;

/// Treatment of an order without a match in a BLEU score.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Smoothing {
    /// The score is 0.
    None,
    /// The precision is half the smallest possible one, and half of that for the next such order, and so on (NIST's method).
    #[default]
    Exp,
    /// The matches count as this number; usually 0.1.
    Floor(f64),
    /// This number is added to the matches and totals of every order except the first; usually 1.
    AddK(f64),
}

/// Settings of a BLEU score.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Bleu {
    /// Rule that splits text into words.
    pub tokenization: Tokenization,
    /// Treatment of an order without a match.
    pub smoothing: Smoothing,
}

/// Counts of one or more rows; counts of rows add up to those of the corpus.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BleuStatistics {
    hypothesis_words: u64,
    reference_words: u64,
    matched: [u64; MAX_ORDER],
    total: [u64; MAX_ORDER],
}

impl Bleu {
    /// Counts the n-grams of one row.
    pub fn statistics(&self, hypothesis: &str, reference: &str) -> BleuStatistics {
        let left = self.tokenization.apply(hypothesis);
        let right = self.tokenization.apply(reference);
        let left: Vec<&str> = text::words(&left).collect();
        let right: Vec<&str> = text::words(&right).collect();
        let mut statistics = BleuStatistics {
            hypothesis_words: left.len() as u64,
            reference_words: right.len() as u64,
            ..BleuStatistics::default()
        };
        for order in 1..=MAX_ORDER {
            let mut ngrams = of_words(&left, order);
            statistics.total[order - 1] = ngrams.len() as u64;
            statistics.matched[order - 1] = matches(&mut ngrams, &mut of_words(&right, order));
        }
        statistics
    }

    /// Returns the score of a corpus from its counts, from 0 to 100, over all four orders.
    pub fn score(&self, statistics: &BleuStatistics) -> f64 {
        self.compute(statistics, false)
    }

    /// Returns the score of one row, from 0 to 100, over the orders that fit into it.
    pub fn sentence(&self, hypothesis: &str, reference: &str) -> f64 {
        self.sentence_score(&self.statistics(hypothesis, reference))
    }

    /// Returns the score of one row from its counts, from 0 to 100, over the orders that fit into it.
    pub(crate) fn sentence_score(&self, statistics: &BleuStatistics) -> f64 {
        self.compute(statistics, true)
    }

    /// Returns the score of (hypothesis, reference) rows, from 0 to 100; 0 without rows.
    ///
    /// The counts of all rows are added first, so this is not the mean of the rows' scores.
    pub fn corpus<'a>(&self, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> f64 {
        let mut total = BleuStatistics::default();
        for (hypothesis, reference) in pairs {
            total.add(&self.statistics(hypothesis, reference));
        }
        self.score(&total)
    }

    /// Returns sacreBLEU's signature of the score of a corpus.
    pub fn signature(&self) -> String {
        let smoothing = match self.smoothing {
            Smoothing::None => "none".to_owned(),
            Smoothing::Exp => "exp".to_owned(),
            Smoothing::Floor(value) => format!("floor[{value:.2}]"),
            Smoothing::AddK(value) => format!("add-k[{value:.2}]"),
        };
        let tokenization = self.tokenization.name();
        format!("nrefs:1|case:mixed|eff:no|tok:{tokenization}|smooth:{smoothing}|version:{SACREBLEU}")
    }

    fn compute(&self, statistics: &BleuStatistics, effective_order: bool) -> f64 {
        if statistics.matched.iter().all(|&matched| matched == 0) {
            return 0.0;
        }
        let mut log_sum = 0.0;
        let mut orders = MAX_ORDER;
        let mut halving = 1.0;
        for order in 0..MAX_ORDER {
            let (matched, total) = self.counts(statistics, order);
            if total == 0.0 {
                // Too short for this order and every longer one, which count as 0 unless the order is effective.
                if !effective_order {
                    return 0.0;
                }
                break;
            }
            if effective_order {
                orders = order + 1;
            }
            let precision = match self.smoothing {
                _ if matched > 0.0 => 100.0 * matched / total,
                Smoothing::Exp => {
                    halving *= 2.0;
                    100.0 / (halving * total)
                }
                Smoothing::Floor(value) => 100.0 * value / total,
                Smoothing::None | Smoothing::AddK(_) => 0.0,
            };
            log_sum += precision.ln(); // of 0: minus infinity, so the score is 0
        }
        statistics.brevity_penalty() * (log_sum / orders as f64).exp()
    }

    fn counts(&self, statistics: &BleuStatistics, order: usize) -> (f64, f64) {
        let added = match self.smoothing {
            Smoothing::AddK(value) if order > 0 => value,
            _ => 0.0,
        };
        (statistics.matched[order] as f64 + added, statistics.total[order] as f64 + added)
    }
}

impl BleuStatistics {
    /// Returns the counts as numbers: words of both sides, then matches and totals by order.
    pub fn to_counts(self) -> Vec<f64> {
        let words = [self.hypothesis_words, self.reference_words];
        words.into_iter().chain(self.matched).chain(self.total).map(|count| count as f64).collect()
    }

    /// Makes statistics from sums of [`BleuStatistics::to_counts`].
    ///
    /// # Panics
    ///
    /// Panics when a count is missing.
    pub fn from_counts(counts: &[f64]) -> Self {
        let order = |first: usize| std::array::from_fn(|order| counts[first + order] as u64);
        Self {
            hypothesis_words: counts[0] as u64,
            reference_words: counts[1] as u64,
            matched: order(2),
            total: order(2 + MAX_ORDER),
        }
    }

    /// Adds the counts of `other`.
    pub fn add(&mut self, other: &Self) {
        self.hypothesis_words += other.hypothesis_words;
        self.reference_words += other.reference_words;
        for order in 0..MAX_ORDER {
            self.matched[order] += other.matched[order];
            self.total[order] += other.total[order];
        }
    }

    /// Returns 1, or less when the hypotheses are shorter than the references.
    fn brevity_penalty(&self) -> f64 {
        if self.hypothesis_words == 0 {
            0.0
        } else if self.hypothesis_words < self.reference_words {
            (1.0 - self.reference_words as f64 / self.hypothesis_words as f64).exp()
        } else {
            1.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_row_scores_over_the_orders_it_has() {
        let bleu = Bleu::default();
        assert!((bleu.sentence("Aloha kakou", "Aloha kakou") - 100.0).abs() < 1e-9);
        assert!(bleu.corpus([("Aloha kakou", "Aloha kakou")]).abs() < f64::EPSILON);
    }

    #[test]
    fn no_match_scores_zero_under_every_smoothing() {
        for smoothing in [Smoothing::None, Smoothing::Exp, Smoothing::Floor(0.1), Smoothing::AddK(1.0)] {
            let bleu = Bleu { smoothing, ..Bleu::default() };
            assert!(bleu.sentence("ae", "aole").abs() < f64::EPSILON);
            assert!(bleu.sentence("", "").abs() < f64::EPSILON);
        }
    }
}
