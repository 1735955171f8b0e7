//! Writes a model folder as one GGUF file (version 3) for llama.cpp.
//!
//! Matrices become half floats or blocks of small integers with shared scales; norms and biases stay `f32`. Some rows of a
//! tensor are in memory at a time. [`load`] reads a file back, so that what was written can be measured; it takes nothing
//! from the folder.

mod architecture;
mod header;
mod limits;
mod load;
mod tokenizer;

use std::io::Write;
use std::ops::Range;
use std::path::Path;

use failure::{Error, Result};
use gguf::Storage;
use mlx_rs::ops::indexing::TryIndexOp as _;
use mlx_rs::{Array, Dtype};
use models::{Settings, TensorFiles, canonical_name};
use serde::{Deserialize, Serialize};

use crate::gguf::architecture::Architecture;
use crate::gguf::header::{Metadata, header, nbytes, padding};
use crate::json::read_json;

pub(crate) use crate::gguf::load::{load, load_head};

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
    /// Blocks of 256 values of 6 bits.
    #[serde(rename = "q6_k")]
    Q6K,
    /// Blocks of 256 values of 4 bits; embedding, head and the matrices that suffer most in 6 bits.
    #[serde(rename = "q4_k_m")]
    Q4KM,
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
            Self::Q6K => "q6_k",
            Self::Q4KM => "q4_k_m",
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
            Self::Q4KM => 15,
            Self::Q6K => 18,
        }
    }

    /// Returns the storage of the matrix `name`, whose rows have `width` values, in a model of `blocks` blocks.
    ///
    /// A width that is no multiple of a block is stored in smaller blocks of at least as many bits, or as `F16`.
    fn storage(self, name: &str, width: usize, blocks: usize) -> Storage {
        let is_outer = name == "token_embd.weight" || name == "output.weight";
        let wanted = match self {
            Self::None | Self::F16 => Storage::F16,
            Self::Q4_0 if !is_outer => Storage::Q4_0,
            Self::Q4_1 if !is_outer => Storage::Q4_1,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 => Storage::Q8_0,
            Self::Q4KM if !is_outer && !is_sensitive(name, blocks) => Storage::Q4_K,
            Self::Q4KM | Self::Q6K => Storage::Q6_K,
        };
        let smaller = match wanted {
            Storage::Q4_K => Storage::Q5_0,
            Storage::Q6_K => Storage::Q8_0,
            other => other,
        };
        let fits = |storage: &Storage| width.is_multiple_of(storage.block_values());
        [wanted, smaller].into_iter().find(fits).unwrap_or(Storage::F16)
    }
}

/// Returns whether `q4_k_m` stores a matrix in 6 bits: values and `ffn_down` of the first and last eighth of the blocks, and
/// of every third block between them, as in llama.cpp.
fn is_sensitive(name: &str, blocks: usize) -> bool {
    let place = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    let Some((Ok(block), layer)) = place.map(|(block, layer)| (block.parse::<usize>(), layer)) else {
        return false;
    };
    let eighth = blocks / 8;
    let is_chosen = block < eighth || block >= 7 * blocks / 8 || (block - eighth) % 3 == 2;
    is_chosen && matches!(layer, "attn_v.weight" | "ffn_down.weight")
}

/// Change of a tensor's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Nothing,
    /// Adds 1: Gemma's norms multiply by 1 + weight, llama.cpp's by the weight.
    AddOne,
    /// Interleaves the two halves of each head: llama.cpp rotates neighbours, not halves.
    Interleave {
        /// Number of rows of a head.
        head_rows: usize,
    },
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

impl Tensor {
    /// Returns the number of values in a row.
    fn width(&self) -> usize {
        self.shape.get(1).copied().unwrap_or(1)
    }
}

/// Number of values of a tensor in memory at a time, approximately.
const PART_VALUES: usize = 1 << 22;

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
/// Fails when its architecture or tokenizer is not supported, and names a setting that llama.cpp does not follow.
pub fn check(folder: &Path) -> Result<()> {
    let config = read_json(&folder.join("config.json"))?;
    let files = TensorFiles::open(folder)?;
    let is_embedding = |name: &&str| canonical_name(name).ends_with("model.embed_tokens.weight");
    let rows = files.names().find(is_embedding).and_then(|name| files.info(name)?.shape.first().copied());
    Architecture::new(folder)?.metadata()?;
    tokenizer::metadata(folder, &config, rows.ok_or_else(no_embedding)?).map(drop)
}

fn no_embedding() -> Error {
    Error::bad_input("the weights have no embedding")
}

/// Writes the model in `folder` to the file `out`.
///
/// # Errors
///
/// Fails as [`check`] does, when its weights are quantized, and when the written file would be computed differently.
pub fn export(folder: &Path, kind: Gguf, out: &Path) -> Result<()> {
    let config = read_json(&folder.join("config.json"))?;
    if config.get("quantization").is_some() {
        return Err(unsupported("a model quantized by MLX", "set `fuse.quantized` to `dequantize`"));
    }
    let architecture = Architecture::new(folder)?;
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
        write_tensor(&mut file, &files, tensor)?;
        let bytes = nbytes(tensor.storage, tensor.shape.iter().product());
        file.write_all(&vec![0; padding(bytes)])?;
    }
    file.flush()?;
    compare(architecture.settings(), out, architecture.context_length()?)
}

