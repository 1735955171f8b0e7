//! The values of one block of each storage.
//!
//! Layouts are those of `ggml-common.h`. Products and sums are rounded one by one, in the order of the `gguf` package.

use half::{bf16, f16};

use crate::storage::Storage;

impl Storage {
    /// Returns the values of whole blocks, computed in `f32` as by the `gguf` package.
    ///
    /// # Panics
    ///
    /// Panics when `bytes` does not consist of whole blocks.
    pub fn dequantize(self, bytes: &[u8]) -> Vec<f32> {
        assert!(bytes.len().is_multiple_of(self.block_bytes()), "only whole blocks can be dequantized");
        let mut values = Vec::with_capacity(bytes.len() / self.block_bytes() * self.block_values());
        for block in bytes.chunks_exact(self.block_bytes()) {
            append(self, block, &mut values);
        }
        values
    }
}

/// Appends the values of one block.
fn append(storage: Storage, block: &[u8], values: &mut Vec<f32>) {
    match storage {
        Storage::F32 => values.push(f32::from_le_bytes(block.try_into().expect("four bytes"))),
        Storage::F16 => values.push(half_at(block, 0)),
        Storage::BF16 => values.push(bf16::from_le_bytes([block[0], block[1]]).to_f32()),
        Storage::Q4_0 => {
            let scale = half_at(block, 0);
            values.extend(nibbles(&block[2..18]).map(|q| scale * (f32::from(q) - 8.0)));
        }
        Storage::Q4_1 => {
            let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
            values.extend(nibbles(&block[4..20]).map(|q| scale * f32::from(q) + minimum));
        }
        Storage::Q5_0 => {
            let scale = half_at(block, 0);
            values.extend(five_bits(&block[2..22]).map(|q| scale * (f32::from(q) - 16.0)));
        }
        Storage::Q5_1 => {
            let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
            values.extend(five_bits(&block[4..24]).map(|q| scale * f32::from(q) + minimum));
        }
        Storage::Q8_0 => {
            let scale = half_at(block, 0);
            values.extend(block[2..34].iter().map(|&q| scale * f32::from(q as i8)));
        }
        Storage::Q2_K => two_bits_k(block, values),
        Storage::Q3_K => three_bits_k(block, values),
        Storage::Q4_K => four_bits_k(block, values),
        Storage::Q5_K => five_bits_k(block, values),
        Storage::Q6_K => six_bits_k(block, values),
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Returns the low halves of all bytes, then the high halves.
fn nibbles(bytes: &[u8]) -> impl Iterator<Item = u8> {
    bytes.iter().map(|byte| byte & 0x0F).chain(bytes.iter().map(|byte| byte >> 4))
}

/// Returns 32 values of 5 bits: their highest bits in 4 bytes, then their low bits as nibbles.
fn five_bits(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let high = u32::from_le_bytes(bytes[..4].try_into().expect("four bytes"));
    nibbles(&bytes[4..20]).enumerate().map(move |(index, low)| low | ((high >> index & 1) as u8) << 4)
}

/// Returns `bits`-wide values: of every chunk of `chunk` bytes first the lowest bits of each byte, then the next ones.
fn planes(bytes: &[u8], chunk: usize, bits: u8) -> impl Iterator<Item = u8> {
    let mask = (1_u8 << bits) - 1;
    bytes.chunks_exact(chunk).flat_map(move |chunk| {
        (0..8 / bits).flat_map(move |plane| chunk.iter().map(move |byte| byte >> (plane * bits) & mask))
    })
}

fn two_bits_k(block: &[u8], values: &mut Vec<f32>) {
    let (scales, quants) = (&block[..16], &block[16..80]);
    let (scale, minimum) = (half_at(block, 80), half_at(block, 82));
    for (index, q) in planes(quants, 32, 2).enumerate() {
        let packed = scales[index / 16];
        let (scale, minimum) = (scale * f32::from(packed & 0x0F), minimum * f32::from(packed >> 4));
        values.push(scale * f32::from(q) - minimum);
    }
}

fn three_bits_k(block: &[u8], values: &mut Vec<f32>) {
    let (high, low, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let scale = half_at(block, 108);
    let scales: Vec<f32> = planes(&scales[..8], 8, 4)
        .zip(planes(&scales[8..], 4, 2))
        .map(|(low, high)| scale * (f32::from(low | high << 4) - 32.0))
        .collect();
    for (index, (low, high)) in planes(low, 32, 2).zip(planes(high, 32, 1)).enumerate() {
        let q = f32::from(low) - if high == 0 { 4.0 } else { 0.0 };
        values.push(scales[index / 16] * q);
    }
}

/// Returns the scales and minima of the 8 groups of a block, 6 bits each, in 12 bytes.
fn scales_and_minima(packed: &[u8]) -> [(u8, u8); 8] {
    std::array::from_fn(|group| {
        if group < 4 {
            (packed[group] & 0x3F, packed[group + 4] & 0x3F)
        } else {
            let (scale, minimum, both) = (packed[group - 4], packed[group], packed[group + 4]);
            (both & 0x0F | scale >> 2 & 0x30, both >> 4 | minimum >> 2 & 0x30)
        }
    })
}

fn four_bits_k(block: &[u8], values: &mut Vec<f32>) {
    let groups = scales_and_minima(&block[4..16]);
    append_groups(block, groups, planes(&block[16..144], 32, 4), values);
}

fn five_bits_k(block: &[u8], values: &mut Vec<f32>) {
    let groups = scales_and_minima(&block[4..16]);
    let (high, low) = (&block[16..48], &block[48..176]);
    let quants = planes(low, 32, 4).zip(planes(high, 32, 1)).map(|(low, high)| low | high << 4);
    append_groups(block, groups, quants, values);
}

/// Appends values of 8 groups of 32, whose scale and minimum multiply those at the start of the block.
fn append_groups(
    block: &[u8],
    groups: [(u8, u8); 8],
    quants: impl Iterator<Item = u8>,
    values: &mut Vec<f32>,
) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let groups = groups.map(|(s, m)| (scale * f32::from(s), minimum * f32::from(m)));
    for (index, q) in quants.enumerate() {
        let (scale, minimum) = groups[index / 32];
        values.push(scale * f32::from(q) - minimum);
    }
}

fn six_bits_k(block: &[u8], values: &mut Vec<f32>) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let scale = half_at(block, 208);
    for (index, (low, high)) in planes(low, 64, 4).zip(planes(high, 32, 2)).enumerate() {
        let q = f32::from(low | high << 4) - 32.0;
        values.push(scale * f32::from(scales[index / 16] as i8) * q);
    }
}
