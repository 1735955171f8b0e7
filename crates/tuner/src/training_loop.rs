//! The training loop: steps, reports, validations, checkpoints and resuming.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use artifact::atomic;
use dataset::Split;
use outputs::{Line as _, MetricsLine, Stop, Summary, TrainLine, ValidationLine};

use crate::adapter::{AdapterSettings, save_adapters};
use crate::batch::Batch;
use crate::batch_order::BatchOrder;
use crate::distrust::Distrust;
use crate::early_stopping::EarlyStopping;
use crate::error::{Error, Result};
use crate::prefetch::{Source, StepData, with_data};
use crate::resume_state::{
    ResumeState, RunCounters, check_checkpoints, check_file, sha256_of, step_name, sync,
};
use crate::schedule::ScheduleSettings;
use crate::score::{Scorer, score_by_ranks};
use crate::sharing;
use crate::trainer::{StartedStep, Step, StepReport, Trainer};

/// Settings of a training run besides those of the model and the optimizer.
#[derive(Debug, Clone)]
pub struct TrainingSettings {
    /// Number of steps.
    pub steps: usize,
    /// Learning rate of each step.
    pub schedule: ScheduleSettings,
    /// Micro-batches per step; the last step of an epoch takes those that are left.
    pub accumulation: usize,
    /// Slices per micro-batch, computed one after another or by several ranks.
    pub slices: usize,
    /// Rows are padded to a multiple of this many tokens.
    pub pad_to: usize,
    /// Global norm that gradients are clipped to; `None` for no clipping.
    pub max_gradient_norm: Option<f32>,
    /// Steps between lines of metrics.
    pub report_every: usize,
    /// Steps between checkpoints; the last step and every step with a validation have one too.
    pub checkpoint_every: usize,
    /// Steps between resume states.
    pub save_every: usize,
    /// Steps between validations; 0 for none.
    pub validation_every: usize,
    /// Rows per batch of a validation.
    pub validation_batch_size: usize,
    /// Rules for stopping early.
    pub early_stopping: EarlyStopping,
    /// Settings of the adapters, for the configuration file of checkpoints.
    pub adapter: AdapterSettings,
    /// Distrust losses of the training rows.
    pub distrust: Option<Distrust>,
    /// Steps whose rows are prepared in advance on another thread; 0 for none. Does not change the result.
    pub prefetch: usize,
    /// Number of resume states to keep, at least one. Checkpoints are never deleted.
    pub keep_last: usize,
}

impl Default for TrainingSettings {
    fn default() -> Self {
        let schedule = ScheduleSettings::default();
        Self {
            steps: schedule.steps,
            schedule,
            accumulation: 1,
            slices: 1,
            pad_to: 8,
            max_gradient_norm: Some(1.0),
            report_every: 10,
            checkpoint_every: 100,
            save_every: 25,
            validation_every: 0,
            validation_batch_size: 4,
            early_stopping: EarlyStopping::default(),
            adapter: AdapterSettings::default(),
            distrust: None,
            prefetch: 2,
            keep_last: 2,
        }
    }
}

/// Receives the events of a run. Every method has a default that does nothing.
#[expect(unused_variables, reason = "defaults ignore their arguments, whose names document them")]
pub trait Observer {
    /// The run starts, or resumes after `step` of `steps` steps.
    fn started(&mut self, step: usize, steps: usize) {}
    /// A step is started, or its end is waited for; [`Observer::stepped`] follows.
    fn stepping(&mut self) {}
    /// A step was taken.
    fn stepped(&mut self, step: usize, report: &StepReport, learning_rate: f64) {}
    /// A line of metrics was written.
    fn reported(&mut self, step: usize, train_loss: f64) {}
    /// A validation starts; [`Observer::validated`] follows, unless it is interrupted.
    fn validating(&mut self) {}
    /// The validation split was scored.
    fn validated(&mut self, step: usize, loss: f64) {}
    /// The last `waited` validations made no gain; the run stops after `patience` of them.
    fn waited(&mut self, waited: usize, patience: usize) {}
    /// A checkpoint was written.
    fn checkpointed(&mut self, step: usize) {}
    /// Asked after every step; true saves a resume state and ends the run.
    fn interrupted(&self) -> bool {
        false
    }
    /// Asked before every batch of a validation; true ends the validation, saves a resume state and ends the run. The resumed
    /// run validates first. With several ranks, all must answer the same.
    fn interrupts_validation(&mut self) -> bool {
        false
    }
    /// Asked before every step and batch of a validation in a run over several ranks: the signal that asked this process to stop, 0 for none.
    fn signal(&self) -> i32 {
        0
    }
    /// One of the ranks got a signal, and all stop after the step that ends now, or in this validation.
    fn told_to_stop(&mut self, signal: i32) {}
    /// Asked before steps with a report; true adds the gradient norm of every group of parameters to the step's report.
    fn wants_group_norms(&self) -> bool {
        false
    }
}

