//! Weights are written one tensor at a time. The memory test reads the peak of its process, so the tests of this file run
//! one after the other.

use std::collections::BTreeMap;

use mlx_rs::{Array, Dtype, ops, random};
use models::{stored_dtype, write_safetensors};
use safetensors::tensor::TensorView;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Tensors in the memory test, and the bytes of each.
const TENSORS: usize = 8;
const TENSOR_BYTES: usize = 32 << 20;

#[test]
fn a_file_has_the_bytes_that_the_safetensors_crate_would_write() -> Result {
    mlx_ext::init(&mlx_ext::Options::default())?;
    let plain = random::normal::<f32>(&[6, 4], None, None, &random::key(1)?)?;
    let tensors: BTreeMap<String, Array> = [
        ("b.wide", plain.clone()),
        ("a.half", plain.as_dtype(Dtype::Bfloat16)?),
        ("a.transposed", plain.t()),
        ("c.bytes", Array::from_slice(&[1_u8, 2, 3], &[3])),
        ("d.numbers", Array::from_slice(&[7_i32, -1], &[1, 2])),
        ("e.empty", ops::zeros::<f32>(&[0])?),
        ("f.scalar", Array::from_f32(2.5)),
    ]
    .map(|(name, array)| (name.to_owned(), array))
    .into();
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("a.safetensors");
    write_safetensors(&path, &tensors)?;

    let data: BTreeMap<&str, Vec<u8>> = tensors
        .iter()
        .map(|(name, array)| Ok((name.as_str(), mlx_ext::bytes_of(array)?)))
        .collect::<Result<_>>()?;
    let views = data.iter().map(|(name, bytes)| {
        let array = &tensors[*name];
        let shape = array.shape().iter().map(|&extent| extent as usize).collect();
        (*name, TensorView::new(stored_dtype(array.dtype()), shape, bytes).expect("the array's own bytes"))
    });
    let format = std::collections::HashMap::from([("format".to_owned(), "mlx".to_owned())]);
    assert_eq!(fs_err::read(&path)?, safetensors::serialize(views, Some(format))?);
    Ok(())
}

#[test]
#[cfg(target_os = "linux")]
fn writing_needs_no_second_copy_of_the_weights() -> Result {
    mlx_ext::init(&mlx_ext::Options::default())?;
    let tensors: BTreeMap<String, Array> = (0..TENSORS)
        .map(|index| {
            let shape = [(TENSOR_BYTES / 4) as i32];
            Ok((format!("{index}"), ops::full::<f32>(&shape, Array::from_f32(index as f32))?))
        })
        .collect::<Result<_>>()?;
    mlx_rs::transforms::eval(tensors.values())?;
    let folder = tempfile::tempdir()?;
    let before = mlx_ext::peak_resident_memory().expect("Linux reports it");
    write_safetensors(&folder.path().join("a.safetensors"), &tensors)?;
    let grown = mlx_ext::peak_resident_memory().expect("Linux reports it") - before;
    assert!(grown < TENSOR_BYTES, "{TENSORS} tensors of {TENSOR_BYTES} bytes took {grown} bytes more");
    Ok(())
}
