//! Writes the tensors of a GGUF file as safetensors, a bounded number of rows at a time; only the scales and biases of a packed
//! tensor, a quarter of its bytes at most, are kept until its integers are written.

use std::cell::RefCell;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use gguf::{Architecture, Change, Header, Packed, Storage, Tensor, pack};
use outputs::GgufImport;
use serde_json::{Map, Value, json};
use tensors::{Dtype, SHARD_BYTES, TensorLayout, TensorWriter, shards, write_shards};

use super::Blocks;
use crate::error::Error;
use crate::space::Space;

/// Bytes of the parts of a tensor, in order.
type Parts<'a> = Box<dyn Iterator<Item = Result<Vec<u8>, Error>> + 'a>;

/// Bytes of a tensor that are read together.
const CHUNK_BYTES: usize = 8 << 20;

/// An open GGUF file.
pub(super) struct Source<'a> {
    path: PathBuf,
    header: &'a Header,
    file: RefCell<fs_err::File>,
}

impl<'a> Source<'a> {
    pub(super) fn open(path: &Path, header: &'a Header) -> Result<Self, Error> {
        Ok(Self { path: path.into(), header, file: RefCell::new(::files::open(path)?) })
    }

    /// Returns all values of a small tensor, if there is one.
    pub(super) fn floats(&self, name: &str) -> Result<Option<Vec<f32>>, Error> {
        let Some(tensor) = self.header.tensor(name) else { return Ok(None) };
        if tensor.bytes > CHUNK_BYTES as u64 {
            return Err(
                self.refused(format!("the tensor `{name}` has {} bytes, too many for it", tensor.bytes))
            );
        }
        Ok(Some(tensor.storage.dequantize(&self.bytes(tensor.start, tensor.bytes as usize)?)))
    }

    fn bytes(&self, start: u64, count: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; count];
        let mut file = self.file.borrow_mut();
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn refused(&self, reason: String) -> Error {
        Error::Gguf { path: self.path.clone(), reason: gguf::Error::Unsupported(reason) }
    }
}

/// Form in which a tensor is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    /// The bytes of the file.
    Copy(Dtype),
    /// 32-bit floats.
    Floats,
    /// Packed integers of this many bits, with scales and biases.
    Packed(u32),
}

/// A tensor and what becomes of it.
struct Planned<'a> {
    tensor: &'a Tensor,
    name: String,
    change: Change,
    target: Target,
}

/// Result of writing.
pub(super) struct Written {
    /// Entries of `config.json` for packed weights.
    pub(super) quantization: Map<String, Value>,
    /// What became of each tensor; the name of the file is empty.
    pub(super) record: GgufImport,
}

/// Writes all weights into `out`, if they fit.
pub(super) fn write(
    source: &Source<'_>,
    architecture: &Architecture<'_>,
    blocks: Blocks,
    out: &Path,
    space: &Space<'_>,
) -> Result<Written, Error> {
    let mut planned = Vec::new();
    for tensor in source.header.tensors() {
        let translated = architecture.translate(&tensor.name);
        let translated = translated.map_err(|reason| Error::Gguf { path: source.path.clone(), reason })?;
        let Some((name, change)) = translated else { continue };
        let target = target(source, tensor, change, blocks)?;
        planned.push(Planned { tensor, name, change, target });
    }
    planned.sort_by(|a, b| a.name.cmp(&b.name));
    let layouts: Vec<Vec<TensorLayout>> = planned.iter().map(Planned::layouts).collect();
    let sizes: Vec<usize> = layouts.iter().map(|group| group.iter().map(TensorLayout::bytes).sum()).collect();
    space.check_gguf(sizes.iter().map(|&bytes| bytes as u64).fold(0, u64::saturating_add))?;
    write_shards(out, &layouts, &shards(&sizes, SHARD_BYTES), |index, file| {
        planned[index].write(source, file)
    })?;
    Ok(Written { quantization: quantization(&planned), record: record(&planned) })
}

