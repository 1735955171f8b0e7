//! Optimizers over lists of arrays: `f32` parameters and gradients in, new parameters and state out.
//!
//! The formulas are those of MLX 0.32.2's optimizers, except that bias correction is on by default (mlx-lm leaves it off).

use mlx_ext::host::uses_host;
use mlx_ext::kernels::{self, AdamStep};
use mlx_rs::{Array, ops};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Name of an optimizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerName {
    /// Adaptive moments (arXiv:1412.6980).
    Adam,
    /// Adam with decoupled weight decay (arXiv:1711.05101).
    Adamw,
    /// Gradient descent, optionally with momentum.
    Sgd,
    /// Sign of an interpolated momentum (arXiv:2302.06675).
    Lion,
    /// Factored second moment, and steps relative to the size of the weights (arXiv:1804.04235).
    Adafactor,
    /// Orthogonalized momentum for matrices, plain momentum for the rest (kellerjordan.github.io/posts/muon).
    Muon,
}

/// Term added to Adafactor's squared gradients.
const ADAFACTOR_EPSILON: f32 = 1e-30;
/// Smallest weight size that Adafactor scales its steps to.
const ADAFACTOR_LEAST_SCALE: f32 = 1e-3;
/// Adafactor's second moment decays as step to this power.
const ADAFACTOR_DECAY: f64 = -0.8;
/// Coefficients of Muon's iteration towards the nearest orthogonal matrix.
const MUON_COEFFICIENTS: [f32; 3] = [3.4445, -4.7750, 2.0315];
/// Number of those iterations.
const MUON_ITERATIONS: usize = 5;

/// Number of bytes of parameters that are updated together.
pub(crate) const UPDATE_BYTES: usize = 64 << 20;

/// Settings of an optimizer; those that it does not use are ignored, and [`OptimizerSettings::unused`] names them.
#[derive(Debug, Clone, PartialEq)]
pub struct OptimizerSettings {
    /// Name of the optimizer.
    pub name: OptimizerName,
    /// Decay of the first moment, per step: `adam`, `adamw`, `lion`.
    pub beta1: f64,
    /// Decay of the second moment, per step, or of the momentum of `lion`: `adam`, `adamw`, `lion`.
    pub beta2: f64,
    /// Term added to the root of the second moment: `adam`, `adamw`.
    pub epsilon: f64,
    /// Weight decay. `adamw`, `lion`, `adafactor`: decoupled, the share of a weight that is subtracted per step, times the learning
    /// rate. `sgd`, `muon`: times the weight, added to the gradient. `adam`: not used.
    pub weight_decay: f64,
    /// Momentum of SGD.
    pub momentum: f64,
    /// Momentum of Muon.
    pub muon_momentum: f64,
    /// Correct the moments of `adam` and `adamw` for starting at zero.
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
    /// Returns the names of the settings that differ from their defaults, although the optimizer does not use them.
    pub fn unused(&self) -> Vec<&'static str> {
        use OptimizerName::{Adam, Adamw, Lion, Muon, Sgd};
        let name = self.name;
        let is_adam = matches!(name, Adam | Adamw);
        let default = Self::default();
        let is = |own: f64, default: f64| own.total_cmp(&default).is_eq();
        let settings = [
            ("beta1", is_adam || name == Lion, is(self.beta1, default.beta1)),
            ("beta2", is_adam || name == Lion, is(self.beta2, default.beta2)),
            ("epsilon", is_adam, is(self.epsilon, default.epsilon)),
            // Without decay is what `adam` does.
            (
                "weight_decay",
                name != Adam || self.weight_decay == 0.0,
                is(self.weight_decay, default.weight_decay),
            ),
            ("momentum", name == Sgd, is(self.momentum, default.momentum)),
            ("muon_momentum", name == Muon, is(self.muon_momentum, default.muon_momentum)),
            ("bias_correction", is_adam, self.bias_correction == default.bias_correction),
        ];
        let unused = settings.into_iter().filter(|(_, is_used, is_default)| !is_used && !is_default);
        unused.map(|(setting, ..)| setting).collect()
    }

    /// Returns the number of moments per parameter.
    fn moment_count(&self) -> usize {
        match self.name {
            OptimizerName::Adam | OptimizerName::Adamw | OptimizerName::Adafactor => 2,
            OptimizerName::Lion | OptimizerName::Muon => 1,
            OptimizerName::Sgd => usize::from(self.momentum > 0.0),
        }
    }

    /// Returns the shape of a moment: that of its parameter, except that Adafactor keeps a row and a column of a matrix.
    fn moment_shape(&self, index: usize, shape: &[i32]) -> Vec<i32> {
        match (self.name, index, shape) {
            (OptimizerName::Adafactor, 0, [rest @ .., _]) if !rest.is_empty() => rest.to_vec(),
            (OptimizerName::Adafactor, 1, [rest @ .., _, last]) => [rest, &[*last]].concat(),
            (OptimizerName::Adafactor, 1, _) => vec![0],
            _ => shape.to_vec(),
        }
    }

    /// Returns the size of the moments of parameters with these shapes, in bytes.
    pub fn state_bytes<'a>(&self, shapes: impl Iterator<Item = &'a [i32]>) -> usize {
        let moments = shapes
            .flat_map(|shape| (0..self.moment_count()).map(move |index| self.moment_shape(index, shape)));
        moments.map(|shape| 4 * shape.iter().map(|&extent| extent as usize).product::<usize>()).sum()
    }
}

