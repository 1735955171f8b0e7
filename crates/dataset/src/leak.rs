//! Leak check: finds validation and test rows whose text occurs in training rows.
//!
//! Texts are compared as lower-case words, so case, punctuation, line breaks and the kind of apostrophe do not hide a
//! copy. Each side of a row (a message that is not a system message, or a plain text) is compared separately, as
//! shingles: all its sequences of [`Settings::words`] consecutive words. There are four kinds of leak:
//!
//! * **exact**: a training row has the same text on every side;
//! * **contained**: a whole side is inside one side of a training row, or the other way round; or a training row has the same
//!   answer to a short prompt that begins or ends the other's;
//! * **side**: a training row has the same whole prompt or the same whole answer, however short (but not a word or two);
//! * **overlap**: at least [`Settings::overlap`] of the shingles of a side occur in one side of a training row, or in
//!   all training rows together.
//!
//! Shingles that occur in more than [`Settings::common`] of the training rows, such as a fixed instruction, do not
//! count; nor do whole answers that do, or whole prompts of a quarter of the rows. Rows with the same text count once, so that
//! repeating a row does not hide it.
//!
//! Rows are kept as hashes in unnamed temporary files. Checked rows are loaded in portions of bounded size, and all
//! training rows stream past each portion twice, so memory does not grow with the number of rows.

mod findings;
mod fingerprint;
mod settings;
mod short;
mod table;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use outputs::Leak;

use crate::error::Result;
use crate::rows::StoredRow;
use findings::Match;
use fingerprint::{Spill, Spilled};
use table::{Builder, Table};

pub use findings::{Findings, LISTED};
pub use fingerprint::Fingerprint;
pub use settings::Settings;

/// Number of shingles and keys of checked rows in memory at a time: about 80 MB.
const PORTION_SHINGLES: usize = 2 << 20;
/// Number of checked rows in memory at a time.
const PORTION_ROWS: usize = 1 << 20;

/// The checked rows and the training rows.
#[derive(Debug)]
pub struct Check {
    settings: Settings,
    folder: PathBuf,
    checked: Spill,
    train: Spill,
    portion_shingles: usize,
}

impl Check {
    /// Starts a check that keeps its rows in unnamed files in `folder`.
    ///
    /// # Errors
    ///
    /// Fails when the files cannot be created.
    pub fn new(settings: Settings, folder: &Path) -> Result<Self> {
        let (checked, train) = (Spill::new(folder)?, Spill::new(folder)?);
        Ok(Self { settings, folder: folder.to_owned(), checked, train, portion_shingles: PORTION_SHINGLES })
    }

    /// Hashes the text of a row. Any thread may do this.
    pub fn fingerprint(settings: &Settings, row: &StoredRow) -> Fingerprint {
        Fingerprint::of(row, settings.words)
    }

    /// Adds a row that must not occur in training. `split` is only reported.
    ///
    /// # Errors
    ///
    /// Fails when the temporary file cannot be written.
    pub fn add(&mut self, split: &str, row: &StoredRow, fingerprint: &Fingerprint) -> Result<()> {
        self.checked.push(split, row, fingerprint)
    }

    /// Adds a training row.
    ///
    /// # Errors
    ///
    /// Fails when the temporary file cannot be written.
    pub fn add_train(&mut self, row: &StoredRow, fingerprint: &Fingerprint) -> Result<()> {
        self.train.push("train", row, fingerprint)
    }

    /// Leaves out checked rows of `split`. `dropped` are their sorted numbers among the rows of the split.
    ///
    /// # Errors
    ///
    /// Fails when the temporary files cannot be read or written.
    pub fn leave_out(&mut self, split: &str, dropped: &[u32]) -> Result<()> {
        let mut kept = Spill::new(&self.folder)?;
        let mut dropped = dropped.iter().copied().peekable();
        let mut row = Spilled::default();
        let mut reader = self.checked.read()?;
        let mut number = 0;
        while reader.next_into(&mut row)? {
            let is_dropped = row.split == split && dropped.next_if_eq(&number).is_some();
            number += u32::from(row.split == split);
            if !is_dropped {
                kept.push_named([&row.split, &row.id, &row.source], &row.fingerprint)?;
            }
        }
        self.checked = kept;
        Ok(())
    }

