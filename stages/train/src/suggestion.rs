//! Reading a learning rate off a curve of losses.

use serde::Serialize;

/// Weight of earlier losses in the smoothed loss.
const SMOOTHING: f64 = 0.9;

/// The loss has diverged when it has risen by this share of its fall.
pub(crate) const DIVERGED: f64 = 0.5;

/// The steepness at a step is measured over this many steps on either side.
const NEIGHBOURS: usize = 3;

/// One step of a ramp.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    /// Step, counted from 1.
    pub step: usize,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Mean loss before the update, in nats per target.
    pub loss: f64,
    /// Exponential mean of the losses so far, corrected for its start.
    pub smoothed_loss: f64,
}

/// Learning rates read off a curve.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Finding {
    /// Suggested rate; `None` if the loss never fell.
    pub suggestion: Option<f64>,
    /// Rate where the smoothed loss falls most steeply.
    pub steepest: Option<f64>,
    /// Rate where the smoothed loss is lowest.
    pub lowest: Option<f64>,
    /// Rate where the loss diverges.
    pub divergence: Option<f64>,
}

/// An exponential mean, corrected for starting at zero.
#[derive(Debug, Default)]
pub(crate) struct Smoothing {
    sum: f64,
    weight: f64,
}

impl Smoothing {
    /// Adds a value and returns the mean.
    pub(crate) fn add(&mut self, value: f64) -> f64 {
        self.sum = SMOOTHING * self.sum + (1.0 - SMOOTHING) * value;
        self.weight = SMOOTHING * self.weight + (1.0 - SMOOTHING);
        self.sum / self.weight
    }
}

/// Returns the rates that a curve suggests.
///
/// The loss diverges at the first point right of its minimum where it has risen by half of its fall. A fall by less than
/// 1% of the loss does not count. `not_finite` is the rate at which the loss became NaN or infinite, if it did.
pub fn suggest(points: &[Point], not_finite: Option<f64>) -> Finding {
    let Some((bottom, lowest)) =
        points.iter().enumerate().min_by(|(_, a), (_, b)| a.smoothed_loss.total_cmp(&b.smoothed_loss))
    else {
        return Finding::default();
    };
    let before = initial_loss(points);
    let fall = before - lowest.smoothed_loss;
    if fall < 0.01 * before.abs() {
        return Finding::default();
    }
    let has_diverged = |point: &&Point| point.smoothed_loss > lowest.smoothed_loss + DIVERGED * fall;
    let divergence =
        points[bottom..].iter().find(has_diverged).map(|point| point.learning_rate).or(not_finite);
    let steepest = (0..=bottom)
        .map(|index| (steepness(points, index), index))
        .filter(|(steepness, _)| steepness.is_finite())
        .min_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, index)| points[index].learning_rate);
    let suggestion = steepest.map(|rate| divergence.map_or(rate, |divergence| rate.min(divergence / 10.0)));
    Finding {
        suggestion: suggestion.map(two_digits),
        steepest,
        lowest: Some(lowest.learning_rate),
        divergence,
    }
}

/// Returns the mean of the first losses, before the rates are large enough to matter.
pub(crate) fn initial_loss(points: &[Point]) -> f64 {
    let first = &points[..points.len().min(5)];
    first.iter().map(|point| point.loss).sum::<f64>() / first.len() as f64
}

/// Returns the change of the smoothed loss per decade, by least squares around a point.
fn steepness(points: &[Point], index: usize) -> f64 {
    let near = &points[index.saturating_sub(NEIGHBOURS)..(index + NEIGHBOURS + 1).min(points.len())];
    let count = near.len() as f64;
    let x = |point: &Point| point.learning_rate.log10();
    let mean_x = near.iter().map(x).sum::<f64>() / count;
    let mean_y = near.iter().map(|point| point.smoothed_loss).sum::<f64>() / count;
    let covariance: f64 = near.iter().map(|point| (x(point) - mean_x) * (point.smoothed_loss - mean_y)).sum();
    let variance: f64 = near.iter().map(|point| (x(point) - mean_x).powi(2)).sum();
    covariance / variance
}

/// Rounds to two significant digits; the curve is not more precise.
fn two_digits(rate: f64) -> f64 {
    format!("{rate:.1e}").parse().expect("a printed number can be parsed")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a ramp of 101 steps from 1e-6 to 1 with the given loss per decade.
    fn points(loss: impl Fn(f64) -> f64) -> Vec<Point> {
        let mut smooth = Smoothing::default();
        (0..=100)
            .map(|step| {
                let decade = -6.0 + 0.06 * f64::from(step);
                let loss = loss(decade);
                Point {
                    step: step as usize + 1,
                    learning_rate: 10_f64.powf(decade),
                    loss,
                    smoothed_loss: smooth.add(loss),
                }
            })
            .collect()
    }

    /// Returns a loss that falls by 1 around 10^`at` and rises steeply above 10^`end`.
    fn valley(decade: f64, at: f64, end: f64) -> f64 {
        3.0 - 1.0 / (1.0 + (-6.0 * (decade - at)).exp()) + (decade - end).max(0.0) * 8.0
    }

    #[test]
    fn the_suggestion_is_where_the_loss_falls_most_steeply() {
        let finding = suggest(&points(|decade| valley(decade, -3.5, -0.5)), None);
        let rate = finding.suggestion.expect("the loss falls").log10();
        // Smoothing looks back, so the curve lags by a few steps.
        assert!((-3.5..-2.9).contains(&rate), "10^{rate}");
        assert!(finding.divergence.expect("it diverges") > 0.3);
    }

    #[test]
    fn the_suggestion_stays_a_decade_below_divergence() {
        let finding = suggest(&points(|decade| valley(decade, -2.0, -1.8)), None);
        let (rate, divergence) =
            (finding.suggestion.expect("it falls"), finding.divergence.expect("and rises"));
        assert!(rate <= divergence / 9.0, "{rate} and {divergence}");
        assert!(finding.steepest.expect("it falls") > rate);
    }

    #[test]
    fn a_loss_that_is_not_finite_counts_as_divergence() {
        let finding = suggest(&points(|decade| valley(decade, -0.5, 1.0)), Some(1.1));
        assert_eq!((finding.divergence, finding.suggestion), (Some(1.1), Some(0.11)));
    }

    #[test]
    fn a_loss_that_does_not_fall_suggests_nothing() {
        assert_eq!(suggest(&points(|_| 2.0), None).suggestion, None);
        assert_eq!(suggest(&points(|decade| 2.0 + (decade + 3.0).max(0.0)), None).suggestion, None);
        assert_eq!(suggest(&[], None).suggestion, None);
    }
}
