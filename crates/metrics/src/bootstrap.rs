//! Paired bootstrap: how far the difference between two systems could move with other rows.
//!
//! Rows are drawn with replacement, the same rows for both systems, and the statistic is computed for each draw. The
//! interval is the percentile interval of these values. Few rows give wide intervals.

use crate::error::Error;
use crate::random::Stream;

/// Settings of a bootstrap.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bootstrap {
    /// Number of draws.
    pub resamples: usize,
    /// Share of the values inside the interval, between 0 and 1.
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
    /// Value on the rows as they are.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Returns `statistic` of all rows with its percentile interval over rows drawn with replacement.
///
/// `statistic` is called with indices of rows, some of them repeated. To compare two systems on the same draws, it returns
/// a difference.
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
    let [low, high] = quantiles(&values, settings.confidence);
    Ok(Interval { value, low, high })
}

/// Returns the ends of the percentile interval of sorted values.
pub(crate) fn quantiles(sorted: &[f64], confidence: f64) -> [f64; 2] {
    let tail = f64::midpoint(1.0, -confidence);
    [quantile(sorted, tail), quantile(sorted, 1.0 - tail)]
}

impl Bootstrap {
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.resamples == 0 {
            return Err(Error::Setting { name: "resamples", expected: "at least 1" });
        }
        if !(self.confidence > 0.0 && self.confidence < 1.0) {
            return Err(Error::Setting { name: "confidence", expected: "between 0 and 1, ends excluded" });
        }
        Ok(())
    }
}

/// Returns a quantile of sorted values, interpolated linearly.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let position = share * (sorted.len() - 1) as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    let weight = position - below as f64;
    sorted[below] + weight * (sorted[above] - sorted[below])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_difference_has_no_width() {
        let differences = [1.5 - 1.0, 2.5 - 2.0, 3.5 - 3.0];
        let mean = |rows: &[usize]| rows.iter().map(|&row| differences[row]).sum::<f64>() / rows.len() as f64;
        let difference = interval(3, &Bootstrap::default(), mean).expect("three rows");
        assert_eq!(difference, Interval { value: 0.5, low: 0.5, high: 0.5 });
    }

    #[test]
    fn quantiles_interpolate() {
        assert!((quantile(&[0.0, 1.0, 2.0, 3.0, 4.0], 0.375) - 1.5).abs() < 1e-12);
        assert!((quantile(&[7.0], 0.975) - 7.0).abs() < 1e-12);
    }

    #[test]
    fn bad_input_is_refused() {
        let settings = Bootstrap::default();
        assert_eq!(interval(0, &settings, |_| 0.0), Err(Error::NoRows));
        let settings = Bootstrap { resamples: 0, ..settings };
        assert!(matches!(interval(1, &settings, |_| 0.0), Err(Error::Setting { .. })));
    }
}
