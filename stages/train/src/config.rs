//! Settings of the stage: everything here changes the bytes of the result.

use std::collections::BTreeMap;

use mlx_ext::{Products, Unpack};
use models::ComputeDtype;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tuner::{
    AdapterSettings, BatchOrder, DISTRUST_ALPHAS, Distrust, DistrustMode, EarlyStopping, FineTuneType,
    OptimizerName, OptimizerSettings, ScheduleName, ScheduleSettings, TrainingSettings,
};

/// Most tokens of a line: MLX counts the extents of arrays in 32 bits.
const MOST_TOKENS: usize = i32::MAX as usize;

/// Order of the rows of an epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CurriculumName {
    /// Random.
    #[default]
    Off,
    /// Short rows first.
    Length,
    /// Rows with a low loss first.
    Loss,
}

impl CurriculumName {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_off(&self) -> bool {
        *self == Self::Off
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// Returns whether micro-batches with this number of slices are not cut.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_whole(slices: &usize) -> bool {
    *slices <= 1
}

/// Settings of the stage `train`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "settings include many switches")]
pub struct Config {
    /// `lora`, `dora` or `full`.
    pub fine_tune_type: FineTuneType,
    /// Number of blocks to train, counted from the last; 0 for all.
    pub num_layers: usize,
    /// Linear layers to adapt, by their name in a block (`self_attn.q_proj`); empty for all.
    pub keys: Vec<String>,
    /// Rank of adapters (not with `full`).
    pub rank: i32,
    /// Strength of adapters: scale = alpha / rank (not with `full`).
    pub alpha: f64,
    /// Use scale = alpha / √rank instead (not with `full`).
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
    /// Decay of the first moment: `adam`, `adamw`, `lion`.
    pub beta1: f64,
    /// Decay of the second moment, or of the momentum of `lion`: `adam`, `adamw`, `lion`.
    pub beta2: f64,
    /// Term added to the root of the second moment: `adam`, `adamw`.
    pub epsilon: f64,
    /// Weight decay. `adamw`, `lion`, `adafactor`: decoupled, the share of a weight that is subtracted per step, times the learning
    /// rate. `sgd`, `muon`: times the weight, added to the gradient. `adam`: not used.
    pub weight_decay: f64,
    /// Momentum of `sgd`.
    pub momentum: f64,
    /// Momentum of `muon`.
    pub muon_momentum: f64,
    /// Correct the moments of `adam` and `adamw` for starting at zero (mlx-lm does not).
    pub bias_correction: bool,

    /// Highest learning rate.
    pub learning_rate: f64,
    /// `constant`, `linear`, `cosine`, `cosine-restarts` or `cyclic`.
    pub schedule: ScheduleName,
    /// Lowest learning rate after the warmup.
    pub minimum_learning_rate: f64,
    /// Steps over which the learning rate rises to its peak; a shorter run has one step less than it is long.
    pub warmup_steps: usize,
    /// Steps per cycle, for periodic schedules.
    pub cycle_steps: usize,

