//! Adapters in PEFT's format: `adapter_model.safetensors` and an `adapter_config.json` with `peft_type`.
//!
//! The tensors decide which layers are adapted and the rank; the config decides the scale. PEFT stores `A` as `[rank, in]`
//! and `B` as `[out, rank]`, the transposes of ours. Settings that would change the result and are not supported are
//! errors that name them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mlx_rs::{Array, Dtype};
use models::{Adapter, Layer, LayerMut, Model, TensorFiles, canonical_name, join, write_safetensors};
use serde_json::{Value, json};

use super::{Trainable, count, split_block};
use crate::error::{Error, Result};

const WEIGHTS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";

/// Settings that change the result and are not supported; they must be absent, null, false or empty.
const UNSUPPORTED: [&str; 11] = [
    "alora_invocation_tokens",
    "alpha_pattern",
    "arrow_config",
    "fan_in_fan_out",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
];

/// Returns whether an `adapter_config.json` is in PEFT's format.
pub(super) fn is_peft(config: &Value) -> bool {
    config.get("peft_type").is_some()
}

/// Tensors of one adapted layer.
#[derive(Default)]
struct LayerTensors {
    a: Option<Array>,
    b: Option<Array>,
    magnitude: Option<Array>,
}

/// Reads the adapters in `folder` into `model`; `config` is the content of its `adapter_config.json`.
pub(super) fn load(model: &mut Model, folder: &Path, config: &Value) -> Result<Trainable> {
    let config_path = folder.join("adapter_config.json");
    check_config(&config_path, config)?;
    let path = folder.join(WEIGHTS);
    if !path.is_file() {
        let hint = "older versions of PEFT wrote `adapter_model.bin`, a pickle file; save the adapter again with \
                    `save_pretrained(folder, safe_serialization=True)`";
        return Err(Error::Adapter {
            path: folder.to_owned(),
            reason: format!("there is no `{WEIGHTS}`"),
            hint: Some(hint.to_owned()),
        });
    }
    let mut problems = Vec::new();
    let mut layers: BTreeMap<String, LayerTensors> = BTreeMap::new();
    for (name, array) in TensorFiles::open_file(&path)?.arrays()? {
        let array = array.as_dtype(Dtype::Float32)?;
        match layer_and_kind(&name) {
            Some((layer, "lora_A.weight")) => layers.entry(layer).or_default().a = Some(array),
            Some((layer, "lora_B.weight")) => layers.entry(layer).or_default().b = Some(array),
            Some((layer, _)) => layers.entry(layer).or_default().magnitude = Some(array),
            None => {
                problems.push(format!("tensor `{name}` does not belong to the adapter of a linear layer"));
            }
        }
    }
    let expected = Expected::of(config);
    let mut names = Vec::new();
    for (layer_path, layer) in model.layers_mut() {
        let LayerMut::Linear(linear) = layer else { continue };
        let Some(tensors) = take(&mut layers, &layer_path) else {
            if expected.covers(&layer_path) {
                problems
                    .push(format!("`target_modules` names `{layer_path}`, but there are no tensors for it"));
            }
            continue;
        };
        match adapter(config, tensors, linear.inputs, linear.outputs) {
            Ok(adapter) => {
                names.extend(["lora_a", "lora_b"].map(|name| join(&layer_path, name)));
                if adapter.magnitude.is_some() {
                    names.push(join(&layer_path, "m"));
                }
                linear.adapter = Some(adapter);
            }
            Err(Reason::Text(reason)) => problems.push(format!("the adapter of `{layer_path}` {reason}")),
            Err(Reason::Error(error)) => return Err(error),
        }
    }
    problems.extend(layers.keys().map(|layer| format!("the model has no linear layer `{layer}`")));
    if !problems.is_empty() {
        return Err(Error::Adapter { path, reason: problems.join("\n"), hint: None });
    }
    names.sort();
    Ok(count(model, names))
}

