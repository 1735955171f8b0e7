//! The header of a safetensors file, checked against the file before anything else reads it.
//!
//! A safetensors file is eight bytes of header length, the header as JSON, and the data. A reader that trusts the header can
//! be made to read outside the file or to mix up tensors, so every number in it is checked against the others. Only the
//! header is read, and its size is limited: time and memory do not depend on the size of the data.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io::Read;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::error::{Error, Result};

/// The checked header of a safetensors file.
#[derive(Debug, Clone)]
pub struct TensorHeader {
    data_start: u64,
    tensors: Vec<(String, TensorInfo)>,
    metadata: Option<BTreeMap<String, String>>,
}

impl TensorHeader {
    /// Longest header in bytes, about ten times that of the largest published models.
    pub const MAX_BYTES: u64 = 8 << 20;
    /// Largest number of tensors in a file.
    pub const MAX_TENSORS: usize = 100_000;
    /// Largest number of dimensions of a tensor.
    const MAX_DIMENSIONS: usize = 32;
    /// Largest number of entries in `__metadata__`.
    const MAX_METADATA: usize = 4096;

    /// Reads and checks the header of the file `path`, through links.
    ///
    /// # Errors
    ///
    /// Fails on anything that makes two readers disagree about a tensor: a truncated file, overlaps, holes, trailing bytes, a
    /// repeated name, a shape that does not match its bytes. Fails also on headers beyond the limits.
    pub fn read(path: &Path) -> Result<Self> {
        let mut file = files::open(path)?;
        let file_bytes = file.metadata()?.len();
        Self::from_reader(&mut file, file_bytes)
    }

    /// Reads the header of an open file of `file_bytes` bytes as [`TensorHeader::read`] does; the data is read next.
    pub(crate) fn from_reader(file: &mut impl Read, file_bytes: u64) -> Result<Self> {
        let bytes = header_length(file, file_bytes)?;
        let mut text = vec![0; bytes as usize];
        file.read_exact(&mut text)?;
        let mut parsed: Parsed = serde_json::from_slice(&text)
            .map_err(|error| Error::Content(format!("the header is not valid: {error}")))?;
        drop(text);
        let tensors = parsed.checked(file_bytes - 8 - bytes).map_err(Error::Content)?;
        Ok(Self { data_start: 8 + bytes, tensors, metadata: parsed.metadata })
    }

    /// Returns the offset of the data in the file in bytes; the offsets of tensors count from there.
    pub fn data_start(&self) -> u64 {
        self.data_start
    }

    /// Returns the tensors in the order of their data.
    pub fn tensors(&self) -> &[(String, TensorInfo)] {
        &self.tensors
    }

    /// Turns the header into its tensors, in the order of their data.
    pub fn into_tensors(self) -> Vec<(String, TensorInfo)> {
        self.tensors
    }

    /// Returns the entries of `__metadata__`, if the header has it.
    pub fn metadata(&self) -> Option<&BTreeMap<String, String>> {
        self.metadata.as_ref()
    }
}

fn header_length(file: &mut impl Read, file_bytes: u64) -> Result<u64> {
    let mut length = [0; 8];
    if file_bytes < 8 {
        return Err(Error::Content(format!(
            "the file has {file_bytes} bytes, fewer than the 8 bytes of the header's length"
        )));
    }
    file.read_exact(&mut length)?;
    let bytes = u64::from_le_bytes(length);
    if bytes > TensorHeader::MAX_BYTES {
        return Err(Error::Content(format!(
            "the header claims {bytes} bytes, more than the {} allowed",
            TensorHeader::MAX_BYTES
        )));
    }
    if bytes > file_bytes - 8 {
        let follow = file_bytes - 8;
        return Err(Error::Content(format!("truncated: the header claims {bytes} bytes, {follow} follow")));
    }
    Ok(bytes)
}

/// The entries of a header in the order of the file; names do not repeat.
#[derive(Default)]
struct Parsed {
    metadata: Option<BTreeMap<String, String>>,
    tensors: Vec<(String, TensorInfo)>,
}

impl Parsed {
    /// Checks every tensor against its neighbours and against `data_bytes`, the length of the data after the header.
    ///
    /// Returns the tensors in the order of their data.
    fn checked(&mut self, data_bytes: u64) -> Result<Vec<(String, TensorInfo)>, String> {
        let mut tensors = std::mem::take(&mut self.tensors);
        tensors.sort_by_key(|(_, info)| info.data_offsets);
        let mut end = 0;
        let mut before: Option<&str> = None;
        for (name, info) in &tensors {
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
        Ok(tensors)
    }
}

/// Checks that the shape of a tensor needs exactly the bytes that its offsets cover.
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

impl<'de> Deserialize<'de> for Parsed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Parsed;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parsed, A::Error> {
        let mut parsed = Parsed::default();
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom(format!("`{name}` occurs twice")));
            }
            if name == "__metadata__" {
                // MLX writes `null` if it has no metadata.
                parsed.metadata = map.next_value::<Option<Texts>>()?.map(|texts| texts.0);
            } else if parsed.tensors.len() == TensorHeader::MAX_TENSORS {
                let reason = format!("it lists more than {} tensors", TensorHeader::MAX_TENSORS);
                return Err(A::Error::custom(reason));
            } else {
                let Described { dtype, shape, data_offsets } = map
                    .next_value()
                    .map_err(|error| A::Error::custom(format!("tensor `{name}`: {error}")))?;
                parsed.tensors.push((name, TensorInfo { dtype, shape: shape.0, data_offsets }));
            }
        }
        Ok(parsed)
    }
}

