//! Loss curves, learning rate and gradient norm.

use chart::markup::{Element, classed, element};
use chart::{
    Chart, Horizontal, Level, Look, Marker, Point, Range, Series, Size, middle_range, outline, trailing_mean,
};
use metrics::bootstrap::Interval;
use metrics::resample::Units;
use metrics::{LossSum, paired_losses};
use outputs::{CheckpointLosses, MetricsLine, Stop, TrainLine};

use crate::config::Config;
use crate::error::Error;
use crate::headline::{metric_name, printed};
use crate::number;
use crate::parts::{
    HALF, NARROW, NARROW_HALF, Section, WIDE, figure, folded, number_cell, number_column, row_head,
    scrolling, side_by_side, table, words_column,
};
use crate::source::Contents;

/// Buckets of a curve: more points would be closer than a pixel.
const BUCKETS: usize = 300;
/// Share of the training losses at either end that is ignored when the axis is scaled.
const SPIKES: f64 = 0.01;

/// Returns the charts that have points, with their sizes on a wide page.
pub(crate) fn charts(contents: &Contents, config: &Config) -> Vec<(Chart, Size)> {
    let values = |get: fn(&TrainLine) -> f64| -> Vec<Point> {
        train_lines(contents).map(|line| Point::new(line.step as f64, get(line))).collect()
    };
    let rate = values(|line| line.learning_rate);
    let norm = values(|line| f64::from(line.gradient_norm));
    let mut charts = Vec::new();
    charts.extend(loss(contents, config, &values(|line| line.train_loss)).map(|chart| (chart, WIDE)));
    charts.extend(small("learning-rate", "Learning rate", &rate, None).map(|chart| (chart, HALF)));
    let window = window(&norm, config);
    charts.extend(small("gradient-norm", "Gradient norm", &norm, Some(window)).map(|chart| (chart, HALF)));
    charts
}

/// Returns the section with all charts; `None` without charts.
///
/// # Errors
///
/// Fails when a loss of a row is not finite.
pub(crate) fn section(
    contents: &Contents,
    charts: &[(Chart, Size)],
    config: &Config,
) -> Result<Option<Section>, Error> {
    if charts.is_empty() {
        return Ok(None);
    }
    let mut section =
        Section::new("training", "Training").about(about(contents, config)?).extend(stop(contents));
    let (large, small): (Vec<_>, Vec<_>) = charts.iter().partition(|(_, size)| size.width >= WIDE.width);
    for (chart, size) in large {
        section = section.add(figure(chart, *size, NARROW));
    }
    if !small.is_empty() {
        section =
            section.add(side_by_side(small.iter().map(|(chart, size)| figure(chart, *size, NARROW_HALF))));
    }
    Ok(Some(section.add(checkpoints(contents)).extend(changed_rows(contents))))
}

/// Rows of the validation split that are listed.
const CHANGED_ROWS: usize = 20;

/// Returns how the rows of the validation split changed with the chosen checkpoint, and which got worse the most.
fn changed_rows(contents: &Contents) -> Option<Element> {
    let checkpoints = &contents.changes.as_ref()?.checkpoints;
    let changes = checkpoints.iter().find(|checkpoint| checkpoint.step == contents.choice.step)?;
    let summary = format!(
        "Rows of the validation split at the chosen step: {} improved, {} got worse, {} stayed",
        number::count(changes.improved),
        number::count(changes.worsened),
        number::count(changes.unchanged)
    );
    let columns =
        [words_column("Row"), number_column("Base"), number_column("Chosen"), number_column("Change")];
    let rows = changes.worsened_rows.iter().take(CHANGED_ROWS).map(|row| {
        vec![
            row_head(&row.id),
            number_cell(number::fixed(row.base_loss, 3)),
            number_cell(number::fixed(row.loss, 3)),
            number_cell(number::signed(row.rise(), 3)),
        ]
    });
    Some(folded(&summary, table("Rows that got worse, loss in nats per token", &columns, rows)))
}

/// Returns the smoothed training loss.
pub(crate) fn smoothed(contents: &Contents, config: &Config) -> Vec<Point> {
    let points: Vec<Point> =
        train_lines(contents).map(|line| Point::new(line.step as f64, line.train_loss)).collect();
    settled_mean(&points, window(&points, config))
}

