//! The formats that MLX's packed groups represent exactly.
//!
//! MLX stores a group of 32 integers q with a scale and a bias: value = scale · q + bias. `Q4_0`, `Q4_1` and `Q8_0` are the
//! same with another order of the integers and, without a minimum, with a fixed offset: scale · (q − 8) = scale · q − 8 · scale.

use half::f16;

use crate::storage::Storage;

/// Weights as MLX packs them, in groups of 32.
#[derive(Debug, Clone, PartialEq)]
pub struct Packed {
    /// Bits of an integer, 4 or 8.
    pub bits: u32,
    /// Packed integers, the first of each word in its lowest bits.
    pub words: Vec<u32>,
    /// Scale of each group.
    pub scales: Vec<f16>,
    /// Bias of each group.
    pub biases: Vec<f16>,
}

impl Packed {
    /// Number of values that share a scale.
    pub const GROUP: usize = 32;
}

/// Returns the blocks of `bytes` as packed groups; `None` when the storage or a scale cannot be represented exactly.
pub fn pack(storage: Storage, bytes: &[u8]) -> Option<Packed> {
    let (bits, offset) = match storage {
        Storage::Q4_0 => (4, Some(8.0)),
        Storage::Q4_1 => (4, None),
        Storage::Q8_0 => (8, Some(128.0)),
        _ => return None,
    };
    let mut packed = Packed { bits, words: Vec::new(), scales: Vec::new(), biases: Vec::new() };
    for block in bytes.chunks_exact(storage.block_bytes()) {
        let scale = f16::from_le_bytes([block[0], block[1]]);
        let bias = match offset {
            None => f16::from_le_bytes([block[2], block[3]]),
            Some(offset) => exact(-offset * scale.to_f32())?,
        };
        packed.scales.push(scale);
        packed.biases.push(bias);
        let start = if offset.is_none() { 4 } else { 2 };
        push_words(bits, &block[start..], &mut packed.words);
    }
    Some(packed)
}

/// Returns `value` as a half float if nothing is lost.
fn exact(value: f32) -> Option<f16> {
    let half = f16::from_f32(value);
    (half.to_f32() - value == 0.0).then_some(half)
}

fn push_words(bits: u32, quants: &[u8], words: &mut Vec<u32>) {
    let integers: Vec<u32> = match bits {
        4 => {
            let low = quants.iter().map(|byte| u32::from(byte & 15));
            low.chain(quants.iter().map(|byte| u32::from(byte >> 4))).collect()
        }
        // Signed bytes become unsigned ones around 128.
        _ => quants.iter().map(|byte| u32::from(byte ^ 128)).collect(),
    };
    for word in integers.chunks_exact(32 / bits as usize) {
        words.push(word.iter().rev().fold(0, |word, integer| word << bits | integer));
    }
}