/// Refuses settings that would change the result and are not supported.
fn check_config(path: &Path, config: &Value) -> Result<()> {
    let unsupported = |reason: String, hint: &str| {
        Err(Error::Adapter { path: path.to_owned(), reason, hint: Some(hint.to_owned()) })
    };
    let kind = config["peft_type"].as_str().unwrap_or_default();
    if kind != "LORA" {
        return unsupported(
            format!("`peft_type` is `{kind}`, which is not supported"),
            "use an adapter with `peft_type` `LORA`",
        );
    }
    let bias = config.get("bias").and_then(Value::as_str).unwrap_or("none");
    if bias != "none" {
        return unsupported(
            format!("`bias` is `{bias}`, which is not supported"),
            "use an adapter with `bias` `none`",
        );
    }
    let is_set = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(table) => !table.is_empty(),
        _ => true,
    };
    let set: Vec<String> = UNSUPPORTED
        .iter()
        .filter(|name| config.get(**name).is_some_and(is_set))
        .map(|name| format!("`{name}`"))
        .collect();
    if set.is_empty() {
        return Ok(());
    }
    unsupported(
        format!("sets {}, which is not supported", set.join(", ")),
        "merge the adapter with `merge_and_unload()` in PEFT and import the merged model",
    )
}

/// Returns the layer and the kind of a tensor from its name.
fn layer_and_kind(name: &str) -> Option<(String, &str)> {
    let rest = name.strip_prefix(PREFIX)?;
    let kinds = ["lora_A.weight", "lora_B.weight", "lora_magnitude_vector"];
    kinds.into_iter().find_map(|kind| {
        // Some versions of PEFT appended `.weight` to the name of the magnitudes.
        let rest =
            if kind == "lora_magnitude_vector" { rest.strip_suffix(".weight").unwrap_or(rest) } else { rest };
        let layer = rest.strip_suffix(kind)?.strip_suffix('.')?;
        Some((canonical_name(layer), kind))
    })
}

/// Removes and returns the tensors of the layer `path`; in PEFT the head of a multimodal model is outside of
/// `language_model`.
fn take(layers: &mut BTreeMap<String, LayerTensors>, path: &str) -> Option<LayerTensors> {
    let outside = path.strip_prefix("language_model.").filter(|name| *name == "lm_head");
    layers.remove(path).or_else(|| layers.remove(outside?))
}

/// Why an adapter cannot be made.
enum Reason {
    /// The files are wrong.
    Text(String),
    /// MLX failed.
    Error(Error),
}

impl From<mlx_rs::error::Exception> for Reason {
    fn from(error: mlx_rs::error::Exception) -> Self {
        Self::Error(error.into())
    }
}

/// Makes the adapter of a linear layer with the given numbers of inputs and outputs.
fn adapter(config: &Value, tensors: LayerTensors, inputs: i32, outputs: i32) -> Result<Adapter, Reason> {
    let (Some(a), Some(b)) = (tensors.a, tensors.b) else {
        return Err(Reason::Text("has only one of `lora_A` and `lora_B`".to_owned()));
    };
    let rank = a.shape().first().copied().unwrap_or(0);
    if rank == 0 || a.shape() != [rank, inputs] || b.shape() != [outputs, rank] {
        return Err(Reason::Text(format!(
            "has shapes {:?} and {:?}, expected [rank, {inputs}] and [{outputs}, rank]",
            a.shape(),
            b.shape()
        )));
    }
    let magnitude = tensors.magnitude.map(|m| m.reshape(&[-1])).transpose()?;
    let is_dora = config.get("use_dora").and_then(Value::as_bool).unwrap_or(false);
    match &magnitude {
        None if is_dora => return Err(Reason::Text("has no `lora_magnitude_vector`".to_owned())),
        Some(m) if m.shape() != [outputs] => {
            return Err(Reason::Text(format!("has {} magnitudes, expected {outputs}", m.size())));
        }
        _ => {}
    }
    let alpha = config.get("lora_alpha").and_then(Value::as_f64).unwrap_or(8.0);
    let is_stabilized = config.get("use_rslora").and_then(Value::as_bool).unwrap_or(false);
    let rank = f64::from(rank);
    let scale = (alpha / if is_stabilized { rank.sqrt() } else { rank }) as f32;
    Ok(Adapter {
        a: a.t().contiguous()?,
        b: b.t().contiguous()?,
        scale,
        magnitude,
        norms: None,
        dropout: None,
    })
}

