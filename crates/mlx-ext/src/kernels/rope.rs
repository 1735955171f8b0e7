//! Rotary positions.

use std::ops::Range;
use std::sync::Arc;

use mlx_rs::{Array, Dtype};

use crate::error::Result;
use crate::host::{HostOp, Input};
use crate::kernels::lanes::kernel;
use crate::kernels::threads::for_rows;
use crate::transforms::custom_vjp;

/// Rotation of the first dimensions of a head in pairs.
#[derive(Debug, Clone)]
pub struct Rotation {
    /// Angle per position, one for each pair.
    pub frequencies: Arc<[f32]>,
    /// Whether a pair is two neighbours instead of one dimension of each half.
    pub interleaved: bool,
    /// Factor of the positions.
    pub scale: f32,
    /// Factor of the rotated dimensions.
    pub magnitude: f32,
}

/// Positions of the tokens of a batch.
#[derive(Debug, Clone)]
pub enum Positions {
    /// Every row starts at this position.
    Same(i32),
    /// Each row starts at its own position, `[B]`, `i32`.
    PerRow(Array),
    /// Position of each token, `[B · L]`, `i32`.
    PerToken(Array),
}

/// [`Positions`] without their array, which is an input of the operation.
#[derive(Clone, Copy)]
enum Kind {
    Same(i32),
    PerRow,
    PerToken,
}

impl Kind {
    /// Returns the position of a token of a row of `length` tokens, given the numbers of the array.
    fn position(self, numbers: &[i32], length: usize, row: usize, token: usize) -> i32 {
        match self {
            Self::Same(start) => start + token as i32,
            Self::PerRow => numbers[row] + token as i32,
            Self::PerToken => numbers[row * length + token],
        }
    }
}

impl Positions {
    fn split(&self) -> (Kind, Array) {
        match self {
            Self::Same(start) => (Kind::Same(*start), Array::from_slice::<i32>(&[0], &[1])),
            Self::PerRow(array) => (Kind::PerRow, array.clone()),
            Self::PerToken(array) => (Kind::PerToken, array.clone()),
        }
    }
}

/// Rotates heads `x [B, H, L, D]` by the positions of their tokens, as `fast::rope` does.
///
/// `x` may be a transposed view, and the result is one as well: its memory has the order `[B, L, H, D]`.
pub fn rotate(x: &Array, rotation: &Rotation, positions: &Positions) -> Result<Array> {
    let (forward, backward) = (rotation.clone(), rotation.clone());
    let (from, back_from) = (positions.clone(), positions.clone());
    let function = custom_vjp(
        move |inputs| Ok(vec![turned(&inputs[0], &forward, &from, 1.0)?]),
        move |_, by, _| Ok(vec![turned(&by[0], &backward, &back_from, -1.0)?]),
    )?;
    Ok(function.call(std::slice::from_ref(x))?.swap_remove(0))
}

/// Rotates by the angles times `direction`; the gradient of a rotation is the rotation back.
fn turned(x: &Array, rotation: &Rotation, positions: &Positions, direction: f32) -> Result<Array> {
    let by_token = x.transpose_axes(&[0, 2, 1, 3])?;
    let (rotation, (kind, numbers)) = (rotation.clone(), positions.split());
    let op = HostOp::new("rope").strided_input(&by_token).input(&numbers);
    let turned = op.output(by_token.shape(), Dtype::Float32).build_one(move |inputs, outputs| {
        let (length, heads, width) = (inputs[0].dim(1), inputs[0].dim(2), inputs[0].dim(3));
        let numbers = inputs[1].slice::<i32>();
        let per_token = heads * width;
        let out = outputs[0].slice();
        for_rows(out.len() / per_token.max(1), 2 * per_token, [out], &|tokens, [out]| {
            let mut angles = Angles::new(&rotation, direction);
            for (token, out) in tokens.zip(out.chunks_exact_mut(per_token)) {
                let position = kind.position(numbers, length, token / length, token % length);
                angles.turn_to(position as f32 * rotation.scale);
                turn_heads(
                    token * heads..(token + 1) * heads,
                    &inputs[0],
                    &angles,
                    rotation.interleaved,
                    out,
                );
            }
        });
    })?;
    Ok(turned.transpose_axes(&[0, 2, 1, 3])?)
}

