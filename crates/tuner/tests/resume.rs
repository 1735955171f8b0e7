//! An interrupted run ends with the same bytes as an uninterrupted one.

mod support;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use dataset::{MixtureComponent, Split};
use outputs::{Stop, Summary};
use support::{copy_folder, files, lengths, model, ragged_rows, split};
use tuner::{
    AdapterSettings, BatchOrder, Curriculum, EarlyStopping, Mixture, Observer, OptimizerSettings,
    ScheduleName, ScheduleSettings, Splits, StepReport, Trainer, TrainingSettings,
};

const STEPS: usize = 30;

/// Interrupts a run after a step, or copies its folder after every step.
#[derive(Default)]
struct Watch {
    /// Step that the run resumed from.
    started: usize,
    step: usize,
    stop_after: Option<usize>,
    copies: Option<Copies>,
    /// File to which another process adds a line after the first step.
    disturbed: Option<PathBuf>,
}

/// Folder to copy, and folder for a copy per step.
struct Copies {
    from: PathBuf,
    to: PathBuf,
}

impl Observer for Watch {
    fn started(&mut self, step: usize, _steps: usize) {
        self.started = step;
        self.step = step;
    }

    fn stepped(&mut self, step: usize, _report: &StepReport, _learning_rate: f64) {
        self.step = step;
        if let Some(Copies { from, to }) = &self.copies {
            copy_folder(from, &to.join(step.to_string())).expect("the folder can be copied");
        }
        if let Some(disturbed) = self.disturbed.take() {
            let file = fs_err::OpenOptions::new().append(true).open(disturbed);
            file.and_then(|mut file| writeln!(file, "{{}}")).expect("the file can be written");
        }
    }

    fn interrupted(&self) -> bool {
        self.stop_after == Some(self.step)
    }
}

/// A run with dropout, accumulation, packing, a schedule, clipping, validations and every rule of early stopping.
struct Setup {
    _folder: tempfile::TempDir,
    train: Split,
    validation: Split,
    packing: bool,
    /// Whether to draw from a mixture, with a first epoch from short to long rows.
    mixed: bool,
    prefetch: usize,
}

impl Setup {
    fn new(packing: bool) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let train = split(folder.path(), "train", &ragged_rows(23))?;
        let validation = split(folder.path(), "validation", &ragged_rows(3))?;
        Ok(Self { _folder: folder, train, validation, packing, mixed: false, prefetch: 2 })
    }

    fn run(&self, folder: &Path, save_every: usize, watch: &mut Watch) -> Result<Summary> {
        let mut model = model("llama")?;
        let adapter = AdapterSettings {
            num_layers: Some(1),
            keys: vec!["self_attn.q_proj".to_owned()],
            rank: 2,
            dropout: 0.2,
            ..AdapterSettings::default()
        };
        let trainable = tuner::attach(&mut model, &adapter, 5)?;
        let mut trainer = Trainer::new(model, trainable, OptimizerSettings::default(), 5)?;
        trainer.set_dropout(adapter.dropout);
        let mut order = if self.packing {
            BatchOrder::packed(lengths(&self.train), 1, 48, 5)?
        } else {
            BatchOrder::new(lengths(&self.train), 2, 5)?
        };
        if self.mixed {
            let component = |name: &str, rows| MixtureComponent { name: name.to_owned(), rows };
            let weights = [("most".to_owned(), 1.0), ("few".to_owned(), 2.0)].into();
            let hardness = lengths(&self.train).into_iter().map(|length| length as f32).collect();
            order = order.mixed(Mixture::new(vec![component("most", 18), component("few", 5)], &weights, 5)?);
            order = order.in_order(Curriculum { hardness, epochs: 1 });
        }
        let settings = TrainingSettings {
            steps: STEPS,
            schedule: ScheduleSettings {
                name: ScheduleName::Cosine,
                peak: 5e-3,
                minimum: 0.0,
                warmup_steps: 3,
                cycle_steps: 10,
                steps: STEPS,
            },
            accumulation: 2,
            slices: 1,
            pad_to: 8,
            max_gradient_norm: Some(0.5),
            report_every: 4,
            checkpoint_every: 7,
            save_every,
            validation_every: 5,
            validation_batch_size: 2,
            early_stopping: EarlyStopping {
                patience: 100,
                min_delta: 0.001,
                plateau_patience: 100,
                spike_threshold: 1e-3,
                spike_patience: 1000,
            },
            adapter,
            distrust: None,
            prefetch: self.prefetch,
            keep_last: 2,
        };
        let splits = Splits { train: &self.train, validation: &self.validation };
        Ok(tuner::train(&mut trainer, &mut order, splits, &settings, folder, watch)?)
    }
}

