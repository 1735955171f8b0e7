//! Optimizers over lists of arrays: `f32` parameters and gradients in, new parameters and state out.
//!
//! Formulas as in MLX 0.32.2's own optimizers, with bias correction on unless it is switched off for parity with mlx-lm.

use crate::error::{Error, Result};
use mlx_rs::{Array, ops};
use serde::{Deserialize, Serialize};

/// The optimizers there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerName {
    /// Adaptive moments (arXiv:1412.6980).
    Adam,
    /// Adam with decoupled weight decay (arXiv:1711.05101).
    Adamw,
    /// Plain gradient descent, with momentum if asked for.
    Sgd,
    /// Signs of an interpolated momentum (arXiv:2302.06675).
    Lion,
    /// A factored second moment and steps scaled to the size of the weights (arXiv:1804.04235).
    Adafactor,
    /// Momentum made orthogonal, for matrices; plain momentum for the rest (kellerjordan.github.io/posts/muon).
    Muon,
}

/// Added to Adafactor's squared gradients.
const ADAFACTOR_EPSILON: f32 = 1e-30;
/// The least size of a weight that Adafactor scales its steps to.
const ADAFACTOR_LEAST_SCALE: f32 = 1e-3;
/// Adafactor's second moment forgets as step^this.
const ADAFACTOR_DECAY: f64 = -0.8;
/// Muon's iteration towards the nearest orthogonal matrix: coefficients and how often.
const MUON_COEFFICIENTS: [f32; 3] = [3.4445, -4.7750, 2.0315];
const MUON_ITERATIONS: usize = 5;

/// So many bytes of parameters are updated together.
const UPDATE_BYTES: usize = 64 << 20;

/// An optimizer with its numbers; what it does not use is ignored.
#[derive(Debug, Clone, PartialEq)]
pub struct OptimizerSettings {
    /// Which one.
    pub name: OptimizerName,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Share of a weight that is taken away at a learning rate of 1.
    pub weight_decay: f32,
    /// SGD's momentum.
    pub momentum: f32,
    /// Muon's momentum.
    pub muon_momentum: f64,
    /// Whether Adam's moments are corrected for starting at zero.
    pub bias_correction: bool,
}

impl Default for OptimizerSettings {
    fn default() -> Self {
        Self {
            name: OptimizerName::Adamw,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
            momentum: 0.0,
            muon_momentum: 0.95,
            bias_correction: true,
        }
    }
}

impl OptimizerSettings {
    /// Moments a parameter has.
    fn moment_count(&self) -> usize {
        match self.name {
            OptimizerName::Adam | OptimizerName::Adamw | OptimizerName::Adafactor => 2,
            OptimizerName::Lion | OptimizerName::Muon => 1,
            OptimizerName::Sgd => usize::from(self.momentum > 0.0),
        }
    }

    /// The shape of a moment of a parameter: its own, but Adafactor keeps a row and a column of a matrix.
    fn moment_shape(&self, index: usize, shape: &[i32]) -> Vec<i32> {
        match (self.name, index, shape) {
            (OptimizerName::Adafactor, 0, [rest @ .., _]) if !rest.is_empty() => rest.to_vec(),
            (OptimizerName::Adafactor, 1, [rest @ .., _, last]) => [rest, &[*last]].concat(),
            (OptimizerName::Adafactor, 1, _) => vec![0],
            _ => shape.to_vec(),
        }
    }

    /// Bytes of state for parameters of these shapes.
    pub fn state_bytes<'a>(&self, shapes: impl Iterator<Item = &'a [i32]>) -> usize {
        let numbers = |shape: &[i32]| -> usize {
            let of = |index| {
                self.moment_shape(index, shape).iter().map(|&extent| extent as usize).product::<usize>()
            };
            (0..self.moment_count()).map(of).sum()
        };
        shapes.map(|shape| 4 * numbers(shape)).sum()
    }
}

/// An optimizer and its state: one list of moments, each in the order of the parameters.
#[derive(Debug, Clone)]
pub struct Optimizer {
    settings: OptimizerSettings,
    /// moment → parameter → array.
    moments: Vec<Vec<Array>>,
    steps: usize,
}

