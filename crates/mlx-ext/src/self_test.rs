//! A start-up check of the one thing that silently costs a factor of fifty: the matrix product.

use crate::error::Result;
use mlx_rs::Array;
use std::time::Instant;

/// Below this a reference BLAS is at work.
const SLOW_GFLOPS: f64 = 20.0;

/// Times a matrix product in MLX and returns its speed in GFLOP/s (the best of three).
pub fn matmul_gflops() -> Result<f64> {
    const N: i32 = 512;
    let key = mlx_rs::random::key(0)?;
    let a = mlx_rs::random::uniform::<_, f32>(0.0_f32, 1.0_f32, &[N, N], &key)?;
    let b = a.t();
    let once = |a: &Array, b: &Array| -> Result<f64> {
        let product = a.matmul(b)?;
        let start = Instant::now();
        product.eval()?;
        Ok(start.elapsed().as_secs_f64())
    };
    a.eval()?;
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        best = best.min(once(&a, &b)?);
    }
    Ok(2.0 * f64::from(N).powi(3) / best / 1e9)
}

/// Measures, logs the speed, and warns when it is that of a reference BLAS.
pub fn warn_if_slow() -> Result<f64> {
    let gflops = matmul_gflops()?;
    tracing::debug!("matrix product: {gflops:.0} GFLOP/s");
    if gflops < SLOW_GFLOPS {
        tracing::warn!("matrix products run at {gflops:.1} GFLOP/s: the fast BLAS is not in use");
    }
    Ok(gflops)
}
