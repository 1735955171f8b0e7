//! The leak check: validation and test rows whose text occurs in training rows.
//!
//! Texts are compared as words ([`text::words`]), so case, punctuation, line breaks and the kind of apostrophe do not
//! hide a copy. Each side of a row (a message that is not the system's, or a text) is compared by itself, in runs of
//! [`Settings::words`] words. Three kinds are told apart:
//!
//! * **exact**: a training row has the same text on every side;
//! * **contained**: all of a side lies inside one side of a training row, or the other way round;
//! * **overlap**: at least [`Settings::overlap`] of the runs of a side lie in one side of a training row, or in all
//!   training rows together.
//!
//! Runs that more than [`Settings::common`] of the training rows have in common, such as a fixed instruction, do not
//! count. Sides shorter than one run are only found by the exact comparison.
//!
//! Only the rows under test are held in memory, as hashes; training rows stream past twice.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::rows::StoredRow;
use crate::text;

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

/// What kind of leak it is, the plainest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The whole row is in training.
    Exact,
    /// A side lies inside a training row, or has a training row's side inside it.
    Contained,
    /// Much of a side is in training.
    Overlap,
}

/// A row under test and the training row it agrees with most.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Leak {
    /// Kind of leak.
    pub kind: Kind,
    /// Share of the runs of the side that agree, to three digits.
    pub overlap: f64,
    /// The row under test.
    pub row: String,
    /// Where that row came from.
    pub source: String,
    /// Its split, or `held_out`.
    pub split: String,
    /// The training row, absent if only all of them together have the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_row: Option<String>,
    /// Where the training row came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_source: Option<String>,
}

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Rows under test that leak, in the order in which they were added.
    pub leaks: Vec<Leak>,
    /// Training rows, counted from 0, that a row under test occurs in by itself.
    pub train_rows: BTreeSet<u64>,
}

/// The rows under test, ready to be compared with training rows.
#[derive(Debug)]
pub struct Check {
    settings: Settings,
    sides: Vec<Side>,
    rows: Vec<Tested>,
    /// Run of words → the sides that have it.
    runs: HashMap<u64, Vec<u32>>,
    /// Whole row → rows under test.
    whole: HashMap<u64, Vec<u32>>,
}

#[derive(Debug)]
struct Tested {
    split: String,
    id: String,
    source: String,
}

#[derive(Debug)]
struct Side {
    row: u32,
    runs: BTreeSet<u64>,
}

/// The training row with which a row under test agrees most: kind, share in thousandths, id, source.
type Best = (Kind, u32, String, String);

impl Check {
    /// Starts a check.
    pub fn new(settings: Settings) -> Self {
        Self { settings, sides: Vec::new(), rows: Vec::new(), runs: HashMap::new(), whole: HashMap::new() }
    }

    /// Adds a row that must not be in training; `split` is only reported.
    pub fn add(&mut self, split: &str, row: &StoredRow) {
        let number = self.rows.len() as u32;
        let (sides, whole) = self.sides_of(row);
        self.whole.entry(whole).or_default().push(number);
        self.rows.push(Tested { split: split.to_owned(), id: row.id.clone(), source: row.source.clone() });
        for runs in sides.into_iter().filter(|runs| !runs.is_empty()) {
            for &run in &runs {
                self.runs.entry(run).or_default().push(self.sides.len() as u32);
            }
            self.sides.push(Side { row: number, runs });
        }
    }

    /// Compares with training rows, which `train` gives anew for each of two passes.
    ///
    /// # Errors
    ///
    /// Fails when the training rows do.
    pub fn run<I>(&self, train: impl Fn() -> Result<I>) -> Result<Report>
    where
        I: Iterator<Item = Result<StoredRow>>,
    {
        if self.rows.is_empty() {
            return Ok(Report::default());
        }
        let mut frequency = HashMap::<u64, u32>::new();
        let mut train_rows = 0u32;
        for row in train()? {
            train_rows += 1;
            let runs: BTreeSet<u64> = self.sides_of(&row?).0.into_iter().flatten().collect();
            for run in runs.into_iter().filter(|run| self.runs.contains_key(run)) {
                *frequency.entry(run).or_default() += 1;
            }
        }
        let limit = (f64::from(train_rows) * self.settings.common).max(20.0);
        let common = |run: &u64| frequency.get(run).is_some_and(|&count| f64::from(count) > limit);
        let counted: Vec<usize> =
            self.sides.iter().map(|side| side.runs.iter().filter(|run| !common(run)).count()).collect();
        let mut best: Vec<Option<Best>> = vec![None; self.rows.len()];
        let mut leaking = BTreeSet::new();
        for (number, row) in (0..).zip(train()?) {
            if self.compare(&row?, common, &counted, &mut best) {
                leaking.insert(number);
            }
        }
        let seen = |run: &u64| frequency.contains_key(run) && !common(run);
        Ok(Report { leaks: self.leaks(best, &counted, seen), train_rows: leaking })
    }

