//! Every setting of `config.json` that changes results is in the exported file, or the export is refused by its name.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use fuse::gguf::{Gguf, export};
use import_model::gguf::Blocks;
use mlx_rs::{Array, Dtype};
use models::{Input, Model, write_safetensors};
use serde_json::{Value, json};
use testutil::{Sandbox, golden, tolerance};

use crate::{difference, json as read, model, round_trip};

/// Longest row that is compared, in tokens.
const ROW: u32 = 64;
/// Factor of fresh weights, so that scores differ between tokens. It is a power of two.
const GROWTH: f32 = 8.0;

/// A small configuration of an architecture.
#[derive(Clone)]
struct Case {
    /// `model_type`, which is also the golden model with the tokenizer.
    name: &'static str,
    /// Keys with other values.
    changes: Value,
    /// Keys that are left out.
    without: &'static [&'static str],
    /// Context of the file in tokens.
    context: u64,
    /// Whether the logits must differ from those without the changes.
    matters: bool,
}

impl Case {
    /// Returns a case whose changes show in the logits.
    fn new(name: &'static str, changes: Value) -> Self {
        Self { name, changes, without: &[], context: 512, matters: true }
    }

    /// Returns a case with other sizes, or whose changes mean nothing.
    fn silent(name: &'static str, changes: Value) -> Self {
        Self { matters: false, ..Self::new(name, changes) }
    }

    /// Returns a case with a window outside the Gemmas, which limits the context of the file.
    fn limited(name: &'static str, changes: Value, context: u64) -> Self {
        Self { context, ..Self::silent(name, changes) }
    }

    fn without(self, without: &'static [&'static str]) -> Self {
        Self { without, ..self }
    }

    /// Returns the configuration; `changed` leaves out the changes.
    fn config(&self, is_changed: bool) -> Result<Value> {
        let mut config = read(&golden(self.name).join("config.json"))?;
        let is_nested = config.get("text_config").is_some();
        let table = if is_nested { &mut config["text_config"] } else { &mut config };
        // Wide enough for several pairs of each kind.
        table["head_dim"] = json!(if self.name == "qwen2" { 12 } else { 32 });
        if self.name.starts_with("gemma3") {
            table["query_pre_attn_scalar"] = json!(32);
        }
        let table = table.as_object_mut().context("not a table")?;
        for name in self.without {
            table.remove(*name);
        }
        if is_changed {
            table.extend(self.changes.as_object().context("no changes")?.clone());
        }
        Ok(config)
    }

    /// Writes a model whose weights are half floats to the folder `out`.
    fn write(&self, is_changed: bool, out: PathBuf) -> Result<PathBuf> {
        fs_err::create_dir_all(&out)?;
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            fs_err::copy(golden(self.name).join(file), out.join(file))?;
        }
        let config = out.join("config.json");
        fs_err::write(&config, self.config(is_changed)?.to_string())?;
        let mut tensors = Model::random(&config, 7)?.parameters();
        for (name, array) in &mut tensors {
            // The biases of a fresh model are zero, which would hide their order.
            let fresh =
                if name.split('.').next_back() == Some("bias") { counted(array) } else { array.clone() };
            let grown =
                if name.contains("norm") { fresh } else { fresh.multiply(Array::from_f32(GROWTH))? };
            *array = grown.as_dtype(Dtype::Float16)?;
        }
        write_safetensors(&out.join("model.safetensors"), &tensors)?;
        Ok(out)
    }
}

/// Returns small numbers in the shape of `array`, whose order shows.
fn counted(array: &Array) -> Array {
    let numbers: Vec<f32> = (0..array.size()).map(|index| (index * 5 % 17) as f32 / 64.0).collect();
    Array::from_slice(&numbers, array.shape())
}

/// Returns the logits of `length` tokens.
fn logits(folder: &Path, length: u32) -> Result<Array> {
    let tokens: Vec<u32> = (0..length).map(|index| (index * 37 + 11) % 384).collect();
    let tokens = Array::from_slice(&tokens, &[1, length as i32]);
    let model = model(folder)?;
    Ok(model.logits(&model.hidden(Input::tokens(&tokens))?)?.as_dtype(Dtype::Float32)?)
}

fn yarn(rest: &Value) -> Value {
    let mut table = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16});
    for (key, value) in rest.as_object().expect("a table") {
        table[key] = value.clone();
    }
    json!({ "rope_scaling": table })
}

fn linear() -> Value {
    json!({"rope_scaling": {"type": "linear", "factor": 2.0}})
}

