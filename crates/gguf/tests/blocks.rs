//! Values of every storage against the `gguf` package, and the packed form against the values.

use gguf::{Packed, Storage, pack};

fn recorded(storage: Storage) -> (Vec<u8>, Vec<f32>) {
    let path = format!("{}/tests/blocks/{}.bin", env!("CARGO_MANIFEST_DIR"), storage.name());
    let mut bytes = fs_err::read(path).expect("a recorded block");
    let per_block = storage.block_bytes() + 4 * storage.block_values();
    assert!(bytes.len().is_multiple_of(per_block), "whole blocks and their values");
    let values = bytes.split_off(bytes.len() / per_block * storage.block_bytes());
    let values =
        values.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().expect("four bytes"))).collect();
    (bytes, values)
}

#[test]
fn values_are_those_of_the_gguf_package_to_the_bit() {
    for storage in Storage::ALL {
        let (blocks, expected) = recorded(storage);
        let found = storage.dequantize(&blocks);
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert!(expected.len() >= 5 && expected.iter().any(|value| *value != 0.0), "{storage:?}");
        assert_eq!(bits(&found), bits(&expected), "{storage:?}");
    }
}

fn unpacked(packed: &Packed) -> Vec<f32> {
    let per_word = 32 / packed.bits as usize;
    let mask = (1_u32 << packed.bits) - 1;
    let words = packed.words.iter();
    let integers =
        words.flat_map(|word| (0..per_word).map(move |at| word >> (at as u32 * packed.bits) & mask));
    integers
        .enumerate()
        .map(|(index, q)| {
            let group = index / Packed::GROUP;
            packed.scales[group].to_f32() * q as f32 + packed.biases[group].to_f32()
        })
        .collect()
}

#[test]
fn packed_groups_have_exactly_the_values_of_the_blocks() {
    for storage in Storage::ALL {
        let (blocks, expected) = recorded(storage);
        let packed = pack(storage, &blocks);
        let is_exact = matches!(storage, Storage::Q4_0 | Storage::Q4_1 | Storage::Q8_0);
        assert_eq!(packed.is_some(), is_exact, "{storage:?}");
        if let Some(packed) = packed {
            // −0 and +0 are equal here: a negative scale times zero.
            assert_eq!(unpacked(&packed), expected, "{storage:?}");
        }
    }
}

#[test]
fn a_scale_whose_bias_is_no_half_float_is_not_packed() {
    let mut block = vec![0; Storage::Q8_0.block_bytes()];
    block[..2].copy_from_slice(&half::f16::from_f32(600.0).to_le_bytes());
    assert_eq!(pack(Storage::Q8_0, &block), None);
    block[..2].copy_from_slice(&half::f16::from_f32(500.0).to_le_bytes());
    assert!(pack(Storage::Q8_0, &block).is_some());
}
