//! Scales of groups of values, by weighted least squares.

/// Scales tried around the one that maps the extremes of a group to the extremes of its numbers.
const TRIALS: i32 = 20;

/// How a group of values becomes numbers: value ≈ scale · number − minimum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Group {
    /// Distance of two numbers, not negative.
    pub(crate) scale: f32,
    /// Negated value of number 0, not negative.
    pub(crate) minimum: f32,
}

/// Returns the scale and the minimum with the smallest weighted error for numbers from 0 to `most`.
///
/// A value weighs more the larger its magnitude is, as large weights of a model matter more. The minimum is at most 0.
pub(crate) fn with_minimum(values: &[f32], most: i32) -> Group {
    let low = values.iter().copied().fold(0.0_f32, f32::min);
    let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if high <= low {
        return Group { scale: 0.0, minimum: -low };
    }
    let mean_square = values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32;
    let weights: Vec<f32> = values.iter().map(|value| mean_square.sqrt() + value.abs()).collect();
    let plain = Group { scale: (high - low) / most as f32, minimum: -low };
    let mut best = (error(values, &weights, plain, most), plain);
    for trial in 0..=TRIALS {
        let steps = most as f32 - 1.0 + 0.1 * trial as f32;
        let numbers = numbers(values, Group { scale: (high - low) / steps, minimum: -low }, most);
        let Some(group) = fitted(values, &weights, &numbers) else { continue };
        let found = error(values, &weights, group, most);
        if found < best.0 {
            best = (found, group);
        }
    }
    best.1
}

/// Returns the numbers of values, from 0 to `most`.
fn numbers(values: &[f32], group: Group, most: i32) -> Vec<f32> {
    let number = |value: &f32| ((value + group.minimum) / group.scale).round().clamp(0.0, most as f32);
    values.iter().map(number).collect()
}

/// Returns the scale and the minimum that fit values to given numbers best; `None` if the numbers do not differ.
fn fitted(values: &[f32], weights: &[f32], numbers: &[f32]) -> Option<Group> {
    let mut sums = Sums::default();
    for ((&value, &weight), &number) in values.iter().zip(weights).zip(numbers) {
        sums.weight += weight;
        sums.value += weight * value;
        sums.number += weight * number;
        sums.square += weight * number * number;
        sums.product += weight * number * value;
    }
    let determinant = sums.weight * sums.square - sums.number * sums.number;
    if determinant <= 0.0 {
        return None;
    }
    let scale = (sums.weight * sums.product - sums.value * sums.number) / determinant;
    let start = (sums.square * sums.value - sums.number * sums.product) / determinant;
    // A positive start cannot be stored: the group then starts at 0.
    let group = if start > 0.0 {
        Group { scale: sums.product / sums.square, minimum: 0.0 }
    } else {
        Group { scale, minimum: -start }
    };
    (group.scale > 0.0).then_some(group)
}

/// Weighted sums over a group.
#[derive(Default)]
struct Sums {
    weight: f32,
    value: f32,
    number: f32,
    square: f32,
    product: f32,
}

/// Returns the weighted squared error of a group.
fn error(values: &[f32], weights: &[f32], group: Group, most: i32) -> f32 {
    let numbers = numbers(values, group, most);
    let errors = values.iter().zip(weights).zip(numbers).map(|((value, weight), number)| {
        let difference = group.scale * number - group.minimum - value;
        weight * difference * difference
    });
    errors.sum()
}

/// Returns the scale with the smallest error, weighted by the squares of the values, for numbers from −`most` to `most` − 1;
/// it may be negative, so that the extreme value can have the number −`most`.
pub(crate) fn symmetric(values: &[f32], most: i32) -> f32 {
    let extreme = values
        .iter()
        .copied()
        .fold(0.0_f32, |best, value| if value.abs() > best.abs() { value } else { best });
    // The squares of smaller values would not be normal numbers.
    if extreme.abs() < 1e-15 {
        return 0.0;
    }
    let mut best = (0.0, 0.0);
    for trial in (0..TRIALS).map(|trial| trial - TRIALS / 2) {
        let inverse = -(most as f32 + 0.1 * trial as f32) / extreme;
        let (mut products, mut squares) = (0.0_f64, 0.0_f64);
        for &value in values {
            let number = f64::from((value * inverse).round().clamp(-most as f32, most as f32 - 1.0));
            let value = f64::from(value);
            products += value * value * value * number;
            squares += value * value * number * number;
        }
        // The error that this scale removes.
        let removed = if squares > 0.0 { products * products / squares } else { 0.0 };
        if removed > best.0 {
            best = (removed, products / squares);
        }
    }
    best.1 as f32
}
