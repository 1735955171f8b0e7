//! Writes a model folder as one GGUF file (version 3) for llama.cpp.
//!
//! Matrices become half floats, or blocks of 32 bytes with a half float as scale; norms and biases stay `f32`. Only one
//! tensor is in memory at a time.

mod architecture;
mod tokenizer;

use std::io::Write;
use std::path::Path;

use failure::{Error, Result};
use half::f16;
use mlx_rs::Dtype;
use models::{TensorFiles, canonical_name};
use serde::{Deserialize, Serialize};

use crate::gguf::architecture::Architecture;
use crate::json::read_json;

/// Storage of matrices in GGUF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Gguf {
    /// No GGUF file is written.
    #[default]
    #[serde(rename = "")]
    None,
    /// Half floats.
    #[serde(rename = "f16")]
    F16,
    /// Blocks of 32 bytes with a scale each: half the size at almost the same quality.
    #[serde(rename = "q8_0")]
    Q8_0,
    /// Blocks of 32 values of 4 bits with a scale each; embedding and head in `q8_0`.
    #[serde(rename = "q4_0")]
    Q4_0,
    /// Blocks of 32 values of 4 bits with a scale and a minimum each; embedding and head in `q8_0`.
    #[serde(rename = "q4_1")]
    Q4_1,
}

impl Gguf {
    /// Returns the name of the format; empty for none.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "",
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
        }
    }

    /// Returns the number of the format in `general.file_type`.
    fn file_type(self) -> u64 {
        match self {
            Self::None | Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q8_0 => 7,
        }
    }

    /// Returns the storage of a matrix; `is_outer` for the embedding and the head.
    fn storage(self, is_outer: bool) -> Storage {
        match self {
            Self::None | Self::F16 => Storage::F16,
            Self::Q4_0 if !is_outer => Storage::Q4_0,
            Self::Q4_1 if !is_outer => Storage::Q4_1,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 => Storage::Q8_0,
        }
    }
}

/// Value of a metadata entry.
enum Datum {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    Ints(Vec<i32>),
    Floats(Vec<f32>),
}

impl From<u64> for Datum {
    fn from(value: u64) -> Self {
        Self::U32(value as u32)
    }
}

impl From<&str> for Datum {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

type Metadata = Vec<(String, Datum)>;

/// Storage of a tensor, with its number in GGUF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Storage {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q8_0 = 8,
}

/// Number of values that share a scale.
const BLOCK: usize = 32;
/// Tensors start at multiples of this many bytes.
const ALIGNMENT: usize = 32;

impl Storage {
    fn nbytes(self, count: usize) -> usize {
        match self {
            Self::F32 => count * 4,
            Self::F16 => count * 2,
            Self::Q4_0 => count / BLOCK * (BLOCK / 2 + 2),
            Self::Q4_1 => count / BLOCK * (BLOCK / 2 + 4),
            Self::Q8_0 => count / BLOCK * (BLOCK + 2),
        }
    }

    fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
            Self::Q4_0 => values.chunks_exact(BLOCK).flat_map(block_of_nibbles).collect(),
            Self::Q4_1 => values.chunks_exact(BLOCK).flat_map(block_with_minimum).collect(),
            Self::Q8_0 => values.chunks_exact(BLOCK).flat_map(block).collect(),
        }
    }
}

/// Returns a block of 32 values: the scale, which is the largest magnitude divided by 127, and 32 signed bytes.
fn block(values: &[f32]) -> Vec<u8> {
    let scale = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs())) / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let mut bytes = f16::from_f32(scale).to_le_bytes().to_vec();
    bytes.extend(values.iter().map(|value| (value * inverse).round() as i8 as u8));
    bytes
}

/// Returns a block of 32 values of 4 bits around 8: the scale, which puts the value of largest magnitude at −8, and nibbles.
fn block_of_nibbles(values: &[f32]) -> Vec<u8> {
    let largest =
        values.iter().fold(0.0_f32, |best, &value| if value.abs() > best.abs() { value } else { best });
    let scale = largest / -8.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let mut bytes = f16::from_f32(scale).to_le_bytes().to_vec();
    bytes.extend(nibbles(values, |value| value * inverse + 8.5));
    bytes
}

/// Returns a block of 32 values of 4 bits above their minimum: the scale, the minimum, and nibbles.
fn block_with_minimum(values: &[f32]) -> Vec<u8> {
    let minimum = values.iter().copied().fold(f32::INFINITY, f32::min);
    let maximum = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let scale = (maximum - minimum) / 15.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let halves = [f16::from_f32(scale), f16::from_f32(minimum)];
    let mut bytes: Vec<u8> = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
    bytes.extend(nibbles(values, |value| (value - minimum) * inverse + 0.5));
    bytes
}

