//! Fine-tunes a model on a dataset: adapters or weights, checkpoints on the way, everything needed to go on.
//!
//! The work is `tuner`'s; this crate reads the settings, opens the inputs, shows progress and lays out the artifact:
//! `checkpoints/<step>/adapters`, `metrics.jsonl`, `state/` and `summary.json`.

mod config;
mod curve;
mod find_learning_rate;
mod losses;
mod memory;
mod order;
mod part;
mod progress;
mod reuse;
mod tensorboard;

pub use config::{Config, CurriculumName};
pub use find_learning_rate::{FinderArgs, Finding, Point, find_learning_rate, suggest};
pub use memory::Estimate;
pub use part::StopAt;
pub use progress::Progress;
pub use reuse::{LENGTH_SETTINGS, describe_reuse};
pub use tensorboard::TensorBoard;

use anyhow::{Context, Result};
use dataset::Split;
use mlx_ext::Backend;
use models::{LoadOptions, Model};
use part::Until;
use serde_json::json;
use std::path::{Path, PathBuf};
use tuner::{Distrust, DistrustMode, Observer, TrainingSettings, Stop, Summary, Trainable, Trainer};

/// The folders a run reads.
pub struct Inputs<'a> {
    /// A Hugging Face model folder; with only a `config.json` the weights are drawn from the seed.
    pub model: &'a Path,
    /// A dataset's `tokens`.
    pub tokens: &'a Path,
    /// A dataset's `rows`; read only for the distrust loss and a curriculum by loss.
    pub rows: Option<&'a Path>,
    /// Losses of the training rows; read only for a curriculum by loss.
    pub losses: Option<&'a Path>,
    /// The data of published runs that differ only in [`LENGTH_SETTINGS`].
    pub shorter: &'a [PathBuf],
    /// What the part of this run left that it goes on from.
    pub part: Option<&'a Path>,
}

/// What is saved on the way, where the run ends for now, and what is made ready ahead: none of it changes the result.
#[derive(Debug, Clone, Copy)]
pub struct Saving {
    /// Steps between saved states.
    pub every: usize,
    /// How many of them are kept.
    pub keep_last: usize,
    /// Stop there and lay out a part, to go on from.
    pub stop_at: Option<StopAt>,
    /// Steps whose rows are made ready ahead of time.
    pub prefetch: usize,
}

/// Trains in `work`, which survives the process, and lays the result out in `out`.
///
/// Returns what the run came to. An interrupted run leaves `out` empty; one that stopped where `saving` says leaves a part
/// there, even if it came to its end before.
///
/// # Errors
///
/// Fails when an input does not fit the settings, and when the loss is no longer a number.
pub fn run(
    inputs: &Inputs<'_>,
    config: &Config,
    backend: &Backend,
    saving: Saving,
    (work, out): (&Path, &Path),
    observer: &mut dyn Observer,
) -> Result<Summary> {
    let train = open_split(inputs.tokens, "train")?;
    let validation = open_split(inputs.tokens, "validation")?;
    let mut model = load(inputs.model, config, backend)?;
    for (split, name) in [(&train, "train"), (&validation, "validation")] {
        tuner::check_vocabulary(&model, split, name)
            .with_context(|| format!("checking `{}`", inputs.tokens.display()))?;
    }
    let settings = config.adapter();
    let trainable = tuner::attach(&mut model, &settings, config.seed)?;
    tell(&trainable);
    let mut trainer = Trainer::new(model, trainable.clone(), config.optimizer(), config.seed)?;
    trainer.set_dropout(settings.dropout);
    trainer.set_gradient_checkpointing(config.gradient_checkpointing);
    let mut plan = order::plan(inputs, config, &train)?;
    let distrust = distrust(inputs, config)?;
    let settings = config.run(&mut plan, (saving.every, saving.keep_last), distrust);
    let settings = TrainingSettings { prefetch: saving.prefetch, ..settings };
    let earlier = inputs.part.map(|part| part::take_up(part, work)).transpose()?;
    if earlier.is_none()
        && let Some(steps) = reuse::adopt(inputs.shorter, config, &settings, work)?
    {
        tracing::info!("a shorter run of {steps} steps is published; this one goes on from there");
    }
    let end = saving.stop_at.map_or(settings.steps, |stop_at| stop_at.step(settings.steps));
    let is_there = |earlier: &Summary| earlier.stop != Stop::Interrupted || earlier.step >= end;
    let (summary, complete) = if let Some(summary) = earlier.filter(is_there) {
        (summary, true)
    } else {
        let mut until = Until::new(observer, saving.stop_at);
        let splits = (&train, &validation);
        let summary = tuner::train(&mut trainer, &mut plan, splits, &settings, work, &mut until)?;
        let complete = summary.stop != Stop::Interrupted || until.is_reached();
        (summary, complete)
    };
    match saving.stop_at {
        Some(_) if complete => lay_out(work, &out.join(stage::SEGMENT_OUTPUT), &summary, &trainable)?,
        None if complete => lay_out(work, out, &summary, &trainable)?,
        _ => {}
    }
    Ok(summary)
}

