//! A fast `cblas_?gemm` that overrides the reference BLAS in MLX's Linux wheel.
//!
//! libmlx calls `cblas_sgemm`, `cblas_dgemm` and `cblas_cgemm`. The dynamic linker uses the first definition it finds,
//! and a program comes before its libraries, so defining them here suffices: no linker flag, no system package.
//! The kernels are those of the `gemm` crate (AVX2 or AVX-512 chosen at run time, threads by rayon). Work is split over
//! the output and never over the summed dimension, so results do not depend on the number of threads.
//! macOS uses Accelerate instead.

use std::os::raw::{c_int, c_void};

use gemm::{Parallelism, c32};

const ROW_MAJOR: c_int = 101;
const NO_TRANSPOSE: c_int = 111;
const CONJUGATE_TRANSPOSE: c_int = 113;

/// Number of multiplications below which a second thread does not pay.
const PARALLEL_FROM: usize = 128 * 128 * 64;

/// A matrix as BLAS describes it, with strides.
#[derive(Clone, Copy)]
struct Matrix<T> {
    data: *const T,
    row_stride: isize,
    column_stride: isize,
}

impl<T> Matrix<T> {
    fn new(data: *const T, leading: c_int, row_major: bool, transposed: bool) -> Self {
        let leading = leading as isize;
        let (row_stride, column_stride) = if row_major == transposed { (1, leading) } else { (leading, 1) };
        Self { data, row_stride, column_stride }
    }
}

/// Arguments shared by all `cblas_?gemm`.
#[derive(Clone, Copy)]
struct Shape {
    row_major: bool,
    transpose_a: c_int,
    transpose_b: c_int,
    m: usize,
    n: usize,
    k: usize,
}

/// Factors of a product, and the zero of their type.
#[derive(Clone, Copy)]
struct Factors<T> {
    alpha: T,
    beta: T,
    zero: T,
}

/// A matrix as BLAS passes it: a pointer and the leading dimension.
#[derive(Clone, Copy)]
struct Operand<P> {
    data: P,
    leading: c_int,
}

/// Computes c = alpha * a b + beta * c.
///
/// # Safety
///
/// The pointers and leading dimensions describe matrices of `shape`, as for any BLAS.
unsafe fn product<T: Copy + PartialEq + 'static>(
    shape: Shape,
    factors: Factors<T>,
    a: Operand<*const T>,
    b: Operand<*const T>,
    c: Operand<*mut T>,
) {
    let Shape { row_major, transpose_a, transpose_b, m, n, k } = shape;
    let Factors { alpha, beta, zero } = factors;
    let lhs = Matrix::new(a.data, a.leading, row_major, transpose_a != NO_TRANSPOSE);
    let rhs = Matrix::new(b.data, b.leading, row_major, transpose_b != NO_TRANSPOSE);
    let out = Matrix::new(c.data.cast_const(), c.leading, row_major, false);
    let parallelism = if m * n * k < PARALLEL_FROM { Parallelism::None } else { Parallelism::Rayon(0) };
    // SAFETY: strides and extents come straight from the caller's description of its matrices.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.data,
            out.column_stride,
            out.row_stride,
            beta != zero,
            lhs.data,
            lhs.column_stride,
            lhs.row_stride,
            rhs.data,
            rhs.column_stride,
            rhs.row_stride,
            beta,
            alpha,
            false,
            transpose_a == CONJUGATE_TRANSPOSE,
            transpose_b == CONJUGATE_TRANSPOSE,
            parallelism,
        );
    }
}

macro_rules! real_gemm {
    ($name:ident, $real:ty) => {
        /// Computes a matrix product, as CBLAS defines it.
        ///
        /// # Safety
        ///
        /// Pointers, extents and leading dimensions describe valid matrices, as for any BLAS.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            order: c_int,
            transpose_a: c_int,
            transpose_b: c_int,
            m: c_int,
            n: c_int,
            k: c_int,
            alpha: $real,
            a: *const $real,
            a_leading: c_int,
            b: *const $real,
            b_leading: c_int,
            beta: $real,
            c: *mut $real,
            c_leading: c_int,
        ) {
            let (m, n, k) = (m as usize, n as usize, k as usize);
            let shape = Shape { row_major: order == ROW_MAJOR, transpose_a, transpose_b, m, n, k };
            // SAFETY: the caller's promise.
            unsafe {
                product(
                    shape,
                    Factors { alpha, beta, zero: 0.0 },
                    Operand { data: a, leading: a_leading },
                    Operand { data: b, leading: b_leading },
                    Operand { data: c, leading: c_leading },
                );
            }
        }
    };
}

real_gemm!(cblas_sgemm, f32);
real_gemm!(cblas_dgemm, f64);

/// Computes a product of complex matrices, as CBLAS defines it.
///
/// # Safety
///
/// Pointers, extents and leading dimensions describe valid matrices, as for any BLAS.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cblas_cgemm(
    order: c_int,
    transpose_a: c_int,
    transpose_b: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: *const c_void,
    a: *const c_void,
    a_leading: c_int,
    b: *const c_void,
    b_leading: c_int,
    beta: *const c_void,
    c: *mut c_void,
    c_leading: c_int,
) {
    let (m, n, k) = (m as usize, n as usize, k as usize);
    let shape = Shape { row_major: order == ROW_MAJOR, transpose_a, transpose_b, m, n, k };
    // SAFETY: the caller's promise; CBLAS passes complex scalars by address, two floats each.
    unsafe {
        product(
            shape,
            Factors { alpha: *alpha.cast::<c32>(), beta: *beta.cast::<c32>(), zero: c32::new(0.0, 0.0) },
            Operand { data: a.cast::<c32>(), leading: a_leading },
            Operand { data: b.cast::<c32>(), leading: b_leading },
            Operand { data: c.cast::<c32>(), leading: c_leading },
        );
    }
}

/// Returns the addresses of the exported functions, so that the linker keeps them in a program that calls this.
#[doc(hidden)]
pub fn keep() -> [usize; 3] {
    [cblas_sgemm as *const () as usize, cblas_dgemm as *const () as usize, cblas_cgemm as *const () as usize]
}
