//! Tables: CSV and TSV with a header, quoting as in RFC 4180.

use std::io::BufRead;

use serde_json::{Map, Value};

use crate::error::RowProblem;
use crate::lines::{Lines, MAX_ROW_BYTES};
use crate::source::{RawRow, TableFailure, utf8};

const QUOTES: &str = "put the cell in double quotes and write a quote inside it twice";

/// A table whose header has been read.
pub(crate) struct Table<R> {
    lines: Lines<R>,
    delimiter: char,
    columns: Vec<String>,
}

impl<R: BufRead> Table<R> {
    pub(crate) fn open(lines: Lines<R>, delimiter: u8) -> Result<Self, TableFailure> {
        let mut table = Self { lines, delimiter: char::from(delimiter), columns: Vec::new() };
        let Some((line, cells)) = table.next_cells()? else {
            return Err(TableFailure::Row(RowProblem::new(
                1,
                "no header line",
                "name the columns in line 1",
            )));
        };
        table.columns =
            cells.map_err(TableFailure::Row)?.into_iter().map(|name| name.trim().to_owned()).collect();
        for (index, name) in table.columns.iter().enumerate() {
            if name.is_empty() || table.columns[..index].contains(name) {
                let reason =
                    format!("column {} is named `{name}`: empty, or the second of that name", index + 1);
                let hint = "give every column its own name in the header";
                return Err(TableFailure::Row(RowProblem::new(line, reason, hint)));
            }
        }
        Ok(table)
    }

    pub(crate) fn columns(&self) -> &[String] {
        &self.columns
    }

    pub(crate) fn next_row(&mut self) -> Result<Option<Result<RawRow, RowProblem>>, TableFailure> {
        let Some((line, cells)) = self.next_cells()? else { return Ok(None) };
        Ok(Some(cells.and_then(|cells| self.named(line, cells))))
    }

    fn named(&self, line: u64, cells: Vec<String>) -> Result<RawRow, RowProblem> {
        if cells.len() != self.columns.len() {
            let reason = format!("{} cells where the header names {}", cells.len(), self.columns.len());
            return Err(RowProblem::new(line, reason, QUOTES));
        }
        let cell = |text: String| if text.is_empty() { Value::Null } else { Value::String(text) };
        let fields: Map<String, Value> =
            self.columns.iter().cloned().zip(cells.into_iter().map(cell)).collect();
        Ok(RawRow { line, fields })
    }

    /// Reads the lines of one record, which goes on while a quote is open.
    #[expect(clippy::type_complexity, reason = "a line number beside the cells or what is wrong with them")]
    fn next_cells(&mut self) -> Result<Option<(u64, Result<Vec<String>, RowProblem>)>, TableFailure> {
        let (start, mut text) = loop {
            let Some((number, content)) = self.lines.next()? else { return Ok(None) };
            match utf8(number, content) {
                Ok(text) if text.trim_ascii().is_empty() => {}
                Ok(text) => break (number, text),
                Err(problem) => return Ok(Some((number, Err(problem)))),
            }
        };
        let mut record = Record::new(start, self.delimiter);
        let mut bytes = 0;
        loop {
            bytes += text.len();
            if let Err(problem) = record.take(&text) {
                return Ok(Some((start, Err(problem))));
            }
            if !record.open {
                return Ok(Some((start, Ok(record.finish()))));
            }
            let unclosed = || {
                let reason = format!("a quote that opens in line {start} is not closed");
                TableFailure::Row(RowProblem::new(start, reason, QUOTES))
            };
            if bytes > MAX_ROW_BYTES {
                return Err(unclosed());
            }
            let (number, content) = self.lines.next()?.ok_or_else(unclosed)?;
            text = match utf8(number, content) {
                Ok(text) => text,
                // Where the record would end is unknown, so the rest of the file is too.
                Err(problem) => return Err(TableFailure::Row(problem)),
            };
            record.cell.push('\n');
        }
    }
}

/// A record being taken apart; `open` while inside quotes.
struct Record {
    start: u64,
    delimiter: char,
    cells: Vec<String>,
    cell: String,
    open: bool,
    closed: bool,
}

impl Record {
    fn new(start: u64, delimiter: char) -> Self {
        Self { start, delimiter, cells: Vec::new(), cell: String::new(), open: false, closed: false }
    }

    fn take(&mut self, line: &str) -> Result<(), RowProblem> {
        let mut letters = line.char_indices().peekable();
        while let Some((index, letter)) = letters.next() {
            match letter {
                '"' if self.open && letters.peek().is_some_and(|&(_, next)| next == '"') => {
                    letters.next();
                    self.cell.push('"');
                }
                '"' if self.open => {
                    self.open = false;
                    self.closed = true;
                }
                _ if self.open => self.cell.push(letter),
                '"' if self.cell.is_empty() && !self.closed => self.open = true,
                _ if letter == self.delimiter => {
                    self.cells.push(std::mem::take(&mut self.cell));
                    self.closed = false;
                }
                '\r' => return Err(self.problem(index, "a lone carriage return outside quotes")),
                _ if self.closed => return Err(self.problem(index, "text after a closing quote")),
                _ => self.cell.push(letter),
            }
        }
        Ok(())
    }

    fn problem(&self, index: usize, reason: &str) -> RowProblem {
        RowProblem::new(self.start, reason, QUOTES).at_column(index as u64 + 1)
    }

    fn finish(mut self) -> Vec<String> {
        self.cells.push(self.cell);
        self.cells
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rows(text: &str, delimiter: u8) -> Vec<Result<Vec<String>, String>> {
        let Ok(mut table) = Table::open(Lines::new(text.as_bytes()), delimiter) else {
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
                Err(TableFailure::Row(problem)) => {
                    all.push(Err(format!("fatal {}: {}", problem.line, problem.reason)));
                    return all;
                }
                Err(TableFailure::Io(error)) => panic!("{error}"),
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
        let expected = [strings(&["x, y", "say \"aloha\"\nagain"]), strings(&["plain 5\" tall", "∅"])];
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
