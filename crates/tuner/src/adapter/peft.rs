//! Adapters in PEFT's format: `adapter_model.safetensors` and an `adapter_config.json` with `peft_type`.
//!
//! The tensors decide which layers are adapted and the rank; the config decides the scale. PEFT stores `A` as `[rank, in]`
//! and `B` as `[out, rank]`, the transposes of ours. Settings are read by an allow-list: one that is not known, or that
//! belongs to another base model, is an error that names it.

mod config;
mod names;
mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use models::{Layer, Model, write_safetensors};
use serde_json::{Value, json};

use super::split_block;
use crate::error::{Error, Result};

pub(super) use read::load;

const WEIGHTS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";

/// Returns whether an `adapter_config.json` is in PEFT's format.
pub(super) fn is_peft(config: &Value) -> bool {
    config.get("peft_type").is_some()
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
    use mlx_rs::Dtype;
    use models::{LayerMut, join};

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
            (
                json!({"modules_to_save": ["lm_head"]}),
                "`modules_to_save` names `lm_head`, but there are no tensors",
            ),
            (json!({"use_qalora": true, "lora_bias": true}), "`lora_bias` is `true`"),
            (json!({"init_lora_weights": "pissa_niter_4"}), "`init_lora_weights` is `\"pissa_niter_4\"`"),
            (json!({"init_lora_weights": "olora"}), "`init_lora_weights` is `\"olora\"`"),
            (json!({"next_years_idea": 3}), "`next_years_idea` is `3`"),
            (json!({"alpha_pattern": {"(?=q)": 3}}), "the pattern `(?=q)`"),
            (json!({"rank_pattern": {"q_proj": 3}}), "has rank 8, but the config says 3"),
            (json!({"lora_alpha": "32"}), "`lora_alpha` is `\"32\"`, expected a finite number"),
            (json!({"lora_alpha": null}), "`lora_alpha` is `null`"),
            (json!({"lora_alpha": 1e300}), "`lora_alpha` is `1e+300`"),
            (json!({"r": "8"}), "`r` is `\"8\"`, expected a whole number from 1"),
            (json!({"r": 0}), "`r` is `0`"),
            (json!({"r": 4}), "has rank 8, but the config says 4"),
            (json!({"peft_type": "IA3"}), "`peft_type` is `IA3`"),
            (json!({"bias": "some"}), "`bias` is `\"some\"`"),
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
