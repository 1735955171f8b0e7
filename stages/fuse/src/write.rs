//! The folder of the fused model: the files of the base with the tensors that changed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use failure::{Context as _, Error, Result};
use mlx_rs::{Array, Dtype};
use models::{Layer, Model, TensorFiles, Weight, join};
use outputs::{ChatSettings, Document as _};
use serde_json::Value;
use tensors::{SHARD_BYTES, TensorLayout, shards, write_shards};

use crate::config::Quantized;
use crate::inputs::Inputs;
use crate::json::read_json;

/// Folder of a model's chat templates for other purposes, such as tools.
const TEMPLATES: &str = "additional_chat_templates";

/// Writes the folder of the base with the adapters of `adapted` merged in. `trained` lists the parameters that the adapter
/// folder replaces; all other tensors keep their bytes. Returns the names of the tensors that changed.
pub(crate) fn fused_folder(
    base: &Path,
    adapted: &Model,
    trained: &[String],
    quantized: Quantized,
    out: &Path,
) -> Result<BTreeSet<String>> {
    fs_err::create_dir_all(out)?;
    let stored = TensorFiles::open(base)?;
    let changes = Changes::collect(adapted, trained, quantized)?;
    let changed = changes.replaced.keys().chain(&changes.dropped).cloned().collect();
    let tensors = fused_tensors(&stored, changes)?;
    write_tensors(tensors, &stored, out)?;
    copy_other_files(base, out)?;
    let config = fused_config(base, quantized)?;
    let text = serde_json::to_string_pretty(&config).expect("JSON that was read can be written");
    fs_err::write(out.join("config.json"), text + "\n")?;
    Ok(changed)
}

/// A tensor of the fused model.
struct Tensor {
    layout: TensorLayout,
    /// Its new value, not evaluated yet; `None` for a tensor that keeps its bytes.
    changed: Option<Array>,
}

/// Returns the tensors of the fused model, sorted by name.
fn fused_tensors(stored: &TensorFiles, mut changes: Changes) -> models::Result<Vec<Tensor>> {
    let mut tensors = Vec::new();
    for name in stored.names() {
        let canonical = models::canonical_name(name);
        if changes.dropped.contains(&canonical) {
            continue;
        }
        let changed = match changes.replaced.remove(&canonical) {
            Some(array) => Some(array.as_dtype(stored_type(stored, name, &array))?),
            None => None,
        };
        let layout = if let Some(array) = &changed {
            models::layout_of(name, array)
        } else {
            let info = stored.info(name).expect("the name is one of the folder's");
            TensorLayout { name: name.to_owned(), dtype: info.dtype, shape: info.shape.clone() }
        };
        tensors.push(Tensor { layout, changed });
    }
    Ok(tensors)
}

/// Writes the weights, one tensor in memory at a time.
fn write_tensors(mut tensors: Vec<Tensor>, stored: &TensorFiles, out: &Path) -> Result<()> {
    let sizes: Vec<usize> = tensors.iter().map(|tensor| tensor.layout.bytes()).collect();
    let mut shards = shards(&sizes, SHARD_BYTES);
    for shard in &mut shards {
        // The order of the crate `safetensors`: the widest types first.
        shard.sort_by_key(|&index| (Reverse(tensors[index].layout.dtype), index));
    }
    let groups: Vec<Vec<TensorLayout>> = tensors.iter().map(|tensor| vec![tensor.layout.clone()]).collect();
    write_shards(out, &groups, &shards, |index, file| {
        // Taken out of the list: an array keeps its memory once it is evaluated.
        match tensors[index].changed.take() {
            Some(array) => mlx_ext::with_bytes(&array, |bytes| file.write(bytes))??,
            None => file.copy(stored.reader(&tensors[index].layout.name)?)?,
        }
        Ok::<(), Error>(())
    })
}

/// Returns the type in which a changed tensor is written: that of the base's tensor, or of its scales if it is quantized.
fn stored_type(stored: &TensorFiles, name: &str, array: &Array) -> Dtype {
    if !array.dtype().is_float() {
        return array.dtype();
    }
    let scales = name.strip_suffix(".weight").map(|layer| format!("{layer}.scales"));
    let mut types =
        [Some(name), scales.as_deref()].into_iter().flatten().filter_map(|name| stored.dtype(name));
    types.find(Dtype::is_float).unwrap_or(Dtype::Bfloat16)
}

/// Changes to the tensors of the base, by canonical name.
#[derive(Default)]
struct Changes {
    replaced: BTreeMap<String, Array>,
    dropped: BTreeSet<String>,
}

impl Changes {
    fn collect(adapted: &Model, trained: &[String], quantized: Quantized) -> Result<Self> {
        let mut changes = Self::default();
        for (path, layer) in adapted.layers() {
            let added = changes.add(&path, layer, trained, quantized);
            added.with_context(|| format!("fusing `{path}`"))?;
        }
        Ok(changes)
    }

