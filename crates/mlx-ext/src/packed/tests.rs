use mlx_rs::{Array, Dtype};
use mlx_sys::gemm::{Block, Level, Output, SUM_BLOCK, Shape, Source, Strided, product_at};

use crate::error::Result;
use crate::packed::matrix::{PackedMatrix, Scales};
use crate::packed::panels::{Backward, Forward};
use crate::packed::{packed_product, unpack};
use crate::quantized::{PackedWeight, Quantization, QuantizationMode, dequantize, quantize};
use crate::transforms::value_and_grad;

/// Every width, group and mode that MLX's `quantize` offers.
fn quantizations() -> Vec<Quantization> {
    let affine = |bits| {
        [32, 64, 128].map(|group_size| Quantization { bits, group_size, mode: QuantizationMode::Affine })
    };
    let floats = [
        (4, 32, QuantizationMode::Mxfp4),
        (8, 32, QuantizationMode::Mxfp8),
        (4, 16, QuantizationMode::Nvfp4),
    ];
    let floats = floats.map(|(bits, group_size, mode)| Quantization { bits, group_size, mode });
    [2, 3, 4, 5, 6, 8].into_iter().flat_map(affine).chain(floats).collect()
}

fn random(shape: &[i32], seed: u64) -> Result<Array> {
    Ok(mlx_rs::random::normal::<f32>(shape, None, None, &mlx_rs::random::key(seed)?)?)
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}

fn packed_of(parts: &[Array]) -> PackedWeight<'_> {
    PackedWeight { weight: &parts[0], scales: &parts[1], biases: parts.get(2) }
}

fn matrix_of(parts: &[Array], extents: [usize; 2], quantization: Quantization) -> PackedMatrix<'_> {
    let scales = match quantization.mode {
        QuantizationMode::Affine => Scales::Single(parts[1].as_slice()),
        QuantizationMode::Nvfp4 => Scales::Floats8(parts[1].as_slice()),
        QuantizationMode::Mxfp4 | QuantizationMode::Mxfp8 => Scales::Exponents(parts[1].as_slice()),
    };
    let biases = parts.get(2).map(|biases| Scales::Single(biases.as_slice()));
    PackedMatrix::new(parts[0].as_slice(), scales, biases, extents, quantization).expect("the parts fit")
}

/// Unpacks a whole matrix by the panels of one orientation.
fn by_panels(level: Level, source: &impl Source, [depth, width]: [usize; 2]) -> Vec<f32> {
    let mut out = vec![0.0; depth * width];
    let columns = level.columns();
    for row in (0..depth).step_by(SUM_BLOCK) {
        for column in (0..width).step_by(columns) {
            let block = Block {
                row,
                depth: SUM_BLOCK.min(depth - row),
                column,
                columns: columns.min(width - column),
            };
            let mut panel = vec![f32::NAN; block.depth * columns];
            source.fill(level, block, &mut panel);
            for (index, numbers) in panel.chunks(columns).enumerate() {
                let at = (row + index) * width + column;
                out[at..at + block.columns].copy_from_slice(&numbers[..block.columns]);
            }
        }
    }
    out
}

#[test]
fn every_format_unpacks_to_the_bits_of_mlx() -> Result<()> {
    for quantization in quantizations() {
        for (rows, columns) in [(1, 128), (7, 384), (37, 640), (64, 128)] {
            let weight = random(&[rows, columns], 7)?;
            let parts = quantize(&weight, quantization)?;
            mlx_rs::transforms::eval(&parts)?;
            let expected = dequantize(packed_of(&parts), quantization, Dtype::Float32)?;
            let expected = expected.as_slice::<f32>();
            let ours = unpack(packed_of(&parts), quantization)?;
            assert_eq!(bits(ours.as_slice()), bits(expected), "{quantization:?} {rows} rows");
            let extents = [rows as usize, columns as usize];
            let matrix = matrix_of(&parts, extents, quantization);
            for level in Level::available() {
                let found = by_panels(level, &Backward(matrix), extents);
                assert!(bits(&found) == bits(expected), "{level:?} {quantization:?} {rows} rows, along");
                let turned = by_panels(level, &Forward(matrix), [extents[1], extents[0]]);
                let at = |row: usize, column: usize| turned[column * extents[0] + row];
                let found: Vec<f32> =
                    (0..expected.len()).map(|i| at(i / extents[1], i % extents[1])).collect();
                assert!(bits(&found) == bits(expected), "{level:?} {quantization:?} {rows} rows, across");
            }
        }
    }
    Ok(())
}