/// The layers that a config lists as adapted.
struct Expected<'a> {
    targets: Vec<&'a str>,
    layers: Option<Vec<u64>>,
}

impl<'a> Expected<'a> {
    fn of(config: &'a Value) -> Self {
        let texts = |name: &str| -> Vec<&str> {
            config
                .get(name)
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect()
        };
        let numbers = |value: &Value| match value {
            Value::Array(items) if !items.is_empty() => {
                Some(items.iter().filter_map(Value::as_u64).collect())
            }
            Value::Number(number) => number.as_u64().map(|number| vec![number]),
            _ => None,
        };
        // Exclusions and patterns are not read; then only the tensors decide.
        let is_plain = ["exclude_modules", "layers_pattern"].iter().all(|name| config[*name].is_null());
        let targets = if is_plain { texts("target_modules") } else { Vec::new() };
        Self { targets, layers: config.get("layers_to_transform").and_then(numbers) }
    }

    fn covers(&self, path: &str) -> bool {
        let is_target = |target: &&str| {
            let target = canonical_name(target);
            path == target || path.ends_with(&format!(".{target}"))
        };
        let in_layers = self.layers.as_ref().is_none_or(|layers| {
            split_block(path).is_some_and(|(index, _)| layers.contains(&(index as u64)))
        });
        in_layers && self.targets.iter().any(is_target)
    }
}

/// Writes the adapters of `model` to `folder` in PEFT's format.
///
/// # Errors
///
/// Fails when the model has no adapters, or adapters of different ranks or scales.
pub fn save_peft(model: &Model, folder: &Path) -> Result<()> {
    let mut tensors = BTreeMap::new();
    let mut paths = Vec::new();
    let (mut scales, mut ranks, mut is_dora) = (BTreeSet::new(), BTreeSet::new(), false);
    let mut all = Vec::new();
    for (path, layer) in model.layers() {
        let Layer::Linear(linear) = layer else { continue };
        let name = foreign_name(&path);
        all.push(name.clone());
        let Some(adapter) = &linear.adapter else { continue };
        tensors.insert(format!("{PREFIX}{name}.lora_A.weight"), adapter.a.t());
        tensors.insert(format!("{PREFIX}{name}.lora_B.weight"), adapter.b.t());
        if let Some(magnitude) = &adapter.magnitude {
            is_dora = true;
            tensors.insert(format!("{PREFIX}{name}.lora_magnitude_vector"), magnitude.clone());
        }
        scales.insert(adapter.scale.to_bits());
        ranks.insert(adapter.a.dim(-1));
        paths.push(name);
    }
    let (Some(&scale), Some(&rank)) = (scales.first(), ranks.first()) else {
        return Err(Error::settings(
            "PEFT's format needs adapters, but the model has none",
            "set peft = false for fine_tune_type = \"full\"",
        ));
    };
    if scales.len() > 1 || ranks.len() > 1 {
        return Err(Error::settings(
            "adapters of different ranks or scales cannot be written in PEFT's format",
            "set peft = false",
        ));
    }
    // The product of two short floats is exact, so that reading it back gives the same scale.
    let alpha = f64::from(f32::from_bits(scale)) * f64::from(rank);
    let alpha = if alpha.fract() == 0.0 { json!(alpha as i64) } else { json!(alpha) };
    let (targets, layers) = targets(&paths, &all);
    let config = json!({
        "base_model_name_or_path": null,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "layers_to_transform": layers,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
        "use_dora": is_dora,
        "use_rslora": false,
    });
    fs_err::create_dir_all(folder)?;
    write_safetensors(&folder.join(WEIGHTS), &tensors)?;
    let text = serde_json::to_string_pretty(&config).expect("a JSON value can be written");
    Ok(fs_err::write(folder.join("adapter_config.json"), text + "\n")?)
}

