//! Checks of weight files before anything else reads them.
//!
//! A safetensors file is eight bytes of header length, the header as JSON, and the data. Readers that trust the
//! header can be made to read outside the file or to mix up tensors, so every number in it is checked here against
//! every other, and at the end by the safetensors crate too. Only the header is read: the cost does not depend on
//! the size of the weights.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::io::Read;
use std::path::Path;

use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use crate::error::Error;
use crate::files::read_json;

/// The longest header that is read: about ten times that of the largest published models.
pub const MAX_HEADER_BYTES: u64 = 8 << 20;
/// The most tensors in one file.
pub const MAX_TENSORS: usize = 100_000;
/// The file that says which tensor is in which shard.
pub const INDEX: &str = "model.safetensors.index.json";

/// Checks one safetensors file and returns the names of its tensors.
///
/// # Errors
///
/// Fails on anything that makes two readers disagree about a tensor: a truncated file, overlaps, holes, trailing
/// bytes, a name given twice, a shape that does not match its bytes; and on headers too large to be honest.
pub fn check_file(path: &Path) -> Result<BTreeSet<String>, Error> {
    let bad = |problem: String| Error::Weights { path: path.into(), problem };
    let mut file = fs_err::File::open(path)?;
    let file_bytes = file.metadata()?.len();
    let header_bytes = header_length(&mut file, file_bytes).map_err(bad)?;
    let mut text = vec![0; header_bytes as usize];
    file.read_exact(&mut text)?;
    let header: Header =
        serde_json::from_slice(&text).map_err(|error| bad(format!("the header is not valid: {error}")))?;
    drop(text);
    header.check(file_bytes - 8 - header_bytes).map_err(bad)
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
                let problem = format!("tensor `{tensor}` is also in `{other}`");
                return Err(Error::Weights { path: path.to_path_buf(), problem });
            }
            home.insert(tensor, name);
        }
    }
    let Some(index) = index else { return Ok(()) };
    let bad = |problem| Error::Index {
        path: index.into(),
        problem,
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
    let index: Index = read_json(path, 64 << 20)?;
    let bad = |problem| Error::Index { path: path.into(), problem, hint: crate::error::GET_AGAIN };
    if index.weight_map.is_empty() {
        return Err(bad("`weight_map` is empty".into()));
    }
    let odd = |shard: &&String| !(shard.ends_with(".safetensors") && crate::layout::is_plain_name(shard));
    match index.weight_map.values().find(odd) {
        Some(shard) => Err(bad(format!("`{shard}` is not the name of a safetensors file in this folder"))),
        None => Ok(index.weight_map),
    }
}

fn header_length(file: &mut fs_err::File, file_bytes: u64) -> Result<u64, String> {
    let mut length = [0; 8];
    if file_bytes < 8 || file.read_exact(&mut length).is_err() {
        return Err(format!(
            "the file has {file_bytes} bytes, not even the first 8 bytes of a safetensors file"
        ));
    }
    let header_bytes = u64::from_le_bytes(length);
    if header_bytes > MAX_HEADER_BYTES {
        return Err(format!(
            "the header claims {header_bytes} bytes, more than the {MAX_HEADER_BYTES} allowed"
        ));
    }
    if header_bytes > file_bytes - 8 {
        return Err(format!("truncated: the header claims {header_bytes} bytes, {} follow", file_bytes - 8));
    }
    Ok(header_bytes)
}

/// A header as it stands in the file: names in file order, none twice.
struct Header {
    metadata: Option<HashMap<String, String>>,
    tensors: Vec<(String, TensorInfo)>,
}

impl Header {
    /// Checks every tensor against its neighbours and against `data_bytes`, the length of what follows the header.
    fn check(mut self, data_bytes: u64) -> Result<BTreeSet<String>, String> {
        if self.tensors.is_empty() {
            return Err("no tensor in the file".into());
        }
        self.tensors.sort_by_key(|(_, info)| info.data_offsets);
        let mut end = 0;
        let mut before: Option<&str> = None;
        for (name, info) in &self.tensors {
            check_tensor(name, info)?;
            let (start, stop) = info.data_offsets;
            if start < end {
                return Err(format!("tensor `{name}` overlaps `{}`", before.unwrap_or("the header")));
            }
            if start > end {
                return Err(format!("a hole of {} bytes before tensor `{name}`", start - end));
            }
            (end, before) = (stop, Some(name.as_str()));
        }
        let end = end as u64;
        if end > data_bytes {
            return Err(format!(
                "truncated: the tensors need {end} bytes, the file has {data_bytes} for them"
            ));
        }
        if end < data_bytes {
            return Err(format!("{} trailing bytes after the last tensor", data_bytes - end));
        }
        let names = self.tensors.iter().map(|(name, _)| name.clone()).collect();
        Metadata::new(self.metadata, self.tensors).map_err(|error| error.to_string())?;
        Ok(names)
    }
}

/// Checks that the shape of a tensor needs exactly the bytes it is given.
fn check_tensor(name: &str, info: &TensorInfo) -> Result<(), String> {
    let (start, stop) = info.data_offsets;
    let TensorInfo { dtype, shape, .. } = info;
    let Some(given) = stop.checked_sub(start) else {
        return Err(format!("tensor `{name}` ends at {stop}, before its start {start}"));
    };
    let elements = shape.iter().try_fold(1_usize, |product, dimension| product.checked_mul(*dimension));
    let bits = elements.and_then(|count| count.checked_mul(dtype.bitsize()));
    match bits {
        None => Err(format!("tensor `{name}`: the size of shape {shape:?} overflows")),
        Some(bits) if bits % 8 != 0 || bits / 8 != given => Err(format!(
            "tensor `{name}`: shape {shape:?} of {dtype:?} needs {} bytes, the header gives it {given}",
            bits.div_ceil(8)
        )),
        Some(_) => Ok(()),
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut header = Header { metadata: None, tensors: Vec::new() };
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom(format!("`{name}` stands in it twice")));
            }
            if name == "__metadata__" {
                header.metadata = Some(map.next_value()?);
            } else if header.tensors.len() == MAX_TENSORS {
                return Err(A::Error::custom(format!("it lists more than {MAX_TENSORS} tensors")));
            } else {
                let info = map
                    .next_value()
                    .map_err(|error| A::Error::custom(format!("tensor `{name}`: {error}")))?;
                header.tensors.push((name, info));
            }
        }
        Ok(header)
    }
}
