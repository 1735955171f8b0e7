//! Laws for rows of any length: the way they are put into batches and lines changes neither losses nor gradients.

mod support;

use anyhow::{Context, Result, ensure};
use models::Model;
use outputs::RowLoss;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use support::{MODELS, Row, clipped, lengths, model, same_gradients, same_loss, split, token_rows, trainer};
use testutil::golden_dir;
use tuner::{AdapterSettings, Batch, BatchOrder, OptimizerSettings, score_batch};

/// Tokens per packed line: longer than the models' windows and than most training contexts of longrope and yarn.
const LINE: usize = 72;

/// Generates a row of up to 40 tokens with any number of targets.
fn row() -> impl Strategy<Value = Row> {
    let token = (10..250_u32, prop::bool::weighted(0.6));
    let tokens = prop::collection::vec(token, 1..40);
    (tokens, prop::bool::weighted(0.1), 0.25..4.0_f32).prop_map(|(tokens, cut, weight)| {
        let flag = |(at, &(_, trained)): (usize, &(u32, bool))| u8::from(trained && at > 0 && !cut);
        let trained = tokens.iter().enumerate().map(flag).collect();
        (tokens.into_iter().map(|(token, _)| token).collect(), trained, weight)
    })
}

/// Runs `law` on `cases` pseudo-random lists of rows, always the same.
fn for_all(cases: u32, rows: std::ops::Range<usize>, law: impl Fn(Vec<Row>) -> Result<()>) -> Result<()> {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 64, ..Config::default() };
    let generator = proptest::test_runner::TestRng::deterministic_rng(config.rng_algorithm);
    let test = |rows| law(rows).map_err(|error| TestCaseError::fail(format!("{error:#}")));
    let outcome = TestRunner::new_with_rng(config, generator).run(&prop::collection::vec(row(), rows), test);
    outcome.map_err(|error| anyhow::anyhow!("{error}"))
}

fn alone(model: &Model, rows: &[Row]) -> Result<Vec<RowLoss>> {
    let mut scores = Vec::new();
    for row in token_rows(rows) {
        scores.extend(score_batch(model, &Batch::new(&[row], 1))?);
    }
    Ok(scores)
}

fn same_scores(expected: &[RowLoss], found: &[RowLoss]) -> Result<()> {
    ensure!(expected.len() == found.len(), "{} and {} rows", expected.len(), found.len());
    for (row, (a, b)) in expected.iter().zip(found).enumerate() {
        ensure!(a.tokens == b.tokens, "row {row}: {} and {} targets", a.tokens, b.tokens);
        same_loss(a.loss, b.loss).with_context(|| format!("row {row}"))?;
    }
    Ok(())
}

/// Puts rows into lines in their order.
fn lines(rows: &[Row]) -> Vec<Vec<dataset::Row<'_>>> {
    let mut lines: Vec<Vec<dataset::Row<'_>>> = vec![Vec::new()];
    let mut room = LINE;
    for row in token_rows(rows) {
        let read = row.tokens.len() - 1;
        if read > room {
            lines.push(Vec::new());
            room = LINE;
        }
        room -= read;
        lines.last_mut().expect("there is one").push(row);
    }
    lines
}

/// Loads the model of every golden case.
fn models_of_every_kind() -> Result<Vec<(String, Model)>> {
    let mut names = Vec::new();
    for entry in fs_err::read_dir(golden_dir())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.join("model.safetensors").is_file() && !name.starts_with("train-") {
            names.push(name);
        }
    }
    names.sort();
    names.into_iter().map(|name| model(&name).map(|model| (name, model))).collect()
}

#[test]
fn a_packed_row_has_the_same_loss_as_alone_in_every_architecture() -> Result<()> {
    let models = models_of_every_kind()?;
    ensure!(models.len() >= 12 && models.iter().any(|(name, _)| name == "phi3-longrope"));
    for_all(8, 4..16, |rows| {
        let lines = lines(&rows);
        let packed = Batch::packed(&lines, LINE, 8);
        for (name, model) in &models {
            same_scores(&alone(model, &rows)?, &score_batch(model, &packed)?)
                .with_context(|| name.clone())?;
        }
        Ok(())
    })
}

#[test]
fn without_segments_packed_rows_have_another_loss() -> Result<()> {
    let rows: Vec<Row> = (0..3).map(|row| (vec![20 + row, 30, 40, 50], vec![0, 1, 1, 1], 1.0)).collect();
    for (name, model) in models_of_every_kind()? {
        let mut joined = Batch::packed(&[token_rows(&rows)], 16, 1);
        same_scores(&alone(&model, &rows)?, &score_batch(&model, &joined)?).with_context(|| name.clone())?;
        joined.segments = None;
        let found = score_batch(&model, &joined)?;
        ensure!(same_scores(&alone(&model, &rows)?, &found).is_err(), "{name}: the law can fail");
    }
    Ok(())
}

