//! Other forms of the fused model, quantized for MLX or as a GGUF file: written, read back, measured, refused if they lost
//! too much.

use std::path::{Path, PathBuf};

use dataset::Split;
use failure::{Context as _, Error, Result};
use models::{Conversion, LoadOptions, Model, Quantize};
use outputs::ExportCost;

use crate::config::Config;
use crate::gguf::{self, Gguf};
use crate::states::{Outputs, States, divergence};
use crate::{modelfile, write};

/// The fused model, as the exports are compared with it.
pub(crate) struct Reference<'a> {
    /// Its folder.
    pub(crate) folder: &'a Path,
    /// Its loss on the validation split, in nats per target.
    pub(crate) loss: f64,
    /// What enters its head at the targets.
    pub(crate) states: States,
    /// The validation split.
    pub(crate) split: &'a Split,
}

/// A written export.
struct Export {
    /// Path in the output folder.
    path: String,
    format: String,
    /// Files with its weights.
    weights: Vec<PathBuf>,
    /// What to do about a high loss.
    remedy: &'static str,
}

/// Writes and measures the exports that the settings ask for, in `out`.
///
/// # Errors
///
/// Fails when an export cannot be written or read back, and when its loss is too high.
pub(crate) fn write(
    reference: &mut Reference<'_>,
    config: &Config,
    options: &LoadOptions,
    out: &Path,
) -> Result<Vec<ExportCost>> {
    let mut costs = Vec::new();
    if let Some(settings) = &config.quantize {
        let export = quantized(reference.folder, settings, out).context("quantizing the fused model")?;
        let folder = out.join(&export.path);
        let load = || Ok(Model::load(&folder, options)?);
        let head = || Ok(Model::load_head(&folder, options)?);
        costs.push(measure(reference, &export, config, load, head, out)?);
    }
    if config.gguf != Gguf::None {
        let export = gguf_file(reference.folder, config.gguf, out).context("writing GGUF")?;
        let file = out.join(&export.path);
        let load = || gguf::load(&file, options).context("reading the GGUF file back");
        let head = || gguf::load_head(&file, options);
        costs.push(measure(reference, &export, config, load, head, out)?);
    }
    Ok(costs)
}

/// Writes the folder `quantized/`.
fn quantized(fused: &Path, settings: &Quantize, out: &Path) -> Result<Export> {
    let folder = out.join(outputs::QUANTIZED);
    fs_err::create_dir_all(&folder)?;
    write::copy_other_files(fused, &folder)?;
    let shards = models::weight_files(fused)?;
    let shards: Vec<&Path> = shards.iter().map(PathBuf::as_path).collect();
    models::convert(&fused.join("config.json"), &shards, &Conversion::Quantize(settings.clone()), &folder)?;
    let Quantize { bits, group_size, mode } = settings;
    Ok(Export {
        path: outputs::QUANTIZED.to_owned(),
        format: format!("{mode}, {bits} bits in groups of {group_size}"),
        weights: models::weight_files(&folder)?,
        remedy: "use more bits or smaller groups in `fuse.quantize`",
    })
}

/// Writes the GGUF file and its `Modelfile`.
fn gguf_file(fused: &Path, kind: Gguf, out: &Path) -> Result<Export> {
    let (folder, name) = (out.join(outputs::GGUF), format!("model-{}.gguf", kind.name()));
    fs_err::create_dir_all(&folder)?;
    gguf::export(fused, kind, &folder.join(&name))?;
    modelfile::write(fused, &name, &folder)?;
    Ok(Export {
        path: format!("{}/{name}", outputs::GGUF),
        format: kind.name().to_owned(),
        weights: vec![folder.join(&name)],
        remedy: "set `fuse.gguf` to a format of more bits, such as `q8_0`",
    })
}

/// Scores an export on the validation split and compares it with the fused model. One model is in memory at a time, and then
/// the two heads.
fn measure(
    reference: &mut Reference<'_>,
    export: &Export,
    config: &Config,
    load: impl FnOnce() -> Result<Model>,
    head: impl FnOnce() -> Result<Model>,
    scratch: &Path,
) -> Result<ExportCost> {
    let mut states = States::new(scratch)?;
    let score =
        tuner::score_states(&load()?, reference.split, "validation", config.batch_size, &mut |rows| {
            states.push(rows)
        })?;
    let loss = score.mean_loss();
    check(export, loss, reference.loss, config.quantizing_limit())?;
    let options = LoadOptions { dtype: Some(states.dtype()), unpack: false };
    let fused =
        Outputs { head: Model::load_head(reference.folder, &options)?, states: &mut reference.states };
    let found = divergence(fused, Outputs { head: head()?, states: &mut states })?;
    Ok(ExportCost {
        path: export.path.clone(),
        format: export.format.clone(),
        bytes: bytes_of(&export.weights)?,
        loss,
        kl_divergence: found.kl,
        same_top_token: found.same_top_token,
    })
}

/// Fails when the loss of an export is more than `limit` above that of the fused model.
fn check(export: &Export, loss: f64, fused_loss: f64, limit: f64) -> Result<()> {
    let increase = loss - fused_loss;
    if increase <= limit {
        return Ok(());
    }
    let Export { path, format, remedy, .. } = export;
    let message = format!(
        "the validation loss of `{path}` ({format}) is {loss:.4}, {increase:.4} above the fused model's {fused_loss:.4}; \
         the limit is {limit}"
    );
    Err(Error::failed(message).hinted(format!("{remedy}, or raise the limit with `fuse.max_loss_increase`")))
}

/// Returns the length of files in bytes.
pub(crate) fn bytes_of(files: &[PathBuf]) -> Result<u64> {
    files.iter().map(|file| Ok(fs_err::metadata(file)?.len())).sum()
}
