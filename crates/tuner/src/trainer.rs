//! One step of training: gradients (in `gradients.rs`), clipping, the optimizer's update.

mod gradients;

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use mlx_ext::host::uses_host;
use mlx_rs::{Array, Dtype};
use models::Model;

use crate::adapter::{Trainable, split_block};
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::loss::HeadGradient;
use crate::optimizer::{Optimizer, OptimizerSettings, UPDATE_BYTES};
use crate::ranks::Ranks;
use crate::sharding::{Shard, check_sharing};

use gradients::Gradients;

/// A model with its trainable parameters and the optimizer.
pub struct Trainer {
    model: Model,
    trainable: Trainable,
    /// `f32` masters of the trainable parameters, in the order of their names.
    parameters: Vec<Array>,
    optimizer: Optimizer,
    head: HeadGradient,
    /// Rows per chunk of the head; `None` chooses by the vocabulary.
    head_chunk_rows: Option<usize>,
    /// Index of the first trainable block; earlier blocks are not traced. `None` if the embedding is trained.
    first_block: Option<usize>,
    dropout: f32,
    recompute: bool,
    with_group_norms: bool,
    is_read_late: bool,
    /// Sums of squares of the rows of weights with a DoRA adapter.
    dora_squares: BTreeMap<String, Array>,
    seed: u64,
    /// The processes that share the batches of a step.
    ranks: Option<Rc<Ranks>>,
    /// How the ranks divide the work.
    division: Division,
}

/// How ranks divide the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Division {
    /// Each rank computes some of the batches of a step.
    Batches,
    /// Each rank runs some of the blocks of the model.
    Blocks,
}

/// Arguments of one step besides its batches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step<'a> {
    /// Number of the step, counted from 1; seeds its dropout.
    pub number: usize,
    /// Learning rate.
    pub learning_rate: f64,
    /// Global norm that gradients are clipped to; `None` for no clipping.
    pub max_gradient_norm: Option<f32>,
    /// Indices of the rows, for the error when the step diverges.
    pub rows: &'a [u32],
}

impl Step<'_> {
    /// Makes the arguments of a step without clipping.
    pub fn new(number: usize, learning_rate: f64) -> Self {
        Self { number, learning_rate, max_gradient_norm: None, rows: &[] }
    }
}

/// Outcome of one optimizer step.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StepReport {
    /// Sum of the weighted losses, in nats.
    pub loss_sum: f64,
    /// Sum of the weights, the divisor of the mean.
    pub weight: f64,
    /// Number of targets.
    pub targets: usize,
    /// Norm of the gradient of the mean loss, before clipping.
    pub gradient_norm: f32,
    /// The same norm for each block, the head, the embedding and the final norm, if requested.
    pub group_norms: BTreeMap<String, f32>,
}

impl StepReport {
    /// Returns the mean loss in nats per target; 0 without targets.
    pub fn mean_loss(&self) -> f64 {
        if self.weight > 0.0 { self.loss_sum / self.weight } else { 0.0 }
    }
}

/// A step whose numbers have not been read yet.
pub(crate) struct StartedStep {
    loss_sum: Array,
    norm: Array,
    group_norms: BTreeMap<String, Array>,
    weight: f64,
    targets: usize,
    number: usize,
    rows: Vec<u32>,
    /// Parameters and optimizer before the step, if it replaced them before its numbers were known.
    before: Option<(Vec<Array>, Optimizer)>,
}

impl StartedStep {
    /// Returns the arrays that are read at the end.
    fn numbers(&self) -> impl Iterator<Item = &Array> {
        [&self.loss_sum, &self.norm].into_iter().chain(self.group_norms.values())
    }

    /// Fails when the loss or the gradient is not finite.
    fn check(&self) -> Result<()> {
        for (name, value) in [("loss", &self.loss_sum), ("gradient norm", &self.norm)] {
            let value = value.item_exact::<f32>();
            if !value.is_finite() {
                return Err(Error::Diverged {
                    step: self.number,
                    reason: format!("the {name} is {value}"),
                    rows: self.rows.clone(),
                    kept: "the parameters are unchanged".to_owned(),
                });
            }
        }
        Ok(())
    }

    fn report(&self) -> StepReport {
        StepReport {
            loss_sum: f64::from(self.loss_sum.item_exact::<f32>()),
            weight: self.weight,
            targets: self.targets,
            gradient_norm: self.norm.item_exact(),
            group_norms: self
                .group_norms
                .iter()
                .map(|(name, norm)| (name.clone(), norm.item_exact()))
                .collect(),
        }
    }
}

