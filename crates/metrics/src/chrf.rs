//! chrF and chrF++: F-score of character (and word) n-grams.
//!
//! Popović 2015 (chrF) and 2017 (chrF++). Precision and recall are averaged over the orders that occur on both
//! sides, then combined, with recall weighted `beta`² times as much. Case matters, white space does not. One reference
//! per row.

use crate::ngrams::{Characters, matches, of_words};
use crate::text::{self, SACREBLEU};

/// Settings of a chrF score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Chrf {
    /// Longest character n-gram.
    pub character_order: usize,
    /// Longest word n-gram; 0 for characters only.
    pub word_order: usize,
    /// Weight of recall relative to precision.
    pub beta: f64,
}

/// Counts of one or more rows; counts of rows add up to those of the corpus.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChrfStatistics {
    orders: Vec<OrderCounts>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct OrderCounts {
    hypothesis: u64,
    reference: u64,
    matched: u64,
}

impl Chrf {
    /// chrF: characters up to 6, beta 2.
    pub const CHRF: Self = Self { character_order: 6, word_order: 0, beta: 2.0 };
    /// chrF++: chrF with words up to 2.
    pub const CHRF_PLUS_PLUS: Self = Self { character_order: 6, word_order: 2, beta: 2.0 };

    /// Counts the n-grams of one row.
    pub fn statistics(&self, hypothesis: &str, reference: &str) -> ChrfStatistics {
        let mut orders = Vec::with_capacity(self.character_order + self.word_order);
        let left = Characters::new(hypothesis);
        let right = Characters::new(reference);
        for order in 1..=self.character_order {
            orders.push(OrderCounts::of(&mut left.ngrams(order), &mut right.ngrams(order)));
        }
        if self.word_order > 0 {
            let left = words(hypothesis);
            let right = words(reference);
            for order in 1..=self.word_order {
                orders.push(OrderCounts::of(&mut of_words(&left, order), &mut of_words(&right, order)));
            }
        }
        ChrfStatistics { orders }
    }

    /// Returns the score from counts, from 0 to 100.
    pub fn score(&self, statistics: &ChrfStatistics) -> f64 {
        self.score_of_counts(&statistics.to_counts())
    }

    /// Returns the score from sums of [`ChrfStatistics::to_counts`], from 0 to 100.
    pub(crate) fn score_of_counts(&self, counts: &[f64]) -> f64 {
        let (mut precision, mut recall, mut counted) = (0.0, 0.0, 0u32);
        for order in counts.chunks_exact(3) {
            let (hypothesis, reference, matched) = (order[0], order[1], order[2]);
            if hypothesis > 0.0 && reference > 0.0 {
                precision += matched / hypothesis;
                recall += matched / reference;
                counted += 1;
            }
        }
        if counted == 0 || precision + recall == 0.0 {
            return 0.0;
        }
        precision /= f64::from(counted);
        recall /= f64::from(counted);
        let factor = self.beta * self.beta;
        100.0 * ((1.0 + factor) * precision * recall / (factor * precision + recall))
    }

    /// Returns sacreBLEU's signature.
    pub fn signature(&self) -> String {
        let (characters, words) = (self.character_order, self.word_order);
        format!("nrefs:1|case:mixed|eff:yes|nc:{characters}|nw:{words}|space:no|version:{SACREBLEU}")
    }

    /// Returns the score of one row, from 0 to 100.
    pub fn sentence(&self, hypothesis: &str, reference: &str) -> f64 {
        self.score(&self.statistics(hypothesis, reference))
    }

    /// Returns the score of (hypothesis, reference) rows, from 0 to 100; 0 without rows.
    ///
    /// The counts of all rows are added first, so this is not the mean of the rows' scores.
    pub fn corpus<'a>(&self, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> f64 {
        let mut total = ChrfStatistics::default();
        for (hypothesis, reference) in pairs {
            total.add(&self.statistics(hypothesis, reference));
        }
        self.score(&total)
    }
}

impl ChrfStatistics {
    /// Returns the counts as numbers: n-grams of the hypothesis, of the reference, and matches, by order.
    pub fn to_counts(&self) -> Vec<f64> {
        let orders = self.orders.iter();
        orders
            .flat_map(|order| [order.hypothesis, order.reference, order.matched])
            .map(|n| n as f64)
            .collect()
    }

    /// Adds the counts of `other`; both must come from the same [`Chrf`].
    pub fn add(&mut self, other: &Self) {
        if self.orders.len() < other.orders.len() {
            self.orders.resize(other.orders.len(), OrderCounts::default());
        }
        for (sum, part) in self.orders.iter_mut().zip(&other.orders) {
            sum.hypothesis += part.hypothesis;
            sum.reference += part.reference;
            sum.matched += part.matched;
        }
    }
}

impl OrderCounts {
    /// Counts one order. If the reference has no n-grams of the order, those of the hypothesis are ignored.
    fn of<T: Ord>(hypothesis: &mut [T], reference: &mut [T]) -> Self {
        Self {
            hypothesis: if reference.is_empty() { 0 } else { hypothesis.len() as u64 },
            reference: reference.len() as u64,
            matched: matches(hypothesis, reference),
        }
    }
}

/// Splits text into words, and one punctuation mark off each: the last character if it is one, else the first.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    for word in text::words(text) {
        let first = word.chars().next().map_or(0, char::len_utf8);
        let last = word.len() - word.chars().next_back().map_or(0, char::len_utf8);
        if first == word.len() {
            words.push(word);
        } else if is_punctuation(&word[last..]) {
            words.extend([&word[..last], &word[last..]]);
        } else if is_punctuation(&word[..first]) {
            words.extend([&word[..first], &word[first..]]);
        } else {
            words.push(word);
        }
    }
    words
}

fn is_punctuation(character: &str) -> bool {
    character.len() == 1 && character.as_bytes()[0].is_ascii_punctuation()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bracketed_word_loses_only_its_last_mark() {
        assert_eq!(words("(hi) «e» ! 'a ʻae."), ["(hi", ")", "«e»", "!", "'", "a", "ʻae", "."]);
    }

    #[test]
    fn white_space_does_not_change_chrf() {
        assert!((Chrf::CHRF.sentence("Ua hele\u{a0}ia", "Uahele ia") - 100.0).abs() < 1e-12);
    }

    #[test]
    fn nothing_against_nothing_is_zero() {
        assert!(Chrf::CHRF.sentence("", "").abs() < f64::EPSILON);
        assert!(Chrf::CHRF_PLUS_PLUS.corpus([]).abs() < f64::EPSILON);
    }
}
