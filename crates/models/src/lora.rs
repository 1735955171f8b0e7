//! Linear maps with LoRA adapters as one function with a custom gradient.
//!
//! MLX's own gradient keeps the update of every map and adds it, and the gradients of maps with the same input, in
//! separate passes over memory. Here only the input x and the small product x a are kept, and sums are made inside the
//! matrix products.

use mlx_ext::kernels::{Gate, add_product, gated, gated_gradient};
use mlx_ext::{Result, after, custom_vjp};
use mlx_rs::Array;

use crate::weight::Weight;

/// A frozen weight `[out, in]` with its adapter.
pub(crate) struct Adapted<'a> {
    pub(crate) weight: &'a Weight,
    /// `[in, rank]`.
    pub(crate) a: &'a Array,
    /// `[rank, out]`.
    pub(crate) b: &'a Array,
    /// Factor of the update.
    pub(crate) scale: f32,
}

/// Returns Wx + scale · (x a) b for each map: `x [..., in]` → `[..., out]`, all `f32` and on a CPU.
pub(crate) fn project(x: &Array, maps: &[Adapted<'_>]) -> Result<Vec<Array>> {
    let weights: Vec<Weight> = maps.iter().map(|map| map.weight.clone()).collect();
    let scales: Vec<f32> = maps.iter().map(|map| map.scale).collect();
    let group = Group { weights, scales };
    let backward = group.clone();
    let function = custom_vjp(
        move |inputs| group.forward(inputs),
        // The second half of the outputs is x a of every map. Its cotangents are zeros, which nothing reads.
        move |inputs, by, outputs| backward.backward(inputs, by, &outputs[outputs.len() / 2..]),
    )?;
    let mut inputs = vec![x.clone()];
    inputs.extend(maps.iter().flat_map(|map| [map.a.clone(), map.b.clone()]));
    let mut outputs = function.call(&inputs)?;
    outputs.truncate(maps.len());
    Ok(outputs)
}

/// Returns the map of x = activation(gate) · up: both `[..., in]` → `[..., out]`, all `f32` and on a CPU.
///
/// Only gate and up are kept for the gradient; x, as large as either, is computed again.
pub(crate) fn project_gated(gate: &Array, up: &Array, activation: Gate, map: &Adapted<'_>) -> Result<Array> {
    let group = Group { weights: vec![map.weight.clone()], scales: vec![map.scale] };
    let backward = group.clone();
    let function = custom_vjp(
        move |inputs| {
            let [gate, up, a, b] = inputs else { unreachable!("four inputs") };
            group.forward(&[gated(gate, up, activation)?, a.clone(), b.clone()])
        },
        move |inputs, by, outputs| {
            let [gate, up, a, b] = inputs else { unreachable!("four inputs") };
            // Not before its gradient arrives, or x would be kept after all.
            let gate = after(gate, &by[..1])?;
            let x = gated(&gate, up, activation)?;
            let mut gradients = backward.backward(&[x, a.clone(), b.clone()], by, &outputs[1..])?;
            let of_x = gradients.remove(0);
            let of_parts = gated_gradient(&gate, up, &of_x, activation)?;
            Ok(of_parts.into_iter().chain(gradients).collect())
        },
    )?;
    Ok(function.call(&[gate.clone(), up.clone(), map.a.clone(), map.b.clone()])?.swap_remove(0))
}

/// Frozen weights of maps with the same input, and the scales of their adapters.
#[derive(Clone)]
struct Group {
    weights: Vec<Weight>,
    scales: Vec<f32>,
}

impl Group {
    /// `[x, a, b, a, b, …]` → `[y, y, …, x a, x a, …]` with y = Wx + scale · (x a) b.
    fn forward(&self, inputs: &[Array]) -> Result<Vec<Array>> {
        let x = &inputs[0];
        let (mut mapped, mut narrow) = (Vec::new(), Vec::new());
        for ((weight, &scale), ab) in self.weights.iter().zip(&self.scales).zip(inputs[1..].chunks(2)) {
            let inner = x.matmul(&ab[0])?;
            mapped.push(add_product(&weight.project(x)?, &inner, &ab[1], false, scale)?);
            narrow.push(inner);
        }
        mapped.extend(narrow);
        Ok(mapped)
    }

    /// Returns the gradients of the inputs of [`Self::forward`], given those of each y and the products x a.
    fn backward(&self, inputs: &[Array], by: &[Array], narrow: &[Array]) -> Result<Vec<Array>> {
        let x = flat(&inputs[0])?;
        let mut of_x: Option<Array> = None;
        let mut of_adapters = Vec::new();
        for (index, ab) in inputs[1..].chunks(2).enumerate() {
            let (weight, scale) = (&self.weights[index], self.scales[index]);
            let (by, inner) = (flat(&by[index])?, flat(&narrow[index])?);
            // The small factor carries the scale: [r, out].
            let scaled_b = ab[1].multiply(Array::from_f32(scale))?;
            let of_inner = by.matmul(scaled_b.t())?;
            let sum = match (of_x, weight) {
                (None, weight) => weight.project_back(&by)?,
                (Some(sum), Weight::Dense(weight)) => add_product(&sum, &by, weight, false, 1.0)?,
                (Some(sum), weight) => sum.add(weight.project_back(&by)?)?,
            };
            of_x = Some(add_product(&sum, &of_inner, &ab[0], true, 1.0)?);
            of_adapters.push(x.t().matmul(&of_inner)?);
            of_adapters.push(inner.multiply(Array::from_f32(scale))?.t().matmul(&by)?);
        }
        let of_x = of_x.expect("at least one map").reshape(inputs[0].shape())?;
        // MLX would compute the gradients of adapters last, and keep everything that they need until then.
        let of_x = after(&of_x, &of_adapters)?;
        Ok([of_x].into_iter().chain(of_adapters).collect())
    }
}

/// Returns `x [..., D]` as a matrix.
fn flat(x: &Array) -> Result<Array> {
    Ok(x.reshape(&[-1, x.dim(-1)])?)
}

#[cfg(test)]
mod tests {
    use mlx_ext::value_and_grad;
    use mlx_rs::random;

    use super::*;

    fn normal(shape: &[i32], seed: u64) -> Result<Array> {
        Ok(random::normal::<f32>(shape, None, None, &random::key(seed)?)?)
    }

    /// Returns Wx + scale · (x a) b of two maps as plain operations.
    fn plain(inputs: &[Array], weights: &[Array; 2], scales: [f32; 2]) -> Result<[Array; 2]> {
        let map = |index: usize| -> Result<Array> {
            let (a, b) = (&inputs[1 + 2 * index], &inputs[2 + 2 * index]);
            let update = inputs[0].matmul(a)?.matmul(b)?.multiply(Array::from_f32(scales[index]))?;
            Ok(inputs[0].matmul(weights[index].t())?.add(update)?)
        };
        Ok([map(0)?, map(1)?])
    }

    #[test]
    fn values_and_gradients_are_those_of_plain_operations() -> Result<()> {
        let weights = [normal(&[48, 20], 1)?, normal(&[12, 20], 2)?];
        let scales = [2.0, 0.5];
        for shape in [&[1, 20][..], &[2, 9, 20]] {
            let inputs = [
                normal(shape, 3)?,
                normal(&[20, 4], 4)?,
                normal(&[4, 48], 5)?,
                normal(&[20, 3], 6)?,
                normal(&[3, 12], 7)?,
            ];
            let ours = |inputs: &[Array]| -> Result<Vec<Array>> {
                let dense = weights.clone().map(Weight::Dense);
                let maps: Vec<Adapted<'_>> = (0..2)
                    .map(|i| Adapted {
                        weight: &dense[i],
                        a: &inputs[1 + 2 * i],
                        b: &inputs[2 + 2 * i],
                        scale: scales[i],
                    })
                    .collect();
                project(&inputs[0], &maps)
            };
            // A different weight for each output, so that a gradient in the wrong place shows.
            let loss = |outputs: &[Array]| -> Result<Vec<Array>> {
                let (first, second) = (normal(outputs[0].shape(), 8)?, normal(outputs[1].shape(), 9)?);
                let sum = outputs[0].multiply(first)?.sum(None)?;
                Ok(vec![sum.add(outputs[1].multiply(second)?.sum(None)?)?])
            };
            let found = value_and_grad(|inputs| loss(&ours(inputs)?), &inputs, 5)?;
            let expected = value_and_grad(|inputs| loss(&plain(inputs, &weights, scales)?), &inputs, 5)?;
            let pairs = found.0.iter().chain(&found.1).zip(expected.0.iter().chain(&expected.1));
            for (index, (found, expected)) in pairs.enumerate() {
                assert_eq!(found.shape(), expected.shape());
                let largest = expected.abs()?.max(None)?.item_exact::<f32>();
                let off = found.subtract(expected)?.abs()?.max(None)?.item_exact::<f32>();
                assert!(off <= 1e-5 * largest, "result {index} of {shape:?}: {off} of {largest}");
            }
        }
        Ok(())
    }

    #[test]
    fn a_map_of_a_gated_product_has_the_bits_of_its_two_steps() -> Result<()> {
        let weight = Weight::Dense(normal(&[12, 20], 1)?);
        let shapes: [&[i32]; 4] = [&[2, 9, 20], &[2, 9, 20], &[20, 3], &[3, 12]];
        let inputs: Vec<Array> =
            shapes.iter().zip(2..).map(|(shape, seed)| normal(shape, seed)).collect::<Result<_>>()?;
        for activation in [Gate::Silu, Gate::GeluTanh] {
            let fused = |inputs: &[Array]| -> Result<Vec<Array>> {
                let [gate, up, a, b] = inputs else { unreachable!("four inputs") };
                let map = Adapted { weight: &weight, a, b, scale: 2.0 };
                Ok(vec![project_gated(gate, up, activation, &map)?.square()?.sum(None)?])
            };
            let steps = |inputs: &[Array]| -> Result<Vec<Array>> {
                let [gate, up, a, b] = inputs else { unreachable!("four inputs") };
                let x = gated(gate, up, activation)?;
                let map = Adapted { weight: &weight, a, b, scale: 2.0 };
                Ok(vec![project(&x, &[map])?[0].square()?.sum(None)?])
            };
            let (value, gradients) = value_and_grad(fused, &inputs, inputs.len())?;
            let (expected_value, expected) = value_and_grad(steps, &inputs, inputs.len())?;
            for (found, expected) in
                value.iter().chain(&gradients).zip(expected_value.iter().chain(&expected))
            {
                assert_eq!(found.shape(), expected.shape());
                found.eval()?;
                expected.eval()?;
                assert_eq!(found.as_slice::<f32>(), expected.as_slice::<f32>());
            }
        }
        Ok(())
    }
}
