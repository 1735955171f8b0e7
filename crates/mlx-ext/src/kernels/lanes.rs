//! Blocks of 16 floats, in which all kernels compute.
//!
//! The block has the same size on every processor, and `a * b + c` is always rounded once ([`Lanes::mul_add`]), so every
//! instruction set gives the same bits. [`kernel!`](crate::kernels::lanes::kernel) compiles a function for each of them.

use std::array;
use std::ops::{Add, Div, Mul, Sub};

/// Number of floats in a block.
pub(crate) const WIDTH: usize = 16;

/// A block of floats.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Lanes(pub(crate) [f32; WIDTH]);

/// Defines a function that is compiled for several instruction sets; the best one that the processor has is called.
///
/// Everything that the function calls must be `#[inline(always)]` to be compiled with it.
macro_rules! kernel {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            fn generic($($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx2,fma")]
                fn avx512($($argument: $type),*) $(-> $result)? {
                    generic($($argument),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($argument: $type),*) $(-> $result)? {
                    generic($($argument),*)
                }
                match $crate::kernels::lanes::instruction_set() {
                    // SAFETY: the processor has these instructions.
                    $crate::kernels::lanes::InstructionSet::Avx512 => return unsafe { avx512($($argument),*) },
                    // SAFETY: as above.
                    $crate::kernels::lanes::InstructionSet::Avx2 => return unsafe { avx2($($argument),*) },
                    $crate::kernels::lanes::InstructionSet::Baseline => {}
                }
            }
            generic($($argument),*)
        }
    };
}
pub(crate) use kernel;

/// Instruction sets that kernels are compiled for. On processors other than x86-64 the baseline is all there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InstructionSet {
    /// Instructions that every processor of the architecture has.
    Baseline,
    /// 8 lanes and fused multiply-add.
    Avx2,
    /// 16 lanes.
    Avx512,
}

/// Returns the best instruction set of this processor.
#[cfg(target_arch = "x86_64")]
pub(crate) fn instruction_set() -> InstructionSet {
    use std::arch::is_x86_feature_detected as has;

    #[cfg(test)]
    if let Some(forced) = tests::forced() {
        return forced;
    }
    if has!("avx512f") && has!("avx512vl") && has!("avx512dq") {
        InstructionSet::Avx512
    } else if has!("avx2") && has!("fma") {
        InstructionSet::Avx2
    } else {
        InstructionSet::Baseline
    }
}

impl Lanes {
    /// Returns a block of equal numbers.
    #[inline(always)]
    pub(crate) fn splat(x: f32) -> Self {
        Self([x; WIDTH])
    }

    /// Loads the first numbers of a slice that has at least a block of them.
    #[inline(always)]
    pub(crate) fn load(from: &[f32]) -> Self {
        Self(*from.first_chunk().expect("a whole block"))
    }

    /// Stores the block to the start of a slice that has room for it.
    #[inline(always)]
    pub(crate) fn store(self, to: &mut [f32]) {
        *to.first_chunk_mut().expect("room for a block") = self.0;
    }

    /// Loads a slice shorter than a block; the other lanes are `rest`.
    #[inline(always)]
    pub(crate) fn load_part(from: &[f32], rest: f32) -> Self {
        let mut lanes = [rest; WIDTH];
        lanes[..from.len()].copy_from_slice(from);
        Self(lanes)
    }

    /// Stores as many lanes as a slice shorter than a block has room for.
    #[inline(always)]
    pub(crate) fn store_part(self, to: &mut [f32]) {
        to.copy_from_slice(&self.0[..to.len()]);
    }

