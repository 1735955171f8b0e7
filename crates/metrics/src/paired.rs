//! Losses of two models on the same rows.

use crate::bootstrap::{Bootstrap, Interval};
use crate::counts::{Counts, Formula};
use crate::error::Error;
use crate::perplexity::LossSum;
use crate::resample::{Units, distributions};

/// Returns the mean loss of `other` minus that of `base` in nats per target, with its interval over `units` of rows.
///
/// # Errors
///
/// Fails without rows, when the numbers of rows differ, when a loss is not finite, when no row has targets, and on a
/// setting out of range. A row without targets has no weight.
pub fn paired_losses(
    base: &[LossSum],
    other: &[LossSum],
    units: &Units,
    settings: &Bootstrap,
) -> Result<Interval, Error> {
    if base.len() != other.len() {
        return Err(Error::RowsDiffer { left: base.len(), right: other.len() });
    }
    if let Some(row) = base.iter().zip(other).position(|(a, b)| !a.nats.is_finite() || !b.nats.is_finite()) {
        return Err(Error::NotFinite { row });
    }
    if base.iter().all(|row| row.tokens == 0) || other.iter().all(|row| row.tokens == 0) {
        return Err(Error::NoRows);
    }
    let counts = |losses: &[LossSum]| {
        let sums: Vec<[f64; 2]> = losses.iter().map(|row| [row.nats, row.tokens as f64]).collect();
        Counts::of_ratios(Formula::MEAN, &sums)
    };
    let drawn = distributions(units, &[&counts(other), &counts(base)], settings)?;
    Ok(drawn[0].minus(&drawn[1]).interval(settings.confidence))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_weigh_by_tokens() {
        let base = [LossSum::new(4.0, 1), LossSum::new(9.0, 9)];
        let other = [LossSum::new(1.0, 1), LossSum::new(9.0, 9)];
        let difference = paired_losses(&base, &other, &Units::rows(2), &Bootstrap::default()).expect("rows");
        assert!((difference.value + 0.3).abs() < 1e-12);
        assert!((difference.low + 3.0).abs() < 1e-12 && difference.high.abs() < 1e-12, "{difference:?}");
    }

    #[test]
    fn groups_of_equal_rows_have_wider_intervals_than_their_rows() {
        let names: Vec<String> = (0..60).map(|row| format!("g{}", row / 6)).collect();
        let losses = |sign: f64| -> Vec<LossSum> {
            (0..60).map(|row| LossSum::new(20.0 + sign * f64::from(row / 6 % 3), 10)).collect()
        };
        let width = |units: &Units| {
            let found = paired_losses(&losses(1.0), &losses(-1.0), units, &Bootstrap::default()).unwrap();
            found.high - found.low
        };
        let groups = Units::auto(names.iter().map(|name| Some(name.as_str())));
        let ratio = width(&groups) / width(&Units::rows(60));
        assert!((ratio - 6f64.sqrt()).abs() < 0.4, "intervals of groups are {ratio} times as wide");
        let few = Units::auto(names.iter().map(|name| Some(name.as_str())).take(24));
        assert_eq!(few, Units::rows(24), "four groups are too few");
    }

    #[test]
    fn bad_input_is_refused() {
        let paired_losses = |base: &[LossSum], other: &[LossSum], settings: &Bootstrap| {
            paired_losses(base, other, &Units::rows(base.len()), settings)
        };
        let settings = Bootstrap::default();
        let one = LossSum::new(1.0, 1);
        assert_eq!(paired_losses(&[], &[], &settings), Err(Error::NoRows));
        assert_eq!(paired_losses(&[one], &[], &settings), Err(Error::RowsDiffer { left: 1, right: 0 }));
        let nan = LossSum::new(f64::NAN, 1);
        assert_eq!(paired_losses(&[one], &[nan], &settings), Err(Error::NotFinite { row: 0 }));
        let none = LossSum::default();
        assert_eq!(paired_losses(&[none], &[none], &settings), Err(Error::NoRows));
        for settings in [
            Bootstrap { resamples: 0, ..settings },
            Bootstrap { confidence: 1.0, ..settings },
            Bootstrap { confidence: f64::NAN, ..settings },
        ] {
            assert!(matches!(paired_losses(&[one], &[one], &settings), Err(Error::Setting { .. })));
        }
    }
}