impl Optimizer {
    /// Starts with zero moments for `parameters`.
    pub fn new(settings: OptimizerSettings, parameters: &[Array]) -> Result<Self> {
        let of = |index: usize| {
            let zeros = |p: &Array| Ok(ops::zeros::<f32>(&settings.moment_shape(index, p.shape()))?);
            parameters.iter().map(zeros).collect::<Result<Vec<Array>>>()
        };
        let moments = (0..settings.moment_count()).map(of).collect::<Result<_>>()?;
        Ok(Self { settings, moments, steps: 0 })
    }

    /// Steps taken so far.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// The state, moment by moment, in the order of the parameters.
    pub fn moments(&self) -> &[Vec<Array>] {
        &self.moments
    }

    /// Takes up a saved state.
    ///
    /// # Errors
    ///
    /// Fails when it has another number of moments or other shapes.
    pub fn restore(&mut self, moments: Vec<Vec<Array>>, steps: usize) -> Result<()> {
        let shapes = |moments: &[Vec<Array>]| -> Vec<Vec<Vec<i32>>> {
            moments.iter().map(|list| list.iter().map(|array| array.shape().to_vec()).collect()).collect()
        };
        if shapes(&moments) != shapes(&self.moments) {
            return Err(Error::OtherShapes { what: "moments" });
        }
        self.moments = moments;
        self.steps = steps;
        Ok(())
    }

    /// Takes one step with gradients of any float type, and evaluates it.
    ///
    /// Parameters are updated a few at a time and in place where nobody else holds them, so that a step needs no second
    /// copy of them or of the moments.
    pub fn update(&mut self, rate: f64, parameters: &mut [Array], gradients: Vec<Array>) -> Result<()> {
        self.steps += 1;
        let (mut first, mut bytes) = (0, 0);
        for (index, gradient) in gradients.into_iter().enumerate() {
            bytes += parameters[index].nbytes();
            self.replace(rate, index, &mut parameters[index], &gradient)?;
            drop(gradient);
            if bytes >= UPDATE_BYTES || index + 1 == parameters.len() {
                let moments = self.moments.iter().flat_map(|list| &list[first..=index]);
                mlx_rs::transforms::eval(parameters[first..=index].iter().chain(moments))?;
                (first, bytes) = (index + 1, 0);
            }
        }
        Ok(())
    }

    /// Puts a parameter's next value and moments, not yet evaluated, in the place of those it has.
    fn replace(&mut self, rate: f64, index: usize, parameter: &mut Array, gradient: &Array) -> Result<()> {
        let gradient = gradient.as_dtype(parameter.dtype())?;
        let state: Vec<Array> = self.moments.iter().map(|list| list[index].clone()).collect();
        let (updated, state) = self.update_one(rate, parameter, &gradient, &state)?;
        *parameter = updated;
        for (list, moment) in self.moments.iter_mut().zip(state) {
            list[index] = moment;
        }
        Ok(())
    }

    fn update_one(
        &self,
        rate: f64,
        p: &Array,
        g: &Array,
        state: &[Array],
    ) -> mlx_ext::Result<(Array, Vec<Array>)> {
        match self.settings.name {
            OptimizerName::Adam => self.adam(rate, p, g, state),
            OptimizerName::Adamw => self.adam(rate, &self.decayed(rate, p)?, g, state),
            OptimizerName::Sgd => self.sgd(rate, p, g, state),
            OptimizerName::Lion => self.lion(rate, p, g, state),
            OptimizerName::Adafactor => self.adafactor(rate, p, g, state),
            OptimizerName::Muon => self.muon(rate, p, g, state),
        }
    }

    /// p ← p (1 − rate · decay).
    fn decayed(&self, rate: f64, p: &Array) -> mlx_ext::Result<Array> {
        let keep = 1.0 - rate as f32 * self.settings.weight_decay;
        Ok(p.multiply(Array::from_f32(keep))?)
    }

