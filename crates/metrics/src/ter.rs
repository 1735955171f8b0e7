//! Translation edit rate (Snover et al. 2006) as sacreBLEU and Tercom compute it.
//!
//! The edits that turn an answer into its reference, in percent of the reference's words: insertions, deletions,
//! substitutions and shifts of a phrase. Finding the fewest shifts is too expensive, so one shift after the other is taken as
//! long as it saves edits. Words are compared in lower case; one reference per row.

use std::collections::BTreeMap;

use crate::text::{self, SACREBLEU};

/// Longest phrase that is shifted, in words.
const MAX_SHIFT_WORDS: usize = 10;
/// Furthest shift, in words.
const MAX_SHIFT_DISTANCE: usize = 50;
/// Shifts that are tried for one row.
const MAX_CANDIDATES: usize = 1000;
/// Cells computed on each side of the diagonal.
const BEAM: usize = 25;
/// Distance of a cell that was not computed.
const FAR: i64 = 10_000_000_000_000_000;

/// sacreBLEU's signature.
pub(crate) fn signature() -> String {
    format!("nrefs:1|case:lc|tok:tercom|norm:no|punct:yes|asian:no|version:{SACREBLEU}")
}

/// Returns the edits from `hypothesis` to `reference`, and the number of words of the reference.
pub(crate) fn edits(hypothesis: &str, reference: &str) -> [u64; 2] {
    let (hypothesis, reference) = (hypothesis.to_lowercase(), reference.to_lowercase());
    let ids = &mut BTreeMap::new();
    let mut words = number(&hypothesis, ids);
    let reference = number(&reference, ids);
    if reference.is_empty() {
        return [words.len() as u64, 0];
    }
    let (mut shifts, mut tried) = (0, 0);
    loop {
        let matrix = Matrix::new(&words, &reference);
        let best = best_shift(&words, &reference, &matrix, &mut tried);
        match best {
            Some(best) if tried < MAX_CANDIDATES && best.saved > 0 => {
                words = best.words;
                shifts += 1;
            }
            _ => return [shifts + matrix.distance() as u64, reference.len() as u64],
        }
    }
}

/// Gives every different word a number.
fn number<'a>(text: &'a str, ids: &mut BTreeMap<&'a str, u32>) -> Vec<u32> {
    text::words(text)
        .map(|word| {
            let next = ids.len() as u32;
            *ids.entry(word).or_insert(next)
        })
        .collect()
}

/// A shift that was tried. The order of the fields decides between shifts: the largest is best.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Shift {
    saved: i64,
    length: usize,
    start: std::cmp::Reverse<usize>,
    target: std::cmp::Reverse<usize>,
    words: Vec<u32>,
}

/// Returns the best shift of a phrase to where the reference has it.
fn best_shift(words: &[u32], reference: &[u32], matrix: &Matrix<'_>, tried: &mut usize) -> Option<Shift> {
    let alignment = matrix.alignment();
    let mut best: Option<Shift> = None;
    for phrase in phrases(words, reference) {
        let Phrase { start, at, length } = phrase;
        // Only a phrase with an error on both sides can gain.
        let is_wrong = |errors: &[bool], from: usize| errors[from..from + length].contains(&true);
        if !is_wrong(&alignment.hypothesis_errors, start) || !is_wrong(&alignment.reference_errors, at) {
            continue;
        }
        let aligned = alignment.of_reference[at];
        if aligned >= start as i64 && aligned < (start + length) as i64 {
            continue;
        }
        let mut previous = None;
        for before in 0..=length {
            // The position after the word that is aligned with the one before the phrase, or with a word in it.
            let target = match (at + before).checked_sub(1) {
                None => 0,
                Some(position) => match alignment.of_reference.get(position) {
                    Some(aligned) => (aligned + 1) as usize,
                    None => break,
                },
            };
            if previous == Some(target) {
                continue;
            }
            previous = Some(target);
            let shifted = shift(words, start, length, target);
            let saved = matrix.distance() - matrix.distance_of(&shifted, start.min(target));
            *tried += 1;
            let candidate = Shift {
                saved,
                length,
                start: std::cmp::Reverse(start),
                target: std::cmp::Reverse(target),
                words: shifted,
            };
            if best.as_ref().is_none_or(|best| candidate > *best) {
                best = Some(candidate);
            }
        }
        if *tried >= MAX_CANDIDATES {
            break;
        }
    }
    best
}

