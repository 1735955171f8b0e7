//! Tensors in the safetensors files of a model folder, checked before MLX sees a byte.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use mlx_rs::{Array, Dtype, ops};
use safetensors::tensor::{TensorInfo, TensorView};
use serde_json::Value;
use tensors::TensorHeader;

use crate::error::{Error, Result};

/// Tensors of one or more safetensors files, read one at a time.
pub struct TensorFiles {
    folder: PathBuf,
    files: Vec<TensorFile>,
    /// File index and description by name.
    tensors: BTreeMap<String, (usize, TensorInfo)>,
}

struct TensorFile {
    path: PathBuf,
    data_start: u64,
}

impl TensorFiles {
    /// Opens the weights of a model folder: the shards that `model.safetensors.index.json` names, or else every
    /// `model*.safetensors` file in it.
    ///
    /// # Errors
    ///
    /// Fails when there are no files, when a header is invalid, or when two files contain the same tensor.
    pub fn open(folder: &Path) -> Result<Self> {
        let paths = weight_files(folder)?;
        if paths.is_empty() {
            return Err(Error::NoWeights { folder: folder.to_owned() });
        }
        let mut all = Self { folder: folder.to_owned(), files: Vec::new(), tensors: BTreeMap::new() };
        for path in paths {
            all.add(path)?;
        }
        Ok(all)
    }

    /// Opens a single file, such as an adapter.
    pub fn open_file(path: &Path) -> Result<Self> {
        let mut all = Self { folder: path.to_owned(), files: Vec::new(), tensors: BTreeMap::new() };
        all.add(path.to_owned())?;
        Ok(all)
    }

    fn add(&mut self, path: PathBuf) -> Result<()> {
        let header = read_header(&path)?;
        let data_start = header.data_start();
        for (name, info) in header.into_tensors() {
            if info.shape.iter().any(|&extent| i32::try_from(extent).is_err()) {
                let reason = format!("tensor `{name}` has shape {:?}, which exceeds MLX's limit", info.shape);
                return Err(Error::File { path, reason });
            }
            if self.tensors.contains_key(&name) {
                return Err(Error::File {
                    path,
                    reason: format!("tensor `{name}` is in another file as well"),
                });
            }
            self.tensors.insert(name, (self.files.len(), info));
        }
        self.files.push(TensorFile { path, data_start });
        Ok(())
    }

    /// Returns the names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Returns element type and shape of a tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name).map(|(_, info)| info)
    }

    /// Returns the element type of a tensor, if MLX supports it.
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.info(name).and_then(|info| mlx_dtype(info.dtype))
    }

    /// Reads the bytes of a tensor.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        let (file, info) = self.tensors.get(name).ok_or_else(|| self.missing(name))?;
        let file = &self.files[*file];
        let (start, end) = info.data_offsets;
        let mut bytes = vec![0; end - start];
        let mut reader = fs_err::File::open(&file.path)?;
        reader.seek(SeekFrom::Start(file.data_start + start as u64))?;
        reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads a tensor.
    pub fn array(&self, name: &str) -> Result<Array> {
        let bytes = self.bytes(name)?;
        let (shape, dtype) = self.shape_and_dtype(name)?;
        Ok(mlx_ext::array_from_bytes(&bytes, &shape, dtype)?)
    }

    fn shape_and_dtype(&self, name: &str) -> Result<(Vec<i32>, Dtype)> {
        let info = self.info(name).ok_or_else(|| self.missing(name))?;
        let dtype = mlx_dtype(info.dtype).ok_or_else(|| Error::Weights {
            path: self.folder.clone(),
            problems: vec![format!("tensor `{name}` has type {:?}, which is not supported", info.dtype)],
        })?;
        Ok((info.shape.iter().map(|&extent| extent as i32).collect(), dtype))
    }

    fn missing(&self, name: &str) -> Error {
        Error::Weights { path: self.folder.clone(), problems: vec![format!("missing tensor `{name}`")] }
    }

    /// Returns zeros of the shape and type of every tensor, without reading or allocating them.
    ///
    /// # Errors
    ///
    /// Fails when MLX does not support the type of a tensor.
    pub(crate) fn placeholders(&self) -> Result<BTreeMap<String, Array>> {
        let placeholder = |name: &str| -> Result<_> {
            let (shape, dtype) = self.shape_and_dtype(name)?;
            Ok((name.to_owned(), ops::zeros_dtype(&shape, dtype)?))
        };
        self.names().map(placeholder).collect()
    }

    /// Reads every tensor.
    pub fn arrays(&self) -> Result<BTreeMap<String, Array>> {
        self.names().map(|name| Ok((name.to_owned(), self.array(name)?))).collect()
    }
}

