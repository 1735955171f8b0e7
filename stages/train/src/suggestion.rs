//! Reading a learning rate off a curve of losses.

use serde::Serialize;

/// A point of the smoothed curve is the weighted mean over this many steps on either side, or over a twelfth of a short ramp.
const NEIGHBOURS: usize = 6;

/// The loss has diverged when it has risen by this share of its fall.
const DIVERGED: f64 = 0.5;

/// Smallest fall of the loss that counts, as a share of the loss.
const LEAST_FALL: f64 = 0.01;

/// Smallest fall that counts, in standard errors of the smoothed curve.
const LEAST_ERRORS: f64 = 6.0;

/// Median of the difference of two normal numbers, in units of their standard deviation.
const MEDIAN_OF_DIFFERENCES: f64 = 0.954;

/// The suggestion is at most this share of the rate where the loss diverges.
const BELOW_DIVERGENCE: f64 = 0.25;

/// One step of a ramp.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    /// Step, counted from 1.
    pub step: usize,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Mean loss before the update, in nats per target.
    pub loss: f64,
    /// Mean loss of the same rows before training.
    pub untrained_loss: f64,
    /// Mean of all `untrained_loss` plus the smoothed difference between `loss` and `untrained_loss`.
    pub smoothed_loss: f64,
}

impl Point {
    /// Returns how much training has changed the loss of the step's rows.
    fn change(&self) -> f64 {
        self.loss - self.untrained_loss
    }
}

/// Learning rates read off a curve.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Finding {
    /// Suggested rate; `None` if the loss never fell clearly.
    pub suggestion: Option<f64>,
    /// Rate where half of the fall is done.
    pub half: Option<f64>,
    /// Rate where the smoothed loss is lowest.
    pub lowest: Option<f64>,
    /// Rate where the loss diverges.
    pub divergence: Option<f64>,
}

/// Fills in the smoothed losses.
pub(crate) fn smooth(points: &mut [Point]) {
    let mean = points.iter().map(|point| point.untrained_loss).sum::<f64>() / points.len().max(1) as f64;
    let changes: Vec<f64> = points.iter().map(Point::change).collect();
    for (index, point) in points.iter_mut().enumerate() {
        point.smoothed_loss = mean + Window::around(index, changes.len()).mean(&changes);
    }
}

/// The steps around one, with weights that fall linearly from it, the same on either side.
struct Window {
    center: usize,
    /// Steps on either side; fewer near an end, so that the mean stays centered.
    reach: usize,
}

/// Returns the number of neighbours on either side in a curve of `count` points.
fn reach_of(count: usize) -> usize {
    (count / 12).clamp(1, NEIGHBOURS)
}

impl Window {
    fn around(center: usize, count: usize) -> Self {
        Self { center, reach: reach_of(count).min(center).min(count - 1 - center) }
    }

    fn weights(&self) -> impl Iterator<Item = (usize, f64)> {
        let (center, reach) = (self.center, self.reach);
        (center - reach..=center + reach)
            .map(move |index| (index, (1 + reach - index.abs_diff(center)) as f64))
    }

    fn mean(&self, values: &[f64]) -> f64 {
        let total: f64 = self.weights().map(|(_, weight)| weight).sum();
        self.weights().map(|(index, weight)| weight * values[index]).sum::<f64>() / total
    }

    /// Returns the standard error of the mean if the values scatter as those before the center do from step to step.
    ///
    /// Differences cancel the shape of the curve, and their median the batches of odd rows.
    fn error(&self, values: &[f64]) -> f64 {
        let before = &values[self.center.saturating_sub(2 * self.reach)..=self.center];
        let mut differences: Vec<f64> = before.windows(2).map(|pair| (pair[1] - pair[0]).abs()).collect();
        differences.sort_by(f64::total_cmp);
        let scatter =
            differences.get(differences.len() / 2).map_or(0.0, |median| median / MEDIAN_OF_DIFFERENCES);
        let total: f64 = self.weights().map(|(_, weight)| weight).sum();
        let squares: f64 = self.weights().map(|(_, weight)| weight * weight).sum();
        scatter * squares.sqrt() / total
    }
}

