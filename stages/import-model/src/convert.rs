//! Packs and unpacks weights while they are imported: the only part of this stage that uses MLX.
//!
//! As mlx-lm's convert does it: every linear map and every embedding whose width is a multiple of the group size is
//! packed, the vision part of a multimodal folder is left out. Tensors go through memory one at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

use mlx_ext::{Quantization, QuantizationMode};
use mlx_rs::{Array, Dtype as Mlx};
use models::{TensorFiles, canonical_name};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::{Map, Value, json};

use crate::conversion::{Conversion, Quantize};
use crate::error::Error;
use crate::files::read_json;
use crate::weights::INDEX;

/// A weight file is cut before it grows beyond this.
const SHARD_BYTES: usize = 5_000_000_000;
/// What the vision part of a multimodal folder is called.
const VISION: [&str; 2] = ["vision_tower.", "multi_modal_projector."];

/// Reads `config.json` and the weight files `shards`, and writes both anew into `out`.
pub(crate) fn write(
    config_path: &Path,
    shards: &[&Path],
    conversion: &Conversion,
    out: &Path,
) -> Result<(), Error> {
    mlx_ext::init(&mlx_ext::Options::default()).map_err(models::Error::from)?;
    let mut config: Map<String, Value> = read_json(config_path, 16 << 20)?;
    let files = shards.iter().map(|path| TensorFiles::open_file(path)).collect::<Result<Vec<_>, _>>()?;
    let plan = Plan::new(config_path, &config, &files, conversion)?;
    plan.write(out)?;
    config.remove("vision_config");
    config.remove("quantization");
    config.remove("quantization_config");
    if let Conversion::Quantize(Quantize { bits, group_size, mode }) = conversion {
        let table = json!({ "group_size": group_size, "bits": bits, "mode": mode });
        config.insert("quantization".into(), table.clone());
        config.insert("quantization_config".into(), table);
    }
    let text = serde_json::to_string_pretty(&config).expect("it was read as JSON");
    Ok(fs_err::write(out.join("config.json"), text + "\n")?)
}

/// What becomes of one stored tensor.
enum Step {
    Copy,
    Quantize(Quantization),
    /// Its scales and biases stand beside it, in whatever file.
    Dequantize(Quantization, Mlx),
}

/// A stored tensor and all that is made of it.
struct Planned<'a> {
    file: &'a TensorFiles,
    stored: String,
    step: Step,
    /// Name, type and shape of each result.
    results: Vec<(String, Dtype, Vec<usize>)>,
}

impl Planned<'_> {
    fn nbytes(&self) -> usize {
        let bits = |(_, dtype, shape): &(String, Dtype, Vec<usize>)| {
            shape.iter().product::<usize>() * dtype.bitsize() / 8
        };
        self.results.iter().map(bits).sum()
    }
}

struct Plan<'a> {
    home: BTreeMap<String, &'a TensorFiles>,
    tensors: Vec<Planned<'a>>,
}

impl<'a> Plan<'a> {
    fn new(
        config_path: &Path,
        config: &Map<String, Value>,
        files: &'a [TensorFiles],
        conversion: &Conversion,
    ) -> Result<Self, Error> {
        let home: BTreeMap<String, &TensorFiles> =
            files.iter().flat_map(|file| file.names().map(move |name| (name.to_owned(), file))).collect();
        let bad = |reason: String, hint: &str| Error::Layout {
            place: config_path.display().to_string(),
            reason,
            hint: hint.to_owned(),
        };
        let packed: BTreeSet<String> =
            home.keys().filter_map(|name| name.strip_suffix(".scales")).map(str::to_owned).collect();
        match conversion {
            Conversion::Quantize(_) if !packed.is_empty() => {
                return Err(bad(
                    "the weights are quantized already".to_owned(),
                    "import it with `dequantize = true`, and quantize the result",
                ));
            }
            Conversion::Dequantize if packed.is_empty() => {
                return Err(bad("nothing in it is quantized".to_owned(), "leave out `dequantize`"));
            }
            _ => {}
        }
        let tied = is_true(config, "tie_word_embeddings")
            || config
                .get("text_config")
                .and_then(Value::as_object)
                .is_some_and(|text| is_true(text, "tie_word_embeddings"));
        let mut plan = Self { home, tensors: Vec::new() };
        let plain = plan.float_type();
        for (stored, &file) in &plan.home {
            let name = canonical_name(stored);
            let rest = name.strip_prefix("model.").unwrap_or(&name);
            let is_vision = VISION.iter().any(|part| rest.starts_with(part));
            // A tied head that is stored all the same would be packed twice, and nobody reads it.
            let is_second_head = tied && name.contains("lm_head.");
            if is_vision || is_second_head {
                continue;
            }
            let layer = stored.rsplit_once('.');
            if layer.is_some_and(|(path, part)| packed.contains(path) && matches!(part, "scales" | "biases"))
            {
                continue;
            }
            let info = file.info(stored).expect("the name came from it");
            let step = match (conversion, layer) {
                (Conversion::Quantize(settings), Some((_, "weight"))) => packing(info, settings),
                (Conversion::Dequantize, Some((path, "weight"))) if packed.contains(path) => {
                    let scales = plan.info(&format!("{path}.scales"));
                    let settings =
                        stored_settings(config, &canonical_name(path), info, scales).map_err(|reason| {
                            bad(format!("tensor `{stored}` {reason}"), crate::error::GET_AGAIN)
                        })?;
                    let dtype = if settings.mode.has_biases() {
                        file_dtype(plan.home[&format!("{path}.scales")], &format!("{path}.scales"))
                    } else {
                        plain
                    };
                    Step::Dequantize(settings, dtype)
                }
                _ => Step::Copy,
            };
            let results = results(&name, info, &step);
            plan.tensors.push(Planned { file, stored: stored.clone(), step, results });
        }
        Ok(plan)
    }

