//! Settings of training: everything here changes the bytes of the result.

use models::ComputeDtype;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tuner::{
    AdapterSettings, BatchOrder, Distrust, DistrustMode, EarlyStopping, FineTuneType, OptimizerName,
    OptimizerSettings, TrainingSettings, ScheduleName, ScheduleSettings,
};

/// What an epoch's order goes by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CurriculumName {
    /// Chance.
    #[default]
    Off,
    /// Short rows come first.
    Length,
    /// Rows with a low loss come first.
    Loss,
}

impl CurriculumName {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
    fn is_off(&self) -> bool {
        *self == Self::Off
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// Settings of the stage `train`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "a settings file is full of switches")]
pub struct Config {
    /// `lora`, `dora` or `full`.
    pub fine_tune_type: FineTuneType,
    /// Train the last so many blocks; 0 for all.
    pub num_layers: usize,
    /// Linear maps to adapt, by their name inside a block (`self_attn.q_proj`); empty for all.
    pub keys: Vec<String>,
    /// Size of an adapter.
    pub rank: i32,
    /// Strength of an adapter; scale = alpha / rank.
    pub alpha: f64,
    /// scale = alpha / √rank instead.
    pub rank_stabilized: bool,
    /// Share of an adapter's inputs that is dropped in training.
    pub dropout: f64,
    /// Also train the head.
    pub lm_head: bool,
    /// Also train the token embedding (only with `full`).
    pub embeddings: bool,
    /// Also train the norms.
    pub norms: bool,

    /// `adam`, `adamw`, `sgd`, `lion`, `adafactor` or `muon`.
    pub optimizer: OptimizerName,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// SGD's momentum.
    pub momentum: f64,
    /// Muon's momentum.
    pub muon_momentum: f64,
    /// Correct Adam's moments for starting at zero (mlx-lm does not).
    pub bias_correction: bool,

    /// The highest learning rate.
    pub learning_rate: f64,
    /// `constant`, `linear`, `cosine`, `cosine-restarts` or `cyclic`.
    pub schedule: ScheduleName,
    /// The lowest learning rate after the warmup.
    pub minimum_learning_rate: f64,
    /// Steps over which the learning rate rises to its peak.
    pub warmup_steps: usize,
    /// Steps of a cycle, for schedules that have one.
    pub cycle_steps: usize,

    /// Steps to take; 0 to count in epochs.
    pub steps: usize,
    /// Passes over the training split, when `steps` is 0.
    pub epochs: usize,
    /// Rows in a micro-batch.
    pub batch_size: usize,
    /// Micro-batches in a step.
    pub accumulation: usize,
    /// Rows are padded to a multiple of this many tokens.
    pub pad_to: usize,
    /// Put several rows on one line, so that all lines are equally long; rows do not see each other. `batch_size` then
    /// counts lines.
    pub packing: bool,
    /// Tokens of a packed line; 0 for the longest row.
    pub pack_tokens: usize,
    /// How much of training each part of the dataset's mixture is, by weight; empty takes every row once an epoch.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub mixture: BTreeMap<String, f64>,
    /// `off`, `length` (short rows first) or `loss` (rows with a low loss in the file `--losses` first).
    #[serde(skip_serializing_if = "CurriculumName::is_off")]
    pub curriculum: CurriculumName,
    /// Epochs in the order of the curriculum, later ones are shuffled; 0 for all.
    #[serde(skip_serializing_if = "is_zero")]
    pub curriculum_epochs: usize,
    /// Global norm that gradients are clipped to; 0 leaves them alone.
    pub max_gradient_norm: f64,
    /// Compute the inner values of blocks again for the gradient instead of keeping them: less memory, more time.
    pub gradient_checkpointing: bool,
    /// `off`, `additive` (logged only: it cannot change a gradient) or `reweight`: the distrust loss of rows with
    /// `auth_weight` and `prov_entropy`.
    pub distrust: DistrustMode,
    /// Strength of the distrust loss.
    pub distrust_lambda: f64,
    /// Its scale, 2.3 to 3.
    pub distrust_alpha: f64,
    /// `auto`, `float32`, `bfloat16` or `float16`: what the model computes in.
    pub dtype: ComputeDtype,
    /// Seed of adapters, order and dropout.
    pub seed: u64,

    /// A line of metrics every so many steps.
    pub report_every: usize,
    /// A checkpoint every so many steps, and after the last.
    pub checkpoint_every: usize,
    /// Score the validation split every so many steps; 0 for not at all (the stage `validate` scores checkpoints).
    pub validation_every: usize,
    /// Stop after so many validations without a gain; 0 for never.
    pub patience: usize,
    /// How much lower a validation loss must be to count as a gain, in nats.
    pub min_delta: f64,
    /// Stop after so many reports without a new low of the averaged training loss; 0 for never.
    pub plateau_patience: usize,
    /// Gradient norm that counts as a spike; 0 for none.
    pub spike_threshold: f64,
    /// Stop after so many spikes in a row; 0 for never.
    pub spike_patience: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            fine_tune_type: FineTuneType::Lora,
            num_layers: 0,
            keys: Vec::new(),
            rank: 8,
            alpha: 16.0,
            rank_stabilized: false,
            dropout: 0.0,
            lm_head: false,
            embeddings: false,
            norms: false,
            optimizer: OptimizerName::Adamw,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
            momentum: 0.0,
            muon_momentum: 0.95,
            bias_correction: true,
            learning_rate: 1e-4,
            schedule: ScheduleName::Cosine,
            minimum_learning_rate: 0.0,
            warmup_steps: 10,
            cycle_steps: 100,
            steps: 0,
            epochs: 1,
            batch_size: 4,
            accumulation: 1,
            pad_to: 8,
            packing: false,
            pack_tokens: 0,
            mixture: BTreeMap::new(),
            curriculum: CurriculumName::Off,
            curriculum_epochs: 0,
            max_gradient_norm: 1.0,
            gradient_checkpointing: false,
            distrust: DistrustMode::Off,
            distrust_lambda: 0.6,
            distrust_alpha: 2.7,
            dtype: ComputeDtype::Auto,
            seed: 42,
            report_every: 10,
            checkpoint_every: 100,
            validation_every: 0,
            patience: 0,
            min_delta: 0.0,
            plateau_patience: 0,
            spike_threshold: 0.0,
            spike_patience: 0,
        }
    }
}