    /// Compares one training row with all rows under test; tells whether one of them occurs in it.
    fn compare(
        &self,
        train: &StoredRow,
        common: impl Fn(&u64) -> bool,
        counted: &[usize],
        best: &mut [Option<Best>],
    ) -> bool {
        let (sides, whole) = self.sides_of(train);
        let mut found = false;
        let mut note = |row: u32, kind: Kind, share: u32| {
            found = true;
            let best = &mut best[row as usize];
            let better = |(kept, most, ..): &Best| (kind, u32::MAX - share) < (*kept, u32::MAX - most);
            if best.as_ref().is_none_or(better) {
                *best = Some((kind, share, train.id.clone(), train.source.clone()));
            }
        };
        for &row in self.whole.get(&whole).into_iter().flatten() {
            note(row, Kind::Exact, 1000);
        }
        for mut runs in sides {
            runs.retain(|run| !common(run));
            let mut shared = BTreeMap::<u32, usize>::new();
            for side in runs.iter().filter_map(|run| self.runs.get(run)).flatten() {
                *shared.entry(*side).or_default() += 1;
            }
            for (side, count) in shared {
                let all = counted[side as usize];
                let share = count as f64 / all as f64;
                if count == all || count == runs.len() {
                    note(self.sides[side as usize].row, Kind::Contained, per_mille(share));
                } else if share >= self.settings.overlap {
                    note(self.sides[side as usize].row, Kind::Overlap, per_mille(share));
                }
            }
        }
        found
    }

    fn leaks(&self, best: Vec<Option<Best>>, counted: &[usize], seen: impl Fn(&u64) -> bool) -> Vec<Leak> {
        let mut together = BTreeMap::<u32, u32>::new();
        for (side, &all) in self.sides.iter().zip(counted).filter(|&(_, &all)| all > 0) {
            let share = side.runs.iter().filter(|run| seen(run)).count() as f64 / all as f64;
            if share >= self.settings.overlap {
                let most = together.entry(side.row).or_default();
                *most = per_mille(share).max(*most);
            }
        }
        let leak = |((row, best), number): ((&Tested, Option<Best>), u32)| {
            let (kind, share, train) = match best {
                Some((kind, share, id, source)) => (kind, share, Some((id, source))),
                None => (Kind::Overlap, *together.get(&number)?, None),
            };
            let (train_row, train_source) = train.unzip();
            let (row_id, source, split) = (row.id.clone(), row.source.clone(), row.split.clone());
            let overlap = f64::from(share) / 1000.0;
            Some(Leak { kind, overlap, row: row_id, source, split, train_row, train_source })
        };
        self.rows.iter().zip(best).zip(0..).filter_map(leak).collect()
    }

    /// Returns the runs of words of each side, and a hash of all the words of the row.
    fn sides_of(&self, row: &StoredRow) -> (Vec<BTreeSet<u64>>, u64) {
        let mut whole = Hash::default();
        let texts = sides(row);
        let sides = texts.iter().map(|side| {
            let words: Vec<u64> = text::words(side).iter().map(|word| Hash::of(word.as_bytes())).collect();
            whole.number(words.len() as u64);
            for &word in &words {
                whole.number(word);
            }
            words.windows(self.settings.words.max(1)).map(run_hash).collect()
        });
        (sides.collect(), whole.0)
    }
}

fn per_mille(share: f64) -> u32 {
    (share * 1000.0).round() as u32
}

fn sides(row: &StoredRow) -> Vec<String> {
    let Some(messages) = &row.messages else { return row.text.clone().into_iter().collect() };
    let content = |message: &serde_json::Value| {
        let system = matches!(message.get("role")?.as_str()?, "system" | "developer");
        let content = message.get("content")?;
        let text = content.as_str().map_or_else(|| parts(content), str::to_owned);
        (!system).then_some(text)
    };
    messages.iter().filter_map(content).collect()
}

fn parts(content: &serde_json::Value) -> String {
    let texts = content.as_array().into_iter().flatten().filter_map(|part| part.get("text")?.as_str());
    texts.collect::<Vec<_>>().join(" ")
}

fn run_hash(words: &[u64]) -> u64 {
    let mut hash = Hash::default();
    for &word in words {
        hash.number(word);
    }
    hash.0
}

/// FNV-1a with 64 bits: the same everywhere, which the standard library's hash does not promise.
struct Hash(u64);

impl Default for Hash {
    fn default() -> Self {
        Self(0xCBF2_9CE4_8422_2325)
    }
}

impl Hash {
    fn of(bytes: &[u8]) -> u64 {
        let mut hash = Self::default();
        hash.bytes(bytes);
        hash.0
    }

    fn number(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
    }
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

    fn check(tested: &[StoredRow], train: &[StoredRow]) -> Vec<Leak> {
        let mut check = Check::new(Settings::default());
        for row in tested {
            check.add("test", row);
        }
        check.run(|| Ok(train.iter().cloned().map(Ok))).unwrap().leaks
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
}