    fn info(&self, name: &str) -> &TensorInfo {
        self.home[name].info(name).expect("the name came from it")
    }

    /// The type of the plain floats, such as norms: what small packed floats unpack to.
    fn float_type(&self) -> Mlx {
        let plain =
            self.home.iter().filter(|(name, _)| !name.ends_with(".scales") && !name.ends_with(".biases"));
        let mut types = plain.map(|(name, file)| file_dtype(file, name));
        types.find(Mlx::is_float).unwrap_or(Mlx::Bfloat16)
    }

    /// One file, or numbered ones with an index.
    fn write(&self, out: &Path) -> Result<(), Error> {
        let shards = self.shards();
        if let [only] = &shards[..] {
            return self.write_shard(&out.join("model.safetensors"), only);
        }
        let (count, mut map, mut bytes) = (shards.len(), BTreeMap::new(), 0);
        for (index, shard) in shards.iter().enumerate() {
            let file = format!("model-{:05}-of-{count:05}.safetensors", index + 1);
            self.write_shard(&out.join(&file), shard)?;
            for planned in *shard {
                bytes += planned.nbytes();
                map.extend(planned.results.iter().map(|(name, ..)| (name.clone(), file.clone())));
            }
        }
        let index = json!({ "metadata": { "total_size": bytes }, "weight_map": map });
        let text = serde_json::to_string_pretty(&index).expect("plain JSON");
        Ok(fs_err::write(out.join(INDEX), text + "\n")?)
    }

    fn shards(&self) -> Vec<&[Planned<'a>]> {
        let (mut shards, mut start, mut bytes) = (Vec::new(), 0, 0);
        for (index, planned) in self.tensors.iter().enumerate() {
            if bytes > 0 && bytes + planned.nbytes() > SHARD_BYTES {
                shards.push(&self.tensors[start..index]);
                (start, bytes) = (index, 0);
            }
            bytes += planned.nbytes();
        }
        shards.push(&self.tensors[start..]);
        shards
    }

