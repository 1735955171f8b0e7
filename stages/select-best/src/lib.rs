//! Chooses the checkpoint with the lowest loss over the whole validation split, and says how sure the choice is.
//!
//! Reads the checkpoints of `train` and the losses of `validate`, writes the chosen adapter and `choice.json`. Losses
//! are taken as measured: measuring them is `validate`'s work, training `train`'s. The base model (step 0) is reported
//! but never chosen. Ties go to the earlier step.
//!
//! Whether the runner-up could be as good is asked of a paired bootstrap over the rows of the split: when the interval
//! of the gap reaches 0, the choice is within noise.
//!
//! ```no_run
//! use std::path::Path;
//!
//! let config = select_best::Config::default();
//! let choice = select_best::run(Path::new("checkpoints"), Path::new("losses.json"), &config, Path::new("out"))?;
//! println!("step {}: {}", choice.step, choice.reason);
//! # Ok::<(), select_best::Error>(())
//! ```

mod losses;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use metrics::LossSum;
use metrics::bootstrap::{Bootstrap, paired_losses};
use serde::{Deserialize, Serialize};

pub use losses::{Checkpoint, Losses, Row};

/// Settings of `select-best`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How often the rows are drawn again for the interval.
    pub resamples: usize,
    /// The part of the draws inside the interval.
    pub confidence: f64,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { resamples: 1000, confidence: 0.95, seed: 1 }
    }
}

impl stage::Config for Config {
    const STAGE: &'static str = "select-best";
    const VERSION: u32 = 1;

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !(100..=1_000_000).contains(&self.resamples) {
            problems.push(format!("`resamples` is {}; it must be 100 to 1000000", self.resamples));
        }
        if !(self.confidence > 0.5 && self.confidence < 1.0) {
            problems.push(format!("`confidence` is {}; it must be above 0.5 and below 1", self.confidence));
        }
        problems
    }

    fn slug(&self) -> String {
        "lowest-loss".to_owned()
    }
}

/// Why no checkpoint was chosen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written; the message names it.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The losses are not in the known form.
    #[error("cannot read `{}`: {source}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// The losses contradict themselves or cannot be compared.
    #[error("`{}`: {reason}", path.display())]
    Losses {
        /// The file.
        path: PathBuf,
        /// What is wrong, and with which step or row.
        reason: String,
    },
    /// The checkpoints and the losses are not of the same run.
    #[error(
        "the losses are not of these checkpoints: {reason}\nhint: run `validate` again with the same `--train` artifact"
    )]
    Mismatch {
        /// The steps that only one side has.
        reason: String,
    },
    /// A checkpoint is not in the known form.
    #[error("checkpoint `{}` {reason}", path.display())]
    Checkpoint {
        /// The checkpoint's folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The interval could not be computed.
    #[error("cannot compare the two best checkpoints: {0}")]
    Bootstrap(metrics::Error),
}

impl Error {
    /// Tells whether other inputs would help.
    pub fn is_about_input(&self) -> bool {
        !matches!(self, Self::Io(_) | Self::Bootstrap(_))
    }
}

/// What `choice.json` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// The chosen step.
    pub step: u64,
    /// Its loss, in nats per counted token.
    pub loss: f64,
    /// The loss of the base model.
    pub base_loss: f64,
    /// All checkpoints, by step.
    pub candidates: Vec<Candidate>,
    /// The second best, if there is one.
    pub runner_up: Option<Candidate>,
    /// How much higher the loss of the runner-up is.
    pub gap: Option<f64>,
    /// Interval of the gap over the rows of the split.
    pub gap_interval: Option<[f64; 2]>,
    /// Whether the runner-up could be as good.
    pub within_noise: bool,
    /// The choice in words.
    pub reason: String,
}

/// A checkpoint that could be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Its step.
    pub step: u64,
    /// Its loss, in nats per counted token.
    pub loss: f64,
}

/// Chooses among the folders in `checkpoints` by the losses in the file `losses`, and writes `adapters/` and
/// `choice.json` to `out`.
///
/// # Errors
///
/// Fails on losses that are not finite, that contradict themselves or that are not of these very checkpoints, and
/// when files cannot be read or written.
pub fn run(checkpoints: &Path, losses: &Path, config: &Config, out: &Path) -> Result<Choice, Error> {
    let measured = Losses::read(losses)?;
    let trained = trained_steps(checkpoints)?;
    match_steps(&trained, &measured)?;
    let choice = choose(&measured, losses, config)?;
    let chosen = checkpoints.join(format!("{:07}", choice.step)).join("adapters");
    copy_adapters(&chosen, &out.join("adapters"))?;
    let mut text = serde_json::to_string_pretty(&choice).expect("a choice is plain data");
    text.push('\n');
    fs_err::write(out.join("choice.json"), text)?;
    Ok(choice)
}

