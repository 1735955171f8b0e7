//! The law of `resume.rs` for every optimizer, kind of fine-tuning and rule of early stopping: interrupted at every step, a
//! run ends with the same bytes.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use dataset::Split;
use models::Model;
use outputs::{Stop, Summary};
use support::{copy_folder, files, lengths, model, ragged_rows, split};
use tuner::{
    AdapterSettings, BatchOrder, EarlyStopping, FineTuneType, Observer, OptimizerName, OptimizerSettings,
    ScheduleName, ScheduleSettings, Splits, StepReport, Trainer, TrainingSettings,
};

const STEPS: usize = 12;

/// Interrupts a run after a step, or copies its folder at the moments of a possible kill.
#[derive(Default)]
struct Watch {
    step: usize,
    stop_after: Option<usize>,
    cut: Option<Cut>,
    /// Batches of validations at which the run asked for an interruption.
    asked: usize,
    copies: Option<Copies>,
}

/// Interrupts the validation after `step`, before its batch of this number.
#[derive(Clone, Copy)]
struct Cut {
    step: usize,
    batch: usize,
}

/// Folder to copy, and folder for the copies.
struct Copies {
    from: PathBuf,
    to: PathBuf,
}

impl Watch {
    fn copy(&self, moment: &str) {
        if let Some(Copies { from, to }) = &self.copies {
            copy_folder(from, &to.join(format!("{:02}-{moment}", self.step)))
                .expect("the folder can be copied");
        }
    }
}

impl Observer for Watch {
    fn started(&mut self, step: usize, _steps: usize) {
        self.step = step;
    }

    fn stepped(&mut self, step: usize, _report: &StepReport, _learning_rate: f64) {
        self.step = step;
        self.copy("before anything is saved");
    }

    fn validated(&mut self, _step: usize, _loss: f64) {
        self.copy("after the validation");
    }

    fn checkpointed(&mut self, _step: usize) {
        self.copy("after the checkpoint");
    }

    fn interrupts_validation(&mut self) -> bool {
        let Some(cut) = self.cut.filter(|cut| cut.step == self.step) else { return false };
        self.asked += 1;
        self.asked > cut.batch
    }

    fn interrupted(&self) -> bool {
        self.copy("after everything is saved");
        self.stop_after == Some(self.step)
    }
}

/// Settings of a run.
#[derive(Clone)]
struct Variant {
    name: &'static str,
    model: &'static str,
    adapter: AdapterSettings,
    optimizer: OptimizerSettings,
    checkpointing: bool,
    packing: bool,
    rate: f64,
    early_stopping: EarlyStopping,
    schedule: ScheduleName,
}

fn plain(name: &'static str) -> Variant {
    Variant {
        name,
        model: "llama",
        adapter: AdapterSettings {
            num_layers: Some(1),
            keys: vec!["self_attn.q_proj".to_owned()],
            rank: 2,
            dropout: 0.2,
            ..AdapterSettings::default()
        },
        optimizer: OptimizerSettings::default(),
        checkpointing: false,
        packing: false,
        rate: 5e-3,
        // Nothing stops the run, but every rule counts.
        early_stopping: EarlyStopping {
            patience: 100,
            min_delta: 0.001,
            plateau_patience: 100,
            spike_threshold: 1e-3,
            spike_patience: 1000,
        },
        schedule: ScheduleName::Cosine,
    }
}

fn with_optimizer(name: OptimizerName) -> Variant {
    let momentum = if name == OptimizerName::Sgd { 0.9 } else { 0.0 };
    let optimizer = OptimizerSettings { name, momentum, ..OptimizerSettings::default() };
    Variant { optimizer, ..plain("an optimizer") }
}

