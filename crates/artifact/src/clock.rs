//! Wall-clock time, for names and provenance only: no hash depends on it.

use std::time::{Duration, SystemTime};

/// Returns the current time.
pub fn now() -> SystemTime {
    #[expect(clippy::disallowed_methods, reason = "times go to provenance and quarantine names only")]
    SystemTime::now()
}

/// Formats a time in UTC, to the second: `2026-01-31T12:34:56Z`.
pub fn format_utc(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// Formats a time in UTC for file names: `20260131T123456Z`.
pub(crate) fn format_compact(time: SystemTime) -> String {
    format_utc(time).replace(['-', ':'], "")
}

/// Returns the time since 1970.
pub(crate) fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times_are_formatted() {
        for (seconds, text, compact) in [
            (0, "1970-01-01T00:00:00Z", "19700101T000000Z"),
            (951_782_400, "2000-02-29T00:00:00Z", "20000229T000000Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z", "20231114T221320Z"),
            (4_102_444_799, "2099-12-31T23:59:59Z", "20991231T235959Z"),
        ] {
            let time = SystemTime::UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 999);
            assert_eq!((format_utc(time).as_str(), format_compact(time).as_str()), (text, compact));
        }
    }
}
