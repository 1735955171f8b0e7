//! Laws of training for every model and every batch.

mod support;

use anyhow::{Context, Result, ensure};
use mlx_rs::Array;
use models::{Input, Model};
use support::{
    MODELS, clipped, lengths, model, ragged_rows, same_gradients, same_loss, split, token_rows, trainer,
};
use tuner::{AdapterSettings, Batch, BatchOrder, FineTuneType, OptimizerName, OptimizerSettings, Step};

fn logits(model: &Model) -> Result<Vec<f32>> {
    let tokens = Array::from_slice(&[5, 17, 200, 33, 4, 9, 9, 120], &[2, 4]);
    let logits = model.logits(&model.hidden(Input::tokens(&tokens))?)?;
    logits.eval()?;
    Ok(logits.as_slice::<f32>().to_vec())
}

fn adapters() -> [AdapterSettings; 3] {
    let with = |fine_tune_type| AdapterSettings { fine_tune_type, ..AdapterSettings::default() };
    [
        with(FineTuneType::Lora),
        with(FineTuneType::Dora),
        AdapterSettings { num_layers: Some(1), ..with(FineTuneType::Full) },
    ]
}

#[test]
fn a_fresh_adapter_changes_nothing() -> Result<()> {
    for name in MODELS {
        let plain = logits(&model(name)?)?;
        for adapter in adapters() {
            let mut adapted = model(name)?;
            tuner::attach(&mut adapted, &adapter, 3)?;
            let off = logits(&adapted)?.iter().zip(&plain).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            // DoRA divides a norm by itself, with rounding.
            let allowed = if adapter.fine_tune_type == FineTuneType::Dora { 1e-5 } else { 0.0 };
            ensure!(off <= allowed, "{name}, {:?}: off by {off}", adapter.fine_tune_type);
        }
    }
    Ok(())
}

#[test]
fn padding_changes_neither_loss_nor_gradient() -> Result<()> {
    let rows = ragged_rows(5);
    for name in MODELS {
        for adapter in adapters() {
            let mut trainer = trainer(name, &adapter, OptimizerSettings::default())?;
            let (tight, wide) = (Batch::new(&token_rows(&rows), 1), Batch::new(&token_rows(&rows), 64));
            assert_eq!(wide.tokens.shape(), [5, 64]);
            let of_tight = trainer.mean_gradients(std::slice::from_ref(&tight))?;
            same_gradients(&of_tight, &trainer.mean_gradients(std::slice::from_ref(&wide))?)?;
            let before = trainer.parameters().to_vec();
            let moments = trainer.optimizer().moments().to_vec();
            let a = trainer.step(&[tight], Step::new(1, 1e-3))?;
            trainer.restore(before, moments, 0)?;
            let b = trainer.step(&[wide], Step::new(1, 1e-3))?;
            same_loss(a.mean_loss(), b.mean_loss())?;
        }
    }
    Ok(())
}

#[test]
fn one_batch_of_eight_equals_eight_of_one() -> Result<()> {
    let mut rows = ragged_rows(8);
    // Weights of rows count too.
    rows[2].2 = 0.25;
    rows[5].2 = 3.0;
    let rows = token_rows(&rows);
    for name in MODELS {
        for adapter in adapters() {
            let mut trainer = trainer(name, &adapter, OptimizerSettings::default())?;
            let whole = [Batch::new(&rows, 1)];
            let single: Vec<Batch> = rows.chunks(1).map(|row| Batch::new(row, 1)).collect();
            same_gradients(&trainer.mean_gradients(&whole)?, &trainer.mean_gradients(&single)?)?;
            let (start, moments) = (trainer.parameters().to_vec(), trainer.optimizer().moments().to_vec());
            let a = trainer.step(&whole, clipped(1, 1e-3, 1.0))?;
            trainer.restore(start, moments, 0)?;
            let b = trainer.step(&single, clipped(1, 1e-3, 1.0))?;
            same_loss(a.mean_loss(), b.mean_loss())?;
            assert_eq!(a.targets, b.targets);
        }
    }
    Ok(())
}

