//! Token files: the rows of a split as safetensors, for N rows with T tokens in total.
//!
//! `offsets` u64 `[N+1]`, `tokens` u32 `[T]`, `weights` f32 `[N]`, `prompt_lengths` u32 `[N]`, `trained` u8 `[T]`,
//! in this order. Each tensor begins at a multiple of its element size, so it can be used where it is mapped.

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

/// Bytes of mapped memory that reads may touch before they are released.
const RESIDENT_BYTES: usize = 32 << 20;
/// Bytes that the system maps around a row that is read.
const TOUCHED_BYTES_PER_ROW: usize = 4 << 16;

/// A tensor of a token file.
struct Tensor {
    name: &'static str,
    dtype: &'static str,
    /// Bytes per element.
    width: u64,
}

const OFFSETS: usize = 0;
const TOKENS: usize = 1;
const WEIGHTS: usize = 2;
const PROMPT_LENGTHS: usize = 3;
const TRAINED: usize = 4;

/// The tensors in file order.
const LAYOUT: [Tensor; 5] = [
    Tensor { name: "offsets", dtype: "U64", width: 8 },
    Tensor { name: "tokens", dtype: "U32", width: 4 },
    Tensor { name: "weights", dtype: "F32", width: 4 },
    Tensor { name: "prompt_lengths", dtype: "U32", width: 4 },
    Tensor { name: "trained", dtype: "U8", width: 1 },
];

/// Writes a token file row by row, in memory that does not grow with the rows.
#[derive(Debug)]
pub struct SplitWriter {
    path: PathBuf,
    /// Temporary file of each tensor of [`LAYOUT`].
    tensors: [BufWriter<File>; 5],
    rows: u64,
    tokens: u64,
}

impl SplitWriter {
    /// Starts the file `path`, which appears only with [`SplitWriter::finish`].
    ///
    /// # Errors
    ///
    /// Fails when temporary files cannot be created beside `path`.
    pub fn create(path: &Path) -> Result<Self> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let tensor = || files::temporary(folder).map(BufWriter::new);
        let mut tensors = [tensor()?, tensor()?, tensor()?, tensor()?, tensor()?];
        tensors[OFFSETS].write_all(&0u64.to_le_bytes())?;
        Ok(Self { path: path.to_owned(), tensors, rows: 0, tokens: 0 })
    }

    /// Adds a row.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be written.
    ///
    /// # Panics
    ///
    /// Panics when `tokens` and `trained` differ in length, or the prompt is longer than the row.
    pub fn push(&mut self, tokens: &[u32], trained: &[u8], weight: f32, prompt_length: usize) -> Result<()> {
        assert_eq!(tokens.len(), trained.len(), "one flag per token");
        assert!(prompt_length <= tokens.len(), "the prompt is part of the row");
        self.rows += 1;
        self.tokens += tokens.len() as u64;
        self.tensors[OFFSETS].write_all(&self.tokens.to_le_bytes())?;
        self.tensors[TOKENS].write_all(bytemuck::cast_slice(tokens))?;
        self.tensors[WEIGHTS].write_all(&weight.to_le_bytes())?;
        self.tensors[PROMPT_LENGTHS].write_all(&(prompt_length as u32).to_le_bytes())?;
        self.tensors[TRAINED].write_all(trained)?;
        Ok(())
    }

    /// Writes the file.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be written.
    pub fn finish(self) -> Result<()> {
        let mut header = String::from("{");
        let mut begin = 0;
        for (tensor, Tensor { name, dtype, width }) in LAYOUT.iter().enumerate() {
            let count = self.count(tensor);
            let end = begin + count * width;
            let comma = if begin == 0 { "" } else { "," };
            let entry =
                format!(r#""{name}":{{"dtype":"{dtype}","shape":[{count}],"data_offsets":[{begin},{end}]}}"#);
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
        for tensor in self.tensors {
            let mut content = tensor.into_inner().map_err(std::io::IntoInnerError::into_error)?;
            content.rewind()?;
            std::io::copy(&mut content, &mut file)?;
        }
        Ok(file.flush()?)
    }

    /// Returns the number of elements of a tensor.
    fn count(&self, tensor: usize) -> u64 {
        match tensor {
            OFFSETS => self.rows + 1,
            TOKENS | TRAINED => self.tokens,
            _ => self.rows,
        }
    }
}

/// A split mapped into memory. Opening reads all but the tokens once; reading a row reads only that row.
pub struct Split {
    map: MemoryMappedFile,
    /// Extent of each tensor of [`LAYOUT`] in the file.
    extents: [Extent; 5],
    rows: usize,
    tokens: u64,
    touched: AtomicUsize,
}

/// Position of a tensor in the file.
#[derive(Clone, Copy, Default)]
struct Extent {
    start: u64,
    bytes: u64,
}

/// One row of a [`Split`], borrowed from the file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row<'a> {
    /// Token ids.
    pub tokens: &'a [u32],
    /// 1 for each token that is a target, else 0.
    pub trained: &'a [u8],
    /// Factor of the row's loss.
    pub weight: f32,
    /// Number of tokens of the prompt.
    pub prompt_length: usize,
}

