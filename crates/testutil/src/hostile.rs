//! Invalid safetensors files, each with its fault.
//!
//! The format is eight bytes of header length (little endian), the header as JSON, then the data.

use std::io::Write;
use std::path::Path;

/// A damaged or malicious safetensors file.
pub struct Hostile {
    /// Short name of the fault.
    pub name: &'static str,
    /// A word that the error message must contain.
    pub mentions: &'static str,
    /// The bytes of the file.
    pub bytes: Vec<u8>,
}

/// Returns the length of `header`, `header` and `data` as one file.
pub fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// Returns a small valid file with one F32 tensor of shape `[2, 2]` called `name`.
pub fn valid(name: &str) -> Vec<u8> {
    with_header(&format!(r#"{{"{name}":{{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}}}"#), &[0; 16])
}

/// Returns small hostile files with wrong offsets, shapes, names and lengths.
pub fn all() -> Vec<Hostile> {
    let tensor = |name: &str, dtype: &str, shape: &str, start: &str, end: &str| {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}"#)
    };
    let a = tensor("a", "F32", "[2]", "0", "8");
    let one = |name, mentions, header: String, data: usize| Hostile {
        name,
        mentions,
        bytes: with_header(&format!("{{{header}}}"), &vec![0; data]),
    };
    let whole = valid("a");
    vec![
        Hostile { name: "empty file", mentions: "8 bytes", bytes: vec![] },
        Hostile { name: "shorter than its length field", mentions: "8 bytes", bytes: vec![1, 2, 3] },
        Hostile { name: "truncated header", mentions: "header", bytes: whole[..20].to_vec() },
        Hostile { name: "truncated data", mentions: "truncated", bytes: whole[..whole.len() - 3].to_vec() },
        Hostile {
            name: "huge header length",
            mentions: "header",
            bytes: [[0xff; 8].as_slice(), b"{}"].concat(),
        },
        Hostile {
            name: "header length just past 2^63",
            mentions: "header",
            bytes: [(1_u64 << 63).to_le_bytes().as_slice(), b"{}"].concat(),
        },
        Hostile { name: "trailing bytes", mentions: "trailing", bytes: [whole.as_slice(), &[0; 5]].concat() },
        Hostile { name: "bad UTF-8", mentions: "header", bytes: with_bytes(b"{\"\xff\xfe\":{}}") },
        Hostile { name: "deep JSON", mentions: "header", bytes: with_bytes("[".repeat(100_000).as_bytes()) },
        Hostile { name: "not JSON", mentions: "header", bytes: with_bytes(b"PK\x03\x04 not json at all") },
        Hostile { name: "a list for a header", mentions: "header", bytes: with_bytes(b"[]") },
        one("overlap", "overlaps", format!("{a},{}", tensor("b", "F32", "[2]", "4", "12")), 12),
        one("same bytes twice", "overlaps", format!("{a},{}", tensor("b", "F32", "[2]", "0", "8")), 8),
        one("hole", "hole", format!("{a},{}", tensor("b", "F32", "[2]", "12", "20")), 20),
        one("hole at the start", "hole", tensor("a", "F32", "[2]", "4", "12"), 12),
        one("duplicate key", "twice", format!("{a},{}", tensor("a", "F32", "[2]", "8", "16")), 16),
        one("identical duplicate key", "twice", format!("{a},{a}"), 8),
        one("wrapped shape product", "a", tensor("a", "F32", "[4294967296,4294967296,2]", "0", "8"), 8),
        one(
            "shape product that wraps to fit",
            "a",
            tensor("a", "F32", "[4611686018427387905,4]", "0", "16"),
            16,
        ),
        one("negative dimension", "header", tensor("a", "F32", "[-2,-1]", "0", "8"), 8),
        one("fractional dimension", "header", tensor("a", "F32", "[2.5]", "0", "10"), 10),
        one("end before start", "a", tensor("a", "F32", "[2]", "8", "0"), 8),
        one("offset past 2^64", "header", tensor("a", "F32", "[2]", "0", "18446744073709551624"), 8),
        one("end past the file", "truncated", tensor("a", "F32", "[1000]", "0", "4000"), 8),
        one("shape larger than its bytes", "a", tensor("a", "F32", "[3]", "0", "8"), 8),
        one("unknown dtype", "header", tensor("a", "Q9", "[2]", "0", "8"), 8),
        one("missing offsets", "header", r#""a":{"dtype":"F32","shape":[2]}"#.into(), 8),
        one("no tensors", "no tensor", r#""__metadata__":{"format":"pt"}"#.into(), 0),
    ]
}

/// Writes a file with a header of `header_bytes` bytes, mostly spaces.
pub fn write_large_header(path: &Path, header_bytes: usize) {
    let mut file =
        std::io::BufWriter::new(fs_err::File::create(path).expect("a test may write where it said"));
    file.write_all(&(header_bytes as u64).to_le_bytes()).expect("disk space for a test");
    file.write_all(b"{").expect("disk space for a test");
    let blanks = vec![b' '; 1 << 16];
    let mut left = header_bytes - 2;
    while left > 0 {
        let now = left.min(blanks.len());
        file.write_all(&blanks[..now]).expect("disk space for a test");
        left -= now;
    }
    file.write_all(b"}").expect("disk space for a test");
}

/// Writes a well-formed file with `count` tensors of one byte each.
pub fn write_many_tensors(path: &Path, count: usize) {
    let tensor = |i| format!(r#""t{i}":{{"dtype":"U8","shape":[1],"data_offsets":[{i},{}]}}"#, i + 1);
    let header = format!("{{{}}}", (0..count).map(tensor).collect::<Vec<_>>().join(","));
    fs_err::write(path, with_header(&header, &vec![0; count])).expect("a test may write where it said");
}

fn with_bytes(header: &[u8]) -> Vec<u8> {
    [(header.len() as u64).to_le_bytes().as_slice(), header].concat()
}