/// Cosines and sines of the pairs of one token, times the magnitude.
struct Angles<'a> {
    frequencies: &'a [f32],
    magnitude: f32,
    direction: f32,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl<'a> Angles<'a> {
    fn new(rotation: &'a Rotation, direction: f32) -> Self {
        let frequencies = &rotation.frequencies[..];
        let zeros = vec![0.0; frequencies.len()];
        Self { frequencies, magnitude: rotation.magnitude, direction, cos: zeros.clone(), sin: zeros }
    }

    fn turn_to(&mut self, position: f32) {
        sin_cos_of(position, self.frequencies, &mut self.sin, &mut self.cos);
        let direction = self.direction * self.magnitude;
        self.sin.iter_mut().for_each(|sin| *sin *= direction);
        self.cos.iter_mut().for_each(|cos| *cos *= self.magnitude);
    }
}

kernel! {
    fn sin_cos_of(position: f32, frequencies: &[f32], sin: &mut [f32], cos: &mut [f32]) {
        for ((frequency, sin), cos) in frequencies.iter().zip(sin).zip(cos) {
            (*sin, *cos) = sin_cos(position * frequency);
        }
    }
}

/// Evaluates a polynomial; the coefficient of the highest power comes first.
#[inline(always)]
fn power_series<const N: usize>(x: f64, terms: [f64; N]) -> f64 {
    let mut sum = 0.0_f64;
    for term in terms {
        sum = sum.mul_add(x, term);
    }
    sum
}

/// Returns sine and cosine, correctly rounded but for rare last bits, of angles up to a million.
#[inline(always)]
fn sin_cos(angle: f32) -> (f32, f32) {
    // angle = n · π/2 + r. Adding 1.5 · 2⁵² rounds to an integer, which is then in the low bits.
    const TO_INTEGER: f64 = 6_755_399_441_055_744.0;
    let x = f64::from(angle);
    let shifted = x.mul_add(std::f64::consts::FRAC_2_PI, TO_INTEGER);
    let n = shifted - TO_INTEGER;
    let quarter = shifted.to_bits();
    let r = n.mul_add(-std::f64::consts::FRAC_PI_2, x);
    let r = n.mul_add(-6.123_233_995_736_766e-17, r);
    let square = r * r;
    let sin_terms = [-1.0 / 39_916_800.0, 1.0 / 362_880.0, -1.0 / 5_040.0, 1.0 / 120.0, -1.0 / 6.0];
    let cos_terms = [1.0 / 479_001_600.0, -1.0 / 3_628_800.0, 1.0 / 40_320.0, -1.0 / 720.0, 1.0 / 24.0, -0.5];
    let sin = (power_series(square, sin_terms) * square).mul_add(r, r);
    let cos = power_series(square, cos_terms).mul_add(square, 1.0);
    let (sin, cos) = if quarter & 1 == 0 { (sin, cos) } else { (cos, sin) };
    let sin = if quarter & 2 == 0 { sin } else { -sin };
    let cos = if quarter.wrapping_add(1) & 2 == 0 { cos } else { -cos };
    (sin as f32, cos as f32)
}

