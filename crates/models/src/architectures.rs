//! The table of supported architectures.

use std::path::Path;

use serde_json::Value;

use crate::backbone::Built;
use crate::builder::Builder;
use crate::error::{Error, Result};
use crate::{cohere, gemma2, gemma3, llama, mistral, phi3, qwen2, qwen3};

/// Builds a decoder, or returns the problem with its settings.
pub(crate) type Build = fn(&Builder<'_>) -> Result<Built, String>;

/// Every supported `model_type`, sorted.
const ARCHITECTURES: &[(&str, Build)] = &[
    ("cohere", cohere::build),
    ("gemma2", gemma2::build),
    ("gemma3", gemma3::build_multimodal),
    ("gemma3_text", gemma3::build),
    ("llama", llama::build),
    ("mistral", mistral::build),
    ("phi3", phi3::build),
    ("qwen2", qwen2::build),
    ("qwen3", qwen3::build),
];

/// Returns the supported values of `model_type`, sorted.
pub fn supported_model_types() -> Vec<&'static str> {
    ARCHITECTURES.iter().map(|(name, _)| *name).collect()
}

/// Returns the architecture that the `config.json` at `path` names.
///
/// # Errors
///
/// Fails when it is not supported, and lists those that are.
pub(crate) fn of_config(path: &Path, config: &Value) -> Result<Build> {
    let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or("(none)");
    let found = ARCHITECTURES.iter().find(|(name, _)| *name == model_type);
    found.map(|(_, build)| *build).ok_or_else(|| Error::Unsupported {
        path: path.to_owned(),
        model_type: model_type.to_owned(),
        supported: supported_model_types(),
    })
}
