//! Paired bootstrap: how far a difference between two systems could move with other rows.
//!
//! Rows are drawn with replacement, the same rows for both systems, and the statistic is computed again for each
//! draw. The interval is the percentile interval of those values. Few rows give wide intervals; that is the point.

use crate::error::Error;
use crate::perplexity::LossSum;
use crate::random::Stream;

/// Settings of a bootstrap.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bootstrap {
    /// How often the rows are drawn again.
    pub resamples: usize,
    /// Share of the resampled values inside the interval, between 0 and 1.
    pub confidence: f64,
    /// Seed of the pinned random stream.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { resamples: 10_000, confidence: 0.95, seed: 1 }
    }
}

/// A value with its percentile interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// The value on the rows as they are.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// Tells whether the interval contains 0: the difference could be noise.
    pub fn contains_zero(&self) -> bool {
        self.low <= 0.0 && 0.0 <= self.high
    }
}

/// Two systems on the same rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Mean score of the base.
    pub base: f64,
    /// Mean score of the other system.
    pub other: f64,
    /// Mean of the rows' differences, `other` minus `base`.
    pub difference: Interval,
    /// Number of rows.
    pub rows: usize,
    /// Rows on which `other` scores higher.
    pub better: usize,
    /// Rows on which `other` scores lower.
    pub worse: usize,
}

/// Compares the mean scores of two systems, row by row.
///
/// # Errors
///
/// Fails without rows, on unequal numbers of rows, on a score that is not finite ([`crate::row_scores`] makes
/// failed rows 0), and on a setting out of range.
pub fn paired_means(base: &[f64], other: &[f64], settings: &Bootstrap) -> Result<Comparison, Error> {
    if base.len() != other.len() {
        return Err(Error::RowsDiffer { left: base.len(), right: other.len() });
    }
    if let Some(row) = base.iter().zip(other).position(|(a, b)| !a.is_finite() || !b.is_finite()) {
        return Err(Error::NotFinite { row });
    }
    let differences: Vec<f64> = base.iter().zip(other).map(|(base, other)| other - base).collect();
    let difference = interval(base.len(), settings, |rows| mean(rows.iter().map(|&row| differences[row])))?;
    Ok(Comparison {
        base: mean(base.iter().copied()),
        other: mean(other.iter().copied()),
        difference,
        rows: base.len(),
        better: differences.iter().filter(|&&difference| difference > 0.0).count(),
        worse: differences.iter().filter(|&&difference| difference < 0.0).count(),
    })
}

/// Returns the token-weighted mean loss of `other` minus that of `base`, in nats, with its interval over rows.
///
/// # Errors
///
/// As [`paired_means`]; a row without tokens weighs nothing, but a corpus without tokens has no rows.
pub fn paired_losses(base: &[LossSum], other: &[LossSum], settings: &Bootstrap) -> Result<Interval, Error> {
    if base.len() != other.len() {
        return Err(Error::RowsDiffer { left: base.len(), right: other.len() });
    }
    if let Some(row) = base.iter().zip(other).position(|(a, b)| !a.nats.is_finite() || !b.nats.is_finite()) {
        return Err(Error::NotFinite { row });
    }
    if base.iter().all(|row| row.tokens == 0) || other.iter().all(|row| row.tokens == 0) {
        return Err(Error::NoRows);
    }
    let mean = |losses: &[LossSum], rows: &[usize]| {
        rows.iter().map(|&row| losses[row]).sum::<LossSum>().mean().unwrap_or(0.0)
    };
    interval(base.len(), settings, |rows| mean(other, rows) - mean(base, rows))
}

/// Returns `statistic` of all rows with its percentile interval over rows drawn with replacement.
///
/// `statistic` gets row numbers, some more than once; give it a difference to compare two systems on the same
/// draws.
///
/// # Errors
///
/// Fails without rows and on a setting out of range.
pub fn interval(
    rows: usize,
    settings: &Bootstrap,
    mut statistic: impl FnMut(&[usize]) -> f64,
) -> Result<Interval, Error> {
    settings.check()?;
    if rows == 0 {
        return Err(Error::NoRows);
    }
    let mut draw: Vec<usize> = (0..rows).collect();
    let value = statistic(&draw);
    let mut stream = Stream::new(settings.seed, "bootstrap");
    let mut values = Vec::with_capacity(settings.resamples);
    for _ in 0..settings.resamples {
        draw.fill_with(|| stream.below(rows));
        values.push(statistic(&draw));
    }
    values.sort_unstable_by(f64::total_cmp);
    let tail = f64::midpoint(1.0, -settings.confidence);
    Ok(Interval { value, low: quantile(&values, tail), high: quantile(&values, 1.0 - tail) })
}

impl Bootstrap {
    fn check(&self) -> Result<(), Error> {
        if self.resamples == 0 {
            return Err(Error::Setting { name: "resamples", expected: "at least 1" });
        }
        if !(self.confidence > 0.0 && self.confidence < 1.0) {
            return Err(Error::Setting { name: "confidence", expected: "between 0 and 1, ends excluded" });
        }
        Ok(())
    }
}

/// Quantile of sorted values, linear between neighbours.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let position = share * (sorted.len() - 1) as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    let weight = position - below as f64;
    sorted[below] + weight * (sorted[above] - sorted[below])
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len();
    if count == 0 { 0.0 } else { values.sum::<f64>() / count as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_difference_has_no_width() {
        let comparison =
            paired_means(&[1.0, 2.0, 3.0], &[1.5, 2.5, 3.5], &Bootstrap::default()).expect("rows");
        assert_eq!(comparison.difference, Interval { value: 0.5, low: 0.5, high: 0.5 });
        assert_eq!((comparison.better, comparison.worse), (3, 0));
    }

    #[test]
    fn losses_weigh_by_tokens() {
        let base = [LossSum::new(4.0, 1), LossSum::new(9.0, 9)];
        let other = [LossSum::new(1.0, 1), LossSum::new(9.0, 9)];
        let difference = paired_losses(&base, &other, &Bootstrap::default()).expect("rows");
        assert!((difference.value + 0.3).abs() < 1e-12);
        assert!((difference.low + 3.0).abs() < 1e-12 && difference.high.abs() < 1e-12, "{difference:?}");
    }

    #[test]
    fn quantiles_interpolate() {
        assert!((quantile(&[0.0, 1.0, 2.0, 3.0, 4.0], 0.375) - 1.5).abs() < 1e-12);
        assert!((quantile(&[7.0], 0.975) - 7.0).abs() < 1e-12);
    }

    #[test]
    fn bad_input_is_refused() {
        let settings = Bootstrap::default();
        assert_eq!(paired_means(&[], &[], &settings), Err(Error::NoRows));
        assert_eq!(paired_means(&[1.0], &[], &settings), Err(Error::RowsDiffer { left: 1, right: 0 }));
        assert_eq!(paired_means(&[1.0], &[f64::NAN], &settings), Err(Error::NotFinite { row: 0 }));
        let none = LossSum::default();
        assert_eq!(paired_losses(&[none], &[none], &settings), Err(Error::NoRows));
        for settings in [
            Bootstrap { resamples: 0, ..settings },
            Bootstrap { confidence: 1.0, ..settings },
            Bootstrap { confidence: f64::NAN, ..settings },
        ] {
            assert!(matches!(paired_means(&[1.0], &[1.0], &settings), Err(Error::Setting { .. })));
        }
    }
}