    /// Returns the number of checked rows.
    pub fn checked_rows(&self) -> u64 {
        u64::from(self.checked.rows())
    }

    /// Compares the checked rows with the training rows except those in `excluded`, which are sorted row numbers.
    ///
    /// # Errors
    ///
    /// Fails when the temporary files cannot be read.
    pub fn find_leaks(&mut self, excluded: &[u32]) -> Result<Findings> {
        let mut findings = Findings::default();
        let mut leaking = vec![false; self.train.rows() as usize];
        let mut listed = Vec::new();
        let mut first = 0;
        while first < self.checked.rows() {
            let table = self.portion(first)?;
            for (best, number) in self.compare(&table, excluded, &mut leaking)?.into_iter().zip(first..) {
                let Some(best) = best else { continue };
                findings.count += 1;
                if listed.len() < LISTED {
                    listed.push(Listed { number, best });
                }
            }
            first += table.rows() as u32;
        }
        findings.train_rows = (0..).zip(leaking).filter(|&(_, leaks)| leaks).map(|(row, _)| row).collect();
        findings.leaks = self.describe(&listed)?;
        Ok(findings)
    }

    /// Loads the portion of the checked rows that begins with row `first`.
    fn portion(&mut self, first: u32) -> Result<Table> {
        let mut builder = Builder::default();
        let mut row = Spilled::default();
        let mut reader = self.checked.read()?;
        let mut number = 0;
        while builder.entries() < self.portion_shingles
            && builder.rows() < PORTION_ROWS
            && reader.next_into(&mut row)?
        {
            if number >= first {
                builder.add(&row.fingerprint);
            }
            number += 1;
        }
        Ok(builder.build())
    }

    /// Compares the rows of `table` with the training rows, in two passes, and marks the training rows that leak.
    fn compare(
        &mut self,
        table: &Table,
        excluded: &[u32],
        leaking: &mut [bool],
    ) -> Result<Vec<Option<Match>>> {
        let mut comparison = table.comparison(self.settings);
        for_each(&mut self.train, excluded, |_, row| comparison.count(&row.fingerprint))?;
        comparison.finish_counting();
        for_each(&mut self.train, excluded, |number, row| {
            leaking[number as usize] |= comparison.compare(number, &row.fingerprint);
        })?;
        Ok(comparison.finish())
    }

    /// Looks up the ids and sources of the rows in `listed`.
    fn describe(&mut self, listed: &[Listed]) -> Result<Vec<Leak>> {
        let checked = lookup(&mut self.checked, listed.iter().map(|leak| leak.number))?;
        let train = lookup(&mut self.train, listed.iter().filter_map(|leak| leak.best.train_row))?;
        let describe = |&Listed { number, best }: &Listed| {
            let row = &checked[&number];
            let train_row = best.train_row.map(|number| &train[&number]);
            Leak {
                kind: best.kind,
                overlap: f64::from(best.per_mille) / 1000.0,
                row: row.id.clone(),
                source: row.source.clone(),
                split: row.split.clone(),
                train_row: train_row.map(|row| row.id.clone()),
                train_source: train_row.map(|row| row.source.clone()),
            }
        };
        Ok(listed.iter().map(describe).collect())
    }
}

/// A checked row that leaks and is listed.
struct Listed {
    number: u32,
    best: Match,
}

/// Returns the rows with the given numbers.
fn lookup(spill: &mut Spill, numbers: impl Iterator<Item = u32>) -> Result<BTreeMap<u32, Spilled>> {
    let mut rows: BTreeMap<u32, Spilled> = numbers.map(|number| (number, Spilled::default())).collect();
    if !rows.is_empty() {
        for_each(spill, &[], |number, row| {
            if let Some(wanted) = rows.get_mut(&number) {
                wanted.clone_from(row);
            }
        })?;
    }
    Ok(rows)
}

