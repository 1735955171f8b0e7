//! Scores of tasks other than translation: labels and short answers.

use std::collections::{BTreeMap, BTreeSet};

/// Returns a label as it is compared: without white space at its ends, without case.
pub(crate) fn label(text: &str) -> String {
    text.trim().to_lowercase()
}

/// Returns three counts per expected label for each (answer, reference) pair: right, predicted, expected.
///
/// The labels are those of the references. An answer that is none of them, or none at all, lowers the recall of the expected
/// label.
pub(crate) fn label_counts(pairs: &[(Option<&str>, &str)]) -> Vec<Vec<f64>> {
    let labels: BTreeSet<String> = pairs.iter().map(|(_, reference)| label(reference)).collect();
    let index: BTreeMap<&str, usize> =
        labels.iter().enumerate().map(|(i, label)| (label.as_str(), i)).collect();
    let counts = pairs.iter().map(|(answer, reference)| {
        let mut counts = vec![0.0; labels.len() * 3];
        let expected = index[label(reference).as_str()];
        counts[expected * 3 + 2] = 1.0;
        if let Some(&predicted) = answer.and_then(|answer| index.get(label(answer).as_str())) {
            counts[predicted * 3 + 1] = 1.0;
            counts[expected * 3] = f64::from(predicted == expected);
        }
        counts
    });
    counts.collect()
}

/// Returns the F1 of the words of an answer, from 0 to 1, as SQuAD 1.1 scores answers: without case, ASCII punctuation and the
/// words `a`, `an` and `the`. Two empty texts score 1.
pub fn token_f1(answer: &str, reference: &str) -> f64 {
    let (mut answer, mut reference) = (answer_words(answer), answer_words(reference));
    if answer.is_empty() || reference.is_empty() {
        return f64::from(answer.len() == reference.len());
    }
    let shared = crate::ngrams::matches(&mut answer, &mut reference) as f64;
    2.0 * shared / (answer.len() + reference.len()) as f64
}

fn answer_words(text: &str) -> Vec<String> {
    let text: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    crate::text::words(&text).filter(|word| !matches!(*word, "a" | "an" | "the")).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_those_of_the_references() {
        let pairs = [(Some(" Yes\n"), "yes"), (Some("maybe"), "yes"), (Some("yes"), "no"), (None, "no")];
        // Labels in order: no, yes.
        let counts = label_counts(&pairs);
        assert_eq!(counts[0], [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
        assert_eq!(counts[1], [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
        assert_eq!(counts[2], [0.0, 0.0, 1.0, 0.0, 1.0, 0.0]);
        assert_eq!(counts[3], [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn token_f1_is_that_of_squad() {
        assert!((token_f1("The Chief, Umi!", "chief umi") - 1.0).abs() < 1e-12);
        assert!((token_f1("the big chief of Hawaii", "chief Umi") - 2.0 / 6.0).abs() < 1e-12);
        assert!((token_f1("", "a") - 1.0).abs() < 1e-12);
        assert!(token_f1("", "chief").abs() < 1e-12);
    }
}