/// Weights whose every code occurs, with scales at the ends of their range.
#[test]
fn every_code_and_extreme_scales_unpack_to_the_bits_of_mlx() -> Result<()> {
    for quantization in quantizations().into_iter().filter(|q| !q.mode.has_biases()) {
        let per_byte = 8 / quantization.bits;
        let bytes: Vec<u8> = (0..=255).collect();
        let words: Vec<u32> = bytes.chunks(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let columns = 256 * per_byte;
        let groups = columns / quantization.group_size;
        for scale in [0_u8, 1, 7, 8, 120, 127, 128, 136, 254] {
            let packed = Array::from_slice(&words, &[1, 64]);
            let scales = Array::from_slice(&vec![scale; groups as usize], &[1, groups]);
            let weight = PackedWeight { weight: &packed, scales: &scales, biases: None };
            let expected = dequantize(weight, quantization, Dtype::Float32)?;
            let ours = unpack(weight, quantization)?;
            assert_eq!(bits(ours.as_slice()), bits(expected.as_slice()), "{quantization:?}, scale {scale}");
        }
    }
    Ok(())
}

#[test]
fn a_packed_product_and_its_gradient_have_the_bits_of_an_unpacked_one() -> Result<()> {
    for quantization in quantizations() {
        let (rows, columns) = (77, 384);
        let parts = quantize(&random(&[rows, columns], 1)?, quantization)?;
        mlx_rs::transforms::eval(&parts)?;
        let dense = dequantize(packed_of(&parts), quantization, Dtype::Float32)?;
        for count in [1, 5, 40] {
            let (x, factors) = (random(&[2, count, columns], 2)?, random(&[2, count, rows], 3)?);
            let loss = |packed: bool| {
                let (parts, dense, factors) = (parts.clone(), dense.clone(), factors.clone());
                move |inputs: &[Array]| {
                    let y = if packed {
                        packed_product(&inputs[0], packed_of(&parts), true, quantization)?
                    } else {
                        inputs[0].matmul(dense.t())?
                    };
                    Ok(vec![y.multiply(&factors)?.sum(None)?, y])
                }
            };
            let (values, gradients) = value_and_grad(loss(true), std::slice::from_ref(&x), 1)?;
            let (expected, expected_gradients) = value_and_grad(loss(false), std::slice::from_ref(&x), 1)?;
            assert!(bits(values[1].as_slice()) == bits(expected[1].as_slice()), "{quantization:?}: product");
            let (found, expected) = (gradients[0].as_slice(), expected_gradients[0].as_slice());
            assert!(bits(found) == bits(expected), "{quantization:?}: gradient");
        }
    }
    Ok(())
}

#[test]
fn scales_may_stay_in_bfloat16() -> Result<()> {
    let quantization = Quantization { bits: 4, group_size: 64, mode: QuantizationMode::Affine };
    let parts = quantize(&random(&[33, 192], 4)?.as_dtype(Dtype::Bfloat16)?, quantization)?;
    assert_eq!(parts[1].dtype(), Dtype::Bfloat16);
    let wide: Vec<Array> = parts
        .iter()
        .map(|part| match part.dtype() {
            Dtype::Bfloat16 => part.as_dtype(Dtype::Float32),
            _ => Ok(part.clone()),
        })
        .collect::<std::result::Result<_, _>>()?;
    let (found, expected) =
        (unpack(packed_of(&parts), quantization)?, unpack(packed_of(&wide), quantization)?);
    assert_eq!(bits(found.as_slice()), bits(expected.as_slice()));
    Ok(())
}

#[test]
fn what_the_kernels_do_not_know_is_an_error() -> Result<()> {
    let quantization = Quantization { bits: 4, group_size: 64, mode: QuantizationMode::Affine };
    let parts = quantize(&random(&[8, 64], 4)?, quantization)?;
    let other = Quantization { bits: 7, ..quantization };
    assert!(unpack(packed_of(&parts), other).is_err());
    assert!(packed_product(&random(&[2, 65], 1)?, packed_of(&parts), true, quantization).is_err());
    let half = random(&[2, 64], 1)?.as_dtype(Dtype::Bfloat16)?;
    assert!(packed_product(&half, packed_of(&parts), true, quantization).is_err());
    Ok(())
}

#[test]
fn a_product_has_the_same_bits_at_every_level() -> Result<()> {
    let quantization = Quantization { bits: 4, group_size: 64, mode: QuantizationMode::Affine };
    let parts = quantize(&random(&[100, 640], 1)?, quantization)?;
    mlx_rs::transforms::eval(&parts)?;
    let matrix = matrix_of(&parts, [100, 640], quantization);
    let x = random(&[9, 640], 2)?;
    let left = Strided::new(x.as_slice(), [9, 640], 640, false);
    let run = |level| {
        let mut out = vec![0.0; 900];
        product_at(
            level,
            Shape { m: 9, n: 100, k: 640 },
            &left,
            &Forward(matrix),
            Output::new(&mut out, 100),
            false,
        );
        bits(&out)
    };
    let fused =
        Level::available().into_iter().filter(|level| *level != Level::Plain).map(run).collect::<Vec<_>>();
    assert!(fused.windows(2).all(|pair| pair[0] == pair[1]));
    Ok(())
}
