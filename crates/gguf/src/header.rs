//! The header of a GGUF file, checked against the file before anything else reads it.
//!
//! A reader that trusts the header can be made to read outside the file, to mix up tensors, or to allocate all memory. So
//! every number in it is checked before it is used: time and memory depend on the size of the header, which is limited.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufReader, Read};
use std::path::Path;

use crate::error::{Error, Result};
use crate::reader::Reader;
use crate::storage::Storage;
use crate::value::{Kind, Value};

const MAGIC: [u8; 4] = *b"GGUF";
/// Key of the alignment of tensors in bytes.
const ALIGNMENT_KEY: &str = "general.alignment";
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_ALIGNMENT: u64 = 1 << 20;

/// A tensor of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Name in the file.
    pub name: String,
    /// Extent of each dimension, the outermost first, as in NumPy (the file lists the innermost first).
    pub shape: Vec<usize>,
    /// Storage format of the values.
    pub storage: Storage,
    /// Offset of the values from the start of the file in bytes.
    pub start: u64,
    /// Length of the values in bytes.
    pub bytes: u64,
}

/// The checked header of a GGUF file.
#[derive(Debug, Clone)]
pub struct Header {
    metadata: BTreeMap<String, Value>,
    tensors: Vec<Tensor>,
}

impl Header {
    /// Largest number of tensors in a file.
    pub const MAX_TENSORS: u64 = 100_000;
    /// Largest number of metadata entries.
    pub const MAX_ENTRIES: u64 = 4096;
    /// Largest number of dimensions of a tensor.
    const MAX_DIMENSIONS: u32 = 4;
    /// Longest name of a key or tensor in bytes.
    const MAX_NAME: usize = 256;

    /// Reads and checks the header of the file `path`.
    ///
    /// # Errors
    ///
    /// Fails when the file is not GGUF of version 2 or 3 in little-endian order, when a number contradicts the file or
    /// exceeds a limit, when tensors overlap, and when a tensor's storage is not supported.
    pub fn read(path: &Path) -> Result<Self> {
        let file = files::open(path)?;
        let length = file.metadata()?.len();
        Self::from_reader(BufReader::new(file), length)
    }

    /// Reads the header of a file of `length` bytes as [`Header::read`] does.
    ///
    /// # Errors
    ///
    /// As [`Header::read`].
    pub fn from_reader(source: impl Read, length: u64) -> Result<Self> {
        let mut reader = Reader::new(source, length);
        check_version(&mut reader)?;
        let tensors = limited(reader.u64()?, Self::MAX_TENSORS, "tensors")?;
        let entries = limited(reader.u64()?, Self::MAX_ENTRIES, "metadata entries")?;
        let metadata = read_metadata(&mut reader, entries)?;
        let alignment = alignment(&metadata)?;
        let mut tensors = read_tensors(&mut reader, tensors)?;
        let data_start = reader.position().next_multiple_of(alignment);
        place(&mut tensors, data_start, alignment, length)?;
        Ok(Self { metadata, tensors })
    }

    /// Returns the metadata by key.
    pub fn metadata(&self) -> &BTreeMap<String, Value> {
        &self.metadata
    }

    /// Returns the tensors in the order of the header.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// Returns the tensor `name`.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}

fn limited(count: u64, most: u64, what: &str) -> Result<u64> {
    if count > most {
        return Err(Error::Content(format!(
            "the header claims {count} {what}, more than the {most} allowed"
        )));
    }
    Ok(count)
}

fn check_version(reader: &mut Reader<impl Read>) -> Result<()> {
    let magic: [u8; 4] = reader.array()?;
    if magic != MAGIC {
        return Err(Error::Content("the file does not start with `GGUF`".to_owned()));
    }
    match reader.u32()? {
        2 | 3 => Ok(()),
        version if (1..=16).contains(&version.swap_bytes()) => {
            Err(Error::Unsupported("the file is big-endian, which is not supported".to_owned()))
        }
        version => {
            Err(Error::Unsupported(format!("the version is {version}; versions 2 and 3 are supported")))
        }
    }
}

fn read_metadata(reader: &mut Reader<impl Read>, entries: u64) -> Result<BTreeMap<String, Value>> {
    let mut metadata = BTreeMap::new();
    for _ in 0..entries {
        let key = name(reader, "key")?;
        let value = read_value(reader).map_err(|error| in_place(error, "the key", &key))?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(Error::Content(format!("the key `{key}` occurs twice")));
        }
    }
    Ok(metadata)
}

