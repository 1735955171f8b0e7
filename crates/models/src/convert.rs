//! Quantizes or dequantizes the weights of a model folder.
//!
//! As in mlx-lm's convert, every linear layer and embedding whose width is a multiple of the group size is quantized, and
//! the vision part of a multimodal model is left out. Only one tensor is in memory at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mlx_ext::{PackedWeight, Quantization, QuantizationMode};
use mlx_rs::{Array, Dtype as Mlx};
use serde_json::{Map, Value, json};
use tensors::{Dtype, SHARD_BYTES, TensorInfo, TensorLayout, TensorWriter, shards, write_shards};

use crate::config;
use crate::error::{Error, Result};
use crate::quantization::checked;
use crate::quantize::Quantize;
use crate::weights::{TensorFiles, canonical_name};

/// Hint for files that contradict each other.
const GET_AGAIN: &str = "take config.json and weights from the same model";

/// Prefixes of the names of a multimodal model's vision tensors.
const VISION_PREFIXES: [&str; 2] = ["vision_tower.", "multi_modal_projector."];

/// Change of the weights of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conversion {
    /// Quantizes every linear layer and embedding.
    Quantize(Quantize),
    /// Dequantizes all quantized weights.
    Dequantize,
}

/// Writes the `config.json` and the weights of `shards` into `out`, converted; one tensor is in memory at a time.
///
/// # Errors
///
/// Fails when the weights are already as the conversion would make them, when none can be quantized, and when files
/// contradict each other.
pub fn convert(config_path: &Path, shards: &[&Path], conversion: &Conversion, out: &Path) -> Result<()> {
    let (mut config, files) = open(config_path, shards)?;
    let plan = Plan::new(config_path, &config, &files, conversion)?;
    plan.check_quantized(config_path, conversion)?;
    plan.write(out)?;
    config.remove("vision_config");
    config.remove("quantization");
    config.remove("quantization_config");
    if let Conversion::Quantize(Quantize { bits, group_size, mode }) = conversion {
        let table = json!({ "group_size": group_size, "bits": bits, "mode": mode });
        config.insert("quantization".into(), table.clone());
        config.insert("quantization_config".into(), table);
    }
    let text = serde_json::to_string_pretty(&config).expect("JSON that was read can be written");
    Ok(fs_err::write(out.join("config.json"), text + "\n")?)
}

/// Returns how many bytes of tensors [`convert`] writes; reads only the headers of `shards`.
///
/// # Errors
///
/// Fails when the weights are already as the conversion would make them, and when files contradict each other.
pub fn converted_bytes(config_path: &Path, shards: &[&Path], conversion: &Conversion) -> Result<u64> {
    let (config, files) = open(config_path, shards)?;
    Ok(Plan::new(config_path, &config, &files, conversion)?.sizes().iter().map(|&bytes| bytes as u64).sum())
}

/// Reads the settings and opens the weights of a model.
fn open(config_path: &Path, shards: &[&Path]) -> Result<(Map<String, Value>, Vec<TensorFiles>)> {
    let Value::Object(config) = config::read(config_path)? else {
        return Err(unusable(config_path, "this is not a table".to_owned(), GET_AGAIN.to_owned()));
    };
    let files = shards.iter().map(|path| TensorFiles::open_file(path)).collect::<Result<Vec<_>>>()?;
    Ok((config, files))
}

/// The change of one stored tensor.
enum Step {
    Copy,
    Quantize(Quantization),
    /// Scales and biases can be in other files.
    Dequantize(Quantization, Mlx),
}

/// A stored tensor and its change.
struct Planned<'a> {
    file: &'a TensorFiles,
    stored: String,
    step: Step,
}

/// All tensors to write, in the order of their stored names.
struct Plan<'a> {
    /// The file of each stored tensor.
    home: BTreeMap<String, &'a TensorFiles>,
    tensors: Vec<Planned<'a>>,
    /// Layouts of the tensors that are made from each of `tensors`.
    outputs: Vec<Vec<TensorLayout>>,
}

