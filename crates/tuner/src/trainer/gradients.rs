//! Loss and gradients of a step: of its micro-batches in turn, shared by ranks, or with a section of the model on each rank.

use mlx_rs::Array;
use models::{Dropout, LayerMut, Model, Pass, Start};

use super::{Trainer, with_parameters};
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::loss;
use crate::ranks::{Contribution, Expected, Ranks};
use crate::seed;
use crate::sharding::{self, Differentiated, Place, Shard};

/// Loss and gradients of one or more micro-batches.
pub(super) struct Gradients {
    /// Gradients of the weighted sum of losses.
    pub(super) sums: Vec<Array>,
    pub(super) loss_sum: Array,
    pub(super) weight: f64,
    pub(super) targets: usize,
}

impl Trainer {
    /// Returns the gradients of the mean loss, in the order of the names, without taking a step.
    pub fn mean_gradients(&self, batches: &[Batch]) -> Result<Vec<Array>> {
        let gradients = self.gradients(batches, 1)?;
        let gradients = gradients.ok_or_else(|| Error::NoTargets { split: "train".to_owned() })?;
        let mean = Array::from_f32((1.0 / gradients.weight) as f32);
        gradients.sums.iter().map(|sum| Ok(sum.multiply(&mean)?)).collect()
    }

    /// Returns loss and gradients of a step; `None` without targets.
    pub(super) fn gradients(&self, batches: &[Batch], step: usize) -> Result<Option<Gradients>> {
        // A batch whose rows were all cut before their first target has no mean loss.
        let batches: Vec<(usize, &Batch)> =
            batches.iter().enumerate().filter(|(_, batch)| batch.total_weight > 0.0).collect();
        if batches.is_empty() {
            return Ok(None);
        }
        let model = self.model_of_step()?;
        if let Some(ranks) = &self.ranks {
            if let Some(shard) = self.shard_of(ranks) {
                return Ok(Some(self.gradients_of_shards(&shard, &model, &batches, step)?));
            }
            return Ok(Some(self.gradients_of_ranks(ranks, &model, &batches, step)?));
        }
        let mut total: Option<Gradients> = None;
        for &(index, batch) in &batches {
            let new = self.gradients_of_batch(&model, batch, step, index)?;
            let sum = Gradients::added(total, new)?;
            if batches.len() > 1 {
                // Only one micro-batch's activations are in memory at a time.
                sum.eval()?;
            }
            total = Some(sum);
        }
        Ok(total)
    }

    /// Computes this rank's share of the batches, and returns loss and gradients of all.
    fn gradients_of_ranks(
        &self,
        ranks: &Ranks,
        model: &Model,
        batches: &[(usize, &Batch)],
        step: usize,
    ) -> Result<Gradients> {
        let mut own = Vec::new();
        for (_, &(index, batch)) in batches.iter().enumerate().filter(|(place, _)| ranks.has(*place)) {
            let Gradients { sums, loss_sum, .. } = self.gradients_of_batch(model, batch, step, index)?;
            mlx_rs::transforms::eval(sums.iter().chain([&loss_sum]))?;
            own.push(Contribution { loss_sum, gradients: sums });
        }
        let expected: Vec<Expected> = batches
            .iter()
            .map(|(_, batch)| Expected { weight: batch.total_weight, targets: batch.target_count() })
            .collect();
        let Contribution { loss_sum, gradients } = ranks.sum_in_order(&own, &expected, &self.parameters)?;
        Ok(Gradients {
            sums: gradients,
            loss_sum,
            weight: expected.iter().map(|expected| expected.weight).sum(),
            targets: expected.iter().map(|expected| expected.targets).sum(),
        })
    }

