//! The leak check: validation and test rows whose text occurs in training rows.
//!
//! Texts are compared as words ([`text::words`](crate::text::words)), so case, punctuation, line breaks and the kind of
//! apostrophe do not hide a copy. Each side of a row (a message that is not the system's, or a text) is compared by
//! itself, in runs of [`Settings::words`] words. Three kinds are told apart:
//!
//! * **exact**: a training row has the same text on every side;
//! * **contained**: all of a side lies inside one side of a training row, or the other way round;
//! * **overlap**: at least [`Settings::overlap`] of the runs of a side lie in one side of a training row, or in all
//!   training rows together.
//!
//! Runs that more than [`Settings::common`] of the training rows have in common, such as a fixed instruction, do not
//! count. Sides shorter than one run are only found by the exact comparison.
//!
//! Rows are kept as hashes in files without a name. Rows under test are brought into memory in portions of a bounded
//! size, and all training rows stream past each portion twice: memory does not grow with the rows.

mod fingerprint;
mod report;
mod table;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::rows::StoredRow;
pub(crate) use fingerprint::Hash;
use fingerprint::{Spill, Spilled};
use report::Best;
use table::{Builder, Table};

pub use fingerprint::Fingerprint;
pub use report::{Kind, LISTED, Leak, Report};

/// Runs of rows under test that are in memory at a time: about 80 MB.
const PORTION_RUNS: usize = 2 << 20;
/// Rows under test that are in memory at a time.
const PORTION_ROWS: usize = 1 << 20;

/// How much must agree.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Length of the runs of words that are compared.
    pub words: usize,
    /// Share of a side's runs that makes an overlap, above 0 and at most 1.
    pub overlap: f64,
    /// Share of training rows (at least 20 rows) from which on a run is common and does not count.
    pub common: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { words: 8, overlap: 0.5, common: 0.02 }
    }
}

/// The rows under test and the training rows, ready to be compared.
#[derive(Debug)]
pub struct Check {
    settings: Settings,
    tested: Spill,
    train: Spill,
    portion_runs: usize,
}

impl Check {
    /// Starts a check that keeps its rows in files without a name in `folder`.
    ///
    /// # Errors
    ///
    /// Fails when it cannot write there.
    pub fn new(settings: Settings, folder: &Path) -> Result<Self> {
        let (tested, train) = (Spill::new(folder)?, Spill::new(folder)?);
        Ok(Self { settings, tested, train, portion_runs: PORTION_RUNS })
    }

    /// Hashes what is compared of a row, which may be done in any thread.
    pub fn fingerprint(settings: &Settings, row: &StoredRow) -> Fingerprint {
        Fingerprint::of(row, settings.words)
    }

    /// Adds a row that must not be in training, with its fingerprint; `split` is only reported.
    ///
    /// # Errors
    ///
    /// Fails when the disk does.
    pub fn add(&mut self, split: &str, row: &StoredRow, print: &Fingerprint) -> Result<()> {
        self.tested.push(split, row, print)
    }

    /// Adds a training row with its fingerprint.
    ///
    /// # Errors
    ///
    /// Fails when the disk does.
    pub fn add_train(&mut self, row: &StoredRow, print: &Fingerprint) -> Result<()> {
        self.train.push("train", row, print)
    }

    /// Returns the number of rows under test.
    pub fn tested_rows(&self) -> u64 {
        u64::from(self.tested.rows())
    }

    /// Compares the rows under test with the training rows, but for those (by number, sorted) in `left_out`.
    ///
    /// # Errors
    ///
    /// Fails when the disk does.
    pub fn run(&mut self, left_out: &[u32]) -> Result<Report> {
        let mut report = Report::default();
        let mut leaking = vec![false; self.train.rows() as usize];
        let mut listed = Vec::new();
        let mut first = 0;
        while first < self.tested.rows() {
            let table = self.portion(first)?;
            for (best, number) in self.compare(&table, left_out, &mut leaking)?.into_iter().zip(first..) {
                let Some(best) = best else { continue };
                report.count += 1;
                if listed.len() < LISTED {
                    listed.push((number, best));
                }
            }
            first += table.rows() as u32;
        }
        report.train_rows = (0..).zip(leaking).filter(|&(_, leaks)| leaks).map(|(row, _)| row).collect();
        report.leaks = self.describe(&listed)?;
        Ok(report)
    }

