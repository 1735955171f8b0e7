//! Values into blocks: the inverse of [`Storage::dequantize`] for the storages that we write.
//!
//! Blocks of 32 values are those of the `gguf` package of llama.cpp, to the bit. It does not write blocks of 256 values
//! (`Q4_K`, `Q6_K`); for these, scales are chosen by weighted least squares, as llama.cpp does.

use half::f16;

use crate::groups::{self, Group};
use crate::storage::Storage;

/// Number of values in a small block.
const BLOCK: usize = 32;

impl Storage {
    /// Returns whether [`Storage::quantize`] writes this storage.
    pub fn is_written(self) -> bool {
        matches!(
            self,
            Self::F32
                | Self::F16
                | Self::Q4_0
                | Self::Q4_1
                | Self::Q5_0
                | Self::Q8_0
                | Self::Q4_K
                | Self::Q6_K
        )
    }

    /// Returns the blocks of finite values.
    ///
    /// # Panics
    ///
    /// Panics when the values do not fill whole blocks, and for a storage that is not written ([`Storage::is_written`]).
    pub fn quantize(self, values: &[f32]) -> Vec<u8> {
        assert!(values.len().is_multiple_of(self.block_values()), "only whole blocks can be quantized");
        let mut bytes = Vec::with_capacity(values.len() / self.block_values() * self.block_bytes());
        for block in values.chunks_exact(self.block_values()) {
            append(self, block, &mut bytes);
        }
        bytes
    }
}

/// Appends one block.
fn append(storage: Storage, values: &[f32], bytes: &mut Vec<u8>) {
    match storage {
        Storage::F32 => bytes.extend(values[0].to_le_bytes()),
        Storage::F16 => push_half(bytes, values[0]),
        Storage::Q4_0 => {
            let scale = extreme(values) / -8.0;
            push_half(bytes, scale);
            let numbers = numbers(values, 15.0, |value| value * inverse(scale) + 8.5);
            push_nibbles(bytes, &numbers);
        }
        Storage::Q4_1 => {
            let (minimum, maximum) = range(values);
            let scale = (maximum - minimum) / 15.0;
            push_half(bytes, scale);
            push_half(bytes, minimum);
            let numbers = numbers(values, 15.0, |value| (value - minimum) * inverse(scale) + 0.5);
            push_nibbles(bytes, &numbers);
        }
        Storage::Q5_0 => {
            let scale = extreme(values) / -16.0;
            push_half(bytes, scale);
            let numbers = numbers(values, 31.0, |value| value * inverse(scale) + 16.5);
            let high = numbers.iter().rev().fold(0_u32, |bits, number| bits << 1 | u32::from(number >> 4));
            bytes.extend(high.to_le_bytes());
            push_nibbles(bytes, &numbers);
        }
        Storage::Q8_0 => {
            let scale = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs())) / 127.0;
            push_half(bytes, scale);
            bytes.extend(values.iter().map(|value| (value * inverse(scale)).round() as i8 as u8));
        }
        Storage::Q4_K => four_bits_k(values, bytes),
        Storage::Q6_K => six_bits_k(values, bytes),
        Storage::BF16 | Storage::Q5_1 | Storage::Q2_K | Storage::Q3_K | Storage::Q5_K => {
            panic!("`{}` is read, not written", storage.name())
        }
    }
}

fn push_half(bytes: &mut Vec<u8>, value: f32) {
    bytes.extend(f16::from_f32(value).to_le_bytes());
}

fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// Returns the first value of the largest magnitude.
fn extreme(values: &[f32]) -> f32 {
    values
        .iter()
        .copied()
        .reduce(|best, value| if value.abs() > best.abs() { value } else { best })
        .unwrap_or(0.0)
}

fn range(values: &[f32]) -> (f32, f32) {
    let ends = |(low, high): (f32, f32), &value: &f32| (low.min(value), high.max(value));
    values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), ends)
}

/// Returns the number of each value: `place` rounded down, from 0 to `most`.
fn numbers(values: &[f32], most: f32, place: impl Fn(f32) -> f32) -> Vec<u8> {
    values.iter().map(|&value| place(value).clamp(0.0, most) as u8).collect()
}

