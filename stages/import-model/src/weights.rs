//! Checks of weight files before anything else reads them.
//!
//! Headers are checked by `tensors`, which reads nothing else of a file: the cost does not depend on the size of the
//! weights. Here is what only a model asks for: shards that agree with their index.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;
use tensors::TensorHeader;

use crate::error::Error;
use crate::files::read_json;

/// The longest index that is read: some times that of the largest published models.
const MAX_INDEX_BYTES: u64 = 24 << 20;
/// The file that says which tensor is in which shard.
pub const INDEX: &str = "model.safetensors.index.json";

/// Checks one safetensors file and returns the names of its tensors.
///
/// # Errors
///
/// Fails on anything that makes two readers disagree about a tensor: a truncated file, overlaps, holes, trailing
/// bytes, a name given twice, a shape that does not match its bytes; and on headers too large to be honest.
pub fn check_file(path: &Path) -> Result<BTreeSet<String>, Error> {
    let bad = |reason: String| Error::Weights { path: path.into(), reason };
    let header = TensorHeader::read(path).map_err(|error| match error {
        tensors::Error::Io(error) => error.into(),
        tensors::Error::Content(reason) => bad(reason),
    })?;
    if header.tensors().is_empty() {
        return Err(bad("no tensor in the file".into()));
    }
    Ok(header.into_tensors().into_iter().map(|(name, _)| name).collect())
}

/// Checks that every number of a weight file is one: a model with NaN or infinity in it gives no loss and no answer.
///
/// # Errors
///
/// Names the first tensor that holds NaN or infinity; and as [`check_file`].
pub fn check_values(path: &Path) -> Result<(), Error> {
    match tensors::find_not_finite(path) {
        Ok(None) => Ok(()),
        Ok(Some(tensor)) => Err(Error::NotFinite { path: path.into(), tensor }),
        Err(tensors::Error::Io(error)) => Err(error.into()),
        Err(tensors::Error::Content(reason)) => Err(Error::Weights { path: path.into(), reason }),
    }
}

/// Checks that the weight files of `folder` are all there and hold exactly what the index says.
///
/// `names` are the weight files; `index` says whether the folder has one.
///
/// # Errors
///
/// As [`check_file`]; and when a tensor is listed but absent, present but not listed, or in two files.
pub fn check_all(paths: &BTreeMap<String, &Path>, index: Option<&Path>) -> Result<(), Error> {
    let mut home: BTreeMap<String, &str> = BTreeMap::new();
    for (name, path) in paths {
        for tensor in check_file(path)? {
            if let Some(other) = home.get(&tensor) {
                let reason = format!("tensor `{tensor}` is also in `{other}`");
                return Err(Error::Weights { path: path.to_path_buf(), reason });
            }
            home.insert(tensor, name);
        }
    }
    let Some(index) = index else { return Ok(()) };
    let bad = |reason| Error::Index {
        path: index.into(),
        reason,
        hint: "index and shards come from different versions of the model; get the whole folder again",
    };
    let listed = read_index(index)?;
    for (tensor, shard) in &listed {
        match home.get(tensor) {
            None => return Err(bad(format!("tensor `{tensor}` is listed in `{shard}` but is not there"))),
            Some(found) if found != shard => {
                return Err(bad(format!("tensor `{tensor}` is listed in `{shard}` but is in `{found}`")));
            }
            Some(_) => {}
        }
    }
    match home.iter().find(|(tensor, _)| !listed.contains_key(*tensor)) {
        Some((tensor, shard)) => Err(bad(format!("tensor `{tensor}` of `{shard}` is not listed"))),
        None => Ok(()),
    }
}

/// Reads an index: tensor name → shard.
///
/// # Errors
///
/// Fails when the file is no index, lists nothing, or names a shard that is not a plain file name.
pub fn read_index(path: &Path) -> Result<BTreeMap<String, String>, Error> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index = read_json(path, MAX_INDEX_BYTES)?;
    let bad = |reason| Error::Index { path: path.into(), reason, hint: crate::error::GET_AGAIN };
    if index.weight_map.is_empty() {
        return Err(bad("`weight_map` is empty".into()));
    }
    let odd = |shard: &&String| !(shard.ends_with(".safetensors") && crate::layout::is_plain_name(shard));
    match index.weight_map.values().find(odd) {
        Some(shard) => Err(bad(format!("`{shard}` is not the name of a safetensors file in this folder"))),
        None => Ok(index.weight_map),
    }
}