fn llama3(low: f32, high: f32, original: u32) -> Value {
    json!({"rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": low, "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }})
}

/// Returns the `layer_types` of three layers.
fn kinds(kinds: [&str; 3]) -> Value {
    json!(kinds.map(|kind| format!("{kind}_attention")))
}

/// Returns rotations that can be written, which have nothing to do with the architecture.
fn rotations() -> Vec<Case> {
    let new = |changes: Value| Case::new("llama", changes);
    let scaled = yarn(&json!({}))["rope_scaling"].clone();
    vec![
        new(linear()),
        new(llama3(1.0, 4.0, 64)),
        new(llama3(2.0, 6.0, 100)),
        new(yarn(&json!({}))),
        new(yarn(&json!({"attention_factor": 1.5}))),
        new(yarn(&json!({"mscale": 0.7, "mscale_all_dim": 1.1}))),
        new(yarn(&json!({"mscale": 0.7}))),
        new(yarn(&json!({"beta_fast": 32, "beta_slow": 0, "truncate": true}))),
        new(yarn(&json!({"factor": null}))),
        new(yarn(&json!({"original_max_position_embeddings": null}))),
        new(json!({"original_max_position_embeddings": 32, "rope_scaling": scaled})),
        new(json!({"rope_theta": null, "rope_parameters": {"rope_theta": 1e6}})),
        new(json!({"rope_scaling": {"rope_type": "default", "rope_theta": 1e6}})),
        new(json!({"rope_theta": 5e4, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}})),
        new(json!({"rope_traditional": true})),
        Case::silent("llama", json!({"rope_traditional": true, "attention_bias": true, "mlp_bias": true})),
        Case::new("qwen2", yarn(&json!({"attention_factor": 1.5}))),
    ]
}

/// Returns windows, activations and sizes that can be written.
fn sizes() -> Vec<Case> {
    let window = json!({"use_sliding_window": true, "sliding_window": 24, "max_window_layers": 1});
    let unused = json!({"use_sliding_window": true, "sliding_window": 24});
    let mixed = json!({"sliding_window": 24, "layer_types": kinds(["full", "sliding", "full"])});
    let mut cases = vec![
        Case::silent("llama", json!({})),
        Case::silent("llama", json!({"hidden_act": "swish"})),
        Case::silent("llama", json!({"attention_bias": true})),
        Case::silent("llama", json!({"sliding_window": 24})),
        Case::limited("llama", mixed, 24),
        Case::limited("mistral", json!({"max_position_embeddings": 8192}), 4096),
        Case::limited("mistral", json!({"max_position_embeddings": 8192, "sliding_window": null}), 8192),
        Case::limited("mistral", json!({"sliding_window": 24}), 24),
        Case::silent("mistral", json!({"sliding_window": 24, "layer_types": kinds(["full"; 3])})),
    ];
    for name in ["qwen2", "qwen3"] {
        cases.push(Case::limited(name, window.clone(), 24));
        cases.push(Case::silent(name, unused.clone()));
        cases.push(Case::silent(name, json!({"sliding_window": 24})));
    }
    for name in ["llama", "mistral", "qwen2", "qwen3"] {
        cases.push(Case::silent(name, json!({})).without(&["head_dim"]));
        cases.push(Case::silent(name, json!({})).without(&["num_key_value_heads"]));
        cases.push(Case::new(name, json!({"rope_theta": 50.0})));
    }
    cases
}

/// Returns settings of Gemma 3 that can be written.
fn gemmas() -> Vec<Case> {
    let new = |changes: Value| Case::new("gemma3_text", changes);
    let silent = |changes: Value| Case::silent("gemma3_text", changes);
    let sparse = Case::silent("gemma3", json!({"rope_scaling": {"rope_type": "linear", "factor": 8.0}}));
    let sparse = sparse.without(&[
        "head_dim",
        "max_position_embeddings",
        "num_attention_heads",
        "num_key_value_heads",
        "query_pre_attn_scalar",
        "rms_norm_eps",
        "rope_local_base_freq",
        "rope_theta",
        "sliding_window_pattern",
        "vocab_size",
    ]);
    let unnamed = silent(json!({})).without(&["max_position_embeddings", "sliding_window"]);
    vec![
        new(json!({"final_logit_softcapping": 0.5})),
        new(linear()),
        new(yarn(&json!({}))),
        new(json!({"rope_local_base_freq": 100.0})),
        new(json!({"layer_types": kinds(["full"; 3])})),
        new(json!({"sliding_window": 8})),
        silent(json!({"hidden_activation": "gelu_new", "hidden_act": "silu"})),
        new(json!({"rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        }})),
        silent(json!({"query_pre_attn_scalar": 256})).without(&["head_dim"]),
        silent(json!({})).without(&["num_key_value_heads"]),
        Case { context: 131_072, ..unnamed },
        Case { context: 131_072, ..sparse },
    ]
}

#[test]
fn an_exported_model_has_the_results_of_its_settings() -> Result<()> {
    mlx_ext::init(&mlx_ext::Options::default())?;
    for (index, case) in [rotations(), sizes(), gemmas()].concat().iter().enumerate() {
        let sandbox = Sandbox::new();
        let work = sandbox.join("");
        let shown = format!("case {index}, {} with {} without {:?}", case.name, case.changes, case.without);
        let folder = case.write(true, sandbox.join("model"))?;
        let imported = round_trip(&folder, Gguf::F16, Blocks::Dequantize, &work, "imported")
            .with_context(|| shown.clone())?;
        let context = read(&imported.join("config.json"))?["max_position_embeddings"].as_u64();
        ensure!(context == Some(case.context), "{shown}: the context is {context:?}");
        let length = ROW.min(case.context as u32);
        let expected = logits(&folder, length)?;
        let off = difference(&expected, &logits(&imported, length)?)?;
        ensure!(off <= tolerance::LOGITS, "{shown}: logits are off by {off}");
        if case.matters {
            let plain = case.write(false, sandbox.join("plain"))?;
            let off = difference(&expected, &logits(&plain, length)?)?;
            ensure!(off > 10.0 * tolerance::LOGITS, "{shown}: logits differ by {off} from those without it");
        }
    }
    Ok(())
}

/// Returns configurations that llama.cpp does not compute, each with the key that the refusal names.
fn refused() -> Vec<(&'static str, Case)> {
    let silent = Case::silent;
    let factors = [1.0; 16];
    let longrope = json!({"rope_scaling": {
        "type": "longrope", "short_factor": factors, "long_factor": factors, "original_max_position_embeddings": 64,
    }});
    let local = json!({"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}});
    vec![
        ("`rope_scaling.beta_fast` 16", silent("llama", yarn(&json!({"beta_fast": 16})))),
        ("`rope_scaling.beta_slow` 2", silent("qwen3", yarn(&json!({"beta_slow": 2})))),
        ("`rope_scaling.truncate` false", silent("qwen2", yarn(&json!({"truncate": false})))),
        (
            "`rope_scaling.attention_factor` 1.5",
            silent("gemma3_text", yarn(&json!({"attention_factor": 1.5}))),
        ),
        ("`longrope`", silent("llama", longrope)),
        ("`llama3`", silent("qwen3", llama3(1.0, 4.0, 64))),
        ("`rope_traditional`", silent("qwen2", json!({"rope_traditional": true}))),
        ("`hidden_act` `gelu`", silent("llama", json!({"hidden_act": "gelu"}))),
        ("`hidden_act` `relu2`", silent("qwen2", json!({"hidden_act": "relu2"}))),
        ("`hidden_activation` `gelu`", silent("gemma3_text", json!({"hidden_activation": "gelu"}))),
        ("`query_pre_attn_scalar` 12", silent("gemma3_text", json!({"query_pre_attn_scalar": 12}))),
        ("`rope_parameters.sliding_attention`", silent("gemma3_text", local)),
        ("`attention_bias`", silent("qwen3", json!({"attention_bias": true}))),
        ("`head_dim` 32", silent("qwen2", json!({"head_dim": 32}))),
        ("`max_position_embeddings`", silent("llama", json!({})).without(&["max_position_embeddings"])),
    ]
}

#[test]
fn a_setting_that_llama_cpp_does_not_follow_is_named() -> Result<()> {
    mlx_ext::init(&mlx_ext::Options::default())?;
    for (key, case) in refused() {
        let sandbox = Sandbox::new();
        let folder = case.write(true, sandbox.join("model"))?;
        let file = sandbox.join("model.gguf");
        let error = fuse::gguf::check(&folder).err().with_context(|| format!("{key} passes"))?.report();
        ensure!(error.contains(key), "{key}: {error}");
        ensure!(export(&folder, Gguf::F16, &file).is_err(), "{key} is written");
        ensure!(!file.exists(), "{key}: a file is left");
    }
    Ok(())
}