#[test]
fn a_packed_batch_has_the_loss_and_gradient_of_its_rows() -> Result<()> {
    let rows = ragged_rows(8);
    let folder = tempfile::tempdir()?;
    let split = split(folder.path(), "train", &rows)?;
    let mut order = BatchOrder::packed(lengths(&split), 8, 64, 5)?;
    let micro = order.at(0);
    assert_eq!(order.batches_in(1), 1, "all rows are in one batch");
    assert!(micro.lines.iter().any(|line| line.len() > 1));
    for name in MODELS {
        for adapter in adapters() {
            let mut trainer = trainer(name, &adapter, OptimizerSettings::default())?;
            let packed = [Batch::of_micro_batch(&split, &micro, 8, None)];
            assert_eq!(packed[0].tokens.shape(), [micro.lines.len() as i32, 64]);
            let alone: Vec<Batch> = token_rows(&rows).chunks(1).map(|row| Batch::new(row, 1)).collect();
            same_gradients(&trainer.mean_gradients(&alone)?, &trainer.mean_gradients(&packed)?)?;
            let (start, moments) = (trainer.parameters().to_vec(), trainer.optimizer().moments().to_vec());
            let a = trainer.step(&alone, Step::new(1, 1e-3))?;
            trainer.restore(start, moments, 0)?;
            let b = trainer.step(&packed, Step::new(1, 1e-3))?;
            same_loss(a.mean_loss(), b.mean_loss())?;
            assert_eq!(a.targets, b.targets);
        }
    }
    Ok(())
}

#[test]
fn recomputing_activations_does_not_change_the_gradient() -> Result<()> {
    let rows = ragged_rows(4);
    let batch = [Batch::new(&token_rows(&rows), 8)];
    for name in MODELS.into_iter().chain(["gemma2", "cohere", "phi3", "qwen3", "llama-q4"]) {
        for adapter in adapters() {
            if name == "llama-q4" && adapter.fine_tune_type == FineTuneType::Full {
                continue;
            }
            let mut trainer = trainer(name, &adapter, OptimizerSettings::default())?;
            trainer.set_dropout(0.1);
            let kept = trainer.mean_gradients(&batch)?;
            trainer.set_gradient_checkpointing(true);
            same_gradients(&kept, &trainer.mean_gradients(&batch)?).with_context(|| name.to_owned())?;
        }
    }
    Ok(())
}

#[test]
fn the_loss_of_a_split_does_not_depend_on_the_batch_size() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let split = split(folder.path(), "test", &ragged_rows(13))?;
    for name in MODELS {
        let model = model(name)?;
        let alone = tuner::score(&model, &split, "test", 1)?;
        for batch_size in [2, 5, 13, 64] {
            let together = tuner::score(&model, &split, "test", batch_size)?;
            assert_eq!(together.tokens(), alone.tokens());
            same_loss(alone.mean_loss(), together.mean_loss())?;
            for (a, b) in alone.rows.iter().zip(&together.rows) {
                assert_eq!(a.tokens, b.tokens);
                same_loss(a.loss, b.loss)?;
            }
        }
    }
    Ok(())
}

#[test]
fn rows_of_an_incomplete_batch_are_trained_too() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let rows = ragged_rows(7);
    let split = split(folder.path(), "train", &rows)?;
    let mut order = BatchOrder::new(lengths(&split), 3, 1)?;
    let mut trainer = trainer("llama", &AdapterSettings::default(), OptimizerSettings::default())?;
    let mut targets = 0;
    for index in 0..order.batches_in(1) {
        let batch = Batch::of_micro_batch(&split, &order.at(index), 8, None);
        targets += trainer.step(&[batch], Step::new(index + 1, 1e-4))?.targets;
    }
    let expected: usize = (0..split.len()).map(|row| split.row(row).target_count()).sum();
    assert_eq!(targets, expected);
    Ok(())
}

