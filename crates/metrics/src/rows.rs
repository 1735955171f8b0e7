//! What a row counts, in particular one that failed.

/// Returns the text to score for a row: an empty one where the model gave none, which scores 0.
pub fn text_or_empty(prediction: Option<&str>) -> &str {
    prediction.unwrap_or_default()
}

/// Returns one score a row: 0 where there is none, or where it is not a finite number.
///
/// A mean over the rows that worked would reward a model for failing on the hard ones.
pub fn row_scores(scores: impl IntoIterator<Item = Option<f64>>) -> Vec<f64> {
    scores.into_iter().map(|score| score.filter(|score| score.is_finite()).unwrap_or(0.0)).collect()
}

/// Tells whether a row is right to the character, white space at its ends aside.
pub fn is_exact_match(hypothesis: &str, reference: &str) -> bool {
    hypothesis.trim() == reference.trim()
}

/// Returns how many of the (hypothesis, reference) rows are right to the character, from 0 to 100.
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
        assert_eq!(row_scores([Some(0.5), None, Some(f64::NAN), Some(1.0)]), [0.5, 0.0, 0.0, 1.0]);
        assert_eq!(text_or_empty(None), "");
    }

    #[test]
    fn exact_match_forgives_the_ends_only() {
        let pairs = [(" a b\n", "a b"), ("a  b", "a b"), ("A b", "a b"), ("", "")];
        assert!((exact_match(pairs) - 50.0).abs() < f64::EPSILON);
        assert!(exact_match([]).abs() < f64::EPSILON);
    }
}
