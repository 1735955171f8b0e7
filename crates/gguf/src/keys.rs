//! Metadata keys of an architecture: supported keys, and keys of other architectures whose values have no effect.
//!
//! Other keys are refused, because the imported model would not compute what the file describes.

use crate::error::{Error, Result};
use crate::metadata::Metadata;
use crate::rope::{self, DEFAULT_BASE};

/// Families of models with different keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Gemma2,
    Gemma3,
    Llama,
    Phi3,
    Qwen2,
    Qwen3,
}

const WINDOW: &str = "attention.sliding_window";
const PATTERN: &str = "attention.sliding_window_pattern";
const SCORE_CAP: &str = "attn_logit_softcapping";
const LOGIT_CAP: &str = "final_logit_softcapping";
const LOCAL_BASE: &str = "rope.freq_base_swa";

/// Keys that every architecture supports or can ignore.
const COMMON: [&str; 13] = [
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "tensor_data_layout",
    "vocab_size",
];
/// Keys of mixtures of experts; the value 0 means that the model is dense.
const EXPERTS: [&str; 4] =
    ["expert_count", "expert_group_count", "expert_group_used_count", "expert_used_count"];
/// Fixed distance between layers of Gemma 2 without a window.
const GEMMA2_PATTERN: u64 = 2;

/// Returns the additional keys that a family supports.
fn followed(family: Family) -> &'static [&'static str] {
    match family {
        Family::Llama | Family::Phi3 => &[WINDOW],
        Family::Qwen2 | Family::Qwen3 => &[],
        Family::Gemma2 => &[WINDOW, SCORE_CAP, LOGIT_CAP],
        Family::Gemma3 => &[WINDOW, PATTERN, LOGIT_CAP, LOCAL_BASE],
    }
}

/// Checks that the family supports every key of the architecture `name`.
///
/// # Errors
///
/// Fails on the first unsupported key and names it.
pub(crate) fn check(metadata: Metadata<'_>, name: &str, family: Family) -> Result<()> {
    let prefix = format!("{name}.");
    for key in metadata.keys(&prefix) {
        let is_followed =
            COMMON.contains(&key) || rope::KEYS.contains(&key) || followed(family).contains(&key);
        if !is_followed && !changes_nothing(metadata, &prefix, key, family)? {
            let reason = format!("the key `{prefix}{key}` is not supported in this architecture");
            return Err(Error::Unsupported(reason));
        }
    }
    Ok(())
}

/// Returns whether an unsupported key has a value without effect.
fn changes_nothing(metadata: Metadata<'_>, prefix: &str, key: &str, family: Family) -> Result<bool> {
    let (integer, float) = (
        |key: &str| metadata.integer(&format!("{prefix}{key}")),
        |key: &str| metadata.float(&format!("{prefix}{key}")),
    );
    let has_window = || -> Result<bool> {
        let window = integer(WINDOW)?.filter(|&window| window > 0);
        Ok(window.is_some_and(|window| window < integer("context_length").ok().flatten().unwrap_or(u64::MAX)))
    };
    match key {
        PATTERN if family == Family::Gemma2 => Ok(integer(PATTERN)? == Some(GEMMA2_PATTERN)),
        WINDOW | PATTERN => Ok(!has_window()?),
        SCORE_CAP | LOGIT_CAP => Ok(float(key)? == Some(0.0)),
        LOCAL_BASE => {
            let base = float("rope.freq_base")?.unwrap_or(DEFAULT_BASE);
            Ok(float(LOCAL_BASE)?.is_some_and(|local| (local - base).abs() <= f64::EPSILON * base))
        }
        _ if EXPERTS.contains(&key) => Ok(integer(key)? == Some(0)),
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::value::Value;

    fn said(name: &str, family: Family, entries: &[(&str, Value)]) -> Option<String> {
        let base = [("context_length", Value::Integer(512)), ("rope.freq_base", Value::Float(10_000.0))];
        let entries = base.iter().chain(entries).map(|(key, value)| (format!("{name}.{key}"), value.clone()));
        let entries: BTreeMap<String, Value> = entries.collect();
        check(Metadata::new(&entries), name, family).err().map(|error| error.to_string())
    }

    #[test]
    fn a_key_of_another_family_is_refused_by_name() {
        let (window, cap) = (Value::Integer(24), Value::Float(30.0));
        let cases = [
            ("qwen3", Family::Qwen3, SCORE_CAP, cap.clone()),
            ("qwen3", Family::Qwen3, LOGIT_CAP, cap.clone()),
            ("qwen3", Family::Qwen3, WINDOW, window.clone()),
            ("qwen2", Family::Qwen2, WINDOW, window.clone()),
            ("llama", Family::Llama, LOGIT_CAP, cap.clone()),
            ("llama", Family::Llama, LOCAL_BASE, Value::Float(5.0)),
            ("llama", Family::Llama, "expert_count", Value::Integer(8)),
            ("phi3", Family::Phi3, LOGIT_CAP, cap.clone()),
            ("gemma3", Family::Gemma3, SCORE_CAP, cap),
            ("gemma2", Family::Gemma2, PATTERN, Value::Integer(4)),
            ("gemma2", Family::Gemma2, LOCAL_BASE, Value::Float(5.0)),
            ("gemma2", Family::Gemma2, "attention.causal", Value::Bool(true)),
        ];
        for (name, family, key, value) in cases {
            let said = said(name, family, &[(key, value)]).expect(key);
            assert!(said.contains(&format!("`{name}.{key}` is not supported in this")), "{said}");
        }
        let said = said("llama", Family::Llama, &[(WINDOW, window), (PATTERN, Value::Integer(2))]);
        assert!(said.expect("a window").contains(PATTERN));
    }

    #[test]
    fn a_key_of_another_family_that_changes_nothing_is_accepted() {
        let zero = Value::Float(0.0);
        let cases = [
            ("qwen2", Family::Qwen2, vec![(WINDOW, Value::Integer(0)), (PATTERN, Value::Integer(6))]),
            ("qwen2", Family::Qwen2, vec![(WINDOW, Value::Integer(512)), (SCORE_CAP, zero.clone())]),
            ("qwen3", Family::Qwen3, vec![(LOCAL_BASE, Value::Float(10_000.0)), (LOGIT_CAP, zero.clone())]),
            ("llama", Family::Llama, EXPERTS.map(|key| (key, Value::Integer(0))).to_vec()),
            ("llama", Family::Llama, vec![(WINDOW, Value::Integer(24))]),
            ("phi3", Family::Phi3, vec![(WINDOW, Value::Integer(0))]),
            ("gemma2", Family::Gemma2, vec![(PATTERN, Value::Integer(2)), (SCORE_CAP, Value::Float(50.0))]),
            ("gemma3", Family::Gemma3, vec![(PATTERN, Value::Integer(2)), (SCORE_CAP, zero)]),
        ];
        for (name, family, entries) in cases {
            assert_eq!(said(name, family, &entries), None, "{name}: {entries:?}");
        }
    }
}
