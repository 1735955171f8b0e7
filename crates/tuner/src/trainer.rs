//! One step of training: gradients over micro-batches, clipping, the optimizer's update.

use crate::adapter::Trainable;
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::loss::{self, Head};
use crate::optimizer::{Optimizer, OptimizerSettings};
use crate::seed;
use mlx_rs::{Array, Dtype};
use models::{Layer, Model};
use std::collections::HashMap;

/// A model, what trains of it, and the optimizer.
pub struct Trainer {
    model: Model,
    trainable: Trainable,
    /// `f32` masters in the order of the names.
    parameters: Vec<Array>,
    optimizer: Optimizer,
    head: Head,
    dropout: f32,
    recompute: bool,
    seed: u64,
}

/// What a step found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Sum of the weighted losses, in nats.
    pub loss_sum: f64,
    /// Sum of the weights: what a mean divides by.
    pub weight: f64,
    /// Targets that counted.
    pub targets: usize,
    /// Norm of the gradient of the mean loss, before clipping.
    pub gradient_norm: f32,
}

impl StepReport {
    /// Mean loss a target, in nats; 0 when none counted.
    pub fn mean_loss(&self) -> f64 {
        if self.weight > 0.0 { self.loss_sum / self.weight } else { 0.0 }
    }
}

/// Loss and gradients of one or more micro-batches.
struct Gradients {
    /// Of the weighted sum.
    sums: Vec<Array>,
    loss_sum: Array,
    weight: f64,
    targets: usize,
}

impl Trainer {
    /// Starts with the parameters that `model` holds under the names of `trainable`.
    pub fn new(model: Model, trainable: Trainable, optimizer: OptimizerSettings, seed: u64) -> Result<Self> {
        let mut model = model;
        let all = model.parameters();
        let parameters = trainable
            .names
            .iter()
            .map(|name| Ok(all[name].as_dtype(Dtype::Float32)?))
            .collect::<Result<Vec<Array>>>()?;
        mlx_rs::transforms::eval(&parameters)?;
        let optimizer = Optimizer::new(optimizer, &parameters)?;
        let in_head = |name: &String| name.contains("lm_head") || name.contains("embed_tokens");
        let head = if trainable.names.iter().any(in_head) { Head::Trained } else { Head::Frozen };
        Ok(Self { model, trainable, parameters, optimizer, head, dropout: 0.0, recompute: false, seed })
    }

    /// Drops this share of every adapter's inputs while training.
    pub fn set_dropout(&mut self, rate: f32) {
        self.dropout = rate;
    }

    /// Computes the inner values of blocks again for the gradient instead of keeping them: less memory, more time.
    pub fn set_gradient_checkpointing(&mut self, on: bool) {
        self.recompute = on;
    }

    /// Takes a plain gradient through the head even where it is frozen; slower, for tests.
    #[doc(hidden)]
    pub fn use_plain_head(&mut self) {
        self.head = Head::Trained;
    }

    /// Blocks of the model.
    pub fn layer_count(&self) -> usize {
        self.model.layer_count()
    }

    /// What trains.
    pub fn trainable(&self) -> &Trainable {
        &self.trainable
    }

    /// The parameters, `f32`, in the order of the names.
    pub fn parameters(&self) -> &[Array] {
        &self.parameters
    }

    /// The optimizer and its state.
    pub fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    /// Takes up saved parameters and optimizer state.
    ///
    /// # Errors
    ///
    /// Fails when they do not fit the model.
    pub fn restore(&mut self, parameters: Vec<Array>, moments: Vec<Vec<Array>>, steps: usize) -> Result<()> {
        let fits = parameters.len() == self.parameters.len()
            && parameters.iter().zip(&self.parameters).all(|(new, old)| new.shape() == old.shape());
        if !fits {
            return Err(Error::Settings("the saved parameters do not fit the model".to_owned()));
        }
        self.optimizer.restore(moments, steps)?;
        self.parameters = parameters;
        Ok(())
    }

    /// The model with the parameters as they are now.
    pub fn model(&self) -> Result<Model> {
        Ok(with_parameters(&self.model, &self.trainable.names, &self.parameters)?)
    }

    /// Takes a step over micro-batches, as one batch of all their targets, at a learning rate.
    ///
    /// # Errors
    ///
    /// Fails when the loss or the gradient is not finite; the parameters are then those of before the step. `step`
    /// (counted from 1) and `rows` only name the place. Without any target that counts, nothing changes.
    pub fn step(
        &mut self,
        batches: &[Batch],
        rate: f64,
        max_gradient_norm: Option<f32>,
        (step, rows): (usize, &[u32]),
    ) -> Result<StepReport> {
        let Some(gradients) = self.gradients(batches, step)? else {
            return Ok(StepReport { loss_sum: 0.0, weight: 0.0, targets: 0, gradient_norm: 0.0 });
        };
        let mean = Array::from_f32((1.0 / gradients.weight) as f32);
        let means =
            gradients.sums.iter().map(|sum| Ok(sum.multiply(&mean)?)).collect::<Result<Vec<Array>>>()?;
        let norm = global_norm(&means)?;
        let clipped = match max_gradient_norm {
            Some(limit) => clip(&means, &norm, limit)?,
            None => means,
        };
        let before = self.optimizer.clone();
        let parameters = self.optimizer.update(rate, &self.parameters, &clipped)?;
        let state = self.optimizer.moments().iter().flatten();
        mlx_rs::transforms::eval(parameters.iter().chain(state).chain([&gradients.loss_sum, &norm]))?;
        let loss_sum = gradients.loss_sum.item_exact::<f32>();
        let gradient_norm = norm.item_exact::<f32>();
        for (what, value) in [("loss", loss_sum), ("gradient norm", gradient_norm)] {
            if !value.is_finite() {
                self.optimizer = before;
                let what = format!("its {what} is {value}");
                return Err(Error::Diverged { step, what, rows: rows.to_vec() });
            }
        }
        self.parameters = parameters;
        Ok(StepReport {
            loss_sum: f64::from(loss_sum),
            weight: gradients.weight,
            targets: gradients.targets,
            gradient_norm,
        })
    }