impl stage::Config for Config {
    const STAGE: &'static str = "train";
    const VERSION: u32 = 1;

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut need = |fine: bool, problem: &str| {
            if !fine {
                problems.push(problem.to_owned());
            }
        };
        need(self.rank >= 1, "`rank` must be at least 1");
        need(self.alpha > 0.0, "`alpha` must be above 0");
        need((0.0..1.0).contains(&self.dropout), "`dropout` must be from 0 to below 1");
        need((0.0..1.0).contains(&self.beta1), "`beta1` must be from 0 to below 1");
        need((0.0..1.0).contains(&self.beta2), "`beta2` must be from 0 to below 1");
        need(self.epsilon > 0.0, "`epsilon` must be above 0");
        need(self.weight_decay >= 0.0, "`weight_decay` must not be negative");
        need((0.0..1.0).contains(&self.momentum), "`momentum` must be from 0 to below 1");
        need((0.0..1.0).contains(&self.muon_momentum), "`muon_momentum` must be from 0 to below 1");
        need(self.learning_rate > 0.0, "`learning_rate` must be above 0");
        need(
            (0.0..=self.learning_rate).contains(&self.minimum_learning_rate),
            "`minimum_learning_rate` must be from 0 to `learning_rate`",
        );
        need(self.cycle_steps >= 1, "`cycle_steps` must be at least 1");
        need(self.steps > 0 || self.epochs > 0, "one of `steps` and `epochs` must be above 0");
        need(self.batch_size >= 1, "`batch_size` must be at least 1");
        need(self.accumulation >= 1, "`accumulation` must be at least 1");
        need(self.pad_to >= 1, "`pad_to` must be at least 1");
        need(self.max_gradient_norm >= 0.0, "`max_gradient_norm` must not be negative");
        need(self.packing || self.pack_tokens == 0, "`pack_tokens` needs packing = true");
        need(
            self.curriculum != CurriculumName::Off || self.curriculum_epochs == 0,
            "`curriculum_epochs` needs a `curriculum`",
        );
        need(self.distrust_lambda >= 0.0, "`distrust_lambda` must not be negative");
        need((2.3..=3.0).contains(&self.distrust_alpha), "`distrust_alpha` must be from 2.3 to 3");
        need(self.report_every >= 1, "`report_every` must be at least 1");
        need(self.checkpoint_every >= 1, "`checkpoint_every` must be at least 1");
        need(self.min_delta >= 0.0, "`min_delta` must not be negative");
        need(
            self.patience == 0 || self.validation_every > 0,
            "`patience` counts validations: set `validation_every` too",
        );
        need(
            self.spike_patience == 0 || self.spike_threshold > 0.0,
            "`spike_patience` counts spikes: set `spike_threshold` too",
        );
        let full = self.fine_tune_type == FineTuneType::Full;
        need(full || !self.embeddings, "`embeddings` trains only with fine_tune_type = \"full\"");
        need(full || !self.norms, "`norms` train only with fine_tune_type = \"full\"");
        need(!full || self.keys.is_empty(), "`keys` choose adapters; fine_tune_type = \"full\" has none");
        need(!full || self.dropout == 0.0, "`dropout` acts on adapters; fine_tune_type = \"full\" has none");
        for (name, weight) in self.mixture.iter().filter(|(_, weight)| weight.is_nan() || **weight <= 0.0) {
            problems.push(format!("`mixture.{name}` is {weight}, but a weight must be above 0"));
        }
        problems
    }

    fn slug(&self) -> String {
        match self.fine_tune_type {
            FineTuneType::Lora => format!("lora-r{}", self.rank),
            FineTuneType::Dora => format!("dora-r{}", self.rank),
            FineTuneType::Full => "full".to_owned(),
        }
    }
}

