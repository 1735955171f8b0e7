//! The loop: steps, reports, validations, checkpoints, and going on where an earlier run was cut off.

use crate::adapter::{AdapterSettings, save_adapters};
use crate::batch::Batch;
use crate::checkpoint::{Checkpoint, RunState, sha256_of, sha256_of_first, step_name, sync};
use crate::distrust::Distrust;
use crate::early_stopping::EarlyStopping;
use crate::error::{Error, Result};
use crate::plan::BatchPlan;
use crate::prefetch::{Source, StepData, with_data};
use crate::schedule::ScheduleSettings;
use crate::score::score;
use crate::trainer::{StepReport, Trainer};
use dataset::Split;
use serde::Serialize;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// How a run goes, beside the model and the optimizer.
#[derive(Debug, Clone)]
pub struct RunSettings {
    /// Steps to take.
    pub steps: usize,
    /// The learning rate of each.
    pub schedule: ScheduleSettings,
    /// Micro-batches a step.
    pub accumulation: usize,
    /// Rows are padded to a multiple of this many tokens.
    pub pad_to: usize,
    /// Global norm that gradients are clipped to; `None` leaves them alone.
    pub max_gradient_norm: Option<f32>,
    /// A line of metrics every so many steps.
    pub report_every: usize,
    /// A checkpoint for others every so many steps, and after the last.
    pub checkpoint_every: usize,
    /// A state to go on from every so many steps.
    pub save_every: usize,
    /// A validation every so many steps; 0 for none.
    pub validation_every: usize,
    /// Rows in a batch of a validation.
    pub validation_batch_size: usize,
    /// Reasons to stop early.
    pub early_stopping: EarlyStopping,
    /// What the adapters' config says.
    pub adapter: AdapterSettings,
    /// Distrust losses of the training rows.
    pub distrust: Option<Distrust>,
    /// Steps whose rows are made ready ahead of time, on a thread of its own; 0 for none. It changes no byte.
    pub prefetch: usize,
    /// States to go on from that are kept, at least one. Checkpoints for others are never deleted.
    pub keep_last: usize,
}

/// What happens in a run, as it happens.
pub trait Observer {
    /// The run begins, or goes on after `step` steps.
    fn started(&mut self, step: usize, steps: usize);
    /// A step was taken.
    fn stepped(&mut self, step: usize, report: &StepReport, learning_rate: f64);
    /// A line of metrics was written.
    fn reported(&mut self, step: usize, train_loss: f64);
    /// The validation split was scored.
    fn validated(&mut self, step: usize, loss: f64);
    /// A checkpoint was written.
    fn checkpointed(&mut self, step: usize);
    /// Asked after every step: true saves the state and ends the run.
    fn interrupted(&self) -> bool;
    /// Whether the steps before reports are to tell the gradient norm of every part of the model.
    fn wants_group_norms(&self) -> bool {
        false
    }
}

/// Why a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "reason")]
pub enum Stop {
    /// All steps were taken.
    Finished,
    /// A rule of early stopping.
    Early(String),
    /// The observer asked for it; the state is saved.
    Interrupted,
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Steps taken, those of earlier sittings included.
    pub step: usize,
    /// Targets trained on.
    pub trained_tokens: u64,
    /// Why it ended.
    pub stop: Stop,
}

#[derive(Serialize)]
struct TrainLine {
    /// What the additive distrust loss would add to `train_loss`.
    #[serde(skip_serializing_if = "Option::is_none")]
    distrust_loss: Option<f64>,
    epoch: f64,
    gradient_norm: f32,
    learning_rate: f64,
    step: usize,
    train_loss: f64,
    trained_tokens: u64,
}

#[derive(Serialize)]
struct ValidationLine {
    step: usize,
    validation_loss: f64,
    validation_tokens: usize,
}

/// Trains until the last step, an early stop or an interruption, in `folder`, which survives the process.
///
/// The folder holds `metrics.jsonl`, `checkpoints/<step>/adapters` and `state/<step>`. If it holds a state already, the
/// run goes on from there and ends with the same bytes as one that was never cut off.
///
/// # Errors
///
/// Fails when a loss or gradient is not finite: the last good checkpoint stays.
pub fn run(
    trainer: &mut Trainer,
    plan: &mut BatchPlan,
    (train, validation): (&Split, &Split),
    settings: &RunSettings,
    folder: &Path,
    observer: &mut dyn Observer,
) -> Result<Summary> {
    let mut state =
        Run { trainer, settings, folder, state: RunState::default(), rows: Vec::new(), saved: None };
    state.resume()?;
    observer.started(state.state.step, settings.steps);
    let source = Source {
        plan,
        split: train,
        accumulation: settings.accumulation,
        pad_to: settings.pad_to,
        factors: settings.distrust.as_ref().and_then(Distrust::factors),
        steps: state.state.step..settings.steps,
    };
    let stop = with_data(source, settings.prefetch, |next| {
        loop {
            if let Some(reason) = &state.state.stopped {
                return Ok::<Stop, Error>(Stop::Early(reason.clone()));
            }
            if state.state.step >= settings.steps {
                return Ok(Stop::Finished);
            }
            state.step(next(), validation, observer)?;
            let ended = state.state.step >= settings.steps || state.state.stopped.is_some();
            if !ended && observer.interrupted() {
                state.save()?;
                return Ok(Stop::Interrupted);
            }
        }
    })?;
    if stop != Stop::Interrupted {
        state.checkpoint(observer)?;
        state.save()?;
    }
    let RunState { step, trained_tokens, .. } = state.state;
    Ok(Summary { step, trained_tokens, stop })
}

