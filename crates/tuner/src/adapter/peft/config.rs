//! PEFT's `adapter_config.json`: an allow-list of its settings, and what they say about each layer.

use std::path::Path;

use regex::Regex;
use serde_json::{Map, Value};

use super::super::split_block;
use super::names::text_name;
use crate::error::{Error, Result};

/// Settings that are read, or that do not change what a finished adapter computes.
const KNOWN: &[&str] = &[
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    // Only for layers that PyTorch stores transposed, which none of these models has.
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_alpha",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "use_dora",
    "use_rslora",
];

/// Values of `init_lora_weights` that leave the base model as it is. Others (pissa, olora, corda, loftq, …) change it,
/// so that the adapter belongs to weights that its files do not hold.
const INITIALIZATIONS: [&str; 3] = ["eva", "gaussian", "orthogonal"];

/// Hint for an adapter that cannot be read here.
const MERGE: &str = "merge the adapter with `merge_and_unload()` in PEFT and import the merged model";

/// The settings of an adapter.
pub(super) struct PeftConfig<'a> {
    table: &'a Map<String, Value>,
    ranks: Patterns,
    alphas: Patterns,
    targets: Targets<'a>,
    layers: Option<Vec<u64>>,
}

/// Values for modules whose names match a pattern; the first match counts.
struct Patterns(Vec<(Regex, f64)>);

impl Patterns {
    fn read(table: &Map<String, Value>, name: &str) -> Result<Self, String> {
        let Some(patterns) = table.get(name).and_then(Value::as_object) else { return Ok(Self(Vec::new())) };
        let read = |(pattern, value): (&String, &Value)| {
            let number = number(value).ok_or_else(|| format!("`{name}` has {value} for `{pattern}`"))?;
            // PEFT matches the end of a module's name, from the start of a part of it.
            Ok::<_, String>((compile(name, pattern, r"^(.*\.)?(", ")$")?, number))
        };
        Ok(Self(patterns.iter().map(read).collect::<Result<_, String>>()?))
    }

    fn find(&self, module: &str) -> Option<f64> {
        self.0.iter().find(|(pattern, _)| pattern.is_match(module)).map(|(_, value)| *value)
    }
}

fn compile(name: &str, pattern: &str, before: &str, after: &str) -> Result<Regex, String> {
    Regex::new(&format!("{before}{pattern}{after}"))
        .map_err(|_| format!("`{name}` has the pattern `{pattern}`, which is not supported here"))
}

