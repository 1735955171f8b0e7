//! A fast `cblas_?gemm` in front of the reference BLAS that MLX's Linux wheel bundles.
//!
//! libmlx calls `cblas_sgemm` and its siblings; the dynamic linker takes the first definition it meets, and a
//! program's own comes before any library's. So defining them here is enough: no flag, no system package.
//! The kernels are the `gemm` crate's (AVX2 or AVX-512 picked at run time, threads by rayon). Work is split over
//! the output only, never over the summed dimension, so a result does not depend on the number of threads.
//! macOS has Accelerate and needs none of this.

use gemm::{Parallelism, c32};
use std::os::raw::{c_int, c_void};

const ROW_MAJOR: c_int = 101;
const NO_TRANSPOSE: c_int = 111;
const CONJUGATE_TRANSPOSE: c_int = 113;

/// Below this many multiplications a second thread costs more than it saves.
const PARALLEL_FROM: usize = 128 * 128 * 64;

/// One matrix as BLAS describes it, turned into strides.
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

/// The arguments that all `cblas_?gemm` share.
#[derive(Clone, Copy)]
struct Shape {
    row_major: bool,
    transpose_a: c_int,
    transpose_b: c_int,
    m: usize,
    n: usize,
    k: usize,
}

/// c = alpha * a b + beta * c.
///
/// # Safety
///
/// The pointers and leading dimensions describe matrices of `shape`, as for any BLAS.
unsafe fn product<T: Copy + PartialEq + 'static>(
    shape: Shape,
    (alpha, beta, zero): (T, T, T),
    (a, a_leading): (*const T, c_int),
    (b, b_leading): (*const T, c_int),
    (c, c_leading): (*mut T, c_int),
) {
    let Shape { row_major, transpose_a, transpose_b, m, n, k } = shape;
    let lhs = Matrix::new(a, a_leading, row_major, transpose_a != NO_TRANSPOSE);
    let rhs = Matrix::new(b, b_leading, row_major, transpose_b != NO_TRANSPOSE);
    let out = Matrix::new(c.cast_const(), c_leading, row_major, false);
    let parallelism = if m * n * k < PARALLEL_FROM { Parallelism::None } else { Parallelism::Rayon(0) };
    // SAFETY: strides and extents come straight from the caller's description of its matrices.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c,
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
        /// BLAS level 3 matrix product, as CBLAS defines it.
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
            unsafe { product(shape, (alpha, beta, 0.0), (a, a_leading), (b, b_leading), (c, c_leading)) }
        }
    };
}

real_gemm!(cblas_sgemm, f32);
real_gemm!(cblas_dgemm, f64);

/// BLAS level 3 matrix product of complex numbers, as CBLAS defines it.
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
        let scalars = (*alpha.cast::<c32>(), *beta.cast::<c32>(), c32::new(0.0, 0.0));
        product(
            shape,
            scalars,
            (a.cast::<c32>(), a_leading),
            (b.cast::<c32>(), b_leading),
            (c.cast::<c32>(), c_leading),
        );
    }
}

/// Names the exported functions, so that a program that calls [`keep`] cannot lose them to the linker.
#[doc(hidden)]
pub fn keep() -> [usize; 3] {
    [cblas_sgemm as *const () as usize, cblas_dgemm as *const () as usize, cblas_cgemm as *const () as usize]
}
