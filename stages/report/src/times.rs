//! Times, memory and cache hits of the stages. They differ between runs, so they go to the telemetry and into no hash.

use std::path::Path;

use chart::markup::{Element, classed};
use chart::{Chart, Horizontal, Look, Point, Range, Series, outline};
use outputs::{Document as _, Line as _, StageTimes, Times, TimingLine};
use serde_json::Value;

use crate::number;
use crate::parts::{HALF, NARROW_HALF, Section, figure, side_by_side};

/// Points of a curve that are drawn.
const BUCKETS: usize = 200;

/// Times of the stages, and what train recorded while it ran.
#[derive(Debug, Clone, Default)]
pub(crate) struct Telemetry {
    pub(crate) times: Times,
    timing: Vec<TimingLine>,
}

impl Telemetry {
    /// Reads what the artifacts recorded about their making; whatever is missing stays empty.
    ///
    /// `since` is when this run of the pipeline began, as in provenance: artifacts that were finished before are cache hits.
    pub(crate) fn read(artifacts: &[(&'static str, &Path)], since: Option<&str>) -> Self {
        let mut telemetry = Self::default();
        for (stage, folder) in artifacts {
            let provenance = read_json(&folder.join("provenance.json"));
            if *stage == "train" {
                telemetry.times.machine = machine(&provenance);
                telemetry.timing = timing(&folder.join("telemetry").join(TimingLine::FILE));
            }
            telemetry.times.stages.insert((*stage).to_owned(), stage_times(&provenance, since));
        }
        telemetry.times.tokens_per_second = telemetry.timing.last().map(|line| line.tokens_per_second);
        telemetry
    }

    /// Returns whether nothing was recorded, as for builds that must be the same to the byte.
    pub(crate) fn is_empty(&self) -> bool {
        self.timing.is_empty() && self.times.stages.values().all(|times| times.wall_seconds.is_none())
    }

    /// Writes the times for programs.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), outputs::Error> {
        self.times.write(folder)
    }

    /// Returns the section with speed and memory over the steps.
    pub(crate) fn section(&self) -> Section {
        let total: f64 = self.times.stages.values().filter_map(|times| times.wall_seconds).sum();
        let mut about = vec![format!("All stages together took {}.", duration(total))];
        about.extend(self.times.machine.as_ref().map(|machine| format!("Trained on {machine}.")));
        about.extend(self.times.tokens_per_second.map(|speed| {
            format!("Training took in {} trained tokens per second.", number::three_digits(speed))
        }));
        let about = about.join(" ");
        let charts = [self.speed(), self.memory()];
        let figures = charts.iter().flatten().map(|chart| figure(chart, HALF, NARROW_HALF));
        let section = Section::new("cost", "Speed and memory").about(about);
        if self.timing.is_empty() { section } else { section.add(side_by_side(figures)) }
    }

    fn speed(&self) -> Option<Chart> {
        let points = speeds(&self.timing);
        let range = Range::of_values(&points)?;
        Some(Chart {
            description: format!(
                "Between {} and {} trained tokens per second.",
                number::three_digits(range.low),
                number::three_digits(range.high)
            ),
            y_range: Range { low: 0.0, ..range },
            series: vec![Series {
                name: "tokens per second".to_owned(),
                look: Look::Strong,
                points: outline(&points, BUCKETS),
            }],
            ..chart("speed", "Speed", "trained tokens per second")
        })
    }

    fn memory(&self) -> Option<Chart> {
        let curve = |name: &str, hue: usize, get: fn(&TimingLine) -> Option<u64>| {
            let points: Vec<Point> = self
                .timing
                .iter()
                .filter_map(|line| Some(Point::new(line.step as f64, get(line)? as f64 / 1e9)))
                .collect();
            (!points.is_empty()).then(|| Series {
                name: name.to_owned(),
                look: Look::Hue(hue),
                points: outline(&points, BUCKETS),
            })
        };
        let series: Vec<Series> = [
            curve("process", 7, |line| line.resident_bytes),
            curve("MLX, peak", 1, |line| line.peak_bytes),
            curve("MLX, in use", 0, |line| line.active_bytes),
        ]
        .into_iter()
        .flatten()
        .collect();
        let highest = Range::of(series.iter().flat_map(|series| series.points.iter().map(|point| point.y)))?;
        Some(Chart {
            description: format!("At most {} GB.", number::three_digits(highest.high)),
            y_range: Range { low: 0.0, ..highest },
            series,
            ..chart("memory", "Memory", "GB")
        })
    }
}

fn chart(name: &'static str, title: &str, y_label: &str) -> Chart {
    Chart {
        name,
        title: title.to_owned(),
        description: String::new(),
        horizontal: Horizontal::Linear,
        x_label: "step".to_owned(),
        y_label: y_label.to_owned(),
        y_range: Range::default(),
        series: Vec::new(),
        level: None,
        markers: Vec::new(),
    }
}

/// Returns the speed between two lines; a process that resumed begins again.
fn speeds(timing: &[TimingLine]) -> Vec<Point> {
    let start = TimingLine::default();
    let before = std::iter::once(&start).chain(timing);
    let speed = |(before, line): (&TimingLine, &TimingLine)| {
        let before = if line.seconds > before.seconds { before } else { &start };
        let tokens = line.tokens_per_second * line.seconds - before.tokens_per_second * before.seconds;
        let seconds = line.seconds - before.seconds;
        (seconds > 0.0 && tokens >= 0.0).then(|| Point::new(line.step as f64, tokens / seconds))
    };
    before.zip(timing).filter_map(speed).collect()
}

/// Returns the cells of a stage in the table of stages: time, memory, and whether it was a cache hit.
pub(crate) fn cells(times: &StageTimes) -> [Element; 3] {
    let wall = times.wall_seconds.map_or("–".to_owned(), duration);
    let memory = times.peak_memory_bytes.map_or("–".to_owned(), number::bytes);
    let (class, text) = match (times.reused, times.resumed) {
        (Some(true), _) => ("hit", "cache hit"),
        (Some(false) | None, true) => ("ran", "resumed"),
        (Some(false), false) => ("ran", "ran"),
        (None, false) => ("", ""),
    };
    let mut made = classed("td", "made");
    if !text.is_empty() {
        made = made.child(crate::parts::pill(class, text));
    }
    if let Some(end) = &times.end {
        made = made.child(
            classed("span", "detail").text(end.replace('T', " ").trim_end_matches('Z').to_owned() + " UTC"),
        );
    }
    [classed("td", "number").text(wall), classed("td", "number").text(memory), made]
}

/// Prints a time with at most two units.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, _) if seconds < 9.95 => format!("{seconds:.1}\u{202f}s"),
        (0, 0, seconds) => format!("{seconds}\u{202f}s"),
        (0, minutes, seconds) => format!("{minutes}\u{202f}min {seconds}\u{202f}s"),
        (hours, minutes, _) => format!("{hours}\u{202f}h {minutes}\u{202f}min"),
    }
}

