//! A model over several ranks: each runs one section of it, and passes states and their gradients to its neighbours.
//!
//! MLX has no gradient of sending and receiving, so each rank differentiates its own section: a gradient that is received enters
//! as the factor of a product with the states that left. Operations and their order are those of one process, so the bytes
//! are too. Every rank holds all adapters and the optimizer's moments, which are small, and takes the whole optimizer step.

use mlx_rs::{Array, Dtype};
use models::{Model, Pass, Section, Start};

use crate::adapter::Trainable;
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::loss::{self, HeadGradient};
use crate::ranks::{Contribution, Passage, Ranks};

/// Checks that ranks can share the blocks of a model.
///
/// # Errors
///
/// Fails when there are more ranks than blocks, and when anything but LoRA adapters is trained.
pub fn check_sharing(section: Section, layers: usize, trainable: &Trainable) -> Result<()> {
    if section.count > layers {
        let reason = format!("{} ranks cannot share the {layers} blocks of the model", section.count);
        return Err(Error::settings(
            reason,
            format!("start at most {layers} ranks, or leave out `--shard-layers`"),
        ));
    }
    let is_lora = |name: &String| name.ends_with(".lora_a") || name.ends_with(".lora_b");
    match trainable.names.iter().find(|name| !is_lora(name)) {
        None => Ok(()),
        Some(name) => Err(Error::settings(
            format!(
                "ranks that share the blocks of a model can train only LoRA adapters, but `{name}` is to be trained"
            ),
            "set fine_tune_type = \"lora\", or leave out `--shard-layers`",
        )),
    }
}

/// One rank's section of a model.
pub(crate) struct Shard<'a> {
    pub(crate) ranks: &'a Ranks,
    /// Number of blocks of the model.
    pub(crate) layers: usize,
    /// Index of the first block with a trained parameter; no gradient is needed before.
    pub(crate) first_trained: usize,
}

/// The parameters to differentiate, and how to compute the loss from them.
pub(crate) struct Differentiated<'a> {
    /// Parameters of this rank's section.
    pub(crate) parameters: &'a [Array],
    /// Returns the model with these parameters.
    pub(crate) with: &'a dyn Fn(&[Array]) -> mlx_ext::Result<Model>,
    pub(crate) head: HeadGradient,
    pub(crate) head_chunk_rows: Option<usize>,
    pub(crate) recompute: bool,
}

/// The input of a section for one batch.
struct Entering {
    states: Array,
    /// An array with the shape and type of the states between blocks. Evaluated only on rank 0.
    like: Array,
    /// Describes states and batch, to be compared with the other ranks.
    what: String,
}

impl Shard<'_> {
    /// Computes this rank's part of a batch: the gradients of its parameters, and the loss on the last rank (elsewhere 0).
    ///
    /// # Errors
    ///
    /// Fails when a rank is lost, or has another batch.
    pub(crate) fn gradients(
        &self,
        model: &Model,
        batch: &Batch,
        of: &Differentiated<'_>,
    ) -> Result<Contribution> {
        let (rank, own) = (self.ranks.rank(), self.ranks.section().blocks(self.layers));
        let is_last = self.ranks.section().is_last();
        let Entering { states, like, what } = self.enter(model, batch)?;
        // Blocks before the first trained one are not traced.
        let first = self.first_trained.clamp(own.start, own.end);
        let states = through(model, batch, own.start, &states, first)?;
        let mut result = Contribution { loss_sum: Array::from_f32(0.0), gradients: Vec::new() };
        let mut leaving = states.clone();
        let mut received = None;
        let mut of_states = None;
        if is_last || self.first_trained < own.end {
            received = (!is_last).then(|| self.ranks.receiving(&like, rank + 1)).transpose()?;
            let passes_back = self.first_trained < own.start;
            let traced = Traced { first, end: own.end, states, passes_back, received: received.as_ref() };
            let (mut values, mut gradients) = traced.differentiate(batch, of)?;
            of_states = if passes_back { gradients.pop() } else { None };
            result.gradients = gradients;
            let value = values.pop().expect("a function has a value");
            if is_last {
                result.loss_sum = value;
            } else {
                leaving = value;
            }
        }
        // What is kept for the backward pass stays in memory with the gradients, which are evaluated after it.
        self.leave(&leaving, &like, &what)?;
        for from in (1..self.ranks.size()).rev().filter(|&from| self.first_trained < self.start_of(from)) {
            let array = if from == rank {
                mlx_rs::transforms::eval(
                    result.gradients.iter().chain(&of_states).chain([&result.loss_sum]),
                )?;
                of_states.as_ref()
            } else {
                received.as_ref().filter(|_| from == rank + 1)
            };
            self.ranks.pass(Passage { from, to: from - 1, what: &what }, array)?;
        }
        mlx_rs::transforms::eval(result.gradients.iter().chain([&result.loss_sum]))?;
        Ok(result)
    }

    /// Returns the losses of the targets of a batch in nats, on the last rank only.
    ///
    /// # Errors
    ///
    /// Fails when a rank is lost, or has another batch.
    pub(crate) fn losses(&self, model: &Model, batch: &Batch) -> Result<Option<Array>> {
        let own = self.ranks.section().blocks(self.layers);
        let Entering { states, like, what } = self.enter(model, batch)?;
        if self.ranks.section().is_last() {
            let from = Some(Start { block: own.start, states: &states });
            let hidden = loss::states_of_targets(model, batch, Pass { recompute: false, from })?;
            let losses = loss::losses_of_targets(model, &hidden, batch)?;
            losses.eval()?;
            return Ok(Some(losses));
        }
        let leaving = through(model, batch, own.start, &states, own.end)?;
        self.leave(&leaving, &like, &what)?;
        Ok(None)
    }

    /// Waits for the previous ranks and returns the input of this rank's section.
    fn enter(&self, model: &Model, batch: &Batch) -> Result<Entering> {
        let rank = self.ranks.rank();
        let like = loss::entering(model, batch, 0)?;
        let (weight, targets) = (batch.total_weight, batch.target_count());
        let what = format!("{:?} {:?} {weight} {targets}", like.shape(), like.dtype());
        let states = if rank == 0 { like.clone() } else { self.ranks.receiving(&like, rank - 1)? };
        for to in 1..=rank {
            let array = (to == rank).then_some(&states);
            self.ranks.pass(Passage { from: to - 1, to, what: &what }, array)?;
        }
        Ok(Entering { states, like, what })
    }

    /// Sends the output of this rank's section to the next rank, then takes part in the transfers between the ranks after it.
    fn leave(&self, states: &Array, like: &Array, what: &str) -> Result<()> {
        let rank = self.ranks.rank();
        if states.dtype() != like.dtype() && !self.ranks.section().is_last() {
            let (found, expected) = (states.dtype(), like.dtype());
            let reason = format!(
                "the states after rank {rank} are {found:?}, those before the first block {expected:?}"
            );
            return Err(Error::Ranks { reason });
        }
        for from in rank..self.ranks.size() - 1 {
            let array = (from == rank).then_some(states);
            self.ranks.pass(Passage { from, to: from + 1, what }, array)?;
        }
        Ok(())
    }

    /// Returns the index of the first block of a rank.
    fn start_of(&self, rank: usize) -> usize {
        Section { index: rank, ..self.ranks.section() }.blocks(self.layers).start
    }
}

