//! Adapter folders in mlx-lm's format: `adapters.safetensors` and `adapter_config.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mlx_rs::{Array, Dtype};
use models::{Model, TensorFiles, write_safetensors};
use serde_json::{Value, json};

use super::{AdapterSettings, FineTuneType, Trainable, count, peft, place, split_block};
use crate::error::{Error, Result};

impl AdapterSettings {
    /// Returns the content of `adapter_config.json`: the fields that mlx-lm reads, and our own settings. `names` are the
    /// names of the tensors.
    fn to_json(&self, layer_count: usize, names: &[String]) -> Value {
        let name = serde_json::to_value(self.fine_tune_type).expect("a unit variant");
        let mut lora = json!({"rank": self.rank, "scale": self.scale(), "dropout": self.dropout});
        // Without `keys` mlx-lm adapts all linear layers in the blocks and no others; with it, only those it lists.
        if self.lm_head || !self.keys.is_empty() {
            let adapted = names.iter().filter_map(|name| name.strip_suffix(".lora_a"));
            let keys: BTreeSet<&str> =
                adapted.map(|path| split_block(path).map_or(path, |(_, name)| name)).collect();
            lora["keys"] = json!(keys);
        }
        json!({
            "alpha": self.alpha,
            "embeddings": self.embeddings,
            "fine_tune_type": name,
            "lm_head": self.lm_head,
            "lora_parameters": lora,
            "norms": self.norms,
            "num_layers": self.num_layers.unwrap_or(layer_count),
            "rank_stabilized": self.rank_stabilized,
        })
    }

    fn from_json(path: &Path, config: &Value) -> Result<Self> {
        let invalid =
            |reason: &str| Error::Adapter { path: path.to_owned(), reason: reason.to_owned(), hint: None };
        let is_dora = config.get("use_dora").and_then(Value::as_bool).unwrap_or(false);
        let default = if is_dora { "dora" } else { "lora" };
        let kind = config.get("fine_tune_type").cloned().unwrap_or(json!(default));
        let fine_tune_type: FineTuneType =
            serde_json::from_value(kind).map_err(|_| invalid("`fine_tune_type` is unknown"))?;
        // `lora_layers` and `use_dora` are the names of older versions of mlx-lm.
        let layers = ["num_layers", "lora_layers"].into_iter().find_map(|name| config.get(name)?.as_i64());
        let layers = layers.ok_or_else(|| Error::Adapter {
            path: path.to_owned(),
            reason: "neither `num_layers` nor `lora_layers` is a number".to_owned(),
            hint: Some(
                "add `\"num_layers\": N`, the number of adapted blocks counted from the last; −1 means all"
                    .into(),
            ),
        })?;
        let lora = config.get("lora_parameters").unwrap_or(&Value::Null);
        let flag = |name: &str| config.get(name).and_then(Value::as_bool).unwrap_or(false);
        let (rank, alpha) = match fine_tune_type {
            FineTuneType::Full => (Self::default().rank, Self::default().alpha),
            FineTuneType::Lora | FineTuneType::Dora => rank_and_alpha(path, lora)?,
        };
        let keys = lora.get("keys").and_then(Value::as_array);
        let keys: Vec<String> =
            keys.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        Ok(Self {
            fine_tune_type,
            // For mlx-lm, zero and below mean all.
            num_layers: usize::try_from(layers).ok().filter(|&layers| layers > 0),
            keys,
            rank,
            alpha,
            rank_stabilized: false,
            dropout: 0.0,
            lm_head: flag("lm_head"),
            embeddings: flag("embeddings"),
            norms: flag("norms"),
        })
    }
}

