//! Rows as hashes, a few bytes per word, kept in an unnamed temporary file.

use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::Path;

use fs_err::File;

use super::short::{Keys, Words};
use crate::error::Result;
use crate::hash::Hash;
use crate::message::is_assistant;
use crate::rows::StoredRow;
use crate::text;

/// Hashes of a row's text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint {
    /// Hash of all words of the row.
    pub(super) whole: u64,
    /// Hashes of the shingles of each side that has any, sorted and without duplicates.
    pub(super) sides: Vec<Vec<u64>>,
    /// Hashes of the whole prompt and the whole answer.
    pub(super) keys: Keys,
}

impl Fingerprint {
    /// Hashes `row` with shingles of `words` words.
    pub(super) fn of(row: &StoredRow, words: usize) -> Self {
        let mut whole = Hash::default();
        let mut sides = Vec::new();
        let all = sides_of(row);
        for Words { hashes, .. } in &all {
            whole.number(hashes.len() as u64);
            for &word in hashes {
                whole.number(word);
            }
            let mut shingles: Vec<u64> = hashes.windows(words.max(1)).map(hash_shingle).collect();
            shingles.sort_unstable();
            shingles.dedup();
            if !shingles.is_empty() {
                sides.push(shingles);
            }
        }
        Self { whole: whole.value(), sides, keys: Keys::of(&all) }
    }
}

/// Returns the words to compare: those of the plain text, or of every message except system messages.
fn sides_of(row: &StoredRow) -> Vec<Words> {
    let Some(messages) = &row.messages else {
        let words = |text: &String| Words { of_model: false, hashes: text::word_hashes(text) };
        return row.text.iter().map(words).collect();
    };
    let content = |message: &serde_json::Value| {
        let role = message.get("role")?.as_str()?;
        let content = message.get("content")?;
        let hashes =
            content.as_str().map_or_else(|| text::word_hashes(&joined_text(content)), text::word_hashes);
        let is_system = matches!(role, "system" | "developer");
        (!is_system).then_some(Words { of_model: is_assistant(message), hashes })
    };
    messages.iter().filter_map(content).collect()
}

/// Joins the texts of a content that is a list.
fn joined_text(content: &serde_json::Value) -> String {
    let texts = content.as_array().into_iter().flatten().filter_map(|item| item.get("text")?.as_str());
    texts.collect::<Vec<_>>().join(" ")
}

fn hash_shingle(words: &[u64]) -> u64 {
    let mut hash = Hash::default();
    for &word in words {
        hash.number(word);
    }
    hash.value()
}

/// A row in a [`Spill`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Spilled {
    pub(super) split: String,
    pub(super) id: String,
    pub(super) source: String,
    pub(super) fingerprint: Fingerprint,
}

/// Rows in a file that disappears when it is closed, so that memory does not grow with the rows.
#[derive(Debug)]
pub(super) struct Spill {
    file: BufWriter<File>,
    rows: u32,
}

impl Spill {
    pub(super) fn new(folder: &Path) -> Result<Self> {
        let file = BufWriter::with_capacity(1 << 18, files::temporary(folder)?);
        Ok(Self { file, rows: 0 })
    }

    pub(super) fn rows(&self) -> u32 {
        self.rows
    }

    pub(super) fn push(&mut self, split: &str, row: &StoredRow, fingerprint: &Fingerprint) -> Result<()> {
        self.push_named([split, &row.id, &row.source], fingerprint)
    }

    /// Adds a row with its split, id and source.
    pub(super) fn push_named(&mut self, names: [&str; 3], fingerprint: &Fingerprint) -> Result<()> {
        for text in names {
            self.file.write_all(&(text.len() as u32).to_le_bytes())?;
            self.file.write_all(text.as_bytes())?;
        }
        self.file.write_all(&fingerprint.whole.to_le_bytes())?;
        let keys = &fingerprint.keys;
        // A hash of zero is as good as none.
        for key in [keys.prompt, keys.answer, keys.pair] {
            self.file.write_all(&key.unwrap_or(0).to_le_bytes())?;
        }
        self.file.write_all(&(keys.edges.len() as u32).to_le_bytes())?;
        self.file.write_all(bytemuck::cast_slice(&keys.edges))?;
        self.file.write_all(&(fingerprint.sides.len() as u32).to_le_bytes())?;
        for shingles in &fingerprint.sides {
            self.file.write_all(&(shingles.len() as u32).to_le_bytes())?;
            self.file.write_all(bytemuck::cast_slice(shingles))?;
        }
        self.rows += 1;
        Ok(())
    }

