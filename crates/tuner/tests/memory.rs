//! Memory stays constant over steps of changing shapes. The only test of its process, because memory is measured per
//! process.

mod support;

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use support::{lengths, model, ragged_rows, split};
use tuner::{
    AdapterSettings, BatchOrder, Observer, OptimizerSettings, ScheduleName, ScheduleSettings, Splits,
    Trainer, TrainingSettings,
};

const STEPS: usize = 2000;

/// Variation of resident memory that the allocator of the C library causes.
const NOISE_BYTES: usize = 8 << 20;

/// Memory between steps, when only parameters and moments should be in it.
#[derive(Default)]
struct Watch {
    active: std::cell::RefCell<Vec<usize>>,
    resident: std::cell::RefCell<Vec<usize>>,
}

impl Observer for Watch {
    fn interrupted(&self) -> bool {
        self.active.borrow_mut().push(mlx_rs::memory::active_memory().expect("MLX counts its memory"));
        self.resident.borrow_mut().push(mlx_ext::resident_memory().unwrap_or(0));
        false
    }
}

#[test]
fn memory_stays_constant_over_two_thousand_steps_of_changing_shapes() -> Result<()> {
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
    // Without a cache: a buffer from the cache may be larger than requested, and counts with its full size.
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
        // Every length makes another shape.
        pad_to: 1,
        checkpoint_every: 500,
        save_every: 200,
        validation_every: 100,
        validation_batch_size: 2,
        adapter,
        keep_last: 1,
        ..TrainingSettings::default()
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
    // The first steps touch pages for the first time.
    let early = resident[epoch..200].iter().max().copied().unwrap_or_default();
    let late = resident[STEPS - 200..].iter().max().copied().unwrap_or_default();
    println!(
        "active {least:?} to {most:?} bytes, resident {early} bytes in steps {epoch} to 200, {late} in the last 200"
    );
    ensure!(least == most, "active memory is {least:?} to {most:?} bytes between steps");
    ensure!(late <= early + NOISE_BYTES, "resident memory grew from {early} to {late} bytes");
    Ok(())
}
