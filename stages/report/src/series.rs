//! Curves: smoothing, thinning and the range an axis should show.

/// A point of a curve: step and value.
pub(crate) type Point = (f64, f64);

/// Returns the mean of the last `window` values at every point.
pub(crate) fn trailing_mean(points: &[Point], window: usize) -> Vec<Point> {
    let window = window.max(1);
    let mut sum = 0.0;
    let mut smooth = Vec::with_capacity(points.len());
    for (at, &(x, y)) in points.iter().enumerate() {
        sum += y;
        if at >= window {
            sum -= points[at - window].1;
        }
        smooth.push((x, sum / (at + 1).min(window) as f64));
    }
    smooth
}

/// Thins a curve to at most `2 × buckets + 2` points that draw the same outline.
///
/// The curve is cut into buckets of equal numbers of points; of each its lowest and its highest point stay, in order,
/// and so do both ends.
pub(crate) fn outline(points: &[Point], buckets: usize) -> Vec<Point> {
    let buckets = buckets.max(1);
    if points.len() <= 2 * buckets + 2 {
        return points.to_vec();
    }
    let mut kept = vec![0];
    for bucket in 0..buckets {
        let start = bucket * points.len() / buckets;
        let end = (bucket + 1) * points.len() / buckets;
        let by_value = |a: &usize, b: &usize| points[*a].1.total_cmp(&points[*b].1);
        let low = (start..end).min_by(by_value).unwrap_or(start);
        let high = (start..end).max_by(by_value).unwrap_or(start);
        kept.extend([low.min(high), low.max(high)]);
    }
    kept.push(points.len() - 1);
    kept.dedup();
    kept.into_iter().map(|at| points[at]).collect()
}

/// Returns the range of the middle values, leaving out the share `tails` at either end.
pub(crate) fn middle_range(points: &[Point], tails: f64) -> Option<(f64, f64)> {
    let mut values: Vec<f64> = points.iter().map(|&(_, y)| y).collect();
    values.sort_unstable_by(f64::total_cmp);
    let skip = (values.len() as f64 * tails) as usize;
    Some((*values.get(skip)?, *values.get(values.len() - 1 - skip)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_runs_over_the_window_only() {
        let points: Vec<Point> =
            [2.0, 4.0, 6.0, 0.0].iter().enumerate().map(|(x, &y)| (x as f64, y)).collect();
        let smooth: Vec<f64> = trailing_mean(&points, 2).into_iter().map(|(_, y)| y).collect();
        assert_eq!(smooth, [2.0, 3.0, 5.0, 3.0]);
    }

    #[test]
    fn thinning_keeps_ends_order_and_spikes() {
        let mut points: Vec<Point> = (0..10_000).map(|x| (f64::from(x), f64::from(x % 7))).collect();
        points[4321].1 = 99.0;
        let thin = outline(&points, 200);
        assert!(thin.len() <= 402);
        assert!(thin.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(thin.contains(&(4321.0, 99.0)));
        assert_eq!((thin.first(), thin.last()), (points.first(), points.last()));
        assert_eq!(outline(&points[..5], 200), points[..5]);
    }

    #[test]
    fn a_spike_does_not_set_the_range() {
        let mut points: Vec<Point> = (0..1000).map(|x| (f64::from(x), 2.0)).collect();
        points[3].1 = 1e6;
        assert_eq!(middle_range(&points, 0.01), Some((2.0, 2.0)));
        assert_eq!(middle_range(&[], 0.01), None);
    }
}
