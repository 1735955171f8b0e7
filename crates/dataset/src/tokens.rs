//! Token files: the rows of a split one after another, as safetensors.
//!
//! `offsets` u64 `[N+1]`, `tokens` u32 `[T]`, `weights` f32 `[N]`, `prompt_lengths` u32 `[N]`, `trained` u8 `[T]`,
//! in this order, so that each lies at a multiple of its element's size and can be used where it is mapped.

use std::collections::BTreeMap;
use std::io::{BufWriter, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use fs_err::File;
use mmap_io::errors::MmapIoError;
use mmap_io::{MemoryMappedFile, MmapAdvice};
use safetensors::tensor::TensorInfo;
use tensors::TensorHeader;

use crate::error::{Error, Result};

#[cfg(target_endian = "big")]
compile_error!("token files are mapped as they are: little-endian");

/// Mapped memory that reading may touch before the system is told to let it go.
const RESIDENT_BYTES: usize = 32 << 20;
/// The system maps whole neighbourhoods of a page that is read.
const TOUCHED_BYTES_PER_ROW: usize = 4 << 16;

/// The tensors in file order, with their types.
const LAYOUT: [(&str, &str, u64); 5] = [
    ("offsets", "U64", 8),
    ("tokens", "U32", 4),
    ("weights", "F32", 4),
    ("prompt_lengths", "U32", 4),
    ("trained", "U8", 1),
];

/// Writes a token file row by row, in memory that does not grow.
#[derive(Debug)]
pub struct SplitWriter {
    path: PathBuf,
    parts: [BufWriter<std::fs::File>; 5],
    rows: u64,
    tokens: u64,
}

impl SplitWriter {
    /// Prepares to write `path`; nothing is visible there before [`SplitWriter::finish`].
    ///
    /// # Errors
    ///
    /// Fails when files cannot be made beside `path`.
    pub fn create(path: &Path) -> Result<Self> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let part = || tempfile::tempfile_in(folder).map(BufWriter::new);
        let mut parts = [part()?, part()?, part()?, part()?, part()?];
        parts[0].write_all(&0u64.to_le_bytes())?;
        Ok(Self { path: path.to_owned(), parts, rows: 0, tokens: 0 })
    }

    /// Adds a row.
    ///
    /// # Errors
    ///
    /// Fails when the disk does.
    ///
    /// # Panics
    ///
    /// When `tokens` and `trained` differ in length, or the prompt is longer than the row.
    pub fn push(&mut self, tokens: &[u32], trained: &[u8], weight: f32, prompt_length: usize) -> Result<()> {
        assert_eq!(tokens.len(), trained.len(), "one flag a token");
        assert!(prompt_length <= tokens.len(), "the prompt is part of the row");
        self.rows += 1;
        self.tokens += tokens.len() as u64;
        self.parts[0].write_all(&self.tokens.to_le_bytes())?;
        self.parts[1].write_all(bytemuck::cast_slice(tokens))?;
        self.parts[2].write_all(&weight.to_le_bytes())?;
        self.parts[3].write_all(&(prompt_length as u32).to_le_bytes())?;
        self.parts[4].write_all(trained)?;
        Ok(())
    }

    /// Puts the file together.
    ///
    /// # Errors
    ///
    /// Fails when the disk does.
    pub fn finish(self) -> Result<()> {
        let mut header = String::from("{");
        let mut begin = 0;
        for (name, kind, width) in LAYOUT {
            let count = self.count(name);
            let end = begin + count * width;
            let comma = if begin == 0 { "" } else { "," };
            let entry =
                format!(r#""{name}":{{"dtype":"{kind}","shape":[{count}],"data_offsets":[{begin},{end}]}}"#);
            header.push_str(comma);
            header.push_str(&entry);
            begin = end;
        }
        header.push('}');
        while !header.len().is_multiple_of(8) {
            header.push(' ');
        }
        let mut file = File::create(&self.path)?;
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        for part in self.parts {
            let mut part = part.into_inner().map_err(std::io::IntoInnerError::into_error)?;
            part.rewind()?;
            std::io::copy(&mut part, &mut file)?;
        }
        Ok(file.flush()?)
    }

    fn count(&self, name: &str) -> u64 {
        match name {
            "offsets" => self.rows + 1,
            "tokens" | "trained" => self.tokens,
            _ => self.rows,
        }
    }
}

/// A split, mapped into memory: opening it costs one pass over the offsets, reading a row costs only that row.
pub struct Split {
    map: MemoryMappedFile,
    /// Where each tensor of [`LAYOUT`] begins in the file, and its bytes.
    places: [(u64, u64); 5],
    rows: usize,
    tokens: u64,
    touched: AtomicUsize,
}

/// One row of a [`Split`], as it lies in the file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row<'a> {
    /// Token ids.
    pub tokens: &'a [u32],
    /// 1 where the token is a target that counts.
    pub trained: &'a [u8],
    /// Factor of the row's loss.
    pub weight: f32,
    /// Number of tokens of the prompt.
    pub prompt_length: usize,
}

impl Row<'_> {
    /// Returns the number of targets.
    pub fn target_count(&self) -> usize {
        self.trained.iter().filter(|&&flag| flag == 1).count()
    }
}

impl std::fmt::Debug for Split {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Split")
            .field("rows", &self.rows)
            .field("tokens", &self.tokens)
            .finish_non_exhaustive()
    }
}