kernel! {
    fn turn_heads(rows: Range<usize>, x: &Input<'_>, angles: &Angles<'_>, interleaved: bool, out: &mut [f32]) {
        let (pairs, width) = (angles.cos.len(), out.len() / rows.len());
        let (cos, sin) = (&angles.cos[..pairs], &angles.sin[..pairs]);
        for (row, out) in rows.zip(out.chunks_exact_mut(width)) {
            let x = x.nth_row::<f32>(row);
            out[2 * pairs..].copy_from_slice(&x[2 * pairs..]);
            if interleaved {
                for (((x, out), cos), sin) in x.chunks_exact(2).zip(out.chunks_exact_mut(2)).zip(cos).zip(sin) {
                    out[0] = x[0].mul_add(*cos, -(x[1] * sin));
                    out[1] = x[1].mul_add(*cos, x[0] * sin);
                }
            } else {
                let (first, second) = (&x[..pairs], &x[pairs..2 * pairs]);
                let (out_first, out_second) = out.split_at_mut(pairs);
                let out_second = &mut out_second[..pairs];
                for i in 0..pairs {
                    out_first[i] = first[i].mul_add(cos[i], -(second[i] * sin[i]));
                    out_second[i] = second[i].mul_add(cos[i], first[i] * sin[i]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use mlx_rs::fast;

    use super::*;
    use crate::kernels::testing::{Case, check, normal};

    fn rotation(dimensions: i32, interleaved: bool) -> Rotation {
        let half = dimensions / 2;
        let frequencies = (0..half).map(|pair| 10_000_f32.powf(-(pair as f32) / half as f32)).collect();
        Rotation { frequencies, interleaved, scale: 0.5, magnitude: 1.0 }
    }

    #[test]
    fn values_and_gradients_are_those_of_mlx() -> Result<()> {
        for interleaved in [false, true] {
            for (shape, dimensions) in
                [([1, 2, 5, 64], 64), ([2, 3, 7, 40], 12), ([2, 1, 1, 6], 6), ([2, 0, 3, 4], 4)]
            {
                let rotation = rotation(dimensions, interleaved);
                let starts = Array::from_slice(&[-3, 5], &[2]);
                let mut places = vec![(Positions::Same(0), None), (Positions::Same(100), None)];
                if shape[0] == 2 {
                    places.push((Positions::PerRow(starts.clone()), Some(starts)));
                }
                for (positions, starts) in places {
                    check(&Case {
                        inputs: vec![normal(&shape, 7)?],
                        ours: &|inputs| rotate(&inputs[0], &rotation, &positions),
                        plain: &|inputs| {
                            let x = &inputs[0];
                            Ok(match (&positions, &starts) {
                                (Positions::Same(start), _) => {
                                    fast::rope(x, dimensions, interleaved, 10_000.0, 0.5, *start, None)?
                                }
                                (_, Some(starts)) => fast::rope_dynamic(
                                    x,
                                    dimensions,
                                    interleaved,
                                    10_000.0,
                                    0.5,
                                    starts,
                                    None,
                                )?,
                                _ => unreachable!("rows have starts"),
                            })
                        },
                        tolerance: 3e-5,
                    })?;
                }
            }
        }
        Ok(())
    }

    #[test]
    fn transposed_heads_of_packed_rows_and_magnitudes() -> Result<()> {
        let rotation = Rotation { magnitude: 1.5, ..rotation(8, false) };
        let positions = Positions::PerToken(Array::from_slice(&[0, 1, 2, 0, 1, 0], &[6]));
        let heads =
            |x: &Array| -> Result<Array> { Ok(x.reshape(&[1, 6, 3, 8])?.transpose_axes(&[0, 2, 1, 3])?) };
        check(&Case {
            inputs: vec![normal(&[1, 6, 24], 8)?],
            ours: &|inputs| rotate(&heads(&inputs[0])?, &rotation, &positions),
            plain: &|inputs| {
                // Every token is a row of its own.
                let tokens = inputs[0].reshape(&[6, 3, 1, 8])?.multiply(Array::from_f32(1.5))?;
                let starts = Array::from_slice(&[0, 1, 2, 0, 1, 0], &[6]);
                let turned = fast::rope_dynamic(&tokens, 8, false, 10_000.0, 0.5, &starts, None)?;
                Ok(turned.reshape(&[1, 6, 3, 8])?.transpose_axes(&[0, 2, 1, 3])?)
            },
            tolerance: 3e-5,
        })
    }

    #[test]
    fn sine_and_cosine_are_accurate_for_far_positions() {
        for step in 0..200_000 {
            let angle = step as f32 * 4.9 - 490_000.0;
            let (sin, cos) = sin_cos(angle);
            let exact = f64::from(angle).sin_cos();
            assert!(
                (f64::from(sin) - exact.0).abs() < 6e-8 && (f64::from(cos) - exact.1).abs() < 6e-8,
                "{angle}"
            );
        }
    }
}
