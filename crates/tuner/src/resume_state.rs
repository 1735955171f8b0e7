//! Resume states: everything a run needs to resume, saved so that a kill at any moment leaves a complete one.
//!
//! A resume state is a folder `state/<step>` with the parameters, the optimizer's moments, the counters and a
//! `SHA256SUMS` over them. It is written under another name, flushed, and renamed. On loading, a damaged folder is set
//! aside as `bad-…`, and the next older one is used.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use artifact::{FileHash, atomic};
use mlx_rs::Array;
use models::{TensorFiles, write_safetensors};
use serde::{Deserialize, Serialize};

use crate::early_stopping;
use crate::error::{Error, Result};

const WEIGHTS: &str = "weights.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const COUNTERS: &str = "counters.json";
const SUMS: &str = "SHA256SUMS";

/// The numbers of a run between two steps.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunCounters {
    /// Steps taken.
    pub step: usize,
    /// Targets trained.
    pub trained_tokens: u64,
    /// Sum of weighted losses since the last report, in nats.
    pub window_loss: f64,
    /// Sum of distrust losses times those weights since the last report, in additive mode.
    #[serde(default)]
    pub window_distrust: f64,
    /// Sum of weights since the last report.
    pub window_weight: f64,
    /// Counters of early stopping.
    pub early_stopping: early_stopping::Counters,
    /// Why the run stopped early, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
    /// Whether the validation after the last step was interrupted and comes next.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub validation_due: bool,
    /// Length of `metrics.jsonl` in bytes.
    pub metrics_bytes: u64,
    /// SHA-256 of those bytes.
    pub metrics_sha256: String,
    /// Checkpoints: step → SHA-256 of the adapter file.
    pub checkpoints: BTreeMap<usize, String>,
}

/// Everything a run needs to resume.
pub struct ResumeState {
    /// Parameters, in the order of their names.
    pub parameters: Vec<Array>,
    /// Moments of the optimizer, each in the same order.
    pub moments: Vec<Vec<Array>>,
    /// Steps of the optimizer.
    pub optimizer_steps: usize,
    /// Counters of the run.
    pub counters: RunCounters,
}

/// Content of `counters.json`.
#[derive(Serialize, Deserialize)]
struct CountersFile {
    optimizer_steps: usize,
    /// Not flattened: serde would then read the steps of `checkpoints` as text.
    run: RunCounters,
}

impl ResumeState {
    /// Saves under `folder/<step>` and deletes all but the newest `keep` states, at least one.
    pub fn save(&self, folder: &Path, names: &[String], keep: usize) -> Result<()> {
        let target = folder.join(step_name(self.counters.step));
        atomic::write_folder(&target, |unfinished| self.write(unfinished, names))?;
        for old in states(folder)?.into_iter().rev().skip(keep.max(1)) {
            fs_err::remove_dir_all(old)?;
        }
        Ok(())
    }

    /// Writes the files into `folder`.
    pub fn write(&self, folder: &Path, names: &[String]) -> Result<()> {
        let weights = names.iter().cloned().zip(self.parameters.iter().cloned()).collect();
        write_safetensors(&folder.join(WEIGHTS), &weights)?;
        let mut moments = BTreeMap::new();
        for (index, list) in self.moments.iter().enumerate() {
            for (name, array) in names.iter().zip(list) {
                moments.insert(format!("moment.{index}.{name}"), array.clone());
            }
        }
        write_safetensors(&folder.join(OPTIMIZER), &moments)?;
        let counters = CountersFile { optimizer_steps: self.optimizer_steps, run: self.counters.clone() };
        let mut text = serde_json::to_string_pretty(&counters).expect("numbers and strings are always JSON");
        text.push('\n');
        fs_err::write(folder.join(COUNTERS), text)?;
        let mut sums = String::new();
        for file in [COUNTERS, OPTIMIZER, WEIGHTS] {
            writeln!(sums, "{}  {file}", sha256_of(&folder.join(file))?)
                .expect("writing to a string succeeds");
        }
        Ok(fs_err::write(folder.join(SUMS), sums)?)
    }

