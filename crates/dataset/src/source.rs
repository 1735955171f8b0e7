//! Reading data files. The format is detected from the content, never from the file's name.

use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use fs_err::File;
use serde_json::Value;

use crate::delimited::{Table, TableError};
use crate::error::{Error, Result, RowProblem};
use crate::json;
use crate::lines::Lines;
use crate::row::RawRow;

/// Reads rows from JSON lines, CSV or TSV, one row in memory at a time.
///
/// Files are UTF-8 with or without a byte-order mark; lines end in LF or CRLF; blank lines are skipped.
pub struct RowReader {
    path: PathBuf,
    format: Format,
}

enum Format {
    JsonLines(Lines<BufReader<File>>),
    Table(Table<BufReader<File>>),
}

impl RowReader {
    /// Opens `path` and detects its format.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be read, is empty, compressed, not UTF-8 text, a JSON array, or a table with an
    /// unusable header.
    pub fn open(path: &Path) -> Result<Self> {
        let unreadable = Error::unreadable(path);
        let file = File::open(path).map_err(&unreadable)?;
        let mut reader = BufReader::with_capacity(1 << 16, file);
        let start = reader.fill_buf().map_err(&unreadable)?;
        refuse_foreign(path, start)?;
        let mark = if start.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
        let first = start[mark..].iter().copied().find(|byte| !byte.is_ascii_whitespace());
        let has_tabs = start[mark..]
            .split(|&byte| byte == b'\n')
            .find(|line| !line.trim_ascii().is_empty())
            .is_some_and(|line| line.contains(&b'\t'));
        reader.consume(mark);
        let lines = Lines::new(reader);
        let format = match first {
            None => return Err(file_error(path, "holds no rows", "an input file needs at least one row")),
            Some(b'{') => Format::JsonLines(lines),
            Some(b'[') => {
                let hint = "write one JSON object per line, for example with `jq -c '.[]'`";
                return Err(file_error(path, "begins with `[`: it is a JSON array, not JSON lines", hint));
            }
            Some(_) => {
                let delimiter = if has_tabs { b'\t' } else { b',' };
                let table = Table::open(lines, delimiter).map_err(|error| table_error(path, error))?;
                Format::Table(table)
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

fn file_error(path: &Path, reason: &str, hint: &str) -> Error {
    Error::File { path: path.to_owned(), reason: reason.to_owned(), hint: hint.to_owned() }
}

/// First bytes of a file that is not text, what it is, and what to do with it.
struct Foreign {
    magic: &'static [u8],
    reason: &'static str,
    hint: &'static str,
}

const FOREIGN: [Foreign; 8] = [
    Foreign {
        magic: b"\x1F\x8B",
        reason: "is gzip-compressed",
        hint: "decompress it first: `gzip -dc FILE > FILE.jsonl`",
    },
    Foreign {
        magic: b"\x28\xB5\x2F\xFD",
        reason: "is zstd-compressed",
        hint: "decompress it first: `zstd -d FILE`",
    },
    Foreign { magic: b"BZh", reason: "is bzip2-compressed", hint: "decompress it first: `bzip2 -d FILE`" },
    Foreign { magic: b"PK\x03\x04", reason: "is a zip archive", hint: "unpack it first" },
    Foreign { magic: b"PAR1", reason: "is a Parquet file", hint: "export it as JSON lines or CSV" },
    Foreign {
        magic: b"\xFF\xFE",
        reason: "is UTF-16 text",
        hint: "convert it to UTF-8: `iconv -f UTF-16 -t UTF-8 FILE`",
    },
    Foreign {
        magic: b"\xFE\xFF",
        reason: "is UTF-16 text",
        hint: "convert it to UTF-8: `iconv -f UTF-16 -t UTF-8 FILE`",
    },
    Foreign {
        magic: b"\0",
        reason: "begins with a NUL byte",
        hint: "rows are UTF-8 text; check that the file is complete",
    },
];

fn refuse_foreign(path: &Path, start: &[u8]) -> Result<()> {
    match FOREIGN.iter().find(|foreign| start.starts_with(foreign.magic)) {
        Some(foreign) => Err(file_error(path, foreign.reason, foreign.hint)),
        None => Ok(()),
    }
}

fn next_json(lines: &mut Lines<BufReader<File>>) -> io::Result<Option<Result<RawRow, RowProblem>>> {
    while let Some((number, line)) = lines.next()? {
        match line.into_text(number) {
            Ok(text) if text.trim_ascii().is_empty() => {}
            Ok(text) => return Ok(Some(json_row(number, &text))),
            Err(problem) => return Ok(Some(Err(problem))),
        }
    }
    Ok(None)
}

fn json_row(line: u64, text: &str) -> Result<RawRow, RowProblem> {
    match json::parse(text) {
        Ok(Value::Object(fields)) => Ok(RawRow { line, fields }),
        Ok(_) => Err(RowProblem::new(line, "the row is not a JSON object", "write a row as `{\"text\": …}`")),
        Err(problem) => {
            let hint = if text.contains('\r') {
                "lines end in CR alone: convert the file with `tr '\\r' '\\n' < FILE`"
            } else {
                "correct the line, or set `on_bad_row = \"skip\"` to leave such rows out"
            };
            Err(RowProblem::new(line, format!("not JSON: {}", problem.reason), hint)
                .at_column(problem.column))
        }
    }
}
