//! Reading `config.json`, whichever version of transformers wrote it.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Reads a `config.json`.
pub(crate) fn read(path: &Path) -> Result<Value> {
    let text = fs_err::read_to_string(path)?;
    if tensors::is_lfs_pointer(text.as_bytes()) {
        return Err(Error::LfsPointer { path: path.to_owned() });
    }
    serde_json::from_str(&text)
        .map_err(|error| Error::Config { path: path.to_owned(), reason: error.to_string() })
}

/// Returns whether the weights of a model folder are packed, by its `config.json`.
///
/// # Errors
///
/// Fails when the file cannot be read.
pub fn is_packed(folder: &Path) -> Result<bool> {
    let config = read(&folder.join("config.json"))?;
    let tables = ["quantization", "quantization_config"].map(|name| config.get(name));
    Ok(tables.into_iter().flatten().any(|table| !table.is_null()))
}

/// Returns the number of positions that the model at `path`, a `config.json`, was made for; `None` if it does not say.
///
/// # Errors
///
/// Fails when the file is missing or not JSON.
pub fn context_length(path: &Path) -> Result<Option<usize>> {
    let config = read(path)?;
    let length = text_part(&config).0.get("max_position_embeddings").and_then(Value::as_u64);
    Ok(length.map(|length| length as usize).filter(|&length| length > 0))
}

/// Returns the table that describes the text model, and the path of the text model's tensors.
pub(crate) fn text_part(config: &Value) -> (&Value, &'static str) {
    match config.get("text_config").filter(|text| !text.is_null()) {
        Some(text) => (text, "language_model"),
        None => (config, ""),
    }
}

/// Normalizes the table that describes a text model: drops nulls, and moves the `rope_parameters` of transformers 5 to
/// where transformers 4 had them.
///
/// A `rope_parameters` with one table per kind of layer stays. `rope_scaling` also gets the context lengths, which are
/// beside it in the file.
pub(crate) fn normalized(config: &Value) -> Value {
    let Value::Object(mut table) = without_nulls(config) else { return config.clone() };
    if let Some(Value::Object(rope)) = table.remove("rope_parameters") {
        if rope.values().any(Value::is_object) {
            table.insert("rope_parameters".to_owned(), Value::Object(rope));
        } else {
            fill(&mut table, &rope, &["rope_theta", "partial_rotary_factor"]);
            table.entry("rope_scaling").or_insert(Value::Object(rope));
        }
    }
    if let Some(Value::Object(mut rope)) = table.remove("rope_scaling") {
        fill(&mut rope, &table, &["original_max_position_embeddings", "max_position_embeddings"]);
        table.insert("rope_scaling".to_owned(), Value::Object(rope));
    }
    Value::Object(table)
}

/// Copies values that `table` lacks.
fn fill(table: &mut Map<String, Value>, from: &Map<String, Value>, names: &[&str]) {
    for &name in names {
        if let (false, Some(value)) = (table.contains_key(name), from.get(name)) {
            table.insert(name.to_owned(), value.clone());
        }
    }
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(table) => Value::Object(
            table
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(name, value)| (name.clone(), without_nulls(value)))
                .collect(),
        ),
        other => other.clone(),
    }
}

/// Returns for each layer whether it has a sliding window: as `types` lists it, else as `otherwise` decides.
///
/// # Errors
///
/// Fails when the list has another length or names an unknown kind of attention.
pub(crate) fn local_layers(
    layers: usize,
    types: Option<&[String]>,
    otherwise: impl Fn(usize) -> bool,
) -> Result<Vec<bool>, String> {
    let Some(types) = types else { return Ok((0..layers).map(otherwise).collect()) };
    if types.len() != layers {
        return Err(format!("`layer_types` lists {} layers, `num_hidden_layers` is {layers}", types.len()));
    }
    let is_local = |kind: &String| match kind.as_str() {
        "full_attention" => Ok(false),
        "sliding_attention" => Ok(true),
        other => Err(format!("layer type `{other}` is not supported")),
    };
    types.iter().map(is_local).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nulls_are_dropped() {
        assert_eq!(normalized(&json!({"a": null, "b": {"c": null, "d": 1}})), json!({"b": {"d": 1}}));
    }

    #[test]
    fn rope_parameters_are_read_as_rope_theta_and_rope_scaling() {
        let new = json!({"max_position_embeddings": 9, "rope_parameters": {
            "rope_type": "linear", "factor": 2.0, "rope_theta": 5.0, "partial_rotary_factor": 0.5,
        }});
        let table = normalized(&new);
        assert_eq!(table["rope_theta"], 5.0);
        assert_eq!(table["partial_rotary_factor"], 0.5);
        assert_eq!(table["rope_scaling"]["factor"], 2.0);
        assert_eq!(table["rope_scaling"]["max_position_embeddings"], 9);
    }

    #[test]
    fn a_value_beside_rope_parameters_takes_precedence() {
        let both = json!({"rope_theta": 3.0, "rope_parameters": {"rope_theta": 5.0}});
        assert_eq!(normalized(&both)["rope_theta"], 3.0);
    }

    #[test]
    fn layer_types_take_precedence_over_the_pattern() {
        let types = ["sliding_attention", "full_attention"].map(str::to_owned);
        assert_eq!(local_layers(2, Some(&types), |_| true), Ok(vec![true, false]));
        assert_eq!(local_layers(2, None, |layer| layer > 0), Ok(vec![false, true]));
        assert!(local_layers(3, Some(&types), |_| true).is_err());
        assert!(local_layers(1, Some(&["linear_attention".to_owned()]), |_| true).is_err());
    }
}
