//! Lines of a file, one at a time, in bounded memory.

use std::io::{self, BufRead};
use std::str::Utf8Error;

use crate::error::{RowProblem, THE_FILE};

/// Longest row, in bytes, that is read into memory. Tokenizing takes some hundred bytes of memory per byte of text.
pub const MAX_ROW_BYTES: usize = 4 << 20;

/// One line without its ending.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// The bytes of the line.
    Whole(Vec<u8>),
    /// The line is longer than [`MAX_ROW_BYTES`] and was skipped.
    TooLong {
        /// Whether it holds a double quote.
        is_quoted: bool,
    },
}

impl Line {
    /// Returns the text of the line, whose number is `number`.
    ///
    /// # Errors
    ///
    /// Fails when the line is too long or is not UTF-8.
    pub(crate) fn into_text(self, number: u64) -> Result<String, RowProblem> {
        match self {
            Self::TooLong { .. } => {
                let reason = format!("the line is longer than {} MiB", MAX_ROW_BYTES >> 20);
                Err(RowProblem::new(
                    number,
                    reason,
                    "check that the file has one row per line, or split the row",
                ))
            }
            Self::Whole(bytes) => {
                String::from_utf8(bytes).map_err(|error| not_utf8(number, error.utf8_error()))
            }
        }
    }

    /// Returns the text of the line, whose number is `number`, with U+FFFD for bytes that are not UTF-8, and the problem with
    /// such bytes.
    ///
    /// # Errors
    ///
    /// Fails when the line is too long.
    pub(crate) fn into_lossy_text(self, number: u64) -> Result<(String, Option<RowProblem>), RowProblem> {
        match self {
            Self::Whole(bytes) => Ok(match String::from_utf8(bytes) {
                Ok(text) => (text, None),
                Err(error) => {
                    let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
                    (text, Some(not_utf8(number, error.utf8_error())))
                }
            }),
            too_long @ Self::TooLong { .. } => too_long.into_text(number).map(|text| (text, None)),
        }
    }
}

fn not_utf8(line: u64, error: Utf8Error) -> RowProblem {
    let hint =
        format!("save the file as UTF-8, for example with `iconv -f LATIN1 -t UTF-8 {THE_FILE} > NEW`");
    RowProblem::new(line, "not valid UTF-8", hint).at_column(error.valid_up_to() as u64 + 1)
}

/// Reads lines that end in `\n` or `\r\n`.
pub(crate) struct Lines<R> {
    reader: R,
    number: u64,
    limit: usize,
    /// Whether the last line ended in `\r\n`.
    ended_in_crlf: bool,
}

impl<R: BufRead> Lines<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self::after(0, reader)
    }

    /// Reads the lines that follow the first `number` lines of a file.
    pub(crate) fn after(number: u64, reader: R) -> Self {
        Self { reader, number, limit: MAX_ROW_BYTES, ended_in_crlf: false }
    }

    /// Returns the number of the next line.
    pub(crate) fn next_number(&self) -> u64 {
        self.number + 1
    }

    /// Returns the ending of the last line, for text that continues on the next line.
    pub(crate) fn ending(&self) -> &'static str {
        if self.ended_in_crlf { "\r\n" } else { "\n" }
    }

    /// Returns the next line with its number, counted from 1, or `None` at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<(u64, Line)>> {
        let mut line = Vec::new();
        let (mut too_long, mut is_quoted) = (false, false);
        let mut at_end = true;
        loop {
            let buffer = match self.reader.fill_buf() {
                Ok(buffer) => buffer,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if buffer.is_empty() {
                break;
            }
            at_end = false;
            let newline = buffer.iter().position(|&byte| byte == b'\n');
            let content = &buffer[..newline.unwrap_or(buffer.len())];
            too_long |= line.len() + content.len() > self.limit;
            if too_long {
                is_quoted |= line.contains(&b'"') || content.contains(&b'"');
                line = Vec::new();
            } else {
                line.extend_from_slice(content);
            }
            let used = content.len() + usize::from(newline.is_some());
            self.reader.consume(used);
            if newline.is_some() {
                break;
            }
        }
        if at_end {
            return Ok(None);
        }
        self.number += 1;
        self.ended_in_crlf = line.last() == Some(&b'\r');
        if self.ended_in_crlf {
            line.pop();
        }
        Ok(Some((self.number, if too_long { Line::TooLong { is_quoted } } else { Line::Whole(line) })))
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    #[test]
    fn both_line_endings_and_a_missing_last_one_are_read() {
        let mut lines = Lines::new(BufReader::with_capacity(3, &b"one\r\n\ntwo\rx\nlast"[..]));
        let mut all = Vec::new();
        while let Some((number, Line::Whole(bytes))) = lines.next().unwrap() {
            all.push((number, String::from_utf8(bytes).unwrap()));
        }
        let expected = [(1, "one"), (2, ""), (3, "two\rx"), (4, "last")];
        assert_eq!(all, expected.map(|(number, text)| (number, text.to_owned())));
    }

    #[test]
    fn a_huge_line_is_skipped_without_keeping_it() {
        let text = b"0123456789\nok\n012345678901\"\n\"12345678901\n";
        let mut lines = Lines::new(BufReader::with_capacity(4, &text[..]));
        lines.limit = 8;
        assert_eq!(lines.next().unwrap(), Some((1, Line::TooLong { is_quoted: false })));
        assert_eq!(lines.next().unwrap(), Some((2, Line::Whole(b"ok".to_vec()))));
        assert_eq!(lines.next().unwrap(), Some((3, Line::TooLong { is_quoted: true })));
        assert_eq!(lines.next().unwrap(), Some((4, Line::TooLong { is_quoted: true })));
        assert_eq!(lines.next().unwrap(), None);
    }
}
