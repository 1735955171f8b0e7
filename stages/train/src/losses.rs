//! Losses of the training rows from a file, for curriculum = "loss".
//!
//! The file is `losses.json` of `validate`, whose first checkpoint is used (the base model), or JSON lines with `id` and
//! `loss` (and `tokens`, if the loss is a sum over this many). Other fields are ignored. Ids are only kept as hashes.

use std::io::{BufRead, BufReader, Read as _};
use std::path::Path;

use dataset::{Error, MAX_ROW_BYTES, Place, Result, RowProblem};
use outputs::Losses;
use serde::{Deserialize, Deserializer};
use sha2::{Digest, Sha256};

/// Number of rows without a loss that the error names.
const NAMED: usize = 3;

/// Hash of a row's id.
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

/// Loss of one row.
#[derive(Debug, Deserialize)]
struct Entry {
    id: Id,
    loss: f64,
    tokens: Option<u64>,
}

impl Entry {
    /// Returns the mean loss in nats per target; `None` if it is not finite.
    fn mean(&self) -> Option<f32> {
        let mean = (self.loss / self.tokens.unwrap_or(1) as f64) as f32;
        mean.is_finite().then_some(mean)
    }
}

/// Mean loss of a row in the file.
struct Known {
    id: Id,
    loss: f32,
    /// Number of its line, or of its row within the checkpoint, counted from 1.
    line: u32,
}

/// Returns the mean loss of every row of the rows file `rows`, in its order, from `file`.
///
/// # Errors
///
/// Fails when the file has another format, has two losses for a row, or none for a row.
pub(crate) fn of_rows(file: &Path, rows: &Path) -> Result<Vec<f32>> {
    let known = read(file)?;
    let mut losses = Vec::new();
    let (mut missing, mut named) = (0, Vec::new());
    for row in dataset::read_rows(rows)? {
        let row = row?;
        if let Ok(index) = known.binary_search_by_key(&Id::of(&row.id), |known| known.id) {
            losses.push(known[index].loss);
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
        reason: format!("{missing} training rows without a loss: {}{more}", named.join(", ")),
        hint: "score the training rows of this dataset, or choose another `curriculum`".into(),
    })
}

/// Reads the losses, sorted by id.
fn read(path: &Path) -> Result<Vec<Known>> {
    let mut first = String::new();
    open(path)?
        .take(MAX_ROW_BYTES as u64)
        .read_line(&mut first)
        .map_err(|source| unreadable(path, source))?;
    let is_row = first.trim_end().ends_with('}') && !first.contains("\"checkpoints\"");
    let is_row = is_row || serde_json::from_str::<Entry>(&first).is_ok();
    let mut losses = if is_row { read_lines(path)? } else { read_document(path)? };
    losses.sort_unstable_by_key(|known| (known.id, known.line));
    let doubles = losses.windows(2).filter(|pair| pair[0].id == pair[1].id);
    if let Some(pair) = doubles.min_by_key(|pair| pair[1].line) {
        return Err(Error::Row {
            place: Place { file: path.to_owned(), line: u64::from(pair[1].line), column: None },
            reason: format!("row {} has the same id", pair[0].line),
            hint: "write one loss per id".into(),
        });
    }
    Ok(losses)
}

fn unreadable(path: &Path, source: std::io::Error) -> Error {
    Error::Unreadable { path: path.to_owned(), source }
}

fn open(path: &Path) -> Result<BufReader<fs_err::File>> {
    files::open(path).map(BufReader::new).map_err(|source| unreadable(path, source))
}

/// Reads a file of JSON lines.
fn read_lines(path: &Path) -> Result<Vec<Known>> {
    let mut losses = Vec::new();
    for (number, line) in (1..).zip(open(path)?.lines()) {
        let line = line.map_err(|source| unreadable(path, source))?;
        if line.trim().is_empty() {
            continue;
        }
        let entry = serde_json::from_str(&line)
            .map_err(|error| problem(number, format!("not a row with `id` and `loss`: {error}")));
        let known = entry.and_then(|entry| loss_of(&entry, number));
        losses.push(known.map_err(|problem| problem.in_file(path))?);
    }
    Ok(losses)
}

