//! What the tests of this crate share: tiny models, ragged rows, and the one table of tolerances.

#![expect(dead_code, reason = "every test program uses its own share")]

use anyhow::{Context, Result, ensure};
use dataset::{Split, SplitWriter};
use mlx_rs::{Array, Dtype};
use models::{LoadOptions, Model};
use std::path::{Path, PathBuf};
use tuner::{AdapterSettings, OptimizerSettings, Step, Trainer};

/// How far apart two results may be and still count as the same, in `f32`.
pub(crate) mod tolerance {
    /// A loss summed another way, relative.
    pub(crate) const LOSS: f64 = 1e-5;
    /// A gradient summed another way, relative to its largest number.
    pub(crate) const GRADIENT: f32 = 1e-4;
    /// A gradient along itself against the slope of the loss, relative.
    pub(crate) const SLOPE: f64 = 1e-2;
    /// A gradient computed in `bfloat16`, relative to its largest number.
    pub(crate) const BFLOAT16: f32 = 0.1;
    /// An optimizer's parameters after a few steps against MLX's own, absolute.
    pub(crate) const OPTIMIZER: f32 = 2e-6;
    /// Parameters moved by Muon, whose iteration amplifies rounding, absolute.
    pub(crate) const MUON: f32 = 2e-5;
    /// A row's distrust loss and weight against published values, relative.
    pub(crate) const DISTRUST: f64 = 1e-6;
}

/// The models that laws are tested on: one with a head of its own and full attention, one with a tied head and windows.
pub(crate) const MODELS: [&str; 2] = ["llama", "gemma3_text"];

pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

pub(crate) fn model(name: &str) -> Result<Model> {
    mlx_ext::init(&mlx_ext::Options::default())?;
    let options = LoadOptions { dtype: Some(Dtype::Float32), unpack: true };
    Model::load(&golden(name), &options).with_context(|| format!("loading `{name}`"))
}

/// A trainer whose adapters are not fresh: where `b` is zero, half of the gradients are zero too.
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

/// A row of tokens with its flags and weight.
pub(crate) type Row = (Vec<u32>, Vec<u8>, f32);

/// `count` rows of 4 to 40 tokens, the first third of each a prompt; the same every time.
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

/// Fails unless `a` and `b` are the same within [`tolerance::GRADIENT`].
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
    ensure!(a.is_finite() && (a - b).abs() <= tolerance::LOSS * a.abs(), "losses {a} and {b}");
    Ok(())
}

/// The bytes of every file under `folder`, by path.
pub(crate) fn files(folder: &Path) -> Result<std::collections::BTreeMap<PathBuf, Vec<u8>>> {
    let mut found = std::collections::BTreeMap::new();
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