struct Run<'a> {
    trainer: &'a mut Trainer,
    settings: &'a RunSettings,
    folder: &'a Path,
    state: RunState,
    /// Of the last step.
    rows: Vec<u32>,
    /// The step of the newest saved state.
    saved: Option<usize>,
}

impl Run<'_> {
    fn metrics_path(&self) -> PathBuf {
        self.folder.join("metrics.jsonl")
    }

    fn checkpoint_path(&self, step: usize) -> PathBuf {
        self.folder.join("checkpoints").join(step_name(step))
    }

    /// Takes up the newest state that checks out, together with the metrics and checkpoints it speaks of.
    fn resume(&mut self) -> Result<()> {
        fs_err::create_dir_all(self.folder)?;
        let names = self.trainer.trainable().names.clone();
        let accept = |state: &RunState| self.check(state);
        let loaded = Checkpoint::load_newest(&self.folder.join("state"), &names, accept)?;
        if let Some(loaded) = loaded {
            self.trainer.restore(loaded.parameters, loaded.moments, loaded.optimizer_steps)?;
            self.state = loaded.state;
            self.saved = Some(self.state.step);
        }
        // Whatever was written after the state is written again.
        let metrics = fs_err::OpenOptions::new().create(true).append(true).open(self.metrics_path())?;
        metrics.set_len(self.state.metrics_bytes)?;
        metrics.sync_all()?;
        Ok(())
    }

    fn check(&self, state: &RunState) -> Result<()> {
        let bad = |path: PathBuf| Error::ResumeState {
            path,
            reason: "differs from its hash in the resume state".to_owned(),
        };
        if state.metrics_bytes > 0
            && sha256_of_first(&self.metrics_path(), state.metrics_bytes)? != state.metrics_sha256
        {
            return Err(bad(self.metrics_path()));
        }
        for (step, sum) in &state.checkpoints {
            let path = self.checkpoint_path(*step).join("adapters/adapters.safetensors");
            if sha256_of(&path)? != *sum {
                return Err(bad(path));
            }
        }
        Ok(())
    }

    /// Takes one step and does all that is due after it.
    fn step(&mut self, data: StepData, validation: &Split, observer: &mut dyn Observer) -> Result<()> {
        let settings = self.settings;
        let index = self.state.step;
        let rate = settings.schedule.rate(index);
        let StepData { batches, rows, epochs } = data;
        let batches: Vec<Batch> = batches.into_iter().map(Batch::from).collect();
        let report_due = |step: usize| step.is_multiple_of(settings.report_every) || step == settings.steps;
        self.trainer.set_group_norms(observer.wants_group_norms() && report_due(index + 1));
        let taken = self.trainer.step(&batches, rate, settings.max_gradient_norm, (index + 1, &rows));
        let report = taken.map_err(|error| self.with_what_is_kept(error))?;

        if let Some(added) = settings.distrust.as_ref().and_then(|distrust| distrust.added(&rows)) {
            self.state.window_distrust += added * report.weight;
        }
        self.rows = rows;
        self.state.step += 1;
        self.state.trained_tokens += report.targets as u64;
        self.state.window_loss += report.loss_sum;
        self.state.window_weight += report.weight;
        let step = self.state.step;
        observer.stepped(step, &report, rate);
        let warming_up = step <= settings.schedule.warmup_steps;
        let rules = settings.early_stopping;
        let mut stop = rules.on_step(&mut self.state.early_stopping, report.gradient_norm, warming_up);
        if report_due(step) {
            // A window of rows without a target has no mean.
            if self.state.window_weight > 0.0 {
                let loss = self.report(epochs, &report, rate)?;
                observer.reported(step, loss);
                stop = stop.or(rules.on_report(&mut self.state.early_stopping, loss));
            }
        }
        if settings.validation_every > 0 && step.is_multiple_of(settings.validation_every) {
            let loss = self.validate(validation)?;
            observer.validated(step, loss);
            stop = stop.or(rules.on_validation(&mut self.state.early_stopping, loss));
        }
        // Before anything is saved: a run that was killed after its last step must not take another.
        self.state.stopped = stop;
        if step.is_multiple_of(settings.checkpoint_every) {
            self.checkpoint(observer)?;
        }
        if step.is_multiple_of(settings.save_every) {
            self.save()?;
        }
        Ok(())
    }

    /// Says in an error of divergence what there is to go back to.
    fn with_what_is_kept(&self, error: Error) -> Error {
        let Error::Diverged { step, reason, rows, .. } = error else { return error };
        let checkpoint = self.state.checkpoints.keys().next_back();
        let kept = match (checkpoint, self.saved) {
            (Some(&last), _) => {
                let path = self.checkpoint_path(last);
                format!("the last good checkpoint, of step {last}, is kept in `{}`", path.display())
            }
            (None, Some(saved)) => {
                format!("the state after step {saved} is kept; there was no checkpoint yet")
            }
            (None, None) => "nothing was saved before it".to_owned(),
        };
        Error::Diverged { step, reason, rows, kept }
    }

    /// Writes a line of metrics and returns the mean loss since the last.
    fn report(&mut self, epoch: f64, report: &StepReport, rate: f64) -> Result<f64> {
        let step = self.state.step;
        let train_loss = self.state.window_loss / self.state.window_weight;
        let added = self.settings.distrust.as_ref().and_then(|distrust| distrust.added(&[]));
        self.append(&TrainLine {
            distrust_loss: added.map(|_| self.state.window_distrust / self.state.window_weight),
            epoch,
            gradient_norm: report.gradient_norm,
            learning_rate: rate,
            step,
            train_loss,
            trained_tokens: self.state.trained_tokens,
        })?;
        self.state.window_loss = 0.0;
        self.state.window_distrust = 0.0;
        self.state.window_weight = 0.0;
        Ok(train_loss)
    }

    fn validate(&self, validation: &Split) -> Result<f64> {
        let score =
            score(&self.trainer.model()?, validation, "validation", self.settings.validation_batch_size)?;
        let loss = score.mean_loss();
        let line = ValidationLine {
            step: self.state.step,
            validation_loss: loss,
            validation_tokens: score.tokens(),
        };
        self.append(&line)?;
        Ok(loss)
    }

    fn append(&self, line: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_string(line).expect("plain numbers");
        text.push('\n');
        let mut file = fs_err::OpenOptions::new().append(true).open(self.metrics_path())?;
        Ok(file.write_all(text.as_bytes())?)
    }

    /// Writes the parameters as adapters for others, whole or not at all.
    fn checkpoint(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let step = self.state.step;
        if self.state.checkpoints.contains_key(&step) {
            return Ok(());
        }
        self.need_finite()?;
        let target = self.checkpoint_path(step);
        let unfinished = target.with_file_name(format!(".{}", step_name(step)));
        for stale in [&unfinished, &target] {
            if stale.exists() {
                fs_err::remove_dir_all(stale)?;
            }
        }
        let adapters = unfinished.join("adapters");
        let names = &self.trainer.trainable().names;
        let layer_count = self.trainer.layer_count();
        save_adapters(&adapters, &self.settings.adapter, layer_count, names, self.trainer.parameters())?;
        let weights = adapters.join("adapters.safetensors");
        let sum = sha256_of(&weights)?;
        for path in [&weights, &adapters.join("adapter_config.json"), &adapters, &unfinished] {
            sync(path)?;
        }
        fs_err::rename(&unfinished, &target)?;
        sync(&self.folder.join("checkpoints"))?;
        self.state.checkpoints.insert(step, sum);
        observer.checkpointed(step);
        Ok(())
    }

    /// Refuses to save what no longer is a number: what was saved before stays the newest.
    fn need_finite(&self) -> Result<()> {
        let step = self.state.step;
        match self.trainer.first_not_finite()? {
            Some(reason) => {
                let error = Error::Diverged { step, reason, rows: self.rows.clone(), kept: String::new() };
                Err(self.with_what_is_kept(error))
            }
            None => Ok(()),
        }
    }

    /// Saves everything needed to go on from here.
    fn save(&mut self) -> Result<()> {
        self.need_finite()?;
        let metrics = self.metrics_path();
        sync(&metrics)?;
        self.state.metrics_bytes = fs_err::metadata(&metrics)?.len();
        self.state.metrics_sha256 = sha256_of(&metrics)?;
        let optimizer = self.trainer.optimizer();
        let checkpoint = Checkpoint {
            parameters: self.trainer.parameters().to_vec(),
            moments: optimizer.moments().to_vec(),
            optimizer_steps: optimizer.steps(),
            state: self.state.clone(),
        };
        let names = &self.trainer.trainable().names;
        checkpoint.save(&self.folder.join("state"), names, self.settings.keep_last)?;
        self.saved = Some(self.state.step);
        Ok(())
    }
}