impl Trainer {
    /// Makes a trainer that starts with the current values of the trainable parameters of `model`.
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
        let dora_squares = model.dora_squares()?;
        mlx_rs::transforms::eval(optimizer.moments().iter().flatten().chain(dora_squares.values()))?;
        let is_trained = |layer: &str| trainable.names.iter().any(|name| name.contains(layer));
        let trains_head = is_trained("lm_head") || (model.has_tied_head() && is_trained("embed_tokens"));
        let head = if trains_head { HeadGradient::OfAll } else { HeadGradient::OfInputs };
        let blocks = trainable.names.iter().filter_map(|name| Some(split_block(name)?.0));
        let first_block = (!is_trained("embed_tokens")).then(|| blocks.min().unwrap_or(model.layer_count()));
        let (dropout, recompute, with_group_norms) = (0.0, false, false);
        Ok(Self {
            model,
            trainable,
            parameters,
            optimizer,
            head,
            head_chunk_rows: None,
            first_block,
            dropout,
            recompute,
            with_group_norms,
            is_read_late: mlx_ext::runs_on_gpu(),
            dora_squares,
            seed,
            ranks: None,
            division: Division::Batches,
        })
    }

    /// Sets the share of every adapter's inputs that is dropped in training.
    pub fn set_dropout(&mut self, rate: f32) {
        self.dropout = rate;
    }

    /// Sets whether activations inside blocks are recomputed for the gradient instead of kept: less memory, more time.
    pub fn set_gradient_checkpointing(&mut self, on: bool) {
        self.recompute = on;
    }

    /// Sets whether steps report the gradient norm of every group of parameters.
    pub fn set_group_norms(&mut self, on: bool) {
        self.with_group_norms = on;
    }

    /// Shares the batches of every step with other processes, all of which must take the same steps.
    pub fn set_ranks(&mut self, ranks: Rc<Ranks>) {
        // The ranks wait for each other in every step, so nothing is gained by starting one before the last is finished.
        self.is_read_late = false;
        self.ranks = Some(ranks);
    }

    /// Divides the blocks of the model among ranks; this process then needs only its [`Ranks::section`] of the weights.
    ///
    /// # Errors
    ///
    /// Fails when the ranks cannot pass arrays to each other, and as [`check_sharing`].
    pub fn shard(&mut self, ranks: Rc<Ranks>) -> Result<()> {
        if !ranks.can_pass() {
            return Err(Error::settings(
                "MLX cannot pass arrays between ranks over NCCL",
                "start the run without `--shard-layers`, or over `ring` or `mpi`",
            ));
        }
        check_sharing(ranks.section(), self.layer_count(), &self.trainable)?;
        self.set_ranks(ranks);
        self.division = Division::Blocks;
        Ok(())
    }

    /// Returns this rank's section of the model, if ranks share its blocks.
    pub(crate) fn shard_of<'a>(&self, ranks: &'a Ranks) -> Option<Shard<'a>> {
        let (layers, first_trained) = (self.layer_count(), self.first_block.unwrap_or(0));
        (self.division == Division::Blocks).then_some(Shard { ranks, layers, first_trained })
    }

    /// Returns the processes that share the batches of a step.
    pub(crate) fn ranks(&self) -> Option<&Rc<Ranks>> {
        self.ranks.as_ref()
    }

    /// Computes all logits at one time and lets MLX derive the gradient.
    #[cfg(feature = "test-hooks")]
    pub fn use_reference_head(&mut self) {
        self.head = HeadGradient::Derived;
    }

    /// Sets the number of rows per chunk of the head.
    #[cfg(feature = "test-hooks")]
    pub fn set_head_chunk_rows(&mut self, rows: usize) {
        self.head_chunk_rows = Some(rows);
    }

    /// Traces frozen blocks too.
    #[cfg(feature = "test-hooks")]
    pub fn trace_all_blocks(&mut self) {
        self.first_block = None;
    }

    /// Returns the number of blocks of the model.
    pub fn layer_count(&self) -> usize {
        self.model.layer_count()
    }

    /// Returns the trainable parameters.
    pub fn trainable(&self) -> &Trainable {
        &self.trainable
    }

    /// Returns the values of the trainable parameters, `f32`, in the order of their names.
    pub fn parameters(&self) -> &[Array] {
        &self.parameters
    }

    /// Returns the optimizer with its state.
    pub fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    /// Replaces parameters and optimizer state by saved ones.
    ///
    /// # Errors
    ///
    /// Fails when their shapes differ.
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

    /// Returns the model with the current parameters.
    pub fn model(&self) -> Result<Model> {
        let mut model = with_parameters(&self.model, &self.trainable.names, &self.parameters)?;
        model.set_dora_norms(&self.dora_squares)?;
        Ok(model)
    }

    /// Returns the model of a step: without the trainable parameters, but with DoRA's norms, which count as constants.
    fn model_of_step(&self) -> Result<Model> {
        if self.dora_squares.is_empty() {
            return Ok(self.model.clone());
        }
        let mut model = self.model()?;
        forget(&mut model, &self.trainable.names)?;
        Ok(model)
    }

    /// Takes one optimizer step over micro-batches, as if they were one batch. Without targets nothing changes.
    ///
    /// # Errors
    ///
    /// Fails when the loss or the gradient is not finite; the parameters are then unchanged.
    pub fn step(&mut self, batches: &[Batch], step: Step<'_>) -> Result<StepReport> {
        match self.start(batches, step)? {
            Some(started) => self.finish(started),
            None => Ok(StepReport::default()),
        }
    }

    /// Starts a step; `None` without targets. On a GPU it may still be running when this returns, and another step may be
    /// started before this one is finished.
    ///
    /// # Errors
    ///
    /// As [`Trainer::step`], if the step had to be finished.
    pub(crate) fn start(&mut self, batches: &[Batch], step: Step<'_>) -> Result<Option<StartedStep>> {
        let Some(gradients) = self.gradients(batches, step.number)? else { return Ok(None) };
        // Each list of gradients is consumed by the next one, so that two are never in memory.
        let Gradients { sums, loss_sum, weight, targets } = gradients;
        let mean = Array::from_f32((1.0 / weight) as f32);
        let means = sums.into_iter().map(|sum| Ok(sum.multiply(&mean)?)).collect::<Result<Vec<Array>>>()?;
        let norm = global_norm(&means)?;
        let group_norms = if self.with_group_norms { self.group_norms(&means)? } else { BTreeMap::new() };
        let (number, rows) = (step.number, step.rows.to_vec());
        let mut started =
            StartedStep { loss_sum, norm, group_norms, weight, targets, number, rows, before: None };
        if self.parameters.iter().map(Array::nbytes).sum::<usize>() > UPDATE_BYTES {
            // Two copies of the parameters would be too much, and they are only replaced if the gradient is finite.
            mlx_rs::transforms::eval(means.iter().chain(started.numbers()))?;
            started.check()?;
            let clipped = clipped(means, &started.norm, step.max_gradient_norm)?;
            self.optimizer.update(step.learning_rate, &mut self.parameters, clipped)?;
            return Ok(Some(started));
        }
        started.before = Some((self.parameters.clone(), self.optimizer.clone()));
        let clipped = clipped(means, &started.norm, step.max_gradient_norm)?;
        self.optimizer.update_lazily(step.learning_rate, &mut self.parameters, &clipped)?;
        drop(clipped);
        let state = self.parameters.iter().chain(self.optimizer.moments().iter().flatten());
        let all: Vec<&Array> = state.chain(started.numbers()).collect();
        if self.is_read_late {
            mlx_rs::transforms::async_eval(all)?;
        } else {
            mlx_rs::transforms::eval(all)?;
        }
        Ok(Some(started))
    }

    /// Waits for a step and reads its numbers.
    ///
    /// # Errors
    ///
    /// Fails when the loss or the gradient is not finite; parameters and optimizer are then as before that step, even if
    /// another one was started since.
    pub(crate) fn finish(&mut self, started: StartedStep) -> Result<StepReport> {
        if let Err(error) = started.check() {
            self.undo(started);
            return Err(error);
        }
        Ok(started.report())
    }

    /// Takes back the step that was started last.
    pub(crate) fn undo(&mut self, started: StartedStep) {
        if let Some((parameters, optimizer)) = started.before {
            (self.parameters, self.optimizer) = (parameters, optimizer);
        }
    }

    /// Returns whether the next step may be started before this one is finished, which hides the time that starting takes. The
    /// step can then still be taken back.
    pub(crate) fn is_read_late(&self, started: Option<&StartedStep>) -> bool {
        self.is_read_late && started.is_none_or(|started| started.before.is_some())
    }

    /// Sets whether losses are read one step late, which is the default on a GPU only.
    #[cfg(feature = "test-hooks")]
    pub fn read_late(&mut self, late: bool) {
        self.is_read_late = late;
    }

    /// Returns the gradient norm of each group of parameters.
    fn group_norms(&self, gradients: &[Array]) -> Result<BTreeMap<String, Array>> {
        let mut groups: BTreeMap<String, Vec<Array>> = BTreeMap::new();
        for (name, gradient) in self.trainable.names.iter().zip(gradients) {
            groups.entry(group_of(name)).or_default().push(gradient.clone());
        }
        groups.into_iter().map(|(name, gradients)| Ok((name, global_norm(&gradients)?))).collect()
    }

    /// Returns the name of the first parameter or moment that contains NaN or infinity.
    pub(crate) fn first_not_finite(&self) -> Result<Option<String>> {
        let lists = std::iter::once(("", &self.parameters[..]))
            .chain(self.optimizer.moments().iter().map(|moments| ("a moment of ", &moments[..])));
        for (kind, arrays) in lists {
            for (name, array) in self.trainable.names.iter().zip(arrays).filter(|(_, array)| array.size() > 0)
            {
                // NaN and infinity survive a sum; a sum that overflows is close to them.
                let sum = array.sum(None)?.item_exact::<f32>();
                if !sum.is_finite() {
                    return Ok(Some(format!("{kind}`{name}`")));
                }
            }
        }
        Ok(None)
    }
}