/// Reads the outputs of a run: checkpoints, metrics and the last resume state.
fn result(folder: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut files = files(folder)?;
    let last = Path::new("state").join(format!("{STEPS:07}"));
    files.retain(|path, _| !path.starts_with("state") || path.starts_with(&last));
    ensure!(files.keys().any(|path| path.starts_with(&last)), "no resume state of step {STEPS}");
    ensure!(files.contains_key(Path::new("metrics.jsonl")), "no metrics");
    Ok(files)
}

fn same(expected: &Path, found: &Path, how: &str) -> Result<()> {
    let (expected, found) = (result(expected)?, result(found)?);
    let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    ensure!(names(&expected) == names(&found), "{how}: different files: {:?}", names(&found));
    for (name, bytes) in &expected {
        ensure!(found[name] == *bytes, "{how}: `{}` differs", name.display());
    }
    Ok(())
}

#[test]
fn a_run_interrupted_after_any_step_ends_with_the_same_bytes() -> Result<()> {
    let setup = Setup::new(true)?;
    let unbroken = tempfile::tempdir()?;
    setup.run(unbroken.path(), 6, &mut Watch::default())?;
    for stop_after in 1..STEPS {
        let folder = tempfile::tempdir()?;
        let mut watch = Watch { stop_after: Some(stop_after), ..Watch::default() };
        let summary = setup.run(folder.path(), 6, &mut watch)?;
        assert_eq!((summary.steps, summary.stop), (stop_after as u64, Stop::Interrupted));
        let mut watch = Watch::default();
        setup.run(folder.path(), 6, &mut watch)?;
        assert_eq!(watch.started, stop_after);
        same(unbroken.path(), folder.path(), &format!("stopped after step {stop_after}"))?;
    }
    Ok(())
}

#[test]
fn an_interrupted_run_with_mixture_and_curriculum_ends_with_the_same_bytes() -> Result<()> {
    let plain = tempfile::tempdir()?;
    Setup::new(true)?.run(plain.path(), 100, &mut Watch::default())?;
    let setup = Setup { mixed: true, ..Setup::new(true)? };
    let unbroken = tempfile::tempdir()?;
    setup.run(unbroken.path(), 100, &mut Watch::default())?;
    ensure!(same(plain.path(), unbroken.path(), "mixed").is_err(), "another order gives another result");
    for stop_after in (1..STEPS).step_by(4) {
        let folder = tempfile::tempdir()?;
        let mut watch = Watch { stop_after: Some(stop_after), ..Watch::default() };
        setup.run(folder.path(), 100, &mut watch)?;
        setup.run(folder.path(), 100, &mut Watch::default())?;
        same(unbroken.path(), folder.path(), &format!("stopped after step {stop_after}"))?;
    }
    Ok(())
}

#[test]
fn prefetching_does_not_change_the_bytes() -> Result<()> {
    for packing in [false, true] {
        let none = tempfile::tempdir()?;
        let plain = Setup { prefetch: 0, ..Setup::new(packing)? };
        plain.run(none.path(), 6, &mut Watch::default())?;
        for prefetch in [1, 4] {
            let folder = tempfile::tempdir()?;
            let setup = Setup { prefetch, ..Setup::new(packing)? };
            setup.run(folder.path(), 6, &mut Watch::default())?;
            same(none.path(), folder.path(), &format!("prefetching {prefetch} steps"))?;
        }
    }
    Ok(())
}

#[test]
fn a_run_killed_after_any_step_ends_with_the_same_bytes() -> Result<()> {
    let setup = Setup::new(true)?;
    for save_every in 1..=7 {
        let (unbroken, copies) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let watched = Some(Copies { from: unbroken.path().to_owned(), to: copies.path().to_owned() });
        setup.run(unbroken.path(), save_every, &mut Watch { copies: watched, ..Watch::default() })?;
        for killed_after in (1..=STEPS).filter(|step| save_every == 4 || step % 10 == save_every) {
            let folder = copies.path().join(killed_after.to_string());
            let mut watch = Watch::default();
            setup.run(&folder, save_every, &mut watch)?;
            // The copy was taken before anything was saved after the step.
            assert_eq!(watch.started, (killed_after - 1) / save_every * save_every);
            let how = format!("killed after step {killed_after}, saved every {save_every}");
            same(unbroken.path(), &folder, &how)?;
        }
    }
    Ok(())
}

#[test]
fn a_run_interrupted_after_every_step_ends_with_the_same_bytes() -> Result<()> {
    let setup = Setup::new(false)?;
    let (unbroken, folder) = (tempfile::tempdir()?, tempfile::tempdir()?);
    setup.run(unbroken.path(), 100, &mut Watch::default())?;
    for stop_after in 1..STEPS {
        let mut watch = Watch { stop_after: Some(stop_after), ..Watch::default() };
        assert_eq!(setup.run(folder.path(), 100, &mut watch)?.steps, stop_after as u64);
        assert_eq!(watch.started, stop_after - 1);
    }
    setup.run(folder.path(), 100, &mut Watch::default())?;
    same(unbroken.path(), folder.path(), "stopped after every step")
}

