//! Resuming from a published shorter run, to the same bytes as a run from the start.

use std::path::{Path, PathBuf};

use artifact::{Artifact, Level, Witness};
use failure::{Context, Error, Result};
use outputs::{Document as _, Stop, Summary};
use tuner::TrainingSettings;

use crate::config::Config;
use crate::earlier::{self, has_state};
use crate::inputs::Inputs;
use crate::segment::StopAt;
use crate::{batch_order, layout};

/// Settings in which a shorter run may differ from a longer one.
pub const LENGTH_SETTINGS: [&str; 2] = ["epochs", "steps"];

/// A published run that took all its steps.
#[derive(Debug, Clone, Copy)]
struct Shorter<'a> {
    steps: usize,
    artifact: &'a Path,
}

impl<'a> Shorter<'a> {
    /// Reads the summary of a run; `None` if it stopped early or cannot be read.
    fn read(artifact: &'a PathBuf) -> Option<Self> {
        let summary = Summary::read_if_present(&artifact.join("data")).ok().flatten()?;
        (summary.stop == Stop::Finished).then_some(Self { steps: summary.steps as usize, artifact })
    }
}

/// Copies the longest usable run of `shorter` (artifacts) that ends before step `end` into `work`, unless there is a resume
/// state already; returns its steps.
///
/// Verifies a run before it is used; a damaged one is left out with a warning.
pub(crate) fn adopt(
    shorter: &[PathBuf],
    config: &Config,
    settings: &TrainingSettings,
    end: usize,
    work: &Path,
) -> Result<Option<usize>> {
    if has_state(work) {
        return Ok(None);
    }
    let mut shorter = shorter.to_vec();
    while let Some(Shorter { steps, artifact }) = longest(&shorter, config, settings, end) {
        let artifact = artifact.to_owned();
        let verified = Artifact::open_with(&artifact, Level::Size)
            .and_then(|opened| opened.verify_output("").map(|witness| (opened, witness)));
        match verified {
            Ok((sound, witness)) => {
                layout::adopt_outputs(&sound.data_dir(), steps, work, &|| check_unchanged(&witness))
                    .with_context(|| format!("resuming from `{}`", artifact.display()))?;
                earlier::record(work, &sound, steps)?;
                return Ok(Some(steps));
            }
            Err(error) => tracing::warn!("not resuming from a published run: {}", failure::describe(&error)),
        }
        shorter.retain(|other| *other != artifact);
    }
    Ok(None)
}

/// Fails if a file of a published run changed since it was verified.
fn check_unchanged(witness: &Witness) -> Result<()> {
    let Some(path) = witness.changed() else { return Ok(()) };
    let error = Error::failed(format!("`{}` changed while it was copied", path.display()));
    Err(error.hinted("run the same command again"))
}

/// Returns the longest run of `shorter` that ends before step `end` and whose bytes are also those of this run so far.
fn longest<'a>(
    shorter: &'a [PathBuf],
    config: &Config,
    settings: &TrainingSettings,
    end: usize,
) -> Option<Shorter<'a>> {
    if config.schedule.depends_on_length() {
        return None;
    }
    let is_usable = |run: &Shorter<'_>| {
        run.steps < end
            // A run ends with a line of metrics and a checkpoint, due or not.
            && run.steps.is_multiple_of(settings.report_every)
            && run.steps.is_multiple_of(settings.checkpoint_every)
            // A warmup as long as the run is shortened.
            && config.warmup_steps < run.steps
    };
    shorter.iter().filter_map(Shorter::read).filter(is_usable).max_by_key(|run| run.steps)
}

/// Describes for `--plan` whether a published shorter run will be used; `None` if there are none.
///
/// `stop_at` is where the run is to stop, and `work` the folder that an earlier process of this run left.
///
/// # Errors
///
/// Fails when the training split cannot be read or does not fit the settings.
pub fn describe_reuse(
    inputs: &Inputs<'_>,
    config: &Config,
    stop_at: Option<StopAt>,
    work: Option<&Path>,
) -> Result<Option<String>> {
    if inputs.shorter.is_empty() || inputs.segment.is_some() {
        return Ok(None);
    }
    let train = inputs.open_split("train")?;
    let settings = config.training_settings(&mut batch_order::of_split(inputs, config, &train)?, None);
    let end = stop_at.map_or(settings.steps, |stop_at| stop_at.step(settings.steps));
    Ok(describe(inputs.shorter, config, &settings, end, work))
}

/// As [`describe_reuse`], for a run that ends with step `end`.
fn describe(
    shorter: &[PathBuf],
    config: &Config,
    settings: &TrainingSettings,
    end: usize,
    work: Option<&Path>,
) -> Option<String> {
    let published = shorter.iter().filter_map(Shorter::read).map(|run| run.steps);
    let most = published.filter(|&steps| steps < end).max()?;
    let reason = if work.is_some_and(has_state) {
        "this run has a resume state already"
    } else if config.schedule.depends_on_length() {
        "this schedule depends on the length of the run"
    } else if let Some(Shorter { steps, .. }) = longest(shorter, config, settings, end) {
        let rest = end - steps;
        return Some(format!("will resume from a published run of {steps} steps, with {rest} steps left"));
    } else {
        "it did not end on a report and a checkpoint, or its warmup was shortened"
    };
    Some(format!("will not use the published run of {most} steps: {reason}"))
}

