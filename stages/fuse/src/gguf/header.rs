//! The header of a GGUF file: metadata, and the place of every tensor.

use gguf::Storage;

use super::Tensor;

/// Value of a metadata entry.
pub(super) enum Datum {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    Ints(Vec<i32>),
    Floats(Vec<f32>),
}

impl From<u64> for Datum {
    fn from(value: u64) -> Self {
        Self::U32(value as u32)
    }
}

impl From<&str> for Datum {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

/// Metadata entries, in the order in which they are written.
pub(super) type Metadata = Vec<(String, Datum)>;

/// Tensors start at multiples of this many bytes.
const ALIGNMENT: usize = 32;

/// Returns the number of zeros after `bytes` bytes of a tensor.
pub(super) fn padding(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGNMENT) - bytes
}

/// Returns the bytes before the first tensor.
pub(super) fn header(metadata: &Metadata, tensors: &[Tensor]) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(3_u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (name, datum) in metadata {
        push_text(&mut out, name);
        push_datum(&mut out, datum);
    }
    let mut offset = 0;
    for tensor in tensors {
        push_text(&mut out, &tensor.name);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        // GGUF lists the innermost dimension first.
        tensor.shape.iter().rev().for_each(|&extent| out.extend((extent as u64).to_le_bytes()));
        out.extend((tensor.storage.number()).to_le_bytes());
        out.extend((offset as u64).to_le_bytes());
        let bytes = nbytes(tensor.storage, tensor.shape.iter().product());
        offset += bytes + padding(bytes);
    }
    out.resize(out.len() + padding(out.len()), 0);
    out
}

/// Returns the bytes of `count` values.
pub(super) fn nbytes(storage: Storage, count: usize) -> usize {
    count / storage.block_values() * storage.block_bytes()
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn push_datum(out: &mut Vec<u8>, datum: &Datum) {
    let tag = |out: &mut Vec<u8>, tag: u32| out.extend(tag.to_le_bytes());
    let list = |out: &mut Vec<u8>, kind: u32, count: usize| {
        tag(out, 9);
        tag(out, kind);
        out.extend((count as u64).to_le_bytes());
    };
    match datum {
        Datum::U32(value) => {
            tag(out, 4);
            out.extend(value.to_le_bytes());
        }
        Datum::F32(value) => {
            tag(out, 6);
            out.extend(value.to_le_bytes());
        }
        Datum::Bool(value) => {
            tag(out, 7);
            out.push(u8::from(*value));
        }
        Datum::Text(text) => {
            tag(out, 8);
            push_text(out, text);
        }
        Datum::Texts(texts) => {
            list(out, 8, texts.len());
            for text in texts {
                push_text(out, text);
            }
        }
        Datum::Ints(values) => {
            list(out, 5, values.len());
            out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        Datum::Floats(values) => {
            list(out, 6, values.len());
            out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Change;

    #[test]
    fn tensors_begin_at_multiples_of_32() {
        assert_eq!([0, 1, 32, 33].map(padding), [0, 31, 0, 31]);
        let tensor = |name: &str| Tensor {
            name: name.to_owned(),
            stored: None,
            shape: vec![3],
            storage: Storage::F32,
            change: Change::Nothing,
            computed: vec![0.0; 3],
        };
        let bytes = header(&vec![("a".into(), Datum::Bool(true))], &[tensor("x"), tensor("y")]);
        assert_eq!(bytes.len() % ALIGNMENT, 0);
        assert_eq!(bytes[..8], *b"GGUF\x03\0\0\0");
        // The second tensor's offset is the last thing before the padding.
        let end = bytes.iter().rposition(|&byte| byte != 0).unwrap();
        assert_eq!(bytes[end], 32);
    }
}