impl<'a> Plan<'a> {
    fn new(
        config_path: &Path,
        config: &Map<String, Value>,
        files: &'a [TensorFiles],
        conversion: &Conversion,
    ) -> Result<Self> {
        let names = |file: &'a TensorFiles| file.names().map(move |name| (name.to_owned(), file));
        let home: BTreeMap<String, &TensorFiles> = files.iter().flat_map(names).collect();
        let quantized: BTreeSet<String> =
            home.keys().filter_map(|name| name.strip_suffix(".scales")).map(str::to_owned).collect();
        check_applicable(config_path, conversion, !quantized.is_empty())?;
        let tied = ties_embeddings(config);
        let mut plan = Self { home, tensors: Vec::new(), outputs: Vec::new() };
        for (stored, &file) in &plan.home {
            let name = canonical_name(stored);
            if is_left_out(&name, tied) {
                continue;
            }
            let info = file.info(stored).expect("the name is one of the file's");
            let step = match (conversion, stored.rsplit_once('.')) {
                (_, Some((path, "scales" | "biases"))) if quantized.contains(path) => continue,
                (Conversion::Quantize(settings), Some((_, "weight"))) => quantize_step(info, settings),
                (Conversion::Dequantize, Some((path, "weight"))) if quantized.contains(path) => {
                    plan.dequantize_step(config, path, info).map_err(|reason| {
                        unusable(config_path, format!("tensor `{stored}` {reason}"), GET_AGAIN.to_owned())
                    })?
                }
                _ => Step::Copy,
            };
            plan.outputs.push(outputs(&name, info, &step));
            plan.tensors.push(Planned { file, stored: stored.clone(), step });
        }
        plan.check_names(config_path)?;
        Ok(plan)
    }

    /// Returns how to dequantize the layer `path`.
    fn dequantize_step(
        &self,
        config: &Map<String, Value>,
        path: &str,
        weight: &TensorInfo,
    ) -> Result<Step, String> {
        let scales = format!("{path}.scales");
        let settings = stored_settings(config, &canonical_name(path), weight, self.info(&scales))?;
        let dtype = if settings.mode.has_biases() {
            file_dtype(self.home[&scales], &scales)
        } else {
            self.float_type()
        };
        Ok(Step::Dequantize(settings, dtype))
    }

    fn info(&self, name: &str) -> &TensorInfo {
        self.home[name].info(name).expect("the name is one of the file's")
    }

    /// Returns the type of the floats that are not quantized, such as norms; small float formats are dequantized to it.
    fn float_type(&self) -> Mlx {
        let plain =
            self.home.iter().filter(|(name, _)| !name.ends_with(".scales") && !name.ends_with(".biases"));
        let mut types = plain.map(|(name, file)| file_dtype(file, name));
        types.find(Mlx::is_float).unwrap_or(Mlx::Bfloat16)
    }

    /// Fails when a quantization would change no tensor, and reports the matrices that stay as they are.
    fn check_quantized(&self, config_path: &Path, conversion: &Conversion) -> Result<()> {
        let Conversion::Quantize(Quantize { group_size, .. }) = conversion else { return Ok(()) };
        let is_packed = |planned: &&Planned<'_>| matches!(planned.step, Step::Quantize(_));
        let packed = self.tensors.iter().filter(is_packed).count();
        let matrices: Vec<_> = self
            .tensors
            .iter()
            .filter_map(|planned| match self.info(&planned.stored).shape[..] {
                [_, width] => Some(width),
                _ => None,
            })
            .collect();
        let left = matrices.len() - packed;
        if packed > 0 {
            if left > 0 {
                tracing::warn!(
                    "{left} of {} matrices stay as they are: their widths are not multiples of the group size {group_size}",
                    matrices.len()
                );
            }
            return Ok(());
        }
        let fitting =
            [128, 64, 32].into_iter().filter(|size| matrices.iter().any(|width| width.is_multiple_of(*size)));
        let hint = match fitting.map(|size| size.to_string()).collect::<Vec<_>>() {
            sizes if sizes.is_empty() => "use the model without `quantize`".to_owned(),
            sizes => {
                format!(
                    "set `quantize.group_size` to {}, or use the model without `quantize`",
                    sizes.join(" or ")
                )
            }
        };
        let reason = format!(
            "nothing can be quantized: no width of a matrix is a multiple of the group size {group_size}"
        );
        Err(unusable(config_path, reason, hint))
    }

