//! Gated activations of feed-forward layers.

use mlx_rs::{Array, Dtype};

use crate::error::Result;
use crate::host::HostOp;
use crate::kernels::lanes::{Lanes, kernel, map_to, update};
use crate::kernels::threads::for_rows;
use crate::transforms::custom_vjp;

/// Activation of a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// x · σ(x).
    Silu,
    /// The tanh approximation of GELU: ½x(1 + tanh(√(2/π)(x + 0.044715x³))), which equals x · σ(2√(2/π)(x + 0.044715x³)).
    GeluTanh,
}

/// 2√(2/π), the factor in the argument of GELU's σ.
const GELU_FACTOR: f32 = 1.595_769;
const GELU_CUBE: f32 = 0.044_715;

/// Returns activation(gate) · up: both `[..., F]`, of one shape.
///
/// Saves only `gate` and `up` for the gradient.
pub fn gated(gate: &Array, up: &Array, activation: Gate) -> Result<Array> {
    let function = custom_vjp(
        move |inputs| Ok(vec![forward(&inputs[0], &inputs[1], activation)?]),
        move |inputs, by, _| gated_gradient(&inputs[0], &inputs[1], &by[0], activation),
    )?;
    Ok(function.call(&[gate.clone(), up.clone()])?.swap_remove(0))
}

/// Returns the width of a row: the last extent, or all of a scalar.
fn width_of(array: &Array) -> usize {
    array.shape().last().map_or(1, |&width| width as usize)
}

fn forward(gate: &Array, up: &Array, activation: Gate) -> Result<Array> {
    let width = width_of(gate);
    let op = HostOp::new("gated").strided_input(gate).strided_input(up).output(gate.shape(), Dtype::Float32);
    op.build_one(move |inputs, outputs| {
        let out = outputs[0].slice();
        for_rows(out.len() / width.max(1), 4 * width, [out], &|rows, [out]| {
            for (row, out) in rows.zip(out.chunks_exact_mut(width)) {
                let (gate, up) = (inputs[0].nth_row(row), inputs[1].nth_row(row));
                match activation {
                    Gate::Silu => silu(gate, up, out),
                    Gate::GeluTanh => gelu_tanh(gate, up, out),
                }
            }
        });
    })
}

/// Returns the gradients of `gate` and `up`, over their buffers if nothing else needs these.
pub fn gated_gradient(gate: &Array, up: &Array, by: &Array, activation: Gate) -> Result<Vec<Array>> {
    let width = width_of(gate);
    let op = HostOp::new("gated_gradient").input(gate).input(up).strided_input(by);
    op.output_over(0).output_over(1).build(move |inputs, outputs| {
        let [gate, up] = outputs else { unreachable!("two outputs") };
        let (gate, up) = (gate.slice(), up.slice());
        for_rows(gate.len() / width.max(1), 6 * width, [gate, up], &|rows, [gate, up]| {
            let parts = gate.chunks_exact_mut(width).zip(up.chunks_exact_mut(width));
            for (row, (gate, up)) in rows.zip(parts) {
                match activation {
                    Gate::Silu => silu_gradient(inputs[2].nth_row(row), gate, up),
                    Gate::GeluTanh => gelu_tanh_gradient(inputs[2].nth_row(row), gate, up),
                }
            }
        });
    })
}

kernel! {
    fn silu(gate: &[f32], up: &[f32], out: &mut [f32]) {
        map_to!(out, [gate, up], gate * gate.sigmoid() * up);
    }
}

kernel! {
    fn gelu_tanh(gate: &[f32], up: &[f32], out: &mut [f32]) {
        map_to!(out, [gate, up], gate * gelu_share(gate) * up);
    }
}

kernel! {
    /// Replaces gate and up by their gradients: with s = σ(x), d(x s)/dx = s + x s (1 − s).
    fn silu_gradient(by: &[f32], gate: &mut [f32], up: &mut [f32]) {
        update!([gate, up], [by], gradients(gate, up, by, gate.sigmoid(), Lanes::splat(1.0)));
    }
}

kernel! {
    /// Replaces gate and up by their gradients: with s = σ(u(x)), d(x s)/dx = s + x s (1 − s) u′(x).
    fn gelu_tanh_gradient(by: &[f32], gate: &mut [f32], up: &mut [f32]) {
        update!([gate, up], [by], {
            let x = where_it_bends(gate);
            let slope =
                (x * x).mul_add(Lanes::splat(3.0 * GELU_CUBE * GELU_FACTOR), Lanes::splat(GELU_FACTOR));
            gradients(gate, up, by, gelu_share(gate), slope)
        });
    }
}