/// Model and splits of a variant, opened once; every run starts with a copy of the model.
struct Bench {
    variant: Variant,
    model: Model,
    train: Split,
    validation: Split,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new(variant: Variant) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let train = split(folder.path(), "train", &ragged_rows(13))?;
        let validation = split(folder.path(), "validation", &ragged_rows(3))?;
        Ok(Self { model: model(variant.model)?, variant, train, validation, folder })
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.folder.path().join("runs").join(name)
    }

    fn run(&self, folder: &Path, save_every: usize, watch: &mut Watch) -> Result<Summary> {
        let variant = &self.variant;
        let mut model = self.model.clone();
        let trainable = tuner::attach(&mut model, &variant.adapter, 5)?;
        let mut trainer = Trainer::new(model, trainable, variant.optimizer.clone(), 5)?;
        trainer.set_dropout(variant.adapter.dropout);
        trainer.set_gradient_checkpointing(variant.checkpointing);
        let mut order = if variant.packing {
            BatchOrder::packed(lengths(&self.train), 1, 48, 5)?
        } else {
            BatchOrder::new(lengths(&self.train), 2, 5)?
        };
        let settings = TrainingSettings {
            steps: STEPS,
            schedule: ScheduleSettings {
                name: variant.schedule,
                peak: variant.rate,
                minimum: 0.0,
                warmup_steps: 3,
                cycle_steps: 4,
                steps: STEPS,
            },
            accumulation: 2,
            slices: 1,
            pad_to: 8,
            max_gradient_norm: Some(0.5),
            report_every: 2,
            checkpoint_every: 5,
            save_every,
            validation_every: 3,
            validation_batch_size: 2,
            early_stopping: variant.early_stopping,
            adapter: variant.adapter.clone(),
            distrust: None,
            prefetch: 1,
            keep_last: 2,
        };
        let splits = Splits { train: &self.train, validation: &self.validation };
        Ok(tuner::train(&mut trainer, &mut order, splits, &settings, folder, watch)?)
    }

    /// Resumes from what an interruption or a kill left, and compares the outputs.
    fn resumes_to(&self, unbroken: &Path, folder: &Path, wanted: &Summary, how: &str) -> Result<()> {
        let found = self.run(folder, 4, &mut Watch::default())?;
        let how = format!("{}: {how}", self.variant.name);
        ensure!(found == *wanted, "{how}: {found:?} instead of {wanted:?}");
        let (expected, found) =
            (result(unbroken, wanted.steps as usize)?, result(folder, wanted.steps as usize)?);
        ensure!(expected.keys().eq(found.keys()), "{how}: different files: {:?}", found.keys());
        for (name, bytes) in &expected {
            ensure!(found[name] == *bytes, "{how}: `{}` differs", name.display());
        }
        Ok(())
    }

    /// Interrupts after each step and resumes; then runs once more after the end.
    fn cut_at_every_step(&self) -> Result<Summary> {
        let (unbroken, folder) = (self.folder("unbroken"), self.folder("stopped"));
        let wanted = self.run(&unbroken, 100, &mut Watch::default())?;
        for stop_after in 1..wanted.steps {
            let mut watch = Watch { stop_after: Some(stop_after as usize), ..Watch::default() };
            let summary = self.run(&folder, 100, &mut watch)?;
            ensure!(
                (summary.steps, summary.stop) == (stop_after, Stop::Interrupted),
                "{}",
                self.variant.name
            );
        }
        self.resumes_to(&unbroken, &folder, &wanted, "interrupted after every step")?;
        self.resumes_to(&unbroken, &folder, &wanted, "run again after the end")?;
        Ok(wanted)
    }

    /// Interrupts every validation twice, before its first batch or between two, and resumes.
    fn cut_in_every_validation(&self) -> Result<()> {
        let unbroken = self.folder("unbroken");
        let wanted = self.run(&unbroken, 100, &mut Watch::default())?;
        for step in (3..=wanted.steps as usize).step_by(3) {
            for batch in 0..2 {
                let folder = self.folder(&format!("cut-{step}-{batch}"));
                for turn in ["first", "resumed"] {
                    let what = format!("{}: {turn}, step {step}, batch {batch}", self.variant.name);
                    let cut = Some(Cut { step, batch });
                    let summary = self.run(&folder, 100, &mut Watch { cut, ..Watch::default() })?;
                    ensure!((summary.steps, &summary.stop) == (step as u64, &Stop::Interrupted), "{what}");
                    let metrics = fs_err::read_to_string(folder.join("metrics.jsonl"))?;
                    let validations = metrics.lines().filter(|line| line.contains("validation_loss"));
                    ensure!(validations.count() == step / 3 - 1, "{what}: a line of the validation");
                }
                self.resumes_to(&unbroken, &folder, &wanted, &format!("cut in the validation of {step}"))?;
            }
        }
        Ok(())
    }

    /// Resumes from copies taken at every moment of a possible kill.
    fn killed_at_every_moment(&self, save_every: usize) -> Result<()> {
        let (unbroken, copies) = (self.folder("watched"), self.folder("copies"));
        let watched = Some(Copies { from: unbroken.clone(), to: copies.clone() });
        let wanted = self.run(&unbroken, save_every, &mut Watch { copies: watched, ..Watch::default() })?;
        for moment in fs_err::read_dir(&copies)? {
            let moment = moment?.path();
            let name = moment.file_name().context("a name")?.to_string_lossy().into_owned();
            self.resumes_to(
                &unbroken,
                &moment,
                &wanted,
                &format!("killed at {name}, saved every {save_every}"),
            )?;
        }
        Ok(())
    }
}

