//! The first pass: reads every row once and decides where it goes, keeping one byte and one number a row.

use dataset::source::{RawRow, RowReader};
use dataset::split::{self, Shares, SplitName};
use dataset::{Error, Names, Record, Result, RowProblem};

use crate::config::{Config, HoldOutTo, OnBadRow, SplitBy};
use crate::files::DataFile;
use crate::mapping::{Mapped, Mapping};
use crate::stats::Stats;

/// Where a row goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Destination {
    Split(SplitName),
    HeldOut,
    Nowhere,
}

/// Calls `each` with every usable row and whether it is held out, in the order of the files.
///
/// Rows that cannot be used and rows that fail a condition are left out the same way in every pass; `stats` counts
/// them.
pub(crate) fn for_each_row<'f>(
    files: &'f [DataFile],
    config: &Config,
    stats: &mut Stats,
    mut each: impl FnMut(Box<Record>, bool, &'f DataFile) -> Result<()>,
) -> Result<()> {
    let mut unseen: Vec<&str> = Mapping::fields(config).collect();
    for file in files {
        let mapping = Mapping::new(config, file.part.as_deref());
        let mut reader = RowReader::open(&file.path)?;
        while let Some(row) = reader.next_row()? {
            stats.rows_read += 1;
            if let Ok(row) = &row {
                unseen.retain(|name| !row.fields.contains_key(*name));
            }
            match row.and_then(|row: RawRow| mapping.map(row, &file.path)) {
                Ok(Mapped::Filtered) => stats.filtered_rows += 1,
                Ok(Mapped::Row(record)) => each(record, false, file)?,
                Ok(Mapped::HeldOut(record)) => each(record, true, file)?,
                Err(problem) => bad_row(config, stats, problem, file)?,
            }
        }
    }
    match unseen.first() {
        None => Ok(()),
        Some(name) => Err(Error::Rows {
            reason: format!("the settings name the field `{name}`, which no row has"),
            hint: "correct the name in `where`, `hold_out` or `group_fields`".into(),
        }),
    }
}

fn bad_row(config: &Config, stats: &mut Stats, problem: RowProblem, file: &DataFile) -> Result<()> {
    let error = problem.in_file(&file.path);
    match config.on_bad_row {
        OnBadRow::Error => Err(error),
        OnBadRow::Skip => {
            stats.bad_rows.add(|| brief(&error, file));
            Ok(())
        }
    }
}

/// Describes a bad row in one line, without the folder that the file happens to be in.
pub(crate) fn brief(error: &Error, file: &DataFile) -> String {
    let text = error.to_string();
    let folder = file.path.parent().map(|folder| format!("{}/", folder.display())).unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix(&folder).unwrap_or(line).to_owned()
}

/// Reads all rows and returns where each usable one goes, in their order.
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
    let mut destinations = rows.deal(config)?;
    for split in SplitName::ALL {
        stats.not_sampled_rows += limit(&mut destinations, &rows.held_out, split, config);
    }
    Ok(destinations)
}

/// What is kept of each row between the passes.
#[derive(Default)]
struct Rows {
    held_out: Vec<bool>,
    /// The split that a row's file decides, with `split.by = "files"`.
    files: Vec<Option<SplitName>>,
    /// The number of a row's group, with `split.by = "group"`.
    groups: Vec<u32>,
    names: Names,
}

impl Rows {
    fn add(&mut self, record: &Record, held_out: bool, file: &DataFile, by: SplitBy) {
        self.held_out.push(held_out);
        match by {
            SplitBy::Files => self.files.push(file.split),
            SplitBy::Group => {
                let group = record.group.as_deref().expect("the mapping asks for a group");
                self.groups.push(self.names.number(group));
            }
            SplitBy::Ratio => {}
        }
    }

    fn deal(&self, config: &Config) -> Result<Vec<Destination>> {
        let shares =
            Shares { validation: config.split.validation, test: config.split.test, seed: config.split.seed };
        let held = match config.hold_out.to {
            HoldOutTo::Drop => Destination::HeldOut,
            HoldOutTo::Test => Destination::Split(SplitName::Test),
        };
        let mut others: Box<dyn Iterator<Item = SplitName>> = match config.split.by {
            SplitBy::Files => {
                Box::new(self.files.iter().map(|split| split.expect("each file has its split")))
            }
            SplitBy::Ratio => {
                let free = self.held_out.iter().filter(|&&held_out| !held_out).count();
                let mut dealt = split::by_ratio(free, &shares).into_iter();
                // A held-out row takes no place in the order; what stands for it here is not looked at.
                let place = move |&held_out: &bool| {
                    if held_out { SplitName::Test } else { dealt.next().expect("one place a row") }
                };
                Box::new(self.held_out.iter().map(place))
            }
            SplitBy::Group => {
                let splits = self.deal_groups(config, &shares)?;
                Box::new(self.groups.iter().map(move |group| splits[*group as usize]))
            }
        };
        let destination = |&held_out: &bool| {
            let split = others.next().expect("one split a row");
            if held_out { held } else { Destination::Split(split) }
        };
        Ok(self.held_out.iter().map(destination).collect())
    }

    /// Returns the split of each group. Groups with rows held out to the test split go there whole.
    fn deal_groups(&self, config: &Config, shares: &Shares) -> Result<Vec<SplitName>> {
        let mut sizes = vec![0; self.names.len()];
        let mut held = vec![false; self.names.len()];
        for (&group, &held_out) in self.groups.iter().zip(&self.held_out) {
            held[group as usize] |= held_out && config.hold_out.to == HoldOutTo::Test;
            sizes[group as usize] += u32::from(!held_out);
        }
        // Groups that are bound for the test split are not dealt out.
        for (size, _) in sizes.iter_mut().zip(&held).filter(|(_, held)| **held) {
            *size = 0;
        }
        let mut splits = split::by_group(&self.names, &sizes, shares)?;
        for (split, _) in splits.iter_mut().zip(held).filter(|(_, held)| *held) {
            *split = SplitName::Test;
        }
        Ok(splits)
    }
}

/// Leaves out what exceeds the limit of `split`; rows that were held out to it stay.
fn limit(destinations: &mut [Destination], held_out: &[bool], split: SplitName, config: &Config) -> u64 {
    let limit = match split {
        SplitName::Train => config.max_rows.train,
        SplitName::Validation => config.max_rows.validation,
        SplitName::Test => config.max_rows.test,
    };
    if limit == 0 {
        return 0;
    }
    let inside = |&(destination, _): &(&Destination, &bool)| *destination == Destination::Split(split);
    let (mut held, mut free) = (0, 0);
    for (_, &held_out) in destinations.iter().zip(held_out).filter(inside) {
        *if held_out { &mut held } else { &mut free } += 1;
    }
    let kept = split::sample(free, limit.saturating_sub(held), split, config.split.seed);
    let mut kept = kept.into_iter().peekable();
    let (mut place, mut left_out) = (0, 0);
    for (destination, &held_out) in destinations.iter_mut().zip(held_out) {
        if *destination != Destination::Split(split) || held_out {
            continue;
        }
        if kept.next_if_eq(&place).is_none() {
            *destination = Destination::Nowhere;
            left_out += 1;
        }
        place += 1;
    }
    left_out
}