/// Replaces the trainable arrays in the model by empty ones of the same type; the trainer owns their values.
fn forget(model: &mut Model, names: &[String]) -> Result<()> {
    for (name, array) in model.parameters_mut() {
        if names.binary_search(&name).is_ok() {
            *array = mlx_rs::ops::zeros_dtype(&[0], array.dtype())?;
        }
    }
    Ok(())
}

/// Returns the group of a parameter: `layers.3`, `lm_head`, `embed_tokens` or `norm`.
fn group_of(name: &str) -> String {
    if let Some((block, _)) = split_block(name) {
        return format!("layers.{block}");
    }
    let outside = ["lm_head", "embed_tokens"].into_iter().find(|layer| name.contains(layer));
    outside.unwrap_or("norm").to_owned()
}

/// Returns a copy of `model` with `values` under `names`, each in the type of the array that it replaces.
fn with_parameters(model: &Model, names: &[String], values: &[Array]) -> mlx_ext::Result<Model> {
    let by_name: HashMap<&str, &Array> = names.iter().map(String::as_str).zip(values).collect();
    let mut copy = model.clone();
    for (name, array) in copy.parameters_mut() {
        if let Some(value) = by_name.get(name.as_str()) {
            *array = value.as_dtype(array.dtype())?;
        }
    }
    Ok(copy)
}