/// The distrust losses of the training rows, if the settings ask for them.
fn distrust(inputs: &Inputs<'_>, config: &Config) -> Result<Option<Distrust>> {
    if config.distrust == DistrustMode::Off {
        return Ok(None);
    }
    let path = inputs.rows.context("the distrust loss needs the dataset's `rows`")?.join("train.jsonl");
    let mut losses = Vec::new();
    for row in dataset::read_rows(&path)? {
        let row = row?;
        let loss = match (row.auth_weight, row.prov_entropy) {
            (Some(authority), Some(entropy)) => {
                let loss = tuner::distrust_loss(authority, entropy, config.distrust_alpha);
                let place = || format!("row `{}` from {}", row.id, row.source);
                Some(loss.with_context(place).map_err(stage::bad_input)?)
            }
            _ => None,
        };
        losses.push(loss);
    }
    if config.distrust == DistrustMode::Additive {
        tracing::info!(
            "the additive distrust loss does not depend on the model: it is logged as `distrust_loss`, but cannot \
             change a gradient; `reweight` can"
        );
    }
    Ok(Some(Distrust::new(config.distrust, config.distrust_lambda, &losses)?))
}

fn open_split(tokens: &Path, name: &str) -> Result<Split> {
    let path = tokens.join(format!("{name}.safetensors"));
    Split::open(&path).with_context(|| format!("opening the {name} split"))
}

fn load(folder: &Path, config: &Config, backend: &Backend) -> Result<Model> {
    if models::weight_files(folder)?.is_empty() {
        tracing::info!("`{}` has no weights: they are drawn from seed {}", folder.display(), config.seed);
        return Ok(Model::random(&folder.join("config.json"), config.seed)?);
    }
    Model::load(folder, &LoadOptions::on(backend, config.dtype)).context("loading the model")
}

fn tell(trainable: &Trainable) {
    let total = trainable.trainable + trainable.frozen;
    let share = 100.0 * trainable.trainable as f64 / total as f64;
    tracing::info!("{} of {total} parameters train ({share:.2} %)", trainable.trainable);
}

/// Copies what the run left in `work` to `out`: the newest state only, without what belongs to resuming.
fn lay_out(work: &Path, out: &Path, summary: &Summary, trainable: &Trainable) -> Result<()> {
    fs_err::create_dir_all(out)?;
    if work.join("checkpoints").exists() {
        copy_tree(&work.join("checkpoints"), &out.join("checkpoints"))?;
    }
    copy_tree(&work.join("state").join(format!("{:07}", summary.step)), &out.join("state"))?;
    reflink_copy::reflink_or_copy(work.join("metrics.jsonl"), out.join("metrics.jsonl"))?;
    let text = json!({
        "frozen_parameters": trainable.frozen,
        "steps": summary.step,
        "stop": summary.stop,
        "trainable_parameters": trainable.trainable,
        "trained_tokens": summary.trained_tokens,
    });
    let text = serde_json::to_string_pretty(&text).expect("plain JSON");
    Ok(fs_err::write(out.join("summary.json"), text + "\n")?)
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs_err::create_dir_all(to)?;
    for entry in fs_err::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with('.') {
            continue;
        }
        let (source, target) = (entry.path(), to.join(&name));
        if entry.file_type()?.is_dir() {
            copy_tree(&source, &target)?;
        } else {
            reflink_copy::reflink_or_copy(&source, &target)
                .with_context(|| format!("copying `{}`", source.display()))?;
        }
    }
    Ok(())
}