/// An optimizer with its state: lists of moments, each in the order of the parameters.
#[derive(Debug, Clone)]
pub struct Optimizer {
    settings: OptimizerSettings,
    /// Arrays by moment, then by parameter.
    moments: Vec<Vec<Array>>,
    steps: usize,
}

impl Optimizer {
    /// Makes an optimizer with zero moments for `parameters`.
    pub fn new(settings: OptimizerSettings, parameters: &[Array]) -> Result<Self> {
        let mut moments = Vec::new();
        for index in 0..settings.moment_count() {
            let zeros = |p: &Array| Ok(ops::zeros::<f32>(&settings.moment_shape(index, p.shape()))?);
            moments.push(parameters.iter().map(zeros).collect::<Result<Vec<Array>>>()?);
        }
        Ok(Self { settings, moments, steps: 0 })
    }

    /// Returns the number of steps taken.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Returns the moments, each in the order of the parameters.
    pub fn moments(&self) -> &[Vec<Array>] {
        &self.moments
    }

    /// Replaces the state by a saved one.
    ///
    /// # Errors
    ///
    /// Fails when the number of moments or their shapes differ.
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

    /// Takes one step with gradients of any float type, without evaluating the result.
    pub(crate) fn update_lazily(
        &mut self,
        rate: f64,
        parameters: &mut [Array],
        gradients: &[Array],
    ) -> Result<()> {
        self.steps += 1;
        let pairs = parameters.iter_mut().zip(gradients).enumerate();
        for (index, (parameter, gradient)) in pairs {
            self.replace(rate, index, parameter, gradient)?;
        }
        Ok(())
    }

    /// Takes one step with gradients of any float type, and evaluates the result.
    ///
    /// Parameters are updated a few at a time, in place if nothing else holds them, so that a step does not need a second
    /// copy of parameters or moments.
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

    /// Replaces a parameter and its moments by their next values, which are not evaluated yet.
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

    /// Returns the next value of parameter `p` with gradient `g`, and its next moments.
    fn update_one(
        &self,
        rate: f64,
        p: &Array,
        g: &Array,
        state: &[Array],
    ) -> mlx_ext::Result<(Array, Vec<Array>)> {
        match self.settings.name {
            OptimizerName::Adam | OptimizerName::Adamw => self.adam(rate, p, g, state),
            OptimizerName::Sgd => self.sgd(rate, p, g, state),
            OptimizerName::Lion => self.lion(rate, p, g, state),
            OptimizerName::Adafactor => self.adafactor(rate, p, g, state),
            OptimizerName::Muon => self.muon(rate, p, g, state),
        }
    }

    /// Returns p (1 − rate · decay).
    fn decayed(&self, rate: f64, p: &Array) -> mlx_ext::Result<Array> {
        Ok(p.multiply(Array::from_f32(self.kept(rate)))?)
    }

    /// Returns 1 − rate · decay.
    fn kept(&self, rate: f64) -> f32 {
        1.0 - rate as f32 * self.settings.weight_decay as f32
    }