/// Returns values of 4 bits, the first half of the block in the low bits; `place` returns a value's number, which is truncated.
fn nibbles(values: &[f32], place: impl Fn(f32) -> f32) -> Vec<u8> {
    let (low, high) = values.split_at(BLOCK / 2);
    let number = |value: f32| place(value).clamp(0.0, 15.0) as u8;
    low.iter().zip(high).map(|(&low, &high)| number(low) | number(high) << 4).collect()
}

/// Change of a tensor's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Nothing,
    /// Adds 1: Gemma's norms multiply by 1 + weight, llama.cpp's by the weight.
    AddOne,
    /// Interleaves the two halves of each head, given the number of heads: llama.cpp rotates neighbours, not halves.
    Interleave(usize),
}

/// A tensor to write.
struct Tensor {
    name: String,
    /// Name in the model folder; `None` for a computed tensor.
    stored: Option<String>,
    shape: Vec<usize>,
    storage: Storage,
    change: Change,
    computed: Vec<f32>,
}

/// Hint for a model that llama.cpp cannot represent.
const WITHOUT_GGUF: &str = "remove `fuse.gguf` from the settings";

/// Returns the error for something that cannot be written as GGUF.
fn unsupported(subject: &str, hint: &str) -> Error {
    Error::bad_input(format!("{subject} cannot be written as GGUF")).hinted(hint)
}

/// Returns the error for something that is missing in `file`.
fn missing(file: &str, name: &str) -> Error {
    Error::bad_input(format!("`{file}` has no `{name}`"))
}

/// Checks, before any work, that the model in `folder` can be written, apart from a quantization.
///
/// # Errors
///
/// Fails when its architecture or tokenizer is not supported.
pub fn check(folder: &Path) -> Result<()> {
    let config = read_json(&folder.join("config.json"))?;
    let files = TensorFiles::open(folder)?;
    let is_embedding = |name: &&str| canonical_name(name).ends_with("model.embed_tokens.weight");
    let rows = files.names().find(is_embedding).and_then(|name| files.info(name)?.shape.first().copied());
    Architecture::new(&config)?.metadata()?;
    tokenizer::metadata(folder, &config, rows.ok_or_else(no_embedding)?).map(drop)
}

fn no_embedding() -> Error {
    Error::bad_input("the weights have no embedding")
}

/// Writes the model in `folder` to the file `out`.
///
/// # Errors
///
/// Fails when its architecture or tokenizer is not supported, or when its weights are quantized.
pub fn export(folder: &Path, kind: Gguf, out: &Path) -> Result<()> {
    let config = read_json(&folder.join("config.json"))?;
    if config.get("quantization").is_some() {
        return Err(unsupported("a model quantized by MLX", "set `fuse.quantized` to `dequantize`"));
    }
    let architecture = Architecture::new(&config)?;
    let files = TensorFiles::open(folder)?;
    let tensors = architecture.tensors(&files, kind)?;
    let mut metadata: Metadata = vec![("general.architecture".into(), architecture.name().into())];
    metadata.push(("general.file_type".into(), kind.file_type().into()));
    metadata.push(("general.quantization_version".into(), 2.into()));
    metadata.extend(architecture.metadata()?);
    let embedding = tensors.iter().find(|tensor| tensor.name == "token_embd.weight");
    let rows = embedding.ok_or_else(no_embedding)?.shape[0];
    metadata.extend(tokenizer::metadata(folder, &config, rows)?);
    let mut file = std::io::BufWriter::new(fs_err::File::create(out)?);
    let header = header(&metadata, &tensors);
    file.write_all(&header)?;
    for tensor in &tensors {
        let values = match &tensor.stored {
            Some(name) => values(&files, name)?,
            None => tensor.computed.clone(),
        };
        let bytes = tensor.storage.encode(&changed(values, tensor.change, &tensor.shape));
        file.write_all(&bytes)?;
        file.write_all(&vec![0; padding(bytes.len())])?;
    }
    Ok(file.flush()?)
}

fn values(files: &TensorFiles, name: &str) -> models::Result<Vec<f32>> {
    let array = files.array(name)?.as_dtype(Dtype::Float32)?;
    let bytes = mlx_ext::bytes_of(&array)?;
    Ok(bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().expect("four bytes"))).collect())
}

fn changed(mut values: Vec<f32>, change: Change, shape: &[usize]) -> Vec<f32> {
    match change {
        Change::Nothing => values,
        Change::AddOne => {
            for value in &mut values {
                *value += 1.0;
            }
            values
        }
        Change::Interleave(heads) => {
            let (rows, width) = (shape[0], shape[1..].iter().product::<usize>());
            let (head, half) = (rows / heads, rows / heads / 2);
            let row = |row: usize| {
                let (which, inside) = (row / head, row % head);
                let from = which * head + (inside % 2) * half + inside / 2;
                &values[from * width..(from + 1) * width]
            };
            (0..rows).flat_map(row).copied().collect()
        }
    }
}

