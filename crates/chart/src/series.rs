//! Curves: smoothing, thinning and the range an axis should show.

/// A point of a curve.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Point {
    /// Horizontal value, such as a step.
    pub x: f64,
    /// Vertical value, such as a loss.
    pub y: f64,
}

impl Point {
    /// Makes a point.
    pub fn new(x: f64, y: f64) -> Self {
        Self { x, y }
    }
}

/// Lowest and highest value of an axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// Lowest value.
    pub low: f64,
    /// Highest value.
    pub high: f64,
}

impl Default for Range {
    /// Returns the range from 0 to 1.
    fn default() -> Self {
        Self { low: 0.0, high: 1.0 }
    }
}

impl Range {
    /// Returns the range of `values`; `None` without values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let ranges = values.into_iter().map(|value| Self { low: value, high: value });
        ranges.reduce(Self::union)
    }

    /// Returns the range of the vertical values of `points`; `None` without points.
    pub fn of_values(points: &[Point]) -> Option<Self> {
        Self::of(points.iter().map(|point| point.y))
    }

    /// Returns the smallest range that contains both.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self { low: self.low.min(other.low), high: self.high.max(other.high) }
    }
}

/// Returns, for every point, the mean of the last `window` values up to it.
pub fn trailing_mean(points: &[Point], window: usize) -> Vec<Point> {
    let window = window.max(1);
    let mut sum = 0.0;
    let mut smooth = Vec::with_capacity(points.len());
    for (at, point) in points.iter().enumerate() {
        sum += point.y;
        if at >= window {
            sum -= points[at - window].y;
        }
        smooth.push(Point::new(point.x, sum / (at + 1).min(window) as f64));
    }
    smooth
}

/// Thins a curve to at most `2 × buckets + 2` points with the same outline.
///
/// The curve is cut into buckets of equal numbers of points. The lowest and the highest point of each bucket stay, in
/// order, and so do both ends of the curve.
pub fn outline(points: &[Point], buckets: usize) -> Vec<Point> {
    let buckets = buckets.max(1);
    if points.len() <= 2 * buckets + 2 {
        return points.to_vec();
    }
    let mut kept = vec![0];
    for bucket in 0..buckets {
        let start = bucket * points.len() / buckets;
        let end = (bucket + 1) * points.len() / buckets;
        let by_value = |a: &usize, b: &usize| points[*a].y.total_cmp(&points[*b].y);
        let low = (start..end).min_by(by_value).unwrap_or(start);
        let high = (start..end).max_by(by_value).unwrap_or(start);
        kept.extend([low.min(high), low.max(high)]);
    }
    kept.push(points.len() - 1);
    kept.dedup();
    kept.into_iter().map(|at| points[at]).collect()
}

/// Returns the range of the values without the share `tails` at either end; `None` without points.
pub fn middle_range(points: &[Point], tails: f64) -> Option<Range> {
    let mut values: Vec<f64> = points.iter().map(|point| point.y).collect();
    values.sort_unstable_by(f64::total_cmp);
    let skip = (values.len() as f64 * tails) as usize;
    Some(Range { low: *values.get(skip)?, high: *values.get(values.len() - 1 - skip)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_covers_the_window_only() {
        let points: Vec<Point> =
            (0..4).zip([2.0, 4.0, 6.0, 0.0]).map(|(x, y)| Point::new(x.into(), y)).collect();
        let smooth: Vec<f64> = trailing_mean(&points, 2).into_iter().map(|point| point.y).collect();
        assert_eq!(smooth, [2.0, 3.0, 5.0, 3.0]);
    }

    #[test]
    fn thinning_keeps_ends_order_and_spikes() {
        let mut points: Vec<Point> = (0..10_000).map(|x| Point::new(x.into(), f64::from(x % 7))).collect();
        points[4321].y = 99.0;
        let thin = outline(&points, 200);
        assert!(thin.len() <= 402);
        assert!(thin.windows(2).all(|pair| pair[0].x < pair[1].x));
        assert!(thin.contains(&Point::new(4321.0, 99.0)));
        assert_eq!((thin.first(), thin.last()), (points.first(), points.last()));
        assert_eq!(outline(&points[..5], 200), points[..5]);
    }

    #[test]
    fn a_spike_does_not_set_the_range() {
        let mut points: Vec<Point> = (0..1000).map(|x| Point::new(x.into(), 2.0)).collect();
        points[3].y = 1e6;
        assert_eq!(middle_range(&points, 0.01), Some(Range { low: 2.0, high: 2.0 }));
        assert_eq!(middle_range(&[], 0.01), None);
        assert_eq!(Range::of_values(&points), Some(Range { low: 2.0, high: 1e6 }));
        assert_eq!(Range::of([]), None);
    }
}