    fn adam(&self, rate: f64, p: &Array, g: &Array, state: &[Array]) -> mlx_ext::Result<(Array, Vec<Array>)> {
        let step = self.adam_step(rate);
        if uses_host(p) {
            let [p, m, v] = kernels::adam(step, p, g, &state[0], &state[1])?;
            return Ok((p, vec![m, v]));
        }
        let times = |x: &Array, by: f32| x.multiply(Array::from_f32(by));
        let m = times(&state[0], step.beta1)?.add(times(g, step.rest1)?)?;
        let v = times(&state[1], step.beta2)?.add(times(&g.square()?, step.rest2)?)?;
        let denominator = times(&v.sqrt()?, step.root)?.add(Array::from_f32(step.epsilon))?;
        let change = times(&m, step.rate)?.divide(denominator)?;
        Ok((times(p, step.keep)?.subtract(change)?, vec![m, v]))
    }

    /// Returns the factors of the current step, computed in `f64`: in `f32`, 1 − 0.999 has a relative error of 5e-5.
    fn adam_step(&self, rate: f64) -> AdamStep {
        let OptimizerSettings { name, beta1, beta2, epsilon, bias_correction, .. } = self.settings;
        let keep = if name == OptimizerName::Adamw { self.kept(rate) } else { 1.0 };
        let (rate, root) = if bias_correction {
            let t = self.steps as i32;
            (rate / (1.0 - beta1.powi(t)), (1.0 - beta2.powi(t)).sqrt().recip())
        } else {
            (rate, 1.0)
        };
        AdamStep {
            keep,
            beta1: beta1 as f32,
            rest1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            rest2: (1.0 - beta2) as f32,
            rate: rate as f32,
            root: root as f32,
            epsilon: epsilon as f32,
        }
    }

    fn sgd(&self, rate: f64, p: &Array, g: &Array, state: &[Array]) -> mlx_ext::Result<(Array, Vec<Array>)> {
        let g = match self.settings.weight_decay {
            0.0 => g.clone(),
            decay => g.add(p.multiply(Array::from_f32(decay as f32))?)?,
        };
        let Some(velocity) = state.first() else {
            return Ok((p.subtract(g.multiply(Array::from_f32(rate as f32))?)?, Vec::new()));
        };
        let velocity = velocity.multiply(Array::from_f32(self.settings.momentum as f32))?.add(g)?;
        Ok((p.subtract(velocity.multiply(Array::from_f32(rate as f32))?)?, vec![velocity]))
    }

    fn lion(&self, rate: f64, p: &Array, g: &Array, state: &[Array]) -> mlx_ext::Result<(Array, Vec<Array>)> {
        let direction = ops::sign(blend(&state[0], g, self.settings.beta1)?)?;
        let m = blend(&state[0], g, self.settings.beta2)?;
        let change = direction.multiply(Array::from_f32(rate as f32))?;
        Ok((self.decayed(rate, p)?.subtract(change)?, vec![m]))
    }

    /// Adafactor without a first moment; the given rate is scaled by the size of the weights.
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
            decay => p.subtract(p.multiply(rate.multiply(Array::from_f32(decay as f32))?)?)?,
        };
        Ok((p.subtract(update)?, state))
    }

    fn muon(&self, rate: f64, p: &Array, g: &Array, state: &[Array]) -> mlx_ext::Result<(Array, Vec<Array>)> {
        let OptimizerSettings { muon_momentum: beta, weight_decay, .. } = self.settings;
        let g = match weight_decay {
            0.0 => g.clone(),
            decay => g.add(p.multiply(Array::from_f32(decay as f32))?)?,
        };
        let velocity = blend(&state[0], &g, beta)?;
        // Nesterov momentum.
        let update = blend(&velocity, &g, beta)?;
        let (update, stretch) = match update.shape() {
            &[rows, columns] => (orthogonal(&update)?, (rows as f32 / columns as f32).max(1.0).sqrt()),
            _ => (update, 1.0),
        };
        Ok((p.subtract(update.multiply(Array::from_f32(rate as f32 * stretch))?)?, vec![velocity]))
    }
}

/// Approximates the orthogonal matrix nearest to `x` by the Newton–Schulz iteration, with coefficients chosen for speed.
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