    /// Fails when two stored tensors have the same canonical name.
    fn check_names(&self, config_path: &Path) -> Result<()> {
        let mut names = BTreeSet::new();
        let repeated = self.outputs.iter().flatten().find(|output| !names.insert(&output.name));
        match repeated {
            Some(output) => {
                let reason = format!("two tensors of the weights are called `{}`", output.name);
                Err(unusable(config_path, reason, GET_AGAIN.to_owned()))
            }
            None => Ok(()),
        }
    }

    /// Returns the bytes that are made from each stored tensor.
    fn sizes(&self) -> Vec<usize> {
        self.outputs.iter().map(|outputs| outputs.iter().map(TensorLayout::bytes).sum()).collect()
    }

    fn write(&self, out: &Path) -> Result<()> {
        write_shards(out, &self.outputs, &shards(&self.sizes(), SHARD_BYTES), |index, file| {
            self.write_tensor(&self.tensors[index], file)
        })
    }

    /// Writes the tensors that are made from one stored tensor.
    fn write_tensor(&self, planned: &Planned<'_>, file: &mut TensorWriter) -> Result<()> {
        let Planned { file: source, stored, step } = planned;
        let arrays = match step {
            Step::Copy => return Ok(file.write(&source.bytes(stored)?)?),
            Step::Quantize(settings) => {
                let weight = source.array(stored)?;
                mlx_ext::quantize(&weight, *settings)?
            }
            Step::Dequantize(settings, dtype) => {
                let path = stored.strip_suffix(".weight").expect("only weights are dequantized");
                let scales = self.array(&format!("{path}.scales"))?;
                let biases = settings.mode.has_biases().then(|| self.array(&format!("{path}.biases")));
                let weight = source.array(stored)?;
                let biases = biases.transpose()?;
                let packed = PackedWeight { weight: &weight, scales: &scales, biases: biases.as_ref() };
                vec![mlx_ext::dequantize(packed, *settings, *dtype)?]
            }
        };
        for array in &arrays {
            file.write(&mlx_ext::bytes_of(array)?)?;
        }
        Ok(())
    }

    fn array(&self, name: &str) -> Result<Array> {
        let file = self.home.get(name).ok_or_else(|| {
            unusable(Path::new(name), "the tensor is missing".to_owned(), GET_AGAIN.to_owned())
        })?;
        file.array(name)
    }
}

/// Fails when the weights are already as the conversion would make them.
fn check_applicable(config_path: &Path, conversion: &Conversion, is_quantized: bool) -> Result<()> {
    let (reason, hint) = match conversion {
        Conversion::Quantize(_) if is_quantized => (
            "the weights are quantized already",
            "import the model with `dequantize = true`, then quantize the result",
        ),
        Conversion::Dequantize if !is_quantized => {
            ("the weights are not quantized", "remove `dequantize` from the settings")
        }
        _ => return Ok(()),
    };
    Err(unusable(config_path, reason.to_owned(), hint.to_owned()))
}

fn unusable(path: &Path, reason: String, hint: String) -> Error {
    Error::Conversion { path: path.to_owned(), reason, hint }
}

fn ties_embeddings(config: &Map<String, Value>) -> bool {
    let ties = |table: &Map<String, Value>| table.get("tie_word_embeddings") == Some(&Value::Bool(true));
    ties(config) || config.get("text_config").and_then(Value::as_object).is_some_and(ties)
}

/// Returns whether a tensor is not written: the vision part, and a stored head that no model reads since it is tied.
fn is_left_out(name: &str, tied: bool) -> bool {
    let rest = name.strip_prefix("model.").unwrap_or(name);
    VISION_PREFIXES.iter().any(|prefix| rest.starts_with(prefix)) || (tied && name.contains("lm_head."))
}

fn file_dtype(file: &TensorFiles, name: &str) -> Mlx {
    file.dtype(name).unwrap_or(Mlx::Bool)
}

/// Quantizes float matrices whose width is a multiple of the group size; copies norms, biases and everything else.
fn quantize_step(info: &TensorInfo, settings: &Quantize) -> Step {
    let is_float = matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16);
    let group_size = settings.group_size as usize;
    let fits = matches!(info.shape[..], [_, width] if width > 0 && width.is_multiple_of(group_size));
    if !is_float || !fits {
        return Step::Copy;
    }
    Step::Quantize(settings.quantization().expect("the settings were checked"))
}

