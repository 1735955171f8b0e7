//! Tables: CSV and TSV with a header, quoted as in RFC 4180.
//!
//! Not the crate `csv`, which reads leniently: it takes a lone CR as the end of a row (or, with `\n` as the only ending,
//! leaves the CR of CRLF in the last cell), accepts text after a closing quote, reads to the end of the file for a quote
//! that is never closed, in unbounded memory, and reports lines but no columns. Rows that are cut in a wrong place still
//! train a model, so here each of these is an error with its place, and a row has at most [`MAX_ROW_BYTES`].

use std::collections::HashSet;
use std::io::{self, BufRead};

use serde_json::{Map, Value};

use crate::error::RowProblem;
use crate::lines::{Line, Lines, MAX_ROW_BYTES};
use crate::row::RawRow;

const QUOTES: &str = "put the cell in double quotes and double each quote inside it";

/// A table whose header has been read.
pub(crate) struct Table<R> {
    lines: Lines<R>,
    delimiter: char,
    columns: Vec<String>,
}

/// An error that ends the reading of a table; a [`RowProblem`] alone concerns one row.
pub(crate) enum TableError {
    Io(io::Error),
    Row(RowProblem),
}

impl From<io::Error> for TableError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<RowProblem> for TableError {
    fn from(problem: RowProblem) -> Self {
        Self::Row(problem)
    }
}

/// The cells of one row.
struct Cells {
    /// Line where the row begins.
    line: u64,
    values: Vec<String>,
}

impl<R: BufRead> Table<R> {
    /// Reads the header.
    pub(crate) fn open(lines: Lines<R>, delimiter: u8) -> Result<Self, TableError> {
        let mut table = Self { lines, delimiter: char::from(delimiter), columns: Vec::new() };
        let first = table.lines.next_number();
        let Some(header) = table.next_cells()?.transpose()? else {
            let hint = format!("name the columns in line {first}");
            return Err(RowProblem::new(first, "no header line", hint).into());
        };
        table.columns = header.values.into_iter().map(|name| name.trim().to_owned()).collect();
        let mut names = HashSet::new();
        for (index, name) in table.columns.iter().enumerate() {
            let number = index + 1;
            let reason = if name.is_empty() {
                format!("column {number} of the header has no name")
            } else if !names.insert(name) {
                format!("column {number} of the header has the same name as another: `{name}`")
            } else {
                continue;
            };
            let hint = format!("line {} names the columns: give each a different name", header.line);
            return Err(RowProblem::new(header.line, reason, hint).into());
        }
        Ok(table)
    }

    /// Returns the next row or a problem with it; `None` at the end.
    pub(crate) fn next_row(&mut self) -> Result<Option<Result<RawRow, RowProblem>>, TableError> {
        let cells = self.next_cells()?;
        Ok(cells.map(|cells| cells.and_then(|cells| self.row(cells))))
    }

    fn row(&self, cells: Cells) -> Result<RawRow, RowProblem> {
        let Cells { line, values } = cells;
        if values.len() != self.columns.len() {
            let reason = format!("{} cells where the header names {}", values.len(), self.columns.len());
            let hint = format!(
                "every row needs {} cells; quote a cell that contains the delimiter, and double each quote inside it",
                self.columns.len()
            );
            return Err(RowProblem::new(line, reason, hint));
        }
        let cell = |text: String| if text.is_empty() { Value::Null } else { Value::String(text) };
        let fields: Map<String, Value> =
            self.columns.iter().cloned().zip(values.into_iter().map(cell)).collect();
        Ok(RawRow { line, fields })
    }

