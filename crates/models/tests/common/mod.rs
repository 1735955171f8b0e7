//! Tiny models of every family, each with a sliding window where the family can have one.

use std::path::Path;

use mlx_rs::{Array, Dtype};
use models::{Input, LoadOptions, Model, write_safetensors};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Result of a test.
pub(crate) type Result<T = (), E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// Window of the local layers of [`config`], in tokens.
pub(crate) const WINDOW: i32 = 6;

/// Every `model_type` except the multimodal one, which uses the decoder of its text model.
pub(crate) const FAMILIES: [&str; 8] =
    ["cohere", "gemma2", "gemma3_text", "llama", "mistral", "phi3", "qwen2", "qwen3"];

/// Returns a small `config.json` of a family.
pub(crate) fn config(family: &str) -> Value {
    let mut config = json!({
        "model_type": family,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": 64,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5,
    });
    let window = match family {
        "llama" => json!({
            "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        }),
        "qwen2" | "qwen3" => {
            json!({"use_sliding_window": true, "sliding_window": WINDOW, "max_window_layers": 1})
        }
        "gemma3_text" => json!({"sliding_window": WINDOW, "sliding_window_pattern": 2}),
        "gemma2" => json!({"sliding_window": WINDOW, "query_pre_attn_scalar": 8}),
        "cohere" => json!({"use_qk_norm": true, "logit_scale": 1.0, "rope_theta": 10_000.0}),
        _ => json!({"sliding_window": WINDOW}),
    };
    merge(&mut config, window);
    config
}

/// Overwrites entries of `config` with those of `changes`.
pub(crate) fn merge(config: &mut Value, changes: Value) {
    let (Value::Object(config), Value::Object(changes)) = (config, changes) else {
        panic!("both are tables")
    };
    config.extend(changes);
}

/// Writes a model folder with fixed weights, large enough for attention to matter.
pub(crate) fn write_folder(config: &Value) -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    let config_path = folder.path().join("config.json");
    fs_err::write(&config_path, serde_json::to_string_pretty(config)?)?;
    let mut weights = Model::random(&config_path, 7)?.parameters();
    for (name, array) in &mut weights {
        if array.ndim() == 2 && !name.contains("norm") {
            *array = array.multiply(Array::from_f32(10.0))?;
        }
    }
    write_safetensors(&folder.path().join("model.safetensors"), &weights)?;
    Ok(folder)
}

/// Loads a folder in `f32`.
pub(crate) fn load(folder: &Path) -> models::Result<Model> {
    Model::load(folder, &LoadOptions { dtype: Some(Dtype::Float32), unpack: true })
}

/// Returns `count` token ids that look random.
pub(crate) fn some_tokens(count: usize) -> Vec<u32> {
    (0..count as u32).map(|index| (index * index * 7 + index * 3 + 5) % 61).collect()
}

/// Returns one row of token ids, `[1, L]`.
pub(crate) fn row(tokens: &[u32]) -> Array {
    let tokens: Vec<i32> = tokens.iter().map(|&token| token as i32).collect();
    Array::from_slice(&tokens, &[1, tokens.len() as i32])
}

/// Returns the logits of one row, one vector per token.
pub(crate) fn logits_of(model: &Model, input: Input<'_>) -> Result<Vec<Vec<f32>>> {
    let logits = model.logits(&model.hidden(input)?)?.contiguous()?;
    logits.eval()?;
    Ok(logits.as_slice::<f32>().chunks(model.vocabulary() as usize).map(<[f32]>::to_vec).collect())
}
