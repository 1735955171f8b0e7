//! Checks of the files themselves before they are published.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use safetensors::Dtype;
use serde::de::IgnoredAny;

use crate::error::Refused;
use crate::tensors::{BadTensors, TensorHeader};
use crate::{Error, Result, Tree, os};

const CHUNK: usize = 1 << 20;

/// Checks every `.safetensors`, `.json` and `.jsonl` file of a tree and names all that must not be published.
pub(crate) fn check(data: &Path, tree: &Tree) -> Result<()> {
    let mut refused = Vec::new();
    for file in tree.files() {
        let path = data.join(&file.path);
        let result = match Path::new(&file.path).extension().and_then(|extension| extension.to_str()) {
            Some("safetensors") => check_safetensors(&path),
            Some("json") => check_json(&path),
            Some("jsonl") => check_jsonl(&path),
            _ => Ok(()),
        };
        match result {
            Ok(()) => {}
            Err(Problem::Content(reason)) => refused.push((file.path.clone(), reason)),
            Err(Problem::Io(error)) => return Err(os::named(error, "read", &path).into()),
        }
    }
    if refused.is_empty() { Ok(()) } else { Err(Error::Payload(Refused(refused))) }
}

/// Checks that a safetensors file is well-formed (header, no overlap, hole or trailing bytes) and that all its
/// floats are finite, in constant memory beyond the header.
///
/// # Errors
///
/// Returns the reason when the file must not be used, naming the tensor.
pub fn verify_safetensors(path: &Path) -> Result<()> {
    check_safetensors(path).map_err(|problem| match problem {
        Problem::Io(error) => os::named(error, "read", path).into(),
        Problem::Content(reason) => Error::Payload(Refused(vec![(path.display().to_string(), reason)])),
    })
}

enum Problem {
    Io(std::io::Error),
    Content(String),
}

impl From<std::io::Error> for Problem {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

fn content(reason: impl Into<String>) -> Problem {
    Problem::Content(reason.into())
}

/// Returns the name of the first tensor of a safetensors file that holds NaN or infinity, if any does; the header is
/// checked first. Takes constant memory beyond the header.
///
/// # Errors
///
/// As [`TensorHeader::read`].
pub fn find_not_finite(path: &Path) -> Result<Option<String>, BadTensors> {
    let mut file = fs_err::File::open(path)?;
    let size = file.metadata()?.len();
    not_finite(&mut file, size)
}

fn not_finite(file: &mut impl Read, size: u64) -> Result<Option<String>, BadTensors> {
    let header = TensorHeader::from_reader(file, size)?;
    let mut buffer = vec![0; CHUNK];
    for (name, info) in header.tensors() {
        let mut left = info.data_offsets.1 - info.data_offsets.0;
        while left > 0 {
            let chunk = &mut buffer[..left.min(CHUNK)];
            file.read_exact(chunk)?;
            if !all_finite(info.dtype, chunk) {
                return Ok(Some(name.clone()));
            }
            left -= chunk.len();
        }
    }
    Ok(None)
}

fn check_safetensors(path: &Path) -> Result<(), Problem> {
    let mut file = os::open_file(path)?;
    let size = file.metadata()?.len();
    match not_finite(&mut file, size) {
        Ok(None) => Ok(()),
        Ok(Some(name)) => Err(content(format!("has NaN or infinity in tensor `{name}`"))),
        Err(BadTensors::Io(error)) => Err(Problem::Io(error)),
        Err(BadTensors::Content(reason)) => Err(content(format!("is no good safetensors file: {reason}"))),
    }
}

/// Tells whether all floats in `bytes` (whole elements, little endian) are finite; other types always are.
fn all_finite(dtype: Dtype, bytes: &[u8]) -> bool {
    fn none16(bytes: &[u8], exponent: u16) -> bool {
        bytes.chunks_exact(2).all(|b| u16::from_le_bytes([b[0], b[1]]) & exponent != exponent)
    }
    match dtype {
        Dtype::F32 | Dtype::C64 => bytes
            .chunks_exact(4)
            .all(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) & 0x7f80_0000 != 0x7f80_0000),
        Dtype::BF16 => none16(bytes, 0x7f80),
        Dtype::F16 => none16(bytes, 0x7c00),
        Dtype::F64 => bytes.chunks_exact(8).all(|b| b[7] & 0x7f != 0x7f || b[6] & 0xf0 != 0xf0),
        Dtype::F8_E5M2 => bytes.iter().all(|b| b & 0x7c != 0x7c),
        Dtype::F8_E4M3 => bytes.iter().all(|b| b & 0x7f != 0x7f),
        _ => true,
    }
}