impl Row<'_> {
    /// Returns the number of targets.
    pub fn target_count(&self) -> usize {
        count_targets(self.trained)
    }
}

/// Returns whether a flag of `trained` marks a target. A flag is 0 or 1; [`Split::open`] refuses others.
pub fn is_target(flag: u8) -> bool {
    flag == 1
}

/// Returns the number of flags that mark a target.
pub(crate) fn count_targets(trained: &[u8]) -> usize {
    trained.iter().filter(|&&flag| is_target(flag)).count()
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
    /// Fails when the file is missing, truncated, or not what [`SplitWriter`] writes.
    pub fn open(path: &Path) -> Result<Self> {
        let extents = read_header(path)?;
        let map = MemoryMappedFile::open_ro(path).map_err(|error| match error {
            MmapIoError::Io(error) => Error::unreadable(path)(error),
            error => Error::tokens(path, error.to_string()),
        })?;
        let count = |tensor: usize| extents[tensor].bytes / LAYOUT[tensor].width;
        let (offsets, tokens, rows) = (count(OFFSETS), count(TOKENS), count(WEIGHTS));
        if offsets != rows + 1 || count(PROMPT_LENGTHS) != rows || count(TRAINED) != tokens {
            return Err(Error::tokens(path, "the lengths of its tensors disagree"));
        }
        let split = Self { map, extents, rows: rows as usize, tokens, touched: AtomicUsize::new(0) };
        split.check(path)?;
        split.release();
        Ok(split)
    }

    fn check(&self, path: &Path) -> Result<()> {
        let offsets: &[u64] = self.tensor(OFFSETS, 0..self.rows + 1);
        let prompt_lengths: &[u32] = self.tensor(PROMPT_LENGTHS, 0..self.rows);
        let weights: &[f32] = self.tensor(WEIGHTS, 0..self.rows);
        if offsets[0] != 0 || offsets[self.rows] != self.tokens {
            return Err(Error::tokens(path, "its offsets do not cover its tokens"));
        }
        for (index, pair) in offsets.windows(2).enumerate() {
            if pair[0] > pair[1] || u64::from(prompt_lengths[index]) > pair[1] - pair[0] {
                return Err(Error::tokens(path, format!("the offsets of row {index} are invalid")));
            }
            if !(weights[index].is_finite() && weights[index] >= 0.0) {
                return Err(Error::tokens(path, format!("row {index} has the weight {}", weights[index])));
            }
        }
        self.check_flags(path, offsets)
    }

    /// Fails if a flag of `trained` is neither 0 nor 1.
    fn check_flags(&self, path: &Path, offsets: &[u64]) -> Result<()> {
        let count = self.tokens as usize;
        for start in (0..count).step_by(RESIDENT_BYTES) {
            let end = count.min(start.saturating_add(RESIDENT_BYTES));
            let flags: &[u8] = self.tensor(TRAINED, start..end);
            if let Some(at) = flags.iter().position(|&flag| flag > 1) {
                let row = offsets.partition_point(|&offset| offset <= (start + at) as u64) - 1;
                let reason = format!("row {row} has the flag {} in `trained`, expected 0 or 1", flags[at]);
                return Err(Error::tokens(path, reason));
            }
            self.release();
        }
        Ok(())
    }

    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Returns whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Returns the number of tokens of row `index` without reading them.
    ///
    /// # Panics
    ///
    /// Panics when there is no such row.
    pub fn row_length(&self, index: usize) -> usize {
        let offsets: &[u64] = self.tensor(OFFSETS, index..index + 2);
        (offsets[1] - offsets[0]) as usize
    }

    /// Returns row `index`.
    ///
    /// # Panics
    ///
    /// Panics when there is no such row.
    pub fn row(&self, index: usize) -> Row<'_> {
        let offsets: &[u64] = self.tensor(OFFSETS, index..index + 2);
        let (start, end) = (offsets[0] as usize, offsets[1] as usize);
        self.touch(TOUCHED_BYTES_PER_ROW + 5 * (end - start));
        Row {
            tokens: self.tensor(TOKENS, start..end),
            trained: self.tensor(TRAINED, start..end),
            weight: self.tensor::<f32>(WEIGHTS, index..index + 1)[0],
            prompt_length: self.tensor::<u32>(PROMPT_LENGTHS, index..index + 1)[0] as usize,
        }
    }

    /// Returns elements of a tensor.
    fn tensor<T: bytemuck::AnyBitPattern>(&self, tensor: usize, range: std::ops::Range<usize>) -> &[T] {
        let Extent { start, bytes } = self.extents[tensor];
        let width = LAYOUT[tensor].width;
        assert!(range.end as u64 * width <= bytes, "row out of bounds");
        if range.is_empty() {
            return &[];
        }
        let slice = self.map.as_slice_bytes(start + range.start as u64 * width, range.len() as u64 * width);
        bytemuck::cast_slice(slice.expect("the header was checked against the file"))
    }

    /// Counts `bytes` read, and releases the mapped memory when enough has been read.
    fn touch(&self, bytes: usize) {
        if self.touched.fetch_add(bytes, Ordering::Relaxed) > RESIDENT_BYTES {
            self.release();
        }
    }

    fn release(&self) {
        self.touched.store(0, Ordering::Relaxed);
        // Advice may fail without harm: released pages are read from the file again when needed.
        let _ = self.map.advise(0, self.map.len(), MmapAdvice::DontNeed);
    }
}