/// Appends the low 4 bits of 32 numbers, the first half of the block in the low bits.
fn push_nibbles(bytes: &mut Vec<u8>, numbers: &[u8]) {
    let (low, high) = numbers.split_at(BLOCK / 2);
    bytes.extend(low.iter().zip(high).map(|(low, high)| low & 15 | high << 4));
}

/// Appends a block of 256 values of 4 bits: 8 groups of 32, whose scales and minima are numbers of 6 bits.
fn four_bits_k(values: &[f32], bytes: &mut Vec<u8>) {
    let fitted: Vec<Group> =
        values.chunks_exact(BLOCK).map(|group| groups::with_minimum(group, 15)).collect();
    let largest = |of: fn(&Group) -> f32| fitted.iter().map(of).fold(0.0_f32, f32::max);
    let [scale, minimum] = [largest(|group| group.scale), largest(|group| group.minimum)]
        .map(|largest| f16::from_f32(largest / 63.0));
    let six_bits = |value: f32, unit: f16| (value * inverse(unit.to_f32())).round().clamp(0.0, 63.0) as u8;
    let packed: Vec<(u8, u8)> =
        fitted.iter().map(|group| (six_bits(group.scale, scale), six_bits(group.minimum, minimum))).collect();
    bytes.extend(scale.to_le_bytes());
    bytes.extend(minimum.to_le_bytes());
    bytes.extend(scales_and_minima(&packed));
    let mut all = Vec::with_capacity(values.len());
    for (group, &(s, m)) in values.chunks_exact(BLOCK).zip(&packed) {
        let (scale, minimum) = (scale.to_f32() * f32::from(s), minimum.to_f32() * f32::from(m));
        all.extend(numbers(group, 15.0, |value| ((value + minimum) * inverse(scale)).round()));
    }
    for pair in all.chunks_exact(2 * BLOCK) {
        let (low, high) = pair.split_at(BLOCK);
        bytes.extend(low.iter().zip(high).map(|(low, high)| low | high << 4));
    }
}

/// Packs the 6-bit scales and minima of 8 groups into 12 bytes.
fn scales_and_minima(packed: &[(u8, u8)]) -> [u8; 12] {
    let mut bytes = [0; 12];
    for group in 0..4 {
        let ((scale, minimum), (late_scale, late_minimum)) = (packed[group], packed[group + 4]);
        bytes[group] = scale | late_scale >> 4 << 6;
        bytes[group + 4] = minimum | late_minimum >> 4 << 6;
        bytes[group + 8] = late_scale & 15 | (late_minimum & 15) << 4;
    }
    bytes
}

/// Number of values in a group of a block of 6-bit values.
const SMALL_GROUP: usize = 16;

/// Appends a block of 256 values of 6 bits: 16 groups of 16, whose scales are signed bytes.
fn six_bits_k(values: &[f32], bytes: &mut Vec<u8>) {
    let fitted: Vec<f32> =
        values.chunks_exact(SMALL_GROUP).map(|group| groups::symmetric(group, 32)).collect();
    let scale = f16::from_f32(extreme(&fitted) / -128.0);
    let signed = |fitted: f32| (fitted * inverse(scale.to_f32())).round().clamp(-128.0, 127.0) as i8;
    let scales: Vec<i8> = fitted.into_iter().map(signed).collect();
    let mut numbers = Vec::with_capacity(values.len());
    for (group, &own) in values.chunks_exact(SMALL_GROUP).zip(&scales) {
        let unit = inverse(scale.to_f32() * f32::from(own));
        numbers.extend(group.iter().map(|value| ((value * unit).round().clamp(-32.0, 31.0) + 32.0) as u8));
    }
    let mut high = Vec::new();
    for half in numbers.chunks_exact(128) {
        let part = |index: usize| &half[index * BLOCK..(index + 1) * BLOCK];
        for (first, second) in [(0, 2), (1, 3)] {
            bytes.extend(part(first).iter().zip(part(second)).map(|(low, high)| low & 15 | high << 4));
        }
        high.extend(
            (0..BLOCK).map(|at| (0..4).fold(0, |bits, index| bits | part(index)[at] >> 4 << (2 * index))),
        );
    }
    bytes.extend(high);
    bytes.extend(scales.iter().map(|&scale| scale as u8));
    bytes.extend(scale.to_le_bytes());
}
