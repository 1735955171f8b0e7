//! Counts per row whose sums decide a score, which is what a bootstrap needs to draw rows quickly.

use crate::bleu::{Bleu, BleuStatistics};
use crate::chrf::Chrf;

/// Counts of every row for one metric of one system, the score of every row, and how sums of counts become a score.
#[derive(Debug, Clone, PartialEq)]
pub struct Counts {
    width: usize,
    values: Vec<f64>,
    row_scores: Vec<f64>,
    formula: Formula,
}

/// Formula that turns sums of counts into a score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Formula {
    /// BLEU: words of both sides, matches and totals by order.
    Bleu(Bleu),
    /// chrF: three counts per order.
    Chrf(Chrf),
    /// The first count divided by the second, times a factor; `empty` where the second is 0 and the first is not.
    Ratio {
        /// The factor.
        factor: f64,
        /// Score without a denominator.
        empty: f64,
    },
    /// e to the first count divided by the second.
    Perplexity,
    /// Mean F1 in percent over labels with a reference; three counts per label: right, predicted, expected.
    MacroF1,
}

impl Formula {
    /// A ratio without a factor.
    pub const MEAN: Self = Self::Ratio { factor: 1.0, empty: 0.0 };
    /// A ratio in percent.
    pub const PERCENT: Self = Self::Ratio { factor: 100.0, empty: 0.0 };

    /// Returns the score of sums of counts.
    pub fn score(&self, sums: &[f64]) -> f64 {
        match self {
            Self::Bleu(bleu) => bleu.score(&BleuStatistics::from_counts(sums)),
            Self::Chrf(chrf) => chrf.score_of_counts(sums),
            Self::Ratio { factor, .. } if sums[1] > 0.0 => factor * (sums[0] / sums[1]),
            Self::Ratio { empty, .. } => {
                if sums[0] > 0.0 {
                    *empty
                } else {
                    0.0
                }
            }
            Self::Perplexity => (sums[0] / sums[1].max(1.0)).exp(),
            Self::MacroF1 => macro_f1(sums),
        }
    }
}

/// Returns the mean F1 in percent over the labels that are expected at least once.
fn macro_f1(sums: &[f64]) -> f64 {
    let expected = sums.chunks_exact(3).filter(|label| label[2] > 0.0);
    let (mut total, mut labels) = (0.0, 0u32);
    for label in expected {
        total += 2.0 * label[0] / (label[1] + label[2]);
        labels += 1;
    }
    if labels == 0 { 0.0 } else { 100.0 * total / f64::from(labels) }
}

impl Counts {
    /// Makes counts from those of every row.
    ///
    /// # Panics
    ///
    /// Panics when the rows do not have the same number of counts.
    pub fn new(formula: Formula, rows: &[Vec<f64>], row_scores: Vec<f64>) -> Self {
        let width = rows.first().map_or(0, Vec::len);
        assert!(rows.iter().all(|row| row.len() == width), "every row has the same counts");
        assert_eq!(rows.len(), row_scores.len(), "every row has a score");
        Self { width, values: rows.concat(), row_scores, formula }
    }

    /// Makes counts from one score per row, whose mean is the score.
    pub fn of_scores(scores: &[f64]) -> Self {
        let rows: Vec<Vec<f64>> = scores.iter().map(|score| vec![*score, 1.0]).collect();
        Self::new(Formula::MEAN, &rows, scores.to_vec())
    }

    /// Makes counts from a ratio of two counts per row.
    pub fn of_ratios(formula: Formula, rows: &[[f64; 2]]) -> Self {
        let scores = rows.iter().map(|row| formula.score(row)).collect();
        let rows: Vec<Vec<f64>> = rows.iter().map(|row| row.to_vec()).collect();
        Self::new(formula, &rows, scores)
    }

    /// Returns the number of rows.
    pub fn rows(&self) -> usize {
        self.row_scores.len()
    }

    /// Returns the score of every row.
    pub fn row_scores(&self) -> &[f64] {
        &self.row_scores
    }

    /// Returns the score of all rows.
    pub fn score(&self) -> f64 {
        let mut sums = vec![0.0; self.width];
        for row in self.values.chunks_exact(self.width.max(1)) {
            add(&mut sums, row, 1.0);
        }
        if sums.is_empty() { 0.0 } else { self.formula.score(&sums) }
    }

    /// Returns the counts of some of the rows.
    #[must_use]
    pub fn select(&self, rows: &[usize]) -> Self {
        let row = |&row: &usize| self.values[row * self.width..(row + 1) * self.width].to_vec();
        let rows_of: Vec<Vec<f64>> = rows.iter().map(row).collect();
        Self::new(self.formula, &rows_of, rows.iter().map(|&row| self.row_scores[row]).collect())
    }

    /// Returns the sums of counts of every unit; `unit_of_row` gives the unit of each row.
    pub(crate) fn by_unit(&self, unit_of_row: &[usize], units: usize) -> UnitCounts {
        let mut values = vec![0.0; units * self.width];
        for (row, &unit) in self.values.chunks_exact(self.width.max(1)).zip(unit_of_row) {
            add(&mut values[unit * self.width..(unit + 1) * self.width], row, 1.0);
        }
        UnitCounts { width: self.width, values, formula: self.formula }
    }
}

/// Counts of the units that a bootstrap draws.
#[derive(Debug)]
pub(crate) struct UnitCounts {
    width: usize,
    values: Vec<f64>,
    formula: Formula,
}

impl UnitCounts {
    /// Returns the score when unit `i` occurs `times[i]` times; `sums` is scratch space.
    pub(crate) fn score(&self, times: &[u32], sums: &mut Vec<f64>) -> f64 {
        sums.clear();
        sums.resize(self.width, 0.0);
        for (row, &times) in self.values.chunks_exact(self.width).zip(times) {
            if times > 0 {
                add(sums, row, f64::from(times));
            }
        }
        self.formula.score(sums)
    }
}

fn add(sums: &mut [f64], row: &[f64], times: f64) {
    for (sum, value) in sums.iter_mut().zip(row) {
        *sum += times * value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f1_is_that_of_the_labels_that_are_expected() {
        // Two labels are right half of the time; the third is predicted, but never expected.
        let sums = [1.0, 2.0, 2.0, 1.0, 1.0, 2.0, 0.0, 1.0, 0.0];
        assert!((macro_f1(&sums) - 100.0 * f64::midpoint(0.5, 2.0 / 3.0)).abs() < 1e-12);
        assert!(macro_f1(&[]).abs() < f64::EPSILON);
    }

    #[test]
    fn selected_rows_score_as_alone() {
        let all = Counts::of_scores(&[1.0, 2.0, 6.0]);
        assert!((all.score() - 3.0).abs() < 1e-12);
        assert!((all.select(&[1, 2]).score() - 4.0).abs() < 1e-12);
        assert_eq!(all.select(&[2]).row_scores(), [6.0]);
    }
}
