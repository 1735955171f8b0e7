//! Model folders that tests change.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly, its helpers too")]

use std::path::Path;

use tensors::{TensorHeader, TensorLayout, TensorWriter, write_index};

/// Names of the shards that [`shard`] writes.
pub(crate) const ONE: &str = "model-00001-of-00002.safetensors";
/// The second of them.
pub(crate) const TWO: &str = "model-00002-of-00002.safetensors";

/// A tensor with its bytes.
pub(crate) type Stored = (TensorLayout, Vec<u8>);

/// Reads the tensors of a file.
pub(crate) fn read(path: &Path) -> Vec<Stored> {
    let header = TensorHeader::read(path).unwrap();
    let start = usize::try_from(header.data_start()).unwrap();
    let bytes = fs_err::read(path).unwrap();
    let stored = header.into_tensors().into_iter().map(|(name, info)| {
        let data = bytes[start + info.data_offsets.0..start + info.data_offsets.1].to_vec();
        (TensorLayout { name, dtype: info.dtype, shape: info.shape }, data)
    });
    stored.collect()
}

/// Writes tensors to a file.
pub(crate) fn write(path: &Path, tensors: &[Stored]) {
    let layouts: Vec<TensorLayout> = tensors.iter().map(|(layout, _)| layout.clone()).collect();
    let mut writer = TensorWriter::create(path, &layouts).unwrap();
    tensors.iter().try_for_each(|(_, data)| writer.write(data)).unwrap();
    writer.finish().unwrap();
}

/// Replaces the weights of a model folder by two shards with an index.
pub(crate) fn shard(folder: &Path) {
    let whole = folder.join("model.safetensors");
    let tensors = read(&whole);
    fs_err::remove_file(&whole).unwrap();
    let (first, second) = tensors.split_at(tensors.len() / 2);
    let mut map = std::collections::BTreeMap::new();
    for (name, part) in [(ONE, first), (TWO, second)] {
        write(&folder.join(name), part);
        map.extend(part.iter().map(|(layout, _)| (layout.name.as_str(), name)));
    }
    write_index(folder, map, 0).unwrap();
}