/// Returns √(mean of squares).
fn rms(x: &Array) -> mlx_ext::Result<Array> {
    Ok(x.square()?.mean(None)?.sqrt()?)
}

/// Returns beta · old + (1 − beta) · new.
fn blend(old: &Array, new: &Array, beta: f64) -> mlx_ext::Result<Array> {
    // Computed in `f64`: in `f32`, 1 − 0.999 has a relative error of 5e-5.
    let (beta, rest) = (Array::from_f32(beta as f32), Array::from_f32((1.0 - beta) as f32));
    Ok(old.multiply(beta)?.add(new.multiply(rest)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the parameter 1 after steps with the given gradients at a rate of 0.1.
    fn steps(settings: OptimizerSettings, gradients: &[f32]) -> Result<f32> {
        let mut p = vec![Array::from_slice(&[1.0_f32], &[1])];
        let mut optimizer = Optimizer::new(settings, &p)?;
        for &g in gradients {
            optimizer.update(0.1, &mut p, vec![Array::from_slice(&[g], &[1])])?;
        }
        Ok(p[0].item_exact())
    }

    #[test]
    fn the_first_step_of_adam_is_as_long_as_the_learning_rate() -> Result<()> {
        let settings = OptimizerSettings { name: OptimizerName::Adam, ..Default::default() };
        assert!((steps(settings, &[0.5])? - 0.9).abs() < 1e-6);
        Ok(())
    }

    #[test]
    fn known_values_of_sgd_adamw_and_lion() -> Result<()> {
        let plain = |name| OptimizerSettings { name, bias_correction: false, ..Default::default() };
        let sgd = OptimizerSettings { momentum: 0.9, weight_decay: 0.0, ..plain(OptimizerName::Sgd) };
        // v = 0.5, then 0.95; p = 1 - 0.05 - 0.095
        assert!((steps(sgd, &[0.5, 0.5])? - 0.855).abs() < 1e-6);
        // m = 0.05, v = 0.00025: p = 1 · (1 - 0.001) - 0.1 · 0.05 / 0.0158114
        assert!((steps(plain(OptimizerName::Adamw), &[0.5])? - 0.682_772).abs() < 1e-5);
        assert!((steps(plain(OptimizerName::Lion), &[-3.0])? - 1.099).abs() < 1e-6);
        Ok(())
    }

    #[test]
    fn a_setting_is_unused_exactly_if_it_changes_no_step() -> Result<()> {
        use OptimizerName::{Adafactor, Adam, Adamw, Lion, Muon, Sgd};
        for name in [Adam, Adamw, Sgd, Lion, Adafactor, Muon] {
            let plain = OptimizerSettings { name, ..Default::default() };
            assert!(plain.unused().is_empty());
            let changed = [
                ("beta1", OptimizerSettings { beta1: 0.5, ..plain.clone() }),
                ("beta2", OptimizerSettings { beta2: 0.5, ..plain.clone() }),
                ("epsilon", OptimizerSettings { epsilon: 0.5, ..plain.clone() }),
                ("weight_decay", OptimizerSettings { weight_decay: 0.5, ..plain.clone() }),
                ("momentum", OptimizerSettings { momentum: 0.5, ..plain.clone() }),
                ("muon_momentum", OptimizerSettings { muon_momentum: 0.5, ..plain.clone() }),
                ("bias_correction", OptimizerSettings { bias_correction: false, ..plain.clone() }),
            ];
            // The momentum of `lion` outweighs the second gradient or not, as its settings decide.
            let gradients = [100.0, -0.5, -5.0, 0.7];
            for (setting, changed) in changed {
                let [before, after] = [&plain, &changed].map(|settings| steps(settings.clone(), &gradients));
                let is_unused = before?.to_bits() == after?.to_bits();
                assert_eq!(changed.unused() == [setting], is_unused, "{name:?} with another `{setting}`");
            }
        }
        Ok(())
    }

    #[test]
    fn a_state_with_other_shapes_is_refused() -> Result<()> {
        let p = [Array::zeros::<f32>(&[2])?];
        let mut optimizer = Optimizer::new(OptimizerSettings::default(), &p)?;
        let wrong = vec![vec![Array::zeros::<f32>(&[3])?], vec![Array::zeros::<f32>(&[3])?]];
        assert!(optimizer.restore(wrong, 1).is_err());
        Ok(())
    }
}