fn record(planned: &[Planned<'_>]) -> GgufImport {
    let mut record = GgufImport::default();
    for planned in planned {
        let of_kind = match planned.target {
            Target::Packed(_) => &mut record.packed,
            Target::Floats if !planned.tensor.storage.is_float() => &mut record.dequantized,
            Target::Floats | Target::Copy(_) => &mut record.floats,
        };
        of_kind.entry(planned.tensor.storage.name().to_owned()).or_default().push(planned.name.clone());
    }
    record
}

fn target(source: &Source<'_>, tensor: &Tensor, change: Change, blocks: Blocks) -> Result<Target, Error> {
    if change == Change::SubtractOne {
        return Ok(Target::Floats);
    }
    Ok(match tensor.storage {
        Storage::F32 => Target::Copy(Dtype::F32),
        Storage::F16 => Target::Copy(Dtype::F16),
        Storage::BF16 => Target::Copy(Dtype::BF16),
        _ if blocks == Blocks::Pack && tensor.shape.len() == 2 => match packed_bits(source, tensor)? {
            Some(bits) => Target::Packed(bits),
            None => Target::Floats,
        },
        _ => Target::Floats,
    })
}

/// Returns the bits of a tensor whose blocks are all packed exactly.
fn packed_bits(source: &Source<'_>, tensor: &Tensor) -> Result<Option<u32>, Error> {
    let mut bits = None;
    for rows in chunks(tensor) {
        match pack(tensor.storage, &source.bytes(rows.start, rows.bytes)?) {
            Some(packed) => bits = Some(packed.bits),
            None => return Ok(None),
        }
    }
    Ok(bits)
}

/// Some rows of a tensor in the file.
struct Rows {
    start: u64,
    bytes: usize,
}

/// Returns the bytes of one row of a tensor.
fn row_bytes(tensor: &Tensor) -> usize {
    let width = tensor.shape.last().copied().unwrap_or(1);
    width / tensor.storage.block_values() * tensor.storage.block_bytes()
}

/// Divides a tensor into groups of whole rows of about [`CHUNK_BYTES`].
fn chunks(tensor: &Tensor) -> impl Iterator<Item = Rows> {
    let row = row_bytes(tensor);
    let step = (CHUNK_BYTES / row).max(1) * row;
    let (start, total) = (tensor.start, tensor.bytes as usize);
    (0..total).step_by(step).map(move |at| Rows { start: start + at as u64, bytes: step.min(total - at) })
}

impl Planned<'_> {
    /// Returns the tensors that are written.
    fn layouts(&self) -> Vec<TensorLayout> {
        let shape = &self.tensor.shape;
        let layout =
            |name: &str, dtype, shape: Vec<usize>| TensorLayout { name: name.to_owned(), dtype, shape };
        match self.target {
            Target::Copy(dtype) => vec![layout(&self.name, dtype, shape.clone())],
            Target::Floats => vec![layout(&self.name, Dtype::F32, shape.clone())],
            Target::Packed(bits) => {
                let path = self.path();
                let (rows, width) = (shape[0], shape[1]);
                let groups = vec![rows, width / Packed::GROUP];
                vec![
                    layout(&self.name, Dtype::U32, vec![rows, width * bits as usize / 32]),
                    layout(&format!("{path}.scales"), Dtype::F16, groups.clone()),
                    layout(&format!("{path}.biases"), Dtype::F16, groups),
                ]
            }
        }
    }

    /// Returns the name without its last part.
    fn path(&self) -> &str {
        self.name.rsplit_once('.').map_or(self.name.as_str(), |(path, _)| path)
    }

    fn write(&self, source: &Source<'_>, file: &mut TensorWriter) -> Result<(), Error> {
        if !matches!(self.target, Target::Packed(_)) {
            return self.raw(source)?.try_for_each(|bytes| Ok(file.append(&self.converted(&bytes?))?));
        }
        let (mut scales, mut biases) = (Vec::new(), Vec::new());
        for bytes in self.raw(source)? {
            let packed = pack(self.tensor.storage, &bytes?);
            let packed =
                packed.ok_or_else(|| source.refused("the file changed during the import".to_owned()))?;
            let words: Vec<u8> = packed.words.iter().flat_map(|word| word.to_le_bytes()).collect();
            file.append(&words)?;
            scales.extend(packed.scales.iter().flat_map(|scale| scale.to_le_bytes()));
            biases.extend(packed.biases.iter().flat_map(|bias| bias.to_le_bytes()));
        }
        [scales, biases].iter().try_for_each(|data| Ok(file.write(data)?))
    }

    fn converted(&self, bytes: &[u8]) -> Vec<u8> {
        let storage = self.tensor.storage;
        match (self.target, self.change) {
            (Target::Copy(_), _) => bytes.to_vec(),
            (_, Change::SubtractOne) => {
                storage.dequantize(bytes).iter().flat_map(|value| (value - 1.0).to_le_bytes()).collect()
            }
            _ => storage.dequantize(bytes).iter().flat_map(|value| value.to_le_bytes()).collect(),
        }
    }

    /// Returns the bytes of the tensor in the order in which its rows are written.
    fn raw<'a>(&'a self, source: &'a Source<'_>) -> Result<Parts<'a>, Error> {
        let Change::Separate(heads) = self.change else {
            return Ok(Box::new(chunks(self.tensor).map(|rows| source.bytes(rows.start, rows.bytes))));
        };
        let Tensor { name, shape, storage, .. } = self.tensor;
        if shape.len() == 1 && !storage.is_float() {
            let storage = storage.name();
            return Err(
                source.refused(format!("the values of `{name}` are in blocks ({storage}), not floats"))
            );
        }
        let rows = shape[0];
        if !rows.is_multiple_of(2 * heads) {
            return Err(source.refused(format!("the {rows} rows of `{name}` are not {heads} heads of pairs")));
        }
        // A row of a bias is one value.
        let (head, row) = (rows / heads, self.tensor.bytes as usize / rows);
        Ok(Box::new((0..heads).map(move |index| {
            let start = self.tensor.start + (index * head * row) as u64;
            let bytes = source.bytes(start, head * row)?;
            // Rows 0, 2, 4 … are the first half of a head, rows 1, 3, 5 … the second.
            let even_then_odd = (0..head).step_by(2).chain((1..head).step_by(2));
            Ok(even_then_odd.flat_map(|at| &bytes[at * row..(at + 1) * row]).copied().collect())
        })))
    }
}