    /// Names the first parameter or moment that holds something else than finite numbers.
    pub(crate) fn first_not_finite(&self) -> Result<Option<String>> {
        let lists = std::iter::once(("", &self.parameters[..]))
            .chain(self.optimizer.moments().iter().map(|moments| ("a moment of ", &moments[..])));
        for (kind, arrays) in lists {
            for (name, array) in self.trainable.names.iter().zip(arrays).filter(|(_, array)| array.size() > 0)
            {
                // NaN and infinity survive a sum; what overflows in it is not far from them.
                let sum = array.sum(None)?.item_exact::<f32>();
                if !sum.is_finite() {
                    return Ok(Some(format!("{kind}`{name}` is not finite")));
                }
            }
        }
        Ok(None)
    }

    /// The gradients of the mean loss, in the order of the names, without taking a step.
    pub fn mean_gradients(&self, batches: &[Batch]) -> Result<Vec<Array>> {
        let nothing = || Error::NothingToLearn { split: "train".to_owned() };
        let gradients = self.gradients(batches, 1)?.ok_or_else(nothing)?;
        let mean = Array::from_f32((1.0 / gradients.weight) as f32);
        gradients.sums.iter().map(|sum| Ok(sum.multiply(&mean)?)).collect()
    }

    fn gradients(&self, batches: &[Batch], step: usize) -> Result<Option<Gradients>> {
        let mut total: Option<Gradients> = None;
        // A batch whose rows were all cut before their first target has no mean to take.
        for (index, batch) in batches.iter().enumerate().filter(|(_, batch)| batch.total_weight > 0.0) {
            let model = self.with_dropout_of(step, index)?;
            let (mut values, sums) = mlx_ext::value_and_grad(
                |parameters| {
                    let traced = with_parameters(&model, &self.trainable.names, parameters)?;
                    Ok(vec![loss::weighted_sum(&traced, batch, self.head, self.recompute)?])
                },
                &self.parameters,
                self.parameters.len(),
            )?;
            let loss_sum = values.swap_remove(0);
            let (weight, targets) = (batch.total_weight, batch.target_count());
            total = Some(match total {
                None => Gradients { sums, loss_sum, weight, targets },
                Some(total) => total.plus(&Gradients { sums, loss_sum, weight, targets })?,
            });
            if batches.len() > 1 {
                // One micro-batch's activations at a time.
                let total = total.as_ref().expect("set above");
                mlx_rs::transforms::eval(total.sums.iter().chain([&total.loss_sum]))?;
            }
        }
        Ok(total)
    }

    /// The model with the dropout masks of a step's micro-batch.
    fn with_dropout_of(&self, step: usize, micro_batch: usize) -> Result<Model> {
        let mut model = self.model.clone();
        if self.dropout == 0.0 {
            return Ok(model);
        }
        let mut layer = 0;
        let mut outcome = Ok(());
        model.visit(&mut |_, part| {
            let Layer::Linear(linear) = part else { return };
            let Some(adapter) = &mut linear.adapter else { return };
            match seed::key(self.seed, "dropout", &[step as u64, micro_batch as u64, layer]) {
                Ok(key) => adapter.dropout = Some((self.dropout, key)),
                Err(error) => outcome = Err(error),
            }
            layer += 1;
        });
        outcome?;
        Ok(model)
    }
}

impl Gradients {
    fn plus(&self, other: &Self) -> Result<Self> {
        let sums = self.sums.iter().zip(&other.sums).map(|(a, b)| Ok(a.add(b)?)).collect::<Result<_>>()?;
        Ok(Self {
            sums,
            loss_sum: self.loss_sum.add(&other.loss_sum)?,
            weight: self.weight + other.weight,
            targets: self.targets + other.targets,
        })
    }
}

/// A copy of `model` that holds `values` under `names`; weights and biases in their own type, adapters in `f32`.
fn with_parameters(model: &Model, names: &[String], values: &[Array]) -> mlx_ext::Result<Model> {
    let by_name: HashMap<&str, &Array> = names.iter().map(String::as_str).zip(values).collect();
    let mut copy = model.clone();
    let mut outcome = Ok(());
    copy.visit_parameters(&mut |name, array| {
        let Some(value) = by_name.get(name) else { return };
        match value.as_dtype(array.dtype()) {
            Ok(value) => *array = value,
            Err(error) => outcome = Err(error),
        }
    });
    outcome?;
    Ok(copy)
}

/// √(Σ of all squares), `f32`, summed in the order of the names.
fn global_norm(gradients: &[Array]) -> Result<Array> {
    let mut sum = Array::from_f32(0.0);
    for gradient in gradients {
        sum = sum.add(gradient.as_dtype(Dtype::Float32)?.square()?.sum(None)?)?;
    }
    Ok(sum.sqrt()?)
}

/// Scales gradients down to a global norm of `limit`; smaller ones stay as they are.
fn clip(gradients: &[Array], norm: &Array, limit: f32) -> Result<Vec<Array>> {
    let limit = Array::from_f32(limit);
    let factor = mlx_rs::ops::minimum(limit.divide(norm.add(Array::from_f32(1e-6))?)?, Array::from_f32(1.0))?;
    gradients.iter().map(|gradient| Ok(gradient.multiply(&factor)?)).collect()
}
