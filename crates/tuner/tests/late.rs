//! Reading the loss one step late, as on a GPU, changes no byte and leaves no step too many.

mod support;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use mlx_rs::Array;
use outputs::Stop;
use support::{files, lengths, model, ragged_rows, split};
use tuner::{
    AdapterSettings, BatchOrder, FineTuneType, Observer, OptimizerSettings, ScheduleName, ScheduleSettings,
    Splits, StepReport, Trainer, TrainingSettings,
};

const STEPS: usize = 11;

/// Counts the steps that were reported, and interrupts the run after one of them.
#[derive(Default)]
struct Watch {
    steps: Vec<usize>,
    stop_after: Option<usize>,
}

impl Observer for Watch {
    fn stepped(&mut self, step: usize, _report: &StepReport, _learning_rate: f64) {
        self.steps.push(step);
    }

    fn interrupted(&self) -> bool {
        self.stop_after.is_some() && self.steps.last().copied() == self.stop_after
    }
}

/// Outcome of [`run`].
struct Run {
    stop: Result<Stop>,
    parameters: Vec<Array>,
}

/// Trains in `folder`, until after a step if one is given.
fn run(folder: &Path, is_late: bool, rate: f64, watch: &mut Watch) -> Result<Run> {
    let train = split(folder.parent().context("a folder in a folder")?, "train", &ragged_rows(23))?;
    let adapter = AdapterSettings {
        fine_tune_type: FineTuneType::Dora,
        num_layers: Some(2),
        dropout: 0.1,
        ..AdapterSettings::default()
    };
    let mut model = model("llama")?;
    let trainable = tuner::attach(&mut model, &adapter, 5)?;
    let mut trainer = Trainer::new(model, trainable, OptimizerSettings::default(), 5)?;
    trainer.set_dropout(adapter.dropout);
    trainer.read_late(is_late);
    let mut order = BatchOrder::new(lengths(&train), 2, 5)?;
    let settings = TrainingSettings {
        steps: STEPS,
        schedule: ScheduleSettings {
            name: ScheduleName::Constant,
            peak: rate,
            minimum: 0.0,
            warmup_steps: 1,
            cycle_steps: 1,
            steps: STEPS,
        },
        accumulation: 2,
        report_every: 4,
        checkpoint_every: 6,
        save_every: 5,
        adapter,
        max_gradient_norm: None,
        ..TrainingSettings::default()
    };
    let splits = Splits { train: &train, validation: &train };
    let summary = tuner::train(&mut trainer, &mut order, splits, &settings, folder, watch);
    let stop = summary.map(|summary| summary.stop).map_err(anyhow::Error::from);
    Ok(Run { stop, parameters: trainer.parameters().to_vec() })
}

fn bytes(parameters: &[Array]) -> Result<Vec<Vec<u8>>> {
    Ok(parameters.iter().map(mlx_ext::bytes_of).collect::<mlx_ext::Result<_>>()?)
}

#[test]
fn a_late_loss_changes_no_byte_whenever_the_run_is_interrupted() -> Result<()> {
    let temporary = tempfile::tempdir()?;
    let plain = temporary.path().join("plain");
    run(&plain, false, 1e-2, &mut Watch::default())?.stop?;
    let expected = files(&plain)?;
    for stop_after in [None, Some(1), Some(2), Some(3), Some(7)] {
        let folder = temporary.path().join(format!("late-{stop_after:?}"));
        let mut watch = Watch { stop_after, ..Watch::default() };
        let mut stop = run(&folder, true, 1e-2, &mut watch)?.stop?;
        if let Some(step) = stop_after {
            ensure!(
                stop == Stop::Interrupted && watch.steps.last() == Some(&step),
                "{stop:?}: {:?}",
                watch.steps
            );
            watch.stop_after = None;
            stop = run(&folder, true, 1e-2, &mut watch)?.stop?;
        }
        ensure!(
            stop == Stop::Finished && watch.steps == (1..=STEPS).collect::<Vec<_>>(),
            "{:?}",
            watch.steps
        );
        let found = files(&folder)?;
        ensure!(found.keys().eq(expected.keys()), "{:?}", found.keys());
        for (name, bytes) in &found {
            ensure!(bytes == &expected[name], "`{}` differs after {stop_after:?}", name.display());
        }
    }
    Ok(())
}

#[test]
fn a_run_that_diverges_ends_with_the_same_error_and_the_last_good_parameters() -> Result<()> {
    let temporary = tempfile::tempdir()?;
    let mut ends = Vec::new();
    for is_late in [false, true] {
        let run = run(&temporary.path().join("run"), is_late, 1e37, &mut Watch::default())?;
        let error = run.stop.err().context("the run diverges")?.to_string();
        ensure!(error.contains("step") && (error.contains("NaN") || error.contains("inf")), "{error}");
        ends.push((error, bytes(&run.parameters)?));
        fs_err::remove_dir_all(temporary.path().join("run"))?;
    }
    ensure!(ends[0] == ends[1], "{} and {}", ends[0].0, ends[1].0);
    Ok(())
}
