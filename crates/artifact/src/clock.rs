//! Wall-clock time, for names and provenance only: no hash depends on it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Returns the time since 1970 in UTC.
pub fn now() -> Duration {
    #[expect(clippy::disallowed_methods, reason = "times go to provenance and quarantine names only")]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Formats a time since 1970 as `2026-01-31T12:34:56Z`.
pub fn format_utc(since_1970: Duration) -> String {
    let [year, month, day, hour, minute, second] = civil(since_1970.as_secs());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

pub(crate) fn utc_compact() -> String {
    let [year, month, day, hour, minute, second] = civil(now().as_secs());
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// Splits seconds since 1970 into year, month, day, hour, minute, second of the Gregorian calendar.
fn civil(seconds: u64) -> [u64; 6] {
    let (mut days, rest) = (seconds / 86_400, seconds % 86_400);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    [year, month, days + 1, rest / 3600, rest / 60 % 60, rest % 60]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times_are_formatted() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (4_102_444_799, "2099-12-31T23:59:59Z"),
        ] {
            assert_eq!(format_utc(Duration::from_secs(seconds)), text);
        }
    }
}