fn in_place(error: Error, what: &str, name: &str) -> Error {
    match error {
        Error::Content(reason) => Error::Content(format!("{what} `{name}`: {reason}")),
        Error::Unsupported(reason) => Error::Unsupported(format!("{what} `{name}`: {reason}")),
        other @ (Error::Io(_) | Error::Part { .. }) => other,
    }
}

fn name(reader: &mut Reader<impl Read>, what: &str) -> Result<String> {
    let name = reader.text()?;
    if name.is_empty() || name.len() > Header::MAX_NAME {
        let most = Header::MAX_NAME;
        return Err(Error::Content(format!("a {what} has {} bytes, expected 1 to {most}", name.len())));
    }
    Ok(name)
}

fn read_kind(reader: &mut Reader<impl Read>) -> Result<Kind> {
    let number = reader.u32()?;
    Kind::of(number).ok_or_else(|| Error::Content(format!("unknown value type {number}")))
}

fn read_value(reader: &mut Reader<impl Read>) -> Result<Value> {
    Ok(match read_kind(reader)? {
        Kind::Unsigned(bytes) => Value::Integer(reader.integer(bytes, false)?),
        Kind::Signed(bytes) => Value::Integer(reader.integer(bytes, true)?),
        Kind::Float(bytes) => Value::Float(reader.float(bytes)?),
        Kind::Bool => Value::Bool(reader.bool()?),
        Kind::Text => Value::Text(reader.text()?),
        Kind::List => read_list(reader)?,
    })
}

fn read_list(reader: &mut Reader<impl Read>) -> Result<Value> {
    let kind = read_kind(reader)?;
    let count = reader.u64()?;
    let follow = reader.remaining();
    if count > follow / kind.least_bytes() {
        return Err(Error::Content(format!(
            "truncated: a list claims {count} values, {follow} bytes follow"
        )));
    }
    // Before anything is allocated.
    reader.spend(count.saturating_mul(in_memory(kind)))?;
    let mut values = 0..count;
    Ok(match kind {
        Kind::Unsigned(bytes) => Value::Integers(integers(reader, count, bytes, false)?),
        Kind::Signed(bytes) => Value::Integers(integers(reader, count, bytes, true)?),
        Kind::Float(bytes) => {
            Value::Floats(values.map(|_| Ok(reader.float(bytes)? as f32)).collect::<Result<_>>()?)
        }
        Kind::Bool => Value::Bools(values.map(|_| reader.bool()).collect::<Result<_>>()?),
        Kind::Text => Value::Texts(values.try_fold(Vec::new(), |mut all, _| {
            all.push(reader.text()?);
            Ok::<_, Error>(all)
        })?),
        Kind::List => return Err(Error::Unsupported("lists of lists are not supported".to_owned())),
    })
}

/// Returns the bytes that a value of a list takes in memory, the content of a text excluded.
fn in_memory(kind: Kind) -> u64 {
    match kind {
        Kind::Text | Kind::List => size_of::<String>() as u64,
        Kind::Bool => 1,
        Kind::Float(_) => 4,
        Kind::Unsigned(_) | Kind::Signed(_) => 8,
    }
}

fn integers(reader: &mut Reader<impl Read>, count: u64, bytes: usize, is_signed: bool) -> Result<Vec<i64>> {
    let too_large = |_| Error::Content("an integer of a list is too large".to_owned());
    (0..count).map(|_| i64::try_from(reader.integer(bytes, is_signed)?).map_err(too_large)).collect()
}