fn check_json(path: &Path) -> Result<(), Problem> {
    let bytes = read(path)?;
    serde_json::from_slice::<IgnoredAny>(&bytes)
        .map(|_| ())
        .map_err(|error| content(format!("is not JSON: {error}")))
}

/// Reads line by line: a file of rows may be larger than memory.
fn check_jsonl(path: &Path) -> Result<(), Problem> {
    let mut file = BufReader::with_capacity(CHUNK, os::open_file(path)?);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if file.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if !line.ends_with(b"\n") {
            return Err(content(format!("ends in the middle of line {number}")));
        }
        serde_json::from_slice::<IgnoredAny>(&line)
            .map_err(|error| content(format!("is not JSON at line {number}: {error}")))?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    os::open_file(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_with(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(data);
        bytes
    }

    fn reason(bytes: &[u8]) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        fs_err::write(&path, bytes).unwrap();
        verify_safetensors(&path).err().map(|error| error.to_string())
    }

    fn header(dtype: &str, shape: &str, begin: usize, end: usize) -> String {
        format!(r#""{begin}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
    }

    #[test]
    fn well_formed_tensors_pass() {
        let text = format!("{{{},{}}}", header("F32", "[2]", 0, 8), header("U8", "[3]", 8, 11));
        assert_eq!(reason(&file_with(&text, &[0, 0, 0, 0, 1, 0, 0x80, 0x3f, 255, 255, 255])), None);
    }

    #[test]
    fn non_finite_floats_are_named() {
        let cases: [(&str, &[u8]); 6] = [
            ("F32", &[0, 0, 0xc0, 0x7f]),
            ("F32", &[0, 0, 0x80, 0xff]),
            ("F16", &[0, 0x7c]),
            ("BF16", &[0x80, 0x7f]),
            ("F64", &[0, 0, 0, 0, 0, 0, 0xf0, 0x7f]),
            ("F8_E4M3", &[0x7f]),
        ];
        for (dtype, bytes) in cases {
            let text = format!("{{{}}}", header(dtype, "[1]", 0, bytes.len()));
            let reason = reason(&file_with(&text, bytes)).unwrap();
            assert!(reason.contains("NaN or infinity in tensor `0`"), "{dtype}: {reason}");
        }
    }

    #[test]
    fn hostile_headers_are_refused() {
        let one = |begin, end| header("U8", "[4]", begin, end);
        let cases = [
            ("overlap", file_with(&format!("{{{},{}}}", one(0, 4), header("U8", "[4]", 2, 6)), &[0; 6])),
            ("hole", file_with(&format!("{{{},{}}}", one(0, 4), header("U8", "[4]", 8, 12)), &[0; 12])),
            ("trailing bytes", file_with(&format!("{{{}}}", one(0, 4)), &[0; 5])),
            ("truncated data", file_with(&format!("{{{}}}", one(0, 4)), &[0; 3])),
            ("wrong length", file_with(&format!("{{{}}}", header("F32", "[4]", 0, 4)), &[0; 4])),
            ("negative shape", file_with(&format!("{{{}}}", header("U8", "[-4]", 0, 4)), &[0; 4])),
            (
                "wrapped product",
                file_with(&format!("{{{}}}", header("U8", "[4294967296,4294967296]", 0, 0)), &[]),
            ),
            ("huge header", u64::MAX.to_le_bytes().to_vec()),
            ("no header", vec![1, 2, 3]),
            ("bad UTF-8", file_with("{\"", &[0xff; 4])),
            ("not JSON", file_with("hello", &[])),
        ];
        for (name, bytes) in cases {
            assert!(reason(&bytes).is_some(), "{name} was accepted");
        }
    }

    #[test]
    fn every_refused_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs_err::write(dir.path().join("a.json"), "{\"x\":}").unwrap();
        fs_err::write(dir.path().join("b.jsonl"), "{}\n{\"x\"\n").unwrap();
        fs_err::write(dir.path().join("c.jsonl"), "{}\n{}").unwrap();
        fs_err::write(dir.path().join("d.jsonl"), "{}\n").unwrap();
        fs_err::write(dir.path().join("e.safetensors"), "x").unwrap();
        let error = check(dir.path(), &Tree::scan(dir.path()).unwrap()).unwrap_err().to_string();
        for part in [
            "`a.json` is not JSON",
            "`b.jsonl` is not JSON at line 2",
            "`c.jsonl` ends in",
            "`e.safetensors`",
        ] {
            assert!(error.contains(part), "{error}");
        }
        assert!(!error.contains("d.jsonl"));
    }
}