/// Returns √(Σ of all squares), `f32`, summed in the order of the names.
fn global_norm(gradients: &[Array]) -> Result<Array> {
    let mut sum = Array::from_f32(0.0);
    for gradient in gradients {
        sum = sum.add(sum_of_squares(&gradient.as_dtype(Dtype::Float32)?)?)?;
    }
    Ok(sum.sqrt()?)
}

/// Returns the sum of the squares of all elements, a scalar.
fn sum_of_squares(x: &Array) -> mlx_ext::Result<Array> {
    if uses_host(x) { mlx_ext::kernels::sum_of_squares(x) } else { Ok(x.square()?.sum(None)?) }
}

/// Clips gradients to a global norm of `limit`, if there is one.
fn clipped(gradients: Vec<Array>, norm: &Array, limit: Option<f32>) -> Result<Vec<Array>> {
    match limit {
        Some(limit) => clip(gradients, norm, limit),
        None => Ok(gradients),
    }
}

/// Scales gradients down to a global norm of `limit`; leaves smaller ones unchanged.
fn clip(gradients: Vec<Array>, norm: &Array, limit: f32) -> Result<Vec<Array>> {
    let limit = Array::from_f32(limit);
    let factor = mlx_rs::ops::minimum(limit.divide(norm.add(Array::from_f32(1e-6))?)?, Array::from_f32(1.0))?;
    gradients.into_iter().map(|gradient| Ok(gradient.multiply(&factor)?)).collect()
}