fn alignment(metadata: &BTreeMap<String, Value>) -> Result<u64> {
    let alignment = match metadata.get(ALIGNMENT_KEY) {
        None => return Ok(DEFAULT_ALIGNMENT),
        Some(Value::Integer(number)) => u64::try_from(*number).unwrap_or(0),
        Some(_) => 0,
    };
    if !alignment.is_power_of_two() || !(8..=MAX_ALIGNMENT).contains(&alignment) {
        let message = format!("`{ALIGNMENT_KEY}` is not a power of two from 8 to {MAX_ALIGNMENT}");
        return Err(Error::Content(message));
    }
    Ok(alignment)
}

/// Reads the tensors; `start` counts from the start of the data.
fn read_tensors(reader: &mut Reader<impl Read>, count: u64) -> Result<Vec<Tensor>> {
    let mut names = BTreeSet::new();
    let mut tensors = Vec::new();
    for _ in 0..count {
        reader.spend(size_of::<Tensor>() as u64 + 64)?;
        let name = name(reader, "tensor's name")?;
        let tensor =
            read_tensor(reader, name.clone()).map_err(|error| in_place(error, "the tensor", &name))?;
        if !names.insert(name.clone()) {
            return Err(Error::Content(format!("the tensor `{name}` occurs twice")));
        }
        tensors.push(tensor);
    }
    Ok(tensors)
}

fn read_tensor(reader: &mut Reader<impl Read>, name: String) -> Result<Tensor> {
    let dimensions = reader.u32()?;
    if dimensions == 0 || dimensions > Header::MAX_DIMENSIONS {
        let most = Header::MAX_DIMENSIONS;
        return Err(Error::Content(format!("it has {dimensions} dimensions, expected 1 to {most}")));
    }
    let mut extents = (0..dimensions).map(|_| reader.u64()).collect::<Result<Vec<u64>>>()?;
    let number = reader.u32()?;
    let storage = Storage::of(number).map_err(Error::Unsupported)?;
    let width = extents[0];
    let block = storage.block_values() as u64;
    if extents.contains(&0) || !width.is_multiple_of(block) {
        let reason = format!("its shape {extents:?} does not consist of blocks of {block} values");
        return Err(Error::Content(reason));
    }
    let values = extents.iter().try_fold(1_u64, |product, &extent| product.checked_mul(extent));
    let bytes = values.and_then(|values| (values / block).checked_mul(storage.block_bytes() as u64));
    let Some(bytes) = bytes.filter(|&bytes| i64::try_from(bytes).is_ok()) else {
        return Err(Error::Content(format!("its shape {extents:?} is too large")));
    };
    extents.reverse();
    let shape = extents.into_iter().map(|extent| extent as usize).collect();
    Ok(Tensor { name, shape, storage, start: reader.u64()?, bytes })
}

/// Checks the offsets of the tensors and makes them count from the start of the file.
fn place(tensors: &mut [Tensor], data_start: u64, alignment: u64, length: u64) -> Result<()> {
    for tensor in tensors.iter_mut() {
        let Tensor { name, start, bytes, .. } = tensor;
        if !start.is_multiple_of(alignment) {
            let reason = format!("the tensor `{name}` starts at {start}, not at a multiple of {alignment}");
            return Err(Error::Content(reason));
        }
        let placed = data_start.checked_add(*start);
        let end = placed.and_then(|placed| placed.checked_add(*bytes));
        let Some(placed) = placed.filter(|_| end.is_some_and(|end| end <= length)) else {
            let reason = format!("truncated: the tensor `{name}` ends after the file's {length} bytes");
            return Err(Error::Content(reason));
        };
        *start = placed;
    }
    let mut order: Vec<&Tensor> = tensors.iter().collect();
    order.sort_by_key(|tensor| (tensor.start, tensor.bytes));
    match order.windows(2).find(|pair| pair[0].start + pair[0].bytes > pair[1].start) {
        Some(pair) => {
            Err(Error::Content(format!("the tensors `{}` and `{}` overlap", pair[0].name, pair[1].name)))
        }
        None => Ok(()),
    }
}