#[test]
fn a_run_with_damaged_files_resumes_from_an_older_state_to_the_same_bytes() -> Result<()> {
    let setup = Setup::new(false)?;
    let unbroken = tempfile::tempdir()?;
    setup.run(unbroken.path(), 5, &mut Watch::default())?;
    let damages = [
        "state/0000022/weights.safetensors",
        "state/0000022/counters.json",
        "checkpoints/0000014/adapters/adapters.safetensors",
        "metrics.jsonl",
    ];
    for damaged in damages {
        let folder = tempfile::tempdir()?;
        let mut watch = Watch { stop_after: Some(22), ..Watch::default() };
        setup.run(folder.path(), 5, &mut watch)?;
        let path = folder.path().join(damaged);
        let mut bytes = fs_err::read(&path)?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        fs_err::write(&path, bytes)?;
        let mut watch = Watch::default();
        setup.run(folder.path(), 5, &mut watch)?;
        let expected = if damaged.starts_with("state") { 20 } else { 0 };
        ensure!(watch.started == expected, "`{damaged}` damaged: resumed after step {}", watch.started);
        let mut left = result(folder.path())?;
        left.retain(|path, _| !path.to_string_lossy().contains("bad-"));
        ensure!(left == result(unbroken.path())?, "`{damaged}` damaged: different bytes");
    }
    Ok(())
}

#[test]
fn a_run_into_whose_folder_another_process_writes_fails() -> Result<()> {
    let setup = Setup::new(false)?;
    let folder = tempfile::tempdir()?;
    let disturbed = Some(folder.path().join("metrics.jsonl"));
    let failed = setup.run(folder.path(), 100, &mut Watch { disturbed, ..Watch::default() });
    let error = failed.err().context("the metrics are not those of the run")?.to_string();
    ensure!(error.contains("metrics.jsonl`: has lines that this run did not write"), "{error}");
    Ok(())
}

#[test]
fn a_longer_run_resumes_from_a_shorter_one_to_the_same_bytes() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let train = split(folder.path(), "train", &ragged_rows(9))?;
    let run = |work: &str, steps: usize| -> Result<usize> {
        let mut model = model("llama")?;
        let trainable = tuner::attach(&mut model, &AdapterSettings::default(), 5)?;
        let mut trainer = Trainer::new(model, trainable, OptimizerSettings::default(), 5)?;
        let mut order = BatchOrder::new(lengths(&train), 2, 4)?;
        let settings =
            TrainingSettings { report_every: 3, checkpoint_every: 2, save_every: 5, ..quick(steps) };
        let (work, mut watch) = (folder.path().join(work), Watch::default());
        tuner::train(
            &mut trainer,
            &mut order,
            Splits { train: &train, validation: &train },
            &settings,
            &work,
            &mut watch,
        )?;
        Ok(watch.started)
    };
    run("in one run", 12)?;
    run("in two runs", 6)?;
    assert_eq!(run("in two runs", 12)?, 6);
    for output in ["checkpoints", "state/0000012"] {
        let files_of = |work: &str| files(&folder.path().join(work).join(output));
        ensure!(files_of("in one run")? == files_of("in two runs")?, "`{output}` differs");
    }
    let metrics = |work: &str| fs_err::read_to_string(folder.path().join(work).join("metrics.jsonl"));
    assert_eq!(metrics("in one run")?, metrics("in two runs")?);
    Ok(())
}

#[test]
fn old_resume_states_are_deleted_and_checkpoints_are_kept() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let train = split(folder.path(), "train", &ragged_rows(4))?;
    for keep_last in [0, 1, 3] {
        let mut model = model("llama")?;
        let trainable = tuner::attach(&mut model, &AdapterSettings::default(), 5)?;
        let mut trainer = Trainer::new(model, trainable, OptimizerSettings::default(), 5)?;
        let mut order = BatchOrder::new(lengths(&train), 2, 4)?;
        let settings = TrainingSettings { keep_last, ..quick(5) };
        let work = folder.path().join(keep_last.to_string());
        tuner::train(
            &mut trainer,
            &mut order,
            Splits { train: &train, validation: &train },
            &settings,
            &work,
            &mut Watch::default(),
        )?;
        let count = |output: &str| fs_err::read_dir(work.join(output)).map(Iterator::count);
        assert_eq!((count("state")?, count("checkpoints")?), (keep_last.max(1), 5));
    }
    Ok(())
}

