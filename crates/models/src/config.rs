//! Reading `config.json`, whichever version of transformers wrote it.

use std::path::Path;

use serde_json::{Value, json};

use crate::error::{Error, Result};

/// Reads a `config.json`.
pub(crate) fn read(path: &Path) -> Result<Value> {
    if let Some(folder) = path.parent().filter(|_| !path.exists()) {
        check_no_adapter(folder)?;
    }
    let text = files::read_text(path, files::MAX_JSON_BYTES)?;
    if tensors::is_lfs_pointer(text.as_bytes()) {
        return Err(Error::LfsPointer { path: path.to_owned() });
    }
    let invalid = |reason| Error::Config { path: path.to_owned(), reason };
    let config: Value = serde_json::from_str(&text).map_err(|error| invalid(error.to_string()))?;
    match outside_of_floats(&config) {
        Some((key, number)) => Err(invalid(format!("`{key}` is {number:?}, which 32 bits cannot hold"))),
        None => Ok(config),
    }
}

/// Returns the first number that becomes zero or infinite in 32 bits, and its key.
fn outside_of_floats(value: &Value) -> Option<(String, f64)> {
    let below = |key: &str, value: &Value| {
        let (rest, number) = outside_of_floats(value)?;
        Some((if rest.is_empty() { key.to_owned() } else { format!("{key}.{rest}") }, number))
    };
    match value {
        Value::Number(number) => {
            let number = number.as_f64()?;
            let short = number as f32;
            let is_held = short.is_finite() && (short != 0.0 || number == 0.0);
            (!is_held).then(|| (String::new(), number))
        }
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(index, item)| below(&index.to_string(), item))
        }
        Value::Object(table) => table.iter().find_map(|(key, item)| below(key, item)),
        _ => None,
    }
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

/// Fails if a folder without a model holds an adapter, and names the adapter's base model.
pub(crate) fn check_no_adapter(folder: &Path) -> Result<()> {
    let path = folder.join("adapter_config.json");
    let Ok(text) = files::read_text(&path, files::MAX_JSON_BYTES) else { return Ok(()) };
    let config: Value = serde_json::from_str(&text).unwrap_or_default();
    Err(Error::IsAdapter { folder: folder.to_owned(), base: adapter_base(&config) })
}

/// Returns the base model that an `adapter_config.json` names.
pub fn adapter_base(config: &Value) -> Option<String> {
    let names = ["base_model_name_or_path", "model"].into_iter();
    names.filter_map(|name| config.get(name)?.as_str()).find(|name| !name.is_empty()).map(str::to_owned)
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
/// As in transformers, values in the rope table take precedence over those beside it, except for
/// `original_max_position_embeddings`. A `rope_parameters` with one table per kind of layer stays, and so does one that
/// contradicts `rope_scaling`. `rope_scaling` also gets the context lengths, which are beside it in the file.
pub(crate) fn normalized(config: &Value) -> Value {
    let Value::Object(mut table) = without_nulls(config) else { return config.clone() };
    if let Some(Value::Object(rope)) = table.get("rope_parameters").cloned() {
        let is_nested = rope.values().any(Value::is_object);
        let is_contradicted = table.get("rope_scaling").is_some_and(|old| *old != json!(rope));
        if !is_nested && !is_contradicted {
            table.remove("rope_parameters");
            table.insert("rope_scaling".to_owned(), Value::Object(rope));
        }
    }
    let is_table = table.get("rope_scaling").is_some_and(Value::is_object);
    if is_table && let Some(Value::Object(mut rope)) = table.remove("rope_scaling") {
        for name in ["rope_theta", "partial_rotary_factor"] {
            if let Some(value) = rope.get(name) {
                table.insert(name.to_owned(), value.clone());
            }
        }
        if let Some(trained) = table.get("original_max_position_embeddings") {
            rope.insert("original_max_position_embeddings".to_owned(), trained.clone());
        }
        if let Some(context) = table.get("max_position_embeddings") {
            rope.insert("max_position_embeddings".to_owned(), context.clone());
        }
        if !rope.is_empty() {
            table.insert("rope_scaling".to_owned(), Value::Object(rope));
        }
    }
    Value::Object(table)
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

/// Returns a setting whose null is a value: `default` if the table does not name it, `None` if it is null there.
pub(crate) fn or_if_absent<T>(table: &Value, name: &str, read: Option<T>, default: T) -> Option<T> {
    match table.get(name) {
        Some(value) if value.is_null() => None,
        _ => Some(read.unwrap_or(default)),
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
    use super::*;

    #[test]
    fn nulls_are_dropped() {
        assert_eq!(normalized(&json!({"a": null, "b": {"c": null, "d": 1}})), json!({"b": {"d": 1}}));
    }

    #[test]
    fn numbers_that_32_bits_cannot_hold_are_named() {
        let found = |config: &Value| outside_of_floats(config).map(|(key, _)| key);
        assert_eq!(
            found(&json!({"rope_scaling": {"factor": 1e-300}})).as_deref(),
            Some("rope_scaling.factor")
        );
        assert_eq!(found(&json!({"a": [1.0, {"b": -1e308}]})).as_deref(), Some("a.1.b"));
        assert_eq!(found(&json!({"a": 0, "b": 1e-7, "c": 1e38, "d": u64::MAX, "e": "1e308"})), None);
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
    fn values_in_the_rope_table_take_precedence_except_the_trained_context() {
        let both = json!({"rope_theta": 3.0, "original_max_position_embeddings": 7, "rope_parameters": {
            "rope_theta": 5.0, "original_max_position_embeddings": 9,
        }});
        assert_eq!(normalized(&both)["rope_theta"], 5.0);
        assert_eq!(normalized(&both)["rope_scaling"]["original_max_position_embeddings"], 7);
    }

    #[test]
    fn two_contradicting_rope_tables_both_stay() {
        let both = json!({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_theta": 5.0}});
        assert!(normalized(&both).get("rope_parameters").is_some());
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