/// The splits that training reads.
#[derive(Clone, Copy)]
pub struct Splits<'a> {
    /// Rows to train on.
    pub train: &'a Split,
    /// Rows to score every `validation_every` steps.
    pub validation: &'a Split,
}

/// Trains until the last step, an early stop or an interruption.
///
/// `folder` survives the process and holds `metrics.jsonl`, `checkpoints/<step>/adapters` and `state/<step>`. If it has a
/// resume state, the run resumes from it and ends with the same bytes as an uninterrupted run. If the trainer has ranks, only
/// rank 0 uses the folder.
///
/// # Errors
///
/// Fails before the first step if validations are due and their split has no rows. Fails when a loss, a gradient or a parameter
/// is not finite; checkpoints and resume states from before are kept.
pub fn train(
    trainer: &mut Trainer,
    order: &mut BatchOrder,
    splits: Splits<'_>,
    settings: &TrainingSettings,
    folder: &Path,
    observer: &mut dyn Observer,
) -> Result<Summary> {
    if settings.validation_every > 0 && splits.validation.is_empty() {
        return Err(Error::EmptySplit { split: "validation".to_owned() });
    }
    let mut training = TrainingLoop {
        trainer,
        settings,
        folder,
        counters: RunCounters::default(),
        metrics_bytes: 0,
        rows: Vec::new(),
        saved: None,
        started: None,
    };
    training.resume()?;
    observer.started(training.counters.step, settings.steps);
    let source = Source {
        order,
        split: splits.train,
        accumulation: settings.accumulation,
        slices: settings.slices,
        pad_to: settings.pad_to,
        factors: settings.distrust.as_ref().and_then(Distrust::factors),
        steps: training.counters.step..settings.steps,
    };
    if training.counters.validation_due {
        training.complete(splits.validation, observer)?;
    }
    let stop = with_data(source, settings.prefetch, |next| {
        loop {
            if training.started.is_none()
                && let Some(stop) = training.ending(observer)?
            {
                return Ok::<Stop, Error>(stop);
            }
            training.step(next(), splits.validation, observer)?;
        }
    })?;
    if stop != Stop::Interrupted {
        training.checkpoint(observer)?;
        training.save()?;
    }
    let trainable = training.trainer.trainable();
    Ok(Summary {
        frozen_parameters: trainable.frozen as u64,
        steps: training.counters.step as u64,
        stop,
        trainable_parameters: trainable.trainable as u64,
        trained_tokens: training.counters.trained_tokens,
    })
}

struct TrainingLoop<'a> {
    trainer: &'a mut Trainer,
    settings: &'a TrainingSettings,
    folder: &'a Path,
    counters: RunCounters,
    /// Length of the metrics that this run has written.
    metrics_bytes: u64,
    /// Rows of the last step.
    rows: Vec<u32>,
    /// Step of the newest resume state.
    saved: Option<usize>,
    /// The step after `counters.step`, if it was started and not finished.
    started: Option<Started>,
}

/// A step that was started, with what its report needs.
struct Started {
    /// `None` without targets.
    step: Option<StartedStep>,
    rows: Vec<u32>,
    epoch: f64,
    learning_rate: f64,
}