    fn write_shard(&self, path: &Path, shard: &[Planned<'_>]) -> Result<(), Error> {
        let mut infos = Vec::new();
        let mut end = 0;
        for (name, dtype, shape) in shard.iter().flat_map(|planned| &planned.results) {
            let start = end;
            end += shape.iter().product::<usize>() * dtype.bitsize() / 8;
            let info = TensorInfo { dtype: *dtype, shape: shape.clone(), data_offsets: (start, end) };
            infos.push((name.clone(), info));
        }
        let format = std::collections::HashMap::from([("format".to_owned(), "mlx".to_owned())]);
        let metadata = Metadata::new(Some(format), infos)
            .map_err(|error| Error::Weights { path: path.into(), reason: error.to_string() })?;
        let mut header = serde_json::to_vec(&metadata).expect("a header is plain JSON");
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut file = std::io::BufWriter::new(fs_err::File::create(path)?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for planned in shard {
            let before = planned.nbytes();
            let written = self.write_tensor(planned, &mut file)?;
            assert_eq!(before, written, "`{}` has the size that was planned for it", planned.stored);
        }
        Ok(file.flush()?)
    }

    fn write_tensor(&self, planned: &Planned<'_>, file: &mut impl Write) -> Result<usize, Error> {
        let Planned { file: source, stored, step, .. } = planned;
        let arrays = match step {
            Step::Copy => {
                let bytes = source.bytes(stored)?;
                file.write_all(&bytes)?;
                return Ok(bytes.len());
            }
            Step::Quantize(settings) => {
                let weight = source.array(stored)?;
                mlx_ext::quantize(&weight, *settings).map_err(models::Error::from)?
            }
            Step::Dequantize(settings, dtype) => {
                let path = stored.strip_suffix(".weight").expect("only weights are planned so");
                let part = |part: &str| -> Result<Array, Error> {
                    let name = format!("{path}.{part}");
                    let reason = || Error::Layout {
                        place: stored.clone(),
                        reason: format!("tensor `{name}` is missing"),
                        hint: crate::error::GET_AGAIN.to_owned(),
                    };
                    Ok(self.home.get(&name).ok_or_else(reason)?.array(&name)?)
                };
                let biases = settings.mode.has_biases().then(|| part("biases")).transpose()?;
                let (weight, scales) = (source.array(stored)?, part("scales")?);
                let dense = mlx_ext::dequantize(&weight, &scales, biases.as_ref(), *settings, *dtype);
                vec![dense.map_err(models::Error::from)?]
            }
        };
        let mut written = 0;
        for array in &arrays {
            let bytes = mlx_ext::bytes_of(array).map_err(models::Error::from)?;
            file.write_all(&bytes)?;
            written += bytes.len();
        }
        Ok(written)
    }
}

fn is_true(table: &Map<String, Value>, name: &str) -> bool {
    table.get(name).and_then(Value::as_bool).unwrap_or(false)
}

fn file_dtype(file: &TensorFiles, name: &str) -> Mlx {
    file.dtype(name).unwrap_or(Mlx::Bool)
}

/// Packs what is a matrix of floats as wide as some groups; norms and biases are no matrices.
fn packing(info: &TensorInfo, settings: &Quantize) -> Step {
    let is_float = matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16);
    let fits = matches!(info.shape[..], [_, width] if width > 0 && width.is_multiple_of(settings.group_size as usize));
    if !is_float || !fits {
        return Step::Copy;
    }
    let mode = QuantizationMode::from_name(&settings.mode).expect("settings are checked before");
    Step::Quantize(Quantization { bits: settings.bits, group_size: settings.group_size, mode })
}

/// The settings of a packed layer: those that `config.json` has for it, with the bits that its tensors tell.
fn stored_settings(
    config: &Map<String, Value>,
    path: &str,
    weight: &TensorInfo,
    scales: &TensorInfo,
) -> Result<Quantization, String> {
    let table =
        ["quantization", "quantization_config"].into_iter().find_map(|name| config.get(name)?.as_object());
    let table = table.ok_or("is packed, but `config.json` has no `quantization`")?;
    let own = table.get(path).and_then(Value::as_object);
    let find = |name: &str| own.and_then(|own| own.get(name)).or_else(|| table.get(name));
    // A layer's own table stands alone; without a mode it is affine.
    let mode = own.unwrap_or(table).get("mode").and_then(Value::as_str).unwrap_or("affine");
    let mode = QuantizationMode::from_name(mode).ok_or_else(|| format!("has the unknown mode `{mode}`"))?;
    let group_size =
        find("group_size").and_then(Value::as_i64).ok_or("has no `group_size` in `config.json`")?;
    let width = scales.shape.last().copied().unwrap_or(0) as i64 * group_size;
    let words = weight.shape.last().copied().unwrap_or(0) as i64;
    if weight.shape.len() != 2 || width == 0 || words * 32 % width != 0 {
        return Err(format!("does not fit its scales in groups of {group_size}"));
    }
    Ok(Quantization { bits: (words * 32 / width) as i32, group_size: group_size as i32, mode })
}

/// Names, types and shapes of what a step makes.
fn results(name: &str, info: &TensorInfo, step: &Step) -> Vec<(String, Dtype, Vec<usize>)> {
    let path = name.strip_suffix(".weight").unwrap_or(name);
    match step {
        Step::Copy => vec![(name.to_owned(), info.dtype, info.shape.clone())],
        Step::Dequantize(settings, dtype) => {
            let dtype = match dtype {
                Mlx::Float32 => Dtype::F32,
                Mlx::Float16 => Dtype::F16,
                _ => Dtype::BF16,
            };
            vec![(name.to_owned(), dtype, vec![info.shape[0], info.shape[1] * 32 / settings.bits as usize])]
        }
        Step::Quantize(settings) => {
            let (rows, columns) = (info.shape[0], info.shape[1]);
            let groups = vec![rows, columns / settings.group_size as usize];
            let packed = vec![rows, columns * settings.bits as usize / 32];
            let mut results = vec![(name.to_owned(), Dtype::U32, packed)];
            if settings.mode.has_biases() {
                results.push((format!("{path}.scales"), info.dtype, groups.clone()));
                results.push((format!("{path}.biases"), info.dtype, groups));
            } else {
                results.push((format!("{path}.scales"), Dtype::U8, groups));
            }
            results
        }
    }
}