    fn adam(&self, rate: f64, p: &Array, g: &Array, state: &[Array]) -> mlx_ext::Result<(Array, Vec<Array>)> {
        let OptimizerSettings { beta1, beta2, epsilon, bias_correction, .. } = self.settings;
        let m = blend(&state[0], g, beta1)?;
        let v = blend(&state[1], &g.square()?, beta2)?;
        let (rate, root) = if bias_correction {
            let t = self.steps as i32;
            (rate / (1.0 - beta1.powi(t)), (1.0 - beta2.powi(t)).sqrt().recip())
        } else {
            (rate, 1.0)
        };
        let denominator = v.sqrt()?.multiply(Array::from_f32(root as f32))?.add(Array::from_f32(epsilon))?;
        let change = m.multiply(Array::from_f32(rate as f32))?.divide(denominator)?;
        Ok((p.subtract(change)?, vec![m, v]))
    }

    fn sgd(&self, rate: f64, p: &Array, g: &Array, state: &[Array]) -> mlx_ext::Result<(Array, Vec<Array>)> {
        let g = match self.settings.weight_decay {
            0.0 => g.clone(),
            decay => g.add(p.multiply(Array::from_f32(decay))?)?,
        };
        let Some(velocity) = state.first() else {
            return Ok((p.subtract(g.multiply(Array::from_f32(rate as f32))?)?, Vec::new()));
        };
        let velocity = velocity.multiply(Array::from_f32(self.settings.momentum))?.add(g)?;
        Ok((p.subtract(velocity.multiply(Array::from_f32(rate as f32))?)?, vec![velocity]))
    }

    fn lion(&self, rate: f64, p: &Array, g: &Array, state: &[Array]) -> mlx_ext::Result<(Array, Vec<Array>)> {
        let direction = ops::sign(blend(&state[0], g, self.settings.beta1)?)?;
        let m = blend(&state[0], g, self.settings.beta2)?;
        let change = direction.multiply(Array::from_f32(rate as f32))?;
        Ok((self.decayed(rate, p)?.subtract(change)?, vec![m]))
    }
}

impl Optimizer {
    /// The rate is the one given, scaled to the size of the weights; no first moment.
    fn adafactor(
        &self,
        rate: f64,
        p: &Array,
        g: &Array,
        state: &[Array],
    ) -> mlx_ext::Result<(Array, Vec<Array>)> {
        let least = Array::from_f32(ADAFACTOR_LEAST_SCALE);
        let rate = ops::maximum(least, rms(p)?)?.multiply(Array::from_f32(rate as f32))?;
        let beta = 1.0 - (self.steps as f64).powf(ADAFACTOR_DECAY);
        let squares = g.square()?.add(Array::from_f32(ADAFACTOR_EPSILON))?;
        let (inverse_root, state) = if p.ndim() >= 2 {
            let row = blend(&state[0], &squares.mean_axis(-1, false)?, beta)?;
            let column = blend(&state[1], &squares.mean_axis(-2, false)?, beta)?;
            let of_row = ops::rsqrt(row.divide(row.mean_axis(-1, true)?)?)?;
            let of_column = ops::rsqrt(&column)?;
            (of_row.expand_dims(-1)?.multiply(of_column.expand_dims(-2)?)?, vec![row, column])
        } else {
            let second = blend(&state[0], &squares, beta)?;
            (ops::rsqrt(&second)?, vec![second, state[1].clone()])
        };
        let update = inverse_root.multiply(g)?;
        let update = update.divide(ops::maximum(Array::from_f32(1.0), rms(&update)?)?)?.multiply(&rate)?;
        let p = match self.settings.weight_decay {
            0.0 => p.clone(),
            decay => p.subtract(p.multiply(rate.multiply(Array::from_f32(decay))?)?)?,
        };
        Ok((p.subtract(update)?, state))
    }

