//! Finding NaN and infinity in weights.

use std::io::{self, Read};
use std::path::Path;

use safetensors::Dtype;

use crate::error::{Error, Result};
use crate::header::TensorHeader;

/// Bytes read at a time; a multiple of every element size.
const BUFFER_BYTES: usize = 1 << 20;

/// Returns the name of the first tensor in a safetensors file that holds NaN or infinity.
///
/// Checks the header first. Needs constant memory beyond the header.
///
/// # Errors
///
/// As [`TensorHeader::read`].
pub fn find_not_finite(path: &Path) -> Result<Option<String>> {
    let mut file = files::open(path)?;
    let file_bytes = file.metadata()?.len();
    let header = TensorHeader::from_reader(&mut file, file_bytes)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    for (name, info) in header.tensors() {
        let mut left = info.data_offsets.1 - info.data_offsets.0;
        while left > 0 {
            let bytes = &mut buffer[..left.min(BUFFER_BYTES)];
            file.read_exact(bytes)?;
            if !all_finite(info.dtype, bytes) {
                return Ok(Some(name.clone()));
            }
            left -= bytes.len();
        }
    }
    Ok(None)
}

/// Returns why a file must not be published: a `.safetensors` file with an invalid header, NaN or infinity.
///
/// Other files are never refused.
///
/// # Errors
///
/// Fails when the file cannot be read.
pub fn refusal(path: &Path) -> io::Result<Option<String>> {
    if path.extension().is_none_or(|extension| extension != "safetensors") {
        return Ok(None);
    }
    match find_not_finite(path) {
        Ok(None) => Ok(None),
        Ok(Some(tensor)) => Ok(Some(format!("has NaN or infinity in tensor `{tensor}`"))),
        Err(Error::Content(reason)) => Ok(Some(format!("is not a valid safetensors file: {reason}"))),
        Err(Error::Io(error)) => Err(error),
    }
}

/// Returns whether all floats in `bytes` (whole elements, little endian) are finite; other types always are.
///
/// A float is NaN or infinite if all bits of its exponent are set. `F8_E4M3` has no infinity; its two NaN have all bits
/// but the sign set. `F8_E8M0` is an exponent alone, with one NaN. Floats of 4 and 6 bits are always finite.
fn all_finite(dtype: Dtype, bytes: &[u8]) -> bool {
    match dtype {
        Dtype::F64 => bytes.chunks_exact(8).all(|b| b[7] & 0x7f != 0x7f || b[6] & 0xf0 != 0xf0),
        Dtype::F32 | Dtype::C64 => bytes
            .chunks_exact(4)
            .all(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) & 0x7f80_0000 != 0x7f80_0000),
        Dtype::BF16 => all_finite_16(bytes, 0x7f80),
        Dtype::F16 => all_finite_16(bytes, 0x7c00),
        Dtype::F8_E5M2 => bytes.iter().all(|b| b & 0x7c != 0x7c),
        Dtype::F8_E4M3 => bytes.iter().all(|b| b & 0x7f != 0x7f),
        Dtype::F8_E8M0 => bytes.iter().all(|b| *b != 0xff),
        _ => true,
    }
}

fn all_finite_16(bytes: &[u8], exponent: u16) -> bool {
    bytes.chunks_exact(2).all(|b| u16::from_le_bytes([b[0], b[1]]) & exponent != exponent)
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

    fn refusal_of(bytes: &[u8]) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        fs_err::write(&path, bytes).unwrap();
        refusal(&path).unwrap()
    }

    fn header(dtype: &str, shape: &str, begin: usize, end: usize) -> String {
        format!(r#""{begin}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
    }

    #[test]
    fn well_formed_tensors_pass() {
        let text = format!("{{{},{}}}", header("F32", "[2]", 0, 8), header("U8", "[3]", 8, 11));
        assert_eq!(refusal_of(&file_with(&text, &[0, 0, 0, 0, 1, 0, 0x80, 0x3f, 255, 255, 255])), None);
    }

    #[test]
    fn other_files_are_not_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        fs_err::write(&path, "x").unwrap();
        assert_eq!(refusal(&path).unwrap(), None);
        assert!(refusal(&folder.path().join("missing.safetensors")).is_err());
    }

    #[test]
    fn non_finite_floats_are_named() {
        let cases: [(&str, &[u8]); 8] = [
            ("F32", &[0, 0, 0xc0, 0x7f]),
            ("F32", &[0, 0, 0x80, 0xff]),
            ("F16", &[0, 0x7c]),
            ("BF16", &[0x80, 0x7f]),
            ("F64", &[0, 0, 0, 0, 0, 0, 0xf0, 0x7f]),
            ("F8_E4M3", &[0x7f]),
            ("F8_E5M2", &[0xfc]),
            ("F8_E8M0", &[0xff]),
        ];
        for (dtype, bytes) in cases {
            let text = format!("{{{}}}", header(dtype, "[1]", 0, bytes.len()));
            let reason = refusal_of(&file_with(&text, bytes)).unwrap();
            assert_eq!(reason, "has NaN or infinity in tensor `0`", "{dtype}");
        }
    }

    #[test]
    fn largest_finite_floats_pass() {
        let cases: [(&str, &[u8]); 7] = [
            ("F32", &[0xff, 0xff, 0x7f, 0xff]),
            ("F16", &[0xff, 0x7b]),
            ("BF16", &[0x7f, 0x7f]),
            ("F64", &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xef, 0x7f]),
            ("F8_E4M3", &[0x7e]),
            ("F8_E5M2", &[0x7b]),
            ("F8_E8M0", &[0xfe]),
        ];
        for (dtype, bytes) in cases {
            let text = format!("{{{}}}", header(dtype, "[1]", 0, bytes.len()));
            assert_eq!(refusal_of(&file_with(&text, bytes)), None, "{dtype}");
        }
    }

    #[test]
    fn non_finite_value_after_the_first_buffer_is_found() {
        let elements = BUFFER_BYTES / 2 + 3;
        let mut data = vec![0; 2 * elements];
        data[2 * elements - 2..].copy_from_slice(&[0x80, 0x7f]);
        let text = format!("{{{}}}", header("BF16", &format!("[{elements}]"), 0, data.len()));
        assert!(refusal_of(&file_with(&text, &data)).is_some());
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
            let reason = refusal_of(&bytes).unwrap_or_else(|| panic!("{name} was accepted"));
            assert!(reason.starts_with("is not a valid safetensors file: "), "{name}: {reason}");
        }
    }
}
