//! Text for terminals: tables, sizes, ages, and names that cannot move the cursor.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Prints to stdout and ignores a closed pipe.
///
/// # Errors
///
/// Fails when stdout cannot be written, such as a file on a full disk.
pub(crate) fn print(text: &str) -> io::Result<()> {
    print_bytes(text.as_bytes())
}

/// Prints a path and a line feed, whatever bytes are in it.
///
/// # Errors
///
/// As [`print`].
pub(crate) fn print_path(path: &Path) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    print_bytes(&[path.as_os_str().as_bytes(), b"\n"].concat())
}

/// Prints bytes to stdout, which need not be UTF-8, and ignores a closed pipe.
///
/// # Errors
///
/// As [`print`].
pub(crate) fn print_bytes(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), format!("cannot write to stdout: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// Prints a value as indented JSON.
///
/// # Errors
///
/// As [`print`].
pub(crate) fn print_json(value: &serde_json::Value) -> io::Result<()> {
    print(&format!("{value:#}\n"))
}

/// Replaces control characters and marks of the direction of text, which a terminal would obey, by their escapes.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || failure::is_obeyed(c) {
            safe.extend(c.escape_unicode());
        } else {
            safe.push(c);
        }
    }
    safe
}

/// Formats a number of bytes with decimal units: `6.1 MB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Formats the time from `then` to `now` with its largest unit: `3 hours ago`.
pub(crate) fn age(then: SystemTime, now: SystemTime) -> String {
    match now.duration_since(then) {
        Ok(elapsed) => format!("{} ago", duration(elapsed)),
        Err(error) => format!("in {}", duration(error.duration())),
    }
}

/// Formats a duration with its largest unit: `3 hours`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (number, unit) = match seconds {
        0..120 => (seconds, "second"),
        120..7_200 => (seconds / 60, "minute"),
        7_200..172_800 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{number} {unit}{}", if number == 1 { "" } else { "s" })
}

/// Returns `1 artifact`, `2 artifacts`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Formats a number with at most six significant digits.
pub(crate) fn number(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let digits = (5 - value.abs().log10().floor() as i32).clamp(0, 12) as usize;
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Side on which a column is aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A table whose columns are as wide as their widest cell.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Makes an empty table.
    pub(crate) fn new(columns: &[(&str, Align)]) -> Self {
        let columns = columns.iter().map(|(name, align)| ((*name).to_owned(), *align)).collect();
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row; control characters in it are escaped.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        assert_eq!(N, self.columns.len(), "a row has a cell for every column");
        self.rows.push(cells.into_iter().map(|cell| escape(&cell)).collect());
    }

    /// Formats the table with two spaces between columns.
    pub(crate) fn text(&self) -> String {
        let header: Vec<String> = self.columns.iter().map(|(name, _)| name.clone()).collect();
        let width = |column: usize| {
            let cells = self.rows.iter().chain([&header]).map(|row| row[column].chars().count());
            cells.max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let mut text = String::new();
        for row in [&header].into_iter().chain(&self.rows) {
            let mut line = String::new();
            for ((cell, (_, align)), &width) in row.iter().zip(&self.columns).zip(&widths) {
                let padding = " ".repeat(width - cell.chars().count());
                match align {
                    Align::Left => line.extend([cell.as_str(), &padding, "  "]),
                    Align::Right => line.extend([padding.as_str(), cell, "  "]),
                }
            }
            writeln!(text, "{}", line.trim_end()).expect("writing to a string succeeds");
        }
        text
    }

    /// Formats the table as Markdown.
    pub(crate) fn markdown(&self) -> String {
        let line = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let names: Vec<String> = self.columns.iter().map(|(name, _)| name.clone()).collect();
        let rules: Vec<String> = self
            .columns
            .iter()
            .map(|(_, align)| if *align == Align::Right { "---:" } else { "---" }.to_owned())
            .collect();
        let mut text = line(&names) + &line(&rules);
        text.extend(self.rows.iter().map(|row| line(row)));
        text
    }

    /// Returns whether the table has no rows.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ages_have_one_unit() {
        let sizes = [0, 999, 1000, 999_949, 999_950, 1_500_000_000].map(bytes);
        assert_eq!(sizes, ["0 B", "999 B", "1.0 kB", "999.9 kB", "1.0 MB", "1.5 GB"]);
        let start = SystemTime::UNIX_EPOCH;
        let ages = [1, 119, 120, 7_200, 172_800].map(|s| age(start, start + Duration::from_secs(s)));
        assert_eq!(ages, ["1 second ago", "119 seconds ago", "2 minutes ago", "2 hours ago", "2 days ago"]);
        assert_eq!(age(start + Duration::from_secs(5), start), "in 5 seconds");
    }

    #[test]
    fn numbers_have_six_digits() {
        let texts = [0.0, 4.498_837_755, 0.000_2, 150.0, 69_380.0, -0.549_541_551].map(number);
        assert_eq!(texts, ["0", "4.49884", "0.0002", "150", "69380", "-0.549542"]);
    }

    #[test]
    fn a_cell_cannot_move_the_cursor() {
        let mut table = Table::new(&[("name", Align::Left), ("size", Align::Right)]);
        table.row(["a\u{1b}[2J".to_owned(), "1".to_owned()]);
        table.row(["b|c".to_owned(), "22".to_owned()]);
        assert_eq!(table.text(), "name        size\na\\u{1b}[2J     1\nb|c           22\n");
        assert_eq!(escape("\u{202e}gnp.\u{2066}a\u{2028}\tʻ"), "\\u{202e}gnp.\\u{2066}a\\u{2028}\\u{9}ʻ");
        assert!(table.markdown().ends_with("| b\\|c | 22 |\n"));
    }
}