fn padding(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGNMENT) - bytes
}

fn header(metadata: &Metadata, tensors: &[Tensor]) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(3_u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (name, datum) in metadata {
        push_text(&mut out, name);
        push_datum(&mut out, datum);
    }
    let mut offset = 0;
    for tensor in tensors {
        push_text(&mut out, &tensor.name);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        // GGUF lists the innermost dimension first.
        tensor.shape.iter().rev().for_each(|&extent| out.extend((extent as u64).to_le_bytes()));
        out.extend((tensor.storage as u32).to_le_bytes());
        out.extend((offset as u64).to_le_bytes());
        let bytes = tensor.storage.nbytes(tensor.shape.iter().product());
        offset += bytes + padding(bytes);
    }
    out.resize(out.len() + padding(out.len()), 0);
    out
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn push_datum(out: &mut Vec<u8>, datum: &Datum) {
    let tag = |out: &mut Vec<u8>, tag: u32| out.extend(tag.to_le_bytes());
    let list = |out: &mut Vec<u8>, kind: u32, count: usize| {
        tag(out, 9);
        tag(out, kind);
        out.extend((count as u64).to_le_bytes());
    };
    match datum {
        Datum::U32(value) => {
            tag(out, 4);
            out.extend(value.to_le_bytes());
        }
        Datum::F32(value) => {
            tag(out, 6);
            out.extend(value.to_le_bytes());
        }
        Datum::Bool(value) => {
            tag(out, 7);
            out.push(u8::from(*value));
        }
        Datum::Text(text) => {
            tag(out, 8);
            push_text(out, text);
        }
        Datum::Texts(texts) => {
            list(out, 8, texts.len());
            for text in texts {
                push_text(out, text);
            }
        }
        Datum::Ints(values) => {
            list(out, 5, values.len());
            out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        Datum::Floats(values) => {
            list(out, 6, values.len());
            out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_its_scale_and_32_bytes() {
        let mut values = [0.0; BLOCK];
        (values[0], values[1], values[2]) = (12.7, -12.7, 0.05);
        let bytes = block(&values);
        assert_eq!(bytes.len(), Storage::Q8_0.nbytes(BLOCK));
        assert_eq!(f16::from_le_bytes([bytes[0], bytes[1]]), f16::from_f32(0.1));
        assert_eq!((bytes[2] as i8, bytes[3] as i8, bytes[4] as i8, bytes[5]), (127, -127, 1, 0));
        assert_eq!(block(&[0.0; BLOCK]), vec![0; BLOCK + 2]);
    }

    #[test]
    fn blocks_of_4_bits_have_the_bytes_of_the_gguf_package() {
        // `gguf.quants.quantize` of these values.
        let values: Vec<f32> = (0..32_i16).map(|index| f32::from(index * 37 % 64 - 31) / 8.0).collect();
        let with_scale = [0, 184, 207, 55, 157, 4, 123, 226, 72, 191, 38, 157, 243, 106, 209, 72, 174, 21];
        let with_minimum =
            [51, 56, 192, 195, 64, 217, 98, 251, 149, 46, 183, 81, 218, 115, 12, 149, 62, 200, 81, 234];
        assert_eq!(block_of_nibbles(&values), with_scale);
        assert_eq!(block_with_minimum(&values), with_minimum);
        assert_eq!(block_of_nibbles(&[0.0; BLOCK])[2..], [0x88; 16]);
        assert_eq!(block_with_minimum(&[1.0; BLOCK])[4..], [0; 16]);
    }

    #[test]
    fn halves_of_heads_are_interleaved() {
        // Two heads of four rows, one column.
        let values: Vec<f32> = (0..8_u8).map(f32::from).collect();
        let turned = changed(values, Change::Interleave(2), &[8, 1]);
        assert_eq!(turned, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
    }

    #[test]
    fn tensors_begin_at_multiples_of_32() {
        assert_eq!([0, 1, 32, 33].map(padding), [0, 31, 0, 31]);
        let tensor = |name: &str| Tensor {
            name: name.to_owned(),
            stored: None,
            shape: vec![3],
            storage: Storage::F32,
            change: Change::Nothing,
            computed: vec![0.0; 3],
        };
        let bytes = header(&vec![("a".into(), Datum::Bool(true))], &[tensor("x"), tensor("y")]);
        assert_eq!(bytes.len() % ALIGNMENT, 0);
        assert_eq!(bytes[..8], *b"GGUF\x03\0\0\0");
        // The second tensor's offset is the last thing before the padding.
        let end = bytes.iter().rposition(|&byte| byte != 0).unwrap();
        assert_eq!(bytes[end], 32);
    }
}