fn loss(contents: &Contents, config: &Config, train: &[Point]) -> Option<Chart> {
    let checks: Vec<Point> = checked(contents);
    let in_run: Vec<Point> = contents
        .metrics
        .iter()
        .filter_map(|line| match line {
            MetricsLine::Validation(line) => Some(Point::new(line.step as f64, line.validation_loss)),
            MetricsLine::Train(_) => None,
        })
        .collect();
    if train.is_empty() && checks.is_empty() {
        return None;
    }
    let window = window(train, config);
    let smooth = settled_mean(train, window);
    let choice = &contents.choice;
    let base_loss = choice.base_loss;
    let chosen = (!checks.is_empty()).then(|| Marker {
        x: choice.step as f64,
        ring: Some(choice.loss),
        label: format!("step {} chosen", number::count(choice.step)),
    });
    let ranges = [middle_range(train, SPIKES * 2.0), Range::of_values(&smooth), Range::of_values(&checks)];
    let y_range = ranges.into_iter().flatten().chain(Range::of([base_loss])).reduce(Range::union)?;
    let smooth_name = match mean_name(train, window) {
        name if window > 1 => format!("training, {name}"),
        _ => "training".to_owned(),
    };
    Some(Chart {
        name: "loss",
        title: "Loss".to_owned(),
        description: describe(contents),
        horizontal: Horizontal::Linear,
        x_label: "step".to_owned(),
        y_label: "nats per token".to_owned(),
        y_range,
        series: vec![
            Series {
                name: "training, as reported".to_owned(),
                look: Look::Pale,
                points: if window > 1 { outline(train, BUCKETS) } else { Vec::new() },
            },
            Series { name: smooth_name, look: Look::Strong, points: outline(&smooth, BUCKETS) },
            Series { name: "validation, during training".to_owned(), look: Look::Hollow, points: in_run },
            Series { name: "validation, whole split".to_owned(), look: Look::Dots, points: checks },
        ],
        level: Some(Level { y: base_loss, label: format!("base model {}", number::fixed(base_loss, 3)) }),
        markers: chosen.into_iter().collect(),
    })
}

fn small(name: &'static str, title: &str, points: &[Point], smoothing: Option<usize>) -> Option<Chart> {
    let range = middle_range(points, if smoothing.is_some() { SPIKES } else { 0.0 })?;
    let line = |name: &str, look, points: &[Point]| Series {
        name: name.to_owned(),
        look,
        points: outline(points, BUCKETS),
    };
    let series = match smoothing {
        Some(window) if window > 1 => vec![
            line("as reported", Look::Pale, points),
            line(&mean_name(points, window), Look::Strong, &settled_mean(points, window)),
        ],
        _ => vec![line(title, Look::Strong, points)],
    };
    Some(Chart {
        name,
        title: title.to_owned(),
        description: format!(
            "{title} over training steps, between {} and {}.",
            number::three_digits(range.low),
            number::three_digits(range.high)
        ),
        horizontal: Horizontal::Linear,
        x_label: "step".to_owned(),
        y_label: String::new(),
        y_range: Range { low: range.low.min(0.0), ..range },
        series,
        level: None,
        markers: Vec::new(),
    })
}

/// Returns the smoothing window in lines of the metrics: that of the settings, but at most a tenth of the run.
fn window(points: &[Point], config: &Config) -> usize {
    let steps = match config.smoothing_steps {
        0 => points.last().map_or(0.0, |last| last.x / 50.0).max(50.0),
        steps => f64::from(steps),
    };
    let wanted = (steps / steps_per_line(points)).round() as usize;
    wanted.min(points.len() / 10).max(1)
}

fn steps_per_line(points: &[Point]) -> f64 {
    match points {
        [first, .., last] => ((last.x - first.x) / (points.len() - 1) as f64).max(1.0),
        _ => 1.0,
    }
}

fn mean_name(points: &[Point], window: usize) -> String {
    format!("{}-step mean", number::fixed(window as f64 * steps_per_line(points), 0))
}

/// Returns the trailing mean without its start, which is as noisy as the curve.
fn settled_mean(points: &[Point], window: usize) -> Vec<Point> {
    let mut mean = trailing_mean(points, window);
    mean.drain(..(window / 2).min(mean.len()));
    mean
}

/// Returns the points of the trained checkpoints; the base model is drawn as a level.
pub(crate) fn checked(contents: &Contents) -> Vec<Point> {
    let trained = contents.losses.checkpoints.iter().filter(|checkpoint| checkpoint.step > 0);
    trained.map(|checkpoint| Point::new(checkpoint.step as f64, checkpoint.loss)).collect()
}

fn describe(contents: &Contents) -> String {
    let choice = &contents.choice;
    format!(
        "Training and validation loss over steps. Validation loss is {} at the chosen step {}, {} for the base model.",
        number::fixed(choice.loss, 3),
        number::count(choice.step),
        number::fixed(choice.base_loss, 3)
    )
}

