//! Losses of rows from a file, to order the rows by.
//!
//! The file is JSON lines with `id` and `loss` (and `tokens`, if the loss is a sum over so many), or the `losses.json`
//! of `validate`, of which the first checkpoint counts: the base model. Other fields are passed over. Of each row some
//! bytes are kept, never its name.

use dataset::{Error, Place, Result, RowProblem};
use serde::{Deserialize, Deserializer};
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader};
use std::path::Path;

/// Rows without a loss that are named.
const NAMED: usize = 3;

/// The hash of a row's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Id(u64);

impl Id {
    fn of(text: &str) -> Self {
        let digest = Sha256::digest(text.as_bytes());
        Self(u64::from_le_bytes(digest[..8].try_into().expect("a digest has 32 bytes")))
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Given {
            Text(String),
            Number(serde_json::Number),
        }
        Ok(match Given::deserialize(deserializer)? {
            Given::Text(text) => Self::of(&text),
            Given::Number(number) => Self::of(&number.to_string()),
        })
    }
}

#[derive(Debug, Deserialize)]
struct Entry {
    id: Id,
    loss: f64,
    tokens: Option<u64>,
}

impl Entry {
    /// The mean loss of a target.
    fn mean(&self) -> Option<f32> {
        let mean = (self.loss / self.tokens.unwrap_or(1) as f64) as f32;
        mean.is_finite().then_some(mean)
    }
}

#[derive(Deserialize)]
struct Report {
    checkpoints: Vec<Checkpoint>,
}

#[derive(Deserialize)]
struct Checkpoint {
    rows: Vec<Entry>,
}

/// Returns the loss of every row of the stored rows `rows`, in their order, from `file`.
///
/// # Errors
///
/// Fails when the file is not what it should be, names a row twice, or lacks a row.
pub(crate) fn of_rows(file: &Path, rows: &Path) -> Result<Vec<f32>> {
    let known = read(file)?;
    let mut losses = Vec::new();
    let (mut missing, mut named) = (0, Vec::new());
    for row in dataset::read_rows(rows)? {
        let row = row?;
        if let Ok(place) = known.binary_search_by_key(&Id::of(&row.id), |&(id, ..)| id) {
            losses.push(known[place].1);
            continue;
        }
        missing += 1;
        if named.len() < NAMED {
            named.push(format!("`{}`", row.id));
        }
    }
    if missing == 0 {
        return Ok(losses);
    }
    let more = if missing > NAMED { ", …" } else { "" };
    Err(Error::File {
        path: file.to_owned(),
        reason: format!("{missing} training rows have no loss in it: {}{more}", named.join(", ")),
        hint: "score the training rows of this dataset, or choose another `curriculum`".into(),
    })
}

/// Id, mean loss and place in the file.
type Known = (Id, f32, u32);

/// Reads ids, mean losses and lines, sorted by id.
fn read(path: &Path) -> Result<Vec<Known>> {
    let mut first = String::new();
    open(path)?.read_line(&mut first).map_err(|source| unreadable(path, source))?;
    let is_row = first.trim_end().ends_with('}') && !first.contains("\"checkpoints\"");
    let is_row = is_row || serde_json::from_str::<Entry>(&first).is_ok();
    let mut losses = if is_row { of_lines(path)? } else { of_report(path)? };
    losses.sort_unstable_by_key(|&(id, _, line)| (id, line));
    let doubles = losses.windows(2).filter(|pair| pair[0].0 == pair[1].0);
    if let Some(pair) = doubles.min_by_key(|pair| pair[1].2) {
        return Err(Error::Row {
            place: Place { file: path.to_owned(), line: u64::from(pair[1].2), column: None },
            reason: format!("the row has the id of row {}", pair[0].2),
            hint: "give every id one loss".into(),
        });
    }
    Ok(losses)
}

fn unreadable(path: &Path, source: std::io::Error) -> Error {
    Error::Unreadable { path: path.to_owned(), source }
}

fn open(path: &Path) -> Result<BufReader<fs_err::File>> {
    fs_err::File::open(path).map(BufReader::new).map_err(|source| unreadable(path, source))
}

