//! Going on from a shorter run that is published already, to the bytes of a run that was never shorter.

use crate::{Config, Inputs, copy_tree, open_split, order};
use anyhow::{Context, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};
use tuner::TrainingSettings;

/// Settings in which a shorter run may differ from a longer one.
pub const LENGTH_SETTINGS: [&str; 2] = ["epochs", "steps"];

/// Puts the longest of the `shorter` runs (their data folders) that leads to this one into `work`, unless something is
/// there already; returns its steps.
pub(crate) fn adopt(
    shorter: &[PathBuf],
    config: &Config,
    settings: &TrainingSettings,
    work: &Path,
) -> Result<Option<usize>> {
    if work.join("state").exists() {
        return Ok(None);
    }
    let Some((steps, data)) = longest(shorter, config, settings) else { return Ok(None) };
    take(data, steps, work).with_context(|| format!("going on from `{}`", data.display()))?;
    Ok(Some(steps))
}

/// The longest of the `shorter` runs that leads to this one, and its steps.
fn longest<'a>(
    shorter: &'a [PathBuf],
    config: &Config,
    settings: &TrainingSettings,
) -> Option<(usize, &'a PathBuf)> {
    if config.schedule.depends_on_length() {
        return None;
    }
    let usable = shorter.iter().filter_map(|data| Some((steps_of(data)?, data)));
    let leads_here = |&(steps, _): &(usize, &PathBuf)| {
        steps < settings.steps
            // A run ends with a line of metrics and a checkpoint, due or not.
            && steps.is_multiple_of(settings.report_every)
            && steps.is_multiple_of(settings.checkpoint_every)
            // A warmup that fills the whole run is cut short.
            && config.warmup_steps < steps
    };
    usable.filter(leads_here).max_by_key(|&(steps, _)| steps)
}

/// Says for people what becomes of the published runs that differ only in their length; `None` when there are none.
///
/// # Errors
///
/// Fails when the training split cannot be read, or does not fit the settings.
pub fn describe_reuse(inputs: &Inputs<'_>, config: &Config) -> Result<Option<String>> {
    let mut published: Vec<usize> = inputs.shorter.iter().filter_map(|data| steps_of(data)).collect();
    published.sort_unstable();
    if published.is_empty() {
        return Ok(None);
    }
    let train = open_split(inputs.tokens, "train")?;
    let settings = config.run(&mut order::plan(inputs, config, &train)?, (1, 1), None);
    published.retain(|&steps| steps < settings.steps);
    let Some(most) = published.last() else { return Ok(None) };
    let reason = if config.schedule.depends_on_length() {
        "this schedule depends on the length of the run"
    } else if let Some((steps, _)) = longest(inputs.shorter, config, &settings) {
        let rest = settings.steps - steps;
        return Ok(Some(format!("goes on from a published run of {steps} steps: {rest} are left")));
    } else {
        "it did not end where a line of metrics and a checkpoint are due, or its warmup was cut short"
    };
    Ok(Some(format!("a run of {most} steps is published, but {reason}: nothing of it is used")))
}

/// The steps of a run that took all it was asked for.
fn steps_of(data: &Path) -> Option<usize> {
    let summary: Value =
        serde_json::from_str(&fs_err::read_to_string(data.join("summary.json")).ok()?).ok()?;
    let finished = summary["stop"]["kind"] == "finished";
    finished.then(|| summary["steps"].as_u64()).flatten().map(|steps| steps as usize)
}

/// The state comes last and at once: without it, nothing else counts.
pub(crate) fn take(data: &Path, steps: usize, work: &Path) -> Result<()> {
    let unfinished = work.join("adopted");
    for stale in [&work.join("checkpoints"), &unfinished] {
        if stale.exists() {
            fs_err::remove_dir_all(stale)?;
        }
    }
    // A part may end before the first checkpoint.
    if data.join("checkpoints").exists() {
        copy_tree(&data.join("checkpoints"), &work.join("checkpoints"))?;
    }
    // Not `copy`, which would keep it read-only: more lines follow.
    fs_err::write(work.join("metrics.jsonl"), fs_err::read(data.join("metrics.jsonl"))?)?;
    copy_tree(&data.join("state"), &unfinished.join(format!("{steps:07}")))?;
    Ok(fs_err::rename(&unfinished, work.join("state"))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tuner::ScheduleName;

    fn settings(config: &Config) -> TrainingSettings {
        let mut plan = config.plan(vec![5; 20]).expect("there are rows");
        config.run(&mut plan, (1, 2), None)
    }

    fn published(folder: &Path, steps: usize, kind: &str) -> Result<PathBuf> {
        let data = folder.join(format!("{steps}-{kind}"));
        for part in ["checkpoints/a", "state"] {
            fs_err::create_dir_all(data.join(part))?;
            fs_err::write(data.join(part).join("file"), format!("{steps}"))?;
        }
        fs_err::write(data.join("metrics.jsonl"), "{}")?;
        let summary = serde_json::json!({"steps": steps, "stop": {"kind": kind}});
        fs_err::write(data.join("summary.json"), summary.to_string())?;
        Ok(data)
    }

    #[test]
    fn the_longest_run_that_leads_here_is_taken() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let mut shorter = Vec::new();
        for (steps, kind) in
            [(20, "finished"), (40, "finished"), (45, "finished"), (60, "early"), (80, "finished")]
        {
            shorter.push(published(folder.path(), steps, kind)?);
        }
        let config = Config {
            steps: 80,
            schedule: ScheduleName::Constant,
            checkpoint_every: 10,
            report_every: 10,
            ..Config::default()
        };
        let adopted = |config: &Config, name: &str| {
            let work = folder.path().join(name);
            fs_err::create_dir_all(&work)?;
            adopt(&shorter, config, &settings(config), &work)
        };
        assert_eq!(adopted(&config, "work")?, Some(40));
        assert_eq!(fs_err::read_to_string(folder.path().join("work/state/0000040/file"))?, "40");
        assert_eq!(adopted(&config, "work")?, None, "something is there already");
        assert_eq!(adopted(&Config { checkpoint_every: 25, ..config.clone() }, "other-checkpoints")?, None);
        assert_eq!(adopted(&Config { warmup_steps: 25, ..config.clone() }, "warm")?, Some(40));
        assert_eq!(adopted(&Config { warmup_steps: 40, ..config.clone() }, "too-warm")?, None);
        assert_eq!(adopted(&Config { schedule: ScheduleName::Cosine, ..config }, "cosine")?, None);
        Ok(())
    }
}
