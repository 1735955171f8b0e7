//! The last line of a stage on stderr: what it did and how long it took.

use std::path::Path;
use std::time::Duration;

/// Reports that the body ran, with its summary or the path of the artifact.
pub(crate) fn finished(stage: &str, summary: &str, path: &Path, elapsed: Duration) {
    let elapsed = short_duration(elapsed);
    if summary.is_empty() {
        tracing::info!("{stage}: wrote {} in {elapsed}", path.display());
    } else {
        tracing::info!("{stage}: {summary} in {elapsed}");
    }
}

/// Reports that the artifact exists already.
pub(crate) fn up_to_date(stage: &str, path: &Path, elapsed: Duration) {
    tracing::info!("{stage}: up to date, {} ({})", path.display(), short_duration(elapsed));
}

/// Formats a duration in at most two units, such as `8 ms`, `2.1 s`, `1 min 7 s` and `2 h 5 min`.
fn short_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0) if duration.as_millis() < 100 => format!("{} ms", duration.as_millis()),
        (0, 0, _) => format!("{:.1} s", duration.as_secs_f64()),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_at_most_two_units() {
        let cases =
            [(0.008, "8 ms"), (0.1, "0.1 s"), (59.0, "59.0 s"), (67.9, "1 min 7 s"), (7530.0, "2 h 5 min")];
        for (seconds, text) in cases {
            assert_eq!(short_duration(Duration::from_secs_f64(seconds)), text);
        }
    }
}