    fn muon(&self, rate: f64, p: &Array, g: &Array, state: &[Array]) -> mlx_ext::Result<(Array, Vec<Array>)> {
        let OptimizerSettings { muon_momentum: beta, weight_decay, .. } = self.settings;
        let g = match weight_decay {
            0.0 => g.clone(),
            decay => g.add(p.multiply(Array::from_f32(decay))?)?,
        };
        let velocity = blend(&state[0], &g, beta)?;
        // Nesterov: the momentum once more.
        let update = blend(&velocity, &g, beta)?;
        let (update, stretch) = match update.shape() {
            &[rows, columns] => (orthogonal(&update)?, (rows as f32 / columns as f32).max(1.0).sqrt()),
            _ => (update, 1.0),
        };
        Ok((p.subtract(update.multiply(Array::from_f32(rate as f32 * stretch))?)?, vec![velocity]))
    }
}

/// Near the orthogonal matrix nearest to `x`: Newton and Schulz's iteration with coefficients chosen for speed.
fn orthogonal(x: &Array) -> mlx_ext::Result<Array> {
    let [a, b, c] = MUON_COEFFICIENTS.map(Array::from_f32);
    let tall = x.dim(0) > x.dim(1);
    let x = if tall { x.t() } else { x.clone() };
    let norm = x.square()?.sum(None)?.sqrt()?.add(Array::from_f32(1e-7))?;
    let mut x = x.divide(norm)?;
    for _ in 0..MUON_ITERATIONS {
        let square = x.matmul(x.t())?;
        let polynomial = square.multiply(&b)?.add(square.matmul(&square)?.multiply(&c)?)?;
        x = x.multiply(&a)?.add(polynomial.matmul(&x)?)?;
    }
    Ok(if tall { x.t() } else { x })
}

/// √(mean of squares).
fn rms(x: &Array) -> mlx_ext::Result<Array> {
    Ok(x.square()?.mean(None)?.sqrt()?)
}

/// beta · old + (1 − beta) · new.
fn blend(old: &Array, new: &Array, beta: f64) -> mlx_ext::Result<Array> {
    // 1 − 0.999 in `f32` would be off by a twenty-thousandth.
    let (beta, rest) = (Array::from_f32(beta as f32), Array::from_f32((1.0 - beta) as f32));
    Ok(old.multiply(beta)?.add(new.multiply(rest)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(settings: OptimizerSettings, gradients: &[f32]) -> Result<f32> {
        let mut p = vec![Array::from_slice(&[1.0_f32], &[1])];
        let mut optimizer = Optimizer::new(settings, &p)?;
        for &g in gradients {
            optimizer.update(0.1, &mut p, vec![Array::from_slice(&[g], &[1])])?;
        }
        Ok(p[0].item_exact())
    }

    #[test]
    fn the_first_step_of_adam_has_the_length_of_the_rate() -> Result<()> {
        let settings = OptimizerSettings { name: OptimizerName::Adam, ..Default::default() };
        assert!((steps(settings, &[0.5])? - 0.9).abs() < 1e-6);
        Ok(())
    }

    #[test]
    fn known_values_of_every_optimizer() -> Result<()> {
        let of = |name| OptimizerSettings { name, bias_correction: false, ..Default::default() };
        let sgd = OptimizerSettings { momentum: 0.9, weight_decay: 0.0, ..of(OptimizerName::Sgd) };
        // v = 0.5, then 0.95; p = 1 - 0.05 - 0.095
        assert!((steps(sgd, &[0.5, 0.5])? - 0.855).abs() < 1e-6);
        // m = 0.05, v = 0.00025: p = 1 · (1 - 0.001) - 0.1 · 0.05 / 0.0158114
        assert!((steps(of(OptimizerName::Adamw), &[0.5])? - 0.682_772).abs() < 1e-5);
        assert!((steps(of(OptimizerName::Lion), &[-3.0])? - 1.099).abs() < 1e-6);
        Ok(())
    }

    #[test]
    fn a_state_of_other_shapes_is_refused() -> Result<()> {
        let p = [Array::zeros::<f32>(&[2])?];
        let mut optimizer = Optimizer::new(OptimizerSettings::default(), &p)?;
        let wrong = vec![vec![Array::zeros::<f32>(&[3])?], vec![Array::zeros::<f32>(&[3])?]];
        assert!(optimizer.restore(wrong, 1).is_err());
        Ok(())
    }
}
