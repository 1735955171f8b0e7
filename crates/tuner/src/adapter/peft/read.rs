//! Reading an adapter of PEFT into a model.

use std::collections::BTreeMap;
use std::path::Path;

use mlx_rs::{Array, Dtype};
use models::{Adapter, Layer, LayerMut, Model, TensorFiles, join};
use serde_json::Value;

use super::super::files::{check_names, without_layers};
use super::super::{Trainable, count};
use super::WEIGHTS;
use super::config::PeftConfig;
use super::names::{Name, Part};
use crate::error::{Error, Result};

/// Tensors of one adapted layer.
#[derive(Default)]
struct LayerTensors {
    /// The layer as transformers calls it.
    module: String,
    a: Option<Array>,
    b: Option<Array>,
    magnitude: Option<Array>,
}

/// Everything in the file of an adapter, by names in a model that is only text.
#[derive(Default)]
struct Tensors {
    layers: BTreeMap<String, LayerTensors>,
    /// Parameters that replace those of the base model.
    replaced: BTreeMap<String, Array>,
    problems: Vec<String>,
}

/// Reads the adapters in `folder` into `model`; `config` is the content of its `adapter_config.json`.
pub(in super::super) fn load(model: &mut Model, folder: &Path, config: &Value) -> Result<Trainable> {
    let config_path = folder.join("adapter_config.json");
    let config = PeftConfig::read(&config_path, config)?;
    let path = folder.join(WEIGHTS);
    if !path.is_file() {
        let hint = "older versions of PEFT wrote `adapter_model.bin`, a pickle file; save the adapter again with \
                    `save_pretrained(folder, safe_serialization=True)`";
        return Err(Error::Adapter {
            path: folder.to_owned(),
            reason: format!("there is no `{WEIGHTS}`"),
            hint: Some(hint.to_owned()),
        });
    }
    let mut tensors = Tensors::read(&path)?;
    check_targets(&config_path, &config, model)?;
    if tensors.is_empty() {
        let reason = "it has no tensors, so no layer of the model is adapted";
        return Err(without_layers(&path, reason.to_owned()));
    }
    tensors.check_saved(&config);
    let mut names = tensors.replace(model)?;
    names.extend(tensors.adapt(model, &config)?);
    let unplaced =
        tensors.layers.keys().map(|layer| format!("the model has no linear layer `{layer}`{}", about(layer)));
    let mut problems = tensors.problems;
    problems.extend(unplaced);
    if !problems.is_empty() {
        let hint = "give the base model that the adapter was trained on, or merge the adapter with \
                    `merge_and_unload()` in PEFT and import the merged model";
        return Err(Error::Adapter { path, reason: problems.join("\n"), hint: Some(hint.to_owned()) });
    }
    names.sort();
    Ok(count(model, names))
}

/// Warns about names of `target_modules` that match no layer of the model; like PEFT, fails if none matches.
fn check_targets(path: &Path, config: &PeftConfig<'_>, model: &Model) -> Result<()> {
    let layers = model.layers();
    let linear = layers.iter().filter(|(_, layer)| matches!(layer, Layer::Linear(_)));
    let linear: Vec<&str> = linear.map(|(path, _)| text_part(path)).collect();
    let (matched, unmatched) = config.matches(&linear);
    check_names(path, "target_modules", &unmatched, matched)
}

/// Returns what is special about a layer that the model lacks.
fn about(layer: &str) -> &'static str {
    let is_vision = ["vision", "visual", "audio", "projector"].iter().any(|part| layer.contains(part));
    match layer {
        "lm_head" => ": its head is the token embedding",
        _ if is_vision => ": only the text part of a multimodal model is loaded",
        _ => "",
    }
}

impl Tensors {
    fn read(path: &Path) -> Result<Self> {
        let mut tensors = Self::default();
        for (stored, array) in TensorFiles::open_file(path)?.arrays()? {
            let Some(name) = Name::parse(&stored) else {
                tensors
                    .problems
                    .push(format!("tensor `{stored}` does not belong to the adapter of a linear layer"));
                continue;
            };
            let array = array.as_dtype(Dtype::Float32)?;
            if let Part::Replaced(part) = name.part {
                tensors.insert_replaced(join(&name.layer, part), array)?;
                continue;
            }
            let layer = tensors.layers.entry(name.layer).or_default();
            layer.module = name.module;
            let slot = match name.part {
                Part::A => &mut layer.a,
                Part::B => &mut layer.b,
                _ => &mut layer.magnitude,
            };
            if slot.replace(array).is_some() {
                tensors.problems.push(format!("tensor `{stored}` is there twice, under two names"));
            }
        }
        Ok(tensors)
    }

    /// Returns whether the file is empty.
    fn is_empty(&self) -> bool {
        self.layers.is_empty() && self.replaced.is_empty() && self.problems.is_empty()
    }

    /// Adds a parameter, which may be stored twice with the same values.
    fn insert_replaced(&mut self, name: String, array: Array) -> Result<()> {
        if let Some(other) = self.replaced.get(&name)
            && !same(other, &array)?
        {
            self.problems.push(format!("`{name}` is there twice, with different values"));
        }
        self.replaced.insert(name, array);
        Ok(())
    }

    /// Records the modules that the config says are saved and that have no tensors.
    fn check_saved(&mut self, config: &PeftConfig<'_>) {
        for module in config.modules_to_save() {
            let is_of = |name: &String| {
                let path = name.rsplit_once('.').map_or(name.as_str(), |(path, _)| path);
                path == module || path.ends_with(&format!(".{module}"))
            };
            if !self.replaced.keys().any(is_of) {
                self.problems
                    .push(format!("`modules_to_save` names `{module}`, but there are no tensors for it"));
            }
        }
    }