    /// Returns a reader of all rows in their order.
    pub(super) fn read(&mut self) -> Result<Reader<'_>> {
        self.file.flush()?;
        self.file.get_mut().rewind()?;
        let left = self.rows;
        Ok(Reader { file: BufReader::with_capacity(1 << 18, self.file.get_ref()), left })
    }
}

pub(super) struct Reader<'a> {
    file: BufReader<&'a File>,
    left: u32,
}

impl Reader<'_> {
    /// Reads the next row into `row`; returns whether there was one.
    pub(super) fn next_into(&mut self, row: &mut Spilled) -> Result<bool> {
        if self.left == 0 {
            return Ok(false);
        }
        self.left -= 1;
        for text in [&mut row.split, &mut row.id, &mut row.source] {
            let length = self.count()?;
            let mut bytes = std::mem::take(text).into_bytes();
            bytes.resize(length, 0);
            self.file.read_exact(&mut bytes)?;
            *text = String::from_utf8(bytes).map_err(io::Error::other)?;
        }
        row.fingerprint.whole = self.number()?;
        let mut key = || self.number().map(|key| Some(key).filter(|&key| key != 0));
        let keys = &mut row.fingerprint.keys;
        (keys.prompt, keys.answer, keys.pair) = (key()?, key()?, key()?);
        let edges = self.count()?;
        keys.edges.resize(edges, 0);
        self.file.read_exact(bytemuck::cast_slice_mut(&mut keys.edges))?;
        let sides = self.count()?;
        row.fingerprint.sides.resize_with(sides, Vec::new);
        for index in 0..sides {
            let length = self.count()?;
            let shingles = &mut row.fingerprint.sides[index];
            shingles.resize(length, 0);
            self.file.read_exact(bytemuck::cast_slice_mut(shingles))?;
        }
        Ok(true)
    }

    fn number(&mut self) -> Result<u64> {
        let mut bytes = [0; 8];
        self.file.read_exact(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn count(&mut self) -> Result<usize> {
        let mut bytes = [0; 4];
        self.file.read_exact(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_of_the_model_answers() {
        let sides = |role: &str| {
            let messages = vec![
                serde_json::json!({"role": "user", "content": "Pehea ʻoe?"}),
                serde_json::json!({"role": role, "content": "Maikaʻi nō."}),
            ];
            Fingerprint::of(&StoredRow { messages: Some(messages), ..StoredRow::default() }, 8)
        };
        assert_eq!(sides("model"), sides("assistant"));
        assert_ne!(sides("user").keys, sides("assistant").keys);
    }

    #[test]
    fn spilled_rows_come_back_each_time_they_are_read() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let mut spill = Spill::new(folder.path())?;
        let fingerprints = [
            Fingerprint { whole: 7, sides: vec![vec![1, 2], vec![3]], keys: Keys::default() },
            Fingerprint {
                whole: 8,
                sides: vec![],
                keys: Keys { answer: Some(5), edges: vec![1, 9], ..Keys::default() },
            },
            Fingerprint {
                whole: 9,
                sides: vec![vec![u64::MAX]],
                keys: Keys { pair: Some(1), ..Keys::default() },
            },
        ];
        let row =
            |index: usize| StoredRow { id: format!("ā{index}"), source: "x".into(), ..StoredRow::default() };
        for (index, fingerprint) in fingerprints.iter().enumerate() {
            spill.push("test", &row(index), fingerprint)?;
        }
        for _ in 0..2 {
            let mut reader = spill.read()?;
            let mut read = Spilled::default();
            for (index, fingerprint) in fingerprints.iter().enumerate() {
                assert!(reader.next_into(&mut read)?);
                assert_eq!((&read.id, &read.fingerprint), (&row(index).id, fingerprint));
            }
            assert!(!reader.next_into(&mut read)?);
        }
        assert_eq!(fs_err::read_dir(folder.path())?.count(), 0, "the file has no name");
        Ok(())
    }
}