fn stage_times(provenance: &Value, since: Option<&str>) -> StageTimes {
    let text = |name: &str| provenance[name].as_str().map(str::to_owned);
    let end = text("end");
    StageTimes {
        reused: since.zip(end.as_deref()).map(|(since, end)| end < since),
        start: text("start"),
        end,
        wall_seconds: provenance["wall_seconds"].as_f64(),
        cpu_seconds: provenance["cpu_seconds"].as_f64(),
        peak_memory_bytes: provenance["peak_memory_bytes"].as_u64(),
        resumed: provenance["resumed"].as_bool().unwrap_or(false),
    }
}

fn machine(provenance: &Value) -> Option<String> {
    let mut parts: Vec<String> = provenance["cpu"].as_str().map(str::to_owned).into_iter().collect();
    parts.extend(provenance["threads"].as_u64().map(|threads| number::counted(threads, "thread")));
    parts.extend(provenance["memory_bytes"].as_u64().map(number::bytes));
    parts.extend(provenance["platform"]["os"].as_str().map(str::to_owned));
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Reads the lines up to the first that is damaged: they only describe the run.
fn timing(path: &Path) -> Vec<TimingLine> {
    if !path.exists() {
        return Vec::new();
    }
    TimingLine::read(path).map(|lines| lines.map_while(Result::ok).collect()).unwrap_or_default()
}

fn read_json(path: &Path) -> Value {
    fs_err::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_speed_is_that_since_the_line_before_and_starts_again_after_a_resume() {
        let line = |step, seconds, tokens_per_second| TimingLine {
            step,
            seconds,
            tokens_per_second,
            ..TimingLine::default()
        };
        let timing = [line(10, 1.0, 100.0), line(20, 3.0, 200.0), line(30, 2.0, 50.0)];
        let found: Vec<f64> = speeds(&timing).iter().map(|point| point.y).collect();
        assert_eq!(found, [100.0, 250.0, 50.0]);
    }

    #[test]
    fn an_artifact_finished_before_the_pipeline_began_is_a_hit() {
        let provenance = serde_json::json!({"end": "2026-01-31T12:34:56Z", "wall_seconds": 3.5});
        let reused = |since| stage_times(&provenance, since).reused;
        assert_eq!(reused(Some("2026-01-31T12:34:57Z")), Some(true));
        assert_eq!(reused(Some("2026-01-31T12:34:56Z")), Some(false));
        assert_eq!(reused(None), None);
        assert_eq!(stage_times(&Value::Null, Some("x")).wall_seconds, None);
    }

    #[test]
    fn durations_have_at_most_two_units() {
        let shown = [0.04, 9.96, 61.0, 7320.0].map(duration);
        assert_eq!(
            shown,
            ["0.0\u{202f}s", "10\u{202f}s", "1\u{202f}min 1\u{202f}s", "2\u{202f}h 2\u{202f}min"]
        );
    }
}
