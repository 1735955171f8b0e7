//! One step of training: gradients over micro-batches, clipping, the optimizer's update.

use crate::adapter::{Trainable, split_block};
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::loss::{self, HeadGradient};
use crate::optimizer::{Optimizer, OptimizerSettings};
use crate::seed;
use mlx_rs::{Array, Dtype};
use models::{Layer, Model, Pass};
use std::collections::{BTreeMap, HashMap};

/// A step may make room for so much before its first operations are done.
const RUN_AHEAD_BYTES: usize = 128 << 20;

/// A model, what trains of it, and the optimizer.
pub struct Trainer {
    model: Model,
    trainable: Trainable,
    /// `f32` masters in the order of the names.
    parameters: Vec<Array>,
    optimizer: Optimizer,
    head: HeadGradient,
    head_chunk: Option<usize>,
    /// The first block with something that trains; what comes before it is no part of a gradient. `None` when the
    /// embedding trains.
    first_block: Option<usize>,
    dropout: f32,
    recompute: bool,
    with_group_norms: bool,
    seed: u64,
}

/// What a step found.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StepReport {
    /// Sum of the weighted losses, in nats.
    pub loss_sum: f64,
    /// Sum of the weights: what a mean divides by.
    pub weight: f64,
    /// Targets that counted.
    pub targets: usize,
    /// Norm of the gradient of the mean loss, before clipping.
    pub gradient_norm: f32,
    /// The same for each block, the head, the embedding and the last norm, if asked for.
    pub group_norms: BTreeMap<String, f32>,
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
        forget(&mut model, &trainable.names)?;
        mlx_rs::transforms::eval(optimizer.moments().iter().flatten())?;
        mlx_ext::hold_back(mlx_rs::memory::active_memory()? + RUN_AHEAD_BYTES)?;
        let trains = |part: &str| trainable.names.iter().any(|name| name.contains(part));
        let head_trains = trains("lm_head") || (model.has_tied_head() && trains("embed_tokens"));
        let head = if head_trains { HeadGradient::OfAll } else { HeadGradient::OfInputs };
        let blocks = trainable.names.iter().filter_map(|name| Some(split_block(name)?.0));
        let first_block = (!trains("embed_tokens")).then(|| blocks.min().unwrap_or(model.layer_count()));
        let (dropout, recompute, with_group_norms) = (0.0, false, false);
        Ok(Self {
            model,
            trainable,
            parameters,
            optimizer,
            head,
            head_chunk: None,
            first_block,
            dropout,
            recompute,
            with_group_norms,
            seed,
        })
    }

    /// Drops this share of every adapter's inputs while training.
    pub fn set_dropout(&mut self, rate: f32) {
        self.dropout = rate;
    }

    /// Computes the inner values of blocks again for the gradient instead of keeping them: less memory, more time.
    pub fn set_gradient_checkpointing(&mut self, on: bool) {
        self.recompute = on;
    }

    /// Reports the norm of the gradient of every block too.
    pub fn set_group_norms(&mut self, on: bool) {
        self.with_group_norms = on;
    }

    /// Takes all logits at once and a plain gradient through them; for tests.
    #[doc(hidden)]
    pub fn use_plain_head(&mut self) {
        self.head = HeadGradient::Derived;
    }

    /// Lets the head take chunks of so many rows; for tests, whose vocabularies are small.
    #[doc(hidden)]
    pub fn head_chunks_of(&mut self, rows: usize) {
        self.head_chunk = Some(rows);
    }

    /// Takes blocks that do not train into the gradient's trace as well; for tests.
    #[doc(hidden)]
    pub fn trace_all_blocks(&mut self) {
        self.first_block = None;
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
            return Err(Error::OtherShapes { what: "parameters" });
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
            return Ok(StepReport::default());
        };
        // From here on a list of gradients is given away, never kept beside the one that is made of it.
        let Gradients { sums, loss_sum, weight, targets } = gradients;
        let mean = Array::from_f32((1.0 / weight) as f32);
        let means = sums.into_iter().map(|sum| Ok(sum.multiply(&mean)?)).collect::<Result<Vec<Array>>>()?;
        let norm = global_norm(&means)?;
        let group_norms = if self.with_group_norms { self.group_norms(&means)? } else { BTreeMap::new() };
        let numbers = [&loss_sum, &norm].into_iter().chain(group_norms.values());
        mlx_rs::transforms::eval(means.iter().chain(numbers))?;
        let loss_sum = loss_sum.item_exact::<f32>();
        let gradient_norm = norm.item_exact::<f32>();
        for (what, value) in [("loss", loss_sum), ("gradient norm", gradient_norm)] {
            if !value.is_finite() {
                let reason = format!("the {what} is {value}");
                let kept = "the parameters are unchanged".to_owned();
                return Err(Error::Diverged { step, reason, rows: rows.to_vec(), kept });
            }
        }
        let clipped = match max_gradient_norm {
            Some(limit) => clip(means, &norm, limit)?,
            None => means,
        };
        self.optimizer.update(rate, &mut self.parameters, clipped)?;
        Ok(StepReport {
            loss_sum: f64::from(loss_sum),
            weight,
            targets,
            gradient_norm,
            group_norms: group_norms.iter().map(|(name, norm)| (name.clone(), norm.item_exact())).collect(),
        })
    }

    /// The norms of the gradients of each part of the model.
    fn group_norms(&self, gradients: &[Array]) -> Result<BTreeMap<String, Array>> {
        let mut groups: BTreeMap<String, Vec<Array>> = BTreeMap::new();
        for (name, gradient) in self.trainable.names.iter().zip(gradients) {
            groups.entry(group_of(name)).or_default().push(gradient.clone());
        }
        groups.into_iter().map(|(name, gradients)| Ok((name, global_norm(&gradients)?))).collect()
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
        let gradients = self.gradients(batches, 1)?;
        let gradients = gradients.ok_or_else(|| Error::NoTargets { split: "train".to_owned() })?;
        let mean = Array::from_f32((1.0 / gradients.weight) as f32);
        gradients.sums.iter().map(|sum| Ok(sum.multiply(&mean)?)).collect()
    }

    fn gradients(&self, batches: &[Batch], step: usize) -> Result<Option<Gradients>> {
        let mut total: Option<Gradients> = None;
        // A batch whose rows were all cut before their first target has no mean to take.
        for (index, batch) in batches.iter().enumerate().filter(|(_, batch)| batch.total_weight > 0.0) {
            let model = self.with_dropout_of(step, index)?;
            let entering = match self.first_block {
                Some(block) if block > 0 => Some((block, loss::entering(&model, batch, block)?)),
                _ => None,
            };
            let from = entering.as_ref().map(|(block, states)| (*block, states));
            let pass = Pass { recompute: self.recompute, from };
            let (mut values, sums) = mlx_ext::value_and_grad(
                |parameters| {
                    let traced = with_parameters(&model, &self.trainable.names, parameters)?;
                    Ok(vec![loss::weighted_sum(&traced, batch, (self.head, self.head_chunk), pass)?])
                },
                &self.parameters,
                self.parameters.len(),
            )?;
            let loss_sum = values.swap_remove(0);
            let (weight, targets) = (batch.total_weight, batch.target_count());
            let new = Gradients { sums, loss_sum, weight, targets };
            total = Some(match total {
                None => new,
                Some(total) => total.plus(new)?,
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
    fn plus(self, other: Self) -> Result<Self> {
        let sums =
            self.sums.into_iter().zip(other.sums).map(|(a, b)| Ok(a.add(b)?)).collect::<Result<_>>()?;
        Ok(Self {
            sums,
            loss_sum: self.loss_sum.add(&other.loss_sum)?,
            weight: self.weight + other.weight,
            targets: self.targets + other.targets,
        })
    }
}

/// Leaves nothing but the type of the arrays that train in the model: their values are the trainer's.
fn forget(model: &mut Model, names: &[String]) -> Result<()> {
    let mut outcome = Ok(());
    model.visit_parameters(&mut |name, array| {
        if names.binary_search_by(|known| known.as_str().cmp(name)).is_ok() {
            match mlx_rs::ops::zeros_dtype(&[0], array.dtype()) {
                Ok(empty) => *array = empty,
                Err(error) => outcome = Err(error.into()),
            }
        }
    });
    outcome
}

/// The part of the model that a parameter belongs to: `layers.3`, `lm_head`, `embed_tokens`, `norm`.
fn group_of(name: &str) -> String {
    let of_block = split_block(name).map(|(block, _)| format!("layers.{block}"));
    let known = || ["lm_head", "embed_tokens"].into_iter().find(|part| name.contains(part));
    of_block.unwrap_or_else(|| known().unwrap_or("norm").to_owned())
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
fn clip(gradients: Vec<Array>, norm: &Array, limit: f32) -> Result<Vec<Array>> {
    let limit = Array::from_f32(limit);
    let factor = mlx_rs::ops::minimum(limit.divide(norm.add(Array::from_f32(1e-6))?)?, Array::from_f32(1.0))?;
    gradients.into_iter().map(|gradient| Ok(gradient.multiply(&factor)?)).collect()
}