/// Returns the settings of packed weights: the most frequent bits for all layers, and the others by layer.
fn quantization(planned: &[Planned<'_>]) -> Map<String, Value> {
    let bits_of = |planned: &Planned<'_>| match planned.target {
        Target::Packed(bits) => Some(bits),
        Target::Copy(_) | Target::Floats => None,
    };
    let count = |bits: u32| planned.iter().filter(|planned| bits_of(planned) == Some(bits)).count();
    let usual = if count(8) > count(4) { 8 } else { 4 };
    if count(usual) == 0 {
        return Map::new();
    }
    let table = |bits: u32| json!({ "group_size": Packed::GROUP, "bits": bits, "mode": "affine" });
    let mut all = table(usual);
    for planned in planned {
        if let Some(bits) = bits_of(planned).filter(|&bits| bits != usual) {
            all[planned.path()] = table(bits);
        }
    }
    let entries = ["quantization", "quantization_config"].map(|name| (name.to_owned(), all.clone()));
    entries.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a GGUF file with one tensor, whose extents begin with the innermost one.
    fn file(folder: &Path, extents: &[u64], storage: Storage, data: &[u8]) -> PathBuf {
        let mut bytes =
            [&b"GGUF"[..], &3_u32.to_le_bytes(), &1_u64.to_le_bytes(), &0_u64.to_le_bytes()].concat();
        bytes.extend([&1_u64.to_le_bytes()[..], b"t", &(extents.len() as u32).to_le_bytes()].concat());
        bytes.extend(extents.iter().flat_map(|extent| extent.to_le_bytes()));
        bytes.extend([&storage.number().to_le_bytes()[..], &0_u64.to_le_bytes()].concat());
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend_from_slice(data);
        let path = folder.join("model.gguf");
        fs_err::write(&path, bytes).unwrap();
        path
    }

    /// Returns the bytes that are written for the only tensor of a file.
    fn written(path: &Path, change: Change, target: Target) -> Result<Vec<u8>, Error> {
        let header = Header::read(path).unwrap();
        let source = Source::open(path, &header)?;
        let planned = Planned { tensor: &header.tensors()[0], name: "t.weight".to_owned(), change, target };
        let out = path.with_extension("safetensors");
        let layouts = planned.layouts();
        let mut writer = TensorWriter::create(&out, &layouts)?;
        planned.write(&source, &mut writer)?;
        writer.finish()?;
        let bytes = fs_err::read(out)?;
        let data: usize = layouts.iter().map(TensorLayout::bytes).sum();
        Ok(bytes[bytes.len() - data..].to_vec())
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn heads_of_biases_are_put_in_order_as_those_of_weights() {
        let folder = tempfile::tempdir().unwrap();
        let values: Vec<f32> = (0_u8..8).map(f32::from).collect();
        let expected = floats(&[0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
        let path = file(folder.path(), &[8], Storage::F32, &floats(&values));
        let found = written(&path, Change::Separate(2), Target::Copy(Dtype::F32)).unwrap();
        assert_eq!(found, expected);
        let path = file(folder.path(), &[1, 8], Storage::F32, &floats(&values));
        let found = written(&path, Change::Separate(2), Target::Copy(Dtype::F32)).unwrap();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_bias_whose_heads_cannot_be_put_in_order_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(folder.path(), &[32], Storage::Q8_0, &[0; 34]);
        let error = written(&path, Change::Separate(2), Target::Floats).unwrap_err().to_string();
        assert!(error.contains("`t` are in blocks (Q8_0)"), "{error}");
        let path = file(folder.path(), &[6], Storage::F32, &[0; 24]);
        let error = written(&path, Change::Separate(2), Target::Copy(Dtype::F32)).unwrap_err().to_string();
        assert!(error.contains("the 6 rows of `t` are not 2 heads"), "{error}");
    }

    #[test]
    fn a_tensor_of_many_pieces_is_written_whole() {
        let folder = tempfile::tempdir().unwrap();
        let rows = 3 * CHUNK_BYTES / 1024 + 5;
        let data: Vec<u8> = (0..rows * 256).flat_map(|at| (at as f32).to_le_bytes()).collect();
        let path = file(folder.path(), &[256, rows as u64], Storage::F32, &data);
        let header = Header::read(&path).unwrap();
        assert_eq!(chunks(&header.tensors()[0]).count(), 4);
        assert!(written(&path, Change::Nothing, Target::Copy(Dtype::F32)).unwrap() == data);
    }
}