/// Returns rank and alpha of `lora_parameters`. Without a rank or a scale, mlx-lm fails too.
fn rank_and_alpha(path: &Path, lora: &Value) -> Result<(i32, f32)> {
    let invalid = |name: &str, expected: &str, hint: &str| {
        let reason = match lora.get(name) {
            Some(value) => format!("`lora_parameters.{name}` is `{value}`, expected {expected}"),
            None => format!("there is no `lora_parameters.{name}`"),
        };
        Error::Adapter { path: path.to_owned(), reason, hint: Some(hint.to_owned()) }
    };
    let rank = lora.get("rank").and_then(Value::as_i64).and_then(|rank| i32::try_from(rank).ok());
    let rank = rank.filter(|&rank| rank >= 1).ok_or_else(|| {
        let hint = "write `\"rank\": R` into `lora_parameters`, the second extent of every tensor `….lora_a`";
        invalid("rank", "a whole number from 1", hint)
    })?;
    let scale = lora.get("scale").and_then(Value::as_f64).map(|scale| scale as f32);
    let alpha = scale.map(|scale| scale * rank as f32).filter(|alpha| alpha.is_finite());
    let alpha = alpha.ok_or_else(|| {
        let hint = "write `\"scale\": S` into `lora_parameters`, the scale of the training; older versions of mlx-lm had 20 \
                    by default";
        invalid("scale", "a finite number", hint)
    })?;
    Ok((rank, alpha))
}

/// Fails if the tensors of an adapter have another rank than its settings.
fn check_rank(path: &Path, settings: &AdapterSettings, tensors: &TensorFiles) -> Result<()> {
    let stored = tensors.names().filter(|name| name.ends_with(".lora_a"));
    let mut stored = stored.filter_map(|name| Some((name, *tensors.info(name)?.shape.last()?)));
    let other = stored.find(|&(_, rank)| i32::try_from(rank) != Ok(settings.rank));
    other.map_or(Ok(()), |(name, rank)| {
        Err(Error::Adapter {
            path: path.to_owned(),
            reason: format!("`{name}` has rank {rank}, but the config says {}", settings.rank),
            hint: Some(
                "write the rank of the training into `lora_parameters` of `adapter_config.json`".into(),
            ),
        })
    })
}

/// Writes adapters to `folder` in mlx-lm's format.
pub fn save_adapters(
    folder: &Path,
    settings: &AdapterSettings,
    layer_count: usize,
    names: &[String],
    values: &[Array],
) -> Result<()> {
    fs_err::create_dir_all(folder)?;
    let tensors: BTreeMap<String, Array> = names.iter().cloned().zip(values.iter().cloned()).collect();
    write_safetensors(&folder.join("adapters.safetensors"), &tensors)?;
    let mut text = serde_json::to_string_pretty(&settings.to_json(layer_count, names))
        .expect("a JSON value can be written");
    text.push('\n');
    Ok(fs_err::write(folder.join("adapter_config.json"), text)?)
}

/// Reads an adapter folder, in mlx-lm's or PEFT's format, into `model`.
///
/// As in mlx-lm and PEFT, names that match no layer are ignored, with a warning, and so is a `num_layers` above the number
/// of blocks: the tensors decide whether the adapter fits.
///
/// # Errors
///
/// Fails when a tensor is missing, unknown, or does not have the shape that model and config require, and when no layer is
/// adapted.
pub fn load_adapters(model: &mut Model, folder: &Path) -> Result<Trainable> {
    let trainable = read_adapters(model, folder)?;
    // The adapters stay as they are: DoRA's norms are computed once, not in every pass.
    let squares = model.dora_squares()?;
    model.set_dora_norms(&squares)?;
    Ok(trainable)
}