/// Rows, one a line.
fn of_lines(path: &Path) -> Result<Vec<Known>> {
    let mut losses = Vec::new();
    for (number, line) in (1..).zip(open(path)?.lines()) {
        let line = line.map_err(|source| unreadable(path, source))?;
        if line.trim().is_empty() {
            continue;
        }
        let entry = serde_json::from_str(&line)
            .map_err(|error| problem(number, format!("not a row of `id` and `loss`: {error}")));
        let known = entry.and_then(|entry| loss_of(&entry, number));
        losses.push(known.map_err(|problem| problem.in_file(path))?);
    }
    Ok(losses)
}

/// What `validate` writes.
fn of_report(path: &Path) -> Result<Vec<Known>> {
    let report: Report = serde_json::from_reader(open(path)?).map_err(|error| Error::File {
        path: path.to_owned(),
        reason: format!("neither rows of `id` and `loss`, one a line, nor losses of `validate`: {error}"),
        hint: HINT.into(),
    })?;
    let base = report.checkpoints.into_iter().next().map(|checkpoint| checkpoint.rows);
    let rows = (1..).zip(base.unwrap_or_default());
    rows.map(|(row, entry)| loss_of(&entry, row).map_err(|problem| problem.in_file(path))).collect()
}

const HINT: &str = "write rows as `{\"id\": \"…\", \"loss\": 1.5}`";

fn problem(line: u32, reason: String) -> RowProblem {
    RowProblem { line: u64::from(line), column: None, reason, hint: HINT.into() }
}

fn loss_of(entry: &Entry, line: u32) -> Result<Known, RowProblem> {
    let mean = entry
        .mean()
        .ok_or_else(|| problem(line, format!("the loss {} is no number to sort by", entry.loss)))?;
    Ok((entry.id, mean, line))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataset::{RowWriter, StoredRow};

    fn losses(text: &str, ids: &[&str]) -> Result<Vec<f32>> {
        let folder = tempfile::tempdir()?;
        let (file, rows) = (folder.path().join("losses"), folder.path().join("train.jsonl"));
        fs_err::write(&file, text)?;
        let mut writer = RowWriter::create(&rows)?;
        for id in ids {
            writer.push(&StoredRow { id: (*id).into(), ..StoredRow::default() })?;
        }
        writer.finish()?;
        of_rows(&file, &rows)
    }

    #[test]
    fn lines_and_reports_of_validate_are_read() -> Result<()> {
        let lines = "{\"id\":\"b\",\"loss\":6,\"tokens\":4,\"more\":[]}\n\n{\"loss\":0.5,\"id\":7}\n{\"id\":\"x\",\"loss\":1}\n";
        assert_eq!(losses(lines, &["7", "b", "7"])?, [0.5, 1.5, 0.5]);
        let report = serde_json::json!({"split": "train", "checkpoints": [
            {"step": 0, "loss": 1.0, "rows": [{"id": "a", "loss": 3.0, "tokens": 2}, {"id": "b", "loss": 1.0, "tokens": 1}]},
            {"step": 9, "loss": 1.0, "rows": [{"id": "a", "loss": 0.0, "tokens": 2}]},
        ]});
        for text in [report.to_string(), serde_json::to_string_pretty(&report).expect("plain")] {
            assert_eq!(losses(&text, &["b", "a"])?, [1.0, 1.5]);
        }
        Ok(())
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let refused = |text: &str, ids: &[&str]| losses(text, ids).expect_err("it is wrong").to_string();
        let line = "{\"id\":\"a\",\"loss\":1}\n";
        for (text, part) in [
            (format!("{line}{line}"), "losses:2: the row has the id of row 1"),
            (
                format!("{line}{{\"id\":\"b\"}}"),
                "losses:2: not a row of `id` and `loss`: missing field `loss`",
            ),
            (format!("{line}[1]"), "losses:2: not a row"),
            ("{\"id\":\"a\",\"loss\":1,\"tokens\":0}".into(), "losses:1: the loss 1 is no number"),
            ("{\"id\":\"a\",\"loss\":1e39}".into(), "losses:1: the loss"),
            ("{\n\"checkpoints\": 5}".into(), "neither rows of `id` and `loss`"),
            (String::new(), "neither rows of `id` and `loss`"),
            (line.replace('a', "b"), "1 training rows have no loss in it: `a`\n"),
        ] {
            let error = refused(&text, &["a"]);
            assert!(error.contains(part) && error.contains("\nhint: "), "{error}");
        }
        let error = refused(line, &["a", "b", "c", "d", "e"]);
        assert!(error.contains("4 training rows have no loss in it: `b`, `c`, `d`, …"), "{error}");
    }
}