impl Split {
    /// Opens and checks a token file.
    ///
    /// # Errors
    ///
    /// Fails when the file is missing, truncated, or not laid out as [`SplitWriter`] does it.
    pub fn open(path: &Path) -> Result<Self> {
        let places = read_header(path)?;
        let map = MemoryMappedFile::open_ro(path).map_err(|error| match error {
            MmapIoError::Io(error) => Error::unreadable(path)(error),
            error => Error::tokens(path, error.to_string()),
        })?;
        let count = |index: usize| places[index].1 / LAYOUT[index].2;
        let (offsets, tokens, rows) = (count(0), count(1), count(2));
        if offsets != rows + 1 || count(3) != rows || count(4) != tokens {
            return Err(Error::tokens(path, "the lengths of its tensors disagree"));
        }
        let split = Self { map, places, rows: rows as usize, tokens, touched: AtomicUsize::new(0) };
        split.check(path)?;
        split.release();
        Ok(split)
    }

    fn check(&self, path: &Path) -> Result<()> {
        let offsets: &[u64] = self.tensor(0, 0..self.rows + 1);
        let lengths: &[u32] = self.tensor(3, 0..self.rows);
        let weights: &[f32] = self.tensor(2, 0..self.rows);
        if offsets[0] != 0 || offsets[self.rows] != self.tokens {
            return Err(Error::tokens(path, "its offsets do not cover its tokens"));
        }
        for (index, pair) in offsets.windows(2).enumerate() {
            if pair[0] > pair[1] || u64::from(lengths[index]) > pair[1] - pair[0] {
                return Err(Error::tokens(path, format!("row {index} has no valid extent")));
            }
            if !(weights[index].is_finite() && weights[index] >= 0.0) {
                return Err(Error::tokens(path, format!("row {index} has the weight {}", weights[index])));
            }
        }
        Ok(())
    }

    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Tells whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Returns the number of tokens in row `index` without touching them.
    ///
    /// # Panics
    ///
    /// When there is no such row.
    pub fn row_length(&self, index: usize) -> usize {
        let extent: &[u64] = self.tensor(0, index..index + 2);
        (extent[1] - extent[0]) as usize
    }

    /// Returns row `index`.
    ///
    /// # Panics
    ///
    /// When there is no such row.
    pub fn row(&self, index: usize) -> Row<'_> {
        let extent: &[u64] = self.tensor(0, index..index + 2);
        let (start, end) = (extent[0] as usize, extent[1] as usize);
        self.touch(TOUCHED_BYTES_PER_ROW + 5 * (end - start));
        Row {
            tokens: self.tensor(1, start..end),
            trained: self.tensor(4, start..end),
            weight: self.tensor::<f32>(2, index..index + 1)[0],
            prompt_length: self.tensor::<u32>(3, index..index + 1)[0] as usize,
        }
    }

    fn tensor<T: bytemuck::AnyBitPattern>(&self, index: usize, range: std::ops::Range<usize>) -> &[T] {
        let (start, bytes) = self.places[index];
        let width = LAYOUT[index].2;
        assert!(range.end as u64 * width <= bytes, "row out of bounds");
        if range.is_empty() {
            return &[];
        }
        let part = self.map.as_slice_bytes(start + range.start as u64 * width, range.len() as u64 * width);
        bytemuck::cast_slice(part.expect("the header was checked against the file"))
    }

    /// Counts what was read and, from time to time, tells the system that none of it is needed any more.
    fn touch(&self, bytes: usize) {
        if self.touched.fetch_add(bytes, Ordering::Relaxed) > RESIDENT_BYTES {
            self.release();
        }
    }

    fn release(&self) {
        self.touched.store(0, Ordering::Relaxed);
        // Only advice: pages come back from the file when they are read again, so failing changes nothing.
        let _ = self.map.advise(0, self.map.len(), MmapAdvice::DontNeed);
    }
}

/// Reads and checks the header; returns where each tensor begins and its bytes.
fn read_header(path: &Path) -> Result<[(u64, u64); 5]> {
    let bad = |reason: String| Error::tokens(path, reason);
    let header = TensorHeader::read(path).map_err(|error| match error {
        tensors::Error::Io(error) => Error::unreadable(path)(error),
        tensors::Error::Content(reason) => bad(reason),
    })?;
    if header.metadata().is_some() {
        return Err(bad("it holds `__metadata__`, which no token file has".into()));
    }
    let tensors: BTreeMap<&str, &TensorInfo> =
        header.tensors().iter().map(|(name, info)| (name.as_str(), info)).collect();
    if let Some(name) = tensors.keys().find(|&name| !LAYOUT.iter().any(|(known, ..)| known == name)) {
        return Err(bad(format!("it holds `{name}`, which no token file has")));
    }
    let mut begin = 0;
    let mut places = [(0, 0); 5];
    for (place, (name, kind, _)) in places.iter_mut().zip(LAYOUT) {
        let info = tensors.get(name).ok_or_else(|| bad(format!("`{name}` is missing")))?;
        let (start, end) = info.data_offsets;
        if info.dtype.to_string() != kind || info.shape.len() != 1 || start != begin {
            return Err(bad(format!("`{name}` is not {kind} of one dimension at byte {begin}")));
        }
        *place = (header.data_start() + start as u64, (end - start) as u64);
        begin = end;
    }
    if !header.data_start().is_multiple_of(8) {
        return Err(bad("its header is not padded to 8 bytes".into()));
    }
    Ok(places)
}