    /// Adds the changes of the layer at `path`.
    fn add(
        &mut self,
        path: &str,
        layer: Layer<'_>,
        trained: &[String],
        quantized: Quantized,
    ) -> models::Result<()> {
        let is_trained = |name: &String| trained.binary_search(name).is_ok();
        let name = join(path, "weight");
        let (weight, fused) = match layer {
            Layer::Norm(norm) => {
                if is_trained(&name) {
                    self.replaced.insert(name, norm.weight.clone());
                }
                return Ok(());
            }
            Layer::Embedding(embedding) => (&embedding.weight, None),
            Layer::Linear(linear) => {
                let bias = join(path, "bias");
                if let Some(array) = linear.bias.as_ref().filter(|_| is_trained(&bias)) {
                    self.replaced.insert(bias, array.clone());
                }
                let fused = linear.adapter.is_some().then(|| linear.fused_weight()).transpose()?;
                (&linear.weight, fused)
            }
        };
        match (weight, fused) {
            (Weight::Dense(dense), None) if is_trained(&name) => {
                self.replaced.insert(name, dense.clone());
            }
            (Weight::Dense(_), None) => {}
            (Weight::Dense(_), Some(fused)) => {
                self.replaced.insert(name, fused);
            }
            (Weight::Quantized(_), fused) => self.add_quantized(path, weight, fused, quantized)?,
        }
        Ok(())
    }

    /// Adds the changes of a quantized weight; `fused` is its dense value if an adapter changed it.
    fn add_quantized(
        &mut self,
        path: &str,
        weight: &Weight,
        fused: Option<Array>,
        quantized: Quantized,
    ) -> models::Result<()> {
        let names = ["weight", "scales", "biases"].map(|part| join(path, part));
        match (weight, fused, quantized) {
            (Weight::Quantized(packed), Some(fused), Quantized::Requantize) => {
                self.replaced.extend(names.into_iter().zip(mlx_ext::quantize(&fused, packed.quantization)?));
            }
            (_, None, Quantized::Requantize) => {}
            (_, fused, _) => {
                let dense = fused.map_or_else(|| weight.dense(Dtype::Float32), Ok)?;
                let [name, scales, biases] = names;
                self.replaced.insert(name, dense);
                self.dropped.extend([scales, biases]);
            }
        }
        Ok(())
    }
}

/// Copies all files of the base except its weights and `config.json`.
pub(crate) fn copy_other_files(base: &Path, out: &Path) -> Result<()> {
    for entry in fs_err::read_dir(base)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name == TEMPLATES && path.is_dir() {
            copy_templates(&path, &out.join(&name))?;
        }
        let is_weights = name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json");
        if path.is_file() && !is_weights && name != "config.json" {
            artifact::share_file(&path, &out.join(&name))
                .with_context(|| format!("copying `{}`", path.display()))?;
        }
    }
    Ok(())
}

/// Copies the chat templates in `from`, a folder of them beside a model.
fn copy_templates(from: &Path, to: &Path) -> Result<()> {
    fs_err::create_dir_all(to)?;
    for entry in fs_err::read_dir(from)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        // Programs leave hidden files of the same ending behind.
        let is_hidden = name.to_string_lossy().starts_with('.');
        if path.is_file() && !is_hidden && path.extension().is_some_and(|ending| ending == "jinja") {
            artifact::share_file(&path, &to.join(name))
                .with_context(|| format!("copying `{}`", path.display()))?;
        }
    }
    Ok(())
}

/// Hands the chat settings of the dataset and the adapters on to the fused model in `folder`, and adds the end tokens to its
/// configurations, for programs that do not know those settings.
pub(crate) fn chat_settings(inputs: &Inputs<'_>, folder: &Path) -> Result<()> {
    let mut settings = ChatSettings::default();
    for source in [inputs.model, inputs.adapters, inputs.tokens].map(|source| source.join(ChatSettings::FILE))
    {
        if source.is_file() {
            let found = ChatSettings::read(&source)?;
            let known = std::mem::replace(&mut settings, found).end_tokens;
            settings.end_tokens.extend(known);
        }
    }
    settings.end_tokens.sort_unstable();
    settings.end_tokens.dedup();
    if settings.is_empty() {
        return Ok(());
    }
    let target = folder.join(ChatSettings::FILE);
    if target.exists() {
        fs_err::remove_file(&target)?;
    }
    settings.write(folder)?;
    for name in ["config.json", "generation_config.json"] {
        add_end_tokens(&folder.join(name), &folder.join("config.json"), &settings.end_tokens)?;
    }
    Ok(())
}

/// Adds end tokens to those that the configuration in `path` names, or that in `fallback` if it names none.
fn add_end_tokens(path: &Path, fallback: &Path, new: &[u32]) -> Result<()> {
    if new.is_empty() {
        return Ok(());
    }
    let mut config = if path.exists() { read_json(path)? } else { Value::Object(serde_json::Map::new()) };
    let mut tokens = end_tokens(&config);
    if tokens.is_empty() {
        tokens = end_tokens(&read_json(fallback)?);
    }
    tokens.extend(new.iter().filter(|token| !tokens.contains(token)).copied().collect::<Vec<_>>());
    config["eos_token_id"] = Value::from(tokens);
    let text = serde_json::to_string_pretty(&config).expect("JSON that was read can be written");
    // The file may be a copy without permission to write.
    if path.exists() {
        fs_err::remove_file(path)?;
    }
    Ok(fs_err::write(path, text + "\n")?)
}

fn end_tokens(config: &Value) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match &config["eos_token_id"] {
        Value::Array(list) => list.iter().filter_map(id).collect(),
        one => id(one).into_iter().collect(),
    }
}

/// Returns the `config.json` of the base, without its quantization if the fused model is dense.
fn fused_config(base: &Path, quantized: Quantized) -> Result<Value> {
    let mut config = read_json(&base.join("config.json"))?;
    if let (Quantized::Dequantize, Some(table)) = (quantized, config.as_object_mut()) {
        table.remove("quantization");
        table.remove("quantization_config");
    }
    Ok(config)
}
