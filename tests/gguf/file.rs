//! GGUF files as bytes: new ones, and ones that another program wrote, to be changed in places.

use anyhow::{Context as _, Result};
use testutil::golden_dir;

/// A GGUF file under construction: metadata, tensors and data of a small llama.
pub(crate) struct File(pub(crate) Vec<u8>);

impl File {
    pub(crate) fn new(tensors: u64, entries: u64) -> Self {
        Self(
            [b"GGUF".as_slice(), &3_u32.to_le_bytes(), &tensors.to_le_bytes(), &entries.to_le_bytes()]
                .concat(),
        )
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    pub(crate) fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u64(self, value: u64) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn text(self, text: &str) -> Self {
        self.u64(text.len() as u64).bytes(text.as_bytes())
    }

    pub(crate) fn put_u32(self, key: &str, value: u32) -> Self {
        self.text(key).u32(4).u32(value)
    }

    pub(crate) fn put_text(self, key: &str, value: &str) -> Self {
        self.text(key).u32(8).text(value)
    }

    pub(crate) fn tensor(self, name: &str, shape: &[u64], storage: u32, offset: u64) -> Self {
        let file = self.text(name).u32(shape.len() as u32);
        shape.iter().fold(file, |file, &extent| file.u64(extent)).u32(storage).u64(offset)
    }

    pub(crate) fn data(mut self, count: usize) -> Self {
        self.0.resize(self.0.len().next_multiple_of(32) + count, 1);
        self
    }
}

/// A file that another program wrote, to be changed in places.
pub(crate) struct Whole(pub(crate) Vec<u8>);

impl Whole {
    /// Reads the golden file of a model.
    pub(crate) fn read(name: &str) -> Result<Self> {
        Ok(Self(fs_err::read(golden_dir().join(format!("gguf/{name}.gguf")))?))
    }

    /// Returns the place after `part`.
    pub(crate) fn after(&self, part: &[u8]) -> Result<usize> {
        let at = self.0.windows(part.len()).position(|found| found == part).context("not in the file")?;
        Ok(at + part.len())
    }

    /// Returns the file with `bytes` at `place`.
    pub(crate) fn replaced(&self, place: usize, bytes: &[u8]) -> Vec<u8> {
        let mut file = self.0.clone();
        file[place..place + bytes.len()].copy_from_slice(bytes);
        file
    }

    pub(crate) fn swap(&self, from: &[u8], to: &[u8]) -> Result<Vec<u8>> {
        Ok(self.replaced(self.after(from)? - from.len(), to))
    }

    /// Returns the file with another value of a 32-bit entry.
    pub(crate) fn put(&self, key: &str, value: u32) -> Result<Vec<u8>> {
        let place = self.after(&File(Vec::new()).text(key).u32(4).0).with_context(|| key.to_owned())?;
        Ok(self.replaced(place, &value.to_le_bytes()))
    }

    /// Returns the file with one more entry.
    pub(crate) fn with(&self, key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
        with_entry(&self.0, &File(Vec::new()).text(key).u32(kind).bytes(value).0)
    }

    /// Returns the file with another type and value of the norms' epsilon.
    pub(crate) fn epsilon(&self, kind: u32, value: f32) -> Result<Vec<u8>> {
        let place = self.after(&File(Vec::new()).text("qwen2.attention.layer_norm_rms_epsilon").0)?;
        Ok(self.replaced(place, &[kind.to_le_bytes(), value.to_le_bytes()].concat()))
    }

    /// Returns the file with another type of one token.
    pub(crate) fn token_kind(&self, id: usize, kind: i32) -> Result<Vec<u8>> {
        let list = self.after(&File(Vec::new()).text("tokenizer.ggml.token_type").u32(9).u32(5).0)?;
        Ok(self.replaced(list + 8 + 4 * id, &kind.to_le_bytes()))
    }
}

/// Returns the file `whole` with one more metadata entry, and with another one that fills up a multiple of the alignment.
pub(crate) fn with_entry(whole: &[u8], entry: &[u8]) -> Vec<u8> {
    let note = |length: usize| File(Vec::new()).put_text("general.description", &"x".repeat(length)).0;
    let missing = (entry.len() + note(0).len()).next_multiple_of(32) - entry.len() - note(0).len();
    let mut bytes = [&whole[..24], entry, &note(missing), &whole[24..]].concat();
    let entries = u64::from_le_bytes(whole[16..24].try_into().expect("eight bytes")) + 2;
    bytes[16..24].copy_from_slice(&entries.to_le_bytes());
    bytes
}
