//! Scores of single rows; a row without an answer scores 0.

/// Returns the text to score for a row: empty, which scores 0, if the model gave no answer.
pub fn text_or_empty(prediction: Option<&str>) -> &str {
    prediction.unwrap_or_default()
}

/// Returns whether two texts are equal except for white space at their ends.
pub fn is_exact_match(hypothesis: &str, reference: &str) -> bool {
    hypothesis.trim() == reference.trim()
}

/// Returns the percentage of (hypothesis, reference) pairs that match exactly, except for white space at their ends.
pub fn exact_match<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> f64 {
    let (mut rows, mut right) = (0u64, 0u64);
    for (hypothesis, reference) in pairs {
        rows += 1;
        right += u64::from(is_exact_match(hypothesis, reference));
    }
    if rows == 0 { 0.0 } else { 100.0 * right as f64 / rows as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_row_counts_as_zero() {
        let answers = [Some("a"), None, Some("b")].map(text_or_empty);
        assert!((exact_match(answers.into_iter().zip(["a", "c", "b"])) - 200.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn exact_match_forgives_the_ends_only() {
        let pairs = [(" a b\n", "a b"), ("a  b", "a b"), ("A b", "a b"), ("", "")];
        assert!((exact_match(pairs) - 50.0).abs() < f64::EPSILON);
        assert!(exact_match([]).abs() < f64::EPSILON);
    }
}
