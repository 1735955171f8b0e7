//! The fused model's folder: the base's files, with the tensors that changed.

use crate::Quantized;
use anyhow::{Context, Result};
use mlx_rs::{Array, Dtype};
use models::{Layer, Model, TensorFiles, Weight, join, write_safetensors};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A weight file is cut when it grows beyond this.
const SHARD_BYTES: usize = 5_000_000_000;

/// Writes the base's folder with the parameters of `adapted`, adapters worked in. `trained` names the parameters that
/// an adapter folder brought; everything else keeps its bytes.
pub(crate) fn fused_folder(
    base: &Path,
    adapted: &mut Model,
    trained: &[String],
    quantized: Quantized,
    out: &Path,
) -> Result<()> {
    fs_err::create_dir_all(out)?;
    let stored = TensorFiles::open(base)?;
    let changes = Changes::collect(adapted, trained, quantized)?;
    let mut shards = Shards::default();
    for name in stored.names() {
        let plain = models::canonical_name(name);
        if changes.dropped.contains(&plain) {
            continue;
        }
        let array = match changes.replaced.get(&plain) {
            Some(array) => array.as_dtype(stored_type(&stored, name, array))?,
            None => stored.array(name)?,
        };
        shards.add(name, array);
    }
    shards.write(out)?;
    copy_other_files(base, out)?;
    let config = fused_config(base, quantized)?;
    let text = serde_json::to_string_pretty(&config).expect("plain JSON");
    Ok(fs_err::write(out.join("config.json"), text + "\n")?)
}

/// The type in which a changed tensor is written: that of the base's tensor or, where that is packed, of its scales.
fn stored_type(stored: &TensorFiles, name: &str, array: &Array) -> Dtype {
    if !array.dtype().is_float() {
        return array.dtype();
    }
    let scales = name.strip_suffix(".weight").map(|layer| format!("{layer}.scales"));
    let types = [Some(name), scales.as_deref()].into_iter().flatten().filter_map(|name| stored.dtype(name));
    types.into_iter().find(Dtype::is_float).unwrap_or(Dtype::Bfloat16)
}

/// What becomes of the base's tensors, by their canonical names.
#[derive(Default)]
struct Changes {
    replaced: BTreeMap<String, Array>,
    dropped: BTreeSet<String>,
}

impl Changes {
    fn collect(adapted: &mut Model, trained: &[String], quantized: Quantized) -> Result<Self> {
        let mut changes = Self::default();
        let is_trained = |name: &String| trained.binary_search(name).is_ok();
        let mut outcome = Ok(());
        adapted.visit(&mut |path, layer| {
            let name = join(path, "weight");
            let (weight, fused) = match layer {
                Layer::Norm(weight) => {
                    if is_trained(&name) {
                        changes.replaced.insert(name, weight.clone());
                    }
                    return;
                }
                Layer::Embedding(embedding) => (&embedding.weight, None),
                Layer::Linear(linear) => {
                    let bias = join(path, "bias");
                    if let Some(array) = linear.bias.as_ref().filter(|_| is_trained(&bias)) {
                        changes.replaced.insert(bias, array.clone());
                    }
                    (&linear.weight, linear.adapter.is_some().then(|| linear.fused_weight()))
                }
            };
            let done =
                fused.transpose().map_err(anyhow::Error::from).and_then(|fused| match (weight, fused) {
                    (Weight::Dense(dense), None) if is_trained(&name) => {
                        changes.replaced.insert(name, dense.clone());
                        Ok(())
                    }
                    (Weight::Dense(_), None) => Ok(()),
                    (Weight::Dense(_), Some(fused)) => {
                        changes.replaced.insert(name, fused);
                        Ok(())
                    }
                    (Weight::Quantized(_), fused) => changes.packed(path, weight, fused, quantized),
                });
            if let Err(error) = done {
                outcome = Err(error.context(format!("fusing `{path}`")));
            }
        });
        outcome.map(|()| changes)
    }

    /// Notes what becomes of a packed weight; `fused` is its dense form if an adapter changed it.
    fn packed(
        &mut self,
        path: &str,
        weight: &Weight,
        fused: Option<Array>,
        quantized: Quantized,
    ) -> Result<()> {
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

#[derive(Default)]
struct Shards(Vec<BTreeMap<String, Array>>);

impl Shards {
    fn add(&mut self, name: &str, array: Array) {
        let full = |shard: &BTreeMap<String, Array>| {
            shard.values().map(Array::nbytes).sum::<usize>() + array.nbytes() > SHARD_BYTES
        };
        if self.0.last().is_none_or(full) {
            self.0.push(BTreeMap::new());
        }
        let last = self.0.last_mut().expect("pushed above");
        last.insert(name.to_owned(), array);
    }

    /// One file, or numbered ones with an index.
    fn write(&self, out: &Path) -> Result<()> {
        if let [only] = &self.0[..] {
            return Ok(write_safetensors(&out.join("model.safetensors"), only)?);
        }
        let (count, mut map, mut bytes) = (self.0.len(), BTreeMap::new(), 0);
        for (index, shard) in self.0.iter().enumerate() {
            let file = format!("model-{:05}-of-{count:05}.safetensors", index + 1);
            write_safetensors(&out.join(&file), shard)?;
            bytes += shard.values().map(Array::nbytes).sum::<usize>();
            map.extend(shard.keys().map(|name| (name.clone(), file.clone())));
        }
        let index = json!({"metadata": {"total_size": bytes}, "weight_map": map});
        let text = serde_json::to_string_pretty(&index).expect("plain JSON");
        Ok(fs_err::write(out.join("model.safetensors.index.json"), text + "\n")?)
    }
}

/// Copies what belongs to the model beside its weights and `config.json`.
fn copy_other_files(base: &Path, out: &Path) -> Result<()> {
    for entry in fs_err::read_dir(base)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_weights = name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json");
        if path.is_file() && !is_weights && name != "config.json" {
            reflink_copy::reflink_or_copy(&path, out.join(&name))
                .with_context(|| format!("copying `{name}`"))?;
        }
    }
    Ok(())
}

fn fused_config(base: &Path, quantized: Quantized) -> Result<Value> {
    let path = base.join("config.json");
    let mut config: Value = serde_json::from_str(&fs_err::read_to_string(&path)?)
        .with_context(|| format!("reading `{}`", path.display()))?;
    if let (Quantized::Dequantize, Some(table)) = (quantized, config.as_object_mut()) {
        table.remove("quantization");
        table.remove("quantization_config");
    }
    Ok(config)
}
