//! Numbers of `config.json` that no model has: a size of zero, a billion layers, a frequency base of zero.
//!
//! Shapes are computed from them before the first weight is read, so they are checked first.

use serde_json::{Map, Value};

/// Sizes with the largest value that is plausible; the smallest is 1.
const SIZES: [(&str, u64); 12] = [
    ("head_dim", 1 << 16),
    ("hidden_size", 1 << 20),
    ("intermediate_size", 1 << 24),
    ("max_position_embeddings", 1 << 40),
    ("num_attention_heads", 1 << 16),
    ("num_hidden_layers", 1 << 14),
    ("num_key_value_heads", 1 << 16),
    ("original_max_position_embeddings", 1 << 40),
    ("sliding_window", 1 << 40),
    ("sliding_window_pattern", 1 << 14),
    ("type_vocab_size", 1 << 24),
    ("vocab_size", 1 << 24),
];
/// Numbers that divide, are raised to a power, or keep a root from zero.
const POSITIVE: [&str; 8] = [
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "layer_norm_eps",
    "partial_rotary_factor",
    "query_pre_attn_scalar",
    "rms_norm_eps",
    "rope_local_base_freq",
    "rope_theta",
];
/// Tokens by their number, or lists of them.
const TOKENS: [&str; 3] = ["bos_token_id", "eos_token_id", "pad_token_id"];
/// Numbers of a `rope_scaling` that divide.
const SCALES: [&str; 4] =
    ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"];

/// Returns one line for each number of `table` that no model has.
pub(crate) fn problems(table: &Map<String, Value>) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, limit) in SIZES {
        let Some(value) = table.get(name).filter(|value| !value.is_null()) else { continue };
        // Some writers give sizes as floats.
        let size = value.as_f64().unwrap_or(f64::NAN);
        if !(1.0..=limit as f64).contains(&size) {
            problems.push(format!("`{name}` is {value}; it must be a number from 1 to {limit}"));
        }
    }
    let rope = table.get("rope_scaling").and_then(Value::as_object);
    let own = POSITIVE.iter().map(|name| (*name, table.get(*name)));
    let scales = SCALES.iter().map(|name| (*name, rope.and_then(|rope| rope.get(*name))));
    for (name, value) in own.chain(scales) {
        let Some(value) = value.filter(|value| !value.is_null()) else { continue };
        if !value.as_f64().is_some_and(|number| number.is_finite() && number > 0.0) {
            problems.push(format!("`{name}` is {value}; it must be above 0"));
        }
    }
    problems.extend(TOKENS.iter().filter_map(|name| tokens(name, table.get(*name)?)));
    problems.extend(heads(table));
    problems
}

/// Returns the problem of a token id that is not a number or is negative; older configurations have -1 for none.
fn tokens(name: &str, value: &Value) -> Option<String> {
    let is_token = |value: &Value| value.as_u64().is_some_and(|token| u32::try_from(token).is_ok());
    let is_fine = match value {
        Value::Null => true,
        Value::Array(list) => list.iter().all(is_token),
        one => is_token(one) || one.as_i64() == Some(-1),
    };
    (!is_fine).then(|| {
        format!(
            "`{name}` is {value}; it must be the number of a token in `tokenizer.json`, or a list of them"
        )
    })
}

/// Returns the problem of query heads that cannot share the key-value heads.
fn heads(table: &Map<String, Value>) -> Option<String> {
    let number = |name: &str| table.get(name).and_then(Value::as_u64).filter(|number| *number > 0);
    let (heads, shared) = (number("num_attention_heads")?, number("num_key_value_heads")?);
    (heads % shared != 0).then(|| {
        format!(
            "`num_attention_heads` is {heads}, not a multiple of `num_key_value_heads`, which is {shared}"
        )
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(config: &Value) -> Vec<String> {
        problems(config.as_object().expect("an object"))
    }

    #[test]
    fn numbers_that_no_model_has_are_named() {
        for (config, name) in [
            (json!({"num_attention_heads": 0}), "num_attention_heads"),
            (json!({"num_attention_heads": -1}), "num_attention_heads"),
            (json!({"num_hidden_layers": 1_000_000_000}), "num_hidden_layers"),
            (json!({"hidden_size": "64"}), "hidden_size"),
            (json!({"vocab_size": 1e300}), "vocab_size"),
            (json!({"rope_theta": 0}), "rope_theta"),
            (json!({"rope_theta": -1.5}), "rope_theta"),
            (json!({"rms_norm_eps": -1}), "rms_norm_eps"),
            (json!({"query_pre_attn_scalar": 0}), "query_pre_attn_scalar"),
            (json!({"final_logit_softcapping": 0.0}), "final_logit_softcapping"),
            (json!({"sliding_window_pattern": 0}), "sliding_window_pattern"),
            (json!({"eos_token_id": "x"}), "eos_token_id"),
            (json!({"eos_token_id": [1, -1]}), "eos_token_id"),
            (json!({"eos_token_id": 4_294_967_296_u64}), "eos_token_id"),
            (json!({"rope_scaling": {"factor": 0}}), "factor"),
            (json!({"rope_scaling": {"low_freq_factor": "x"}}), "low_freq_factor"),
            (json!({"num_attention_heads": 4, "num_key_value_heads": 3}), "multiple"),
        ] {
            let problems = found(&config);
            assert!(problems.len() == 1 && problems[0].contains(name), "{config}: {problems:?}");
        }
    }

    #[test]
    fn numbers_of_models_are_not() {
        let config = json!({
            "hidden_size": 64, "num_hidden_layers": 126, "num_attention_heads": 128, "num_key_value_heads": 8, "head_dim": null,
            "vocab_size": 262_144, "rope_theta": 500_000.0, "sliding_window": null, "max_position_embeddings": 131_072,
            "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "short_factor": [1.0]},
        });
        assert_eq!(found(&config), Vec::<String>::new());
    }
}