/// Returns our name of a stored tensor: transformers 5 renamed `language_model.model.` to `model.language_model.`.
pub fn canonical_name(stored: &str) -> String {
    match stored.strip_prefix("model.language_model.") {
        Some(rest) => format!("language_model.model.{rest}"),
        None => stored.to_owned(),
    }
}

/// Returns the safetensors files of a model folder, sorted; none if there are no weights.
pub fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let index = folder.join("model.safetensors.index.json");
    if index.is_file() {
        let text = fs_err::read_to_string(&index)?;
        let invalid = |reason: String| Error::Config { path: index.clone(), reason };
        let json: Value = serde_json::from_str(&text).map_err(|error| invalid(error.to_string()))?;
        let map = json.get("weight_map").and_then(Value::as_object);
        let map = map.ok_or_else(|| invalid("`weight_map` is missing".to_owned()))?;
        let files: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
        return Ok(files.into_iter().map(|file| folder.join(file)).collect());
    }
    let mut paths: Vec<PathBuf> =
        fs_err::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("model") && name.ends_with(".safetensors")
    });
    paths.sort();
    Ok(paths)
}

/// Reads and checks the header of a safetensors file.
fn read_header(path: &Path) -> Result<TensorHeader> {
    TensorHeader::read(path).map_err(|error| match error {
        tensors::Error::Io(error) => error.into(),
        tensors::Error::Content(reason) => Error::File { path: path.to_owned(), reason },
    })
}

fn mlx_dtype(dtype: safetensors::Dtype) -> Option<Dtype> {
    use safetensors::Dtype as Stored;
    Some(match dtype {
        Stored::BOOL => Dtype::Bool,
        Stored::U8 => Dtype::Uint8,
        Stored::I8 => Dtype::Int8,
        Stored::U16 => Dtype::Uint16,
        Stored::I16 => Dtype::Int16,
        Stored::U32 => Dtype::Uint32,
        Stored::I32 => Dtype::Int32,
        Stored::U64 => Dtype::Uint64,
        Stored::I64 => Dtype::Int64,
        Stored::F16 => Dtype::Float16,
        Stored::BF16 => Dtype::Bfloat16,
        Stored::F32 => Dtype::Float32,
        _ => return None,
    })
}

/// Returns the safetensors type of an MLX element type.
pub fn stored_dtype(dtype: Dtype) -> safetensors::Dtype {
    use safetensors::Dtype as Stored;
    match dtype {
        Dtype::Bool => Stored::BOOL,
        Dtype::Uint8 => Stored::U8,
        Dtype::Int8 => Stored::I8,
        Dtype::Uint16 => Stored::U16,
        Dtype::Int16 => Stored::I16,
        Dtype::Uint32 => Stored::U32,
        Dtype::Int32 => Stored::I32,
        Dtype::Uint64 => Stored::U64,
        Dtype::Int64 => Stored::I64,
        Dtype::Float16 => Stored::F16,
        Dtype::Bfloat16 => Stored::BF16,
        Dtype::Float32 => Stored::F32,
        Dtype::Float64 => Stored::F64,
        Dtype::Complex64 => Stored::C64,
    }
}

/// Writes tensors to one safetensors file, with sorted names, so that equal tensors give equal bytes.
pub fn write_safetensors(path: &Path, tensors: &BTreeMap<String, Array>) -> Result<()> {
    let bytes: Vec<(String, Vec<u8>)> = tensors
        .iter()
        .map(|(name, array)| Ok((name.clone(), mlx_ext::bytes_of(array)?)))
        .collect::<Result<_>>()?;
    let views: Vec<(&str, TensorView<'_>)> = bytes
        .iter()
        .map(|(name, bytes)| {
            let array = &tensors[name];
            let shape = array.shape().iter().map(|&extent| extent as usize).collect();
            let view = TensorView::new(stored_dtype(array.dtype()), shape, bytes);
            (name.as_str(), view.expect("the bytes are those of the array"))
        })
        .collect();
    let metadata = HashMap::from([("format".to_owned(), "mlx".to_owned())]);
    let file = safetensors::serialize(views, Some(metadata))
        .map_err(|error| Error::File { path: path.to_owned(), reason: error.to_string() })?;
    Ok(fs_err::write(path, file)?)
}
