//! Comparison of kernels with plain MLX operations.

use mlx_rs::{Array, random};

use crate::error::Result;
use crate::kernels::lanes::tests::on_each_instruction_set;
use crate::kernels::threads::tests::on_each_thread_count;

/// A function of arrays.
type Of<'a> = &'a dyn Fn(&[Array]) -> Result<Array>;

/// A kernel and the plain operations that it replaces.
pub(crate) struct Case<'a> {
    /// Inputs, all of which get gradients.
    pub(crate) inputs: Vec<Array>,
    pub(crate) ours: Of<'a>,
    pub(crate) plain: Of<'a>,
    /// Largest difference as a share of the largest number.
    pub(crate) tolerance: f32,
}

/// Returns normal numbers.
pub(crate) fn normal(shape: &[i32], seed: u64) -> Result<Array> {
    Ok(random::normal::<f32>(shape, None, None, &random::key(seed)?)?)
}

/// Returns the elements in row-major order, evaluated.
pub(crate) fn elements(array: &Array) -> Vec<f32> {
    let array = array.contiguous().expect("a copy");
    array.eval().expect("an evaluation");
    if array.size() == 0 { Vec::new() } else { array.as_slice().to_vec() }
}

/// Returns the bits of all elements.
pub(crate) fn bits(array: &Array) -> Vec<u32> {
    elements(array).into_iter().map(f32::to_bits).collect()
}

/// Checks that two arrays have one shape and nearly the same elements.
#[track_caller]
pub(crate) fn near(found: &Array, expected: &Array, tolerance: f32) {
    assert_eq!(found.shape(), expected.shape());
    let (found, expected) = (elements(found), elements(expected));
    let largest = expected.iter().fold(1e-2_f32, |largest, x| largest.max(x.abs()));
    for (index, (a, b)) in found.iter().zip(&expected).enumerate() {
        assert!((a - b).abs() <= tolerance * largest, "element {index}: {a}, expected {b}");
    }
}

/// Returns the arrays of `run`, after checking that every instruction set and number of threads gives the same bits.
pub(crate) fn everywhere(run: impl Fn() -> Result<Vec<Array>>) -> Result<Vec<Array>> {
    let evaluated = || {
        let arrays = run().expect("operations");
        mlx_rs::transforms::eval(&arrays).expect("an evaluation");
        arrays
    };
    let results = on_each_instruction_set(evaluated).into_iter().chain(on_each_thread_count(evaluated));
    for (index, other) in results.enumerate() {
        for (a, b) in run()?.iter().zip(&other) {
            assert!(bits(a) == bits(b), "other bits in run {index}");
        }
    }
    run()
}

/// Checks values and gradients of a kernel.
pub(crate) fn check(case: &Case<'_>) -> Result<()> {
    let gradients_of = |function: Of<'_>| -> Result<Vec<Array>> {
        // Unequal weights of the outputs, so that sums of gradients do not hide errors.
        let scalar = |inputs: &[Array]| -> Result<Vec<Array>> {
            let value = function(inputs)?;
            let weights = normal(value.shape(), 99)?;
            Ok(vec![value.multiply(weights)?.sum(None)?])
        };
        Ok(crate::transforms::value_and_grad(scalar, &case.inputs, case.inputs.len())?.1)
    };
    let ours = everywhere(|| Ok(vec![(case.ours)(&case.inputs)?]))?;
    near(&ours[0], &(case.plain)(&case.inputs)?, case.tolerance);
    let expected = gradients_of(case.plain)?;
    let found = everywhere(|| gradients_of(case.ours))?;
    for (ours, plain) in found.iter().zip(&expected) {
        near(ours, plain, case.tolerance);
    }
    Ok(())
}
