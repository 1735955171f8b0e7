//! Speed of the matrix product, which falls by a factor of fifty if the fast BLAS is not linked.

use std::time::Instant;

use crate::error::Result;

/// Speed below which MLX must be using the reference BLAS.
const SLOW_GFLOPS: f64 = 20.0;

/// Times a matrix product in MLX; returns the best of three speeds in GFLOP/s.
pub fn matmul_gflops() -> Result<f64> {
    const N: i32 = 512;
    let key = mlx_rs::random::key(0)?;
    let a = mlx_rs::random::uniform::<_, f32>(0.0_f32, 1.0_f32, &[N, N], &key)?;
    let b = a.t();
    a.eval()?;
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let product = a.matmul(&b)?;
        let start = Instant::now();
        product.eval()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(2.0 * f64::from(N).powi(3) / best / 1e9)
}

/// Measures and logs the speed of the matrix product, and warns when it is that of the reference BLAS.
pub fn warn_if_slow() -> Result<f64> {
    let gflops = matmul_gflops()?;
    tracing::debug!("matrix product: {gflops:.0} GFLOP/s");
    if gflops < SLOW_GFLOPS {
        tracing::warn!("matrix products run at {gflops:.1} GFLOP/s: the fast BLAS is not in use");
    }
    Ok(gflops)
}

/// Returns the number of multiplications and additions that `f32` products on the CPU have taken so far; `None` where they
/// are not ours.
pub fn product_operations() -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        (mlx_sys::BACKEND == "cpu").then(mlx_sys::gemm::operations)
    }
    #[cfg(not(target_os = "linux"))]
    {
        None
    }
}