    #[inline(always)]
    fn map(self, f: impl Fn(f32) -> f32) -> Self {
        Self(array::from_fn(|i| f(self.0[i])))
    }

    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(array::from_fn(|i| f(self.0[i], other.0[i])))
    }

    /// Returns self · factor + term, rounded once.
    #[inline(always)]
    pub(crate) fn mul_add(self, factor: Self, term: Self) -> Self {
        let mut lanes = self.0;
        for i in 0..WIDTH {
            lanes[i] = lanes[i].mul_add(factor.0[i], term.0[i]);
        }
        Self(lanes)
    }

    /// Returns the larger number of each lane, and NaN where `self` is NaN.
    #[inline(always)]
    pub(crate) fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { b } else { a })
    }

    /// Returns the smaller number of each lane, and NaN where `self` is NaN.
    #[inline(always)]
    pub(crate) fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { b } else { a })
    }

    /// Returns the root of each number, correctly rounded.
    #[inline(always)]
    pub(crate) fn sqrt(self) -> Self {
        self.map(f32::sqrt)
    }

    /// Returns the magnitude of each number.
    #[inline(always)]
    fn abs(self) -> Self {
        self.map(f32::abs)
    }

    /// Returns the sum of all lanes, always added in the same order.
    #[inline(always)]
    pub(crate) fn sum(self) -> f32 {
        let eight: [f32; 8] = array::from_fn(|i| self.0[i] + self.0[i + 8]);
        let four: [f32; 4] = array::from_fn(|i| eight[i] + eight[i + 4]);
        (four[0] + four[2]) + (four[1] + four[3])
    }

    /// Returns the largest number of all lanes.
    #[inline(always)]
    pub(crate) fn largest(self) -> f32 {
        self.0.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    /// Returns eˣ within 1.5 units in the last place; 0 and ∞ beyond the range of `f32`.
    #[inline(always)]
    pub(crate) fn exp(self) -> Self {
        // x = n · ln 2 + r with |r| ≤ ln 2 / 2, and eˣ = 2ⁿ · eʳ. Adding 1.5 · 2²³ rounds to an integer, which is then in
        // the low bits.
        const TO_INTEGER: f32 = 12_582_912.0;
        let x = self.max(Self::splat(-104.0)).min(Self::splat(89.0));
        let shifted = x.mul_add(Self::splat(std::f32::consts::LOG2_E), Self::splat(TO_INTEGER));
        let n = shifted - Self::splat(TO_INTEGER);
        let r = n.mul_add(Self::splat(-0.693_145_75), x);
        let r = n.mul_add(Self::splat(-1.428_606_8e-6), r);
        let p =
            polynomial(r, [1.987_569_2e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1]);
        let p = p.mul_add(r * r, r) + Self::splat(1.0);
        // 2ⁿ as two factors, because 2ⁿ alone may be out of range where the result is not.
        let mut lanes = p.0;
        for i in 0..WIDTH {
            let n = (shifted.0[i].to_bits() as i32).wrapping_sub(TO_INTEGER.to_bits() as i32);
            let half = n >> 1;
            lanes[i] = lanes[i] * power_of_two(half) * power_of_two(n.wrapping_sub(half));
        }
        Self(lanes)
    }

    /// Returns 1 / (1 + e⁻ˣ).
    #[inline(always)]
    pub(crate) fn sigmoid(self) -> Self {
        Self::splat(1.0) / (Self::splat(1.0) + (Self::splat(0.0) - self).exp())
    }

    /// Returns erf x within 4e-7, and ±1 beyond the numbers that `f32` tells apart from it.
    #[inline(always)]
    fn erf(self) -> Self {
        // The ratio of polynomials in x² that is nearest to erf(x) / x up to the limit.
        const LIMIT: f32 = 3.92;
        let x = self.max(Self::splat(-LIMIT)).min(Self::splat(LIMIT));
        let square = x * x;
        let near = x * polynomial(square, ERF_ABOVE) / polynomial(square, ERF_BELOW);
        let size = self.abs();
        Self(array::from_fn(|i| if size.0[i] >= LIMIT { 1.0_f32.copysign(self.0[i]) } else { near.0[i] }))
    }

    /// Returns ½x(1 + erf(x/√2)), the exact GELU.
    #[inline(always)]
    pub(crate) fn gelu(self) -> Self {
        let share = (self * Self::splat(std::f32::consts::FRAC_1_SQRT_2)).erf();
        self * Self::splat(0.5) * (Self::splat(1.0) + share)
    }

    /// Returns tanh x within 2.5 units in the last place.
    #[inline(always)]
    pub(crate) fn tanh(self) -> Self {
        let square = self * self;
        let near = polynomial(
            square,
            [-5.704_988_7e-3, 2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1],
        );
        let near = (near * square).mul_add(self, self);
        let size = self.abs();
        let far = Self::splat(1.0) - Self::splat(2.0) / ((size + size).exp() + Self::splat(1.0));
        Self(array::from_fn(|i| if size.0[i] < 0.625 { near.0[i] } else { far.0[i].copysign(self.0[i]) }))
    }
}

/// Numerator of erf(x) / x as a polynomial in x²; the coefficient of the highest power comes first.
const ERF_ABOVE: [f32; 6] = [
    2.050_229e-6,
    2.848_704_2e-4,
    3.764_968_6e-3,
    5.274_670_6e-2,
    1.903_910_3e-1,
    std::f32::consts::FRAC_2_SQRT_PI,
];
/// Its denominator.
const ERF_BELOW: [f32; 6] =
    [3.809_255_6e-5, 1.162_383_1e-3, 1.496_790_7e-2, 1.141_027_5e-1, 5.020_624e-1, 1.0];