#[test]
fn a_row_without_targets_never_gives_nan() -> Result<()> {
    let cut: support::Row = (vec![20, 21, 22, 23], vec![0; 4], 1.0);
    let whole = ragged_rows(2);
    let alone = [Batch::new(&token_rows(&whole), 1)];
    let with_cut = [Batch::new(&token_rows(&[whole[0].clone(), cut.clone(), whole[1].clone()]), 1)];
    let beside_cut =
        [Batch::new(&token_rows(&whole), 1), Batch::new(&token_rows(std::slice::from_ref(&cut)), 8)];
    let mut weightless = ragged_rows(1);
    weightless[0].2 = 0.0;
    for name in MODELS {
        let mut trainer = trainer(name, &AdapterSettings::default(), OptimizerSettings::default())?;
        let expected = trainer.mean_gradients(&alone)?;
        same_gradients(&expected, &trainer.mean_gradients(&with_cut)?)?;
        same_gradients(&expected, &trainer.mean_gradients(&beside_cut)?)?;
        let before = trainer.parameters().to_vec();
        for rows in [vec![cut.clone()], weightless.clone()] {
            let report = trainer.step(&[Batch::new(&token_rows(&rows), 1)], clipped(1, 0.1, 1.0))?;
            ensure!(report.loss_sum == 0.0 && report.gradient_norm == 0.0 && report.mean_loss() == 0.0);
        }
        for (a, b) in before.iter().zip(trainer.parameters()) {
            assert_eq!(a.as_slice::<f32>(), b.as_slice::<f32>());
        }
        assert_eq!(trainer.optimizer().steps(), 0);
    }
    Ok(())
}

#[test]
fn a_weight_of_two_equals_the_row_twice() -> Result<()> {
    let mut rows = ragged_rows(3);
    let twice = [rows[0].clone(), rows[1].clone(), rows[1].clone(), rows[2].clone()];
    rows[1].2 = 2.0;
    let trainer = trainer("llama", &AdapterSettings::default(), OptimizerSettings::default())?;
    same_gradients(
        &trainer.mean_gradients(&[Batch::new(&token_rows(&twice), 1)])?,
        &trainer.mean_gradients(&[Batch::new(&token_rows(&rows), 1)])?,
    )
}

/// One model of each architecture, and a packed one.
const ARCHITECTURES: [&str; 9] =
    ["llama", "gemma3_text", "gemma2", "cohere", "mistral", "phi3", "qwen2", "qwen3", "llama-q4"];

/// Trains a few steps and saves the adapters; the test below runs it in other processes.
#[test]
#[ignore = "only as a child process"]
fn child_that_trains() -> Result<()> {
    let folder = std::env::var_os("TUNER_TEST_FOLDER").context("the parent sets a folder")?;
    let adapter = AdapterSettings { dropout: 0.1, ..AdapterSettings::default() };
    for name in ARCHITECTURES {
        let mut model = model(name)?;
        let trainable = tuner::attach(&mut model, &adapter, 11)?;
        let optimizer = OptimizerSettings { name: OptimizerName::Adamw, ..OptimizerSettings::default() };
        let mut trainer = tuner::Trainer::new(model, trainable, optimizer, 11)?;
        trainer.set_dropout(0.1);
        // 2,880 tokens per step: with fewer, the products of the small models are too small for several threads.
        let rows = ragged_rows(144);
        for step in 0..2 {
            let batch = Batch::new(&token_rows(&rows[72 * step..72 * (step + 1)]), 8);
            trainer.step(&[batch], clipped(step + 1, 1e-3, 1.0))?;
        }
        let target = std::path::Path::new(&folder).join(name);
        let names = trainer.trainable().names.clone();
        tuner::save_adapters(&target, &adapter, trainer.layer_count(), &names, trainer.parameters())?;
    }
    Ok(())
}

#[test]
fn the_number_of_threads_does_not_change_the_bytes() -> Result<()> {
    let mut outcomes = Vec::new();
    for threads in ["1", "1", "2"] {
        let folder = tempfile::tempdir()?;
        let output = std::process::Command::new(std::env::current_exe()?)
            .args(["child_that_trains", "--exact", "--ignored", "--test-threads=1"])
            .env("TUNER_TEST_FOLDER", folder.path())
            .env("RAYON_NUM_THREADS", threads)
            .output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        outcomes.push(support::files(folder.path())?);
    }
    assert_eq!(outcomes[0].len(), 2 * ARCHITECTURES.len());
    ensure!(outcomes[0] == outcomes[1], "two runs differ");
    ensure!(outcomes[0] == outcomes[2], "the number of threads changes the bytes");
    Ok(())
}
