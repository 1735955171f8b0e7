//! Headers: what a well-formed file says, and that hostile files are refused.

use std::io::Cursor;

use gguf::{Error, Header, Storage, Value};

/// A file under construction.
#[derive(Clone)]
struct File(Vec<u8>);

impl File {
    fn new(version: u32, tensors: u64, entries: u64) -> Self {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(version.to_le_bytes());
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(entries.to_le_bytes());
        Self(bytes)
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn text(self, text: &str) -> Self {
        self.u64(text.len() as u64).bytes(text.as_bytes())
    }

    fn tensor(self, name: &str, shape: &[u64], storage: u32, offset: u64) -> Self {
        let file = self.text(name).u32(shape.len() as u32);
        shape.iter().fold(file, |file, &extent| file.u64(extent)).u32(storage).u64(offset)
    }

    /// Adds the padding and `count` bytes of data.
    fn data(mut self, count: usize) -> Self {
        self.0.resize(self.0.len().next_multiple_of(32) + count, 1);
        self
    }

    fn read(&self) -> gguf::Result<Header> {
        Header::from_reader(Cursor::new(&self.0), self.0.len() as u64)
    }
}

#[test]
fn a_header_is_read_with_every_type_of_value() {
    let file = File::new(3, 2, 8)
        .text("integer")
        .u32(5)
        .bytes(&(-3_i32).to_le_bytes())
        .text("large")
        .u32(10)
        .u64(u64::MAX)
        .text("float")
        .u32(6)
        .bytes(&1.5_f32.to_le_bytes())
        .text("truth")
        .u32(7)
        .bytes(&[1])
        .text("text")
        .u32(8)
        .text("ʻōlelo")
        .text("texts")
        .u32(9)
        .u32(8)
        .u64(2)
        .text("a")
        .text("")
        .text("bytes")
        .u32(9)
        .u32(1)
        .u64(3)
        .bytes(&[1, 255, 0])
        .text("floats")
        .u32(9)
        .u32(6)
        .u64(1)
        .bytes(&2.5_f32.to_le_bytes())
        .tensor("a", &[32, 2], 8, 0)
        .tensor("b", &[3], 0, 96)
        .data(96 + 12);
    let header = file.read().unwrap();
    let metadata = header.metadata();
    assert_eq!(metadata["integer"], Value::Integer(-3));
    assert_eq!(metadata["large"], Value::Integer(u64::MAX.into()));
    assert_eq!(metadata["float"], Value::Float(1.5));
    assert_eq!(metadata["truth"], Value::Bool(true));
    assert_eq!(metadata["text"], Value::Text("ʻōlelo".to_owned()));
    assert_eq!(metadata["texts"], Value::Texts(vec!["a".to_owned(), String::new()]));
    assert_eq!(metadata["bytes"], Value::Integers(vec![1, -1, 0]));
    assert_eq!(metadata["floats"], Value::Floats(vec![2.5]));
    let (a, b) = (header.tensor("a").unwrap(), header.tensor("b").unwrap());
    assert_eq!((a.shape.as_slice(), a.storage, a.bytes), ([2, 32].as_slice(), Storage::Q8_0, 68));
    assert_eq!((b.shape.as_slice(), b.storage, b.bytes), ([3].as_slice(), Storage::F32, 12));
    assert_eq!((a.start % 32, b.start - a.start, b.start + b.bytes), (0, 96, file.0.len() as u64));
}

#[test]
fn every_prefix_of_a_file_is_refused() {
    let whole = File::new(3, 1, 2)
        .text("a")
        .u32(9)
        .u32(8)
        .u64(2)
        .text("x")
        .text("yy")
        .text("b")
        .u32(4)
        .u32(7)
        .tensor("t", &[4], 0, 0)
        .data(16);
    whole.read().unwrap();
    for length in 0..whole.0.len() {
        let error = File(whole.0[..length].to_vec()).read().unwrap_err();
        assert!(matches!(error, Error::Content(_)), "{length}: {error}");
    }
}

#[test]
fn hostile_headers_are_refused() {
    let one_text = |count: u64| File::new(3, 0, 1).text("a").u32(9).u32(8).u64(count);
    let tensor =
        |shape: &[u64], storage, offset| File::new(3, 1, 0).tensor("t", shape, storage, offset).data(64);
    let aligned = |alignment| File::new(3, 0, 1).text("general.alignment").u32(4).u32(alignment).data(64);
    let cases = [
        ("not start with", File(b"GGML".to_vec()).u32(3).data(64)),
        ("version is 1", File::new(1, 0, 0)),
        ("version is 4", File::new(4, 0, 0)),
        ("big-endian", File::new(3_u32.swap_bytes(), 0, 0)),
        ("18446744073709551615 tensors", File::new(3, u64::MAX, 0)),
        ("4097 metadata entries", File::new(3, 0, 4097)),
        ("a list claims 1000000000 values", one_text(1_000_000_000)),
        ("a list claims 18446744073709551615 values", one_text(u64::MAX)),
        ("a text claims 4294967296 bytes", File::new(3, 0, 1).text("a").u32(8).u64(1 << 32)),
        ("a text claims 18446744073709551615 bytes", File::new(3, 0, 1).u64(u64::MAX)),
        ("0 bytes, expected 1 to 256", File::new(3, 0, 1).text("").u32(4).u32(1)),
        ("not valid UTF-8", File::new(3, 0, 1).u64(2).bytes(&[255, 254]).u32(4).u32(1)),
        ("unknown value type 13", File::new(3, 0, 1).text("a").u32(13).u64(0)),
        ("lists of lists", File::new(3, 0, 1).text("a").u32(9).u32(9).u64(1).u32(9).u64(1).u64(0)),
        ("`a` occurs twice", File::new(3, 0, 2).text("a").u32(4).u32(1).text("a").u32(4).u32(1)),
        ("expected 0 or 1", File::new(3, 0, 1).text("a").u32(7).bytes(&[2])),
        ("0 dimensions", tensor(&[], 0, 0)),
        ("5 dimensions", tensor(&[1; 5], 0, 0)),
        ("4294967295 dimensions", File::new(3, 1, 0).text("t").u32(u32::MAX).data(64)),
        ("blocks of 32 values", tensor(&[33], 8, 0)),
        ("blocks of 1 values", tensor(&[0], 0, 0)),
        ("is too large", tensor(&[1 << 40, 1 << 40], 0, 0)),
        ("IQ4_NL, which is not supported", tensor(&[32], 20, 0)),
        ("unknown type 77", tensor(&[32], 77, 0)),
        ("multiple of 32", tensor(&[4], 0, 4)),
        ("`t` ends after the file's", tensor(&[4], 0, 64)),
        ("`t` ends after the file's", tensor(&[4], 0, u64::MAX - 31)),
        ("`t` ends after the file's", tensor(&[1 << 40], 0, 0)),
        ("`t` occurs twice", File::new(3, 2, 0).tensor("t", &[4], 0, 0).tensor("t", &[4], 0, 32).data(64)),
        ("`t` and `u` overlap", File::new(3, 2, 0).tensor("u", &[4], 0, 32).tensor("t", &[9], 0, 0).data(64)),
        ("`u` and `t` overlap", File::new(3, 2, 0).tensor("u", &[4], 0, 0).tensor("t", &[4], 0, 0).data(64)),
        ("a power of two", aligned(0)),
        ("a power of two", aligned(24)),
        ("a power of two", aligned(1 << 30)),
    ];
    for (expected, file) in cases {
        let error = file.read().unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn metadata_beyond_the_budget_is_refused_before_it_is_allocated() {
    // Ten million empty texts: 80 MB in the file, 240 MB in memory.
    let count = 10_000_000_u64;
    let length = 24 + 9 + 16 + count * 8;
    let head = File::new(3, 0, 1).text("a").u32(9).u32(8).u64(count);
    let zeros = std::io::Read::chain(Cursor::new(head.0), std::io::repeat(0));
    let error = Header::from_reader(zeros, length).unwrap_err();
    assert_eq!(error.to_string(), "the key `a`: the metadata needs more than the 48 MiB allowed");
    // Short texts count with what an allocator gives them.
    let many = 1_400_000_u64;
    let mut file = File::new(3, 0, 1).text("a").u32(9).u32(8).u64(many);
    (0..many).for_each(|_| file.0.extend([1, 0, 0, 0, 0, 0, 0, 0, b'x']));
    assert!(file.read().unwrap_err().to_string().contains("MiB allowed"));
    // The same number of single bytes is read as 64-bit integers.
    let head = File::new(3, 0, 1).text("a").u32(9).u32(0).u64(count);
    let zeros = std::io::Read::chain(Cursor::new(head.0), std::io::repeat(0));
    assert!(Header::from_reader(zeros, length).is_err());
}

#[test]
fn a_file_that_became_shorter_is_refused() {
    let whole = File::new(3, 0, 1).text("a").u32(8).text("abc");
    let short = &whole.0[..whole.0.len() - 2];
    let error = Header::from_reader(Cursor::new(short), whole.0.len() as u64).unwrap_err();
    assert!(error.to_string().contains("became shorter"), "{error}");
}

/// Returns pseudo-random numbers, the same in every run.
fn numbers() -> impl FnMut() -> usize {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    }
}

#[test]
fn damaged_bytes_anywhere_are_read_or_refused_without_a_panic() {
    let whole = File::new(3, 2, 3)
        .text("texts")
        .u32(9)
        .u32(8)
        .u64(2)
        .text("x")
        .text("yy")
        .text("numbers")
        .u32(9)
        .u32(4)
        .u64(3)
        .u32(1)
        .u32(2)
        .u32(3)
        .text("general.alignment")
        .u32(4)
        .u32(32)
        .tensor("t", &[32, 2], 8, 0)
        .tensor("u", &[4], 0, 96)
        .data(96 + 16);
    whole.read().unwrap();
    let mut number = numbers();
    let mut refused = 0;
    for _ in 0..50_000 {
        let mut file = whole.clone();
        for _ in 0..=number() % 4 {
            let at = number() % file.0.len();
            file.0[at] = [0, 1, 0x7f, 0x80, 0xff, number() as u8][number() % 6];
        }
        if number().is_multiple_of(8) {
            let length = number() % file.0.len();
            file.0.truncate(length);
        }
        match file.read() {
            Ok(header) => {
                let within = |end: u64| end <= file.0.len() as u64;
                assert!(header.tensors().iter().all(|tensor| within(tensor.start + tensor.bytes)));
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 10_000, "only {refused} of 50000 were refused");
}
