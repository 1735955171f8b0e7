//! The table of supported architectures.

use std::path::Path;

use serde_json::Value;

use crate::backbone::Built;
use crate::builder::Builder;
use crate::error::{Error, Result};
use crate::keys::Keys;
use crate::settings::Settings;
use crate::{cohere, gemma2, gemma3, llama, mistral, phi3, qwen2, qwen3};

/// Builds a decoder, or returns the problem with its settings.
pub(crate) type Build = fn(&Builder<'_>) -> Result<Built, String>;

/// Returns the settings of a decoder, or the problem with them.
pub(crate) type Describe = fn(&Builder<'_>) -> Result<Settings, String>;

/// A supported architecture.
pub(crate) struct Architecture {
    /// Its `model_type`.
    name: &'static str,
    /// Its keys in `config.json`.
    pub(crate) keys: &'static Keys,
    /// Its builder.
    pub(crate) build: Build,
    /// Reader of its settings, where another format needs them.
    pub(crate) settings: Option<Describe>,
}

/// Every supported architecture, sorted by `model_type`.
const ARCHITECTURES: &[Architecture] = &[
    Architecture { name: "cohere", keys: &cohere::KEYS, build: cohere::build, settings: None },
    Architecture { name: "gemma2", keys: &gemma2::KEYS, build: gemma2::build, settings: None },
    Architecture {
        name: "gemma3",
        keys: &gemma3::KEYS,
        build: gemma3::build_multimodal,
        settings: Some(gemma3::settings_multimodal),
    },
    Architecture {
        name: "gemma3_text",
        keys: &gemma3::KEYS,
        build: gemma3::build,
        settings: Some(gemma3::settings),
    },
    Architecture { name: "llama", keys: &llama::KEYS, build: llama::build, settings: Some(llama::settings) },
    Architecture {
        name: "mistral",
        keys: &mistral::KEYS,
        build: mistral::build,
        settings: Some(mistral::settings),
    },
    Architecture { name: "phi3", keys: &phi3::KEYS, build: phi3::build, settings: None },
    Architecture { name: "qwen2", keys: &qwen2::KEYS, build: qwen2::build, settings: Some(qwen2::settings) },
    Architecture { name: "qwen3", keys: &qwen3::KEYS, build: qwen3::build, settings: Some(qwen3::settings) },
];

/// Returns the supported values of `model_type`, sorted.
pub fn supported_model_types() -> Vec<&'static str> {
    ARCHITECTURES.iter().map(|architecture| architecture.name).collect()
}

/// Returns the architecture that the `config.json` at `path` names.
///
/// # Errors
///
/// Fails when it is not supported, and lists those that are.
pub(crate) fn of_config(path: &Path, config: &Value) -> Result<&'static Architecture> {
    let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or("(none)");
    let found = ARCHITECTURES.iter().find(|architecture| architecture.name == model_type);
    found.ok_or_else(|| Error::Unsupported {
        path: path.to_owned(),
        model_type: model_type.to_owned(),
        supported: supported_model_types(),
    })
}