/// The description of one tensor in a header.
#[derive(Deserialize)]
struct Described {
    dtype: Dtype,
    shape: Shape,
    data_offsets: (usize, usize),
}

/// The dimensions of a tensor, limited in number.
struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ShapeVisitor;
        impl<'de> Visitor<'de> for ShapeVisitor {
            type Value = Shape;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list of dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Shape, A::Error> {
                let mut shape = Vec::new();
                while let Some(dimension) = list.next_element()? {
                    if shape.len() == TensorHeader::MAX_DIMENSIONS {
                        return Err(A::Error::custom("it has too many dimensions"));
                    }
                    shape.push(dimension);
                }
                Ok(Shape(shape))
            }
        }
        deserializer.deserialize_seq(ShapeVisitor)
    }
}

/// Entries of `__metadata__`; names do not repeat.
struct Texts(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MetadataVisitor;
        impl<'de> Visitor<'de> for MetadataVisitor {
            type Value = Texts;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Texts, A::Error> {
                let mut texts = BTreeMap::new();
                while let Some((name, text)) = map.next_entry::<String, String>()? {
                    if texts.len() == TensorHeader::MAX_METADATA {
                        return Err(A::Error::custom("`__metadata__` has too many entries"));
                    }
                    if texts.contains_key(&name) {
                        return Err(A::Error::custom(format!("`{name}` occurs twice in `__metadata__`")));
                    }
                    texts.insert(name, text);
                }
                Ok(Texts(texts))
            }
        }
        deserializer.deserialize_map(MetadataVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(header: &str, data: usize) -> Result<TensorHeader> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        TensorHeader::from_reader(&mut &bytes[..], bytes.len() as u64)
    }

    fn refused(header: &str, data: usize) -> String {
        match read(header, data) {
            Err(Error::Content(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }

    fn tensor(name: &str, dtype: &str, shape: &str, start: &str, end: &str) -> String {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}"#)
    }

    #[test]
    fn tensors_come_in_the_order_of_their_data() {
        let (a, b) = (tensor("a", "F32", "[2]", "6", "14"), tensor("b", "BF16", "[3,1]", "0", "6"));
        let metadata = r#""__metadata__":{"format":"pt"}"#;
        let header = read(&format!("{{{a},{metadata},{b}}}   "), 14).unwrap();
        let names: Vec<&str> = header.tensors().iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["b", "a"]);
        assert_eq!(header.metadata().unwrap()["format"], "pt");
        assert!(header.data_start() > 8);
    }

    #[test]
    fn files_without_tensors_and_tensors_without_elements_are_valid() {
        assert!(read("{}", 0).unwrap().tensors().is_empty());
        assert!(read(r#"{"__metadata__":null}"#, 0).unwrap().metadata().is_none());
        let (a, b) = (tensor("a", "F32", "[0,7]", "0", "0"), tensor("b", "U8", "[]", "0", "1"));
        assert_eq!(read(&format!("{{{a},{b}}}"), 1).unwrap().into_tensors().len(), 2);
    }

    #[test]
    fn every_contradiction_is_named() {
        let a = tensor("a", "F32", "[2]", "0", "8");
        let cases = [
            (format!("{a},{}", tensor("b", "F32", "[2]", "4", "12")), 12, "`b` overlaps `a`"),
            (
                format!("{a},{}", tensor("b", "F32", "[2]", "12", "20")),
                20,
                "hole of 4 bytes before tensor `b`",
            ),
            (a.clone(), 13, "5 trailing bytes"),
            (a.clone(), 7, "truncated"),
            (format!("{a},{a}"), 8, "`a` occurs twice"),
            (tensor("a", "F32", "[4294967296,4294967296,2]", "0", "8"), 8, "overflows"),
            (tensor("a", "F32", "[4611686018427387905,4]", "0", "16"), 16, "overflows"),
            (tensor("a", "F32", "[-2,-1]", "0", "8"), 8, "tensor `a`"),
            (tensor("a", "F32", "[2]", "8", "0"), 8, "before its start"),
            (tensor("a", "F4", "[3]", "0", "2"), 2, "needs 2 bytes"),
            (r#""a":{"dtype":"U8","shape":[8],"shape":[8],"data_offsets":[0,8]}"#.to_owned(), 8, "duplicate"),
            (format!(r#"{a},"__metadata__":{{"x":"1","x":"2"}}"#), 8, "twice"),
            (format!(r#"{a},"__metadata__":{{"x":1}}"#), 8, "not valid"),
            (tensor("a", "U8", &format!("[{}1]", "1,".repeat(40)), "0", "1"), 1, "too many dimensions"),
        ];
        for (header, data, word) in cases {
            let reason = refused(&format!("{{{header}}}"), data);
            assert!(reason.contains(word), "{word}: {reason}");
        }
        let many: Vec<String> = (0..5000).map(|number| format!(r#""k{number}":"""#)).collect();
        let reason = refused(&format!(r#"{{"__metadata__":{{{}}}}}"#, many.join(",")), 0);
        assert!(reason.contains("too many entries"), "{reason}");
    }

    #[test]
    fn a_header_too_long_is_not_read() {
        for length in [TensorHeader::MAX_BYTES + 1, 1 << 63, u64::MAX] {
            let bytes = length.to_le_bytes();
            let error = TensorHeader::from_reader(&mut &bytes[..], u64::MAX).unwrap_err();
            assert!(error.to_string().contains("claims"), "{error}");
        }
    }
}
