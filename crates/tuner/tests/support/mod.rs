//! Helpers of the tests of this crate: tiny models, rows of many lengths, comparisons.

#![expect(dead_code, reason = "each test program uses only some of them")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use dataset::{Split, SplitWriter};
use mlx_rs::{Array, Dtype};
use models::{LoadOptions, Model};
use testutil::{golden, tolerance};
use tuner::{AdapterSettings, OptimizerSettings, Step, Trainer};

/// Models that laws are tested on: one with a separate head and full attention, one with a tied head and windows.
pub(crate) const MODELS: [&str; 2] = ["llama", "gemma3_text"];

pub(crate) fn model(name: &str) -> Result<Model> {
    mlx_ext::init(&mlx_ext::Options::default())?;
    let options = LoadOptions { dtype: Some(Dtype::Float32), unpack: true };
    Model::load(&golden(name), &options).with_context(|| format!("loading `{name}`"))
}

/// Makes a trainer whose adapters are not fresh, because with a zero `b` half of the gradients are zero.
pub(crate) fn trainer(
    name: &str,
    adapter: &AdapterSettings,
    optimizer: OptimizerSettings,
) -> Result<Trainer> {
    let mut model = model(name)?;
    let trainable = tuner::attach(&mut model, adapter, 7)?;
    let mut trainer = Trainer::new(model, trainable, optimizer, 7)?;
    let mut parameters = Vec::new();
    for (index, parameter) in trainer.parameters().iter().enumerate() {
        let key = mlx_rs::random::key(1000 + index as u64)?;
        let noise = mlx_rs::random::normal::<f32>(parameter.shape(), None, Some(0.05), &key)?;
        parameters.push(parameter.add(noise)?);
    }
    mlx_rs::transforms::eval(&parameters)?;
    let moments = trainer.optimizer().moments().to_vec();
    trainer.restore(parameters, moments, 0)?;
    Ok(trainer)
}

/// Tokens of a row, 1 for each target, and the weight of the row.
pub(crate) type Row = (Vec<u32>, Vec<u8>, f32);

/// Makes `count` rows of 4 to 40 tokens, always the same; the first third of each row is its prompt.
pub(crate) fn ragged_rows(count: usize) -> Vec<Row> {
    (0..count)
        .map(|row| {
            let length = 4 + (row * 17) % 37;
            let tokens: Vec<u32> = (0..length).map(|t| ((row * 31 + t * 7) % 300) as u32 + 10).collect();
            let trained = (0..length).map(|t| u8::from(t > length / 3)).collect();
            (tokens, trained, 1.0)
        })
        .collect()
}

pub(crate) fn token_rows(rows: &[Row]) -> Vec<dataset::Row<'_>> {
    rows.iter()
        .map(|(tokens, trained, weight)| dataset::Row { tokens, trained, weight: *weight, prompt_length: 0 })
        .collect()
}

/// Returns the arguments of a step that clips gradients to a norm of `limit`.
pub(crate) fn clipped(number: usize, learning_rate: f64, limit: f32) -> Step<'static> {
    Step { max_gradient_norm: Some(limit), ..Step::new(number, learning_rate) }
}

/// Writes rows as a split and opens it.
pub(crate) fn split(folder: &Path, name: &str, rows: &[Row]) -> Result<Split> {
    let path = folder.join(format!("{name}.safetensors"));
    let mut writer = SplitWriter::create(&path)?;
    for (tokens, trained, weight) in rows {
        writer.push(tokens, trained, *weight, tokens.len() / 3)?;
    }
    writer.finish()?;
    Ok(Split::open(&path)?)
}

pub(crate) fn lengths(split: &Split) -> Vec<u32> {
    (0..split.len()).map(|row| split.row_length(row) as u32).collect()
}

/// Checks that gradients `a` and `b` are equal within [`tolerance::GRADIENT`].
pub(crate) fn same_gradients(a: &[Array], b: &[Array]) -> Result<()> {
    ensure!(a.len() == b.len() && !a.is_empty(), "{} and {} gradients", a.len(), b.len());
    for (index, (a, b)) in a.iter().zip(b).enumerate() {
        let off = a.subtract(b)?.abs()?.max(None)?.item_exact::<f32>();
        let size = a.abs()?.max(None)?.item_exact::<f32>();
        ensure!(
            size.is_finite() && off <= tolerance::GRADIENT * size.max(1e-3),
            "gradient {index}: {off} of {size}"
        );
    }
    Ok(())
}

pub(crate) fn same_loss(a: f64, b: f64) -> Result<()> {
    ensure!(a.is_finite() && (a - b).abs() <= tolerance::SUMMED_LOSS * a.abs(), "losses {a} and {b}");
    Ok(())
}

/// Reads every file under `folder`, by path.
pub(crate) fn files(folder: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs_err::read_dir(&next)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(folder)?.to_owned(), fs_err::read(&path)?);
            }
        }
    }
    Ok(found)
}

pub(crate) fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    for (name, bytes) in files(from)? {
        let target = to.join(name);
        fs_err::create_dir_all(target.parent().context("a file has a folder")?)?;
        fs_err::write(target, bytes)?;
    }
    Ok(())
}