/// Reads and checks the header, and returns the extent of each tensor.
fn read_header(path: &Path) -> Result<[Extent; 5]> {
    let invalid = |reason: String| Error::tokens(path, reason);
    let header = TensorHeader::read(path).map_err(|error| match error {
        tensors::Error::Io(error) => Error::unreadable(path)(error),
        tensors::Error::Content(reason) => invalid(reason),
    })?;
    if header.metadata().is_some() {
        return Err(invalid("it has `__metadata__`, which token files do not have".into()));
    }
    let tensors: BTreeMap<&str, &TensorInfo> =
        header.tensors().iter().map(|(name, info)| (name.as_str(), info)).collect();
    if let Some(name) = tensors.keys().find(|&name| !LAYOUT.iter().any(|tensor| tensor.name == *name)) {
        return Err(invalid(format!("it has the tensor `{name}`, which token files do not have")));
    }
    let mut begin = 0;
    let mut extents = [Extent::default(); 5];
    for (extent, Tensor { name, dtype, .. }) in extents.iter_mut().zip(&LAYOUT) {
        let info = tensors.get(name).ok_or_else(|| invalid(format!("`{name}` is missing")))?;
        let (start, end) = info.data_offsets;
        if info.dtype.to_string() != *dtype || info.shape.len() != 1 || start != begin {
            return Err(invalid(format!("`{name}` is not a one-dimensional {dtype} tensor at byte {begin}")));
        }
        *extent = Extent { start: header.data_start() + start as u64, bytes: (end - start) as u64 };
        begin = end;
    }
    if !header.data_start().is_multiple_of(8) {
        return Err(invalid("its header is not padded to 8 bytes".into()));
    }
    Ok(extents)
}