    /// Replaces parameters of the base model and returns the names of those that are not its own any more.
    fn replace(&mut self, model: &mut Model) -> Result<Vec<String>> {
        self.check_tied_head(model)?;
        let mut changed = Vec::new();
        for (name, array) in model.parameters_mut() {
            let Some(value) = self.replaced.remove(text_part(&name)) else { continue };
            if !array.dtype().is_float() {
                self.problems.push(format!("`{name}` is quantized in this model, so it cannot be replaced"));
            } else if value.shape() != array.shape() {
                self.problems.push(format!(
                    "`{name}` has shape {:?} in the adapter and {:?} in the model",
                    value.shape(),
                    array.shape()
                ));
            } else if !same(&value.as_dtype(array.dtype())?, array)? {
                *array = value.as_dtype(array.dtype())?;
                changed.push(name);
            }
        }
        let left = std::mem::take(&mut self.replaced);
        self.problems.extend(left.into_keys().map(|name| format!("the model has no parameter `{name}`")));
        Ok(changed)
    }

    /// Records a head or embedding that was trained apart from the other in a model that has only one of them.
    fn check_tied_head(&mut self, model: &Model) -> Result<()> {
        if !model.has_tied_head() {
            return Ok(());
        }
        let parameters = model.parameters();
        let find = |path: &str| parameters.iter().find(|(name, _)| text_part(name) == path).map(|(_, it)| it);
        let Some(own) = find("model.embed_tokens.weight") else { return Ok(()) };
        let head = self.replaced.remove("lm_head.weight");
        let embedding = self.replaced.get("model.embed_tokens.weight");
        let or_own = |array: Option<&Array>| array.cloned().unwrap_or_else(|| own.clone());
        if !same(&or_own(head.as_ref()), &or_own(embedding))? {
            self.problems.push(
                "the adapter has a head and an embedding that differ, but in this model they are the same"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// Adds the adapters to the model's layers and returns the names of their parameters.
    fn adapt(&mut self, model: &mut Model, config: &PeftConfig<'_>) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for (path, layer) in model.layers_mut() {
            let LayerMut::Linear(linear) = layer else { continue };
            let Some(tensors) = self.layers.remove(text_part(&path)) else {
                if config.covers(text_part(&path)) {
                    self.problems
                        .push(format!("`target_modules` names `{path}`, but there are no tensors for it"));
                }
                continue;
            };
            match adapter(config, tensors, linear.inputs, linear.outputs) {
                Ok(adapter) => {
                    names.extend(["lora_a", "lora_b"].map(|name| join(&path, name)));
                    if adapter.magnitude.is_some() {
                        names.push(join(&path, "m"));
                    }
                    linear.adapter = Some(adapter);
                }
                Err(Reason::Text(reason)) => self.problems.push(format!("the adapter of `{path}` {reason}")),
                Err(Reason::Error(error)) => return Err(error),
            }
        }
        Ok(names)
    }
}

/// Returns the name of a parameter or layer in a model that is only text.
fn text_part(name: &str) -> &str {
    name.strip_prefix("language_model.").unwrap_or(name)
}

/// Returns whether two arrays have the same shape and values.
fn same(left: &Array, right: &Array) -> Result<bool> {
    if left.shape() != right.shape() {
        return Ok(false);
    }
    Ok(left.eq_values(right.as_dtype(left.dtype())?)?)
}

/// Why an adapter cannot be made.
enum Reason {
    /// The files are wrong.
    Text(String),
    /// MLX failed.
    Error(Error),
}

impl From<mlx_rs::error::Exception> for Reason {
    fn from(error: mlx_rs::error::Exception) -> Self {
        Self::Error(error.into())
    }
}

/// Makes the adapter of a linear layer with the given numbers of inputs and outputs.
fn adapter(
    config: &PeftConfig<'_>,
    tensors: LayerTensors,
    inputs: i32,
    outputs: i32,
) -> Result<Adapter, Reason> {
    let (Some(a), Some(b)) = (tensors.a, tensors.b) else {
        return Err(Reason::Text("has only one of `lora_A` and `lora_B`".to_owned()));
    };
    let rank = a.shape().first().copied().unwrap_or(0);
    if rank == 0 || a.shape() != [rank, inputs] || b.shape() != [outputs, rank] {
        return Err(Reason::Text(format!(
            "has shapes {:?} and {:?}, expected [rank, {inputs}] and [{outputs}, rank]",
            a.shape(),
            b.shape()
        )));
    }
    if let Some(told) = config.rank(&tensors.module).filter(|told| (told - f64::from(rank)).abs() > 0.5) {
        return Err(Reason::Text(format!("has rank {rank}, but the config says {told}")));
    }
    let magnitude = tensors.magnitude.map(|m| m.reshape(&[-1])).transpose()?;
    match &magnitude {
        None if config.flag("use_dora") => {
            return Err(Reason::Text("has no `lora_magnitude_vector`".to_owned()));
        }
        Some(m) if m.shape() != [outputs] => {
            return Err(Reason::Text(format!("has {} magnitudes, expected {outputs}", m.size())));
        }
        _ => {}
    }
    let scale = config.scale(&tensors.module, rank);
    Ok(Adapter {
        a: a.t().contiguous()?,
        b: b.t().contiguous()?,
        scale,
        magnitude,
        norms: None,
        dropout: None,
    })
}