    /// Reads the lines of one row, which ends with the first line that leaves no quote open. A row with a problem is read to
    /// its end too, so that its other lines are not taken for rows.
    fn next_cells(&mut self) -> Result<Option<Result<Cells, RowProblem>>, TableError> {
        let (mut number, (mut text, mut problem)) = loop {
            let Some((number, content)) = self.lines.next()? else { return Ok(None) };
            let is_one_row = content == Line::TooLong { is_quoted: false };
            match content.into_lossy_text(number) {
                Ok((text, _)) if text.trim_ascii().is_empty() => {}
                Ok(found) => break (number, found),
                Err(problem) if is_one_row => return Ok(Some(Err(problem))),
                // Such a line may leave a quote open.
                Err(problem) => return Err(problem.into()),
            }
        };
        let line = number;
        let mut parser = RowParser::new(line, self.delimiter);
        let mut bytes = 0;
        loop {
            bytes += text.len();
            parser.push_line(number, &text);
            parser.problem = parser.problem.or(problem);
            if !parser.quote_is_open {
                return Ok(Some(parser.finish()));
            }
            let ending = self.lines.ending();
            let next = if bytes > MAX_ROW_BYTES { None } else { self.lines.next()? };
            let Some((next_number, content)) = next else {
                let reason = format!("a quote that opens in line {line} is not closed");
                let unclosed = RowProblem::new(line, reason, "close the quote, or double it if it is text");
                return Err(parser.problem.unwrap_or(unclosed).into());
            };
            number = next_number;
            // The end of a row cannot be found if one of its lines cannot be read, so reading stops here.
            (text, problem) = content.into_lossy_text(number)?;
            parser.cell.push_str(ending);
        }
    }
}

/// Splits the lines of one row into cells.
///
/// After a problem, the character is treated as text and scanning continues to the end of the row.
struct RowParser {
    line: u64,
    delimiter: char,
    cells: Vec<String>,
    cell: String,
    quote_is_open: bool,
    /// Whether the current cell was quoted and its quote is closed.
    quote_was_closed: bool,
    /// The first problem.
    problem: Option<RowProblem>,
}

impl RowParser {
    fn new(line: u64, delimiter: char) -> Self {
        Self {
            line,
            delimiter,
            cells: Vec::new(),
            cell: String::new(),
            quote_is_open: false,
            quote_was_closed: false,
            problem: None,
        }
    }

    /// Adds the line with this number.
    fn push_line(&mut self, number: u64, line: &str) {
        let mut letters = line.char_indices().peekable();
        while let Some((index, letter)) = letters.next() {
            match letter {
                '"' if self.quote_is_open && letters.peek().is_some_and(|&(_, next)| next == '"') => {
                    letters.next();
                    self.cell.push('"');
                }
                '"' if self.quote_is_open => {
                    self.quote_is_open = false;
                    self.quote_was_closed = true;
                }
                _ if self.quote_is_open => self.cell.push(letter),
                '"' if self.cell.is_empty() && !self.quote_was_closed => self.quote_is_open = true,
                _ if letter == self.delimiter => {
                    self.cells.push(std::mem::take(&mut self.cell));
                    self.quote_was_closed = false;
                }
                '\r' => self.note(number, index, "a lone carriage return outside quotes"),
                _ if self.quote_was_closed => self.note(number, index, "text after a closing quote"),
                _ => self.cell.push(letter),
            }
        }
    }

    fn note(&mut self, line: u64, index: usize, reason: &str) {
        let problem = || RowProblem::new(line, reason, QUOTES).at_column(index as u64 + 1);
        self.problem.get_or_insert_with(problem);
    }

