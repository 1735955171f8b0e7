//! Conversion between arrays and raw little-endian bytes.

use mlx_rs::{Array, Dtype};

use crate::error::{Error, Result, check, install_handler};

/// Returns an array of `shape` and `dtype` with a copy of `bytes` (little-endian, row-major).
///
/// # Errors
///
/// Fails when the number of bytes does not match the shape.
pub fn array_from_bytes(bytes: &[u8], shape: &[i32], dtype: Dtype) -> Result<Array> {
    install_handler();
    if check_size(bytes.len(), shape, dtype)? != bytes.len() {
        return Err(Error::ByteCount { bytes: bytes.len(), shape: shape.to_vec(), dtype });
    }
    if bytes.as_ptr().align_offset(8) == 0 {
        return Ok(copy_in(bytes.as_ptr(), shape, dtype));
    }
    // Tensors in a file may be unaligned, but MLX reads typed elements.
    let mut aligned = vec![0_u64; bytes.len().div_ceil(8)];
    // SAFETY: the buffer holds at least `bytes.len()` bytes and does not overlap them.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), aligned.as_mut_ptr().cast::<u8>(), bytes.len()) };
    Ok(copy_in(aligned.as_ptr().cast(), shape, dtype))
}

/// Returns the number of bytes of an array.
///
/// # Errors
///
/// Fails when that is more than `bytes`.
pub(crate) fn check_size(bytes: usize, shape: &[i32], dtype: Dtype) -> Result<usize> {
    shape
        .iter()
        .try_fold(item_size(dtype), |size, &extent| size.checked_mul(usize::try_from(extent).ok()?))
        .filter(|&size| size <= bytes)
        .ok_or_else(|| Error::ByteCount { bytes, shape: shape.to_vec(), dtype })
}

fn copy_in(data: *const u8, shape: &[i32], dtype: Dtype) -> Array {
    // SAFETY: `data` is aligned and holds the elements of `shape`; MLX copies them before it returns.
    // The handle it returns is ours to wrap.
    unsafe {
        Array::from_ptr(mlx_sys::mlx_array_new_data(
            data.cast(),
            shape.as_ptr(),
            shape.len() as i32,
            u32::from(dtype) as mlx_sys::mlx_dtype,
        ))
    }
}

/// Returns a copy of the elements of `array` as little-endian bytes in row-major order, and evaluates it if necessary.
pub fn bytes_of(array: &Array) -> Result<Vec<u8>> {
    with_bytes(array, <[u8]>::to_vec)
}

/// Calls `read` with the elements of `array` as little-endian bytes in row-major order, and evaluates it if necessary.
///
/// Copies only an array that is not contiguous.
pub fn with_bytes<T>(array: &Array, read: impl FnOnce(&[u8]) -> T) -> Result<T> {
    install_handler();
    if array.size() == 0 {
        return Ok(read(&[]));
    }
    let array = array.contiguous()?;
    array.eval()?;
    // SAFETY: the array is evaluated and contiguous, so `nbytes` bytes lie behind the pointer, which lives as long
    // as `array`. The C function only casts the pointer.
    let result = unsafe {
        let data = mlx_sys::mlx_array_data_uint8(array.as_ptr());
        read(std::slice::from_raw_parts(data, array.nbytes()))
    };
    check(0)?;
    Ok(result)
}

fn item_size(dtype: Dtype) -> usize {
    match dtype {
        Dtype::Bool | Dtype::Uint8 | Dtype::Int8 => 1,
        Dtype::Uint16 | Dtype::Int16 | Dtype::Float16 | Dtype::Bfloat16 => 2,
        Dtype::Uint32 | Dtype::Int32 | Dtype::Float32 => 4,
        Dtype::Uint64 | Dtype::Int64 | Dtype::Float64 | Dtype::Complex64 => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_a_round_trip_from_any_address() -> Result<()> {
        let mut padded = vec![0_u8; 3];
        padded.extend([1.5_f32, -2.0, 0.25, 8.0].iter().flat_map(|x| x.to_le_bytes()));
        let array = array_from_bytes(&padded[3..], &[2, 2], Dtype::Float32)?;
        assert_eq!(array.as_slice::<f32>(), &[1.5, -2.0, 0.25, 8.0]);
        let transposed = array.t();
        assert_eq!(bytes_of(&transposed)?[4..8], 0.25_f32.to_le_bytes());
        Ok(())
    }

    #[test]
    fn a_wrong_byte_count_is_refused() {
        let error = array_from_bytes(&[0; 7], &[2], Dtype::Float32).expect_err("7 is not 8");
        assert!(error.to_string().contains("7 bytes"), "{error}");
        assert!(array_from_bytes(&[0; 8], &[-2], Dtype::Float32).is_err());
    }
}
