//! Tests of a difference between two systems, and what many of them together say.

use statrs::function::beta::beta_reg;

use crate::random::Stream;

/// Returns the p-value of paired differences, one for each independent unit: how likely a mean as far from 0 is if each
/// difference could as well have the other sign.
///
/// Two-sided; the signs are drawn `draws` times, so the smallest value is `1 / (draws + 1)`. Returns 1 without differences.
pub fn sign_flip(differences: &[f64], draws: usize, seed: u64) -> f64 {
    let observed = differences.iter().sum::<f64>().abs();
    let size: f64 = differences.iter().map(|difference| difference.abs()).sum();
    // Sums in another order differ in their last digits.
    let reached = observed - 1e-12 * size;
    let mut stream = Stream::new(seed, "sign-flip");
    let mut as_far = 0usize;
    for _ in 0..draws {
        let sum: f64 = differences.iter().map(|it| if stream.below(2) == 0 { *it } else { -it }).sum();
        as_far += usize::from(sum.abs() >= reached);
    }
    (as_far + 1) as f64 / (draws + 1) as f64
}

/// Returns the p-value of Welch's t-test: how likely means as far apart are if both samples have the same mean.
///
/// Two-sided; `None` if a sample has fewer than two values. Samples without any spread are certain: 0, or 1 if equal.
pub fn welch(a: &[f64], b: &[f64]) -> Option<f64> {
    let (a, b) = (Sample::of(a)?, Sample::of(b)?);
    let (of_a, of_b) = (a.variance / a.count, b.variance / b.count);
    let (difference, variance) = (a.mean - b.mean, of_a + of_b);
    if variance == 0.0 {
        return Some(if difference == 0.0 { 1.0 } else { 0.0 });
    }
    let freedom = variance.powi(2) / (of_a.powi(2) / (a.count - 1.0) + of_b.powi(2) / (b.count - 1.0));
    let squared = difference.powi(2) / variance;
    Some(beta_reg(freedom / 2.0, 0.5, freedom / (freedom + squared)))
}

/// Mean and variance of a sample.
struct Sample {
    count: f64,
    mean: f64,
    variance: f64,
}

impl Sample {
    fn of(values: &[f64]) -> Option<Self> {
        if values.len() < 2 {
            return None;
        }
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
        Some(Self { count, mean, variance })
    }
}

/// Returns p-values corrected for their number by Holm's method: with a limit of 0.05 on them, the chance of one or more
/// false findings among all is at most 0.05.
pub fn holm(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut corrected = vec![0.0; values.len()];
    let mut highest = 0.0f64;
    for (rank, &at) in order.iter().enumerate() {
        highest = highest.max(values[at] * (values.len() - rank) as f64).min(1.0);
        corrected[at] = highest;
    }
    corrected
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELCH: f64 = 0.049_337_420_714_069_3;

    #[test]
    fn signs_are_counted_exactly_when_there_are_few() {
        // Of 2⁴ signs, 2 give a sum of ±4; all 16 are at least as far as 0.
        let p = sign_flip(&[1.0; 4], 200_000, 1);
        assert!((p - 2.0 / 16.0).abs() < 5e-3, "{p}");
        assert!((sign_flip(&[1.0, -1.0], 999, 1) - 1.0).abs() < 1e-12);
        assert!((sign_flip(&[], 99, 1) - 1.0).abs() < 1e-12);
        assert!((sign_flip(&[0.3; 60], 999, 1) - 1e-3).abs() < 1e-12);
    }

    #[test]
    fn equal_systems_are_rarely_told_apart() {
        let mut stream = Stream::new(3, "noise");
        let mut found = 0;
        for seed in 0..400 {
            let noise: Vec<f64> = (0..20).map(|_| stream.below(2001) as f64 / 1000.0 - 1.0).collect();
            found += usize::from(sign_flip(&noise, 499, seed) <= 0.05);
        }
        assert!((6..=38).contains(&found), "{found} of 400, about 20 are expected");
    }

    #[test]
    fn welch_equals_a_reference() {
        // Computed from the definition with mpmath, to 15 digits.
        let (a, b) = ([2.1, 2.3, 1.9, 2.2], [2.6, 2.4, 2.9]);
        let p = welch(&a, &b).expect("enough values");
        assert!((p - WELCH).abs() < 1e-9, "{p}");
        assert_eq!(welch(&[1.0], &b), None);
        assert_eq!(welch(&[1.0, 1.0], &[1.0, 1.0]), Some(1.0));
        assert_eq!(welch(&[1.0, 1.0], &[2.0, 2.0]), Some(0.0));
    }

    #[test]
    fn holm_multiplies_by_what_is_left_and_never_falls() {
        assert_eq!(holm(&[0.01, 0.04, 0.03]), [0.03, 0.06, 0.06]);
        assert_eq!(holm(&[0.5, 0.9]), [1.0, 1.0]);
        assert_eq!(holm(&[]), Vec::<f64>::new());
    }
}
