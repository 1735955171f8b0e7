//! A dataset and adapters for tests that fuse.

use std::path::{Path, PathBuf};

use anyhow::Result;
use mlx_ext::Backend;
use mlx_rs::Dtype;
use models::{LoadOptions, Model};
use tuner::{AdapterSettings, Batch, OptimizerName, OptimizerSettings, Step, Trainer};

/// Initializes MLX.
pub(crate) fn backend() -> Result<Backend> {
    Ok(mlx_ext::init(&mlx_ext::Options::default())?)
}

/// Writes the `tokens` of a dataset with six irregular rows.
pub(crate) fn tokens(folder: &Path) -> Result<PathBuf> {
    let folder = folder.join("tokens");
    fs_err::create_dir_all(&folder)?;
    let mut writer = dataset::SplitWriter::create(&folder.join("validation.safetensors"))?;
    for row in 0..6_u32 {
        let tokens: Vec<u32> = (0..20).map(|t| (row * 131 + t * 37 + t * t * row) % 300 + 6).collect();
        let trained: Vec<u8> = (0..20).map(|t| u8::from(t >= 8)).collect();
        writer.push(&tokens, &trained, 1.0, 8)?;
    }
    writer.finish()?;
    Ok(folder)
}

/// Trains adapters that overfit those rows, so that any change of the weights increases the loss.
pub(crate) fn adapters(model: &Path, tokens: &Path, folder: &Path) -> Result<PathBuf> {
    let folder = folder.join("adapters");
    let mut base = Model::load(model, &LoadOptions { dtype: Some(Dtype::Float32), unpack: true })?;
    let settings = AdapterSettings { num_layers: Some(2), ..AdapterSettings::default() };
    let trainable = tuner::attach(&mut base, &settings, 3)?;
    let layers = base.layer_count();
    let optimizer = OptimizerSettings { name: OptimizerName::Adam, ..OptimizerSettings::default() };
    let mut trainer = Trainer::new(base, trainable.clone(), optimizer, 3)?;
    let split = dataset::Split::open(&tokens.join("validation.safetensors"))?;
    for step in 1..=60 {
        trainer.step(&[Batch::of_rows(&split, &[0, 1, 2, 3, 4, 5], 1)], Step::new(step, 1e-2))?;
    }
    tuner::save_adapters(&folder, &settings, layers, &trainable.names, trainer.parameters())?;
    Ok(folder)
}