/// Returns whether the smoothed loss ends `times` its fall above its lowest point, and above where it began.
pub(crate) fn has_risen(points: &[Point], times: f64) -> bool {
    let changes: Vec<f64> = points.iter().map(Point::change).collect();
    let Some(last) = changes.len().checked_sub(1 + reach_of(changes.len())) else { return false };
    let smooth = |index: usize| Window::around(index, changes.len()).mean(&changes);
    let fall = -(0..=last).map(smooth).fold(0.0, f64::min);
    let initial = points[0].untrained_loss.abs();
    let risen = smooth(last);
    risen > (times - 1.0) * fall && risen > 0.5 * initial
}

/// Returns the medians of each value and its neighbours: a few batches of odd rows change far more than the others.
fn medians(values: &[f64]) -> Vec<f64> {
    let reach = reach_of(values.len()).div_ceil(2);
    let median = |index: usize| {
        let mut near = values[index.saturating_sub(reach)..(index + reach + 1).min(values.len())].to_vec();
        near.sort_by(f64::total_cmp);
        let middle = near.len() / 2;
        if near.len() % 2 == 1 { near[middle] } else { f64::midpoint(near[middle - 1], near[middle]) }
    };
    (0..values.len()).map(median).collect()
}

/// Returns the rates that a curve suggests.
///
/// The suggestion is the middle of the valley: halfway, in decades, between the rate where half of the fall is done and the
/// rate where the loss diverges, but at most a quarter of the latter. It diverges at the first point right of its minimum
/// where it has risen by half of its fall; if it never does, its lowest point takes that place. Both ends are on steep parts of
/// the curve, where noise moves them little; the lowest point is on a flat one. A fall by less than 1% of the loss, or by less
/// than six standard errors, does not count. `not_finite` is the rate at which the loss became NaN or infinite, if it did.
pub fn suggest(points: &[Point], not_finite: Option<f64>) -> Finding {
    let raw: Vec<f64> = points.iter().map(Point::change).collect();
    let changes = medians(&raw);
    let window = |index: usize| Window::around(index, changes.len());
    let smooth: Vec<f64> = (0..changes.len()).map(|index| window(index).mean(&changes)).collect();
    // The last points have few neighbours, so noise would make one of them the lowest.
    let whole = 0..smooth.len().saturating_sub(reach_of(smooth.len()));
    let Some(bottom) = whole.min_by(|&a, &b| smooth[a].total_cmp(&smooth[b])) else {
        return Finding::default();
    };
    let fall = -smooth[bottom];
    let initial = points.iter().map(|point| point.untrained_loss.abs()).sum::<f64>() / points.len() as f64;
    if fall < LEAST_FALL * initial || fall < LEAST_ERRORS * window(bottom).error(&raw) {
        return Finding::default();
    }
    let rate = |index: usize| points[index].learning_rate;
    let divergence = (bottom..smooth.len())
        .find(|&index| smooth[index] > (DIVERGED - 1.0) * fall)
        .map(rate)
        .or(not_finite);
    // The last point above the middle: noise may touch it before.
    let half = (0..bottom).rev().find(|&index| smooth[index] > -0.5 * fall).map_or(rate(0), rate);
    let middle = (half * divergence.unwrap_or(rate(bottom))).sqrt();
    let suggestion = divergence.map_or(middle, |divergence| middle.min(BELOW_DIVERGENCE * divergence));
    Finding {
        suggestion: Some(two_digits(suggestion)),
        half: Some(half),
        lowest: Some(rate(bottom)),
        divergence,
    }
}