fn about(contents: &Contents, config: &Config) -> Result<String, Error> {
    let choice = &contents.choice;
    let mut text = vec![format!(
        "Step {} was chosen, with a validation loss of {} against {} for the base",
        number::count(choice.step),
        number::fixed(choice.loss, 3),
        number::fixed(choice.base_loss, 3)
    )];
    if let Some(change) = against_base(contents, config)? {
        text.push(format!(
            " ({} [{}, {}])",
            number::signed(change.value, 3),
            number::signed(change.low, 3),
            number::signed(change.high, 3)
        ));
    }
    if let (Some(metric), Some(score)) = (&choice.metric, choice.score) {
        let base = choice.base_score.map(|base| format!(" against {} for the base", printed(metric, base)));
        text.push(format!(
            ", for its {} of {}{}",
            metric_name(metric),
            printed(metric, score),
            base.unwrap_or_default()
        ));
    }
    if let Some(runner_up) = choice.runner_up {
        text.push(format!(
            ". Runner-up: step {} with {}",
            number::count(runner_up.step),
            number::fixed(runner_up.loss, 3)
        ));
        if let (Some(gap), Some([low, high])) = (choice.gap, choice.gap_interval) {
            text.push(format!(
                ", a gap of {} [{}, {}]",
                number::fixed(gap, 4),
                number::fixed(low, 4),
                number::fixed(high, 4)
            ));
        }
        let verdict = if choice.within_noise { ", within noise" } else { ", outside noise" };
        text.push(verdict.to_owned());
    }
    text.push(".".to_owned());
    Ok(text.concat())
}

/// Returns when and why training ended before its last step, if it did.
pub(crate) fn stopped_early(contents: &Contents) -> Option<String> {
    let Stop::Early(reason) = &contents.summary.stop else { return None };
    let step = number::count(contents.summary.steps);
    Some(format!("training ended early, at step {step}: {}", reason.trim_end_matches('.')))
}

/// Returns when and why training ended: a line for a run that took all its steps, a box for one that did not.
fn stop(contents: &Contents) -> Option<Element> {
    let steps = contents.summary.steps;
    match &contents.summary.stop {
        Stop::Finished => {
            Some(classed("p", "about").text(format!("All {} were taken.", number::counted(steps, "step"))))
        }
        Stop::Early(reason) => Some(
            classed("div", "callout")
                .child(element("h3").text(format!("Stopped early, at step {}", number::count(steps))))
                .child(element("p").text(format!(
                    "{}. The checkpoints up to then were compared as usual.",
                    number::words(reason.trim_end_matches('.'))
                ))),
        ),
        Stop::Interrupted => None,
    }
}

fn train_lines(contents: &Contents) -> impl Iterator<Item = &TrainLine> {
    contents.metrics.iter().filter_map(|line| match line {
        MetricsLine::Train(line) => Some(line),
        MetricsLine::Validation(_) => None,
    })
}

/// Returns the change from the base model to the chosen checkpoint; `None` if they are the same.
fn against_base(contents: &Contents, config: &Config) -> Result<Option<Interval>, Error> {
    let find = |step| contents.losses.checkpoints.iter().find(|checkpoint| checkpoint.step == step);
    let (Some(base), Some(chosen)) = (find(0), find(contents.choice.step)) else { return Ok(None) };
    if chosen.step == 0 {
        return Ok(None);
    }
    let losses = |checkpoint: &CheckpointLosses| -> Vec<LossSum> {
        checkpoint.rows.iter().map(|row| LossSum::new(row.loss, row.tokens)).collect()
    };
    let units = Units::auto(chosen.rows.iter().map(|row| row.group.as_deref()));
    Ok(Some(paired_losses(&losses(base), &losses(chosen), &units, &config.bootstrap())?))
}

fn checkpoints(contents: &Contents) -> Element {
    let losses = &contents.losses;
    let summary = format!(
        "Validation loss of every checkpoint ({}, {})",
        number::counted(losses.rows, "row"),
        number::counted(losses.tokens, "token")
    );
    let head = ["Step", "Loss", "Perplexity", "Against base"]
        .map(|name| classed("th", "number").attribute("scope", "col").text(name));
    let base =
        losses.checkpoints.iter().find(|checkpoint| checkpoint.step == 0).map(|checkpoint| checkpoint.loss);
    let rows = losses.checkpoints.iter().map(|checkpoint| {
        let step = match checkpoint.step {
            0 => "base".to_owned(),
            step => number::count(step),
        };
        let change = base.filter(|_| checkpoint.step > 0);
        let change = change.map_or(String::new(), |base| number::signed(checkpoint.loss - base, 3));
        let perplexity = number::three_digits(checkpoint.loss.exp());
        let cells = [step, number::fixed(checkpoint.loss, 4), perplexity, change];
        let row = cells.iter().fold(element("tr"), |row, cell| row.child(classed("td", "number").text(cell)));
        if checkpoint.step == contents.choice.step { row.attribute("class", "picked") } else { row }
    });
    let table = classed("table", "plain")
        .child(element("thead").child(element("tr").children(head)))
        .child(element("tbody").children(rows));
    folded(&summary, scrolling("Validation loss of every checkpoint", table))
}
