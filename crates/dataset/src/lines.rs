//! Lines of a file, one at a time, with a bound on memory.

use std::io::{self, BufRead};

/// Longest row, in bytes, that is read into memory.
pub const MAX_ROW_BYTES: usize = 16 << 20;

/// One line without its ending.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// The bytes of the line.
    Whole(Vec<u8>),
    /// The line is longer than [`MAX_ROW_BYTES`]; it was passed over.
    TooLong,
}

/// Reads `\n`-ended lines; a `\r` before the `\n` belongs to the ending.
pub(crate) struct Lines<R> {
    reader: R,
    number: u64,
    limit: usize,
}

impl<R: BufRead> Lines<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, number: 0, limit: MAX_ROW_BYTES }
    }

    /// Returns the next line with its number, or nothing at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<(u64, Line)>> {
        let mut line = Vec::new();
        let mut too_long = false;
        let mut seen = false;
        loop {
            let chunk = match self.reader.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if chunk.is_empty() {
                break;
            }
            seen = true;
            let newline = chunk.iter().position(|&byte| byte == b'\n');
            let part = &chunk[..newline.unwrap_or(chunk.len())];
            too_long |= line.len() + part.len() > self.limit;
            if too_long {
                line = Vec::new();
            } else {
                line.extend_from_slice(part);
            }
            let used = part.len() + usize::from(newline.is_some());
            self.reader.consume(used);
            if newline.is_some() {
                break;
            }
        }
        if !seen {
            return Ok(None);
        }
        self.number += 1;
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(Some((self.number, if too_long { Line::TooLong } else { Line::Whole(line) })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;

    #[test]
    fn endings_and_a_missing_last_one_are_understood() {
        let mut lines = Lines::new(BufReader::with_capacity(3, &b"one\r\n\ntwo\rx\nlast"[..]));
        let mut all = Vec::new();
        while let Some((number, Line::Whole(bytes))) = lines.next().unwrap() {
            all.push((number, String::from_utf8(bytes).unwrap()));
        }
        let expected = [(1, "one"), (2, ""), (3, "two\rx"), (4, "last")];
        assert_eq!(all, expected.map(|(number, text)| (number, text.to_owned())));
    }

    #[test]
    fn a_huge_line_is_passed_over_without_keeping_it() {
        let mut lines = Lines::new(BufReader::with_capacity(4, &b"0123456789\nok\n"[..]));
        lines.limit = 8;
        assert_eq!(lines.next().unwrap(), Some((1, Line::TooLong)));
        assert_eq!(lines.next().unwrap(), Some((2, Line::Whole(b"ok".to_vec()))));
        assert_eq!(lines.next().unwrap(), None);
    }
}
