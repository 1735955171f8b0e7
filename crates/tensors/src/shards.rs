//! The weights of a model: one file, or numbered shards with an index.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::Serialize;

use crate::write::{TensorLayout, TensorWriter};

/// Name of the index that says which tensor is in which shard.
pub const INDEX: &str = "model.safetensors.index.json";
/// Name of the file where there is only one.
pub const SINGLE_FILE: &str = "model.safetensors";
/// Largest data of a shard in bytes, unless a single group is larger.
pub const SHARD_BYTES: usize = 5_000_000_000;

/// The content of the index.
#[derive(Serialize)]
struct Index<'a> {
    metadata: IndexMetadata,
    weight_map: BTreeMap<&'a str, &'a str>,
}

#[derive(Serialize)]
struct IndexMetadata {
    total_size: usize,
}

/// Writes the index of finished shards into `folder`: from the name of each tensor to the file that holds it.
///
/// # Errors
///
/// Fails when the file cannot be written.
pub fn write_index(folder: &Path, weight_map: BTreeMap<&str, &str>, total_size: usize) -> io::Result<()> {
    let index = Index { metadata: IndexMetadata { total_size }, weight_map };
    let text = serde_json::to_string_pretty(&index).expect("names and numbers are always JSON");
    fs_err::write(folder.join(INDEX), text + "\n")
}

/// Splits groups of tensors, given by their sizes in bytes, into shards of at most `limit` bytes each.
///
/// Returns the indices of the groups of each shard, in order; there is always one shard.
pub fn shards(sizes: &[usize], limit: usize) -> Vec<Vec<usize>> {
    let (mut shards, mut bytes) = (vec![Vec::new()], 0);
    for (index, size) in sizes.iter().enumerate() {
        if bytes > 0 && bytes + size > limit {
            shards.push(Vec::new());
            bytes = 0;
        }
        bytes += size;
        shards.last_mut().expect("there is always one").push(index);
    }
    shards
}

/// Writes the weights of a model into `folder`: [`SINGLE_FILE`], or numbered shards with an [`INDEX`].
///
/// The tensors of `groups[i]` stay together; `write` is called once for each group and must write the data of its tensors
/// in order. Within a shard, groups are laid out as `shards` lists them.
///
/// # Errors
///
/// Returns the error of `write`, or fails when a file cannot be written.
pub fn write_shards<E: From<io::Error>>(
    folder: &Path,
    groups: &[Vec<TensorLayout>],
    shards: &[Vec<usize>],
    mut write: impl FnMut(usize, &mut TensorWriter) -> Result<(), E>,
) -> Result<(), E> {
    let count = shards.len();
    let names: Vec<String> = match count {
        1 => vec![SINGLE_FILE.to_owned()],
        _ => (1..=count).map(|number| format!("model-{number:05}-of-{count:05}.safetensors")).collect(),
    };
    let mut index = Index { metadata: IndexMetadata { total_size: 0 }, weight_map: BTreeMap::new() };
    for (name, shard) in names.iter().zip(shards) {
        let layouts: Vec<TensorLayout> = shard.iter().flat_map(|&group| groups[group].clone()).collect();
        let mut file = TensorWriter::create(&folder.join(name), &layouts)?;
        for &group in shard {
            write(group, &mut file)?;
        }
        file.finish()?;
        for layout in shard.iter().flat_map(|&group| &groups[group]) {
            index.metadata.total_size += layout.bytes();
            index.weight_map.insert(&layout.name, name);
        }
    }
    if count > 1 {
        write_index(folder, index.weight_map, index.metadata.total_size)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use safetensors::Dtype;

    use super::*;
    use crate::header::TensorHeader;

    fn layout(name: &str, bytes: usize) -> TensorLayout {
        TensorLayout { name: name.to_owned(), dtype: Dtype::U8, shape: vec![bytes] }
    }

    #[test]
    fn groups_are_split_at_the_limit() {
        assert_eq!(shards(&[], 10), [vec![]; 1] as [Vec<usize>; 1]);
        assert_eq!(shards(&[4, 6], 10), [[0, 1]]);
        assert_eq!(shards(&[4, 6, 1], 10), [vec![0, 1], vec![2]]);
        assert_eq!(shards(&[40, 6, 5], 10), [vec![0], vec![1], vec![2]]);
    }

    #[test]
    fn shards_have_an_index_and_a_single_file_has_none() {
        let groups = [vec![layout("b", 4), layout("a", 2)], vec![layout("c", 6)]];
        for (limit, expected) in [
            (20, vec![SINGLE_FILE]),
            (6, vec!["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", INDEX]),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let written = write_shards(folder.path(), &groups, &shards(&[6, 6], limit), |group, file| {
                groups[group].iter().try_for_each(|layout| file.write(&vec![group as u8; layout.bytes()]))
            });
            written.unwrap();
            let entries = fs_err::read_dir(folder.path()).unwrap();
            let mut names: Vec<String> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            assert_eq!(names, expected);
            let first = TensorHeader::read(&folder.path().join(expected[0])).unwrap();
            assert_eq!(first.tensors()[1].0, "a");
            if expected.len() > 1 {
                let text = fs_err::read_to_string(folder.path().join(INDEX)).unwrap();
                let index: serde_json::Value = serde_json::from_str(&text).unwrap();
                assert_eq!(index["metadata"]["total_size"], 12);
                assert_eq!(index["weight_map"]["c"], "model-00002-of-00002.safetensors");
            }
        }
    }
}