/// Rounds to two significant digits; the curve is not more precise.
pub(crate) fn two_digits(rate: f64) -> f64 {
    format!("{rate:.1e}").parse().expect("a printed number can be parsed")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ramp of 101 steps from 1e-6 to 1 with the given change of the loss per decade, and noise on top.
    struct Curve<F> {
        change: F,
        /// Scatter of the rows' own losses, which the change is measured against.
        rows: f64,
        /// Scatter of the change itself.
        noise: f64,
        seed: u64,
    }

    impl<F: Fn(f64) -> f64> Curve<F> {
        fn points(&self) -> Vec<Point> {
            let mut state = self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            // The sum of four uniform numbers is close enough to a normal one.
            let mut normal = || {
                let mut uniform = || {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    (state >> 11) as f64 / (1_u64 << 53) as f64 - 0.5
                };
                (uniform() + uniform() + uniform() + uniform()) * 3.0_f64.sqrt()
            };
            let mut points: Vec<Point> = (0..=100)
                .map(|step| {
                    let decade = -6.0 + 0.06 * f64::from(step);
                    let untrained_loss = 4.5 + self.rows * normal();
                    // A small rate cannot have changed the loss by more than it moves.
                    let moved = (10_f64.powf(decade) / 1e-4).min(1.0);
                    let loss = untrained_loss + (self.change)(decade) + self.noise * moved * normal();
                    let learning_rate = 10_f64.powf(decade);
                    Point { step: step as usize + 1, learning_rate, loss, untrained_loss, smoothed_loss: 0.0 }
                })
                .collect();
            smooth(&mut points);
            points
        }
    }

    fn points(change: impl Fn(f64) -> f64) -> Vec<Point> {
        Curve { change, rows: 0.0, noise: 0.0, seed: 1 }.points()
    }

    /// Returns a change that falls by 1 around 10^`at` and rises steeply above 10^`end`.
    fn valley(decade: f64, at: f64, end: f64) -> f64 {
        let began = 1.0 / (1.0 + (-6.0 * (-6.0 - at)).exp());
        began - 1.0 / (1.0 + (-6.0 * (decade - at)).exp()) + (decade - end).max(0.0) * 8.0
    }

    #[test]
    fn the_suggestion_is_the_middle_of_the_valley() {
        let finding = suggest(&points(|decade| valley(decade, -3.0, -1.5)), None);
        let decade = |rate: Option<f64>| rate.expect("the loss falls").log10();
        assert!((decade(finding.half) + 3.0).abs() < 0.15, "{finding:?}");
        assert!((-2.2..-1.4).contains(&decade(finding.lowest)), "{finding:?}");
        assert!((-2.7..-2.1).contains(&decade(finding.suggestion)), "{finding:?}");
        assert!(decade(finding.divergence) > -1.6, "{finding:?}");
    }

    #[test]
    fn noise_moves_the_suggestion_by_less_than_a_factor_of_two_and_a_half() {
        for (at, end) in [(-4.0, -2.5), (-3.0, -1.5), (-2.5, -1.2), (-2.0, -1.0)] {
            let change = |decade: f64| 0.35 * valley(decade, at, end);
            let exact = suggest(&points(change), None).suggestion.expect("it falls");
            for seed in 1..=200 {
                // Rows differ by 0.25 and the change by 0.05 from step to step, as on the demo with batches of 8.
                let noisy = Curve { change, rows: 0.25, noise: 0.05, seed };
                let found = suggest(&noisy.points(), None).suggestion.expect("it falls");
                let ratio = found / exact;
                assert!((0.4..2.5).contains(&ratio), "seed {seed}: {found:e} instead of {exact:e}");
            }
        }
    }

    #[test]
    fn noise_alone_hardly_ever_suggests_a_rate() {
        let suggestions = (1..=200).filter_map(|seed| {
            let noisy = Curve { change: |_| 0.0, rows: 0.25, noise: 0.05, seed };
            suggest(&noisy.points(), None).suggestion
        });
        let count = suggestions.count();
        assert!(count <= 3, "{count} of 200");
    }

    #[test]
    fn the_suggestion_stays_below_divergence() {
        let finding = suggest(&points(|decade| valley(decade, -2.0, -1.8)), None);
        let (rate, divergence) =
            (finding.suggestion.expect("it falls"), finding.divergence.expect("and rises"));
        assert!(rate <= divergence / 3.9, "{rate} and {divergence}");
    }

    #[test]
    fn a_loss_that_is_not_finite_counts_as_divergence() {
        let finding = suggest(&points(|decade| valley(decade, -0.5, 1.0)), Some(1.1));
        assert_eq!((finding.divergence, finding.suggestion), (Some(1.1), Some(0.28)));
    }

    #[test]
    fn a_loss_that_does_not_fall_suggests_nothing() {
        assert_eq!(suggest(&points(|_| 0.0), None).suggestion, None);
        assert_eq!(suggest(&points(|decade| (decade + 3.0).max(0.0)), None).suggestion, None);
        assert_eq!(suggest(&[], None).suggestion, None);
    }

    #[test]
    fn a_ramp_ends_when_the_loss_is_far_above_its_beginning() {
        let falls = points(|decade| valley(decade, -3.0, 1.0));
        assert!(!has_risen(&falls, 4.0));
        let rises = points(|decade| 0.2 * valley(decade, -3.0, -1.5) + (decade + 1.5).max(0.0) * 4.0);
        let end = (1..=rises.len()).find(|&count| has_risen(&rises[..count], 4.0)).expect("it rises");
        assert!((75..100).contains(&end), "{end}");
    }
}
