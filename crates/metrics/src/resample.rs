//! Paired bootstrap of many scores at once: every score is computed on the same draws.
//!
//! Rows that belong together, such as the paragraphs of one story, are not independent. Drawing whole groups instead of rows
//! gives them intervals that are not too narrow.

use rayon::prelude::*;

use crate::bootstrap::{Bootstrap, Interval, quantiles};
use crate::counts::Counts;
use crate::error::Error;
use crate::random::Stream;

/// Draws computed together, which bounds the memory for them.
const BLOCK: usize = 64;
/// Fewest groups that [`Units::auto`] draws.
const MIN_GROUPS: usize = 5;

/// Units of a draw: every row for itself, or groups of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Units {
    unit_of_row: Vec<usize>,
    count: usize,
}

impl Units {
    /// Draws every row for itself.
    pub fn rows(rows: usize) -> Self {
        Self { unit_of_row: (0..rows).collect(), count: rows }
    }

    /// Draws groups: rows with the same name belong together, a row without a name is a group of its own.
    pub fn groups<'a>(names: impl IntoIterator<Item = Option<&'a str>>) -> Self {
        let mut known = std::collections::BTreeMap::new();
        let (mut unit_of_row, mut count) = (Vec::new(), 0);
        for name in names {
            let unit = match name {
                Some(name) => *known.entry(name).or_insert(count),
                None => count,
            };
            count = count.max(unit + 1);
            unit_of_row.push(unit);
        }
        Self { unit_of_row, count }
    }

    /// Draws groups if there are at least five of them and one has two rows; otherwise rows.
    ///
    /// An interval over fewer groups would say more about the draws than about the rows.
    pub fn auto<'a>(names: impl IntoIterator<Item = Option<&'a str>>) -> Self {
        let groups = Self::groups(names);
        if groups.has_groups() && groups.len() >= MIN_GROUPS {
            groups
        } else {
            Self::rows(groups.unit_of_row.len())
        }
    }

    /// Returns the number of units.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Returns whether there is nothing to draw.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns whether some unit has more than one row.
    pub fn has_groups(&self) -> bool {
        self.count < self.unit_of_row.len()
    }
}

/// A score on the rows as they are, and on every draw.
#[derive(Debug, Clone, PartialEq)]
pub struct Distribution {
    value: f64,
    draws: Vec<f64>,
}

impl Distribution {
    /// Returns the difference to a score of the same draws.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let draws = self.draws.iter().zip(&other.draws).map(|(a, b)| a - b).collect();
        Self { value: self.value - other.value, draws }
    }

    /// Returns the score with its percentile interval.
    pub fn interval(&self, confidence: f64) -> Interval {
        let mut draws = self.draws.clone();
        draws.sort_unstable_by(f64::total_cmp);
        let [low, high] = quantiles(&draws, confidence);
        Interval { value: self.value, low, high }
    }
}

/// Draws the units with replacement and computes every score on the same draws, in the order of `counts`.
///
/// The result does not depend on the number of threads.
///
/// # Errors
///
/// Fails without rows, when a score has another number of rows than `units`, and on a setting out of range.
pub fn distributions(
    units: &Units,
    counts: &[&Counts],
    settings: &Bootstrap,
) -> Result<Vec<Distribution>, Error> {
    settings.check()?;
    if units.is_empty() {
        return Err(Error::NoRows);
    }
    if let Some(other) = counts.iter().find(|counts| counts.rows() != units.unit_of_row.len()) {
        return Err(Error::RowsDiffer { left: units.unit_of_row.len(), right: other.rows() });
    }
    let tables: Vec<_> =
        counts.iter().map(|counts| counts.by_unit(&units.unit_of_row, units.count)).collect();
    let mut all: Vec<Distribution> = counts
        .iter()
        .map(|counts| Distribution { value: counts.score(), draws: Vec::with_capacity(settings.resamples) })
        .collect();
    threads::start();
    let mut stream = Stream::new(settings.seed, "bootstrap");
    let mut left = settings.resamples;
    while left > 0 {
        let block: Vec<Vec<u32>> = (0..left.min(BLOCK)).map(|_| draw(units.count, &mut stream)).collect();
        left -= block.len();
        let values: Vec<Vec<f64>> = block
            .par_iter()
            .map_init(Vec::new, |sums, times| tables.iter().map(|table| table.score(times, sums)).collect())
            .collect();
        for row in values {
            all.iter_mut().zip(row).for_each(|(distribution, value)| distribution.draws.push(value));
        }
    }
    Ok(all)
}