    /// Loads the newest undamaged state under `folder` that `check` accepts; sets the others aside.
    ///
    /// Returns `None` if there is no such state.
    ///
    /// # Errors
    ///
    /// Fails when the system refuses to read a state, for example for want of file descriptors or memory: that says nothing
    /// about the state, which stays.
    pub fn load_newest(
        folder: &Path,
        names: &[String],
        check: impl Fn(&RunCounters) -> Result<()>,
    ) -> Result<Option<Self>> {
        if !folder.is_dir() {
            return Ok(None);
        }
        for path in states(folder)?.into_iter().rev() {
            let loaded = Self::load(&path, names).and_then(|loaded| check(&loaded.counters).map(|()| loaded));
            match loaded {
                Ok(loaded) => return Ok(Some(loaded)),
                Err(error) if is_of_the_system(&error) => return Err(error),
                Err(error) => {
                    let aside = path_set_aside(&path);
                    tracing::warn!(
                        "resume state is damaged ({}); moved to `{}`",
                        failure::describe(&error),
                        aside.display()
                    );
                    fs_err::rename(&path, &aside)?;
                }
            }
        }
        Ok(None)
    }

    /// Loads one state and verifies every byte.
    pub fn load(folder: &Path, names: &[String]) -> Result<Self> {
        verify(folder)?;
        let counters = read_counters(folder)?;
        let weights = TensorFiles::open_file(&folder.join(WEIGHTS))?;
        let parameters = names.iter().map(|name| weights.array(name)).collect::<models::Result<_>>()?;
        let stored = TensorFiles::open_file(&folder.join(OPTIMIZER))?;
        let last = stored.names().filter_map(|name| name.split('.').nth(1)?.parse::<usize>().ok()).max();
        let moments = (0..last.map_or(0, |last| last + 1))
            .map(|index| names.iter().map(|name| stored.array(&format!("moment.{index}.{name}"))).collect())
            .collect::<models::Result<_>>()?;
        Ok(Self { parameters, moments, optimizer_steps: counters.optimizer_steps, counters: counters.run })
    }
}

/// Returns whether there is a complete resume state under `folder`; it may be damaged.
pub fn has_resume_state(folder: &Path) -> bool {
    states(folder).is_ok_and(|states| states.iter().any(|state| state.join(SUMS).is_file()))
}

/// Verifies the outputs of a run in `out`: the resume state, and against it the metrics and the checkpoints.
///
/// # Errors
///
/// Fails when a file is missing or differs, and when there are checkpoints that the state does not know, because another
/// process has written to the folder of the run.
pub fn check_outputs(out: &Path) -> Result<()> {
    let state = out.join(outputs::STATE);
    verify(&state)?;
    let counters = read_counters(&state)?.run;
    check_file(out.join(outputs::METRICS), u64::MAX, &counters.metrics_sha256)?;
    let folder = out.join(outputs::CHECKPOINTS);
    check_checkpoints(&folder, &counters)?;
    let known = |path: &PathBuf| {
        let step = path.file_name().and_then(step_of);
        step.is_some_and(|step| counters.checkpoints.contains_key(&step))
    };
    let found = if folder.exists() { states(&folder)? } else { Vec::new() };
    match found.into_iter().find(|path| !known(path)) {
        Some(path) => Err(Error::ResumeState {
            path,
            reason: "is a checkpoint that the resume state does not know".to_owned(),
        }),
        None => Ok(()),
    }
}

/// Verifies the checkpoints in `folder` against their hashes.
pub(crate) fn check_checkpoints(folder: &Path, counters: &RunCounters) -> Result<()> {
    for (step, sum) in &counters.checkpoints {
        check_file(folder.join(step_name(*step)).join("adapters/adapters.safetensors"), u64::MAX, sum)?;
    }
    Ok(())
}

/// Verifies the first `bytes` bytes of a file against a hash in a resume state.
pub(crate) fn check_file(path: PathBuf, bytes: u64, sum: &str) -> Result<()> {
    if sha256_of_first(&path, bytes)? == sum {
        return Ok(());
    }
    Err(Error::ResumeState { path, reason: "does not match its hash in the resume state".to_owned() })
}

fn read_counters(folder: &Path) -> Result<CountersFile> {
    let path = folder.join(COUNTERS);
    serde_json::from_str(&fs_err::read_to_string(&path)?)
        .map_err(|error| Error::ResumeState { path, reason: error.to_string() })
}

/// Returns the name of a step's folder: at least seven digits, so that the names of the first 9,999,999 steps sort as steps do.
pub fn step_name(step: usize) -> String {
    outputs::checkpoint_name(step as u64)
}