    /// Computes this rank's section for all batches, and returns loss and gradients of the whole model.
    fn gradients_of_shards(
        &self,
        shard: &Shard<'_>,
        model_of_step: &Model,
        batches: &[(usize, &Batch)],
        step: usize,
    ) -> Result<Gradients> {
        let section = shard.ranks.section();
        let all = self.trainable.names.iter().zip(&self.parameters);
        let (names, parameters): (Vec<String>, Vec<Array>) = all
            .filter(|(name, _)| self.model.has_in(section, name))
            .map(|(name, array)| (name.clone(), array.clone()))
            .unzip();
        let mut total: Option<Gradients> = None;
        for &(index, batch) in batches {
            let model = self.with_dropout_of(model_of_step, batch, step, index)?;
            let of = Differentiated {
                parameters: &parameters,
                with: &|values| with_parameters(&model, &names, values),
                head: self.head,
                head_chunk_rows: self.head_chunk_rows,
                recompute: self.recompute,
            };
            let Contribution { loss_sum, gradients: sums } = shard.gradients(&model, batch, &of)?;
            let new = Gradients { sums, loss_sum, weight: batch.total_weight, targets: batch.target_count() };
            let sum = Gradients::added(total, new)?;
            sum.eval()?;
            total = Some(sum);
        }
        let Gradients { sums, loss_sum, weight, targets } = total.expect("there is a batch");
        shard.ranks.exchange_signals()?;
        let mut own = sums.into_iter();
        let places = self.trainable.names.iter().zip(&self.parameters).map(|(name, parameter)| Place {
            shape: parameter.shape(),
            own: if self.model.has_in(section, name) { own.next() } else { None },
        });
        let Contribution { loss_sum, gradients: sums } = sharding::join(shard.ranks, places, &loss_sum)?;
        Ok(Gradients { sums, loss_sum, weight, targets })
    }

    /// Returns loss and gradients of one batch; `index` is its place in the step.
    fn gradients_of_batch(
        &self,
        model_of_step: &Model,
        batch: &Batch,
        step: usize,
        index: usize,
    ) -> Result<Gradients> {
        let model = self.with_dropout_of(model_of_step, batch, step, index)?;
        let entering = match self.first_block {
            Some(block) if block > 0 => Some((block, loss::entering(&model, batch, block)?)),
            _ => None,
        };
        let from = entering.as_ref().map(|(block, states)| Start { block: *block, states });
        let pass = Pass { recompute: self.recompute, from };
        let (mut values, sums) = mlx_ext::value_and_grad(
            |parameters| {
                let traced = with_parameters(&model, &self.trainable.names, parameters)?;
                Ok(vec![loss::batch_loss(&traced, batch, self.head, self.head_chunk_rows, pass)?])
            },
            &self.parameters,
            self.parameters.len(),
        )?;
        let loss_sum = values.swap_remove(0);
        Ok(Gradients { sums, loss_sum, weight: batch.total_weight, targets: batch.target_count() })
    }

    /// Returns `model` with the dropout masks of a batch, which is micro-batch `index` of its step unless it says otherwise. The mask
    /// of a slice is that part of the micro-batch's mask.
    fn with_dropout_of(&self, model: &Model, batch: &Batch, step: usize, index: usize) -> Result<Model> {
        let mut model = model.clone();
        if self.dropout == 0.0 {
            return Ok(model);
        }
        let micro_batch = batch.micro_batch.unwrap_or(index);
        let mut layer = 0;
        for (path, part) in model.layers_mut() {
            let LayerMut::Linear(linear) = part else { continue };
            let Some(adapter) = &mut linear.adapter else { continue };
            let key = seed::key(self.seed, "dropout", &[step as u64, micro_batch as u64, layer])?;
            // Only targets reach the head.
            let is_head = path.ends_with("lm_head");
            let part = batch.slice.map(|slice| if is_head { slice.targets } else { slice.lines });
            adapter.dropout = Some(Dropout { rate: self.dropout, key, part });
            layer += 1;
        }
        Ok(model)
    }
}

impl Gradients {
    /// Returns the sum of `total`, if there is one, and `new`.
    fn added(total: Option<Self>, new: Self) -> Result<Self> {
        let Some(total) = total else { return Ok(new) };
        let sums = total.sums.into_iter().zip(new.sums).map(|(a, b)| Ok(a.add(b)?)).collect::<Result<_>>()?;
        Ok(Self {
            sums,
            loss_sum: total.loss_sum.add(&new.loss_sum)?,
            weight: total.weight + new.weight,
            targets: total.targets + new.targets,
        })
    }

    /// Computes loss and gradients, so that the activations of a micro-batch can be freed.
    fn eval(&self) -> Result<()> {
        Ok(mlx_rs::transforms::eval(self.sums.iter().chain([&self.loss_sum]))?)
    }
}