/// Returns 2ⁿ for |n| < 127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// Evaluates a polynomial; the coefficient of the highest power comes first.
#[inline(always)]
fn polynomial<const N: usize>(x: Lanes, coefficients: [f32; N]) -> Lanes {
    let mut sum = Lanes::splat(coefficients[0]);
    for &coefficient in &coefficients[1..] {
        sum = sum.mul_add(x, Lanes::splat(coefficient));
    }
    sum
}

macro_rules! lane_operator {
    ($trait:ident, $method:ident, $operator:tt) => {
        impl $trait for Lanes {
            type Output = Self;

            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                self.zip(other, |a, b| a $operator b)
            }
        }
    };
}

lane_operator!(Add, add, +);
lane_operator!(Sub, sub, -);
lane_operator!(Mul, mul, *);
lane_operator!(Div, div, /);

/// Loads the block at `start`; lanes beyond the end of the slice are zero.
#[inline(always)]
pub(crate) fn block_at(from: &[f32], start: usize) -> Lanes {
    match from.get(start..start + WIDTH) {
        Some(whole) => Lanes::load(whole),
        None => Lanes::load_part(&from[start..], 0.0),
    }
}

/// Stores the block at `start`, as far as the slice goes.
#[inline(always)]
pub(crate) fn store_at(to: &mut [f32], start: usize, lanes: Lanes) {
    match to.get_mut(start..start + WIDTH) {
        Some(whole) => lanes.store(whole),
        None => lanes.store_part(&mut to[start..]),
    }
}

// The loops over blocks are macros and not functions that take closures: a closure is compiled once for all
// instruction sets, and a fused multiply-add in it would be a call of the C library.

/// Sums an expression over the blocks of slices of equal length. In the expression, their names stand for blocks; the
/// expression adds to the sum, whose name comes first.
macro_rules! sum_of {
    ($sum:ident, [$first:ident $(, $slice:ident)*], $term:expr) => {{
        let mut $sum = $crate::kernels::lanes::Lanes::splat(0.0);
        for start in (0..$first.len()).step_by($crate::kernels::lanes::WIDTH) {
            let $first = $crate::kernels::lanes::block_at($first, start);
            $(let $slice = $crate::kernels::lanes::block_at($slice, start);)*
            $sum = $term;
        }
        $sum.sum()
    }};
}

/// Sets each block of `out` to an expression of the blocks of slices at the same place; all have equal lengths.
macro_rules! map_to {
    ($out:expr, [$($slice:ident),*], $value:expr) => {{
        let out: &mut [f32] = $out;
        for start in (0..out.len()).step_by($crate::kernels::lanes::WIDTH) {
            $(let $slice = $crate::kernels::lanes::block_at($slice, start);)*
            $crate::kernels::lanes::store_at(out, start, $value);
        }
    }};
}

