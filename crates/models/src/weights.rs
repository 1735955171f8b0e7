//! Tensors in the safetensors files of a model folder, checked before MLX sees a byte.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use mlx_ext::MappedFile;
use mlx_rs::{Array, Dtype, ops};
use safetensors::tensor::TensorInfo;
use serde_json::Value;
use tensors::{TensorHeader, TensorLayout, TensorWriter};

use crate::config::check_no_adapter;
use crate::error::{Error, Result};

/// Number of bytes from which tensors are mapped instead of read.
const MAPPED_FROM: usize = 1 << 16;
/// Longest index of weights, in bytes.
const MAX_INDEX_BYTES: u64 = 256 << 20;

/// Tensors of one or more safetensors files, read one at a time.
pub struct TensorFiles {
    folder: PathBuf,
    files: Vec<TensorFile>,
    /// File index and description by name.
    tensors: BTreeMap<String, (usize, TensorInfo)>,
    /// Tensors with an array over the mapped file, of which there must be only one.
    shared: RefCell<BTreeSet<String>>,
}

struct TensorFile {
    path: PathBuf,
    data_start: u64,
    mapping: OnceCell<MappedFile>,
}

impl TensorFile {
    /// Returns the mapping of the file, made at the first use.
    fn mapping(&self) -> io::Result<&MappedFile> {
        if let Some(mapping) = self.mapping.get() {
            return Ok(mapping);
        }
        let mapping = MappedFile::open(&self.path)?;
        Ok(self.mapping.get_or_init(|| mapping))
    }
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
            check_no_adapter(folder)?;
            return Err(Error::NoWeights { folder: folder.to_owned() });
        }
        Self::open_all(folder, paths)
    }

    /// Opens weight files; `folder` is named in errors about all of them.
    pub(crate) fn open_all(folder: &Path, paths: Vec<PathBuf>) -> Result<Self> {
        let mut all = Self::of_nothing(folder);
        for path in paths {
            all.add(path)?;
        }
        Ok(all)
    }

    /// Opens a single file, such as an adapter.
    pub fn open_file(path: &Path) -> Result<Self> {
        let mut all = Self::of_nothing(path);
        all.add(path.to_owned())?;
        Ok(all)
    }

    fn of_nothing(folder: &Path) -> Self {
        let (files, tensors, shared) = (Vec::new(), BTreeMap::new(), RefCell::default());
        Self { folder: folder.to_owned(), files, tensors, shared }
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
        self.files.push(TensorFile { path, data_start, mapping: OnceCell::new() });
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
        let mut bytes = Vec::new();
        self.reader(name)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Returns a reader of the bytes of a tensor.
    pub fn reader(&self, name: &str) -> Result<impl Read> {
        let (file, info) = self.tensors.get(name).ok_or_else(|| self.missing(name))?;
        let file = &self.files[*file];
        let (start, end) = info.data_offsets;
        let mut reader = files::open(&file.path)?;
        reader.seek(SeekFrom::Start(file.data_start + start as u64))?;
        Ok(reader.take((end - start) as u64))
    }

    /// Reads a tensor. Large ones are not copied on a CPU: they show the mapped file, whose pages are read when they are used.
    pub fn array(&self, name: &str) -> Result<Array> {
        let (shape, dtype) = self.shape_and_dtype(name)?;
        let (file, info) = self.tensors.get(name).ok_or_else(|| self.missing(name))?;
        let (start, end) = info.data_offsets;
        if end - start >= MAPPED_FROM && self.shared.borrow_mut().insert(name.to_owned()) {
            let file = &self.files[*file];
            return Ok(file.mapping()?.array(file.data_start as usize + start, &shape, dtype)?);
        }
        Ok(mlx_ext::array_from_bytes(&self.bytes(name)?, &shape, dtype)?)
    }

    fn shape_and_dtype(&self, name: &str) -> Result<(Vec<i32>, Dtype)> {
        let info = self.info(name).ok_or_else(|| self.missing(name))?;
        let dtype = mlx_dtype(info.dtype).ok_or_else(|| Error::TensorType {
            path: self.folder.clone(),
            tensor: name.to_owned(),
            dtype: info.dtype,
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
        self.some_arrays(&|_| false)
    }

    /// Reads every tensor.
    pub fn arrays(&self) -> Result<BTreeMap<String, Array>> {
        self.some_arrays(&|_| true)
    }

    /// Reads the tensors whose names are wanted; the others are placeholders.
    pub(crate) fn some_arrays(&self, is_wanted: &dyn Fn(&str) -> bool) -> Result<BTreeMap<String, Array>> {
        let array = |name: &str| -> Result<_> {
            if is_wanted(name) {
                return Ok((name.to_owned(), self.array(name)?));
            }
            let (shape, dtype) = self.shape_and_dtype(name)?;
            Ok((name.to_owned(), ops::zeros_dtype(&shape, dtype)?))
        };
        self.names().map(array).collect()
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
        let text = files::read_text(&index, MAX_INDEX_BYTES)?;
        let invalid = |reason: String| Error::Config { path: index.clone(), reason };
        let json: Value = serde_json::from_str(&text).map_err(|error| invalid(error.to_string()))?;
        let map = json.get("weight_map").and_then(Value::as_object);
        let map = map.ok_or_else(|| invalid("`weight_map` is missing".to_owned()))?;
        let files: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
        let is_outside = |name: &&&str| Path::new(name).components().count() != 1 || name.starts_with("..");
        if let Some(name) = files.iter().find(is_outside) {
            return Err(invalid(format!("`{name}` is not the name of a file in this folder")));
        }
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
    if tensors::file_is_lfs_pointer(path) {
        return Err(Error::LfsPointer { path: path.to_owned() });
    }
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

/// Writes tensors to one safetensors file, one at a time, in the order of the crate `safetensors` (the widest types first,
/// then by name), so that equal tensors give equal bytes.
///
/// Needs no memory beyond the largest tensor that is not evaluated or not contiguous.
pub fn write_safetensors(path: &Path, tensors: &BTreeMap<String, Array>) -> Result<()> {
    let mut layouts: Vec<TensorLayout> = tensors.iter().map(|(name, array)| layout_of(name, array)).collect();
    layouts.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
    let mut file = TensorWriter::create(path, &layouts)?;
    for layout in &layouts {
        mlx_ext::with_bytes(&tensors[&layout.name], |bytes| file.write(bytes))??;
    }
    Ok(file.finish()?)
}

/// Returns how an array is laid out in a safetensors file.
pub fn layout_of(name: &str, array: &Array) -> TensorLayout {
    let shape = array.shape().iter().map(|&extent| extent as usize).collect();
    TensorLayout { name: name.to_owned(), dtype: stored_dtype(array.dtype()), shape }
}