    /// Brings rows under test into memory, from `first` on.
    fn portion(&mut self, first: u32) -> Result<Table> {
        let mut builder = Builder::default();
        let mut row = Spilled::default();
        let mut reader = self.tested.read()?;
        let mut number = 0;
        while builder.entries() < self.portion_runs
            && builder.rows() < PORTION_ROWS
            && reader.next_into(&mut row)?
        {
            if number >= first {
                builder.add(&row.print);
            }
            number += 1;
        }
        Ok(builder.build())
    }

    /// Lets the training rows pass twice; marks those that a row of `table` occurs in.
    fn compare(
        &mut self,
        table: &Table,
        left_out: &[u32],
        leaking: &mut [bool],
    ) -> Result<Vec<Option<Best>>> {
        let mut comparison = table.comparison(self.settings);
        let rows = self.train.rows() - left_out.len() as u32;
        for_each(&mut self.train, left_out, |_, row| comparison.count(&row.print))?;
        comparison.counted(rows);
        for_each(&mut self.train, left_out, |number, row| {
            leaking[number as usize] |= comparison.compare(number, &row.print);
        })?;
        Ok(comparison.finish())
    }

    /// Looks up names and places.
    fn describe(&mut self, listed: &[(u32, Best)]) -> Result<Vec<Leak>> {
        let mut train: BTreeMap<u32, Option<Spilled>> =
            listed.iter().filter_map(|&(_, (_, _, train))| Some((train?, None))).collect();
        let mut tested: BTreeMap<u32, Option<Spilled>> =
            listed.iter().map(|&(number, _)| (number, None)).collect();
        for (spill, wanted) in [(&mut self.train, &mut train), (&mut self.tested, &mut tested)] {
            if !wanted.is_empty() {
                for_each(spill, &[], |number, row| {
                    if let Some(found) = wanted.get_mut(&number) {
                        *found = Some(row.clone());
                    }
                })?;
            }
        }
        let name = |row: &Option<Spilled>| {
            let row = row.as_ref().expect("every row was added");
            (row.id.clone(), row.source.clone())
        };
        let leak = |&(number, (kind, share, train_row)): &(u32, Best)| {
            let (row, source) = name(&tested[&number]);
            let (train_row, train_source) = train_row.map(|row| name(&train[&row])).unzip();
            let split = tested[&number].as_ref().map(|row| row.split.clone()).unwrap_or_default();
            Leak { kind, overlap: f64::from(share) / 1000.0, row, source, split, train_row, train_source }
        };
        Ok(listed.iter().map(leak).collect())
    }
}