/// Returns σ(u(x)), the factor of x in GELU.
#[inline(always)]
fn gelu_share(x: Lanes) -> Lanes {
    let x = where_it_bends(x);
    let inner = (x * x).mul_add(Lanes::splat(GELU_CUBE * GELU_FACTOR), Lanes::splat(GELU_FACTOR));
    (x * inner).sigmoid()
}

/// Limits x to where σ(u(x)) is neither 0 nor 1, so that its powers are finite.
#[inline(always)]
fn where_it_bends(x: Lanes) -> Lanes {
    x.max(Lanes::splat(-20.0)).min(Lanes::splat(20.0))
}

/// Returns the gradients of gate and up, given s and u′ of the gate.
#[inline(always)]
fn gradients(gate: Lanes, up: Lanes, by: Lanes, share: Lanes, slope: Lanes) -> (Lanes, Lanes) {
    let activated = gate * share;
    let bend = activated * (Lanes::splat(1.0) - share);
    (by * up * bend.mul_add(slope, share), by * activated)
}

#[cfg(test)]
mod tests {
    use mlx_rs::ops;
    use mlx_rs::ops::indexing::TryIndexOp;

    use super::*;
    use crate::kernels::testing::{Case, check, normal};

    fn plain(inputs: &[Array], activation: Gate) -> Result<Array> {
        let x = &inputs[0];
        let activated = match activation {
            Gate::Silu => x.multiply(ops::sigmoid(x)?)?,
            Gate::GeluTanh => {
                let cube = x.square()?.multiply(x)?.multiply(Array::from_f32(0.044_715))?;
                let inner = x.add(cube)?.multiply(Array::from_f32((2.0 / std::f32::consts::PI).sqrt()))?;
                x.multiply(ops::tanh(inner)?.add(Array::from_f32(1.0))?)?.multiply(Array::from_f32(0.5))?
            }
        };
        Ok(activated.multiply(&inputs[1])?)
    }

    #[test]
    fn values_and_gradients_are_those_of_mlx() -> Result<()> {
        for activation in [Gate::Silu, Gate::GeluTanh] {
            for shape in [&[1][..], &[3, 16], &[2, 5, 37], &[3, 100, 200], &[0, 8], &[2, 0]] {
                check(&Case {
                    inputs: vec![normal(shape, 1)?.multiply(Array::from_f32(3.0))?, normal(shape, 2)?],
                    ours: &|inputs| gated(&inputs[0], &inputs[1], activation),
                    plain: &|inputs| plain(inputs, activation),
                    tolerance: 1e-5,
                })?;
            }
        }
        Ok(())
    }

    #[test]
    fn halves_of_one_matrix_are_gate_and_up() -> Result<()> {
        let halves = |x: &Array| -> Result<[Array; 2]> {
            Ok([x.try_index((.., .., ..33))?, x.try_index((.., .., 33..))?])
        };
        check(&Case {
            inputs: vec![normal(&[2, 5, 66], 5)?],
            ours: &|inputs| {
                let [gate, up] = halves(&inputs[0])?;
                gated(&gate, &up, Gate::Silu)
            },
            plain: &|inputs| plain(&halves(&inputs[0])?, Gate::Silu),
            tolerance: 1e-5,
        })
    }

    #[test]
    fn extreme_gates_have_finite_gradients() -> Result<()> {
        let gate = Array::from_slice(&[-1e30_f32, -100.0, -0.0, 0.0, 100.0, 1e30], &[6]);
        let up = Array::ones::<f32>(&[6])?;
        for activation in [Gate::Silu, Gate::GeluTanh] {
            let function = |inputs: &[Array]| Ok(vec![gated(&inputs[0], &inputs[1], activation)?.sum(None)?]);
            let (_, gradients) = crate::transforms::value_and_grad(function, &[gate.clone(), up.clone()], 2)?;
            let of_gate = gradients[0].as_slice::<f32>();
            assert_eq!(of_gate, [0.0, 0.0, 0.5, 0.5, 1.0, 1.0], "{activation:?}");
            let of_up = gradients[1].as_slice::<f32>();
            assert_eq!(of_up, [0.0, 0.0, 0.0, 0.0, 100.0, 1e30], "{activation:?}");
        }
        Ok(())
    }
}
