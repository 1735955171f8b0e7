//! Checks of weight files before anything else reads them.
//!
//! `tensors` checks each header without reading the rest of the file, so the cost does not depend on the size of the
//! weights. This module adds the checks that only a model needs: shards must agree with their index, values must be
//! finite.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;
use tensors::{INDEX, TensorHeader};

use crate::error::{Error, GET_AGAIN};
use crate::files::read_json_up_to;
use crate::layout::{self, is_plain_name};

/// Checks one safetensors file and returns the names of its tensors.
///
/// # Errors
///
/// Fails on anything that two readers could interpret differently (a truncated file, overlaps, holes, trailing bytes,
/// a repeated name, a shape that does not match its bytes) and on headers above the limits.
pub fn check_file(path: &Path) -> Result<BTreeSet<String>, Error> {
    let header = TensorHeader::read(path).map_err(|error| malformed(path, error))?;
    if header.tensors().is_empty() {
        return Err(Error::Weights { path: path.into(), reason: "the file contains no tensor".into() });
    }
    Ok(header.into_tensors().into_iter().map(|(name, _)| name).collect())
}

/// Ends of the names of quantized weights, here and in other libraries.
const PACKED_PARTS: [&str; 5] = [".scales", ".qweight", ".qzeros", ".g_idx", ".weight_packed"];

/// Returns whether all weights are plain floats.
///
/// # Errors
///
/// As [`check_file`].
pub(crate) fn are_plain<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<bool, Error> {
    for path in paths {
        let header = TensorHeader::read(path).map_err(|error| malformed(path, error))?;
        let is_plain = |(name, info): &(String, tensors::TensorInfo)| {
            use tensors::Dtype::{BF16, F16, F32, F64};
            let is_buffer = name.ends_with("inv_freq") || name.contains("position_ids");
            let is_packed = PACKED_PARTS.iter().any(|part| name.ends_with(part));
            is_buffer || (matches!(info.dtype, F32 | F16 | BF16 | F64) && !is_packed)
        };
        if !header.tensors().iter().all(is_plain) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Checks that every value of a weight file is finite; a model with NaN or infinity has neither a loss nor an answer.
///
/// # Errors
///
/// Names the first tensor that contains NaN or infinity; also as [`check_file`].
pub fn check_values(path: &Path) -> Result<(), Error> {
    match tensors::find_not_finite(path).map_err(|error| malformed(path, error))? {
        None => Ok(()),
        Some(tensor) => Err(Error::NotFinite { path: path.into(), tensor }),
    }
}

fn malformed(path: &Path, error: tensors::Error) -> Error {
    match error {
        tensors::Error::Io(error) => error.into(),
        tensors::Error::Content(reason) => Error::Weights { path: path.into(), reason },
    }
}

/// Checks the weight files `paths` (by name) and that they contain exactly the tensors in `index`, if there is one.
///
/// # Errors
///
/// As [`check_file`]; also when a tensor is listed but absent, present but not listed, or in two files.
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
    let disagrees = |reason| Error::Index {
        path: index.into(),
        reason,
        hint: "index and shards come from different versions of the model; get the whole folder again",
    };
    let listed = read_index(index)?;
    for (tensor, shard) in &listed {
        match home.get(tensor) {
            None => {
                return Err(disagrees(format!("tensor `{tensor}` is listed in `{shard}` but is not there")));
            }
            Some(found) if found != shard => {
                return Err(disagrees(format!(
                    "tensor `{tensor}` is listed in `{shard}` but is in `{found}`"
                )));
            }
            Some(_) => {}
        }
    }
    match home.iter().find(|(tensor, _)| !listed.contains_key(*tensor)) {
        Some((tensor, shard)) => Err(disagrees(format!("tensor `{tensor}` of `{shard}` is not listed"))),
        None => Ok(()),
    }
}

/// Reads an index: tensor name → shard.
///
/// # Errors
///
/// Fails when the file is not an index, is empty, or names a shard that is not a plain file name.
pub fn read_index(path: &Path) -> Result<BTreeMap<String, String>, Error> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index = read_json_up_to(path, layout::max_bytes(INDEX))?;
    let malformed = |reason| Error::Index { path: path.into(), reason, hint: GET_AGAIN };
    if index.weight_map.is_empty() {
        return Err(malformed("`weight_map` is empty".into()));
    }
    let is_shard = |shard: &str| shard.ends_with(".safetensors") && is_plain_name(shard);
    match index.weight_map.values().find(|shard| !is_shard(shard)) {
        Some(shard) => {
            Err(malformed(format!("`{shard}` is not the name of a safetensors file in this folder")))
        }
        None => Ok(index.weight_map),
    }
}
