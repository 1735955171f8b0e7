//! JSON values that do not have one line each: the elements of an array, and objects over several lines.

use std::io::{self, BufRead};

use crate::error::{RowProblem, THE_FILE};
use crate::lines::{Line, MAX_ROW_BYTES};

/// Reads values one at a time, in bounded memory. Their syntax is checked by whoever parses them.
pub(crate) struct Values<R> {
    reader: R,
    /// Line of the next byte, counted from 1.
    line: u64,
    place: Position,
    limit: usize,
}

/// Kind of the next item.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Position {
    /// An object of a sequence, or the end of the file.
    Sequence,
    /// The bracket that opens the array.
    BeforeArray,
    /// An element, or the bracket that closes the array.
    Element,
    /// A comma and an element, or the bracket that closes the array.
    AfterElement,
    /// Nothing more.
    AfterArray,
}

/// A value with the number of its first line.
pub(crate) struct Found {
    pub(crate) line: u64,
    pub(crate) text: Line,
}

/// An error that ends the reading.
pub(crate) enum Broken {
    Io(io::Error),
    Row(RowProblem),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl<R: BufRead> Values<R> {
    /// Reads the elements of the array that is the whole file.
    pub(crate) fn of_array(reader: R) -> Self {
        Self { reader, line: 1, place: Position::BeforeArray, limit: MAX_ROW_BYTES }
    }

    /// Reads values that follow one another.
    pub(crate) fn of_sequence(reader: R) -> Self {
        Self { reader, line: 1, place: Position::Sequence, limit: MAX_ROW_BYTES }
    }

    /// Returns the next value; `None` at the end.
    ///
    /// # Errors
    ///
    /// Fails when the array is not closed or something other than a value follows.
    pub(crate) fn next(&mut self) -> Result<Option<Found>, Broken> {
        loop {
            let byte = self.skip_space()?;
            match (self.place, byte) {
                (Position::Sequence | Position::AfterArray, None) => return Ok(None),
                (Position::BeforeArray, Some(b'[')) | (Position::AfterElement, Some(b',')) => {
                    self.place = Position::Element;
                }
                (Position::Element | Position::AfterElement, Some(b']')) => self.place = Position::AfterArray,
                (Position::Sequence, Some(_)) => return Ok(Some(self.value()?)),
                (Position::Element, Some(byte)) if byte != b',' => {
                    self.place = Position::AfterElement;
                    return Ok(Some(self.value()?));
                }
                (Position::BeforeArray | Position::Element | Position::AfterElement, None) => {
                    return Err(self.broken("the array is not closed: the file may be truncated"));
                }
                (Position::AfterArray, Some(_)) => return Err(self.broken("text after the end of the array")),
                (_, Some(_)) => return Err(self.broken("a comma or `]` is missing between two elements")),
            }
            self.bump();
        }
    }

    fn broken(&self, reason: &str) -> Broken {
        let hint =
            format!("correct the JSON there; `python3 -m json.tool {THE_FILE}` names the first mistake");
        Broken::Row(RowProblem::new(self.line, reason, hint))
    }

    /// Reads up to the end of the value that begins at the next byte.
    fn value(&mut self) -> Result<Found, Broken> {
        let (line, mut text, mut too_long) = (self.line, Vec::new(), false);
        let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
        while let Some(byte) = self.peek()? {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                _ if quoted => {}
                b'{' | b'[' => depth += 1,
                b',' | b']' if depth == 0 && self.place != Position::Sequence => break,
                b'}' | b']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            self.bump();
            if text.len() < self.limit {
                text.push(byte);
            } else {
                (too_long, text) = (true, Vec::new());
            }
            let closed = depth == 0 && !quoted && matches!(byte, b'}' | b']');
            if closed || (depth == 0 && byte == b'\n' && self.place == Position::Sequence) {
                break;
            }
        }
        Ok(Found { line, text: if too_long { Line::TooLong { is_quoted: true } } else { Line::Whole(text) } })
    }

    /// Skips white space and returns the byte after it, without taking it.
    fn skip_space(&mut self) -> io::Result<Option<u8>> {
        loop {
            match self.peek()? {
                Some(byte) if byte.is_ascii_whitespace() => self.bump(),
                found => return Ok(found),
            }
        }
    }

    /// Returns the next byte without taking it.
    fn peek(&mut self) -> io::Result<Option<u8>> {
        loop {
            match self.reader.fill_buf() {
                Ok(buffer) => return Ok(buffer.first().copied()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes the byte that [`Values::peek`] returned.
    fn bump(&mut self) {
        // The buffer is not empty after a byte was peeked.
        if let Ok(Some(byte)) = self.peek() {
            self.line += u64::from(byte == b'\n');
            self.reader.consume(1);
        }
    }
}

/// Returns whether the objects of the file that begins with `start` span several lines.
///
/// The first line leaves its object open, and the next line continues it.
pub(crate) fn span_lines(start: &[u8]) -> bool {
    let mut lines =
        start.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    let (Some(first), Some(second)) = (lines.next(), lines.next()) else { return false };
    matches!(first.last(), Some(b'{' | b'[' | b',' | b':')) && !second.starts_with(b"{")
        || matches!(first, [b'{', .., b'"' | b'0'..=b'9' | b'e' | b'l']) && second.starts_with(b"}")
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    fn all(mut values: Values<BufReader<&[u8]>>) -> Result<Vec<(u64, String)>, String> {
        let mut found = Vec::new();
        loop {
            match values.next() {
                Ok(None) => return Ok(found),
                Ok(Some(Found { line, text: Line::Whole(text) })) => {
                    found.push((line, String::from_utf8(text).unwrap().trim_end().to_owned()));
                }
                Ok(Some(Found { line, text: Line::TooLong { .. } })) => found.push((line, "…".to_owned())),
                Err(Broken::Row(problem)) => return Err(format!("{}: {}", problem.line, problem.reason)),
                Err(Broken::Io(error)) => return Err(error.to_string()),
            }
        }
    }

    fn array(text: &str) -> Result<Vec<(u64, String)>, String> {
        all(Values::of_array(BufReader::with_capacity(3, text.as_bytes())))
    }

    #[test]
    fn elements_of_an_array_keep_their_lines_and_text() {
        let text = "[\n  {\"a\": \"],}\\\"\"},\n  {\"b\":\n [1, 2]}, 5\n , \"x,y\" ]\n";
        let expected = [(2, "{\"a\": \"],}\\\"\"}"), (3, "{\"b\":\n [1, 2]}"), (4, "5"), (5, "\"x,y\"")];
        assert_eq!(array(text).unwrap(), expected.map(|(line, text)| (line, text.to_owned())));
        assert_eq!(array("[]").unwrap(), []);
    }

    #[test]
    fn arrays_that_are_cut_off_or_go_on_are_errors() {
        for (text, reason) in [
            ("[{\"a\":1},\n", "2: the array is not closed: the file may be truncated"),
            ("[{\"a\":1}\n{\"b\":2}]", "2: a comma or `]` is missing between two elements"),
            ("[{\"a\":1}] x", "1: text after the end of the array"),
            ("[,{\"a\":1}]", "1: a comma or `]` is missing between two elements"),
        ] {
            assert_eq!(array(text).unwrap_err(), reason);
        }
    }

    #[test]
    fn objects_over_several_lines_follow_one_another() {
        let text = "{\n \"a\": 1\n}\n{\n \"b\": {\"c\": 2}\n}\n";
        let found = all(Values::of_sequence(BufReader::with_capacity(2, text.as_bytes()))).unwrap();
        let expected = [(1, "{\n \"a\": 1\n}"), (4, "{\n \"b\": {\"c\": 2}\n}")];
        assert_eq!(found, expected.map(|(line, text)| (line, text.to_owned())));
        assert!(span_lines(text.as_bytes()));
        assert!(span_lines(b"{\"a\": 1\n}"));
        assert!(!span_lines(b"{\"a\":1}\n{\"b\":2}\n") && !span_lines(b"{\"a\":\n{\"b\":2}\n"));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_run_forever(text in "[\\[\\]{},\"\\\\a \n]{0,60}") {
            let _ = array(&text);
            let _ = all(Values::of_sequence(BufReader::with_capacity(3, text.as_bytes())));
        }
    }
}