/// Which modules the config lists as adapted.
enum Targets<'a> {
    /// Names, or ends of names, as they are written and in a model that is only text.
    Names(Vec<(&'a str, String)>),
    /// Names that match.
    Pattern(Regex),
    /// All linear layers except the head.
    AllLinear,
    /// Exclusions are not read: only the tensors decide.
    Unknown,
}

impl<'a> PeftConfig<'a> {
    /// Reads the settings.
    ///
    /// # Errors
    ///
    /// Names every setting that would change the result and is not supported.
    pub(super) fn read(path: &Path, config: &'a Value) -> Result<Self> {
        let invalid =
            |reason: String| Error::Adapter { path: path.to_owned(), reason, hint: Some(MERGE.to_owned()) };
        let table = config.as_object().ok_or_else(|| invalid("is not a table".to_owned()))?;
        let kind = table.get("peft_type").and_then(Value::as_str).unwrap_or_default();
        if kind != "LORA" {
            return Err(Error::Adapter {
                path: path.to_owned(),
                reason: format!("`peft_type` is `{kind}`, which is not supported"),
                hint: Some(format!("{MERGE}, or train an adapter with `peft_type` `LORA`")),
            });
        }
        if let Some(reason) = wrong_number(table) {
            let hint = Some("write the number of the training, without quotes".to_owned());
            return Err(Error::Adapter { path: path.to_owned(), reason, hint });
        }
        let problems = problems(table);
        if !problems.is_empty() {
            return Err(invalid(problems.join("\n")));
        }
        Ok(Self {
            table,
            ranks: Patterns::read(table, "rank_pattern").map_err(invalid)?,
            alphas: Patterns::read(table, "alpha_pattern").map_err(invalid)?,
            targets: Targets::read(table),
            layers: table.get("layers_to_transform").and_then(numbers),
        })
    }

    /// Returns the rank of a module's adapter, if the config says it.
    pub(super) fn rank(&self, module: &str) -> Option<f64> {
        self.ranks.find(module).or_else(|| self.table.get("r")?.as_f64())
    }

    /// Returns the scale of a module's adapter: alpha / rank or alpha / √rank. PEFT's default for alpha is 8.
    pub(super) fn scale(&self, module: &str, rank: i32) -> f32 {
        let shared = || self.table.get("lora_alpha").and_then(Value::as_f64).unwrap_or(8.0);
        let alpha = self.alphas.find(module).unwrap_or_else(shared);
        let rank = f64::from(rank);
        (alpha / if self.flag("use_rslora") { rank.sqrt() } else { rank }) as f32
    }

    /// Returns a switch.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.table.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    /// Returns the modules that are saved whole.
    pub(super) fn modules_to_save(&self) -> Vec<&str> {
        let list = self.table.get("modules_to_save").and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// Returns whether the config lists the layer `layer` of a text model as adapted.
    pub(super) fn covers(&self, layer: &str) -> bool {
        let in_layers = self.layers.as_ref().is_none_or(|layers| {
            split_block(layer).is_some_and(|(index, _)| layers.contains(&(index as u64)))
        });
        in_layers && self.targets.contain(layer)
    }

    /// Returns how many names in `target_modules` match one of the layers, and the other names. Patterns do not count: they may
    /// be about the names of a multimodal model.
    pub(super) fn matches(&self, layers: &[&str]) -> (usize, Vec<&'a str>) {
        let Targets::Names(names) = &self.targets else { return (0, Vec::new()) };
        let is_known = |name: &String| layers.iter().any(|layer| ends_with(layer, name));
        let unmatched: Vec<&str> =
            names.iter().filter(|(_, name)| !is_known(name)).map(|(written, _)| *written).collect();
        (names.len() - unmatched.len(), unmatched)
    }
}

/// Returns whether `layer` is `name` or ends with it, from the start of a part.
fn ends_with(layer: &str, name: &str) -> bool {
    layer.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

impl<'a> Targets<'a> {
    fn read(table: &'a Map<String, Value>) -> Self {
        if ["exclude_modules", "layers_pattern"].iter().any(|name| table.get(*name).is_some_and(is_set)) {
            return Self::Unknown;
        }
        match table.get("target_modules") {
            Some(Value::Array(names)) => {
                let names = names.iter().filter_map(Value::as_str);
                Self::Names(names.map(|name| (name, text_name(name))).collect())
            }
            Some(Value::String(text)) if text == "all-linear" => Self::AllLinear,
            Some(Value::String(text)) => {
                compile("target_modules", text, "^(?:", ")$").map_or(Self::Unknown, Self::Pattern)
            }
            _ => Self::Unknown,
        }
    }

    fn contain(&self, layer: &str) -> bool {
        match self {
            Self::Names(names) => names.iter().any(|(_, name)| ends_with(layer, name)),
            Self::Pattern(pattern) => pattern.is_match(layer),
            Self::AllLinear => layer != "lm_head",
            Self::Unknown => false,
        }
    }
}

/// Returns a number that is finite in 32 bits.
fn number(value: &Value) -> Option<f64> {
    value.as_f64().filter(|&number| (number as f32).is_finite())
}

/// Describes an invalid rank or alpha. PEFT's defaults apply only if the key is absent.
fn wrong_number(table: &Map<String, Value>) -> Option<String> {
    let is_rank = |value: &Value| value.as_u64().is_some_and(|rank| rank >= 1);
    let wrong = |name: &str, expected: &str, is_right: &dyn Fn(&Value) -> bool| {
        let value = table.get(name).filter(|value| !is_right(value))?;
        Some(format!("`{name}` is `{value}`, expected {expected}"))
    };
    wrong("r", "a whole number from 1", &is_rank)
        .or_else(|| wrong("lora_alpha", "a finite number", &|value| number(value).is_some()))
}

/// Returns whether a setting is on: not null, false or empty.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(table) => !table.is_empty(),
        _ => true,
    }
}

fn problems(table: &Map<String, Value>) -> Vec<String> {
    let mut problems = Vec::new();
    let mut refuse =
        |name: &str, value: &Value, why: &str| problems.push(format!("`{name}` is `{value}`{why}"));
    for (name, value) in table.iter().filter(|(_, value)| is_set(value)) {
        match (name.as_str(), value) {
            ("init_lora_weights", Value::Bool(_)) => {}
            ("init_lora_weights", Value::String(text)) if INITIALIZATIONS.contains(&text.as_str()) => {}
            ("init_lora_weights", _) => {
                refuse(
                    name,
                    value,
                    ", so the adapter belongs to base weights that were changed before training",
                );
            }
            ("bias", Value::String(text)) if ["none", "all", "lora_only"].contains(&text.as_str()) => {}
            ("bias", _) => refuse(name, value, ", which is not supported"),
            _ if KNOWN.contains(&name.as_str()) => {}
            _ => refuse(name, value, ", which is not supported"),
        }
    }
    problems
}

fn numbers(value: &Value) -> Option<Vec<u64>> {
    match value {
        Value::Array(items) if !items.is_empty() => Some(items.iter().filter_map(Value::as_u64).collect()),
        Value::Number(number) => number.as_u64().map(|number| vec![number]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(config: &Value) -> PeftConfig<'_> {
        PeftConfig::read(Path::new("adapter_config.json"), config).expect("supported")
    }

    #[test]
    fn patterns_match_the_end_of_a_name_and_the_first_counts() {
        let config = json!({"peft_type": "LORA", "r": 8, "lora_alpha": 16,
            "alpha_pattern": {"layers.1.self_attn.q_proj": 4, "q_proj": 2, "model.*v_proj": 1}, "rank_pattern": {"^model.layers.0.*": 4}});
        let settings = read(&config);
        let scale = |module: &str| settings.scale(module, 1);
        assert!((scale("model.layers.1.self_attn.q_proj") - 4.0).abs() < 1e-6);
        assert!((scale("model.layers.2.self_attn.q_proj") - 2.0).abs() < 1e-6);
        assert!((scale("model.layers.2.self_attn.v_proj") - 1.0).abs() < 1e-6);
        assert!((scale("model.layers.2.mlp.xq_proj") - 16.0).abs() < 1e-6);
        assert_eq!(settings.rank("model.layers.0.mlp.up_proj"), Some(4.0));
        assert_eq!(settings.rank("model.layers.1.mlp.up_proj"), Some(8.0));
    }

    #[test]
    fn names_for_other_architectures_match_nothing() {
        let config =
            json!({"peft_type": "LORA", "target_modules": ["c_attn", "q_proj", "proj", "0.mlp.up_proj"]});
        let layers = ["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj"];
        assert_eq!(read(&config).matches(&layers), (2, vec!["c_attn", "proj"]));
    }

    #[test]
    fn targets_are_names_a_pattern_or_all() {
        let covers = |targets: Value, layer: &str| {
            let config =
                json!({"peft_type": "LORA", "target_modules": targets, "layers_to_transform": [0, 1]});
            read(&config).covers(layer)
        };
        let up = "model.layers.1.mlp.up_proj";
        assert!(covers(json!(["up_proj"]), up) && covers(json!("all-linear"), up));
        assert!(covers(json!(r".*\.(up|down)_proj"), up));
        assert!(!covers(json!(r".*\.q_proj"), up) && !covers(json!(["proj"]), up));
        assert!(!covers(json!("all-linear"), "model.layers.2.mlp.up_proj"));
    }
}
