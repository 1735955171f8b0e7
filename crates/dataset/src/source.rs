//! Reading data files. The format is detected from the content, never from the file's name.

use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use fs_err::File;
use serde_json::Value;

use crate::delimited::{Table, TableError};
use crate::error::{Error, Result, RowProblem, THE_FILE};
use crate::lines::Lines;
use crate::row::RawRow;
use crate::values::{Broken, Found, Values};
use crate::{delimiter, foreign, json, values};

/// Reads rows from JSON lines, a JSON array or a table, one row in memory at a time.
///
/// Files are UTF-8 with or without byte-order marks; lines end in LF or CRLF; blank lines are skipped. The cells of a table
/// are divided by tabs, commas, semicolons or bars.
pub struct RowReader {
    path: PathBuf,
    format: Format,
}

enum Format {
    JsonLines(Lines<BufReader<File>>),
    JsonValues(Values<BufReader<File>>),
    Table(Table<BufReader<File>>),
}

impl RowReader {
    /// Opens `path` and detects its format.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be read, is empty, compressed, not UTF-8 text, a Git LFS pointer, or a table with an
    /// unusable header.
    pub fn open(path: &Path) -> Result<Self> {
        Self::of(path, files::open(path).map_err(Error::unreadable(path))?)
    }

    /// Opens `path` like [`Self::open`], but also if it is a pipe, such as `/dev/stdin` and the `<(…)` of a shell.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn open_stream(path: &Path) -> Result<Self> {
        Self::of(path, File::open(path).map_err(Error::unreadable(path))?)
    }

    fn of(path: &Path, file: File) -> Result<Self> {
        let unreadable = Error::unreadable(path);
        let mut reader = BufReader::with_capacity(1 << 16, file);
        let start = reader.fill_buf().map_err(&unreadable)?;
        foreign::refuse(path, start)?;
        // Programs that add a byte-order mark may do so more than once.
        let mark = start.chunks_exact(3).take_while(|bytes| *bytes == b"\xEF\xBB\xBF").count() * 3;
        let text = &start[mark..];
        let first = text.iter().copied().find(|byte| !byte.is_ascii_whitespace());
        let spans_lines = values::span_lines(text);
        let delimiter = delimiter::find(text);
        reader.consume(mark);
        let format = match first {
            None => {
                return Err(foreign::file_error(
                    path,
                    "holds no rows",
                    "an input file needs at least one row",
                ));
            }
            Some(b'[') => Format::JsonValues(Values::of_array(reader)),
            Some(b'{') if spans_lines => Format::JsonValues(Values::of_sequence(reader)),
            Some(b'{') => Format::JsonLines(Lines::new(reader)),
            Some(_) => {
                reader.consume(delimiter.declaration);
                let lines = Lines::after(u64::from(delimiter.declaration > 0), reader);
                let table = Table::open(lines, delimiter.byte);
                Format::Table(table.map_err(|error| table_error(path, error))?)
            }
        };
        Ok(Self { path: path.to_owned(), format })
    }

    /// Returns the next row or a problem with it; `None` at the end of the file.
    ///
    /// # Errors
    ///
    /// Fails when the rest of the file cannot be read, for example after a quote that is never closed.
    pub fn next_row(&mut self) -> Result<Option<Result<RawRow, RowProblem>>> {
        match &mut self.format {
            Format::JsonLines(lines) => next_json(lines).map_err(Error::unreadable(&self.path)),
            Format::JsonValues(values) => match values.next() {
                Ok(None) => Ok(None),
                Ok(Some(Found { line, text })) => {
                    Ok(Some(text.into_text(line).and_then(|text| json_row(line, text.trim_end()))))
                }
                Err(Broken::Io(error)) => Err(Error::unreadable(&self.path)(error)),
                Err(Broken::Row(problem)) => Err(problem.in_file(&self.path)),
            },
            Format::Table(table) => table.next_row().map_err(|error| table_error(&self.path, error)),
        }
    }
}

fn table_error(path: &Path, error: TableError) -> Error {
    match error {
        TableError::Io(error) => Error::unreadable(path)(error),
        TableError::Row(problem) => problem.in_file(path),
    }
}

fn next_json(lines: &mut Lines<BufReader<File>>) -> io::Result<Option<Result<RawRow, RowProblem>>> {
    while let Some((number, line)) = lines.next()? {
        match line.into_text(number) {
            Ok(text) if text.trim_ascii().is_empty() => {}
            // Files joined with `cat` may have a byte-order mark in the middle.
            Ok(text) => return Ok(Some(json_row(number, text.trim_start_matches('\u{FEFF}')))),
            Err(problem) => return Ok(Some(Err(problem))),
        }
    }
    Ok(None)
}

fn json_row(line: u64, text: &str) -> Result<RawRow, RowProblem> {
    match json::parse(text) {
        Ok(Value::Object(fields)) => Ok(RawRow { line, fields }),
        Ok(_) => Err(RowProblem::new(line, "the row is not a JSON object", "write a row as `{\"text\": …}`")),
        Err(problem) if problem.is_long_integer => {
            let hint = "write it as a string, in double quotes";
            Err(RowProblem::new(line + problem.line - 1, problem.reason, hint).at_column(problem.column))
        }
        Err(problem) => {
            let hint = if is_python_number(text, problem.column) {
                format!(
                    "JSON has no NaN and no Infinity: `python3 -c \"import json, sys; [print(json.dumps(json.loads(line, \
                     parse_constant=lambda _: None), ensure_ascii=False)) for line in sys.stdin if line.strip()]\" < {THE_FILE} > NEW`"
                )
            } else if text.contains('\r') {
                format!("lines end in CR alone: convert the file with `tr '\\r' '\\n' < {THE_FILE} > NEW`")
            } else {
                "correct the line, or set `on_bad_row = \"skip\"` to leave such rows out".to_owned()
            };
            let line = line + problem.line - 1;
            Err(RowProblem::new(line, format!("not JSON: {}", problem.reason), hint)
                .at_column(problem.column))
        }
    }
}

/// Returns whether the mistake at `column` is a number that only Python's JSON has.
fn is_python_number(text: &str, column: u64) -> bool {
    let column = usize::try_from(column).unwrap_or(usize::MAX);
    // The column is that of the first letter, or of the one after a minus.
    [column.saturating_sub(2), column.saturating_sub(1)]
        .iter()
        .filter_map(|&start| text.get(start..))
        .any(|rest| ["NaN", "Infinity", "-Infinity"].iter().any(|number| rest.starts_with(number)))
}
