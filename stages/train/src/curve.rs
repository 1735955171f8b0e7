//! The finder's curve as a drawing of its own: loss over learning rate, with the suggestion marked.

use crate::find_learning_rate::{Finding, Point};
use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 56.0;

const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#333}.title{font-size:15px;font-weight:600}\
.axis{stroke:#999}.grid{stroke:#ddd}.raw{fill:none;stroke:#9cb8d8;stroke-width:1}\
.smooth{fill:none;stroke:#1f5fa8;stroke-width:2.5}.mark{stroke:#1a7f37;stroke-width:2}\
.bad{stroke:#b3261e;stroke-width:1.5;stroke-dasharray:5 4}.back{fill:#fff}\
@media(prefers-color-scheme:dark){text{fill:#ddd}.grid{stroke:#333}.back{fill:#16181c}.raw{stroke:#47607f}\
.smooth{stroke:#7fb2ee}.mark{stroke:#56c271}.bad{stroke:#f2827a}}";

/// Places of the drawing for rates and losses.
struct Frame {
    rates: (f64, f64),
    losses: (f64, f64),
}

impl Frame {
    fn of(points: &[Point]) -> Self {
        let rates = points.iter().map(|point| point.learning_rate.log10());
        let (first, last) = bounds(rates).unwrap_or((-6.0, 0.0));
        let smoothed = bounds(points.iter().map(|point| point.smoothed_loss)).unwrap_or((0.0, 1.0));
        let raw = bounds(points.iter().map(|point| point.loss)).unwrap_or(smoothed);
        // The last losses of a ramp may be sky-high: half a height of them is enough.
        let room = (smoothed.1 - smoothed.0).max(1e-3) * 0.5;
        let losses = (raw.0.max(smoothed.0 - room), raw.1.min(smoothed.1 + room));
        let losses = if losses.1 > losses.0 { losses } else { (losses.0 - 0.5, losses.0 + 0.5) };
        let rates = if last > first { (first, last) } else { (first - 0.5, first + 0.5) };
        Self { rates, losses }
    }

    fn x(&self, rate: f64) -> f64 {
        let share = (rate.log10() - self.rates.0) / (self.rates.1 - self.rates.0);
        LEFT + share * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, loss: f64) -> f64 {
        let share = ((loss - self.losses.0) / (self.losses.1 - self.losses.0)).clamp(0.0, 1.0);
        HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
    }

    fn line(&self, class: &str, points: &[Point], loss: impl Fn(&Point) -> f64) -> String {
        let places = points.iter().map(|point| {
            let (x, y) = (self.x(point.learning_rate), self.y(loss(point)));
            format!("{x:.1},{y:.1}")
        });
        let places: Vec<String> = places.collect();
        format!("<polyline class=\"{class}\" points=\"{}\"/>\n", places.join(" "))
    }

    fn upright(&self, class: &str, rate: f64, label: &str, row: f64) -> String {
        let (x, bottom) = (self.x(rate), HEIGHT - BOTTOM);
        let (anchor, at) = if x > WIDTH * 0.7 { ("end", x - 6.0) } else { ("start", x + 6.0) };
        let y = TOP + 14.0 + 18.0 * row;
        format!(
            "<line class=\"{class}\" x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\"/>\n\
             <text x=\"{at:.1}\" y=\"{y}\" text-anchor=\"{anchor}\">{label}</text>\n"
        )
    }

    fn axes(&self) -> String {
        let mut out = String::new();
        let (left, right, bottom) = (LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM);
        for decade in self.rates.0.ceil() as i32..=self.rates.1.floor() as i32 {
            let (x, y) = (self.x(10_f64.powi(decade)), bottom + 20.0);
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\"/>\n\
                 <text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">1e{decade}</text>\n"
            );
        }
        let step = round_step((self.losses.1 - self.losses.0) / 4.0);
        let mut tick = (self.losses.0 / step).ceil() * step;
        let digits = (-step.log10().floor()).max(0.0) as usize;
        while tick <= self.losses.1 {
            let (x, y) = (left - 8.0, self.y(tick));
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{left}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\"/>\n\
                 <text x=\"{x}\" y=\"{:.1}\" text-anchor=\"end\">{tick:.digits$}</text>\n",
                y + 4.0
            );
            tick += step;
        }
        let _ = write!(
            out,
            "<line class=\"axis\" x1=\"{left}\" y1=\"{bottom}\" x2=\"{right}\" y2=\"{bottom}\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">learning rate</text>\n\
             <text x=\"{left}\" y=\"{:.1}\">training loss</text>\n",
            f64::midpoint(left, right),
            HEIGHT - 12.0,
            TOP - 10.0
        );
        out
    }
}

/// Draws the raw losses pale, the smoothed ones strong, and upright lines at the suggestion and the divergence.
pub(crate) fn svg(points: &[Point], finding: &Finding) -> String {
    let frame = Frame::of(points);
    let title = match finding.suggestion {
        Some(rate) => format!("Learning rate: {rate:.1e} suggested"),
        None => "Learning rate: the loss never fell clearly".to_owned(),
    };
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">\n\
         <style>{STYLE}</style>\n<rect class=\"back\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>\n\
         <text class=\"title\" x=\"{LEFT}\" y=\"22\">{title}</text>\n"
    );
    out += &frame.axes();
    out += &frame.line("raw", points, |point| point.loss);
    out += &frame.line("smooth", points, |point| point.smoothed_loss);
    if let Some(rate) = finding.divergence {
        out += &frame.upright("bad", rate, "diverges", 0.0);
    }
    if let Some(rate) = finding.suggestion {
        out += &frame.upright("mark", rate, &format!("{rate:.1e}"), 1.0);
    }
    out + "</svg>\n"
}

fn bounds(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |bounds, value| {
        let (low, high) = bounds.unwrap_or((value, value));
        Some((low.min(value), high.max(value)))
    })
}

/// 1, 2 or 5 times a power of ten, at least `wanted`.
fn round_step(wanted: f64) -> f64 {
    let power = 10_f64.powf(wanted.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|&step| step >= wanted)
        .unwrap_or(power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_of_the_axis_are_round() {
        let steps: Vec<String> =
            [0.03, 0.1, 1.2, 7.0].map(round_step).iter().map(|step| format!("{step:.2}")).collect();
        assert_eq!(steps, ["0.05", "0.10", "2.00", "10.00"]);
    }

    #[test]
    fn a_drawing_of_nothing_is_still_a_drawing() {
        let finding = Finding { suggestion: None, steepest: None, lowest: None, divergence: None };
        let drawing = svg(&[], &finding);
        assert!(drawing.starts_with("<svg ") && drawing.ends_with("</svg>\n"));
        assert!(!drawing.contains("NaN") && !drawing.contains("inf"));
    }
}