fn read_adapters(model: &mut Model, folder: &Path) -> Result<Trainable> {
    let config_path = folder.join("adapter_config.json");
    let invalid = |path: &Path, reason: String| Error::Adapter { path: path.to_owned(), reason, hint: None };
    if !config_path.exists() {
        return Err(without_config(folder));
    }
    let config: Value = serde_json::from_str(&::files::read_text(&config_path, ::files::MAX_JSON_BYTES)?)
        .map_err(|error| invalid(&config_path, error.to_string()))?;
    if peft::is_peft(&config) {
        return peft::load(model, folder, &config);
    }
    let settings = AdapterSettings::from_json(&config_path, &config)?;
    let weights_path = folder.join("adapters.safetensors");
    if !weights_path.exists() {
        return Err(without_weights(folder));
    }
    let stored = TensorFiles::open_file(&weights_path)?;
    check_rank(&weights_path, &settings, &stored)?;
    let (names, unused) = place(model, &settings, 0)?;
    if settings.fine_tune_type != FineTuneType::Full {
        let unused: Vec<&str> = unused.iter().map(String::as_str).collect();
        check_names(&config_path, "keys", &unused, names.len())?;
    }
    if names.is_empty() {
        return Err(without_layers(&config_path, "no layer of the model is adapted".to_owned()));
    }
    let trainable = count(model, names);
    let mut tensors = stored.arrays()?;
    let mut problems = Vec::new();
    for (name, array) in model.parameters_mut() {
        if trainable.names.binary_search(&name).is_err() {
            continue;
        }
        match tensors.remove(&name) {
            None => problems.push(format!("missing tensor `{name}`")),
            Some(value) if value.shape() != array.shape() => problems.push(format!(
                "tensor `{name}` has shape {:?}, expected {:?}",
                value.shape(),
                array.shape()
            )),
            Some(value) => {
                // Adapters are `f32` masters; weights take the type of those they replace.
                let dtype = match name.rsplit('.').next() {
                    Some("weight" | "bias") => array.dtype(),
                    _ => Dtype::Float32,
                };
                *array = value.as_dtype(dtype).expect("a cast between floats is always possible");
            }
        }
    }
    problems.extend(tensors.keys().map(|name| format!("unknown tensor `{name}`")));
    if problems.is_empty() { Ok(trainable) } else { Err(invalid(&weights_path, problems.join("\n"))) }
}

/// Warns about the names `unmatched` of a setting, which match no layer of the model; fails if nothing else matched.
pub(super) fn check_names(path: &Path, setting: &str, unmatched: &[&str], matched: usize) -> Result<()> {
    const SHOWN: usize = 5;
    if unmatched.is_empty() {
        return Ok(());
    }
    let shown: Vec<String> = unmatched.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    let more = match unmatched.len() - shown.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let reason =
        format!("`{setting}` names {}{more}, but the model has no such linear layer", shown.join(", "));
    if matched == 0 {
        return Err(without_layers(path, reason));
    }
    tracing::warn!("`{}`: {reason}", path.display());
    Ok(())
}

/// Returns the error for an adapter that would leave the model as it is.
pub(super) fn without_layers(path: &Path, reason: String) -> Error {
    let hint = "give the base model that the adapter was trained on".to_owned();
    Error::Adapter { path: path.to_owned(), reason, hint: Some(hint) }
}

/// Returns the error for a folder without `adapter_config.json`, with the settings that its tensors show.
fn without_config(folder: &Path) -> Error {
    let error = |reason: &str, hint: String| Error::Adapter {
        path: folder.to_owned(),
        reason: reason.to_owned(),
        hint: Some(hint),
    };
    let lacking = "there is no `adapter_config.json`";
    if folder.join("adapter_model.safetensors").exists() || folder.join("adapter_model.bin").exists() {
        return error(
            lacking,
            "copy it from where the adapter was trained; PEFT writes it beside the weights".into(),
        );
    }
    let Ok(tensors) = TensorFiles::open_file(&folder.join("adapters.safetensors")) else {
        return error(
            "this is not the folder of an adapter",
            "give a folder with `adapter_config.json`, and `adapters.safetensors` or `adapter_model.safetensors`"
                .into(),
        );
    };
    let blocks: BTreeSet<usize> =
        tensors.names().filter_map(|name| split_block(name).map(|(index, _)| index)).collect();
    let rank = tensors
        .names()
        .filter(|name| name.ends_with(".lora_a"))
        .find_map(|name| tensors.info(name)?.shape.last().copied());
    let keys: BTreeSet<&str> = tensors
        .names()
        .filter_map(|name| name.strip_suffix(".lora_a"))
        .map(|path| split_block(path).map_or(path, |(_, name)| name))
        .collect();
    let config = json!({
        "fine_tune_type": if tensors.names().any(|name| name.rsplit_once('.').is_some_and(|(_, part)| part == "m")) { "dora" } else { "lora" },
        "num_layers": blocks.len(),
        "lora_parameters": {"rank": rank.unwrap_or(8), "scale": 20.0, "dropout": 0.0, "keys": keys},
    });
    error(
        lacking,
        format!(
            "write one with the scale of the training; older versions of mlx-lm had 20 by default: {config}"
        ),
    )
}

