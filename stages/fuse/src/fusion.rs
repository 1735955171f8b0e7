//! The work of the stage: merge, measure, write.

use std::fmt::Write as _;
use std::path::Path;

use dataset::Split;
use failure::{Context as _, Error, Result};
use mlx_ext::Backend;
use models::{LoadOptions, Model};
use outputs::{Document as _, ExportCost, FusionCost, Import, ImportSource};
use stage::Job;

use crate::config::Config;
use crate::exports::Reference;
use crate::gguf::Gguf;
use crate::inputs::Inputs;
use crate::json::read_json;
use crate::measured::Measured;
use crate::states::States;
use crate::{card, exports, gguf, write};

/// Runs the stage and reports its cost.
///
/// # Errors
///
/// As [`run`].
pub fn run_job(inputs: &Inputs<'_>, config: &Config, backend: &Backend, job: &mut Job) -> Result<()> {
    let cost = run(inputs, config, backend, job.out())?;
    let FusionCost { adapter_loss, fused_loss, max_logit_difference, .. } = cost;
    let mut summary = format!(
        "validation loss {adapter_loss:.4} with the adapter, {fused_loss:.4} fused; logits differ by at most \
         {max_logit_difference:.1e}"
    );
    job.metric("adapter_loss", adapter_loss);
    job.metric("fused_loss", fused_loss);
    for export in &cost.exports {
        let ExportCost { path, loss, kl_divergence, bytes, .. } = export;
        let share = 100.0 * *bytes as f64 / cost.model_bytes.max(1) as f64;
        let _ =
            write!(summary, "; `{path}`: loss {loss:.4}, KL {kl_divergence:.4}, {share:.0} % of the size");
        let name = path.rsplit('/').next().unwrap_or(path).replace(['-', '.'], "_");
        job.metric(&format!("{name}_loss"), *loss);
        job.metric(&format!("{name}_kl_divergence"), *kl_divergence);
    }
    job.summary(summary);
    Ok(())
}

/// Writes `model/`, `fuse.json` and, if the settings ask for them, `quantized/`, `gguf/` and `peft/` into `out`.
///
/// Only one model is in memory at a time: each is measured and dropped before the next one is loaded.
///
/// # Errors
///
/// Fails when the adapters do not fit the model, or when the loss increases more than the settings allow.
pub fn run(inputs: &Inputs<'_>, config: &Config, backend: &Backend, out: &Path) -> Result<FusionCost> {
    if config.gguf != Gguf::None {
        gguf::check(inputs.model)?;
    }
    let options = LoadOptions::on(backend, config.dtype);
    let mut adapted = Model::load(inputs.model, &options).context("loading the model")?;
    let trained = tuner::load_adapters(&mut adapted, inputs.adapters).context("loading the adapters")?;
    let folder = out.join(outputs::MODEL);
    let changed = write::fused_folder(inputs.model, &adapted, &trained.names, config.quantized, &folder)?;
    let changes_head = changed.iter().any(|name| name.starts_with(&adapted.head_path()));
    write::chat_settings(inputs, &folder)?;
    if config.peft {
        tuner::save_peft(&adapted, &out.join(outputs::PEFT)).context("writing adapters for PEFT")?;
        name_base(inputs, &out.join(outputs::PEFT))?;
    }
    let split = Split::open(&inputs.tokens.join("validation.safetensors"))?;
    let adapted = Measured::new(adapted, &split, config.batch_size, changes_head, None)?;
    let fused = Model::load(&folder, &options).context("loading the fused model")?;
    let has_exports = config.gguf != Gguf::None || config.quantize.is_some();
    let mut states = if has_exports { Some(States::new(out)?) } else { None };
    let fused = Measured::new(fused, &split, config.batch_size, true, states.as_mut())?;
    let mut cost = adapted.compare(&fused)?;
    drop((adapted, fused));
    check_cost(&cost, config.fusing_limit())?;
    cost.model_bytes = exports::bytes_of(&models::weight_files(&folder)?)?;
    if let Some(states) = states {
        let mut reference = Reference { folder: &folder, loss: cost.fused_loss, states, split: &split };
        cost.exports = exports::write(&mut reference, config, &options, out)?;
    }
    cost.write(out)?;
    card::write(inputs, config, &cost, out)?;
    Ok(cost)
}

/// Names the base model, if it is on the hub, in the settings of the adapters in `folder`, so that other tools find it.
fn name_base(inputs: &Inputs<'_>, folder: &Path) -> Result<()> {
    let origin = inputs.origin.map(Import::read).transpose()?;
    let Some(Import { source: ImportSource::Hub { id, commit }, .. }) = origin else { return Ok(()) };
    let path = folder.join("adapter_config.json");
    let mut config = read_json(&path)?;
    config["base_model_name_or_path"] = id.into();
    config["revision"] = commit.into();
    let text = serde_json::to_string_pretty(&config).expect("JSON that was read can be written");
    Ok(fs_err::write(path, text + "\n")?)
}

/// Fails when the fused model's loss is more than `max_increase` above the adapter's.
fn check_cost(cost: &FusionCost, max_increase: f64) -> Result<()> {
    let FusionCost { adapter_loss, fused_loss, .. } = cost;
    let increase = fused_loss - adapter_loss;
    if increase <= max_increase {
        return Ok(());
    }
    let message = format!(
        "the validation loss of the fused model is {fused_loss:.4}, {increase:.4} above the adapter's \
         {adapter_loss:.4}; the limit is {max_increase}"
    );
    Err(Error::failed(message)
        .hinted("set `fuse.quantized` to `dequantize`, or raise the limit with `fuse.max_loss_increase`"))
}