/// Calls `each` with every row but those (by number, sorted) in `left_out`.
fn for_each(spill: &mut Spill, left_out: &[u32], mut each: impl FnMut(u32, &Spilled)) -> Result<()> {
    let mut left_out = left_out.iter().copied().peekable();
    let mut reader = spill.read()?;
    let mut row = Spilled::default();
    let mut number = 0;
    while reader.next_into(&mut row)? {
        if left_out.next_if_eq(&number).is_none() {
            each(number, &row);
        }
        number += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::as_messages;

    const CHANT: &str =
        "O ke ama hau la akahi, o ka iako hau la alua, o ka ilihau la akolu, o ka laau hau la aha";

    fn row(id: &str, prompt: &str, completion: &str) -> StoredRow {
        let messages = Some(as_messages(prompt, completion));
        StoredRow { id: id.into(), source: format!("x:{id}"), messages, ..StoredRow::default() }
    }

    fn started(tested: &[StoredRow], train: &[StoredRow], folder: &Path) -> Check {
        let settings = Settings::default();
        let mut check = Check::new(settings, folder).unwrap();
        for row in tested {
            check.add("test", row, &Check::fingerprint(&settings, row)).unwrap();
        }
        for row in train {
            check.add_train(row, &Check::fingerprint(&settings, row)).unwrap();
        }
        check
    }

    fn check(tested: &[StoredRow], train: &[StoredRow]) -> Vec<Leak> {
        let folder = tempfile::tempdir().unwrap();
        started(tested, train, folder.path()).run(&[]).unwrap().leaks
    }

    fn kinds(leaks: &[Leak]) -> Vec<(Kind, f64, &str, Option<&str>)> {
        leaks.iter().map(|leak| (leak.kind, leak.overlap, &*leak.row, leak.train_row.as_deref())).collect()
    }

    #[test]
    fn each_kind_is_found_with_its_training_row() {
        let tested = [
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
        let leaks = check(&tested, &train);
        let expected = [
            (Kind::Exact, 1.0, "same", Some("t2")),
            (Kind::Contained, 1.0, "inside", Some("t3")),
            (Kind::Overlap, 0.667, "part", Some("t4")),
        ];
        assert_eq!(kinds(&leaks), expected);
        assert_eq!(leaks[0].train_source.as_deref(), Some("x:t2"));
    }

    #[test]
    fn a_training_row_inside_a_test_row_is_found_too() {
        let longer = format!("{} {CHANT} {}", "mua ".repeat(40), "hope ".repeat(40));
        assert_eq!(check(&[row("a", &longer, "x")], &[row("t", CHANT, "y")])[0].kind, Kind::Contained);
    }

    #[test]
    fn pieces_spread_over_training_add_up() {
        let words: Vec<String> = (0..40).map(|index| format!("w{index}")).collect();
        let pieces: Vec<StoredRow> = words
            .chunks(10)
            .enumerate()
            .map(|(index, part)| row(&format!("t{index}"), &format!("{} z{index}", part.join(" ")), "y"))
            .collect();
        let leaks = check(&[row("a", &words[..30].join(" "), "x")], &pieces);
        assert_eq!(leaks, []);
        let overlapping: Vec<StoredRow> = (0..6)
            .map(|index| {
                row(
                    &format!("t{index}"),
                    &format!("{} z{index}", words[index * 5..index * 5 + 12].join(" ")),
                    "y",
                )
            })
            .collect();
        let leaks = check(&[row("a", &words[..35].join(" "), "x")], &overlapping);
        assert_eq!(kinds(&leaks), [(Kind::Overlap, 1.0, "a", None)]);
    }

    #[test]
    fn a_fixed_instruction_is_no_leak() {
        let ask = "Please translate the following Hawaiian sentence into plain English for me now";
        let train: Vec<StoredRow> =
            (0..50).map(|index| row(&format!("t{index}"), &format!("{ask}: w{index}"), "x")).collect();
        assert_eq!(check(&[row("a", &format!("{ask}: hou"), "y")], &train), []);
    }

    /// Pieces of one long text, so that they agree in many ways.
    fn made(id: &str, stride: usize, count: usize) -> Vec<StoredRow> {
        let text = |from: usize, to: usize| {
            (from..to).map(|index| format!("w{}", index * 37 % 401)).collect::<Vec<_>>().join(" ")
        };
        let of = |index: usize| {
            let from = index * stride % 700;
            let (middle, end) = (from + 9 + index % 6, from + 20 + index % 15);
            row(&format!("{id}{index}"), &text(from, middle), &text(middle, end))
        };
        (0..count).map(of).collect()
    }

    #[test]
    fn portions_of_any_size_find_the_same() {
        let (tested, train) = (made("v", 29, 40), made("t", 31, 25));
        let folder = tempfile::tempdir().unwrap();
        let mut check = started(&tested, &train, folder.path());
        let whole = check.run(&[]).unwrap();
        assert!(whole.count > 5 && whole.count < 40 && whole.train_rows.len() > 5, "{whole:?}");
        for portion in [1, 20, 100] {
            check.portion_runs = portion;
            assert_eq!(check.run(&[]).unwrap(), whole);
        }
    }

    #[test]
    fn training_rows_that_are_left_out_are_as_if_they_were_never_there() {
        let (tested, train) = (made("v", 29, 40), made("t", 31, 25));
        let folder = tempfile::tempdir().unwrap();
        let mut check = started(&tested, &train, folder.path());
        let leaking = check.run(&[]).unwrap().train_rows;
        let kept: Vec<StoredRow> =
            (0..).zip(&train).filter(|(row, _)| !leaking.contains(row)).map(|(_, row)| row.clone()).collect();
        let left = check.run(&leaking).unwrap();
        assert!(left.train_rows.is_empty());
        assert_eq!(left.leaks, started(&tested, &kept, folder.path()).run(&[]).unwrap().leaks);
    }

    #[test]
    fn leaks_beyond_the_listed_ones_are_counted() {
        let rows: Vec<StoredRow> =
            (0..LISTED + 20).map(|index| row(&format!("r{index}"), &format!("w{index}"), "x")).collect();
        let folder = tempfile::tempdir().unwrap();
        let report = started(&rows, &rows, folder.path()).run(&[]).unwrap();
        assert_eq!((report.count, report.leaks.len(), report.train_rows.len()), (120, LISTED, 120));
        assert_eq!(report.leaks[99].row, "r99");
    }
}
