//! Progress of a run: a bar on a terminal, log lines elsewhere, and timings for programs.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use serde_json::json;
use tuner::{Observer, StepReport};

use crate::memory::gigabytes;
use crate::tensorboard::TensorBoard;

/// Number of steps that the displayed mean loss covers.
const MEAN_OVER: usize = 50;

/// Growth of memory since the tenth step that causes a warning.
const GROWTH_WARNING: f64 = 1.5;

/// Observer that shows progress and records timings.
pub struct Progress {
    bar: ProgressBar,
    steps: usize,
    first_step: usize,
    has_started: bool,
    started: Instant,
    losses: VecDeque<f64>,
    tokens: usize,
    checkpoint: usize,
    growth: Growth,
    rate: f64,
    with_group_norms: bool,
    group_norms: BTreeMap<String, f32>,
    timing: Option<PathBuf>,
    events: Option<TensorBoard>,
    stop: stage::StopFlag,
    /// Whether other ranks take part, which must all stop after the same step.
    is_shared: bool,
    /// Signal that all ranks know of.
    agreed: Option<i32>,
    /// Held during a step or a validation, which a signal does not end before they look at it.
    unhurried: Option<stage::Unhurried>,
}

impl Progress {
    /// Makes an observer that interrupts the run when `stop` is set, and writes one JSON line per report to `timing`.
    pub fn new(stop: stage::StopFlag, timing: Option<PathBuf>) -> Self {
        Self {
            bar: ProgressBar::hidden(),
            steps: 0,
            first_step: 0,
            has_started: false,
            started: Instant::now(),
            losses: VecDeque::new(),
            tokens: 0,
            checkpoint: 0,
            growth: Growth::default(),
            rate: 0.0,
            with_group_norms: false,
            group_norms: BTreeMap::new(),
            timing,
            events: None,
            stop,
            is_shared: false,
            agreed: None,
            unhurried: None,
        }
    }

    /// Stops only when all ranks of the run know of the signal.
    pub fn share(&mut self) {
        self.is_shared = true;
    }

    /// Writes a TensorBoard event file of the timings and of the run's `metrics`, next to the timings.
    pub fn follow(&mut self, metrics: &Path) {
        let Some((timing, folder)) = self.timing.as_ref().and_then(|timing| Some((timing, timing.parent()?)))
        else {
            return;
        };
        self.events = Some(TensorBoard::new(folder, [metrics.to_owned(), timing.clone()]));
    }

    fn write_events(&mut self) {
        let Some(events) = &mut self.events else { return };
        if let Err(error) = events.follow() {
            tracing::warn!("stopped writing TensorBoard events: {}", failure::describe(&error));
            self.events = None;
        }
    }

    /// Returns the mean loss of the last steps.
    fn mean(&self) -> f64 {
        self.losses.iter().sum::<f64>() / self.losses.len().max(1) as f64
    }

    fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.started.elapsed().as_secs_f64().max(1e-9)
    }

    fn remaining(&self, step: usize) -> Duration {
        let done = (step - self.first_step).max(1) as f64;
        self.started.elapsed().mul_f64((self.steps - step) as f64 / done)
    }

    /// Formats loss and learning rate.
    fn learning(&self, loss: f64) -> String {
        format!("loss {loss:.3} · mean {:.3} · rate {:.2e}", self.mean(), self.rate)
    }

    /// Formats speed, remaining time and memory.
    fn running(&mut self, step: usize) -> String {
        let memory = mlx_ext::resident_memory().unwrap_or(0);
        let growth = self.growth.relative(step - self.first_step, memory);
        format!(
            "{:.0} tokens/s · {} left · {} {:+.0}% · {} since checkpoint",
            self.tokens_per_second(),
            HumanDuration(self.remaining(step)),
            gigabytes(memory),
            100.0 * (growth - 1.0),
            step - self.checkpoint,
        )
    }

    /// Records the gradient norm of every group of parameters with the timings.
    pub fn record_group_norms(&mut self) {
        self.with_group_norms = true;
    }

    /// Returns whether training began with the first step.
    pub fn is_from_the_start(&self) -> bool {
        self.has_started && self.first_step == 0
    }

    /// Ends the bar and leaves its last state on the screen.
    pub fn finish(&self) {
        self.bar.abandon();
    }

    /// Summarizes the run for the last line of the stage.
    pub fn summary(&self, steps: u64) -> String {
        if self.losses.is_empty() {
            return format!("{steps} steps");
        }
        format!("{steps} steps, mean loss {:.3} over the last {}", self.mean(), self.losses.len())
    }
}

/// Growth of resident memory over a run.
#[derive(Debug, Default)]
struct Growth {
    first: Option<usize>,
    warned: bool,
}