/// Words that both sides have, at different positions.
#[derive(Debug, Clone, Copy)]
struct Phrase {
    /// Position in the hypothesis.
    start: usize,
    /// Position in the reference.
    at: usize,
    length: usize,
}

/// Lists the phrases that both sides have, shorter ones first at each pair of positions.
fn phrases<'a>(words: &'a [u32], reference: &'a [u32]) -> impl Iterator<Item = Phrase> + 'a {
    let pairs = (0..words.len()).flat_map(|start| {
        let near =
            start.saturating_sub(MAX_SHIFT_DISTANCE)..(start + MAX_SHIFT_DISTANCE + 1).min(reference.len());
        near.map(move |at| (start, at))
    });
    pairs.flat_map(|(start, at)| {
        let both = words[start..].iter().zip(&reference[at..]).take(MAX_SHIFT_WORDS);
        let equal = both.take_while(|(a, b)| a == b).count();
        (1..=equal).map(move |length| Phrase { start, at, length })
    })
}

/// Moves a phrase to `target`.
fn shift(words: &[u32], start: usize, length: usize, target: usize) -> Vec<u32> {
    let (phrase, end) = (&words[start..start + length], start + length);
    if target < start {
        [&words[..target], phrase, &words[target..start], &words[end..]].concat()
    } else if target > end {
        [&words[..start], &words[end..target], phrase, &words[target..]].concat()
    } else {
        // The target is inside the phrase: it moves by as many words.
        let to = (length + target).min(words.len());
        [&words[..start], &words[end.min(to)..to], phrase, &words[to..]].concat()
    }
}

/// Step by which a cell was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Unknown,
    Equal,
    Substitute,
    Delete,
    Insert,
}

#[derive(Debug, Clone, Copy)]
struct Cell {
    cost: i64,
    step: Step,
}

/// A cell outside the beam.
const UNKNOWN: Cell = Cell { cost: FAR, step: Step::Unknown };

/// The cells of a row that are inside the beam.
#[derive(Debug, Clone)]
struct Row {
    /// Column of the first cell.
    from: usize,
    cells: Vec<Cell>,
}

impl Row {
    fn cell(&self, column: usize) -> Cell {
        column.checked_sub(self.from).and_then(|index| self.cells.get(index)).copied().unwrap_or(UNKNOWN)
    }
}

/// Edit distances between the beginnings of both sides, near the diagonal.
struct Matrix<'a> {
    words: Vec<u32>,
    reference: &'a [u32],
    rows: Vec<Row>,
}

impl<'a> Matrix<'a> {
    fn new(words: &[u32], reference: &'a [u32]) -> Self {
        let first =
            (0..=reference.len()).map(|cost| Cell { cost: cost as i64, step: Step::Insert }).collect();
        let first = Row { from: 0, cells: first };
        let mut matrix = Self { words: words.to_vec(), reference, rows: vec![first] };
        for row in 1..=words.len() {
            let next = matrix.row(words, row, &matrix.rows[row - 1]);
            matrix.rows.push(next);
        }
        matrix
    }

    fn distance(&self) -> i64 {
        self.rows[self.rows.len() - 1].cell(self.reference.len()).cost
    }

    /// Returns the distance of words that equal those of the matrix up to `equal`.
    fn distance_of(&self, words: &[u32], equal: usize) -> i64 {
        debug_assert_eq!(words.len(), self.words.len());
        let mut last = self.rows[equal].clone();
        for row in equal + 1..=words.len() {
            last = self.row(words, row, &last);
        }
        last.cell(self.reference.len()).cost
    }