#[test]
fn padding_and_other_rows_do_not_change_the_loss() -> Result<()> {
    for name in MODELS {
        let model = model(name)?;
        for_all(12, 1..9, |rows| {
            let expected = alone(&model, &rows)?;
            for pad_to in [1, 8, 64] {
                same_scores(&expected, &score_batch(&model, &Batch::new(&token_rows(&rows), pad_to))?)?;
            }
            Ok(())
        })
        .context(name)?;
    }
    Ok(())
}

#[test]
fn the_loss_of_a_split_is_the_same_at_every_batch_size() -> Result<()> {
    for name in MODELS {
        let model = model(name)?;
        for_all(8, 1..14, |rows| {
            let folder = tempfile::tempdir()?;
            let split = split(folder.path(), "test", &rows)?;
            let expected = alone(&model, &rows)?;
            if expected.iter().all(|row| row.tokens == 0) {
                ensure!(
                    tuner::score(&model, &split, "test", 3).is_err(),
                    "a split without targets is scored"
                );
                return Ok(());
            }
            for batch_size in [1, 2, 3, 7, 64] {
                same_scores(&expected, &tuner::score(&model, &split, "test", batch_size)?.rows)?;
            }
            Ok(())
        })
        .context(name)?;
    }
    Ok(())
}

/// Outcome of one step over batches.
struct Outcome {
    loss_sum: f64,
    targets: usize,
    /// `None` without targets.
    gradients: Option<Vec<mlx_rs::Array>>,
}

#[test]
fn a_step_does_not_depend_on_how_its_rows_are_batched() -> Result<()> {
    for name in MODELS {
        let adapter = AdapterSettings { num_layers: Some(1), ..AdapterSettings::default() };
        for_all(6, 1..9, |rows| {
            let tokens = token_rows(&rows);
            let step = |batches: &[Batch]| -> Result<Outcome> {
                let mut trainer = trainer(name, &adapter, OptimizerSettings::default())?;
                let gradients = trainer.mean_gradients(batches).ok();
                let report = trainer.step(batches, clipped(1, 0.0, 1.0))?;
                ensure!(report.gradient_norm.is_finite() && report.mean_loss().is_finite(), "not finite");
                Ok(Outcome { loss_sum: report.loss_sum, targets: report.targets, gradients })
            };
            let Outcome { loss_sum, targets, gradients } = step(&[Batch::new(&tokens, 8)])?;
            let single: Vec<Batch> = tokens.chunks(1).map(|row| Batch::new(row, 1)).collect();
            let halves: Vec<Batch> =
                tokens.chunks(tokens.len().div_ceil(2)).map(|rows| Batch::new(rows, 4)).collect();
            let lines = lines(&rows);
            let packed: Vec<Batch> =
                lines.iter().map(|line| Batch::packed(std::slice::from_ref(line), LINE, 8)).collect();
            for (how, batches) in [("one by one", single), ("in halves", halves), ("packed", packed)] {
                let found = step(&batches).with_context(|| how.to_owned())?;
                ensure!(found.targets == targets, "{how}: {} and {targets} targets", found.targets);
                same_loss(loss_sum, found.loss_sum).with_context(|| how.to_owned())?;
                match (&gradients, &found.gradients) {
                    (Some(a), Some(b)) => same_gradients(a, b).with_context(|| how.to_owned())?,
                    (None, None) => ensure!(targets == 0, "targets without gradients"),
                    _ => anyhow::bail!("{how}: gradients on one side only"),
                }
            }
            Ok(())
        })
        .context(name)?;
    }
    Ok(())
}

#[test]
fn an_epoch_has_every_target_once_in_every_order() -> Result<()> {
    for_all(40, 1..40, |rows| {
        let folder = tempfile::tempdir()?;
        let split = split(folder.path(), "train", &rows)?;
        for batch_size in [1, 3, 8] {
            for length in [None, Some(LINE)] {
                let mut order = match length {
                    None => BatchOrder::new(lengths(&split), batch_size, 3)?,
                    Some(length) => BatchOrder::packed(lengths(&split), batch_size, length, 3)?,
                };
                let mut targets = 0;
                for index in 0..order.batches_in(1) {
                    targets += Batch::of_micro_batch(&split, &order.at(index), 8, None).target_count();
                }
                let expected: usize = (0..split.len()).map(|row| split.row(row).target_count()).sum();
                ensure!(targets == expected, "{targets} of {expected}");
            }
        }
        Ok(())
    })
}