impl Growth {
    /// Returns `memory` after `steps` steps of this process relative to that after the tenth step; warns once if it has grown.
    fn relative(&mut self, steps: usize, memory: usize) -> f64 {
        if self.first.is_none() && steps >= 10 {
            self.first = Some(memory);
        }
        let first = self.first.unwrap_or(memory).max(1);
        let growth = memory as f64 / first as f64;
        if growth > GROWTH_WARNING && !self.warned {
            self.warned = true;
            tracing::warn!(
                "memory has grown from {} to {} since step 10",
                gigabytes(first),
                gigabytes(memory)
            );
        }
        growth
    }
}

impl Observer for Progress {
    fn started(&mut self, step: usize, steps: usize) {
        self.steps = steps;
        self.first_step = step;
        self.has_started = true;
        self.checkpoint = step;
        self.started = Instant::now();
        if step > 0 {
            tracing::info!("resuming after step {step} of {steps}");
        }
        self.bar = stage::progress_bar(steps as u64);
        // On two lines, because one line would be cut on a terminal with 80 columns.
        self.bar.set_style(
            ProgressStyle::with_template("{bar:10} {percent:>3}% {pos}/{len} {prefix}\n{wide_msg}")
                .expect("the template is well formed"),
        );
        self.bar.set_position(step as u64);
    }

    fn stepping(&mut self) {
        self.unhurried = Some(self.stop.unhurried());
    }

    fn stepped(&mut self, step: usize, report: &StepReport, learning_rate: f64) {
        self.unhurried = None;
        self.tokens += report.targets;
        self.rate = learning_rate;
        if !report.group_norms.is_empty() {
            self.group_norms.clone_from(&report.group_norms);
        }
        self.losses.push_back(report.mean_loss());
        if self.losses.len() > MEAN_OVER {
            self.losses.pop_front();
        }
        if !self.bar.is_hidden() {
            self.bar.set_prefix(self.learning(report.mean_loss()));
            let running = self.running(step);
            self.bar.set_message(running);
        }
        self.bar.set_position(step as u64);
    }

    fn reported(&mut self, step: usize, train_loss: f64) {
        if self.bar.is_hidden() {
            let (learning, running) = (self.learning(train_loss), self.running(step));
            let (steps, percent) = (self.steps, 100 * step / self.steps.max(1));
            tracing::info!("{percent:>3}% {step}/{steps} {learning} · {running}");
        }
        let Some(path) = &self.timing else { return };
        let mut record = json!({
            "active_bytes": mlx_rs::memory::active_memory().unwrap_or(0),
            "peak_bytes": mlx_rs::memory::peak_memory().unwrap_or(0),
            "resident_bytes": mlx_ext::resident_memory(),
            "seconds": self.started.elapsed().as_secs_f64(),
            "step": step,
            "tokens_per_second": self.tokens_per_second(),
        });
        if self.with_group_norms {
            record["gradient_norms"] = json!(self.group_norms);
        }
        let file = fs_err::OpenOptions::new().create(true).append(true).open(path);
        if let Err(error) = file.and_then(|mut file| writeln!(file, "{record}")) {
            tracing::warn!("stopped recording timings: {}", failure::describe(&error));
            self.timing = None;
        }
        self.write_events();
    }

    fn validating(&mut self) {
        self.unhurried = Some(self.stop.unhurried());
    }

    fn validated(&mut self, step: usize, loss: f64) {
        self.unhurried = None;
        tracing::info!("step {step}: validation loss {loss:.4}");
        self.write_events();
    }

    fn waited(&mut self, waited: usize, patience: usize) {
        match patience.saturating_sub(waited) {
            0 => {}
            left if waited == 0 => {
                tracing::info!("a new best; training stops after {left} validations without a gain");
            }
            left => tracing::info!(
                "no gain in {waited} of {patience} validations; training stops after {left} more"
            ),
        }
    }

    fn checkpointed(&mut self, step: usize) {
        self.checkpoint = step;
        tracing::debug!("checkpoint at step {step}");
    }

    fn wants_group_norms(&self) -> bool {
        self.with_group_norms
    }

    fn signal(&self) -> i32 {
        self.stop.requested().unwrap_or(0)
    }

    fn told_to_stop(&mut self, signal: i32) {
        self.agreed = Some(signal);
        self.stop.set(signal);
    }

    fn interrupted(&self) -> bool {
        if self.is_shared { self.agreed.is_some() } else { self.stop.requested().is_some() }
    }

    fn interrupts_validation(&mut self) -> bool {
        let interrupts = self.interrupted();
        if interrupts {
            self.unhurried = None;
        }
        interrupts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_of_memory_by_half_is_reported_once() {
        let mut growth = Growth::default();
        // Memory of the first steps does not count.
        assert!((growth.relative(1, 50) - 1.0).abs() < 1e-9);
        assert!((growth.relative(10, 100) - 1.0).abs() < 1e-9);
        assert!((growth.relative(11, 149) - 1.49).abs() < 1e-9);
        assert!(!growth.warned);
        assert!((growth.relative(12, 151) - 1.51).abs() < 1e-9);
        assert!(growth.warned);
    }
}
