//! Matrix products added to an array in place.

use mlx_rs::Array;

use crate::error::Result;

/// Returns sum + factor · (x m), over the buffer of `sum` if nothing else needs that: `sum [..., n]`, `x [..., k]`, and
/// `m [k, n]`, or `[n, k]` if it is `transposed`.
///
/// Without a gradient of its own.
///
/// # Errors
///
/// Returns the error of MLX.
pub fn add_product(sum: &Array, x: &Array, m: &Array, transposed: bool, factor: f32) -> Result<Array> {
    #[cfg(target_os = "linux")]
    {
        use crate::host::HostOp;

        let (inner, width) = (x.dim(-1), sum.dim(-1));
        let rows = if inner > 0 { x.size() as i32 / inner } else { 0 };
        let op = HostOp::new("add_product").input(sum).input(x).input(m).output_over(0);
        op.build_one(move |inputs, outputs| {
            let (x, m, sum) = (inputs[1].slice::<f32>(), inputs[2].slice::<f32>(), outputs[0].slice::<f32>());
            let [n, k] = [width as usize, inner as usize];
            assert!(x.len() == rows as usize * k && m.len() == k * n && sum.len() == rows as usize * n);
            if sum.is_empty() {
                return;
            }
            let (flag, leading) = if transposed { (TRANSPOSE, inner) } else { (NO_TRANSPOSE, width) };
            // SAFETY: the lengths above are those of the three row-major matrices.
            unsafe {
                mlx_sys::blas::cblas_sgemm(
                    ROW_MAJOR,
                    NO_TRANSPOSE,
                    flag,
                    rows,
                    width,
                    inner,
                    factor,
                    x.as_ptr(),
                    inner,
                    m.as_ptr(),
                    leading,
                    1.0,
                    sum.as_mut_ptr(),
                    width,
                );
            }
        })
    }
    #[cfg(not(target_os = "linux"))]
    {
        let m = if transposed { m.t() } else { m.clone() };
        Ok(sum.add(x.matmul(m)?.multiply(Array::from_f32(factor))?)?)
    }
}

#[cfg(target_os = "linux")]
const ROW_MAJOR: i32 = 101;
#[cfg(target_os = "linux")]
const NO_TRANSPOSE: i32 = 111;
#[cfg(target_os = "linux")]
const TRANSPOSE: i32 = 112;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{near, normal};

    #[test]
    fn sums_are_those_of_mlx() -> Result<()> {
        for (rows, inner, width) in [(1, 1, 1), (5, 3, 7), (300, 8, 130), (0, 8, 4)] {
            let sum = normal(&[rows, width], 1)?;
            let (x, m) = (normal(&[rows, inner], 2)?, normal(&[inner, width], 3)?);
            let expected = sum.add(x.matmul(&m)?.multiply(Array::from_f32(0.5))?)?;
            near(&add_product(&sum, &x, &m, false, 0.5)?, &expected, 1e-5);
            let turned = m.t().contiguous()?;
            near(&add_product(&sum, &x, &turned, true, 0.5)?, &expected, 1e-5);
            near(&add_product(&sum, &x.t().contiguous()?.t(), &m, false, 0.5)?, &expected, 1e-5);
        }
        Ok(())
    }
}