/// Reads `losses.json` of `validate`.
fn read_document(path: &Path) -> Result<Vec<Known>> {
    let losses: Losses<Entry> = serde_json::from_reader(open(path)?).map_err(|error| Error::File {
        path: path.to_owned(),
        reason: format!("neither JSON lines with `id` and `loss` nor `losses.json` of `validate`: {error}"),
        hint: HINT.into(),
    })?;
    let base = losses.checkpoints.into_iter().next().map(|checkpoint| checkpoint.rows);
    let rows = (1..).zip(base.unwrap_or_default());
    rows.map(|(row, entry)| loss_of(&entry, row).map_err(|problem| problem.in_file(path))).collect()
}

const HINT: &str = "write each row as `{\"id\": \"…\", \"loss\": 1.5}`";

fn problem(line: u32, reason: String) -> RowProblem {
    RowProblem { line: u64::from(line), column: None, reason, hint: HINT.into() }
}

fn loss_of(entry: &Entry, line: u32) -> Result<Known, RowProblem> {
    let mean = entry
        .mean()
        .ok_or_else(|| problem(line, format!("the loss is {}, which is not a finite mean", entry.loss)))?;
    Ok(Known { id: entry.id, loss: mean, line })
}

#[cfg(test)]
mod tests {
    use dataset::{RowWriter, StoredRow};
    use outputs::{CheckpointLosses, NamedRowLoss};

    use super::*;

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
    fn json_lines_and_losses_of_validate_are_read() -> Result<()> {
        let lines = "{\"id\":\"b\",\"loss\":6,\"tokens\":4,\"more\":[]}\n\n{\"loss\":0.5,\"id\":7}\n{\"id\":\"x\",\"loss\":1}\n";
        assert_eq!(losses(lines, &["7", "b", "7"])?, [0.5, 1.5, 0.5]);
        let row =
            |id: &str, loss, tokens| NamedRowLoss { id: id.into(), loss, tokens, ..NamedRowLoss::default() };
        let base = CheckpointLosses::new(0, vec![row("a", 3.0, 2), row("b", 1.0, 1)]);
        let later = CheckpointLosses::new(9, vec![row("a", 0.0, 2), row("b", 0.0, 1)]);
        let document = Losses { split: "train".into(), rows: 2, tokens: 3, checkpoints: vec![base, later] };
        let texts = [serde_json::to_string(&document), serde_json::to_string_pretty(&document)];
        for text in texts.map(|text| text.expect("losses can be written")) {
            assert_eq!(losses(&text, &["b", "a"])?, [1.0, 1.5]);
        }
        Ok(())
    }

    #[test]
    fn errors_name_the_place() {
        let refused =
            |text: &str, ids: &[&str]| losses(text, ids).expect_err("the file is invalid").to_string();
        let line = "{\"id\":\"a\",\"loss\":1}\n";
        for (text, part) in [
            (format!("{line}{line}"), "losses:2: row 1 has the same id"),
            (
                format!("{line}{{\"id\":\"b\"}}"),
                "losses:2: not a row with `id` and `loss`: missing field `loss`",
            ),
            (format!("{line}[1]"), "losses:2: not a row"),
            (
                "{\"id\":\"a\",\"loss\":1,\"tokens\":0}".into(),
                "losses:1: the loss is 1, which is not a finite mean",
            ),
            ("{\"id\":\"a\",\"loss\":1e39}".into(), "losses:1: the loss"),
            ("{\n\"checkpoints\": 5}".into(), "neither JSON lines with `id` and `loss`"),
            (String::new(), "neither JSON lines with `id` and `loss`"),
            (line.replace('a', "b"), "1 training rows without a loss: `a`"),
        ] {
            let error = refused(&text, &["a"]);
            assert!(error.contains(part), "{error}");
        }
        let error = refused(line, &["a", "b", "c", "d", "e"]);
        assert!(error.contains("4 training rows without a loss: `b`, `c`, `d`, …"), "{error}");
    }
}
