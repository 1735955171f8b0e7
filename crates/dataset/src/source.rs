//! Data files as rows of named fields. The format is told from the content, never from the file's name.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use fs_err::File;
use serde_json::{Map, Value};

use crate::delimited::Table;
use crate::error::{Error, Result, RowProblem};
use crate::json;
use crate::lines::{Line, Lines, MAX_ROW_BYTES};

/// A row's fields before their meaning is known.
#[derive(Clone, Debug, PartialEq)]
pub struct RawRow {
    /// Line where the row begins, counted from 1.
    pub line: u64,
    /// Fields in the order of the file. Cells of a table are strings, empty cells are null.
    pub fields: Map<String, Value>,
}

/// Reads rows from JSON lines, CSV or TSV, holding one row at a time.
///
/// UTF-8 with or without a byte-order mark, lines ending in LF or CRLF; blank lines are passed over.
pub struct RowReader {
    path: PathBuf,
    format: Format,
}

enum Format {
    JsonLines(Lines<BufReader<File>>),
    Table(Table<BufReader<File>>),
}

impl RowReader {
    /// Opens `path` and finds out its format.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be read, is empty, compressed, not UTF-8 text, one JSON array, or a table
    /// with an unusable header.
    pub fn open(path: &Path) -> Result<Self> {
        let unreadable = Error::unreadable(path);
        let file = File::open(path).map_err(&unreadable)?;
        let mut reader = BufReader::with_capacity(1 << 16, file);
        let start = reader.fill_buf().map_err(&unreadable)?;
        refuse_foreign(path, start)?;
        let mark = if start.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
        let first = start[mark..].iter().copied().find(|byte| !byte.is_ascii_whitespace());
        let comes_tabbed = start[mark..]
            .split(|&byte| byte == b'\n')
            .find(|line| !line.trim_ascii().is_empty())
            .is_some_and(|line| line.contains(&b'\t'));
        reader.consume(mark);
        let lines = Lines::new(reader);
        let format = match first {
            None => return Err(file_error(path, "holds no rows", "an input file needs at least one row")),
            Some(b'{') => Format::JsonLines(lines),
            Some(b'[') => {
                let hint = "write one JSON object a line, for example with `jq -c '.[]'`";
                return Err(file_error(path, "begins with `[`: a JSON array, not JSON lines", hint));
            }
            Some(_) => {
                let delimiter = if comes_tabbed { b'\t' } else { b',' };
                let table = Table::open(lines, delimiter).map_err(|problem| match problem {
                    TableFailure::Io(error) => unreadable(error),
                    TableFailure::Row(problem) => problem.in_file(path),
                })?;
                Format::Table(table)
            }
        };
        Ok(Self { path: path.to_owned(), format })
    }

    /// Returns the next row, a problem with it, or nothing at the end of the file.
    ///
    /// # Errors
    ///
    /// Fails when the rest of the file cannot be read, for example after a quote that is never closed.
    pub fn next_row(&mut self) -> Result<Option<Result<RawRow, RowProblem>>> {
        let row = match &mut self.format {
            Format::JsonLines(lines) => next_json(lines).map_err(TableFailure::Io),
            Format::Table(table) => table.next_row(),
        };
        row.map_err(|failure| match failure {
            TableFailure::Io(error) => Error::unreadable(&self.path)(error),
            TableFailure::Row(problem) => problem.in_file(&self.path),
        })
    }

    /// Returns the column names of a table, nothing for JSON lines.
    pub fn columns(&self) -> Option<&[String]> {
        match &self.format {
            Format::JsonLines(_) => None,
            Format::Table(table) => Some(table.columns()),
        }
    }

    /// Returns the file as it was named on opening.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Ends the reading of a file, while a [`RowProblem`] ends only a row.
pub(crate) enum TableFailure {
    Io(std::io::Error),
    Row(RowProblem),
}

impl From<std::io::Error> for TableFailure {
    fn from(source: std::io::Error) -> Self {
        Self::Io(source)
    }
}

fn file_error(path: &Path, reason: &str, hint: &str) -> Error {
    Error::File { path: path.to_owned(), reason: reason.to_owned(), hint: hint.to_owned() }
}

fn refuse_foreign(path: &Path, start: &[u8]) -> Result<()> {
    let known: [(&[u8], &str, &str); 7] = [
        (b"\x1F\x8B", "is gzip-compressed", "decompress it first: `gzip -dc FILE > FILE.jsonl`"),
        (b"\x28\xB5\x2F\xFD", "is zstd-compressed", "decompress it first: `zstd -d FILE`"),
        (b"BZh", "is bzip2-compressed", "decompress it first: `bzip2 -d FILE`"),
        (b"PK\x03\x04", "is a zip archive", "unpack it first"),
        (b"PAR1", "is a Parquet file", "export it as JSON lines or CSV"),
        (b"\xFF\xFE", "is UTF-16 text", "convert it to UTF-8: `iconv -f UTF-16 -t UTF-8 FILE`"),
        (b"\xFE\xFF", "is UTF-16 text", "convert it to UTF-8: `iconv -f UTF-16 -t UTF-8 FILE`"),
    ];
    if let Some((_, reason, hint)) = known.iter().find(|(magic, ..)| start.starts_with(magic)) {
        return Err(file_error(path, reason, hint));
    }
    if start.first() == Some(&0) {
        return Err(file_error(path, "begins with a NUL byte", "rows are UTF-8 text; was the file cut off?"));
    }
    Ok(())
}

fn next_json(lines: &mut Lines<BufReader<File>>) -> std::io::Result<Option<Result<RawRow, RowProblem>>> {
    while let Some((line, content)) = lines.next()? {
        let text = match utf8(line, content) {
            Ok(text) => text,
            Err(problem) => return Ok(Some(Err(problem))),
        };
        if !text.trim_ascii().is_empty() {
            return Ok(Some(json_row(line, &text)));
        }
    }
    Ok(None)
}

fn json_row(line: u64, text: &str) -> Result<RawRow, RowProblem> {
    match json::parse(text) {
        Ok(Value::Object(fields)) => Ok(RawRow { line, fields }),
        Ok(_) => Err(RowProblem::new(line, "the row is not a JSON object", "write a row as `{\"text\": …}`")),
        Err(problem) if text.contains('\r') => {
            let hint = "a lone carriage return ends no line; convert the file: `tr '\\r' '\\n' < FILE`";
            Err(RowProblem::new(line, format!("not JSON: {}", problem.reason), hint)
                .at_column(problem.column))
        }
        Err(problem) => {
            let hint = "correct the line, or set `on_bad_row = \"skip\"` to leave such rows out";
            Err(RowProblem::new(line, format!("not JSON: {}", problem.reason), hint)
                .at_column(problem.column))
        }
    }
}

/// Turns a line into text, or says why it is none.
pub(crate) fn utf8(line: u64, content: Line) -> Result<String, RowProblem> {
    match content {
        Line::TooLong => {
            let reason = format!("the line is longer than {} MiB", MAX_ROW_BYTES >> 20);
            Err(RowProblem::new(line, reason, "split the row; is the file really one row a line?"))
        }
        Line::Whole(bytes) => String::from_utf8(bytes).map_err(|error| {
            let column = error.utf8_error().valid_up_to() as u64 + 1;
            let hint = "save the file as UTF-8, for example with `iconv -f LATIN1 -t UTF-8 FILE`";
            RowProblem::new(line, "not valid UTF-8", hint).at_column(column)
        }),
    }
}