/// Returns the error for a folder whose `adapter_config.json` is mlx-lm's, but which lacks the weights.
fn without_weights(folder: &Path) -> Error {
    let (reason, hint) = if folder.join("adapters.npz").exists() {
        (
            "the weights are in `adapters.npz`, which only old versions of mlx-lm read",
            "convert them in Python: `mlx.core.save_safetensors('adapters.safetensors', dict(mlx.core.load('adapters.npz')))`",
        )
    } else {
        ("there is no `adapters.safetensors`", "copy it from where the adapter was trained")
    };
    Error::Adapter { path: folder.to_owned(), reason: reason.to_owned(), hint: Some(hint.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attach;
    use models::LoadOptions;
    fn model(case: &str) -> Result<Model> {
        mlx_ext::init(&mlx_ext::Options::default())?;
        Ok(Model::load(&testutil::golden(case), &LoadOptions { dtype: Some(Dtype::Float32), unpack: true })?)
    }

    /// Saves fresh adapters of `settings` and returns `adapter_config.json` and the names of the tensors.
    fn saved(case: &str, settings: &AdapterSettings, folder: &Path) -> Result<(Value, Vec<String>)> {
        let mut model = model(case)?;
        let trainable = attach(&mut model, settings, 1)?;
        let parameters = model.parameters();
        let values: Vec<Array> = trainable.names.iter().map(|name| parameters[name].clone()).collect();
        save_adapters(folder, settings, model.layer_count(), &trainable.names, &values)?;
        let text = fs_err::read_to_string(folder.join("adapter_config.json"))?;
        Ok((serde_json::from_str(&text).unwrap(), trainable.names))
    }

    /// Writes a folder as mlx-lm does: the config it was called with, and tensors of other names than ours if any.
    fn foreign(folder: &Path, config: &Value, tensors: &BTreeMap<String, Array>) -> Result<()> {
        fs_err::write(folder.join("adapter_config.json"), config.to_string())?;
        Ok(write_safetensors(&folder.join("adapters.safetensors"), tensors)?)
    }

    #[test]
    fn adapters_of_all_layers_name_no_keys() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let (config, names) = saved("llama", &AdapterSettings::default(), folder.path())?;
        assert_eq!(config["lora_parameters"].get("keys"), None);
        assert_eq!(load_adapters(&mut model("llama")?, folder.path())?.names, names);
        Ok(())
    }

    #[test]
    fn an_adapted_head_lists_every_key_because_mlx_lm_adapts_only_blocks_without() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let settings = AdapterSettings { lm_head: true, ..AdapterSettings::default() };
        let (config, names) = saved("llama", &settings, folder.path())?;
        let keys = config["lora_parameters"]["keys"].as_array().unwrap();
        let expected = [
            "lm_head",
            "mlp.down_proj",
            "mlp.gate_proj",
            "mlp.up_proj",
            "self_attn.k_proj",
            "self_attn.o_proj",
            "self_attn.q_proj",
            "self_attn.v_proj",
        ];
        assert_eq!(keys, &expected);
        assert_eq!(load_adapters(&mut model("llama")?, folder.path())?.names, names);
        Ok(())
    }

    #[test]
    fn keys_of_mlx_lm_may_be_whole_paths_or_name_nothing() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let mut tensors = BTreeMap::new();
        for path in ["lm_head", "model.layers.0.mlp.up_proj"] {
            let outputs = if path == "lm_head" { 384 } else { 80 };
            tensors.insert(format!("{path}.lora_a"), mlx_rs::ops::zeros::<f32>(&[48, 2])?);
            tensors.insert(format!("{path}.lora_b"), mlx_rs::ops::zeros::<f32>(&[2, outputs])?);
        }
        let keys = ["lm_head", "model.layers.0.mlp.up_proj", "self_attn.qkv_proj"];
        let config = json!({"num_layers": 1, "lora_parameters": {"rank": 2, "scale": 4.0, "keys": keys}});
        foreign(folder.path(), &config, &tensors)?;
        let trainable = load_adapters(&mut model("llama")?, folder.path())?;
        assert_eq!(trainable.names, tensors.into_keys().collect::<Vec<_>>());
        Ok(())
    }

    #[test]
    fn an_adapter_of_no_layer_is_refused() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let read = |config: Value, file: &str| {
            fs_err::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
            write_safetensors(&folder.path().join(file), &BTreeMap::new()).unwrap();
            load_adapters(&mut model("llama").unwrap(), folder.path()).unwrap_err().to_string()
        };
        let many: Vec<String> = (0..10_000).map(|number| format!("layer{number}")).collect();
        let no_tensors = "it has no tensors, so no layer of the model is adapted";
        for (targets, reason) in [
            (json!(["nothing"]), "`target_modules` names `nothing`, but the model has no such linear layer"),
            (json!(many), "`layer4` and 9995 more, but the model has no such linear layer"),
            (json!([]), no_tensors),
            (json!("nothing"), no_tensors),
            (json!("("), no_tensors),
            (json!(null), no_tensors),
        ] {
            let config = json!({"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": targets});
            let error = read(config, "adapter_model.safetensors");
            assert!(error.contains(reason), "{targets}: {error}");
        }
        let lora = json!({"rank": 8, "scale": 2.0, "keys": ["nothing"]});
        let error = read(json!({"num_layers": 1, "lora_parameters": lora}), "adapters.safetensors");
        assert!(error.contains("`keys` names `nothing`, but the model has no such linear layer"), "{error}");
        Ok(())
    }

    #[test]
    fn a_rank_or_scale_is_never_guessed() -> Result<()> {
        let folder = tempfile::tempdir()?;
        saved("llama", &AdapterSettings::default(), folder.path())?;
        let read = |lora: Value| {
            let config = json!({"num_layers": 0, "lora_parameters": lora});
            fs_err::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
            load_adapters(&mut model("llama").unwrap(), folder.path()).map_err(|error| error.to_string())
        };
        for (lora, reason) in [
            (json!({"rank": 8}), "there is no `lora_parameters.scale`"),
            (
                json!({"rank": 8, "scale": "2.0"}),
                "`lora_parameters.scale` is `\"2.0\"`, expected a finite number",
            ),
            (json!({"rank": 8, "scale": null}), "`lora_parameters.scale` is `null`"),
            (json!({"rank": 8, "scale": 1e300}), "`lora_parameters.scale` is `1e+300`"),
            (json!({"scale": 2.0}), "there is no `lora_parameters.rank`"),
            (json!(null), "there is no `lora_parameters.rank`"),
            (
                json!({"rank": 0, "scale": 2.0}),
                "`lora_parameters.rank` is `0`, expected a whole number from 1",
            ),
            (json!({"rank": 4_294_967_304_u64, "scale": 2.0}), "`lora_parameters.rank` is `4294967304`"),
            (json!({"rank": 8.5, "scale": 2.0}), "`lora_parameters.rank` is `8.5`"),
            (json!({"rank": 4, "scale": 2.0}), ".lora_a` has rank 8, but the config says 4"),
        ] {
            let error = read(lora.clone()).unwrap_err();
            assert!(error.contains(reason), "{lora}: {error}");
        }
        assert!(read(json!({"rank": 8, "scale": 2})).is_ok());
        Ok(())
    }

    #[test]
    fn a_tensor_without_a_place_is_named() -> Result<()> {
        let folder = tempfile::tempdir()?;
        saved("llama", &AdapterSettings::default(), folder.path())?;
        let config = json!({"num_layers": 1, "lora_parameters": {"rank": 8, "scale": 2.0}});
        fs_err::write(folder.path().join("adapter_config.json"), config.to_string())?;
        let error = load_adapters(&mut model("llama")?, folder.path()).unwrap_err().to_string();
        assert!(error.contains("unknown tensor `model.layers.0.mlp.down_proj.lora_a`"), "{error}");
        Ok(())
    }

    #[test]
    fn a_tied_head_cannot_carry_an_adapter() -> Result<()> {
        let settings = AdapterSettings { lm_head: true, ..AdapterSettings::default() };
        let error = attach(&mut model("gemma3_text")?, &settings, 1).unwrap_err().to_string();
        assert!(error.contains("this model's head is its token embedding"), "{error}");
        Ok(())
    }
}