impl TrainingLoop<'_> {
    /// Returns whether this process reads and writes the folder of the run.
    fn has_folder(&self) -> bool {
        self.trainer.ranks().is_none_or(|ranks| ranks.is_first())
    }

    fn metrics_path(&self) -> PathBuf {
        self.folder.join(outputs::METRICS)
    }

    fn checkpoint_path(&self, step: usize) -> PathBuf {
        self.folder.join(outputs::CHECKPOINTS).join(step_name(step))
    }

    /// Loads the newest undamaged resume state whose metrics and checkpoints are undamaged too.
    fn resume(&mut self) -> Result<()> {
        let mut loaded = None;
        if self.has_folder() {
            fs_err::create_dir_all(self.folder)?;
            let names = self.trainer.trainable().names.clone();
            let check = |counters: &RunCounters| self.check(counters);
            loaded = ResumeState::load_newest(&self.folder.join(outputs::STATE), &names, check)?;
        }
        if let Some(ranks) = self.trainer.ranks() {
            loaded = sharing::resume_state(ranks, self.trainer, loaded)?;
        }
        if let Some(loaded) = loaded {
            self.trainer.restore(loaded.parameters, loaded.moments, loaded.optimizer_steps)?;
            self.counters = loaded.counters;
            self.saved = Some(self.counters.step);
        }
        if !self.has_folder() {
            return Ok(());
        }
        // Lines that were written after the state will be written again.
        let metrics = fs_err::OpenOptions::new().create(true).append(true).open(self.metrics_path())?;
        self.metrics_bytes = self.counters.metrics_bytes;
        metrics.set_len(self.metrics_bytes)?;
        metrics.sync_all()?;
        Ok(())
    }

    /// Verifies metrics and checkpoints against the hashes in a resume state.
    fn check(&self, counters: &RunCounters) -> Result<()> {
        if counters.metrics_bytes > 0 {
            check_file(self.metrics_path(), counters.metrics_bytes, &counters.metrics_sha256)?;
        }
        check_checkpoints(&self.folder.join(outputs::CHECKPOINTS), counters)
    }

    /// Returns how the run ended, if it ended with the last step; saves a resume state of an interrupted run.
    fn ending(&mut self, observer: &dyn Observer) -> Result<Option<Stop>> {
        if self.counters.validation_due {
            self.save()?;
            return Ok(Some(Stop::Interrupted));
        }
        if let Some(reason) = &self.counters.stopped {
            return Ok(Some(Stop::Early(reason.clone())));
        }
        if self.counters.step >= self.settings.steps {
            return Ok(Some(Stop::Finished));
        }
        // A process that was killed may have saved the state at which the run was to end.
        if self.counters.step > 0 && observer.interrupted() {
            self.save()?;
            return Ok(Some(Stop::Interrupted));
        }
        Ok(None)
    }

    /// Takes one step, then writes all reports, checkpoints and resume states that are due.
    ///
    /// Where steps run on while the next one is prepared, a step after which nothing is due is finished only when the next
    /// one has been started. Nothing in the folder of the run depends on that.
    fn step(&mut self, data: StepData, validation: &Split, observer: &mut dyn Observer) -> Result<()> {
        let index = self.counters.step + usize::from(self.started.is_some());
        if let Some(ranks) = self.trainer.ranks() {
            ranks.set_signal(observer.signal());
        }
        let started = self.start(index, data, observer)?;
        if let Some(signal) = self.trainer.ranks().and_then(|ranks| ranks.agreed_signal()) {
            observer.told_to_stop(signal);
        }
        if let Some(earlier) = self.started.take() {
            self.finish(earlier, validation, observer)?;
            // The rules for stopping early have seen only the step before this one.
            if self.counters.stopped.is_some() || observer.interrupted() {
                if let Some(step) = started.step {
                    self.trainer.undo(step);
                }
                return Ok(());
            }
        }
        if self.trainer.is_read_late(started.step.as_ref()) && !self.is_due(index + 1) {
            self.started = Some(started);
            return Ok(());
        }
        self.finish(started, validation, observer)
    }

    /// Returns whether something must happen between `step` and the next step.
    fn is_due(&self, step: usize) -> bool {
        let settings = self.settings;
        let every = |steps: usize| steps > 0 && step.is_multiple_of(steps);
        step >= settings.steps
            || self.is_report_due(step)
            || every(settings.validation_every)
            || every(settings.checkpoint_every)
            || every(settings.save_every)
    }

    fn is_report_due(&self, step: usize) -> bool {
        step.is_multiple_of(self.settings.report_every) || step == self.settings.steps
    }

    /// Starts the step after `index` steps.
    fn start(&mut self, index: usize, data: StepData, observer: &mut dyn Observer) -> Result<Started> {
        observer.stepping();
        let learning_rate = self.settings.schedule.rate(index);
        let StepData { batches, rows, epochs } = data;
        let batches: Vec<Batch> = batches.into_iter().map(Batch::from).collect();
        self.trainer.set_group_norms(observer.wants_group_norms() && self.is_report_due(index + 1));
        let step = Step {
            number: index + 1,
            learning_rate,
            max_gradient_norm: self.settings.max_gradient_norm,
            rows: &rows,
        };
        let step = self.trainer.start(&batches, step).map_err(|error| self.with_what_is_kept(error))?;
        Ok(Started { step, rows, epoch: epochs, learning_rate })
    }

    /// Finishes a step, then writes all reports, checkpoints and resume states that are due.
    fn finish(&mut self, started: Started, validation: &Split, observer: &mut dyn Observer) -> Result<()> {
        let settings = self.settings;
        let Started { step, rows, epoch, learning_rate } = started;
        observer.stepping();
        let report = step.map_or_else(|| Ok(StepReport::default()), |step| self.trainer.finish(step));
        let report = report.map_err(|error| self.with_what_is_kept(error))?;

        if let Some(added) = settings.distrust.as_ref().and_then(|distrust| distrust.added(&rows)) {
            self.counters.window_distrust += added * report.weight;
        }
        self.rows = rows;
        self.counters.step += 1;
        self.counters.trained_tokens += report.targets as u64;
        self.counters.window_loss += report.loss_sum;
        self.counters.window_weight += report.weight;
        let step = self.counters.step;
        observer.stepped(step, &report, learning_rate);
        let warming_up = step <= settings.schedule.warmup_steps;
        let rules = settings.early_stopping;
        let mut stop = rules.on_step(&mut self.counters.early_stopping, report.gradient_norm, warming_up);
        // Rows without targets have no mean loss.
        if self.is_report_due(step) && self.counters.window_weight > 0.0 {
            let loss = self.report(epoch, &report, learning_rate)?;
            observer.reported(step, loss);
            stop = stop.or(rules.on_report(&mut self.counters.early_stopping, loss));
        }
        // Set before anything is saved: a run killed after its last step must not take another one.
        self.counters.stopped = stop;
        self.counters.validation_due =
            settings.validation_every > 0 && step.is_multiple_of(settings.validation_every);
        self.complete(validation, observer)
    }

    /// Validates if that is due, then writes the checkpoint and the resume state that are due after the last step.
    ///
    /// Writes nothing if the validation is interrupted; it stays due.
    fn complete(&mut self, validation: &Split, observer: &mut dyn Observer) -> Result<()> {
        let (settings, step) = (self.settings, self.counters.step);
        let validates = self.counters.validation_due;
        if validates {
            let Some(loss) = self.validate(validation, observer)? else { return Ok(()) };
            self.counters.validation_due = false;
            observer.validated(step, loss);
            let rules = settings.early_stopping;
            let stop = rules.on_validation(&mut self.counters.early_stopping, loss);
            self.counters.stopped = self.counters.stopped.take().or(stop);
            if rules.patience > 0 {
                let waited = EarlyStopping::validations_without_gain(&self.counters.early_stopping);
                observer.waited(waited, rules.patience);
            }
        }
        // A validated step can be the best one, so `select-best` must find it.
        if validates || step.is_multiple_of(settings.checkpoint_every) {
            self.checkpoint(observer)?;
        }
        if step.is_multiple_of(settings.save_every) {
            self.save()?;
        }
        Ok(())
    }

    /// Adds to an error of divergence what was saved before it.
    fn with_what_is_kept(&self, error: Error) -> Error {
        let Error::Diverged { step, reason, rows, .. } = error else { return error };
        let checkpoint = self.counters.checkpoints.keys().next_back();
        let kept = match (checkpoint, self.saved) {
            (Some(&last), _) => {
                let path = self.checkpoint_path(last);
                format!("the last good checkpoint, of step {last}, is kept in `{}`", path.display())
            }
            (None, Some(saved)) => {
                format!("the resume state of step {saved} is kept, but there was no checkpoint yet")
            }
            (None, None) => "nothing was saved before it".to_owned(),
        };
        Error::Diverged { step, reason, rows, kept }
    }

    /// Writes a line of metrics and returns the mean loss since the last one.
    fn report(&mut self, epoch: f64, report: &StepReport, learning_rate: f64) -> Result<f64> {
        let counters = &self.counters;
        let train_loss = counters.window_loss / counters.window_weight;
        let added = self.settings.distrust.as_ref().and_then(|distrust| distrust.added(&[]));
        self.append(&MetricsLine::Train(TrainLine {
            distrust_loss: added.map(|_| counters.window_distrust / counters.window_weight),
            epoch,
            gradient_norm: report.gradient_norm,
            learning_rate,
            step: counters.step as u64,
            train_loss,
            trained_tokens: counters.trained_tokens,
        }))?;
        self.counters.window_loss = 0.0;
        self.counters.window_distrust = 0.0;
        self.counters.window_weight = 0.0;
        Ok(train_loss)
    }

    /// Returns the mean loss of the validation split; `None` if the observer interrupts.
    fn validate(&mut self, validation: &Split, observer: &mut dyn Observer) -> Result<Option<f64>> {
        let model = self.trainer.model()?;
        let batch_size = self.settings.validation_batch_size;
        let ranks = self.trainer.ranks().map(Rc::as_ref);
        observer.validating();
        let stop = &mut |batch: usize| -> Result<bool> {
            if let Some(ranks) = ranks {
                // Every rank has one of the batches until they exchange signals again.
                if !batch.is_multiple_of(ranks.size()) {
                    return Ok(false);
                }
                ranks.set_signal(observer.signal());
                ranks.exchange_signals()?;
                if let Some(signal) = ranks.agreed_signal() {
                    observer.told_to_stop(signal);
                }
            }
            Ok(observer.interrupts_validation())
        };
        let by = match ranks {
            Some(ranks) => self.trainer.shard_of(ranks).map_or(Scorer::OfRows(ranks), Scorer::OfBlocks),
            None => Scorer::Alone,
        };
        let score = score_by_ranks(stop, &model, validation, "validation", batch_size, &by)?;
        let Some(score) = score else { return Ok(None) };
        let loss = score.mean_loss();
        self.append(&MetricsLine::Validation(ValidationLine {
            step: self.counters.step as u64,
            validation_loss: loss,
            validation_tokens: score.tokens(),
        }))?;
        Ok(Some(loss))
    }

    fn append(&mut self, line: &MetricsLine) -> Result<()> {
        if !self.has_folder() {
            return Ok(());
        }
        let mut file = fs_err::OpenOptions::new().append(true).open(self.metrics_path())?;
        let line = line.to_line();
        file.write_all(line.as_bytes())?;
        self.metrics_bytes += line.len() as u64;
        Ok(())
    }

    /// Writes the parameters as a checkpoint, completely or not at all.
    fn checkpoint(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let step = self.counters.step;
        if self.counters.checkpoints.contains_key(&step) {
            return Ok(());
        }
        self.check_finite()?;
        if !self.has_folder() {
            return Ok(());
        }
        let target = self.checkpoint_path(step);
        let sum = atomic::write_folder(&target, |unfinished| {
            let adapters = unfinished.join(outputs::ADAPTERS);
            let names = &self.trainer.trainable().names;
            let layer_count = self.trainer.layer_count();
            save_adapters(&adapters, &self.settings.adapter, layer_count, names, self.trainer.parameters())?;
            sha256_of(&adapters.join("adapters.safetensors"))
        })?;
        self.counters.checkpoints.insert(step, sum);
        observer.checkpointed(step);
        Ok(())
    }

    /// Fails if a parameter or moment is not finite, so that nothing broken is saved.
    fn check_finite(&self) -> Result<()> {
        let Some(name) = self.trainer.first_not_finite()? else { return Ok(()) };
        Err(self.with_what_is_kept(Error::Diverged {
            step: self.counters.step,
            reason: format!("{name} is not finite"),
            rows: self.rows.clone(),
            kept: String::new(),
        }))
    }

    /// Saves a resume state. Fails if another process has written to the metrics.
    fn save(&mut self) -> Result<()> {
        self.check_finite()?;
        if !self.has_folder() {
            return Ok(());
        }
        let metrics = self.metrics_path();
        sync(&metrics)?;
        self.counters.metrics_bytes = fs_err::metadata(&metrics)?.len();
        if self.counters.metrics_bytes != self.metrics_bytes {
            let reason =
                "has lines that this run did not write; another process works in the same folder".to_owned();
            return Err(Error::ResumeState { path: metrics, reason });
        }
        self.counters.metrics_sha256 = sha256_of(&metrics)?;
        let optimizer = self.trainer.optimizer();
        let state = ResumeState {
            parameters: self.trainer.parameters().to_vec(),
            moments: optimizer.moments().to_vec(),
            optimizer_steps: optimizer.steps(),
            counters: self.counters.clone(),
        };
        let names = &self.trainer.trainable().names;
        state.save(&self.folder.join(outputs::STATE), names, self.settings.keep_last)?;
        self.saved = Some(self.counters.step);
        Ok(())
    }
}