#[test]
fn a_loss_that_is_not_finite_is_an_error_that_names_step_and_rows() -> Result<()> {
    let mut rows = ragged_rows(40);
    // Only row 29 has this token, whose embedding contains NaN.
    rows[29].0[1] = 383;
    let folder = tempfile::tempdir()?;
    let train = split(folder.path(), "train", &rows)?;
    let mut model = model("llama")?;
    for (name, array) in model.parameters_mut() {
        if name.ends_with("embed_tokens.weight") {
            let mut numbers = array.as_slice::<f32>().to_vec();
            let width = array.dim(1) as usize;
            numbers[383 * width] = f32::NAN;
            *array = mlx_rs::Array::from_slice(&numbers, array.shape());
        }
    }
    let adapter = AdapterSettings::default();
    let trainable = tuner::attach(&mut model, &adapter, 5)?;
    let mut trainer = Trainer::new(model, trainable, OptimizerSettings::default(), 5)?;
    let mut order = BatchOrder::new(lengths(&train), 2, 4)?;
    let poisoned = (0..20)
        .find(|&index| order.at(index).rows().any(|row| row == 29))
        .context("the row is in the epoch")?;
    ensure!(poisoned >= 2, "with this seed the row is in step {}", poisoned + 1);
    let settings = quick(20);
    let work = folder.path().join("work");
    let outcome = tuner::train(
        &mut trainer,
        &mut order,
        Splits { train: &train, validation: &train },
        &settings,
        &work,
        &mut Watch::default(),
    );
    let error = outcome.expect_err("training diverges");
    let tuner::Error::Diverged { step, rows, .. } = &error else { anyhow::bail!("{error}") };
    assert_eq!(*step, poisoned + 1);
    ensure!(rows.contains(&29) && rows.len() == 2, "{rows:?}");
    check_saved_files(&work, poisoned)
}

#[test]
fn weights_that_are_not_finite_are_never_saved() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let train = split(folder.path(), "train", &ragged_rows(8))?;
    let mut model = model("llama")?;
    let trainable = tuner::attach(&mut model, &AdapterSettings::default(), 5)?;
    let optimizer = OptimizerSettings { name: tuner::OptimizerName::Sgd, ..OptimizerSettings::default() };
    let mut trainer = Trainer::new(model, trainable, optimizer, 5)?;
    let mut order = BatchOrder::new(lengths(&train), 2, 4)?;
    let mut settings = quick(6);
    let work = folder.path().join("work");
    settings.steps = 3;
    tuner::train(
        &mut trainer,
        &mut order,
        Splits { train: &train, validation: &train },
        &settings,
        &work,
        &mut Watch::default(),
    )?;
    // Loss and gradient of step 4 are finite, but the updated weights are not.
    settings.steps = 6;
    settings.schedule.peak = f64::MAX;
    let outcome = tuner::train(
        &mut trainer,
        &mut order,
        Splits { train: &train, validation: &train },
        &settings,
        &work,
        &mut Watch::default(),
    );
    let error = outcome.expect_err("training diverges");
    ensure!(matches!(&error, tuner::Error::Diverged { step: 4, rows, .. } if rows.len() == 2), "{error}");
    check_saved_files(&work, 3)
}

/// Returns settings with a resume state and a checkpoint after every step.
fn quick(steps: usize) -> TrainingSettings {
    TrainingSettings {
        steps,
        schedule: ScheduleSettings {
            name: ScheduleName::Constant,
            peak: 1e-3,
            minimum: 0.0,
            warmup_steps: 0,
            cycle_steps: 1,
            steps,
        },
        accumulation: 1,
        slices: 1,
        pad_to: 8,
        max_gradient_norm: None,
        report_every: 1,
        checkpoint_every: 1,
        save_every: 1,
        validation_every: 0,
        validation_batch_size: 1,
        early_stopping: EarlyStopping::default(),
        adapter: AdapterSettings::default(),
        distrust: None,
        prefetch: 0,
        keep_last: 2,
    }
}

/// Checks that the newest resume state and checkpoint are those of step `last`, and that all numbers are finite.
fn check_saved_files(work: &Path, last: usize) -> Result<()> {
    let files = files(work)?;
    for folder in ["state", "checkpoints"] {
        let newest = files.keys().filter_map(|path| path.strip_prefix(folder).ok()?.iter().next()).max();
        let newest = newest.context("something was saved")?.to_string_lossy().into_owned();
        assert_eq!(newest, format!("{last:07}"), "newest in `{folder}`");
    }
    for path in files.keys().filter(|path| path.extension().is_some_and(|ending| ending == "safetensors")) {
        for (name, array) in models::TensorFiles::open_file(&work.join(path))?.arrays()? {
            ensure!(
                array.as_slice::<f32>().iter().all(|number| number.is_finite()),
                "{}: {name}",
                path.display()
            );
        }
    }
    let metrics = fs_err::read_to_string(work.join("metrics.jsonl"))?;
    ensure!(!metrics.contains("null") && metrics.lines().count() >= last, "{metrics}");
    Ok(())
}
