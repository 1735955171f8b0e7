//! Quantization settings in `config.json`, and those that packed tensors show by their shapes.

use std::collections::BTreeMap;

use mlx_ext::{Quantization, QuantizationMode};
use mlx_rs::{Array, Dtype};
use serde_json::{Map, Value};

/// Quantization of the weights in a folder.
#[derive(Debug, Clone, Default)]
pub(crate) struct QuantizationSettings {
    /// Settings of single layers, by path.
    overrides: BTreeMap<String, Quantization>,
    /// Whether to keep an unpacked copy of every packed weight.
    pub(crate) unpack: bool,
}

impl QuantizationSettings {
    /// Reads the settings of a `config.json`. Those of other tools are a leftover if the weights are plain floats.
    ///
    /// # Errors
    ///
    /// Fails for the formats of other tools, and for settings that are incomplete or that no mode has.
    pub(crate) fn read(config: &Value, unpack: bool, is_plain: bool) -> Result<Self, String> {
        let mut settings = Self { overrides: BTreeMap::new(), unpack };
        let tables = ["quantization", "quantization_config"].map(|name| config.get(name));
        let Some(table) = tables.into_iter().flatten().find(|table| !table.is_null()) else {
            return Ok(settings);
        };
        let table = table.as_object().ok_or("`quantization` is not a table")?;
        let is_ours = table.contains_key("bits") && table.contains_key("mode");
        if let (Some(method), false) = (table.get("quant_method"), is_ours) {
            if is_plain {
                return Ok(settings);
            }
            return Err(format!("weights quantized by {method} are not supported"));
        }
        // The defaults are only checked: packed tensors show their own widths.
        read_table("quantization", table)?;
        for (path, value) in table {
            if let Some(table) = value.as_object() {
                settings.overrides.insert(path.clone(), read_table(path, table)?);
            }
        }
        Ok(settings)
    }

    /// Returns the settings of one layer: those named for it, else those that its tensors show, because a file may mix
    /// widths and name only the most frequent one. `columns` is the width of the unpacked weight.
    ///
    /// # Errors
    ///
    /// Fails when no mode fits the tensors.
    pub(crate) fn of_layer(
        &self,
        path: &str,
        columns: i32,
        packed: &Array,
        scales: &Array,
    ) -> Result<Quantization, String> {
        if let Some(&named) = self.overrides.get(path) {
            return Ok(named);
        }
        let width = |array: &Array| array.shape().last().copied().unwrap_or_default();
        let group_size = columns / width(scales).max(1);
        let bits = i64::from(width(packed)) * 32 / i64::from(columns.max(1));
        let mode = match (scales.dtype() == Dtype::Uint8, bits, group_size) {
            (false, 2..=6 | 8, 32 | 64 | 128) => QuantizationMode::Affine,
            (true, 4, 16) => QuantizationMode::Nvfp4,
            (true, 4, 32) => QuantizationMode::Mxfp4,
            (true, 8, 32) => QuantizationMode::Mxfp8,
            _ => {
                return Err(format!(
                    "is packed with {bits} bits in groups of {group_size}, which no quantization mode uses"
                ));
            }
        };
        Ok(Quantization { bits: bits as i32, group_size, mode })
    }
}

/// Reads the settings in a table, which belong to the layer `name` or to all.
fn read_table(name: &str, table: &Map<String, Value>) -> Result<Quantization, String> {
    let number = |key: &str| {
        let value = table.get(key).ok_or_else(|| format!("`{name}` lacks `{key}`"))?;
        let number = value.as_i64().and_then(|number| i32::try_from(number).ok());
        number.ok_or_else(|| format!("`{key}` of `{name}` is `{value}`, expected a small whole number"))
    };
    let mode = table.get("mode").and_then(Value::as_str).unwrap_or("affine");
    let quantization = Quantization {
        bits: number("bits")?,
        group_size: number("group_size")?,
        mode: QuantizationMode::from_name(mode)
            .ok_or_else(|| format!("the mode `{mode}` of `{name}` is not supported"))?,
    };
    checked(quantization).map_err(|reason| format!("`{name}` {reason}"))
}

/// Returns settings that the kernels know.
///
/// # Errors
///
/// Describes settings that no mode has.
pub(crate) fn checked(quantization: Quantization) -> Result<Quantization, String> {
    let Quantization { bits, group_size, mode } = quantization;
    let mode = mode.name();
    quantization.is_known().then_some(quantization).ok_or_else(|| {
        format!("has {bits} bits in groups of {group_size}, which the mode `{mode}` does not have")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_that_no_mode_has_are_refused() {
        let refused = |own: Value| {
            let config =
                json!({"quantization": {"bits": 4, "group_size": 64, "model.layers.0.mlp.down_proj": own}});
            QuantizationSettings::read(&config, false, false).err().unwrap_or_default()
        };
        assert_eq!(refused(json!({"bits": 8, "group_size": 32})), "");
        assert_eq!(refused(json!({"bits": 4, "group_size": 16, "mode": "nvfp4"})), "");
        for own in [
            json!({"bits": 4, "group_size": 0}),
            json!({"bits": 4, "group_size": -64}),
            json!({"bits": 4, "group_size": 4_294_967_296_u64}),
            json!({"bits": 4_294_967_300_u64, "group_size": 64}),
            json!({"bits": 7, "group_size": 64}),
            json!({"bits": 4, "group_size": 64, "mode": "mxfp4"}),
            json!({"bits": "4", "group_size": 64}),
            json!({"bits": 4}),
        ] {
            let reason = refused(own.clone());
            assert!(reason.contains("`model.layers.0.mlp.down_proj`"), "{own}: {reason}");
        }
        let all =
            QuantizationSettings::read(&json!({"quantization": {"bits": 4, "group_size": 0}}), false, false);
        assert_eq!(
            all.err().unwrap_or_default(),
            "`quantization` has 4 bits in groups of 0, which the mode `affine` does not have"
        );
    }
}