    fn finish(mut self) -> Result<Cells, RowProblem> {
        self.cells.push(self.cell);
        match self.problem {
            None => Ok(Cells { line: self.line, values: self.cells }),
            Some(problem) => Err(problem),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rows(text: impl AsRef<[u8]>, delimiter: u8) -> Vec<Result<Vec<String>, String>> {
        let Ok(mut table) = Table::open(Lines::new(text.as_ref()), delimiter) else {
            return vec![Err("header".into())];
        };
        let mut all = Vec::new();
        loop {
            match table.next_row() {
                Ok(None) => return all,
                Ok(Some(row)) => all.push(
                    row.map(|row| {
                        row.fields.values().map(|v| v.as_str().unwrap_or("∅").to_owned()).collect()
                    })
                    .map_err(|problem| format!("{}: {}", problem.line, problem.reason)),
                ),
                Err(TableError::Row(problem)) => {
                    all.push(Err(format!("fatal {}: {}", problem.line, problem.reason)));
                    return all;
                }
                Err(TableError::Io(error)) => panic!("{error}"),
            }
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "compared with results")]
    fn strings(cells: &[&str]) -> Result<Vec<String>, String> {
        Ok(cells.iter().map(|&cell| cell.to_owned()).collect())
    }

    #[test]
    fn quotes_hold_delimiters_newlines_and_quotes() {
        let text = "a,b\r\n\"x, y\",\"say \"\"aloha\"\"\r\nagain\"\r\n\r\nplain 5\" tall,\n";
        let expected = [strings(&["x, y", "say \"aloha\"\r\nagain"]), strings(&["plain 5\" tall", "∅"])];
        assert_eq!(rows(text, b','), expected);
        assert_eq!(rows("a\tb\n1,5\t2\n", b'\t'), [strings(&["1,5", "2"])]);
    }

    #[test]
    fn defects_name_their_line() {
        assert_eq!(
            rows("a,b\n1\n2,3\n", b','),
            [Err("2: 1 cells where the header names 2".into()), strings(&["2", "3"])]
        );
        assert_eq!(rows("a,b\n\"1\"x,2\n", b','), [Err("2: text after a closing quote".into())]);
        assert_eq!(
            rows("a,b\n1,2\n\"1,2\n3,4\n", b',')[1],
            Err("fatal 3: a quote that opens in line 3 is not closed".into())
        );
        assert_eq!(rows("a,b\n1\r,2\n", b','), [Err("2: a lone carriage return outside quotes".into())]);
        assert_eq!(rows("a,a\n1,2\n", b','), [Err("header".into())]);
    }

    #[test]
    fn a_row_with_a_problem_is_left_out_to_its_end() {
        let good = strings(&["2", "3"]);
        for (row, problem) in [
            (&b"caf\xE9,\"multi\nx,y\"\n"[..], "2: not valid UTF-8"),
            (b"a,\"multi\ncaf\xE9,y\"\n", "3: not valid UTF-8"),
            (b"\"1\"x,\"multi\nx,y\"\n", "2: text after a closing quote"),
            (b"1\r,\"multi\nx,y\"\n", "2: a lone carriage return outside quotes"),
            (b"1,\"multi\nx,y\"z\n", "3: text after a closing quote"),
        ] {
            let text = [&b"a,b\n"[..], row, b"2,3\n"].concat();
            assert_eq!(rows(&text, b','), [Err(problem.to_owned()), good.clone()], "{problem}");
        }
        assert_eq!(
            rows(b"a,b\ncaf\xE9,\"multi\nx,y\n", b','),
            [Err("fatal 2: not valid UTF-8".to_owned())],
            "a quote that is never closed"
        );
    }

    #[test]
    fn a_long_line_with_a_quote_ends_the_file() {
        let long = "x".repeat(MAX_ROW_BYTES + 1);
        let plain = rows(format!("a,b\n{long},1\n2,3\n"), b',');
        assert_eq!(plain, [Err("2: the line is longer than 4 MiB".to_owned()), strings(&["2", "3"])]);
        let quoted = rows(format!("a,b\n{long},\"1\n2,3\"\n"), b',');
        assert_eq!(quoted, [Err("fatal 2: the line is longer than 4 MiB".to_owned())]);
    }

    proptest! {
        #[test]
        fn quoting_round_trips(cells in proptest::collection::vec("[a-z,\"\n ]{1,8}", 2)) {
            let quoted: Vec<_> = cells.iter().map(|cell| format!("\"{}\"", cell.replace('"', "\"\""))).collect();
            let text = format!("a,b\n{}\n", quoted.join(","));
            prop_assert_eq!(rows(&text, b','), vec![Ok(cells)]);
        }

        #[test]
        fn never_panics(text in "[a,\"\r\n\t ]{0,40}") {
            rows(&text, b',');
        }
    }
}
