//! Splits: which rows train, which validate, which test.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::order::permutation;

/// One of the three splits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SplitName {
    /// Rows a model learns from.
    Train,
    /// Rows that choose among checkpoints.
    Validation,
    /// Rows that measure the chosen one.
    Test,
}

impl SplitName {
    /// All three, in the order in which they are written.
    pub const ALL: [Self; 3] = [Self::Train, Self::Validation, Self::Test];

    /// Returns the name used for files and settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

/// Shares of the rows; what is left trains.
#[derive(Clone, Copy, Debug)]
pub struct Shares {
    /// Share for validation, 0 to 1.
    pub validation: f64,
    /// Share for test, 0 to 1.
    pub test: f64,
    /// Seed of the order in which rows or groups are dealt out.
    pub seed: u64,
}

/// Deals out `rows` rows one by one.
///
/// Rows are put into a pinned order; the first ones test, the next ones validate, the rest trains. Shares are rounded
/// to the nearest row.
pub fn by_ratio(rows: usize, shares: &Shares) -> Vec<SplitName> {
    let test = target(rows, shares.test).min(rows);
    let validation = target(rows, shares.validation).min(rows - test);
    let mut splits = vec![SplitName::Train; rows];
    for (place, row) in permutation(shares.seed, "split", 0, rows).into_iter().enumerate() {
        if place < test {
            splits[row as usize] = SplitName::Test;
        } else if place < test + validation {
            splits[row as usize] = SplitName::Validation;
        }
    }
    splits
}

/// Deals out whole groups: rows with the same group are on the same side, whatever the shares.
///
/// Groups in the order of their names are put into a pinned order and go, one after another, to test as long as its
/// share is not exceeded, else to validation under the same condition, else to train. A share above zero for which
/// every group is too large gets the smallest one. Returns the split of each group.
///
/// # Errors
///
/// Fails when there are fewer groups than splits with a share.
pub fn by_group(sizes: &BTreeMap<String, usize>, shares: &Shares) -> Result<BTreeMap<String, SplitName>> {
    let rows: usize = sizes.values().sum();
    let wanted: Vec<(SplitName, usize)> =
        [(SplitName::Test, shares.test), (SplitName::Validation, shares.validation)]
            .into_iter()
            .filter(|&(_, share)| share > 0.0)
            .map(|(split, share)| (split, target(rows, share).max(1)))
            .collect();
    if sizes.len() <= wanted.len() {
        return Err(Error::Rows {
            reason: format!("{} groups cannot fill {} splits", sizes.len(), wanted.len() + 1),
            hint: "group by a finer field, or split by `ratio`".into(),
        });
    }
    let names: Vec<(&String, usize)> = sizes.iter().map(|(name, &size)| (name, size)).collect();
    let order = permutation(shares.seed, "split", 0, names.len());
    let mut filled = BTreeMap::<SplitName, usize>::new();
    let mut splits = BTreeMap::new();
    for index in order {
        let (name, size) = names[index as usize];
        let fits =
            |&&(split, target): &&(SplitName, usize)| filled.get(&split).unwrap_or(&0) + size <= target;
        let split = wanted.iter().find(fits).map_or(SplitName::Train, |&(split, _)| split);
        *filled.entry(split).or_default() += size;
        splits.insert(name.clone(), split);
    }
    for (split, _) in wanted {
        if !filled.contains_key(&split) {
            let training = names.iter().filter(|(name, _)| splits[*name] == SplitName::Train);
            let (name, _) = training
                .min_by_key(|&&(name, size)| (size, name))
                .expect("there are more groups than splits");
            splits.insert((*name).clone(), split);
        }
    }
    Ok(splits)
}

/// Chooses at most `limit` of `rows` rows: a pinned sample, in the order of the rows.
pub fn sample(rows: usize, limit: usize, split: SplitName, seed: u64) -> Vec<u32> {
    let mut chosen = permutation(seed, &format!("sample-{}", split.as_str()), 0, rows);
    chosen.truncate(limit);
    chosen.sort_unstable();
    chosen
}

fn target(rows: usize, share: f64) -> usize {
    (rows as f64 * share).round() as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn count(splits: impl IntoIterator<Item = SplitName>) -> [usize; 3] {
        let mut counts = [0; 3];
        splits.into_iter().for_each(|split| counts[split as usize] += 1);
        counts
    }

    #[test]
    fn ratios_are_met_to_the_row() {
        let shares = Shares { validation: 0.1, test: 0.2, seed: 1 };
        assert_eq!(count(by_ratio(1000, &shares)), [700, 100, 200]);
        assert_eq!(by_ratio(1000, &shares), by_ratio(1000, &shares));
        assert_ne!(by_ratio(1000, &shares), by_ratio(1000, &Shares { seed: 2, ..shares }));
        assert_eq!(count(by_ratio(3, &Shares { validation: 0.5, test: 0.5, seed: 0 })), [0, 1, 2]);
    }

    #[test]
    fn a_group_too_large_for_any_share_still_fills_it() {
        let sizes = BTreeMap::from([("a".to_owned(), 50), ("b".to_owned(), 40), ("c".to_owned(), 60)]);
        let splits = by_group(&sizes, &Shares { validation: 0.1, test: 0.1, seed: 0 }).unwrap();
        assert_eq!(count(splits.values().copied()), [1, 1, 1]);
        assert_eq!((splits["b"], splits["a"]), (SplitName::Test, SplitName::Validation));
        let two = BTreeMap::from([("a".to_owned(), 50), ("b".to_owned(), 40)]);
        assert!(by_group(&two, &Shares { validation: 0.1, test: 0.1, seed: 0 }).is_err());
    }

    proptest! {
        #[test]
        fn shares_are_never_exceeded_when_groups_are_small(
            sizes in proptest::collection::vec(1usize..5, 60..90), seed: u64,
        ) {
            let sizes: BTreeMap<String, usize> =
                sizes.into_iter().enumerate().map(|(index, size)| (format!("g{index}"), size)).collect();
            let rows: usize = sizes.values().sum();
            let splits = by_group(&sizes, &Shares { validation: 0.1, test: 0.1, seed }).unwrap();
            prop_assert_eq!(splits.len(), sizes.len());
            for split in [SplitName::Validation, SplitName::Test] {
                let size: usize = splits.iter().filter(|(_, s)| **s == split).map(|(name, _)| sizes[name]).sum();
                prop_assert!(size > 0 && size <= target(rows, 0.1) && size + 4 > target(rows, 0.1));
            }
        }

        #[test]
        fn a_sample_is_sorted_and_has_no_row_twice(rows in 0usize..200, limit in 0usize..200, seed: u64) {
            let chosen = sample(rows, limit, SplitName::Train, seed);
            prop_assert_eq!(chosen.len(), rows.min(limit));
            prop_assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
}
