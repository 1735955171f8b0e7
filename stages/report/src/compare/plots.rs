//! Plots of a comparison: settings as parallel coordinates, and learning curves.

use std::collections::BTreeSet;

use chart::{
    Chart, Horizontal, Look, Parallel, ParallelAxis, ParallelLine, Point, Range, Series, Size, middle_range,
};

use super::runs::{Run, Runs};
use crate::headline::printed;
use crate::parts::{NARROW, Section, WIDE, figure};

/// Axes that a plot of settings has at most.
const AXES: usize = 8;
const TALL: Size = Size { name: "wide", width: 940.0, height: 360.0 };
const NARROW_TALL: Size = Size { name: "narrow", width: 620.0, height: 360.0 };

/// Returns the settings and main scores of all runs as parallel coordinates; `None` if nothing differs.
pub(crate) fn settings(runs: &Runs) -> Option<Section> {
    if runs.differing.is_empty() || runs.list.len() < 2 {
        return None;
    }
    let mut axes = Vec::new();
    let mut heights: Vec<Vec<Option<f64>>> = vec![Vec::new(); runs.list.len()];
    for name in runs.differing.iter().take(AXES) {
        let values: Vec<Option<&String>> = runs.list.iter().map(|run| run.settings.get(name)).collect();
        let (axis, found) = setting_axis(name, &values);
        axes.push(axis);
        push_all(&mut heights, found);
    }
    for key in runs.main_scores() {
        let values: Vec<Option<f64>> =
            runs.list.iter().map(|run| Runs::value(run, &key).map(|value| value.value)).collect();
        let (ticks, found) = number_axis(&values, &|value| printed(&key, value));
        axes.push(ParallelAxis { name: runs.title(&key), ticks });
        push_all(&mut heights, found);
    }
    let lines = runs.list.iter().zip(heights).map(|(run, heights)| ParallelLine { hue: run.hue, heights });
    let names: Vec<&str> = axes.iter().map(|axis| axis.name.as_str()).collect();
    let parallel = Parallel {
        name: "settings".to_owned(),
        title: "Settings and scores".to_owned(),
        description: format!("One line per run over {}. The tables above have the values.", names.join(", ")),
        lines: lines.collect(),
        axes,
    };
    Some(
        Section::new("settings", "Settings")
            .about("Each line is a run: its settings at the left, what came out at the right.")
            .add(figure(&parallel, TALL, NARROW_TALL)),
    )
}

/// Adds the height of each run on one more axis.
fn push_all(heights: &mut [Vec<Option<f64>>], found: Vec<Option<f64>>) {
    for (heights, height) in heights.iter_mut().zip(found) {
        heights.push(height);
    }
}

/// Returns the axis of a setting: by size if all values are numbers, else one place for each value.
fn setting_axis(name: &str, values: &[Option<&String>]) -> (ParallelAxis, Vec<Option<f64>>) {
    let short = name.split_once('.').map_or(name, |(_, rest)| rest).to_owned();
    let numbers: Option<Vec<Option<f64>>> = values
        .iter()
        .map(|value| {
            value
                .map(|value| value.parse::<f64>().ok().filter(|n| n.is_finite()))
                .map_or(Some(None), |n| n.map(Some))
        })
        .collect();
    if let Some(numbers) = numbers {
        let text = |wanted: f64| {
            let at = numbers
                .iter()
                .position(|number| number.is_some_and(|number| number.to_bits() == wanted.to_bits()));
            at.and_then(|at| values[at]).cloned().unwrap_or_default()
        };
        let (ticks, heights) = number_axis(&numbers, &text);
        return (ParallelAxis { name: short, ticks }, heights);
    }
    let places: BTreeSet<&String> = values.iter().flatten().copied().collect();
    let places: Vec<&String> = places.into_iter().collect();
    let height = |value: &String| {
        let at = places.iter().position(|place| *place == value).unwrap_or(0);
        if places.len() < 2 { 0.5 } else { at as f64 / (places.len() - 1) as f64 }
    };
    let ticks = places.iter().map(|place| (height(place), (*place).clone())).collect();
    (ParallelAxis { name: short, ticks }, values.iter().map(|value| value.map(height)).collect())
}

