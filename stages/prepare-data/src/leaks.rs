//! Treatment of rows of a split that give away rows of a later one.

use std::path::Path;

use dataset::leak::{Check, LISTED};
use dataset::split::SplitName;
use dataset::{Result, RowWriter, Split, SplitWriter, read_rows};
use outputs::{Leak, SplitStats, Stats, Tally};

use crate::mixture::ComponentRows;
use crate::stats::{SplitCounter, tally};

/// A split that is searched for the rows of later ones.
#[derive(Clone, Copy)]
pub(crate) struct Cleaning<'a> {
    /// Folder of the dataset.
    pub(crate) out: &'a Path,
    /// The split, already written.
    pub(crate) split: SplitName,
    /// Whether its rows that leak are left out.
    pub(crate) drop: bool,
}

/// Result of a check.
#[derive(Default)]
pub(crate) struct Resolved {
    pub(crate) checked_rows: u64,
    pub(crate) count: u64,
    pub(crate) rows: Vec<Leak>,
    pub(crate) remaining: u64,
    pub(crate) dropped: Tally,
    /// Sorted numbers of the rows of the split that are left out.
    pub(crate) dropped_rows: Vec<u32>,
}

impl Cleaning<'_> {
    /// Finds leaks, and leaves out the rows of the split that cause them if the settings say so.
    pub(crate) fn resolve(
        self,
        mut check: Check,
        stats: &mut Stats,
        components: Option<&mut ComponentRows>,
    ) -> Result<Resolved> {
        let mut findings = check.find_leaks(&[])?;
        let mut resolved =
            Resolved { checked_rows: check.checked_rows(), remaining: findings.count, ..Resolved::default() };
        if self.drop && !findings.train_rows.is_empty() {
            resolved.dropped = self.drop_rows(&findings.train_rows, components, stats)?;
            // A leak that remains occurs only in several rows together; it is listed before the others.
            let remaining = check.find_leaks(&findings.train_rows)?;
            resolved.remaining = remaining.count;
            findings.count += remaining.count;
            findings.leaks.splice(0..0, remaining.leaks);
            resolved.dropped_rows = findings.train_rows;
        }
        resolved.count = findings.count;
        resolved.rows = findings.leaks.into_iter().take(LISTED).collect();
        Ok(resolved)
    }

    /// Rewrites the split without the rows in `dropped`, which are sorted row numbers.
    fn drop_rows(
        self,
        dropped: &[u32],
        mut components: Option<&mut ComponentRows>,
        stats: &mut Stats,
    ) -> Result<Tally> {
        let name = self.split.as_str();
        let path = |folder: &str, ending: &str| self.out.join(folder).join(format!("{name}.{ending}"));
        let (rows, tokens) = (path(outputs::ROWS, "jsonl"), path(outputs::TOKENS, "safetensors"));
        let (new_rows, new_tokens) = (path(outputs::ROWS, "new"), path(outputs::TOKENS, "new"));
        let (mut row_writer, mut token_writer) =
            (RowWriter::create(&new_rows)?, SplitWriter::create(&new_tokens)?);
        let mut counter = SplitCounter::default();
        let mut tallied = Tally::default();
        let split = Split::open(&tokens)?;
        let mut dropped = dropped.iter().map(|&row| row as usize).peekable();
        let mut component_of = components.as_ref().map(|components| components.component_of_rows());
        for (index, row) in read_rows(&rows)?.enumerate() {
            let row = row?;
            let component = component_of.as_mut().and_then(|rows| rows.next().flatten());
            if dropped.next_if_eq(&index).is_some() {
                tally(&mut tallied, || format!("{} ({})", row.id, row.source));
                if let Some(components) = components.as_mut() {
                    components.remove(component);
                }
                continue;
            }
            let encoded = split.row(index);
            counter.add(&row, row.content_hash(), encoded.tokens.len(), encoded.target_count());
            token_writer.push(encoded.tokens, encoded.trained, encoded.weight, encoded.prompt_length)?;
            row_writer.push(&row)?;
        }
        row_writer.finish()?;
        token_writer.finish()?;
        drop(split);
        fs_err::rename(new_rows, rows)?;
        fs_err::rename(new_tokens, tokens)?;
        let before = stats.splits.remove(name).unwrap_or_default();
        let SplitStats { rows, tokens, trained_tokens, length, groups, group_rows, duplicates, .. } =
            counter.finish(self.split != SplitName::Train);
        let after =
            SplitStats { rows, tokens, trained_tokens, length, groups, group_rows, duplicates, ..before };
        stats.splits.insert(name.to_owned(), after);
        Ok(tallied)
    }
}
