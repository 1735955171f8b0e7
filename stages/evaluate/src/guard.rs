//! The guard set: text that training was not about, on which a model must not get worse.

use std::path::Path;

use dataset::{Record, RowReader, Split, SplitWriter, TextTokenizer};
use failure::{Context, Error, Result};

/// Name of the guard set that comes with the program.
pub(crate) const GENERAL_ENGLISH: &str = "general-english";
/// Its text.
const GENERAL_ENGLISH_TEXT: &str = include_str!("../guard/general-english.txt");
/// Longest row, in tokens; the rest is left out.
const MAX_TOKENS: usize = 512;

/// Source of a guard set.
#[derive(Debug, Clone)]
pub enum GuardSource {
    /// The text that comes with the program.
    GeneralEnglish,
    /// A file with paragraphs of text, or with rows.
    File(std::path::PathBuf),
    /// An artifact of `prepare-data`.
    Dataset {
        /// Its folder `rows`.
        rows: std::path::PathBuf,
        /// Its folder `tokens`.
        tokens: std::path::PathBuf,
    },
}

/// A guard set as tokens.
pub(crate) struct GuardSet {
    pub(crate) name: String,
    pub(crate) split: Split,
    /// Group of every row, if it has one.
    pub(crate) groups: Vec<Option<String>>,
    /// Holds the file of the split.
    _folder: Option<tempfile::TempDir>,
}

impl GuardSet {
    /// Opens a guard set; text is tokenized with the tokenizer of the dataset.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be read or holds no text.
    pub(crate) fn open(source: &GuardSource, tokenizer: &TextTokenizer) -> Result<Self> {
        match source {
            GuardSource::GeneralEnglish => {
                let rows = paragraphs(GENERAL_ENGLISH_TEXT, tokenizer)?;
                Self::write(GENERAL_ENGLISH.to_owned(), rows)
            }
            GuardSource::File(path) => {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let rows = match prose(path)? {
                    Some(text) => paragraphs(&text, tokenizer)?,
                    None => records(path, tokenizer)?,
                };
                Self::write(name, rows).with_context(|| format!("reading the guard set `{}`", path.display()))
            }
            GuardSource::Dataset { rows, tokens } => Self::open_dataset(rows, tokens),
        }
    }

    /// Opens the test split of a dataset, or else its validation split.
    fn open_dataset(rows: &Path, tokens: &Path) -> Result<Self> {
        for name in ["test", "validation"] {
            let split = Split::open(&tokens.join(format!("{name}.safetensors")))?;
            if split.is_empty() {
                continue;
            }
            let path = rows.join(format!("{name}.jsonl"));
            let groups = dataset::read_rows(&path)?.map(|row| Ok(row?.group));
            let groups = groups.collect::<dataset::Result<Vec<_>>>()?;
            dataset::check_rows(&path, groups.len(), split.len())?;
            return Ok(Self { name: format!("{name} split"), split, groups, _folder: None });
        }
        Err(Error::bad_input("the guard dataset has neither test nor validation rows")
            .hinted("prepare it with a share of test rows"))
    }

    fn write(name: String, rows: Vec<Tokens>) -> Result<Self> {
        if rows.is_empty() {
            return Err(Error::bad_input(format!("the guard set `{name}` holds no text"))
                .hinted("write paragraphs with an empty line between them, or rows"));
        }
        let folder = tempfile::tempdir().context("creating a folder for the guard set")?;
        let path = folder.path().join("guard.safetensors");
        let mut writer = SplitWriter::create(&path)?;
        for row in &rows {
            writer.push(&row.ids, &row.trained, 1.0, 0)?;
        }
        writer.finish()?;
        let groups = rows.into_iter().map(|row| row.group).collect();
        Ok(Self { name, split: Split::open(&path)?, groups, _folder: Some(folder) })
    }
}

/// A row of a guard set.
struct Tokens {
    group: Option<String>,
    ids: Vec<u32>,
    trained: Vec<u8>,
}

/// Returns the text of a file without its byte-order mark; `None` if it holds rows: JSON, or a table by its name.
fn prose(path: &Path) -> Result<Option<String>> {
    if path.extension().is_some_and(|ending| ending == "csv" || ending == "tsv") {
        return Ok(None);
    }
    let bytes = fs_err::read(path)?;
    let mut text = bytes.as_slice();
    // Programs that add a byte-order mark may do so more than once.
    while let Some(rest) = text.strip_prefix(b"\xEF\xBB\xBF") {
        text = rest;
    }
    if matches!(text.trim_ascii_start().first(), Some(b'{' | b'[')) {
        return Ok(None);
    }
    let text = std::str::from_utf8(text).map_err(|_| {
        Error::bad_input(format!("`{}` is not UTF-8 text", path.display())).hinted("save it as UTF-8")
    })?;
    Ok(Some(text.to_owned()))
}

/// Tokenizes paragraphs, which empty lines divide. All tokens but the first of each are targets.
fn paragraphs(text: &str, tokenizer: &TextTokenizer) -> Result<Vec<Tokens>> {
    let mut rows = Vec::new();
    let text = text.replace("\r\n", "\n");
    for paragraph in text.split("\n\n") {
        let words: Vec<&str> = paragraph.split_whitespace().collect();
        if words.is_empty() {
            continue;
        }
        let mut ids = tokenizer.encode(&words.join(" "), true)?;
        ids.truncate(MAX_TOKENS);
        let mut trained = vec![1; ids.len()];
        // Nothing predicts the first token.
        trained.iter_mut().take(1).for_each(|flag| *flag = 0);
        rows.push(Tokens { group: None, ids, trained });
    }
    Ok(rows)
}

fn records(path: &Path, tokenizer: &TextTokenizer) -> Result<Vec<Tokens>> {
    let mut reader = RowReader::open(path)?;
    let mut rows = Vec::new();
    while let Some(row) = reader.next_row()? {
        let row = row.and_then(|row| Record::from_row(row, path)).map_err(|problem| problem.in_file(path))?;
        let mut encoded = dataset::encode(tokenizer, &row, dataset::LossOn::Completions)?;
        encoded.truncate(MAX_TOKENS);
        rows.push(Tokens { group: row.group, ids: encoded.tokens, trained: encoded.trained });
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_changes_neither_rows_nor_text() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read = |content: &str| {
            fs_err::write(file.path(), content).unwrap();
            prose(file.path()).unwrap()
        };
        for mark in ["", "\u{FEFF}", "\u{FEFF}\u{FEFF}"] {
            assert_eq!(read(&format!("{mark}{{\"text\": \"a\"}}\n")), None, "{mark:?}");
            assert_eq!(read(&format!("{mark}\n[{{\"text\": \"a\"}}]\n")), None, "{mark:?}");
            assert_eq!(read(&format!("{mark}Aloha.\n")).as_deref(), Some("Aloha.\n"), "{mark:?}");
        }
    }
}