/// Returns the folders of complete states, oldest first.
fn states(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut states = BTreeMap::new();
    for entry in fs_err::read_dir(folder)? {
        let path = entry?.path();
        if let Some(step) = path.file_name().and_then(step_of) {
            states.insert(step, path);
        }
    }
    // By number: a name of eight digits comes before one of seven.
    Ok(states.into_values().collect())
}

/// Returns the step that a folder is named after; `None` for any other name.
fn step_of(name: &OsStr) -> Option<usize> {
    let step = name.to_str()?.parse().ok()?;
    (step_name(step).as_str() == name).then_some(step)
}

/// Returns an unused path for a damaged state.
fn path_set_aside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let candidate = |number: usize| path.with_file_name(format!("bad-{name}-{number}"));
    candidate((0..usize::MAX).find(|&number| !candidate(number).exists()).unwrap_or_default())
}

/// Returns whether an error is about the system rather than about a missing, short or malformed file.
fn is_of_the_system(error: &Error) -> bool {
    let content =
        [ErrorKind::NotFound, ErrorKind::UnexpectedEof, ErrorKind::InvalidData, ErrorKind::IsADirectory];
    let is_system = |io: &std::io::Error| io.raw_os_error().is_some() && !content.contains(&io.kind());
    // `fs-err` wraps the system's error to add the path.
    let first: &(dyn std::error::Error + 'static) = match error {
        Error::Io(io) | Error::Model(models::Error::Io(io)) => io,
        other => other,
    };
    std::iter::successors(Some(first), |cause| cause.source())
        .any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(is_system))
}

fn verify(folder: &Path) -> Result<()> {
    let sums = fs_err::read_to_string(folder.join(SUMS))?;
    if let Some(missing) = [COUNTERS, OPTIMIZER, WEIGHTS].iter().find(|file| !sums.contains(**file)) {
        let reason = format!("does not list `{missing}`");
        return Err(Error::ResumeState { path: folder.join(SUMS), reason });
    }
    for line in sums.lines() {
        let (sum, file) = line.split_once("  ").unwrap_or(("", line));
        let path = folder.join(file);
        if sha256_of(&path)? != sum {
            return Err(Error::ResumeState { path, reason: "does not match its checksum".to_owned() });
        }
    }
    Ok(())
}

/// Returns the SHA-256 of a file in hexadecimal.
pub(crate) fn sha256_of(path: &Path) -> Result<String> {
    sha256_of_first(path, u64::MAX)
}

/// Returns the SHA-256 of the first `bytes` bytes of a file in hexadecimal.
fn sha256_of_first(path: &Path, bytes: u64) -> Result<String> {
    let mut reader = fs_err::File::open(path)?.take(bytes);
    Ok(FileHash::of_reader(&mut reader)?.to_string())
}

