//! Floors: the scores of answers that cannot be right.
//!
//! A similarity of 0.79 sounds high until the reference of another row gets 0.75. Two kinds of answers set the scale: the
//! copied source text, and the references of other rows.

use crate::error::Error;
use crate::random;

/// Scores of answers made without a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Floors<S> {
    /// Score of the source text as the answer.
    pub copied_source: S,
    /// Score of another row's reference as the answer; `None` with fewer than two rows.
    pub shuffled_reference: Option<S>,
}

/// Gives every row the reference of another row, by a derangement that depends only on `seed`.
///
/// Returns `None` for fewer than two rows.
pub fn shuffled<T: Copy>(references: &[T], seed: u64) -> Option<Vec<T>> {
    Some(random::derangement(references.len(), seed)?.into_iter().map(|row| references[row]).collect())
}

/// Scores both floors with `score`, which takes answers and references of equal length.
///
/// # Errors
///
/// Fails without rows, or when the numbers of sources and references differ.
pub fn floors<'a, S>(
    sources: &[&'a str],
    references: &[&'a str],
    seed: u64,
    mut score: impl FnMut(&[&'a str], &[&'a str]) -> S,
) -> Result<Floors<S>, Error> {
    if sources.len() != references.len() {
        return Err(Error::RowsDiffer { left: sources.len(), right: references.len() });
    }
    if references.is_empty() {
        return Err(Error::NoRows);
    }
    Ok(Floors {
        copied_source: score(sources, references),
        shuffled_reference: shuffled(references, seed).map(|answers| score(&answers, references)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Chrf;

    fn chrf<'a>(answers: &[&'a str], references: &[&'a str]) -> f64 {
        Chrf::CHRF.corpus(answers.iter().copied().zip(references.iter().copied()))
    }

    #[test]
    fn floors_are_below_the_references() {
        let sources = ["Aloha ke alii", "Ua hele ia", "He waa nui"];
        let references = ["The chief loved", "He went away", "A large canoe"];
        let floors = floors(&sources, &references, 3, chrf).expect("three rows");
        assert!(floors.copied_source < 30.0, "{floors:?}");
        assert!(floors.shuffled_reference.expect("three rows") < 30.0, "{floors:?}");
    }

    #[test]
    fn one_row_has_no_shuffled_floor() {
        let floors = floors(&["a"], &["a"], 3, chrf).expect("one row");
        assert_eq!(floors.shuffled_reference, None);
    }

    #[test]
    fn rows_must_pair_up() {
        assert_eq!(floors(&["a"], &[], 3, chrf), Err(Error::RowsDiffer { left: 1, right: 0 }));
        assert_eq!(floors(&[], &[], 3, chrf), Err(Error::NoRows));
    }
}
