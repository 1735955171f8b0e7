//! Counting rows for `stats.json`.

use std::collections::{BTreeMap, HashSet};

use dataset::{Names, StoredRow};
use outputs::{Lengths, SplitStats, Tally};

/// Number of examples in a tally.
const EXAMPLES: usize = 20;
/// Splits with more groups than this do not list them.
const LISTED_GROUPS: usize = 1000;

/// Counts one more row and keeps `example` if it is among the first.
pub(crate) fn tally(tally: &mut Tally, example: impl FnOnce() -> String) {
    tally.count += 1;
    if tally.examples.len() < EXAMPLES {
        tally.examples.push(example());
    }
}

/// Adds up the rows of a split.
#[derive(Debug, Default)]
pub(crate) struct SplitCounter {
    pub(crate) stats: SplitStats,
    /// Number of rows of each length.
    lengths: BTreeMap<u64, u64>,
    /// Hashes of the content of the rows so far.
    seen: HashSet<u64>,
    groups: Names,
    /// Number of rows of each group, by the group's number.
    group_rows: Vec<u32>,
}

impl SplitCounter {
    pub(crate) fn add(&mut self, row: &StoredRow, content: u64, tokens: usize, targets: usize) {
        if !self.seen.insert(content) {
            tally(&mut self.stats.duplicates, || format!("{} ({})", row.id, row.source));
        }
        self.stats.rows += 1;
        self.stats.tokens += tokens as u64;
        self.stats.trained_tokens += targets as u64;
        *self.lengths.entry(tokens as u64).or_default() += 1;
        if let Some(group) = &row.group {
            let number = self.groups.number(group) as usize;
            self.group_rows.resize(self.groups.len(), 0);
            self.group_rows[number] += 1;
        }
    }

    /// Returns the statistics, with the names of the groups if `list_groups`.
    pub(crate) fn finish(self, list_groups: bool) -> SplitStats {
        let groups = self.groups.len();
        let listed = if list_groups && groups <= LISTED_GROUPS { groups as u32 } else { 0 };
        let group_rows = (0..listed)
            .map(|number| (self.groups.get(number).to_owned(), u64::from(self.group_rows[number as usize])))
            .collect();
        SplitStats { length: lengths(&self.lengths), groups: groups as u64, group_rows, ..self.stats }
    }
}

/// Returns the percentiles of the row lengths in `histogram`, which has the number of rows of each length.
fn lengths(histogram: &BTreeMap<u64, u64>) -> Lengths {
    let rows: u64 = histogram.values().sum();
    let tokens: u64 = histogram.iter().map(|(length, count)| length * count).sum();
    let percentile = |percent: u64| {
        let mut rows_so_far = 0;
        for (&length, count) in histogram {
            rows_so_far += count;
            if rows_so_far * 100 >= rows * percent {
                return length;
            }
        }
        0
    };
    Lengths {
        min: histogram.keys().next().copied().unwrap_or(0),
        mean: if rows == 0 { 0.0 } else { (tokens as f64 / rows as f64 * 10.0).round() / 10.0 },
        p50: percentile(50),
        p90: percentile(90),
        p95: percentile(95),
        p99: percentile(99),
        max: histogram.keys().next_back().copied().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_lengths_that_occur() {
        let found = lengths(&(1..=100).map(|length| (length * 10, 1)).collect());
        let expected = Lengths { min: 10, mean: 505.0, p50: 500, p90: 900, p95: 950, p99: 990, max: 1000 };
        assert_eq!(found, expected);
        assert_eq!(lengths(&BTreeMap::new()), Lengths::default());
        assert_eq!(lengths(&BTreeMap::from([(7, 3)])).p50, 7);
    }
}