/// Returns the name of a layer in transformers: the inverse of [`canonical_name`], with the head outside of
/// `language_model`.
fn foreign_name(path: &str) -> String {
    match path.strip_prefix("language_model.") {
        Some(rest) => {
            rest.strip_prefix("model.").map_or(rest.to_owned(), |rest| format!("model.language_model.{rest}"))
        }
        None => path.to_owned(),
    }
}

/// Returns `target_modules` and `layers_to_transform`: short names and blocks, as most tools expect, if these select
/// exactly `adapted` out of `all`; otherwise whole paths.
fn targets(adapted: &[String], all: &[String]) -> (BTreeSet<String>, Option<BTreeSet<usize>>) {
    let short = |path: &String| path.rsplit('.').next().unwrap_or(path).to_owned();
    let block = |path: &String| split_block(path).map(|(index, _)| index);
    let names: BTreeSet<String> = adapted.iter().map(short).collect();
    let blocks: Option<BTreeSet<usize>> = adapted.iter().map(block).collect();
    let count = |blocks: Option<&BTreeSet<usize>>| {
        let fits =
            |path: &&String| blocks.is_none_or(|known| block(path).is_some_and(|it| known.contains(&it)));
        all.iter().filter(|path| names.contains(&short(path))).filter(fits).count()
    };
    if count(None) == adapted.len() {
        return (names, None);
    }
    match blocks {
        Some(blocks) if count(Some(&blocks)) == adapted.len() => (names, Some(blocks)),
        _ => (adapted.iter().cloned().collect(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AdapterSettings, FineTuneType, attach, load_adapters};
    use models::LoadOptions;
    fn model(case: &str) -> Result<Model> {
        mlx_ext::init(&mlx_ext::Options::default())?;
        Ok(Model::load(&testutil::golden(case), &LoadOptions { dtype: Some(Dtype::Float32), unpack: true })?)
    }

    /// Returns a model whose adapters are nowhere zero.
    fn adapted(case: &str, settings: &AdapterSettings) -> Result<Model> {
        let mut model = model(case)?;
        attach(&mut model, settings, 3)?;
        for (path, layer) in model.layers_mut() {
            if let LayerMut::Linear(linear) = layer
                && let Some(adapter) = &mut linear.adapter
            {
                let key = mlx_rs::random::key(path.len() as u64)?;
                adapter.b = mlx_rs::random::normal::<f32>(adapter.b.shape(), None, None, &key)?;
            }
        }
        Ok(model)
    }

    type Stored = BTreeMap<String, (Vec<u8>, Option<u32>)>;

    fn stored(model: &Model) -> Result<Stored> {
        let mut all = Stored::new();
        let mut scales = BTreeMap::new();
        for (path, layer) in model.layers() {
            if let Layer::Linear(linear) = layer
                && let Some(adapter) = &linear.adapter
            {
                scales.insert(join(&path, "lora_a"), adapter.scale.to_bits());
            }
        }
        for (name, array) in model.parameters() {
            let scale = scales.get(&name).copied();
            all.insert(name, (mlx_ext::bytes_of(&array)?, scale));
        }
        Ok(all)
    }

    fn config_of(folder: &Path) -> Value {
        let text = fs_err::read_to_string(folder.join("adapter_config.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn adapters_survive_a_round_trip_to_the_last_bit() -> Result<()> {
        let lora = AdapterSettings { rank: 3, alpha: 5.0, ..AdapterSettings::default() };
        let all = [
            ("llama", lora.clone()),
            ("llama", AdapterSettings { num_layers: Some(1), rank_stabilized: true, ..lora.clone() }),
            ("llama", AdapterSettings { lm_head: true, num_layers: Some(2), ..lora.clone() }),
            ("qwen3", AdapterSettings { fine_tune_type: FineTuneType::Dora, ..lora.clone() }),
            ("gemma3_text-q4", AdapterSettings { keys: vec!["mlp.up_proj".to_owned()], ..lora }),
        ];
        for (case, settings) in all {
            let folder = tempfile::tempdir()?;
            let before = adapted(case, &settings)?;
            save_peft(&before, folder.path())?;
            let mut after = model(case)?;
            let names = load_adapters(&mut after, folder.path())?.names;
            assert!(!names.is_empty() && names.is_sorted());
            assert!(stored(&before)? == stored(&after)?, "{case} {settings:?}");
        }
        Ok(())
    }

    #[test]
    fn target_modules_are_short_names_if_those_are_unambiguous() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let keys = vec!["self_attn.q_proj".to_owned(), "self_attn.v_proj".to_owned()];
        let settings = AdapterSettings { keys, ..AdapterSettings::default() };
        save_peft(&adapted("llama", &settings)?, folder.path())?;
        let config = config_of(folder.path());
        assert_eq!(config["target_modules"], json!(["q_proj", "v_proj"]));
        assert_eq!((&config["layers_to_transform"], &config["lora_alpha"]), (&Value::Null, &json!(16)));
        let settings = AdapterSettings { num_layers: Some(1), ..settings };
        save_peft(&adapted("llama", &settings)?, folder.path())?;
        assert_eq!(config_of(folder.path())["layers_to_transform"], json!([2]));
        let settings = AdapterSettings { lm_head: true, ..settings };
        save_peft(&adapted("llama", &settings)?, folder.path())?;
        let whole = ["lm_head", "model.layers.2.self_attn.q_proj", "model.layers.2.self_attn.v_proj"];
        assert_eq!(config_of(folder.path())["target_modules"], json!(whole));
        Ok(())
    }

    #[test]
    fn unsupported_settings_are_refused_by_name() -> Result<()> {
        let folder = tempfile::tempdir()?;
        save_peft(&adapted("llama", &AdapterSettings::default())?, folder.path())?;
        let plain = config_of(folder.path());
        let refusal = |change: Value| -> Result<String> {
            let mut config = plain.clone();
            for (name, value) in change.as_object().unwrap() {
                config[name] = value.clone();
            }
            fs_err::write(folder.path().join("adapter_config.json"), config.to_string())?;
            Ok(load_adapters(&mut model("llama")?, folder.path()).unwrap_err().to_string())
        };
        let cases = [
            (json!({"modules_to_save": ["lm_head"]}), "sets `modules_to_save`"),
            (json!({"alpha_pattern": {"q_proj": 3}, "lora_bias": true}), "sets `alpha_pattern`, `lora_bias`"),
            (json!({"peft_type": "IA3"}), "`peft_type` is `IA3`"),
            (json!({"bias": "all"}), "`bias` is `all`"),
            (json!({"use_dora": true}), "`model.layers.0.self_attn.q_proj` has no `lora_magnitude_vector`"),
            (json!({"target_modules": ["lm_head"]}), "names `lm_head`, but there are no tensors for it"),
        ];
        for (change, message) in cases {
            let error = refusal(change)?;
            assert!(error.contains(message), "{error}");
        }
        fs_err::remove_file(folder.path().join(WEIGHTS))?;
        let error = refusal(json!({}))?;
        assert!(error.contains("there is no `adapter_model.safetensors`"), "{error}");
        Ok(())
    }

    #[test]
    fn a_model_without_adapters_is_refused() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let error = save_peft(&model("llama")?, folder.path()).unwrap_err().to_string();
        assert!(error.contains("the model has none"), "{error}");
        Ok(())
    }
}