    /// Number of steps; 0 to use `epochs`.
    pub steps: usize,
    /// Passes over the training split, when `steps` is 0.
    pub epochs: usize,
    /// Rows per micro-batch.
    pub batch_size: usize,
    /// Micro-batches per step; the last step of an epoch takes those that are left.
    pub accumulation: usize,
    /// Slices that every micro-batch is cut into, to be computed one after another or by several ranks; 0 for as many as the ranks
    /// of the run need.
    #[serde(skip_serializing_if = "is_whole")]
    pub slices: usize,
    /// Rows are padded to a multiple of this many tokens; 0 for 8 on a CPU and 128 on a GPU.
    pub pad_to: usize,
    /// Pack several rows into each line, so that all lines have the same length; rows do not see each other.
    /// `batch_size` then counts lines.
    pub packing: bool,
    /// Tokens per packed line; 0 for the longest row.
    pub pack_tokens: usize,
    /// Weights of the dataset's mixture components; empty for every row once per epoch.
    #[serde(with = "stage::free_names", skip_serializing_if = "BTreeMap::is_empty")]
    pub mixture: BTreeMap<String, f64>,
    /// `off`, `length` (short rows first) or `loss` (rows with a low loss in `--losses` first).
    #[serde(skip_serializing_if = "CurriculumName::is_off")]
    pub curriculum: CurriculumName,
    /// Number of epochs in the order of the curriculum; later ones are shuffled. 0 for all.
    #[serde(skip_serializing_if = "is_zero")]
    pub curriculum_epochs: usize,
    /// Global norm that gradients are clipped to; 0 for no clipping.
    pub max_gradient_norm: f64,
    /// Recompute activations inside blocks for the gradient instead of keeping them: less memory, more time.
    pub gradient_checkpointing: bool,
    /// Use of the distrust loss of rows with `auth_weight` and `prov_entropy`: `off`, `additive` (logged only, since it
    /// cannot change a gradient) or `reweight`.
    pub distrust: DistrustMode,
    /// Strength of the distrust loss.
    pub distrust_lambda: f64,
    /// Scale of the distrust loss, 2.3 to 3.
    pub distrust_alpha: f64,
    /// Type that the model computes in: `auto`, `float32`, `bfloat16` or `float16`.
    pub dtype: ComputeDtype,
    /// What to do with packed weights: `auto`, `resident` (keep unpacked copies) or `transient` (unpack in each product).
    /// Not part of the key: the bytes are the same.
    #[serde(skip_serializing)]
    pub unpack: Unpack,
    /// On a CPU, type to which matrix products round their factors: `float32`, or `bfloat16`, which is about twice as fast
    /// on processors with AVX-512 and its `bfloat16` instructions. Sums and weights stay `float32`.
    #[serde(skip_serializing_if = "Products::is_float32")]
    pub products: Products,
    /// Seed of adapters, batch order and dropout.
    pub seed: u64,

    /// Steps between lines of metrics.
    pub report_every: usize,
    /// Steps between checkpoints; the last step and every step with a validation have one too.
    pub checkpoint_every: usize,
    /// Steps between validations; 0 for none (the stage `validate` scores checkpoints).
    pub validation_every: usize,
    /// Stop after this many consecutive validations without a decrease of `min_delta`; 0 for never.
    pub patience: usize,
    /// Smallest decrease of the validation loss that counts, in nats per target.
    pub min_delta: f64,
    /// Stop after this many consecutive reports without a new minimum of the averaged training loss; 0 for never.
    pub plateau_patience: usize,
    /// Gradient norm above which a step counts as a spike; 0 for none.
    pub spike_threshold: f64,
    /// Stop after this many consecutive spikes; 0 for never.
    pub spike_patience: usize,
}

impl Default for Config {
    fn default() -> Self {
        let adapter = AdapterSettings::default();
        let optimizer = OptimizerSettings::default();
        let training = TrainingSettings::default();
        let (schedule, early_stopping) = (training.schedule, training.early_stopping);
        Self {
            fine_tune_type: adapter.fine_tune_type,
            num_layers: adapter.num_layers.unwrap_or(0),
            keys: adapter.keys,
            rank: adapter.rank,
            alpha: f64::from(adapter.alpha),
            rank_stabilized: adapter.rank_stabilized,
            dropout: f64::from(adapter.dropout),
            lm_head: adapter.lm_head,
            embeddings: adapter.embeddings,
            norms: adapter.norms,
            optimizer: optimizer.name,
            beta1: optimizer.beta1,
            beta2: optimizer.beta2,
            epsilon: optimizer.epsilon,
            weight_decay: optimizer.weight_decay,
            momentum: optimizer.momentum,
            muon_momentum: optimizer.muon_momentum,
            bias_correction: optimizer.bias_correction,
            learning_rate: schedule.peak,
            schedule: schedule.name,
            minimum_learning_rate: schedule.minimum,
            warmup_steps: schedule.warmup_steps,
            cycle_steps: schedule.cycle_steps,
            steps: 0,
            epochs: 1,
            batch_size: training.validation_batch_size,
            accumulation: training.accumulation,
            slices: 0,
            pad_to: 0,
            packing: false,
            pack_tokens: 0,
            mixture: BTreeMap::new(),
            curriculum: CurriculumName::Off,
            curriculum_epochs: 0,
            max_gradient_norm: training.max_gradient_norm.map_or(0.0, f64::from),
            gradient_checkpointing: false,
            distrust: DistrustMode::Off,
            distrust_lambda: 0.6,
            distrust_alpha: 2.7,
            dtype: ComputeDtype::Auto,
            unpack: Unpack::Auto,
            products: Products::Float32,
            seed: 42,
            report_every: training.report_every,
            checkpoint_every: training.checkpoint_every,
            validation_every: training.validation_every,
            patience: early_stopping.patience,
            min_delta: early_stopping.min_delta,
            plateau_patience: early_stopping.plateau_patience,
            spike_threshold: f64::from(early_stopping.spike_threshold),
            spike_patience: early_stopping.spike_patience,
        }
    }
}

impl stage::Config for Config {
    const STAGE: &'static str = "train";
    const VERSION: u32 = 4;

