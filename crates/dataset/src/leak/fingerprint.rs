//! A row as hashes: what is compared, in a few bytes a word, and spilled to a file that has no name.

use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::Path;

use crate::error::Result;
use crate::rows::StoredRow;
use crate::text;

/// What the leak check compares of a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint {
    /// All the words of the row.
    pub(super) whole: u64,
    /// The runs of words of each side that has one, each sorted and without doubles.
    pub(super) sides: Vec<Vec<u64>>,
}

impl Fingerprint {
    /// Hashes `row` in runs of `words` words.
    pub(super) fn of(row: &StoredRow, words: usize) -> Self {
        let mut whole = Hash::default();
        let mut sides = Vec::new();
        for side in sides_of(row) {
            let hashes = text::word_hashes(&side);
            whole.number(hashes.len() as u64);
            for &word in &hashes {
                whole.number(word);
            }
            let mut runs: Vec<u64> = hashes.windows(words.max(1)).map(run_hash).collect();
            runs.sort_unstable();
            runs.dedup();
            if !runs.is_empty() {
                sides.push(runs);
            }
        }
        Self { whole: whole.0, sides }
    }
}

/// The texts that are compared: of a chat every message but the system's.
fn sides_of(row: &StoredRow) -> Vec<String> {
    let Some(messages) = &row.messages else { return row.text.clone().into_iter().collect() };
    let content = |message: &serde_json::Value| {
        let system = matches!(message.get("role")?.as_str()?, "system" | "developer");
        let content = message.get("content")?;
        let text = content.as_str().map_or_else(|| parts(content), str::to_owned);
        (!system).then_some(text)
    };
    messages.iter().filter_map(content).collect()
}

fn parts(content: &serde_json::Value) -> String {
    let texts = content.as_array().into_iter().flatten().filter_map(|part| part.get("text")?.as_str());
    texts.collect::<Vec<_>>().join(" ")
}

fn run_hash(words: &[u64]) -> u64 {
    let mut hash = Hash::default();
    for &word in words {
        hash.number(word);
    }
    hash.0
}

/// FNV-1a with 64 bits: the same everywhere, which the standard library's hash does not promise.
#[derive(Clone, Copy)]
pub(crate) struct Hash(pub(crate) u64);

impl Default for Hash {
    fn default() -> Self {
        Self(0xCBF2_9CE4_8422_2325)
    }
}

impl Hash {
    pub(crate) fn of(bytes: &[u8]) -> u64 {
        let mut hash = Self::default();
        hash.bytes(bytes);
        hash.0
    }

    fn number(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
    }
}

/// A row in a [`Spill`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Spilled {
    pub(super) split: String,
    pub(super) id: String,
    pub(super) source: String,
    pub(super) print: Fingerprint,
}

/// Fingerprints in a file that is gone when it is closed: memory does not grow with the rows.
#[derive(Debug)]
pub(super) struct Spill {
    file: BufWriter<std::fs::File>,
    rows: u32,
}

impl Spill {
    pub(super) fn new(folder: &Path) -> Result<Self> {
        let file = BufWriter::with_capacity(1 << 18, tempfile::tempfile_in(folder)?);
        Ok(Self { file, rows: 0 })
    }

    pub(super) fn rows(&self) -> u32 {
        self.rows
    }

    pub(super) fn push(&mut self, split: &str, row: &StoredRow, print: &Fingerprint) -> Result<()> {
        for text in [split, &row.id, &row.source] {
            self.file.write_all(&(text.len() as u32).to_le_bytes())?;
            self.file.write_all(text.as_bytes())?;
        }
        self.file.write_all(&print.whole.to_le_bytes())?;
        self.file.write_all(&(print.sides.len() as u32).to_le_bytes())?;
        for runs in &print.sides {
            self.file.write_all(&(runs.len() as u32).to_le_bytes())?;
            self.file.write_all(bytemuck::cast_slice(runs))?;
        }
        self.rows += 1;
        Ok(())
    }

    /// Reads all rows from the first on, in their order.
    pub(super) fn read(&mut self) -> Result<Reader<'_>> {
        self.file.flush()?;
        self.file.get_mut().rewind()?;
        let left = self.rows;
        Ok(Reader { file: BufReader::with_capacity(1 << 18, self.file.get_ref()), left })
    }
}

pub(super) struct Reader<'a> {
    file: BufReader<&'a std::fs::File>,
    left: u32,
}

impl Reader<'_> {
    /// Reads the next row into `row`; false at the end.
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
        let mut whole = [0; 8];
        self.file.read_exact(&mut whole)?;
        row.print.whole = u64::from_le_bytes(whole);
        let sides = self.count()?;
        row.print.sides.resize_with(sides, Vec::new);
        for index in 0..sides {
            let length = self.count()?;
            let runs = &mut row.print.sides[index];
            runs.resize(length, 0);
            self.file.read_exact(bytemuck::cast_slice_mut(runs))?;
        }
        Ok(true)
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
    fn what_is_spilled_comes_back_as_often_as_it_is_read() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let mut spill = Spill::new(folder.path())?;
        let prints = [
            Fingerprint { whole: 7, sides: vec![vec![1, 2], vec![3]] },
            Fingerprint { whole: 8, sides: vec![] },
            Fingerprint { whole: 9, sides: vec![vec![u64::MAX]] },
        ];
        let row =
            |index: usize| StoredRow { id: format!("ā{index}"), source: "x".into(), ..StoredRow::default() };
        for (index, print) in prints.iter().enumerate() {
            spill.push("test", &row(index), print)?;
        }
        for _ in 0..2 {
            let mut reader = spill.read()?;
            let mut read = Spilled::default();
            for (index, print) in prints.iter().enumerate() {
                assert!(reader.next_into(&mut read)?);
                assert_eq!((&read.id, &read.print), (&row(index).id, print));
            }
            assert!(!reader.next_into(&mut read)?);
        }
        assert_eq!(fs_err::read_dir(folder.path())?.count(), 0, "the file has no name");
        Ok(())
    }
}