/// The blocks of a section that are differentiated.
struct Traced<'a> {
    first: usize,
    end: usize,
    /// States that enter block `first`.
    states: Array,
    /// Whether the rank before needs the gradient of the states.
    passes_back: bool,
    /// Gradient of the states that leave, to be received later; `None` on the last rank, which has the loss.
    received: Option<&'a Array>,
}

impl Traced<'_> {
    /// Returns the loss or the states that leave (the last value), and the gradients of the parameters, then of the states.
    fn differentiate(&self, batch: &Batch, of: &Differentiated<'_>) -> Result<(Vec<Array>, Vec<Array>)> {
        let count = of.parameters.len();
        let mut inputs = of.parameters.to_vec();
        inputs.push(self.states.clone());
        let function = |inputs: &[Array]| {
            let model = (of.with)(&inputs[..count])?;
            let from = Some(Start { block: self.first, states: &inputs[count] });
            let pass = Pass { recompute: of.recompute, from };
            let Some(received) = self.received else {
                return Ok(vec![loss::batch_loss(&model, batch, of.head, of.head_chunk_rows, pass)?]);
            };
            let leaving = loss::through(&model, batch, pass, self.end)?;
            // The gradient of this sum for the states is the one that is received, bit by bit. The sum itself is never evaluated.
            Ok(vec![leaving.multiply(received)?.sum(None)?, leaving])
        };
        Ok(mlx_ext::value_and_grad(function, &inputs, count + usize::from(self.passes_back))?)
    }
}

/// A trained parameter, in the order of the names.
pub(crate) struct Place<'a> {
    pub(crate) shape: &'a [i32],
    /// Its gradient, if it is in this rank's section.
    pub(crate) own: Option<Array>,
}

/// Collects the loss and the gradients of all sections on every rank, without rounding. A collective operation.
///
/// # Errors
///
/// Fails when a rank is lost.
pub(crate) fn join<'a>(
    ranks: &Ranks,
    places: impl Iterator<Item = Place<'a>>,
    loss_sum: &Array,
) -> Result<Contribution> {
    let mut numbers = vec![loss_sum.item_exact::<f32>()];
    let mut shapes = Vec::new();
    for Place { shape, own } in places {
        let start = numbers.len();
        numbers.resize(start + shape.iter().product::<i32>() as usize, 0.0);
        if let Some(gradient) = own {
            let flat = gradient.as_dtype(Dtype::Float32)?.reshape(&[-1])?.contiguous()?;
            flat.eval()?;
            numbers[start..].copy_from_slice(flat.as_slice::<f32>());
        }
        shapes.push(shape);
    }
    let numbers = ranks.joined(&numbers)?;
    let mut rest = &numbers[1..];
    let gradients = shapes.into_iter().map(|shape| {
        let (gradient, others) = rest.split_at(shape.iter().product::<i32>() as usize);
        rest = others;
        Array::from_slice(gradient, shape)
    });
    Ok(Contribution { gradients: gradients.collect(), loss_sum: Array::from_f32(numbers[0]) })
}

/// Returns the states that enter block `end`, from those that enter block `first`.
fn through(model: &Model, batch: &Batch, first: usize, states: &Array, end: usize) -> Result<Array> {
    let from = Some(Start { block: first, states });
    Ok(loss::through(model, batch, Pass { recompute: false, from }, end)?)
}