    fn settle(&mut self) -> Vec<String> {
        let [own, defaults] = [&*self, &Self::default()].map(|config| json!(config));
        let mut left_out = Vec::new();
        for (name, cause) in self.unused() {
            if own[name] != defaults[name] {
                left_out.push(format!(
                    "`{name}` = {} has no effect with `{cause}` = {}, and is left out",
                    own[name], own[cause]
                ));
                self.reset(name);
            }
        }
        left_out
    }

    fn problems(&self) -> Vec<String> {
        let is_full = self.fine_tune_type == FineTuneType::Full;
        let conditions = [
            (self.rank >= 1, "`rank` must be at least 1"),
            (self.alpha > 0.0, "`alpha` must be above 0"),
            ((0.0..1.0).contains(&self.dropout), "`dropout` must be from 0 to below 1"),
            ((0.0..1.0).contains(&self.beta1), "`beta1` must be from 0 to below 1"),
            ((0.0..1.0).contains(&self.beta2), "`beta2` must be from 0 to below 1"),
            (self.epsilon > 0.0, "`epsilon` must be above 0"),
            (self.weight_decay >= 0.0, "`weight_decay` must not be negative"),
            ((0.0..1.0).contains(&self.momentum), "`momentum` must be from 0 to below 1"),
            ((0.0..1.0).contains(&self.muon_momentum), "`muon_momentum` must be from 0 to below 1"),
            (self.learning_rate > 0.0, "`learning_rate` must be above 0"),
            (
                (0.0..=self.learning_rate).contains(&self.minimum_learning_rate),
                "`minimum_learning_rate` must be from 0 to `learning_rate`",
            ),
            (self.cycle_steps >= 1, "`cycle_steps` must be at least 1"),
            (self.steps > 0 || self.epochs > 0, "one of `steps` and `epochs` must be above 0"),
            (self.batch_size >= 1, "`batch_size` must be at least 1"),
            (self.accumulation >= 1, "`accumulation` must be at least 1"),
            (self.max_gradient_norm >= 0.0, "`max_gradient_norm` must not be negative"),
            (self.pad_to <= MOST_TOKENS, "`pad_to` must be at most 2147483647"),
            (self.pack_tokens <= MOST_TOKENS, "`pack_tokens` must be at most 2147483647"),
            (self.packing || self.pack_tokens == 0, "`pack_tokens` needs packing = true"),
            (
                self.curriculum != CurriculumName::Off || self.curriculum_epochs == 0,
                "`curriculum_epochs` needs a `curriculum`",
            ),
            (self.distrust_lambda >= 0.0, "`distrust_lambda` must not be negative"),
            (DISTRUST_ALPHAS.contains(&self.distrust_alpha), "`distrust_alpha` must be from 2.3 to 3"),
            (self.report_every >= 1, "`report_every` must be at least 1"),
            (self.checkpoint_every >= 1, "`checkpoint_every` must be at least 1"),
            (self.min_delta >= 0.0, "`min_delta` must not be negative"),
            (
                self.patience == 0 || self.validation_every > 0,
                "`patience` counts validations: set `validation_every` too",
            ),
            (self.spike_threshold >= 0.0, "`spike_threshold` must not be negative"),
            (
                // Alone, `spike_threshold = 0` turns the rule off, whatever the default patience.
                self.spike_threshold > 0.0
                    || [0, EarlyStopping::default().spike_patience].contains(&self.spike_patience),
                "`spike_patience` counts spikes: set `spike_threshold` too",
            ),
            (is_full || !self.embeddings, "`embeddings` trains only with fine_tune_type = \"full\""),
            (is_full || !self.norms, "`norms` trains only with fine_tune_type = \"full\""),
            (!is_full || self.keys.is_empty(), "`keys` choose adapters; fine_tune_type = \"full\" has none"),
            (
                !is_full || self.dropout == 0.0,
                "`dropout` acts on adapters; fine_tune_type = \"full\" has none",
            ),
        ];
        let broken = conditions.into_iter().filter(|(holds, _)| !holds);
        let mut problems: Vec<String> = broken.map(|(_, problem)| problem.to_owned()).collect();
        for (name, weight) in self.mixture.iter().filter(|(_, weight)| weight.is_nan() || **weight <= 0.0) {
            problems.push(format!("`mixture.{name}` is {weight}, but a weight must be above 0"));
        }
        problems
    }

