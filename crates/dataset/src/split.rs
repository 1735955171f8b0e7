//! Assigning rows to the training, validation and test splits.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::names::Names;
use crate::order::permutation;

/// One of the three splits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SplitName {
    /// Rows that a model learns from.
    Train,
    /// Rows that choose among checkpoints.
    Validation,
    /// Rows that measure the chosen checkpoint.
    Test,
}

impl SplitName {
    /// All splits, in the order in which they are written.
    pub const ALL: [Self; 3] = [Self::Train, Self::Validation, Self::Test];

    /// Returns the name used in files and settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

/// Shares of the rows. The other rows train.
#[derive(Clone, Copy, Debug)]
pub struct Shares {
    /// Share for validation, 0 to 1.
    pub validation: f64,
    /// Share for test, 0 to 1.
    pub test: f64,
    /// Seed of the order in which rows or groups are assigned.
    pub seed: u64,
}

/// Returns the split of each of `rows` rows.
///
/// Rows are shuffled with the seed; the first ones test, the next ones validate, the others train. Shares are rounded to
/// the nearest row.
pub fn by_ratio(rows: usize, shares: &Shares) -> Vec<SplitName> {
    let test = quota(rows, shares.test).min(rows);
    let validation = quota(rows, shares.validation).min(rows - test);
    let mut splits = vec![SplitName::Train; rows];
    for (position, row) in permutation(shares.seed, "split", 0, rows).into_iter().enumerate() {
        if position < test {
            splits[row as usize] = SplitName::Test;
        } else if position < test + validation {
            splits[row as usize] = SplitName::Validation;
        }
    }
    splits
}

/// Returns the split of each group, by the group's number. All rows of a group are in one split, whatever the shares.
///
/// `sizes` has the number of rows of each of the `groups`; groups without rows are ignored. The groups are sorted by name
/// and shuffled with the seed. One after another, each goes to test if test's share is not exceeded, otherwise to
/// validation under the same condition, otherwise to train. A group stays for every split that has none yet, however large
/// the shares. If every group is too large for a share above zero, the smallest group gets it.
///
/// # Errors
///
/// Fails when there are fewer groups than splits with a share.
pub fn by_group(groups: &Names, sizes: &[u32], shares: &Shares) -> Result<Vec<SplitName>> {
    let rows: usize = sizes.iter().map(|&size| size as usize).sum();
    let wanted: Vec<(SplitName, usize)> =
        [(SplitName::Test, shares.test), (SplitName::Validation, shares.validation)]
            .into_iter()
            .filter(|&(_, share)| share > 0.0)
            .map(|(split, share)| (split, quota(rows, share).max(1)))
            .collect();
    let mut numbers: Vec<u32> =
        (0..sizes.len() as u32).filter(|&number| sizes[number as usize] > 0).collect();
    if numbers.len() <= wanted.len() {
        return Err(Error::Rows {
            reason: format!("{} groups are too few for {} splits", numbers.len(), wanted.len() + 1),
            hint: "group by a finer field with `group_fields`, or set `split.by = \"ratio\"`".into(),
        });
    }
    numbers.sort_unstable_by_key(|&number| groups.get(number));
    let mut filled = BTreeMap::<SplitName, usize>::new();
    let mut splits = vec![SplitName::Train; sizes.len()];
    // Groups that train or are still to be assigned.
    let mut left = numbers.len();
    for index in permutation(shares.seed, "split", 0, numbers.len()) {
        let number = numbers[index as usize] as usize;
        let size = sizes[number] as usize;
        let fits = |&&(split, quota): &&(SplitName, usize)| {
            let empty = wanted.iter().filter(|(other, _)| *other != split && !filled.contains_key(other));
            filled.get(&split).unwrap_or(&0) + size <= quota && left > empty.count() + 1
        };
        let split = wanted.iter().find(fits).map_or(SplitName::Train, |&(split, _)| split);
        left -= usize::from(split != SplitName::Train);
        *filled.entry(split).or_default() += size;
        splits[number] = split;
    }
    for (split, _) in wanted {
        if !filled.contains_key(&split) {
            let training = numbers.iter().filter(|&&number| splits[number as usize] == SplitName::Train);
            let smallest = training
                .min_by_key(|&&number| (sizes[number as usize], groups.get(number)))
                .expect("a group is left for every split");
            splits[*smallest as usize] = split;
        }
    }
    Ok(splits)
}

/// Returns a sample of at most `limit` of `rows` rows, which depends only on the arguments; sorted.
pub fn sample(rows: usize, limit: usize, split: SplitName, seed: u64) -> Vec<u32> {
    let mut chosen = permutation(seed, &format!("sample-{}", split.as_str()), 0, rows);
    chosen.truncate(limit);
    chosen.sort_unstable();
    chosen
}

/// Returns the number of rows for a share.
fn quota(rows: usize, share: f64) -> usize {
    (rows as f64 * share).round() as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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

    fn groups(sizes: &[(&str, u32)]) -> (Names, Vec<u32>) {
        let mut names = Names::default();
        let numbers: Vec<u32> = sizes.iter().map(|(name, _)| names.number(name)).collect();
        assert_eq!(numbers, (0..sizes.len() as u32).collect::<Vec<_>>());
        (names, sizes.iter().map(|&(_, size)| size).collect())
    }

    #[test]
    fn a_group_too_large_for_any_share_still_fills_it() {
        let (names, sizes) = groups(&[("c", 60), ("a", 50), ("b", 40)]);
        let shares = Shares { validation: 0.1, test: 0.1, seed: 0 };
        let splits = by_group(&names, &sizes, &shares).unwrap();
        assert_eq!(splits, [SplitName::Train, SplitName::Validation, SplitName::Test]);
        let (names, sizes) = groups(&[("a", 50), ("b", 40)]);
        assert!(by_group(&names, &sizes, &shares).is_err());
        let (names, sizes) = groups(&[("a", 50), ("b", 40), ("empty", 0)]);
        assert!(by_group(&names, &sizes, &shares).is_err(), "a group without rows fills nothing");
    }

    #[test]
    fn large_shares_leave_a_group_for_every_split() {
        let (names, sizes) = groups(&[("a", 1), ("b", 1), ("c", 1)]);
        for (validation, test) in [(0.05, 0.9), (0.9, 0.05), (0.0, 0.99)] {
            for seed in 0..20 {
                let splits = by_group(&names, &sizes, &Shares { validation, test, seed }).unwrap();
                let [train, validating, testing] = count(splits);
                assert!(train > 0 && testing > 0 && (validating > 0) == (validation > 0.0));
            }
        }
    }

    #[test]
    fn the_order_of_the_groups_does_not_matter() {
        let named: Vec<(String, u32)> = (0..50).map(|index| (format!("g{index}"), index % 5 + 1)).collect();
        let split_by_name = |named: Vec<(String, u32)>| {
            let mut names = Names::default();
            for (name, _) in &named {
                names.number(name);
            }
            let sizes: Vec<u32> = named.iter().map(|&(_, size)| size).collect();
            let splits = by_group(&names, &sizes, &Shares { validation: 0.1, test: 0.2, seed: 3 }).unwrap();
            named.into_iter().map(|(name, _)| name).zip(splits).collect::<BTreeMap<_, _>>()
        };
        let reversed = named.iter().rev().cloned().collect();
        assert_eq!(split_by_name(named), split_by_name(reversed));
    }

    proptest! {
        #[test]
        fn shares_are_never_exceeded_when_groups_are_small(
            sizes in proptest::collection::vec(1usize..5, 60..90), seed: u64,
        ) {
            let rows: usize = sizes.iter().sum();
            let mut names = Names::default();
            for index in 0..sizes.len() {
                names.number(&format!("g{index}"));
            }
            let sizes: Vec<u32> = sizes.into_iter().map(|size| size as u32).collect();
            let splits = by_group(&names, &sizes, &Shares { validation: 0.1, test: 0.1, seed }).unwrap();
            for split in [SplitName::Validation, SplitName::Test] {
                let size: u32 = splits.iter().zip(&sizes).filter(|(s, _)| **s == split).map(|(_, size)| size).sum();
                let size = size as usize;
                prop_assert!(size > 0 && size <= quota(rows, 0.1) && size + 4 > quota(rows, 0.1));
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