/// Returns the settings of a quantized layer: mode and group size from `config.json`, bits from the shapes of its tensors.
fn stored_settings(
    config: &Map<String, Value>,
    path: &str,
    weight: &TensorInfo,
    scales: &TensorInfo,
) -> Result<Quantization, String> {
    let table =
        ["quantization", "quantization_config"].into_iter().find_map(|name| config.get(name)?.as_object());
    let table = table.ok_or("is quantized, but `config.json` has no `quantization`")?;
    let own = table.get(path).and_then(Value::as_object);
    let find = |name: &str| own.and_then(|own| own.get(name)).or_else(|| table.get(name));
    // A layer's own table does not inherit the mode; without one it is affine.
    let mode = own.unwrap_or(table).get("mode").and_then(Value::as_str).unwrap_or("affine");
    let mode = QuantizationMode::from_name(mode).ok_or_else(|| format!("has the unknown mode `{mode}`"))?;
    let group_size = find("group_size").ok_or("has no `group_size` in `config.json`")?;
    let mismatch = || format!("does not match its scales in groups of {group_size}");
    let groups_of = group_size.as_u64().and_then(|size| usize::try_from(size).ok()).ok_or_else(mismatch)?;
    let last = |info: &TensorInfo| info.shape.last().copied().unwrap_or(0);
    let width = last(scales).checked_mul(groups_of).filter(|&width| width > 0).ok_or_else(mismatch)?;
    let packed_bits = last(weight).checked_mul(32).filter(|bits| bits.is_multiple_of(width));
    let bits = packed_bits.and_then(|bits| i32::try_from(bits / width).ok());
    let Some(bits) = bits.filter(|_| weight.shape.len() == 2) else { return Err(mismatch()) };
    let group_size = i32::try_from(groups_of).map_err(|_| mismatch())?;
    checked(Quantization { bits, group_size, mode })
}

/// Returns the tensors that a step makes.
fn outputs(name: &str, info: &TensorInfo, step: &Step) -> Vec<TensorLayout> {
    let output = |name: String, dtype: Dtype, shape: Vec<usize>| TensorLayout { name, dtype, shape };
    let path = name.strip_suffix(".weight").unwrap_or(name);
    match step {
        Step::Copy => vec![output(name.to_owned(), info.dtype, info.shape.clone())],
        Step::Dequantize(settings, dtype) => {
            let dtype = match dtype {
                Mlx::Float32 => Dtype::F32,
                Mlx::Float16 => Dtype::F16,
                _ => Dtype::BF16,
            };
            let width = info.shape[1] * 32 / settings.bits as usize;
            vec![output(name.to_owned(), dtype, vec![info.shape[0], width])]
        }
        Step::Quantize(settings) => {
            let (rows, columns) = (info.shape[0], info.shape[1]);
            let groups = vec![rows, columns / settings.group_size as usize];
            let packed = vec![rows, columns * settings.bits as usize / 32];
            let mut outputs = vec![output(name.to_owned(), Dtype::U32, packed)];
            if settings.mode.has_biases() {
                outputs.push(output(format!("{path}.scales"), info.dtype, groups.clone()));
                outputs.push(output(format!("{path}.biases"), info.dtype, groups));
            } else {
                outputs.push(output(format!("{path}.scales"), Dtype::U8, groups));
            }
            outputs
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_group_sizes_that_no_mode_has_are_refused() {
        let info =
            |dtype, shape: [usize; 2]| TensorInfo { dtype, shape: shape.to_vec(), data_offsets: (0, 0) };
        let read = |group_size: Value, groups: usize| {
            let config = json!({"quantization": {"bits": 4, "group_size": group_size}});
            let (weight, scales) = (info(Dtype::U32, [8, 16]), info(Dtype::F16, [8, groups]));
            stored_settings(config.as_object().expect("a table"), "a", &weight, &scales)
        };
        assert_eq!(read(json!(64), 2).map(|found| (found.bits, found.group_size)), Ok((4, 64)));
        for (group_size, groups) in [
            (json!(0), 2),
            (json!(-64), 2),
            (json!(4_294_967_360_u64), 2),
            (json!(u64::MAX), 3),
            (json!(16), 8),
            (json!("64"), 2),
        ] {
            let refused = read(group_size.clone(), groups);
            assert!(refused.is_err(), "{group_size}: {refused:?}");
        }
    }
}