    fn has_state(folder: &std::path::Path) -> bool {
        crate::earlier::has_state(folder)
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
    /// Resets a setting named by [`Config::unused`] to its default.
    fn reset(&mut self, name: &str) {
        let default = Self::default();
        match name {
            "rank" => self.rank = default.rank,
            "alpha" => self.alpha = default.alpha,
            "rank_stabilized" => self.rank_stabilized = default.rank_stabilized,
            "beta1" => self.beta1 = default.beta1,
            "beta2" => self.beta2 = default.beta2,
            "epsilon" => self.epsilon = default.epsilon,
            "weight_decay" => self.weight_decay = default.weight_decay,
            "momentum" => self.momentum = default.momentum,
            "muon_momentum" => self.muon_momentum = default.muon_momentum,
            "bias_correction" => self.bias_correction = default.bias_correction,
            "minimum_learning_rate" => self.minimum_learning_rate = default.minimum_learning_rate,
            "cycle_steps" => self.cycle_steps = default.cycle_steps,
            "distrust_lambda" => self.distrust_lambda = default.distrust_lambda,
            "distrust_alpha" => self.distrust_alpha = default.distrust_alpha,
            _ => unreachable!("`{name}` has an effect beside any other setting"),
        }
    }

    /// Returns the settings that would change the key, but not the result, each with the setting that is the cause.
    fn unused(&self) -> Vec<(&'static str, &'static str)> {
        let is_full = self.fine_tune_type == FineTuneType::Full;
        let is_periodic = matches!(self.schedule, ScheduleName::CosineRestarts | ScheduleName::Cyclic);
        let mut unused: Vec<_> =
            self.optimizer().unused().into_iter().map(|name| (name, "optimizer")).collect();
        if is_full {
            unused.extend(["rank", "alpha", "rank_stabilized"].map(|name| (name, "fine_tune_type")));
        }
        if self.schedule == ScheduleName::Constant {
            unused.push(("minimum_learning_rate", "schedule"));
        }
        if !is_periodic {
            unused.push(("cycle_steps", "schedule"));
        }
        if self.distrust == DistrustMode::Off {
            unused.extend(["distrust_lambda", "distrust_alpha"].map(|name| (name, "distrust")));
        }
        unused
    }

    /// Returns the settings of the adapters.
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

    /// Returns the settings of the optimizer.
    pub fn optimizer(&self) -> OptimizerSettings {
        OptimizerSettings {
            name: self.optimizer,
            beta1: self.beta1,
            beta2: self.beta2,
            epsilon: self.epsilon,
            weight_decay: self.weight_decay,
            momentum: self.momentum,
            muon_momentum: self.muon_momentum,
            bias_correction: self.bias_correction,
        }
    }

    /// Returns the number of tokens that rows are padded to a multiple of.
    ///
    /// On CUDA, attention has a fused gradient only for lengths that are multiples of 128.
    pub(crate) fn pad_to(&self) -> usize {
        match self.pad_to {
            0 if mlx_ext::runs_on_gpu() => 128,
            0 => TrainingSettings::default().pad_to,
            tokens => tokens,
        }
    }

    /// Returns the number of rows (lines, with packing) that are computed together.
    pub(crate) fn lines_together(&self) -> usize {
        self.batch_size.div_ceil(self.slices.clamp(1, self.batch_size.max(1)))
    }

    /// Returns the global norm that gradients are clipped to.
    pub(crate) fn max_gradient_norm(&self) -> Option<f32> {
        Some(self.max_gradient_norm as f32).filter(|&norm| norm > 0.0)
    }

    /// Returns the order of rows with the given lengths, before mixture and curriculum.
    ///
    /// # Errors
    ///
    /// Fails without rows, and when a row is longer than a packed line.
    pub fn batch_order(&self, lengths: Vec<u32>) -> tuner::Result<BatchOrder> {
        if !self.packing {
            return BatchOrder::new(lengths, self.batch_size, self.seed);
        }
        let longest = lengths.iter().max().map_or(1, |&tokens| tokens.saturating_sub(1).max(1) as usize);
        let length = if self.pack_tokens > 0 { self.pack_tokens } else { longest };
        BatchOrder::packed(lengths, self.batch_size, length.next_multiple_of(self.pad_to()), self.seed)
    }

    /// Returns the steps of the warmup of a run of `steps` steps: at least the last one has the full learning rate.
    fn warmup_of(&self, steps: usize) -> usize {
        self.warmup_steps.min(steps.saturating_sub(1))
    }

    /// Describes the warmup of a run of `steps` steps if it is shorter than the settings say.
    pub(crate) fn shortened_warmup(&self, steps: usize) -> Option<String> {
        let (wanted, warmup) = (self.warmup_steps, self.warmup_of(steps));
        (warmup < wanted)
            .then(|| format!("`warmup_steps` is {wanted}, but the run has {steps} steps; using {warmup}"))
    }

    /// Returns the settings of a run over `order`; those that do not change the result have their defaults.
    pub fn training_settings(&self, order: &mut BatchOrder, distrust: Option<Distrust>) -> TrainingSettings {
        let steps = match self.steps {
            0 => order.steps_in(self.epochs, self.accumulation),
            steps => steps,
        };
        TrainingSettings {
            steps,
            schedule: ScheduleSettings {
                name: self.schedule,
                peak: self.learning_rate,
                minimum: self.minimum_learning_rate,
                warmup_steps: self.warmup_of(steps),
                cycle_steps: self.cycle_steps,
                steps,
            },
            accumulation: self.accumulation,
            slices: self.slices.max(1),
            pad_to: self.pad_to(),
            max_gradient_norm: self.max_gradient_norm(),
            report_every: self.report_every,
            checkpoint_every: self.checkpoint_every,
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
            ..TrainingSettings::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use stage::Config as _;

    use super::*;

    /// Returns the problems of the defaults with other values for some settings.
    fn problems_with(changes: Value) -> Vec<String> {
        let config: Config = serde_json::from_value(changes).expect("the settings are known");
        config.problems()
    }

    #[test]
    fn every_setting_whose_help_gives_zero_a_meaning_accepts_zero_alone() {
        let source = include_str!("config.rs");
        let (settings, _) = source.split_once("impl Default").expect("the settings come first");
        let (mut documented, mut help) = (Vec::new(), String::new());
        for line in settings.lines().map(str::trim) {
            if let Some(text) = line.strip_prefix("///") {
                help += text;
            } else if let Some((name, _)) = line.strip_prefix("pub ").and_then(|line| line.split_once(':')) {
                let text = std::mem::take(&mut help);
                if text.contains("; 0 ") || text.contains(" 0 for ") {
                    documented.push(name.to_owned());
                }
            } else if !line.starts_with('#') {
                help.clear();
            }
        }
        assert!(
            documented.contains(&"spike_threshold".to_owned()) && documented.len() >= 12,
            "{documented:?}"
        );
        for name in documented {
            assert_eq!(problems_with(json!({&name: 0})), Vec::<String>::new(), "{name} = 0");
        }
    }

    #[test]
    fn components_of_a_mixture_have_any_names() {
        let config: Config = serde_json::from_value(json!({"mixture": {"Haw-1": 2.0}})).expect("settings");
        assert_eq!(json!(config)["mixture"], json!([["Haw-1", 2.0]]));
    }

    #[test]
    fn a_setting_without_effect_is_left_out_of_the_key_and_said() {
        let settled = |changes: Value| {
            let mut config: Config = serde_json::from_value(changes).expect("the settings are known");
            let left_out = config.settle();
            assert_eq!(config.settle(), Vec::<String>::new());
            (json!(config), left_out)
        };
        for (setting, without, says) in [
            (
                json!({"fine_tune_type": "full", "rank": 16, "alpha": 32, "rank_stabilized": true}),
                json!({"fine_tune_type": "full"}),
                "`rank` = 16 has no effect with `fine_tune_type` = \"full\", and is left out",
            ),
            (
                json!({"optimizer": "adam", "weight_decay": 0.1}),
                json!({"optimizer": "adam"}),
                "`weight_decay` = 0.1 has no effect with `optimizer` = \"adam\"",
            ),
            (
                json!({"momentum": 0.9}),
                json!({}),
                "`momentum` = 0.9 has no effect with `optimizer` = \"adamw\"",
            ),
            (
                json!({"cycle_steps": 7}),
                json!({}),
                "`cycle_steps` = 7 has no effect with `schedule` = \"cosine\"",
            ),
            (
                json!({"schedule": "constant", "minimum_learning_rate": 1e-5}),
                json!({"schedule": "constant"}),
                "`minimum_learning_rate` = 0.00001 has no effect with `schedule` = \"constant\"",
            ),
            (json!({"distrust_lambda": 1}), json!({}), "has no effect with `distrust` = \"off\""),
            (
                json!({"optimizer": "adafactor", "beta1": 0.5, "beta2": 0.5, "epsilon": 1, "bias_correction": false,
                       "momentum": 0.5, "muon_momentum": 0.5, "distrust_alpha": 2.5, "mixture": {"Haw-1": 1}}),
                json!({"optimizer": "adafactor", "mixture": {"Haw-1": 1}}),
                "`beta1` = 0.5 has no effect with `optimizer` = \"adafactor\"",
            ),
        ] {
            let (material, left_out) = settled(setting.clone());
            assert_eq!(material, settled(without).0, "{setting}");
            assert!(left_out[0].contains(says), "{left_out:?}");
        }
        for used in [
            json!({"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.1}),
            json!({"optimizer": "adam", "weight_decay": 0}),
            json!({"schedule": "cyclic", "cycle_steps": 7}),
            json!({"distrust": "reweight", "distrust_lambda": 1}),
        ] {
            assert_eq!(settled(used.clone()).1, Vec::<String>::new(), "{used}");
        }
        let mut config = Config { unpack: Unpack::Resident, momentum: 0.5, ..Config::default() };
        config.settle();
        assert_eq!((config.unpack, config.momentum), (Unpack::Resident, 0.0));
    }

    #[test]
    fn a_warmup_as_long_as_the_run_is_shortened_and_reported() {
        let config = Config { warmup_steps: 10, ..Config::default() };
        let shortened = config.shortened_warmup(5);
        assert_eq!(shortened.as_deref(), Some("`warmup_steps` is 10, but the run has 5 steps; using 4"));
        assert_eq!((config.shortened_warmup(10).is_some(), config.shortened_warmup(11)), (true, None));
        assert_eq!(Config { warmup_steps: 0, ..config }.shortened_warmup(1), None);
    }

    #[test]
    fn a_patience_for_spikes_needs_a_threshold() {
        let needs = ["`spike_patience` counts spikes: set `spike_threshold` too"];
        assert_eq!(problems_with(json!({"spike_threshold": 0, "spike_patience": 5})), needs);
        assert!(problems_with(json!({"spike_patience": 5})).is_empty());
        assert!(problems_with(json!({"spike_patience": 0})).is_empty());
        let negative = ["`spike_threshold` must not be negative"];
        assert_eq!(problems_with(json!({"spike_threshold": -1.0})), negative);
    }
}