/// Returns how often each of `units` occurs in one draw.
fn draw(units: usize, stream: &mut Stream) -> Vec<u32> {
    let mut times = vec![0; units];
    (0..units).for_each(|_| times[stream.below(units)] += 1);
    times
}

/// Rows on which one system is better than another, equal to it, or worse.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Rows on which it is better.
    pub wins: u64,
    /// Rows on which both are equal.
    pub ties: u64,
    /// Rows on which it is worse.
    pub losses: u64,
}

/// Compares two systems row by row; scores that differ by less than rounding are equal.
pub fn tally(scores: &[f64], against: &[f64], higher_is_better: bool) -> Tally {
    const ROUNDING: f64 = 1e-9;
    let mut tally = Tally::default();
    for (score, other) in scores.iter().zip(against) {
        let gain = if higher_is_better { score - other } else { other - score };
        if gain.abs() <= ROUNDING * score.abs().max(other.abs()).max(1.0) {
            tally.ties += 1;
        } else if gain > 0.0 {
            tally.wins += 1;
        } else {
            tally.losses += 1;
        }
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::interval;

    #[test]
    fn draws_equal_those_of_a_single_statistic() {
        let scores = [0.1, 0.7, 0.4, 0.9, 0.2];
        let settings = Bootstrap { resamples: 500, ..Bootstrap::default() };
        let mean = |rows: &[usize]| rows.iter().map(|&row| scores[row]).sum::<f64>() / rows.len() as f64;
        let single = interval(5, &settings, mean).expect("five rows");
        let counts = Counts::of_scores(&scores);
        let many = distributions(&Units::rows(5), &[&counts], &settings).expect("five rows");
        let ours = many[0].interval(settings.confidence);
        let close = |a: f64, b: f64| (a - b).abs() < 1e-12;
        assert!(
            close(single.value, ours.value) && close(single.low, ours.low) && close(single.high, ours.high)
        );
    }

    #[test]
    fn groups_widen_the_interval_of_rows_that_agree_within_them() {
        // Ten groups of ten equal rows: only ten independent values.
        let scores: Vec<f64> = (0..100).map(|row| f64::from(row / 10)).collect();
        let names: Vec<String> = (0..100).map(|row| format!("g{}", row / 10)).collect();
        let groups = Units::groups(names.iter().map(|name| Some(name.as_str())));
        assert_eq!((groups.len(), groups.has_groups()), (10, true));
        let counts = Counts::of_scores(&scores);
        let width = |units: &Units| {
            let settings = Bootstrap::default();
            let found = distributions(units, &[&counts], &settings).expect("rows");
            let interval = found[0].interval(settings.confidence);
            interval.high - interval.low
        };
        let ratio = width(&groups) / width(&Units::rows(100));
        assert!((ratio - 10f64.sqrt()).abs() < 0.2, "{ratio}");
    }

    #[test]
    fn rows_without_a_group_are_drawn_alone() {
        let units = Units::groups([Some("a"), None, Some("a"), None]);
        assert_eq!(units.unit_of_row, [0, 1, 0, 2]);
        assert!(!Units::groups([None, None]).has_groups());
    }

    #[test]
    fn scores_of_other_rows_are_refused() {
        let counts = Counts::of_scores(&[1.0]);
        let settings = Bootstrap::default();
        let differ = Error::RowsDiffer { left: 2, right: 1 };
        assert_eq!(distributions(&Units::rows(2), &[&counts], &settings), Err(differ));
        assert_eq!(distributions(&Units::rows(0), &[], &settings), Err(Error::NoRows));
    }

    #[test]
    fn rounding_is_a_tie_and_the_direction_counts() {
        let expected = Tally { wins: 1, ties: 1, losses: 1 };
        assert_eq!(tally(&[1.0, 2.0 + 1e-12, 3.0], &[2.0, 2.0, 1.0], true), expected);
        assert_eq!(tally(&[1.0, 5.0], &[2.0, 6.0], false), Tally { wins: 2, ..Tally::default() });
    }
}
