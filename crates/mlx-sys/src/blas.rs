//! A fast `cblas_?gemm` that overrides the reference BLAS in MLX's Linux wheel.
//!
//! libmlx calls `cblas_sgemm`, `cblas_dgemm` and `cblas_cgemm`. The dynamic linker uses the first definition it finds,
//! and a program comes before its libraries, so defining them here suffices: no linker flag, no system package.
//! Products of `f32` use the kernels of [`crate::gemm`], whose sums do not depend on threads, shapes or caches; those of
//! `f64` and of complex numbers, which are rare, the crate `gemm`. macOS uses Accelerate instead.

use std::os::raw::{c_int, c_void};

use gemm::{Parallelism, c32};

use crate::gemm::{Output, Shape as Extents, Strided, product as product_of_floats};
use crate::join_workers;

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

real_gemm!(cblas_dgemm, f64);

/// Computes a matrix product, as CBLAS defines it.
///
/// # Safety
///
/// Pointers, extents and leading dimensions describe valid matrices, as for any BLAS.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cblas_sgemm(
    order: c_int,
    transpose_a: c_int,
    transpose_b: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: f32,
    a: *const f32,
    a_leading: c_int,
    b: *const f32,
    b_leading: c_int,
    beta: f32,
    c: *mut f32,
    c_leading: c_int,
) {
    join_workers();
    let (m, n, k) = (m as usize, n as usize, k as usize);
    let shape = Shape { row_major: order == ROW_MAJOR, transpose_a, transpose_b, m, n, k };
    // SAFETY: the caller's promise.
    unsafe {
        product_of_singles(
            shape,
            Factors { alpha, beta, zero: 0.0 },
            Operand { data: a, leading: a_leading },
            Operand { data: b, leading: b_leading },
            Operand { data: c, leading: c_leading },
        );
    }
}

/// Computes c = alpha * a b + beta * c in `f32`.
///
/// # Safety
///
/// The pointers and leading dimensions describe matrices of `shape`, as for any BLAS.
unsafe fn product_of_singles(
    shape: Shape,
    factors: Factors<f32>,
    a: Operand<*const f32>,
    b: Operand<*const f32>,
    c: Operand<*mut f32>,
) {
    let Shape { row_major, transpose_a, transpose_b, m, n, k } = shape;
    if !row_major {
        // By columns, c is the row-major cᵀ = bᵀ aᵀ.
        let turned =
            Shape { row_major: true, transpose_a: transpose_b, transpose_b: transpose_a, m: n, n: m, k };
        // SAFETY: the caller's promise, for the same memory.
        return unsafe { product_of_singles(turned, factors, b, a, c) };
    }
    if m == 0 || n == 0 {
        return;
    }
    // SAFETY: the caller's promise.
    let left = unsafe { matrix(a, [m, k], transpose_a != NO_TRANSPOSE) };
    // SAFETY: the caller's promise.
    let right = unsafe { matrix(b, [k, n], transpose_b != NO_TRANSPOSE) };
    let stride = c.leading as usize;
    // SAFETY: the caller's promise: `m` rows of `n` numbers at a distance of `stride`.
    let out = unsafe { std::slice::from_raw_parts_mut(c.data, (m - 1) * stride + n) };
    let extents = Extents { m, n, k };
    if factors.alpha == 1.0 && (factors.beta == 0.0 || factors.beta == 1.0) {
        product_of_floats(extents, &left, &right, Output::new(out, stride), factors.beta == 1.0);
        return;
    }
    let mut plain = vec![0.0; m * n];
    product_of_floats(extents, &left, &right, Output::new(&mut plain, n), false);
    for (out, plain) in out.chunks_mut(stride).zip(plain.chunks(n)) {
        for (out, plain) in out.iter_mut().zip(plain) {
            // With beta = 0, BLAS does not read the output, which may hold anything.
            let kept = if factors.beta == 0.0 { 0.0 } else { factors.beta * *out };
            *out = factors.alpha * plain + kept;
        }
    }
}

/// Views a row-major matrix of `extents` that is stored transposed or not.
///
/// # Safety
///
/// The pointer and the leading dimension describe such a matrix, which nobody writes meanwhile.
unsafe fn matrix<'a>(stored: Operand<*const f32>, extents: [usize; 2], transposed: bool) -> Strided<'a> {
    let [lines, length] = if transposed { [extents[1], extents[0]] } else { extents };
    let stride = stored.leading as usize;
    let numbers = if lines == 0 || length == 0 { 0 } else { (lines - 1) * stride + length };
    // SAFETY: the caller's promise.
    let data = if numbers == 0 { &[] } else { unsafe { std::slice::from_raw_parts(stored.data, numbers) } };
    Strided::new(data, extents, stride, transposed)
}

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