impl Config {
    /// What trains.
    pub fn adapter(&self) -> AdapterSettings {
        AdapterSettings {
            fine_tune_type: self.fine_tune_type,
            num_layers: Some(self.num_layers).filter(|&layers| layers > 0),
            keys: self.keys.clone(),
            rank: self.rank,
            alpha: self.alpha as f32,
            rank_stabilized: self.rank_stabilized,
            dropout: self.dropout as f32,
            lm_head: self.lm_head,
            embeddings: self.embeddings,
            norms: self.norms,
        }
    }

    /// How it is updated.
    pub fn optimizer(&self) -> OptimizerSettings {
        OptimizerSettings {
            name: self.optimizer,
            beta1: self.beta1,
            beta2: self.beta2,
            epsilon: self.epsilon as f32,
            weight_decay: self.weight_decay as f32,
            momentum: self.momentum as f32,
            muon_momentum: self.muon_momentum,
            bias_correction: self.bias_correction,
        }
    }

    /// Which rows of these lengths make a step, before mixture and curriculum.
    ///
    /// # Errors
    ///
    /// Fails when there is no row, or one that fits no packed line.
    pub fn plan(&self, lengths: Vec<u32>) -> tuner::Result<BatchOrder> {
        if !self.packing {
            return BatchOrder::new(lengths, self.batch_size, self.seed);
        }
        let longest = lengths.iter().max().map_or(1, |&tokens| tokens.saturating_sub(1).max(1) as usize);
        let length = if self.pack_tokens > 0 { self.pack_tokens } else { longest };
        BatchOrder::packed(lengths, self.batch_size, length.next_multiple_of(self.pad_to), self.seed)
    }

    /// How the run goes, over the micro-batches of `plan`.
    pub fn run(
        &self,
        plan: &mut BatchOrder,
        (save_every, keep_last): (usize, usize),
        distrust: Option<Distrust>,
    ) -> TrainingSettings {
        let steps = match self.steps {
            0 => plan.batches_in(self.epochs).div_ceil(self.accumulation),
            steps => steps,
        };
        TrainingSettings {
            steps,
            schedule: ScheduleSettings {
                name: self.schedule,
                peak: self.learning_rate,
                minimum: self.minimum_learning_rate,
                warmup_steps: self.warmup_steps.min(steps.saturating_sub(1)),
                cycle_steps: self.cycle_steps,
                steps,
            },
            accumulation: self.accumulation,
            pad_to: self.pad_to,
            max_gradient_norm: Some(self.max_gradient_norm as f32).filter(|&norm| norm > 0.0),
            report_every: self.report_every,
            checkpoint_every: self.checkpoint_every,
            save_every,
            validation_every: self.validation_every,
            validation_batch_size: self.batch_size,
            early_stopping: EarlyStopping {
                patience: self.patience,
                min_delta: self.min_delta,
                plateau_patience: self.plateau_patience,
                spike_threshold: self.spike_threshold as f32,
                spike_patience: self.spike_patience,
            },
            adapter: self.adapter(),
            distrust,
            prefetch: 0,
            keep_last,
        }
    }
}