/// Chooses among checked losses; `path` is named in errors.
///
/// # Errors
///
/// Fails when there is no base, no checkpoint, or no interval.
pub fn choose(losses: &Losses, path: &Path, config: &Config) -> Result<Choice, Error> {
    let none = |what: &str| Error::Losses { path: path.to_owned(), reason: format!("it has no {what}") };
    let base = losses.checkpoints.iter().find(|c| c.step == 0).ok_or_else(|| none("base model (step 0)"))?;
    let mut ranked: Vec<&Checkpoint> = losses.checkpoints.iter().filter(|c| c.step != 0).collect();
    ranked.sort_by_key(|checkpoint| checkpoint.step);
    let candidates = ranked.iter().map(|c| Candidate { step: c.step, loss: c.loss }).collect();
    // The sort is stable: among equal losses the earlier step stays first.
    ranked.sort_by(|a, b| a.loss.total_cmp(&b.loss));
    let best = *ranked.first().ok_or_else(|| none("trained checkpoint"))?;
    let mut choice = Choice {
        step: best.step,
        loss: best.loss,
        base_loss: base.loss,
        candidates,
        runner_up: None,
        gap: None,
        gap_interval: None,
        within_noise: false,
        reason: String::new(),
    };
    if let Some(second) = ranked.get(1) {
        let settings =
            Bootstrap { resamples: config.resamples, confidence: config.confidence, seed: config.seed };
        let interval =
            paired_losses(&row_losses(best), &row_losses(second), &settings).map_err(Error::Bootstrap)?;
        choice.runner_up = Some(Candidate { step: second.step, loss: second.loss });
        choice.gap = Some(second.loss - best.loss);
        choice.gap_interval = Some([interval.low, interval.high]);
        // One row cannot vary: its interval says nothing.
        choice.within_noise = interval.low <= 0.0 || best.rows.len() < 2;
    }
    choice.reason = explain(&choice, config);
    Ok(choice)
}

fn row_losses(checkpoint: &Checkpoint) -> Vec<LossSum> {
    checkpoint.rows.iter().map(|row| LossSum::new(row.loss, row.tokens)).collect()
}

fn explain(choice: &Choice, config: &Config) -> String {
    let chosen = format!("step {} has the lowest validation loss, {:.4}", choice.step, choice.loss);
    let runner_up = match (&choice.runner_up, choice.gap, choice.gap_interval) {
        (Some(second), Some(gap), Some([low, high])) => {
            let percent = (config.confidence * 1000.0).round() / 10.0;
            let verdict = if gap == 0.0 {
                "a tie, which goes to the earlier"
            } else if choice.within_noise {
                "within noise"
            } else {
                "beyond noise"
            };
            format!(
                "step {} follows {gap:.4} behind ({percent} % interval {low:.4} to {high:.4}): {verdict}",
                second.step
            )
        }
        _ => "there is no other checkpoint".to_owned(),
    };
    let base = if choice.loss >= choice.base_loss {
        format!("no better than the base model ({:.4})", choice.base_loss)
    } else {
        format!("the base model has {:.4}", choice.base_loss)
    };
    format!("{chosen}; {runner_up}; {base}")
}

/// Lists the steps for which `train` wrote a checkpoint.
fn trained_steps(checkpoints: &Path) -> Result<BTreeSet<u64>, Error> {
    let mut steps = BTreeSet::new();
    for entry in fs_err::read_dir(checkpoints)? {
        let path = entry?.path();
        let fail = |reason: &str| Error::Checkpoint { path: path.clone(), reason: reason.to_owned() };
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let step: u64 = name
            .parse()
            .ok()
            .filter(|step| format!("{step:07}") == name)
            .ok_or_else(|| fail("is not named by a step of seven digits"))?;
        for file in ["adapters.safetensors", "adapter_config.json"] {
            if !path.join("adapters").join(file).is_file() {
                return Err(fail(&format!("has no `adapters/{file}`")));
            }
        }
        steps.insert(step);
    }
    Ok(steps)
}

fn match_steps(trained: &BTreeSet<u64>, losses: &Losses) -> Result<(), Error> {
    let trained: BTreeSet<u64> = trained.iter().copied().filter(|step| *step != 0).collect();
    let measured: BTreeSet<u64> =
        losses.checkpoints.iter().map(|c| c.step).filter(|step| *step != 0).collect();
    let list = |steps: Vec<&u64>| {
        let shown: Vec<String> = steps.iter().take(5).map(|step| format!("`{step}`")).collect();
        let more = steps.len().saturating_sub(5);
        let tail = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("{}{tail}", shown.join(", "))
    };
    let without_loss: Vec<_> = trained.difference(&measured).collect();
    let without_checkpoint: Vec<_> = measured.difference(&trained).collect();
    let mut reasons = Vec::new();
    if !without_loss.is_empty() {
        reasons.push(format!("no loss for step {}", list(without_loss)));
    }
    if !without_checkpoint.is_empty() {
        reasons.push(format!("no checkpoint for step {}", list(without_checkpoint)));
    }
    if reasons.is_empty() { Ok(()) } else { Err(Error::Mismatch { reason: reasons.join("; ") }) }
}

/// Copies the files of a folder, sharing their blocks where the file system can.
fn copy_adapters(from: &Path, to: &Path) -> Result<(), Error> {
    fs_err::create_dir_all(to)?;
    for entry in fs_err::read_dir(from)? {
        let path = entry?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        reflink_copy::reflink_or_copy(&path, &target).map_err(|error| {
            let message = format!("failed to copy `{}` to `{}`: {error}", path.display(), target.display());
            std::io::Error::new(error.kind(), message)
        })?;
    }
    Ok(())
}