/// Replaces each block of slices to change by an expression (a tuple for two) of these blocks and of those of others.
macro_rules! update {
    ([$target:ident], [$($slice:ident),*], $value:expr) => {{
        for start in (0..$target.len()).step_by($crate::kernels::lanes::WIDTH) {
            let changed = {
                let $target = $crate::kernels::lanes::block_at($target, start);
                $(let $slice = $crate::kernels::lanes::block_at($slice, start);)*
                $value
            };
            $crate::kernels::lanes::store_at($target, start, changed);
        }
    }};
    ([$first:ident, $second:ident], [$($slice:ident),*], $value:expr) => {{
        for start in (0..$first.len()).step_by($crate::kernels::lanes::WIDTH) {
            let (new_first, new_second) = {
                let $first = $crate::kernels::lanes::block_at($first, start);
                let $second = $crate::kernels::lanes::block_at($second, start);
                $(let $slice = $crate::kernels::lanes::block_at($slice, start);)*
                $value
            };
            $crate::kernels::lanes::store_at($first, start, new_first);
            $crate::kernels::lanes::store_at($second, start, new_second);
        }
    }};
}
pub(crate) use {map_to, sum_of, update};

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::*;

    /// 0 for the best instruction set, else one more than the index of the forced one.
    static FORCED: AtomicU8 = AtomicU8::new(0);
    const ALL: [InstructionSet; 3] = [InstructionSet::Baseline, InstructionSet::Avx2, InstructionSet::Avx512];

    pub(crate) fn forced() -> Option<InstructionSet> {
        ALL.get(usize::from(FORCED.load(Ordering::SeqCst)).wrapping_sub(1)).copied()
    }

    /// Returns the result of `run` on each instruction set that this processor has.
    pub(crate) fn on_each_instruction_set<T>(run: impl Fn() -> T) -> Vec<T> {
        #[cfg(target_arch = "x86_64")]
        {
            let best = instruction_set() as usize;
            let results = (0..=best).map(|index| {
                FORCED.store(index as u8 + 1, Ordering::SeqCst);
                run()
            });
            let results = results.collect();
            FORCED.store(0, Ordering::SeqCst);
            results
        }
        #[cfg(not(target_arch = "x86_64"))]
        vec![run()]
    }

    kernel! {
        fn exp_and_tanh(from: &[f32], exp: &mut [f32], tanh: &mut [f32]) {
            map_to!(exp, [from], from.exp());
            map_to!(tanh, [from], from.tanh());
        }
    }

    /// Returns the distance of `found` from `exact` in units in the last place of `exact`.
    fn units(found: f32, exact: f64) -> f64 {
        let rounded = exact as f32;
        if !rounded.is_normal() {
            return f64::from(found - rounded).abs() / f64::from(f32::from_bits(1));
        }
        let unit = f64::from(f32::from_bits((rounded.to_bits() & 0x7f80_0000) + 1))
            - f64::from(f32::from_bits(rounded.to_bits() & 0x7f80_0000));
        (f64::from(found) - exact).abs() / unit
    }

    #[test]
    fn exp_and_tanh_are_accurate_and_the_same_on_every_instruction_set() {
        // Odd length, to have a part of a block.
        let from: Vec<f32> = (0..200_003).map(|i| (i as f32 - 100_000.0) * 0.001).collect();
        let results = on_each_instruction_set(|| {
            let (mut exp, mut tanh) = (vec![0.0; from.len()], vec![0.0; from.len()]);
            exp_and_tanh(&from, &mut exp, &mut tanh);
            (exp, tanh)
        });
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        for (exp, tanh) in &results {
            assert!(bits(exp) == bits(&results[0].0) && bits(tanh) == bits(&results[0].1));
        }
        let (exp, tanh) = &results[0];
        let worst = |found: &[f32], exact: fn(f64) -> f64, low: f32| {
            let each = found.iter().zip(&from).filter(|(_, x)| **x > low && **x < 88.7);
            each.map(|(found, &x)| units(*found, exact(f64::from(x)))).fold(0.0, f64::max)
        };
        assert!(worst(exp, f64::exp, -87.3) <= 1.5, "{}", worst(exp, f64::exp, -87.3));
        assert!(worst(tanh, f64::tanh, -100.0) <= 2.5, "{}", worst(tanh, f64::tanh, -100.0));
    }

    #[test]
    fn numbers_out_of_range_have_the_limits_as_results() {
        let from = [f32::NEG_INFINITY, -1e30, -104.0, -0.0, 0.0, 89.0, f32::INFINITY, f32::NAN];
        for (exp, tanh) in on_each_instruction_set(|| {
            let (mut exp, mut tanh) = ([0.0; 8], [0.0; 8]);
            exp_and_tanh(&from, &mut exp, &mut tanh);
            (exp, tanh)
        }) {
            assert_eq!(exp[..5], [0.0, 0.0, 0.0, 1.0, 1.0]);
            assert_eq!(exp[5..7], [f32::INFINITY; 2]);
            assert_eq!(tanh[..3], [-1.0; 3]);
            assert_eq!(tanh[5..7], [1.0; 2]);
            assert!(exp[7].is_nan() && tanh[7].is_nan(), "{exp:?} {tanh:?}");
        }
        // Denormal results are gradual: e^-100 is below the smallest normal number.
        let mut exp = [0.0];
        exp_and_tanh(&[-100.0], &mut exp, &mut [0.0]);
        assert!((exp[0] - 3.8e-44).abs() < 3e-45, "{}", exp[0]);
    }

    #[test]
    fn sums_and_maps_cover_parts_of_blocks() {
        for length in [0, 1, 15, 16, 17, 100] {
            let x: Vec<f32> = (0..length).map(|i| i as f32).collect();
            let (a, b) = (&x[..], &x[..]);
            let sum = sum_of!(sum, [a, b], a.mul_add(b, sum));
            assert_eq!(sum, x.iter().map(|x| x * x).sum::<f32>());
            let mut out = x.clone();
            let target = &mut out[..];
            update!([target], [a], target + a);
            assert_eq!(out, x.iter().map(|x| 2.0 * x).collect::<Vec<_>>());
        }
    }
}