/// Reads the outputs of a run: checkpoints, metrics and the last resume state.
fn result(folder: &Path, step: usize) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut files = files(folder)?;
    let last = Path::new("state").join(format!("{step:07}"));
    files.retain(|path, _| !path.starts_with("state") || path.starts_with(&last));
    ensure!(files.keys().any(|path| path.starts_with(&last)), "no resume state of step {step}");
    Ok(files)
}

#[test]
fn every_optimizer_resumes_to_the_same_bytes() -> Result<()> {
    use OptimizerName::{Adafactor, Adam, Adamw, Lion, Muon, Sgd};
    for name in [Adam, Adamw, Sgd, Adafactor, Lion, Muon] {
        let summary =
            Bench::new(with_optimizer(name))?.cut_at_every_step().with_context(|| format!("{name:?}"))?;
        assert_eq!((summary.steps, summary.stop), (STEPS as u64, Stop::Finished));
    }
    Ok(())
}

#[test]
fn every_kind_of_fine_tuning_resumes_to_the_same_bytes() -> Result<()> {
    let base = plain("LoRA");
    let all = AdapterSettings { num_layers: None, keys: Vec::new(), ..base.adapter.clone() };
    let full = AdapterSettings { fine_tune_type: FineTuneType::Full, dropout: 0.0, ..all.clone() };
    let variants = [
        Variant { name: "all blocks, packed", adapter: all.clone(), packing: true, ..base.clone() },
        Variant { name: "recomputed", adapter: all.clone(), checkpointing: true, ..base.clone() },
        Variant { name: "quantized weights, packed rows", model: "llama-q4", packing: true, ..base.clone() },
        Variant {
            name: "DoRA and an adapted head",
            adapter: AdapterSettings {
                fine_tune_type: FineTuneType::Dora,
                lm_head: true,
                ..base.adapter.clone()
            },
            schedule: ScheduleName::CosineRestarts,
            ..base.clone()
        },
        Variant {
            name: "last block and head, cyclic",
            adapter: AdapterSettings { num_layers: Some(1), lm_head: true, ..full.clone() },
            schedule: ScheduleName::Cyclic,
            ..base.clone()
        },
        Variant {
            name: "everything, tied head",
            model: "gemma3_text",
            adapter: AdapterSettings { embeddings: true, norms: true, ..full },
            schedule: ScheduleName::Linear,
            ..base
        },
    ];
    for variant in variants {
        Bench::new(variant)?.cut_at_every_step()?;
    }
    Ok(())
}

#[test]
fn early_stopping_does_not_depend_on_interruptions() -> Result<()> {
    let none = EarlyStopping::default();
    let variants = [
        // No validation loss decreases by 10, so that the third one stops the run.
        Variant {
            early_stopping: EarlyStopping { patience: 2, min_delta: 10.0, ..none },
            ..plain("patience")
        },
        // Every step after the warmup counts as a spike.
        Variant {
            early_stopping: EarlyStopping { spike_threshold: 1e-6, spike_patience: 4, ..none },
            ..plain("spikes")
        },
        // Nothing is learned, so that the average soon makes no new low; its losses do not depend on rounding.
        Variant {
            early_stopping: EarlyStopping { plateau_patience: 2, ..none },
            rate: 1e-9,
            schedule: ScheduleName::Constant,
            ..plain("plateau")
        },
    ];
    for variant in variants {
        let name = variant.name;
        let bench = Bench::new(variant)?;
        let summary = bench.cut_at_every_step()?;
        ensure!(matches!(&summary.stop, Stop::Early(_)), "{name}: {summary:?}");
        ensure!(summary.steps < STEPS as u64, "{name}: {summary:?}");
        bench.killed_at_every_moment(1)?;
    }
    Ok(())
}

#[test]
fn a_validation_that_was_interrupted_comes_first_in_the_resumed_run() -> Result<()> {
    let none = EarlyStopping::default();
    let variants = [
        plain("every rule counts"),
        Variant {
            early_stopping: EarlyStopping { patience: 2, min_delta: 10.0, ..none },
            ..plain("patience")
        },
        // A rule of the steps ends the run where a validation is due.
        Variant {
            early_stopping: EarlyStopping { spike_threshold: 1e-6, spike_patience: 3, ..none },
            ..plain("spikes")
        },
    ];
    for variant in variants {
        Bench::new(variant)?.cut_in_every_validation()?;
    }
    Ok(())
}