/// Returns ticks at the lowest and the highest value, and the height of each value; logarithmic if they are far apart.
fn number_axis(
    values: &[Option<f64>],
    print: &dyn Fn(f64) -> String,
) -> (Vec<(f64, String)>, Vec<Option<f64>>) {
    let Some(range) = Range::of(values.iter().flatten().copied()) else {
        return (Vec::new(), vec![None; values.len()]);
    };
    let logarithmic = range.low > 0.0 && range.high / range.low > 30.0;
    let scale = |value: f64| if logarithmic { value.ln() } else { value };
    let (low, high) = (scale(range.low), scale(range.high));
    let height = |value: f64| if high > low { (scale(value) - low) / (high - low) } else { 0.5 };
    let mut ticks = vec![(height(range.low), print(range.low))];
    if high > low {
        ticks.push((1.0, print(range.high)));
    }
    (ticks, values.iter().map(|value| value.map(height)).collect())
}

/// Returns the learning curves of all runs, one over the other.
pub(crate) fn curves(runs: &Runs) -> Option<Section> {
    let validation = |run: &Run| run.record.validation.clone();
    let training = |run: &Run| run.record.training.clone();
    let charts = [
        overlaid(runs, "validation", "Validation loss, whole split", &validation),
        overlaid(runs, "training-loss", "Training loss, smoothed", &training),
    ];
    let figures: Vec<_> = charts.iter().flatten().map(|chart| figure(chart, WIDE, NARROW)).collect();
    (!figures.is_empty()).then(|| Section::new("curves", "Learning curves").extend(figures))
}

fn overlaid(
    runs: &Runs,
    name: &'static str,
    title: &str,
    get: &dyn Fn(&Run) -> Vec<[f64; 2]>,
) -> Option<Chart> {
    let series: Vec<Series> = runs
        .list
        .iter()
        .map(|run| Series {
            name: run.name.clone(),
            look: Look::Hue(run.hue),
            points: get(run).into_iter().map(|[x, y]| Point::new(x, y)).collect(),
        })
        .filter(|series| !series.points.is_empty())
        .collect();
    let y_range =
        series.iter().filter_map(|series| middle_range(&series.points, 0.01)).reduce(Range::union)?;
    let ends: Vec<String> = series
        .iter()
        .filter_map(|series| Some(format!("{} {}", series.name, printed("loss", series.points.last()?.y))))
        .collect();
    Some(Chart {
        name,
        title: title.to_owned(),
        description: format!("At the end: {}.", ends.join("; ")),
        horizontal: Horizontal::Linear,
        x_label: "step".to_owned(),
        y_label: "nats per token".to_owned(),
        y_range,
        series,
        level: None,
        markers: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_placed_by_size_and_words_side_by_side() {
        let texts = ["1e-5", "1e-4", "1e-3"].map(str::to_owned);
        let values: Vec<Option<&String>> = texts.iter().map(Some).collect();
        let (axis, heights) = setting_axis("train.learning_rate", &values);
        assert_eq!(axis.name, "learning_rate");
        assert_eq!(axis.ticks, [(0.0, "1e-5".to_owned()), (1.0, "1e-3".to_owned())]);
        assert!((heights[1].expect("a height") - 0.5).abs() < 1e-9, "{heights:?}");

        let texts = ["cosine", "constant"].map(str::to_owned);
        let values = [Some(&texts[0]), Some(&texts[1]), None];
        let (axis, heights) = setting_axis("train.schedule", &values);
        assert_eq!(axis.ticks, [(0.0, "constant".to_owned()), (1.0, "cosine".to_owned())]);
        assert_eq!(heights, [Some(1.0), Some(0.0), None]);
    }
}
