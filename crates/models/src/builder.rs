//! Building a model: every part gets its settings and its tensors from a [`Builder`] at its path.

use mlx_rs::Array;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::config::normalized;
use crate::loader::Loader;
use crate::quantization::QuantizationSettings;

/// Source of settings and tensors for the part of a model at one path.
pub(crate) struct Builder<'a> {
    /// Tensors of the model.
    pub(crate) loader: &'a Loader,
    /// Table of `config.json` that describes the text model.
    pub(crate) config: &'a Value,
    /// All of `config.json`.
    pub(crate) whole_config: &'a Value,
    /// Quantization of the weights.
    pub(crate) quantization: &'a QuantizationSettings,
    path: String,
}

impl<'a> Builder<'a> {
    /// Starts at `path`: empty, or `language_model` in a multimodal folder.
    pub(crate) fn new(
        loader: &'a Loader,
        config: &'a Value,
        whole_config: &'a Value,
        quantization: &'a QuantizationSettings,
        path: &str,
    ) -> Self {
        Self { loader, config, whole_config, quantization, path: path.to_owned() }
    }

    /// Returns the builder of the part called `name`.
    pub(crate) fn at(&self, name: &str) -> Self {
        Self { path: self.name(name), ..*self }
    }

    /// Returns the path of this part.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Returns the full name of a tensor or part below this one.
    pub(crate) fn name(&self, name: &str) -> String {
        join(&self.path, name)
    }

    /// Takes the tensor `name` of this part.
    pub(crate) fn take(&self, name: &str, shape: &[i32]) -> Array {
        self.loader.take(&self.name(name), shape)
    }

    /// Reads the architecture's settings, without nulls and under the names of transformers 4.
    ///
    /// # Errors
    ///
    /// Names a setting that is missing or has the wrong type.
    pub(crate) fn args<T: DeserializeOwned>(&self) -> Result<T, String> {
        serde_json::from_value(normalized(self.config)).map_err(|error| error.to_string())
    }

    /// Returns the number of positions that the model was made for, if its settings name it.
    pub(crate) fn context(&self) -> Option<u64> {
        // Some writers give sizes as floats.
        let context = self.config.get("max_position_embeddings").and_then(Value::as_f64);
        context.map(|tokens| tokens as u64).filter(|&tokens| tokens > 0)
    }
}

/// Joins the path of a part and a name below it.
pub fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
