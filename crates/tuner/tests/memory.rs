//! Memory stays flat over steps whose shapes change. Alone in its process: memory is counted for the whole of it.

mod support;

use anyhow::{Result, ensure};
use std::collections::BTreeSet;
use support::{lengths, model, ragged_rows, split};
use tuner::{
    AdapterSettings, BatchOrder, EarlyStopping, Observer, OptimizerSettings, ScheduleName, ScheduleSettings,
    Splits, StepReport, Trainer, TrainingSettings,
};

const STEPS: usize = 2000;

/// The C library keeps what is freed in pieces of its own: so much may come and go.
const NOISE_BYTES: usize = 8 << 20;

/// Memory between steps, when nothing but parameters and moments should be there.
#[derive(Default)]
struct Watch {
    active: std::cell::RefCell<Vec<usize>>,
    resident: std::cell::RefCell<Vec<usize>>,
}

impl Observer for Watch {
    fn started(&mut self, _step: usize, _steps: usize) {}

    fn stepped(&mut self, _step: usize, _report: &StepReport, _learning_rate: f64) {}

    fn reported(&mut self, _step: usize, _train_loss: f64) {}

    fn validated(&mut self, _step: usize, _loss: f64) {}

    fn checkpointed(&mut self, _step: usize) {}

    fn interrupted(&self) -> bool {
        self.active.borrow_mut().push(mlx_rs::memory::active_memory().expect("a number"));
        self.resident.borrow_mut().push(mlx_ext::resident_memory().unwrap_or(0));
        false
    }
}

#[test]
fn two_thousand_steps_of_changing_shapes_leave_memory_flat() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let rows = ragged_rows(61);
    let shapes: BTreeSet<usize> = rows.iter().map(|(tokens, ..)| tokens.len()).collect();
    ensure!(shapes.len() > 20, "rows of {} lengths", shapes.len());
    let (train, validation) =
        (split(folder.path(), "train", &rows)?, split(folder.path(), "validation", &ragged_rows(3))?);
    let adapter = AdapterSettings {
        num_layers: Some(1),
        keys: vec!["self_attn.q_proj".to_owned()],
        dropout: 0.1,
        ..AdapterSettings::default()
    };
    let mut model = model("llama")?;
    // A buffer taken from the cache may be larger than what was asked for, and counts as it is.
    mlx_rs::memory::set_cache_limit(0)?;
    let trainable = tuner::attach(&mut model, &adapter, 5)?;
    let mut trainer = Trainer::new(model, trainable, OptimizerSettings::default(), 5)?;
    trainer.set_dropout(adapter.dropout);
    let mut order = BatchOrder::new(lengths(&train), 2, 5)?;
    let epoch = order.batches_in(1).div_ceil(2);
    let settings = TrainingSettings {
        steps: STEPS,
        schedule: ScheduleSettings {
            name: ScheduleName::Constant,
            peak: 1e-3,
            minimum: 0.0,
            warmup_steps: 3,
            cycle_steps: 1,
            steps: STEPS,
        },
        accumulation: 2,
        // Every length is a shape of its own.
        pad_to: 1,
        max_gradient_norm: Some(1.0),
        report_every: 10,
        checkpoint_every: 500,
        save_every: 200,
        validation_every: 100,
        validation_batch_size: 2,
        early_stopping: EarlyStopping::default(),
        adapter,
        distrust: None,
        prefetch: 2,
        keep_last: 1,
    };
    let mut watch = Watch::default();
    tuner::train(
        &mut trainer,
        &mut order,
        Splits { train: &train, validation: &validation },
        &settings,
        &folder.path().join("run"),
        &mut watch,
    )?;

    let active = watch.active.into_inner();
    let after_first = &active[epoch..];
    let (least, most) = (after_first.iter().min().copied(), after_first.iter().max().copied());
    let resident = watch.resident.into_inner();
    // Pages that no step has touched yet are still to come in the first steps.
    let early = resident[epoch..200].iter().max().copied().unwrap_or_default();
    let late = resident[STEPS - 200..].iter().max().copied().unwrap_or_default();
    println!(
        "active {least:?} to {most:?} bytes, resident {early} bytes in steps {epoch} to 200, {late} in the last 200"
    );
    ensure!(least == most, "active memory is {least:?} to {most:?} bytes between steps");
    ensure!(late <= early + NOISE_BYTES, "resident memory grew from {early} to {late} bytes");
    Ok(())
}
