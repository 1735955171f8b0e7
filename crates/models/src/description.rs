//! Reading the [`Settings`] of a decoder, and making a decoder of settings alone.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::builder::Builder;
use crate::error::{Error, Result};
use crate::loader::Loader;
use crate::model::{Model, check_config};
use crate::options::LoadOptions;
use crate::quantization::QuantizationSettings;
use crate::settings::Settings;
use crate::{architectures, config};

impl Settings {
    /// Reads the settings of the decoder that the `config.json` at `path` describes.
    ///
    /// # Errors
    ///
    /// Fails when the architecture is not supported here, and names every key that is not followed.
    pub fn read(path: &Path) -> Result<Self> {
        check_config(path)?;
        Self::of(path, &config::read(path)?)
    }

    /// Returns the settings of the decoder that `config` describes, the contents of a `config.json`.
    ///
    /// Errors name `path`.
    ///
    /// # Errors
    ///
    /// Fails when the architecture is not supported here or a setting is missing.
    pub fn of(path: &Path, config: &Value) -> Result<Self> {
        let problem = |reason: String| Error::Config { path: path.to_owned(), reason };
        let architecture = architectures::of_config(path, config)?;
        let unlisted = || problem("the settings of this `model_type` are not listed".to_owned());
        let describe = architecture.settings.ok_or_else(unlisted)?;
        let loader = Loader::new(BTreeMap::new(), None);
        let quantization = QuantizationSettings::default();
        let (text, part) = config::text_part(config);
        describe(&Builder::new(&loader, text, config, &quantization, part)).map_err(problem)
    }
}

impl Model {
    /// Makes a model with placeholders, as [`Model::outline`], of `config`, the contents of a `config.json`.
    ///
    /// Errors name `path`.
    ///
    /// # Errors
    ///
    /// Fails when the architecture is not supported or a setting is missing.
    pub fn outline_of_settings(path: &Path, config: Value, options: &LoadOptions) -> Result<Self> {
        Self::build(path, config, &Loader::new(BTreeMap::new(), options.dtype), options.unpack)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Returns the settings of a small model with some other keys.
    fn settings(model_type: &str, changes: &Value) -> Settings {
        let mut config = json!({
            "model_type": model_type, "hidden_size": 48, "num_hidden_layers": 3, "intermediate_size": 80,
            "num_attention_heads": 4, "vocab_size": 384, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
        });
        for (key, value) in changes.as_object().expect("a table") {
            config[key] = value.clone();
        }
        Settings::of(Path::new("config.json"), &config).expect("valid settings")
    }

    #[test]
    fn missing_settings_have_the_defaults_of_the_architecture() {
        let heads = |model_type: &str| {
            let found = settings(model_type, &json!({}));
            (found.key_value_heads, found.head_dim, found.window)
        };
        assert_eq!(heads("llama"), (4, 12, None));
        assert_eq!(heads("mistral"), (4, 12, Some(4096)));
        assert_eq!(heads("qwen2"), (4, 12, None));
        assert_eq!(heads("qwen3"), (4, 128, None));
        assert_eq!(heads("gemma3_text"), (1, 256, Some(4096)));
        let sparse = json!({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}});
        let sparse = Settings::of(Path::new("config.json"), &sparse).expect("valid settings");
        assert_eq!((sparse.heads, sparse.key_value_heads, sparse.head_dim), (8, 4, 256));
        assert_eq!((sparse.vocabulary, sparse.context), (262_208, Some(131_072)));
    }

    #[test]
    fn every_setting_that_changes_results_is_named() {
        let plain = settings("llama", &json!({}));
        for (changes, name) in [
            (json!({"hidden_size": 96, "head_dim": 12}), "hidden_size"),
            (json!({"intermediate_size": 96}), "intermediate_size"),
            (
                json!({"num_attention_heads": 8, "head_dim": 12, "num_key_value_heads": 4}),
                "num_attention_heads",
            ),
            (json!({"num_key_value_heads": 2}), "num_key_value_heads"),
            (json!({"vocab_size": 385}), "vocab_size"),
            (json!({"num_hidden_layers": 4}), "num_hidden_layers"),
            (json!({"rms_norm_eps": 1e-6}), "rms_norm_eps"),
            (json!({"hidden_act": "gelu"}), "hidden_act"),
            (json!({"rope_theta": 20_000.0}), "rope_scaling"),
            (json!({"rope_scaling": {"type": "linear", "factor": 2.0}}), "rope_scaling"),
            (
                json!({"sliding_window": 24, "layer_types": ["full_attention", "sliding_attention", "full_attention"]}),
                "sliding_window",
            ),
        ] {
            let other = settings("llama", &changes);
            assert_eq!(plain.differences(&other, 512), [name], "{changes}");
        }
        assert_eq!(plain.differences(&settings("llama", &json!({"hidden_act": "swish"})), 512), [""; 0]);
        let window = settings("mistral", &json!({"sliding_window": 24}));
        assert_eq!(plain.differences(&window, 24), [""; 0]);
        let gemma = |cap: &Value| settings("gemma3_text", &json!({"final_logit_softcapping": cap}));
        assert_eq!(gemma(&json!(30.0)).differences(&gemma(&Value::Null), 512), ["final_logit_softcapping"]);
    }
}