    /// Computes a row from the one before it.
    fn row(&self, words: &[u32], row: usize, above: &Row) -> Row {
        let columns = self.reference.len();
        let ratio = columns as f64 / words.len() as f64;
        let beam =
            if (BEAM as f64) < ratio / 2.0 { (ratio / 2.0 + BEAM as f64).ceil() as usize } else { BEAM };
        let diagonal = (row as f64 * ratio).floor() as usize;
        let from = diagonal.saturating_sub(beam);
        let to = if row == words.len() { columns + 1 } else { (columns + 1).min(diagonal + beam) };
        let mut cells = Vec::with_capacity(to.saturating_sub(from));
        let mut before = UNKNOWN;
        for column in from..to {
            if column == 0 {
                before = Cell { cost: above.cell(0).cost + 1, step: Step::Delete };
                cells.push(before);
                continue;
            }
            let is_equal = words[row - 1] == self.reference[column - 1];
            let diagonal = if is_equal { Step::Equal } else { Step::Substitute };
            let steps = [
                Cell { cost: above.cell(column - 1).cost + i64::from(!is_equal), step: diagonal },
                Cell { cost: above.cell(column).cost + 1, step: Step::Delete },
                Cell { cost: before.cost + 1, step: Step::Insert },
            ];
            let cheaper = |best: Cell, step: Cell| if step.cost < best.cost { step } else { best };
            before = steps.into_iter().fold(UNKNOWN, cheaper);
            cells.push(before);
        }
        Row { from, cells }
    }

    /// Returns which words belong together on the cheapest way through the matrix.
    fn alignment(&self) -> Alignment {
        let mut steps = Vec::new();
        let (mut row, mut column) = (self.words.len(), self.reference.len());
        while row > 0 || column > 0 {
            let step = self.rows[row].cell(column).step;
            steps.push(step);
            match step {
                Step::Equal | Step::Substitute => {
                    row -= 1;
                    column -= 1;
                }
                Step::Insert => column -= 1,
                Step::Delete => row -= 1,
                // Outside the beam; the rest counts as deleted and inserted.
                Step::Unknown => {
                    steps.pop();
                    steps.extend(std::iter::repeat_n(Step::Delete, row));
                    steps.extend(std::iter::repeat_n(Step::Insert, column));
                    (row, column) = (0, 0);
                }
            }
        }
        let mut alignment = Alignment::default();
        for step in steps.into_iter().rev() {
            let is_error = step != Step::Equal;
            if step != Step::Insert {
                alignment.hypothesis_errors.push(is_error);
            }
            if step != Step::Delete {
                alignment.reference_errors.push(is_error);
                alignment.of_reference.push(alignment.hypothesis_errors.len() as i64 - 1);
            }
        }
        alignment
    }
}

/// Alignment: pairs of words that belong together.
#[derive(Debug, Default)]
struct Alignment {
    /// Position in the hypothesis of each word of the reference; -1 before its first word.
    of_reference: Vec<i64>,
    hypothesis_errors: Vec<bool>,
    reference_errors: Vec<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn very_long_texts_take_little_memory() {
        // A whole matrix would have 400 million cells.
        let words =
            |from: usize| (from..from + 20_000).map(|word| format!("w{word}")).collect::<Vec<_>>().join(" ");
        assert_eq!(edits(&words(0), &words(0)), [0, 20_000]);
        assert_eq!(edits(&words(0), &words(50_000)), [20_000, 20_000]);
        assert_eq!(edits(&"the ".repeat(20_000), "the end"), [19_999, 2]);
    }

    #[test]
    fn a_moved_phrase_is_one_edit() {
        assert_eq!(edits("d e a b c", "a b c d e"), [1, 5]);
        assert_eq!(edits("A B c", "a b C"), [0, 3]);
        assert_eq!(edits("a x c", "a b c d"), [2, 4]);
    }

    #[test]
    fn empty_sides_count_their_words() {
        assert_eq!(edits("", ""), [0, 0]);
        assert_eq!(edits("a b", " "), [2, 0]);
        assert_eq!(edits("", "a b c"), [3, 3]);
    }
}
