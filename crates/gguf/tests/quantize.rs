//! Blocks of values against the `gguf` package, and the errors of the formats that it does not write.

use gguf::Storage;

/// Number of recorded values.
const VALUES: usize = 64 * 32;

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().expect("four bytes"))).collect()
}

#[test]
fn blocks_are_those_of_the_gguf_package_to_the_bit() {
    for storage in [Storage::F16, Storage::Q4_0, Storage::Q4_1, Storage::Q5_0, Storage::Q8_0] {
        let path = format!("{}/tests/blocks/{}.values", env!("CARGO_MANIFEST_DIR"), storage.name());
        let recorded = fs_err::read(path).expect("recorded blocks");
        let (values, expected) = recorded.split_at(4 * VALUES);
        let found = storage.quantize(&floats(values));
        assert_eq!(found.len(), expected.len(), "{storage:?}");
        for (index, (found, expected)) in found
            .chunks_exact(storage.block_bytes())
            .zip(expected.chunks_exact(storage.block_bytes()))
            .enumerate()
        {
            assert_eq!(found, expected, "{storage:?}: block {index}");
        }
    }
}

/// Returns values between −1 and 1, the same in every run; small ones are more frequent, as in weights.
fn weights(count: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 24) as f32 - 0.5
    };
    (0..count).map(|_| (uniform() + uniform() + uniform() + uniform()) * uniform().abs()).collect()
}

/// Returns the root of the mean squared error of a storage, relative to that of the values.
fn relative_error(storage: Storage, values: &[f32]) -> f64 {
    let found = storage.dequantize(&storage.quantize(values));
    let squares = |values: &mut dyn Iterator<Item = f32>| -> f64 {
        values.map(|value| f64::from(value) * f64::from(value)).sum()
    };
    let error = squares(&mut values.iter().zip(&found).map(|(value, found)| value - found));
    (error / squares(&mut values.iter().copied())).sqrt()
}

#[test]
fn large_blocks_lose_less_than_small_ones_of_as_many_bits() {
    let values = weights(64 * 256);
    let error = |storage| relative_error(storage, &values);
    let (q4_0, q4_1, q4_k) = (error(Storage::Q4_0), error(Storage::Q4_1), error(Storage::Q4_K));
    let (q5_0, q6_k, q8_0) = (error(Storage::Q5_0), error(Storage::Q6_K), error(Storage::Q8_0));
    assert!(q4_k < q4_1 && q4_1 < q4_0 && q4_0 < 0.12, "{q4_k} {q4_1} {q4_0}");
    assert!(q8_0 < q6_k && q6_k < q5_0 && q5_0 < q4_k && q6_k < 0.025, "{q8_0} {q6_k} {q5_0} {q4_k}");
}

#[test]
fn special_values_come_back() {
    let ramp: Vec<f32> = (0..256_u16).map(|index| f32::from(index) / 256.0).collect();
    let below: Vec<f32> = ramp.iter().map(|value| -1.0 - value).collect();
    let tiny: Vec<f32> = ramp.iter().map(|value| value * 1e-6 - 5e-7).collect();
    for storage in [Storage::Q4_0, Storage::Q4_1, Storage::Q5_0, Storage::Q8_0, Storage::Q4_K, Storage::Q6_K]
    {
        assert!(storage.is_written());
        let zeros = storage.dequantize(&storage.quantize(&[0.0; 256]));
        assert!(zeros.iter().all(|value| *value == 0.0), "{storage:?}");
        let same = storage.dequantize(&storage.quantize(&[-0.75; 256]));
        assert!(same.iter().all(|value| (value + 0.75).abs() < 0.02), "{storage:?}: {:?}", &same[..2]);
        for (name, values) in [("ramp", &ramp), ("below", &below)] {
            let error = relative_error(storage, values);
            assert!(error < 0.08, "{storage:?}, {name}: {error}");
        }
        // Scales are half floats, which lose precision below 6e-5, but no value may grow.
        let found = storage.dequantize(&storage.quantize(&tiny));
        assert!(found.iter().all(|value| value.abs() < 2e-6), "{storage:?}");
    }
}

#[test]
fn one_large_value_does_not_overflow_a_block() {
    let mut values = weights(256);
    values[200] = 1000.0;
    values[201] = -1000.0;
    for storage in [Storage::Q4_K, Storage::Q6_K] {
        let found = storage.dequantize(&storage.quantize(&values));
        assert!((found[200] - 1000.0).abs() < 70.0 && (found[201] + 1000.0).abs() < 70.0, "{storage:?}");
    }
}