#[cfg(test)]
mod tests {
    use artifact::{Draft, FileHash, KeyMaterial};
    use tuner::ScheduleName;

    use super::*;

    fn settings(config: &Config) -> TrainingSettings {
        let mut order = config.batch_order(vec![5; 20]).expect("there are rows");
        config.training_settings(&mut order, None)
    }

    fn published(folder: &Path, steps: usize, stop: Stop) -> Result<PathBuf> {
        let out = folder.join(format!("{steps}-{stop:?}"));
        let settings = serde_json::json!({"name": format!("{steps} {stop:?}")});
        let draft = Draft::new("run", KeyMaterial::new("train", 1, settings));
        artifact::write_folder(&out, &draft, |data| {
            for output in ["checkpoints/a", "state"] {
                fs_err::create_dir_all(data.join(output))?;
                fs_err::write(data.join(output).join("file"), format!("{steps}"))?;
            }
            // The last file of a resume state.
            fs_err::write(data.join("state/SHA256SUMS"), "")?;
            fs_err::write(data.join("metrics.jsonl"), "{}\n")?;
            let summary = Summary {
                frozen_parameters: 1,
                steps: steps as u64,
                stop,
                trainable_parameters: 1,
                trained_tokens: 1,
            };
            Ok(summary.write(data).map_err(std::io::Error::other)?)
        })?;
        Ok(out)
    }

    #[test]
    fn a_run_that_changes_while_it_is_copied_is_not_resumed() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let data = published(folder.path(), 20, Stop::Finished)?.join("data");
        let work = folder.path().join("work");
        fs_err::create_dir_all(&work)?;
        let mut witness = Witness::default();
        let state = data.join("state/file");
        witness.add(state.clone(), FileHash::of(b"20"))?;
        let adopted = || layout::adopt_outputs(&data, 20, &work, &|| check_unchanged(&witness));
        fs_err::remove_file(&state)?;
        fs_err::write(&state, "21")?;
        assert!(adopted().unwrap_err().to_string().contains("changed while it was copied"));
        assert!(!has_state(&work));
        fs_err::write(&state, "20")?;
        layout::adopt_outputs(&data, 20, &work, &|| Ok(()))?;
        assert!(has_state(&work));
        Ok(())
    }

    #[test]
    fn the_longest_usable_run_is_adopted() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let mut shorter = Vec::new();
        for steps in [20, 40, 45, 80] {
            shorter.push(published(folder.path(), steps, Stop::Finished)?);
        }
        shorter.push(published(folder.path(), 60, Stop::Early("patience".into()))?);
        let config = Config {
            steps: 80,
            schedule: ScheduleName::Constant,
            checkpoint_every: 10,
            report_every: 10,
            ..Config::default()
        };
        let adopted_before = |end: usize, config: &Config, name: &str| {
            let work = folder.path().join(name);
            fs_err::create_dir_all(&work)?;
            let plan = describe(&shorter, config, &settings(config), end, Some(&work));
            let adopted = adopt(&shorter, config, &settings(config), end, &work)?;
            let promise = adopted.map(|steps| {
                format!("will resume from a published run of {steps} steps, with {} steps left", end - steps)
            });
            assert_eq!(plan.clone().filter(|plan| plan.starts_with("will resume")), promise, "{plan:?}");
            Ok::<_, failure::Error>(adopted)
        };
        let adopted = |config: &Config, name: &str| adopted_before(80, config, name);
        assert_eq!(adopted_before(40, &config, "segment")?, Some(20), "a segment ends at 40");
        assert_eq!(adopted_before(20, &config, "short-segment")?, None);
        assert_eq!(adopted(&config, "work")?, Some(40));
        assert_eq!(fs_err::read_to_string(folder.path().join("work/state/0000040/file"))?, "40");
        assert_eq!(adopted(&config, "work")?, None, "there is a resume state already");
        assert_eq!(adopted(&Config { checkpoint_every: 25, ..config.clone() }, "other-checkpoints")?, None);
        assert_eq!(adopted(&Config { warmup_steps: 25, ..config.clone() }, "warm")?, Some(40));
        assert_eq!(adopted(&Config { warmup_steps: 40, ..config.clone() }, "too-warm")?, None);
        assert_eq!(adopted(&Config { schedule: ScheduleName::Cosine, ..config.clone() }, "cosine")?, None);
        let adopted_from = earlier::read(&folder.path().join("work"))?.expect("the origin is recorded");
        assert_eq!((&adopted_from["stage"], &adopted_from["steps"]), (&"train".into(), &40.into()));

        // A damaged run is not used, although nothing but its manifest was read when it was found and planned with.
        let state = shorter[1].join("data/state/file");
        fs_err::set_permissions(&state, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        fs_err::write(&state, "41")?;
        let work = folder.path().join("after-damage");
        fs_err::create_dir_all(&work)?;
        assert_eq!(adopt(&shorter, &config, &settings(&config), 80, &work)?, Some(20));
        Ok(())
    }
}
