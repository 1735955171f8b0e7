//! What was kept, left out and found, as written to `stats.json`.

use std::collections::BTreeMap;

use dataset::Names;
use dataset::leak::Leak;
use serde::Serialize;

/// Examples listed of each kind.
const EXAMPLES: usize = 20;

/// Counts rows of one kind and lists the first of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// How many there are.
    pub count: u64,
    /// The first of them, with their places.
    pub examples: Vec<String>,
}

impl Tally {
    pub(crate) fn add(&mut self, example: impl FnOnce() -> String) {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(example());
        }
    }
}

/// Statistics of a dataset.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Stats {
    /// Rows in the files, those that cannot be used included.
    pub rows_read: u64,
    /// Rows that cannot be used, left out with `on_bad_row = "skip"`.
    pub bad_rows: Tally,
    /// Rows that do not meet the conditions.
    pub filtered_rows: u64,
    /// Rows held out of training and validation.
    pub held_out_rows: u64,
    /// Usable rows that a limit of `max_rows` left out.
    pub not_sampled_rows: u64,
    /// By name of the split.
    pub splits: BTreeMap<&'static str, SplitStats>,
    /// What the leak check found.
    pub leaks: LeakReport,
}

/// Statistics of one split.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct SplitStats {
    /// Rows in it.
    pub rows: u64,
    /// Tokens in it.
    pub tokens: u64,
    /// Targets that count.
    pub trained_tokens: u64,
    /// Tokens a row.
    pub length: Lengths,
    /// Rows whose end was cut off.
    pub truncated: Tally,
    /// Rows left out because they are too long.
    pub too_long: Tally,
    /// Rows left out because no token of theirs is a target.
    pub no_target: Tally,
    /// Rows whose prompt, as a model is asked, is not how the row begins in tokens.
    pub prompt_not_prefix: Tally,
    /// Groups with rows in this split.
    pub groups: u64,
    /// The groups of validation and test with their rows, if there are not more than a thousand.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub group_rows: BTreeMap<String, u64>,
    /// The parts of a mixture with their training rows.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub part_rows: BTreeMap<String, u64>,
}

/// Percentiles of the tokens a row: the smallest length that so many percent of the rows do not exceed.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Lengths {
    /// Shortest row.
    pub min: u64,
    /// Mean, to one digit.
    pub mean: f64,
    /// Half of the rows are not longer.
    pub p50: u64,
    /// Nine of ten rows are not longer.
    pub p90: u64,
    /// 95 of 100 rows are not longer.
    pub p95: u64,
    /// 99 of 100 rows are not longer.
    pub p99: u64,
    /// Longest row.
    pub max: u64,
}

/// Adds up the rows of a split.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    pub(crate) stats: SplitStats,
    lengths: BTreeMap<u64, u64>,
    groups: Names,
    /// Rows of each group, by its number.
    group_rows: Vec<u32>,
}

/// A split with more groups than this does not list them.
const LISTED_GROUPS: usize = 1000;

impl Counter {
    pub(crate) fn add(&mut self, tokens: usize, trained_tokens: usize, group: Option<&str>) {
        self.stats.rows += 1;
        self.stats.tokens += tokens as u64;
        self.stats.trained_tokens += trained_tokens as u64;
        *self.lengths.entry(tokens as u64).or_default() += 1;
        if let Some(group) = group {
            let number = self.groups.number(group) as usize;
            self.group_rows.resize(self.groups.len(), 0);
            self.group_rows[number] += 1;
        }
    }

    /// Returns the sums; the groups by name only if `list_groups`.
    pub(crate) fn finish(self, list_groups: bool) -> SplitStats {
        let (length, groups) = (Lengths::of(&self.lengths), self.groups.len());
        let listed = if list_groups && groups <= LISTED_GROUPS { groups } else { 0 };
        let rows_of = |number: u32| u64::from(self.group_rows[number as usize]);
        let group_rows =
            (0..listed as u32).map(|number| (self.groups.get(number).to_owned(), rows_of(number))).collect();
        SplitStats { length, groups: groups as u64, group_rows, ..self.stats }
    }
}

impl Lengths {
    /// Computes percentiles from how often each length occurs.
    pub(crate) fn of(histogram: &BTreeMap<u64, u64>) -> Self {
        let rows: u64 = histogram.values().sum();
        let tokens: u64 = histogram.iter().map(|(length, count)| length * count).sum();
        let percentile = |percent: u64| {
            let mut below = 0;
            let reaches = |&(_, count): &(&u64, &u64)| {
                below += count;
                below * 100 >= rows * percent
            };
            histogram.iter().find(reaches).map_or(0, |(&length, _)| length)
        };
        Self {
            min: histogram.keys().next().copied().unwrap_or(0),
            mean: if rows == 0 { 0.0 } else { (tokens as f64 / rows as f64 * 10.0).round() / 10.0 },
            p50: percentile(50),
            p90: percentile(90),
            p95: percentile(95),
            p99: percentile(99),
            max: histogram.keys().next_back().copied().unwrap_or(0),
        }
    }
}

/// What the leak check found.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LeakReport {
    /// Rows of validation and test, and held-out rows, that were compared with training rows.
    pub checked_rows: u64,
    /// How many of them occur in training rows.
    pub count: u64,
    /// The first hundred, in the order of the rows.
    pub rows: Vec<Leak>,
    /// How many still do after `on_leak = "drop"`, as only several training rows together have their text.
    pub remaining: u64,
    /// Training rows that were left out for it.
    pub dropped_train_rows: Tally,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_lengths_that_occur() {
        let lengths = Lengths::of(&(1..=100).map(|length| (length * 10, 1)).collect());
        let expected = Lengths { min: 10, mean: 505.0, p50: 500, p90: 900, p95: 950, p99: 990, max: 1000 };
        assert_eq!(lengths, expected);
        assert_eq!(Lengths::of(&BTreeMap::new()), Lengths::default());
        assert_eq!(Lengths::of(&BTreeMap::from([(7, 3)])).p50, 7);
    }
}
