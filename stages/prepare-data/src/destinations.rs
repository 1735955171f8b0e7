//! The first pass: reads every row and decides its destination, keeping a few bytes per row.

use dataset::split::{self, Shares, SplitName};
use dataset::{Names, Record, Result};
use outputs::Stats;

use crate::config::{Config, HoldOutTo, SplitBy};
use crate::files::DataFile;
use crate::rows::for_each_row;

/// Destination of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Destination {
    /// Written to a split.
    Split(SplitName),
    /// Not written, but part of the leak check.
    HeldOut,
    /// Left out by `max_rows`.
    Nowhere,
}

/// Reads all rows and returns the destination of each usable one, in their order.
pub(crate) fn destinations(
    files: &[DataFile],
    config: &Config,
    stats: &mut Stats,
) -> Result<Vec<Destination>> {
    let mut rows = Rows::default();
    for_each_row(files, config, stats, |record, held_out, file| {
        rows.add(&record, held_out, file, config.split.by);
        Ok(())
    })?;
    stats.held_out_rows = rows.held_out.iter().filter(|&&held_out| held_out).count() as u64;
    let mut destinations = rows.assign(config)?;
    for split in SplitName::ALL {
        stats.not_sampled_rows += sample(&mut destinations, &rows.held_out, split, config);
    }
    Ok(destinations)
}

/// Data that the first pass keeps of each row.
#[derive(Default)]
struct Rows {
    held_out: Vec<bool>,
    /// Split of the row's file, if files decide.
    files: Vec<Option<SplitName>>,
    /// Number of the row's group, with `split.by = "group"`.
    groups: Vec<u32>,
    group_names: Names,
}

impl Rows {
    fn add(&mut self, record: &Record, held_out: bool, file: &DataFile, by: SplitBy) {
        self.held_out.push(held_out);
        self.files.push(file.split);
        match by {
            SplitBy::Group => {
                let group = record.group.as_deref().expect("the mapping refuses rows without a group");
                self.groups.push(self.group_names.number(group));
            }
            SplitBy::Auto | SplitBy::Ratio | SplitBy::Files => {}
        }
    }

    fn assign(&self, config: &Config) -> Result<Vec<Destination>> {
        let shares =
            Shares { validation: config.split.validation, test: config.split.test, seed: config.split.seed };
        let held_out_to = match config.hold_out.to {
            HoldOutTo::Drop => Destination::HeldOut,
            HoldOutTo::Test => Destination::Split(SplitName::Test),
        };
        let by_file = self.files.iter().all(Option::is_some);
        let mut splits: Box<dyn Iterator<Item = SplitName>> = match config.split.by {
            SplitBy::Group => {
                let group_splits = self.group_splits(config, &shares)?;
                Box::new(self.groups.iter().map(move |group| group_splits[*group as usize]))
            }
            _ if by_file => Box::new(self.files.iter().flatten().copied()),
            SplitBy::Auto | SplitBy::Ratio | SplitBy::Files => {
                let free = self.held_out.iter().filter(|&&held_out| !held_out).count();
                let mut free_splits = split::by_ratio(free, &shares).into_iter();
                // Held-out rows are not counted; the split given to them here is ignored below.
                let split_of = move |&held_out: &bool| {
                    if held_out {
                        SplitName::Test
                    } else {
                        free_splits.next().expect("one split per free row")
                    }
                };
                Box::new(self.held_out.iter().map(split_of))
            }
        };
        let destination = |&held_out: &bool| {
            let split = splits.next().expect("one split per row");
            if held_out { held_out_to } else { Destination::Split(split) }
        };
        Ok(self.held_out.iter().map(destination).collect())
    }

    /// Returns the split of each group. A group with rows held out to the test split goes there as a whole.
    fn group_splits(&self, config: &Config, shares: &Shares) -> Result<Vec<SplitName>> {
        let mut sizes = vec![0; self.group_names.len()];
        let mut held = vec![false; self.group_names.len()];
        for (&group, &held_out) in self.groups.iter().zip(&self.held_out) {
            held[group as usize] |= held_out && config.hold_out.to == HoldOutTo::Test;
            sizes[group as usize] += u32::from(!held_out);
        }
        // Groups that are held out to the test split do not count.
        for (size, _) in sizes.iter_mut().zip(&held).filter(|(_, held)| **held) {
            *size = 0;
        }
        let mut splits = split::by_group(&self.group_names, &sizes, shares)?;
        for (split, _) in splits.iter_mut().zip(held).filter(|(_, held)| *held) {
            *split = SplitName::Test;
        }
        Ok(splits)
    }
}

/// Leaves out the rows of `split` beyond its limit, and returns their number. Rows held out to the split stay.
fn sample(destinations: &mut [Destination], held_out: &[bool], split: SplitName, config: &Config) -> u64 {
    let limit = match split {
        SplitName::Train => config.max_rows.train,
        SplitName::Validation => config.max_rows.validation,
        SplitName::Test => config.max_rows.test,
    };
    if limit == 0 {
        return 0;
    }
    let in_split = |destination: &Destination| *destination == Destination::Split(split);
    let rows = destinations.iter().filter(|destination| in_split(destination)).count();
    let held = destinations.iter().zip(held_out).filter(|&(to, &held_out)| held_out && in_split(to)).count();
    let kept = split::sample(rows - held, limit.saturating_sub(held), split, config.split.seed);
    let mut kept = kept.into_iter().peekable();
    let (mut position, mut left_out) = (0, 0);
    for (destination, &held_out) in destinations.iter_mut().zip(held_out) {
        if !in_split(destination) || held_out {
            continue;
        }
        if kept.next_if_eq(&position).is_none() {
            *destination = Destination::Nowhere;
            left_out += 1;
        }
        position += 1;
    }
    left_out
}
