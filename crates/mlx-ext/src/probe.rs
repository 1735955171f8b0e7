//! A fingerprint of this machine's arithmetic on a CPU.
//!
//! Equal keys promise equal bytes, so the key must hold whatever decides the last bits: the order of sums in matrix
//! products, fused multiply-add, and the C library's elementary functions, which MLX calls. Instead of listing causes,
//! the key holds a hash of results.

use mlx_rs::{Array, ops};

use crate::error::Result;
use crate::kernels::Attention;
use crate::transforms::value_and_grad;

/// Returns a hash of fixed products and of elementary functions of fixed numbers, 16 hexadecimal digits.
pub(crate) fn fingerprint() -> Result<String> {
    // Two blocks of terms and a rest; a tile and an edge in each direction.
    let (left, right) = (numbers(&[19, 601], 1), numbers(&[601, 70], 2));
    let turned = numbers(&[70, 601], 3);
    let few = numbers(&[2, 601], 4);
    let values = numbers(&[4096], 5);
    let positive = values.abs()?;
    let mut results = vec![
        left.matmul(&right)?,
        left.matmul(turned.t())?,
        left.t().matmul(numbers(&[19, 33], 6))?,
        few.matmul(&right)?,
        few.matmul(turned.t())?,
    ];
    let large = values.multiply(Array::from_f32(20.0))?;
    results.extend([
        values.exp()?,
        large.exp()?,
        positive.log()?,
        ops::tanh(&values)?,
        ops::sigmoid(&large)?,
    ]);
    results.extend([
        large.sin()?,
        large.cos()?,
        ops::erf(&values)?,
        positive.power(&values)?,
        positive.rsqrt()?,
    ]);
    results.extend([
        ops::softmax_axis(&left, -1, true)?,
        ops::logsumexp_axis(&left, -1, true)?,
        ops::expm1(&values)?,
    ]);
    results.extend(attention()?);
    mlx_rs::transforms::eval(&results)?;
    let mut hash = FNV_START;
    for result in &results {
        for number in result.as_slice::<f32>() {
            hash = number.to_bits().to_le_bytes().iter().fold(hash, |hash, &byte| step(hash, byte));
        }
    }
    Ok(format!("{hash:016x}"))
}

/// Returns a result of attention, with a rest of two keys, and its gradients.
fn attention() -> Result<Vec<Array>> {
    let kernel = Attention { scale: 2.0, cap: Some(3.0), window: None, first: None };
    let inputs = [numbers(&[1, 2, 258, 40], 7), numbers(&[1, 1, 258, 40], 8), numbers(&[1, 1, 258, 40], 9)];
    let squares = |inputs: &[Array]| -> Result<Vec<Array>> {
        let out = kernel.call(&inputs[0], &inputs[1], &inputs[2])?;
        Ok(vec![out.square()?.sum(None)?, out])
    };
    let (values, gradients) = value_and_grad(squares, &inputs, inputs.len())?;
    values.into_iter().chain(gradients).map(|array| Ok(array.contiguous()?)).collect()
}

/// Returns the name and version of the C library, `None` where it is not known.
pub(crate) fn c_library() -> Option<String> {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: returns a constant string of the library.
        let version = unsafe { std::ffi::CStr::from_ptr(libc::gnu_get_libc_version()) };
        Some(format!("glibc-{}", version.to_str().ok()?))
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    {
        None
    }
}

const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

/// One step of the hash FNV-1a.
fn step(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
}

/// Returns numbers between -0.5 and 0.5 without a pattern, made without the library that is examined.
fn numbers(shape: &[i32], seed: u32) -> Array {
    let count: i32 = shape.iter().product();
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 16_777_216.0 - 0.5
    };
    let numbers: Vec<f32> = (0..count).map(|_| next()).collect();
    Array::from_slice(&numbers, shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_is_the_same_every_time_and_whatever_the_threads() -> Result<()> {
        let first = fingerprint()?;
        assert_eq!(first.len(), 16);
        assert_eq!(fingerprint()?, first);
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread can be started");
        assert_eq!(one.install(fingerprint)?, first);
        Ok(())
    }
}