/// Fails when the metadata of the file `out` describes another model than `settings`, in rows of at most `context` tokens.
fn compare(settings: &Settings, out: &Path, context: u64) -> Result<()> {
    let written = Settings::of(out, &load::config_of(out)?)?;
    let differences = settings.differences(&written, context);
    if differences.is_empty() {
        return Ok(());
    }
    Err(unsupported(&format!("a model with this `{}`", differences.join("`, `")), WITHOUT_GGUF))
}

/// Writes the values of a tensor, some rows at a time.
fn write_tensor(file: &mut impl Write, files: &TensorFiles, tensor: &Tensor) -> Result<()> {
    let Some(name) = &tensor.stored else {
        return Ok(file.write_all(&tensor.storage.quantize(&tensor.computed))?);
    };
    let array = files.array(name)?;
    for rows in parts(&tensor.shape, tensor.change) {
        let part = if tensor.shape.len() == 2 {
            array.try_index((rows.start as i32..rows.end as i32, ..)).map_err(models::Error::from)?
        } else {
            array.clone()
        };
        let values = changed(floats(&part)?, tensor.change, tensor.width());
        file.write_all(&tensor.storage.quantize(&values))?;
    }
    Ok(())
}

/// Divides the rows of a tensor into ranges of about [`PART_VALUES`] values, without cutting a head that is interleaved.
fn parts(shape: &[usize], change: Change) -> impl Iterator<Item = Range<usize>> {
    let (rows, width) = match shape {
        [rows, width] => (*rows, *width),
        _ => (1, 1),
    };
    let unit = match change {
        Change::Interleave { head_rows } => head_rows,
        Change::Nothing | Change::AddOne => 1,
    };
    let step = (PART_VALUES / (unit * width).max(1)).max(1) * unit;
    (0..rows).step_by(step).map(move |start| start..(start + step).min(rows))
}

/// Returns the elements of an array.
fn floats(array: &Array) -> models::Result<Vec<f32>> {
    let array = array.as_dtype(Dtype::Float32)?;
    let four = |four: &[u8]| f32::from_le_bytes(four.try_into().expect("four bytes"));
    Ok(mlx_ext::with_bytes(&array, |bytes| bytes.chunks_exact(4).map(four).collect())?)
}

/// Changes values of whole heads, or of any rows, of `width` values each.
fn changed(values: Vec<f32>, change: Change, width: usize) -> Vec<f32> {
    match change {
        Change::Nothing => values,
        Change::AddOne => values.into_iter().map(|value| value + 1.0).collect(),
        Change::Interleave { head_rows } => {
            turned(&values, width, head_rows, |inside| (inside % 2) * (head_rows / 2) + inside / 2)
        }
    }
}

/// Undoes [`changed`].
fn restored(values: Vec<f32>, change: Change, width: usize) -> Vec<f32> {
    match change {
        Change::Nothing => values,
        Change::AddOne => values.into_iter().map(|value| value - 1.0).collect(),
        Change::Interleave { head_rows } => {
            let half = head_rows / 2;
            turned(&values, width, head_rows, |inside| (inside % half) * 2 + inside / half)
        }
    }
}

/// Returns the rows of each head in another order; `place` returns the row of a head that comes to a place in it.
fn turned(values: &[f32], width: usize, head_rows: usize, place: impl Fn(usize) -> usize) -> Vec<f32> {
    let row = |row: usize| {
        let from = row / head_rows * head_rows + place(row % head_rows);
        &values[from * width..(from + 1) * width]
    };
    (0..values.len() / width.max(1)).flat_map(row).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_heads_are_interleaved() {
        // Two heads of four rows, one column.
        let values: Vec<f32> = (0..8_u8).map(f32::from).collect();
        let change = Change::Interleave { head_rows: 4 };
        let turned = changed(values.clone(), change, 1);
        assert_eq!(turned, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
        assert_eq!(restored(turned, change, 1), values);
    }

    #[test]
    fn parts_cover_all_rows_without_cutting_a_head() {
        let change = Change::Interleave { head_rows: 96 };
        let ranges: Vec<Range<usize>> = parts(&[960, 1 << 15], change).collect();
        assert!(ranges.len() == 10 && ranges[3] == (288..384), "{ranges:?}");
        let ranges: Vec<Range<usize>> = parts(&[100_000, 64], Change::Nothing).collect();
        assert_eq!(ranges, [0..65_536, 65_536..100_000]);
        assert_eq!(parts(&[64], Change::AddOne).count(), 1);
    }

    #[test]
    fn narrow_matrices_are_stored_in_smaller_blocks_of_at_least_as_many_bits() {
        let storage = |kind: Gguf, name: &str, width| kind.storage(name, width, 24);
        assert_eq!(storage(Gguf::Q4KM, "blk.5.attn_q.weight", 1536), Storage::Q4_K);
        assert_eq!(storage(Gguf::Q4KM, "blk.5.attn_q.weight", 576), Storage::Q5_0);
        assert_eq!(storage(Gguf::Q4KM, "blk.5.attn_v.weight", 1536), Storage::Q6_K);
        assert_eq!(storage(Gguf::Q4KM, "blk.6.attn_v.weight", 1536), Storage::Q4_K);
        assert_eq!(storage(Gguf::Q4KM, "token_embd.weight", 576), Storage::Q8_0);
        assert_eq!(storage(Gguf::Q6K, "blk.6.ffn_up.weight", 512), Storage::Q6_K);
        for kind in [Gguf::Q8_0, Gguf::Q6K, Gguf::Q4KM, Gguf::Q4_0, Gguf::Q4_1] {
            assert_eq!(storage(kind, "blk.5.attn_q.weight", 48), Storage::F16, "{kind:?}");
        }
    }
}