/// Calls `each` with the number and content of every row except those in `excluded`, which are sorted row numbers.
fn for_each(spill: &mut Spill, excluded: &[u32], mut each: impl FnMut(u32, &Spilled)) -> Result<()> {
    let mut excluded = excluded.iter().copied().peekable();
    let mut reader = spill.read()?;
    let mut row = Spilled::default();
    let mut number = 0;
    while reader.next_into(&mut row)? {
        if excluded.next_if_eq(&number).is_none() {
            each(number, &row);
        }
        number += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use outputs::LeakKind;

    use super::*;
    use crate::message::as_messages;

    const CHANT: &str =
        "O ke ama hau la akahi, o ka iako hau la alua, o ka ilihau la akolu, o ka laau hau la aha";

    fn row(id: &str, prompt: &str, completion: &str) -> StoredRow {
        let messages = Some(as_messages(prompt, completion));
        StoredRow { id: id.into(), source: format!("x:{id}"), messages, ..StoredRow::default() }
    }

    fn check_of(checked: &[StoredRow], train: &[StoredRow], folder: &Path) -> Check {
        let settings = Settings::default();
        let mut check = Check::new(settings, folder).unwrap();
        for row in checked {
            check.add("test", row, &Check::fingerprint(&settings, row)).unwrap();
        }
        for row in train {
            check.add_train(row, &Check::fingerprint(&settings, row)).unwrap();
        }
        check
    }

    fn leaks(checked: &[StoredRow], train: &[StoredRow]) -> Vec<Leak> {
        let folder = tempfile::tempdir().unwrap();
        check_of(checked, train, folder.path()).find_leaks(&[]).unwrap().leaks
    }

    fn kinds(leaks: &[Leak]) -> Vec<(LeakKind, f64, &str, Option<&str>)> {
        leaks.iter().map(|leak| (leak.kind, leak.overlap, &*leak.row, leak.train_row.as_deref())).collect()
    }

    #[test]
    fn each_kind_is_found_with_its_training_row() {
        let checked = [
            row("same", "short", "words"),
            row("inside", CHANT, "one"),
            row("part", "na kanaka a pau o ka aina e hele mai ana i ka la nui o keia makahiki hou", "two"),
            row("clean", "he mea okoa loa keia aole i paa ma kahi e ae o ka buke nei", "three"),
        ];
        let train = [
            row("t1", "something else", "entirely"),
            row("t2", "SHORT!", "“words”"),
            row("t3", &format!("Kanaka: {CHANT}. A laila hoi ua pau keia mele."), "x"),
            row("t4", "i olelo mai ai na kanaka a pau o ka aina e hele mai ana i ka la nui", "y"),
        ];
        let leaks = leaks(&checked, &train);
        let expected = [
            (LeakKind::Exact, 1.0, "same", Some("t2")),
            (LeakKind::Contained, 1.0, "inside", Some("t3")),
            (LeakKind::Overlap, 0.667, "part", Some("t4")),
        ];
        assert_eq!(kinds(&leaks), expected);
        assert_eq!(leaks[0].train_source.as_deref(), Some("x:t2"));
    }

    #[test]
    fn rows_left_out_are_not_checked() {
        let folder = tempfile::tempdir().unwrap();
        let rows = ["a", "b", "c"].map(|id| row(id, &format!("{CHANT} {id}"), "one"));
        let mut check = check_of(&rows, &[row("t", CHANT, "two")], folder.path());
        check.leave_out("validation", &[0]).unwrap();
        assert_eq!((check.checked_rows(), check.find_leaks(&[]).unwrap().count), (3, 3));
        check.leave_out("test", &[0, 2]).unwrap();
        let findings = check.find_leaks(&[]).unwrap();
        assert_eq!((check.checked_rows(), findings.count, findings.leaks[0].row.as_str()), (1, 1, "b"));
    }

    #[test]
    fn a_training_row_inside_a_test_row_is_found_too() {
        let longer = format!("{} {CHANT} {}", "mua ".repeat(40), "hope ".repeat(40));
        assert_eq!(leaks(&[row("a", &longer, "x")], &[row("t", CHANT, "y")])[0].kind, LeakKind::Contained);
    }

    #[test]
    fn pieces_spread_over_training_add_up() {
        let words: Vec<String> = (0..40).map(|index| format!("w{index}")).collect();
        let pieces: Vec<StoredRow> = words
            .chunks(10)
            .enumerate()
            .map(|(index, part)| row(&format!("t{index}"), &format!("{} z{index}", part.join(" ")), "y"))
            .collect();
        let found = leaks(&[row("a", &words[..30].join(" "), "x")], &pieces);
        assert_eq!(found, []);
        let overlapping: Vec<StoredRow> = (0..6)
            .map(|index| {
                row(
                    &format!("t{index}"),
                    &format!("{} z{index}", words[index * 5..index * 5 + 12].join(" ")),
                    "y",
                )
            })
            .collect();
        let found = leaks(&[row("a", &words[..35].join(" "), "x")], &overlapping);
        assert_eq!(kinds(&found), [(LeakKind::Overlap, 1.0, "a", None)]);
    }

    #[test]
    fn a_fixed_instruction_does_not_leak() {
        let ask = "Please translate the following Hawaiian sentence into plain English for me now";
        let train: Vec<StoredRow> =
            (0..50).map(|index| row(&format!("t{index}"), &format!("{ask}: w{index}"), "x")).collect();
        assert_eq!(leaks(&[row("a", &format!("{ask}: hou"), "y")], &train), []);
    }

    /// Returns rows cut from one long text, so that many of them overlap.
    fn overlapping_rows(id: &str, stride: usize, count: usize) -> Vec<StoredRow> {
        let text = |from: usize, to: usize| {
            (from..to).map(|index| format!("w{}", index * 37 % 401)).collect::<Vec<_>>().join(" ")
        };
        let piece = |index: usize| {
            let from = index * stride % 700;
            let (middle, end) = (from + 9 + index % 6, from + 20 + index % 15);
            row(&format!("{id}{index}"), &text(from, middle), &text(middle, end))
        };
        (0..count).map(piece).collect()
    }

    #[test]
    fn portions_of_any_size_find_the_same() {
        let (checked, train) = (overlapping_rows("v", 29, 40), overlapping_rows("t", 31, 25));
        let folder = tempfile::tempdir().unwrap();
        let mut check = check_of(&checked, &train, folder.path());
        let whole = check.find_leaks(&[]).unwrap();
        assert!(whole.count > 5 && whole.count < 40 && whole.train_rows.len() > 5, "{whole:?}");
        for portion in [1, 20, 100] {
            check.portion_shingles = portion;
            assert_eq!(check.find_leaks(&[]).unwrap(), whole);
        }
    }

    #[test]
    fn excluded_training_rows_are_as_if_they_were_never_there() {
        let (checked, train) = (overlapping_rows("v", 29, 40), overlapping_rows("t", 31, 25));
        let folder = tempfile::tempdir().unwrap();
        let mut check = check_of(&checked, &train, folder.path());
        let leaking = check.find_leaks(&[]).unwrap().train_rows;
        let kept: Vec<StoredRow> =
            (0..).zip(&train).filter(|(row, _)| !leaking.contains(row)).map(|(_, row)| row.clone()).collect();
        let left = check.find_leaks(&leaking).unwrap();
        assert!(left.train_rows.is_empty());
        assert_eq!(left.leaks, check_of(&checked, &kept, folder.path()).find_leaks(&[]).unwrap().leaks);
    }

    #[test]
    fn leaks_beyond_the_listed_ones_are_counted() {
        let rows: Vec<StoredRow> =
            (0..LISTED + 20).map(|index| row(&format!("r{index}"), &format!("w{index}"), "x")).collect();
        let folder = tempfile::tempdir().unwrap();
        let findings = check_of(&rows, &rows, folder.path()).find_leaks(&[]).unwrap();
        assert_eq!((findings.count, findings.leaks.len(), findings.train_rows.len()), (120, LISTED, 120));
        assert_eq!(findings.leaks[99].row, "r99");
    }
}