/// Flushes a file or folder to disk.
pub(crate) fn sync(path: &Path) -> Result<()> {
    Ok(fs_err::File::open(path)?.sync_all()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resume_state(step: usize) -> ResumeState {
        let array = |value: f32| Array::from_slice(&[value, 2.0], &[2]);
        ResumeState {
            parameters: vec![array(step as f32), array(-1.0)],
            moments: vec![vec![array(0.5), array(0.25)], vec![array(0.125), array(0.0)]],
            optimizer_steps: step,
            counters: RunCounters {
                step,
                trained_tokens: 10,
                window_loss: 0.1 + 0.2,
                checkpoints: BTreeMap::from([(5, "aa".to_owned())]),
                ..Default::default()
            },
        }
    }

    fn names() -> Vec<String> {
        vec!["a.weight".to_owned(), "b.weight".to_owned()]
    }

    #[test]
    fn the_newest_state_loads_unchanged_and_old_ones_are_deleted() -> Result<()> {
        let folder = tempfile::tempdir()?;
        for step in [5, 10, 15] {
            resume_state(step).save(folder.path(), &names(), 2)?;
        }
        let loaded =
            ResumeState::load_newest(folder.path(), &names(), |_| Ok(()))?.expect("states were saved");
        assert_eq!(loaded.counters, resume_state(15).counters);
        assert_eq!(loaded.parameters[0].as_slice::<f32>(), &[15.0, 2.0]);
        assert_eq!(loaded.moments[1][0].as_slice::<f32>(), &[0.125, 2.0]);
        assert_eq!(states(folder.path())?.len(), 2);
        Ok(())
    }

    #[test]
    fn a_step_of_eight_digits_is_newer_than_one_of_seven() -> Result<()> {
        let folder = tempfile::tempdir()?;
        for step in [9_999_975, 9_999_999, 10_000_000] {
            resume_state(step).save(folder.path(), &names(), 2)?;
        }
        let kept = ["9999999", "10000000"].map(|name| folder.path().join(name));
        assert_eq!(states(folder.path())?, kept);
        let loaded =
            ResumeState::load_newest(folder.path(), &names(), |_| Ok(()))?.expect("states were saved");
        assert_eq!(loaded.counters.step, 10_000_000);
        Ok(())
    }

    #[test]
    fn a_corrupt_state_is_set_aside_and_the_older_one_used() -> Result<()> {
        for file in [WEIGHTS, OPTIMIZER, COUNTERS, SUMS] {
            let folder = tempfile::tempdir()?;
            for step in [5, 10] {
                resume_state(step).save(folder.path(), &names(), 2)?;
            }
            let path = folder.path().join("0000010").join(file);
            let mut bytes = fs_err::read(&path)?;
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs_err::write(&path, bytes)?;
            let loaded =
                ResumeState::load_newest(folder.path(), &names(), |_| Ok(()))?.expect("the older state");
            assert_eq!(loaded.counters.step, 5, "{file}");
            assert!(folder.path().join("bad-0000010-0").is_dir());
        }
        Ok(())
    }

    #[test]
    fn an_error_of_the_system_condemns_no_state() -> Result<()> {
        let folder = tempfile::tempdir()?;
        for step in [5, 10] {
            resume_state(step).save(folder.path(), &names(), 2)?;
        }
        // Too many open files, an I/O error, out of memory.
        for number in [24, 5, 12] {
            let refuse = |_: &RunCounters| Err(std::io::Error::from_raw_os_error(number).into());
            assert!(ResumeState::load_newest(folder.path(), &names(), refuse).is_err());
            let loaded = ResumeState::load_newest(folder.path(), &names(), |_| Ok(()))?.expect("it stays");
            assert_eq!(loaded.counters.step, 10);
        }
        Ok(())
    }

    #[test]
    fn outputs_that_another_process_has_changed_are_refused() -> Result<()> {
        let out = tempfile::tempdir()?;
        let path = |name: &str| out.path().join(name);
        let adapters = "checkpoints/0000005/adapters/adapters.safetensors";
        fs_err::create_dir_all(path(adapters).parent().expect("it has a folder"))?;
        fs_err::create_dir(path(outputs::STATE))?;
        fs_err::write(path(adapters), "5")?;
        fs_err::write(path(outputs::METRICS), "{}\n")?;
        let mut state = resume_state(5);
        state.counters.metrics_sha256 = sha256_of(&path(outputs::METRICS))?;
        state.counters.checkpoints = BTreeMap::from([(5, sha256_of(&path(adapters))?)]);
        state.write(&path(outputs::STATE), &names())?;
        check_outputs(out.path())?;
        for (file, before, after) in [(outputs::METRICS, "{}\n", "{}\n{}\n"), (adapters, "5", "6")] {
            fs_err::write(path(file), after)?;
            let refused = check_outputs(out.path()).expect_err("it was changed").to_string();
            assert!(refused.contains(file), "{refused}");
            fs_err::write(path(file), before)?;
        }
        check_outputs(out.path())?;
        fs_err::create_dir(path("checkpoints/0000010"))?;
        assert!(check_outputs(out.path()).is_err(), "it is not a checkpoint of the run");
        Ok(())
    }

    #[test]
    fn a_list_of_hashes_without_a_file_is_damage() -> Result<()> {
        let folder = tempfile::tempdir()?;
        resume_state(5).save(folder.path(), &names(), 2)?;
        fs_err::write(folder.path().join("0000005").join(SUMS), "")?;
        assert!(ResumeState::load_newest(folder.path(), &names(), |_| Ok(()))?.is_none());
        Ok(())
    }

    #[test]
    fn an_unfinished_state_left_by_a_kill_is_ignored() -> Result<()> {
        let folder = tempfile::tempdir()?;
        resume_state(5).save(folder.path(), &names(), 2)?;
        fs_err::create_dir(folder.path().join(".0000010"))?;
        let loaded =
            ResumeState::load_newest(folder.path(), &names(), |_| Ok(()))?.expect("the complete state");
        assert_eq!(loaded.counters.step, 5);
        resume_state(10).save(folder.path(), &names(), 2)?;
        Ok(())
    }
}
