//! Laws of rows of any lengths: how they are put into batches and lines shows in no loss and no gradient.

mod support;

use anyhow::{Context, Result, ensure};
use models::Model;
use outputs::RowLoss;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use support::{
    MODELS, Row, clipped, golden, lengths, model, same_gradients, same_loss, split, token_rows, trainer,
};
use tuner::{AdapterSettings, Batch, BatchOrder, OptimizerSettings, score_batch};

/// Tokens of a packed line: longer than the windows of the models that have them, and most contexts that longrope and
/// yarn were trained on.
const LINE: usize = 72;

/// A row of up to 40 tokens with any of them as targets, also none.
fn row() -> impl Strategy<Value = Row> {
    let token = (10..250_u32, prop::bool::weighted(0.6));
    let tokens = prop::collection::vec(token, 1..40);
    (tokens, prop::bool::weighted(0.1), 0.25..4.0_f32).prop_map(|(tokens, cut, weight)| {
        let flag = |(at, &(_, trained)): (usize, &(u32, bool))| u8::from(trained && at > 0 && !cut);
        let trained = tokens.iter().enumerate().map(flag).collect();
        (tokens.into_iter().map(|(token, _)| token).collect(), trained, weight)
    })
}

/// Runs `law` on `cases` lists of rows that look like chance and are the same every time.
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

/// Rows put into lines one after another, as they come.
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

/// Every model there is a golden case of.
fn models_of_every_kind() -> Result<Vec<(String, Model)>> {
    let mut names = Vec::new();
    for entry in fs_err::read_dir(golden(""))? {
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
fn a_packed_row_has_the_loss_that_it_has_alone_in_every_architecture() -> Result<()> {
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
fn rows_of_a_line_that_are_not_kept_apart_have_another_loss() -> Result<()> {
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
fn padding_and_company_change_no_loss() -> Result<()> {
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
                ensure!(tuner::score(&model, &split, "test", 3).is_err(), "nothing to score");
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

/// Loss, targets and gradients of one step over batches, `None` without a target.
type Step = (f64, usize, Option<Vec<mlx_rs::Array>>);

#[test]
fn a_step_is_the_same_however_its_rows_are_put_together() -> Result<()> {
    for name in MODELS {
        let adapter = AdapterSettings { num_layers: Some(1), ..AdapterSettings::default() };
        for_all(6, 1..9, |rows| {
            let parts = token_rows(&rows);
            let step = |batches: &[Batch]| -> Result<Step> {
                let mut trainer = trainer(name, &adapter, OptimizerSettings::default())?;
                let gradients = trainer.mean_gradients(batches).ok();
                let report = trainer.step(batches, clipped(1, 0.0, 1.0))?;
                ensure!(report.gradient_norm.is_finite() && report.mean_loss().is_finite(), "not a number");
                Ok((report.loss_sum, report.targets, gradients))
            };
            let (loss, targets, gradients) = step(&[Batch::new(&parts, 8)])?;
            let single: Vec<Batch> = parts.chunks(1).map(|row| Batch::new(row, 1)).collect();
            let halves: Vec<Batch> =
                parts.chunks(parts.len().div_ceil(2)).map(|rows| Batch::new(rows, 4)).collect();
            let lines = lines(&rows);
            let packed: Vec<Batch> =
                lines.iter().map(|line| Batch::packed(std::slice::from_ref(line), LINE, 8)).collect();
            for (how, batches) in [("one by one", single), ("in halves", halves), ("packed", packed)] {
                let found = step(&batches).with_context(|| how.to_owned())?;
                ensure!(found.1 == targets, "{how}: {} and {targets} targets", found.1);
                same_loss(loss, found.0).with_context(|| how.to_owned())?;
                match (&gradients, &found.2) {
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
fn an_epoch_trains_on_every_target_once_however_rows_are_planned() -> Result<()> {
    for_all(40, 1..40, |rows| {
        let folder = tempfile::tempdir()?;
        let split = split(folder.path(), "train", &rows)?;
        for batch_size in [1, 3, 8] {
            for length in [None, Some(LINE)] {
                let mut plan = match length {
                    None => BatchOrder::new(lengths(&split), batch_size, 3)?,
                    Some(length) => BatchOrder::packed(lengths(&split), batch_size, length, 3)?,
                };
                let mut targets = 0;
                for index in 0..plan.batches_in(1) {
                    targets += Batch::of_micro_batch(&split, &plan.at(index), 8, None).target_count();
                }
                let expected: usize = (0..split.len()).map(|row| split.row(row).target_count()).sum();
                ensure!(targets == expected, "{targets} of {expected}");
            }
        }
        Ok(())
    })
}
