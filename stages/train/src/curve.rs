//! The finder's curve as an SVG file: loss over learning rate, with the suggestion marked.

use chart::{Chart, Horizontal, Look, Marker, Range, Series, Size};

use crate::suggestion::{Finding, Point};

/// Draws raw and smoothed losses, and markers at the suggestion and the point of divergence.
pub(crate) fn svg(points: &[Point], finding: &Finding) -> String {
    let description = match finding.suggestion {
        Some(rate) => format!("Suggested learning rate: {rate:.1e}."),
        None => "The loss never fell clearly.".to_owned(),
    };
    let curve = |loss: fn(&Point) -> f64| -> Vec<chart::Point> {
        points.iter().map(|point| chart::Point::new(point.learning_rate, loss(point))).collect()
    };
    let (raw, smoothed) = (curve(|point| point.loss), curve(|point| point.smoothed_loss));
    let marker = |rate: f64, label: String| Marker { x: rate, ring: None, label };
    let suggested = finding.suggestion.map(|rate| marker(rate, format!("suggested: {rate:.1e}")));
    let diverges = finding.divergence.map(|rate| marker(rate, "diverges".to_owned()));
    let chart = Chart {
        name: "learning-rate",
        title: "Training loss over learning rate".to_owned(),
        description,
        horizontal: Horizontal::Logarithmic,
        x_label: "learning rate".to_owned(),
        y_label: "nats per target".to_owned(),
        y_range: y_range(&raw, &smoothed),
        series: vec![
            Series { name: "loss of a step".to_owned(), look: Look::Pale, points: raw },
            Series { name: "smoothed loss".to_owned(), look: Look::Strong, points: smoothed },
        ],
        level: None,
        markers: suggested.into_iter().chain(diverges).collect(),
    };
    chart.draw_alone(Size { name: "wide", width: 760.0, height: 420.0 }).to_string()
}

/// Returns the range of the smoothed loss, plus half of its height for raw losses; the last losses of a ramp may be huge.
fn y_range(raw: &[chart::Point], smoothed: &[chart::Point]) -> Range {
    let smoothed = Range::of_values(smoothed).unwrap_or_default();
    let raw = Range::of_values(raw).unwrap_or(smoothed);
    let margin = (smoothed.high - smoothed.low).max(1e-3) * 0.5;
    Range { low: raw.low.max(smoothed.low - margin), high: raw.high.min(smoothed.high + margin) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_without_points_is_a_valid_drawing() {
        let drawing = svg(&[], &Finding::default());
        assert!(drawing.starts_with("<svg ") && drawing.ends_with("</svg>\n"));
        assert!(!drawing.contains("NaN") && !drawing.contains("inf"));
    }

    #[test]
    fn the_suggestion_is_marked() {
        let point = |learning_rate: f64, loss: f64| Point {
            step: 1,
            learning_rate,
            loss,
            untrained_loss: 4.0,
            smoothed_loss: loss,
        };
        let finding = Finding { suggestion: Some(1e-4), divergence: Some(1e-2), ..Finding::default() };
        let drawing = svg(&[point(1e-5, 3.0), point(1e-4, 2.0), point(1e-2, 9.0)], &finding);
        assert!(drawing.contains("suggested: 1.0e-4") && drawing.contains("diverges"), "{drawing}");
    }
}
