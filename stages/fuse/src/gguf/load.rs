//! Reads a GGUF file as llama.cpp does: its metadata say what is computed, and its tensors with what.

use std::collections::BTreeMap;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use failure::{Context as _, Error, Result};
use gguf::{Architecture, Factors, Header, Tensor};
use mlx_rs::{Array, Dtype};
use models::{LoadOptions, Model};
use serde_json::Value;

use super::header::nbytes;
use super::{Change, parts, restored};

/// Loads the model in `file`, in the type of `options`.
///
/// # Errors
///
/// Fails when the file cannot be read, when it lacks a tensor of the model that it describes or has another shape for it, and when
/// it has other tensors.
pub(crate) fn load(file: &Path, options: &LoadOptions) -> Result<Model> {
    let mut model = Model::outline_of_settings(file, config_of(file)?, options)?;
    if let Some(name) = fill(&mut model, file)? {
        return Err(Error::bad_input(format!("`{}`: the model has no `{name}`", file.display())));
    }
    Ok(model)
}

/// Loads only the head of the model in `file`, as [`load`] does.
pub(crate) fn load_head(file: &Path, options: &LoadOptions) -> Result<Model> {
    let mut model = Model::outline_of_settings(file, config_of(file)?, options)?;
    model.keep_only_head().map_err(models::Error::from)?;
    fill(&mut model, file)?;
    Ok(model)
}

/// Returns the contents of the `config.json` that the metadata of `file` amount to.
pub(super) fn config_of(file: &Path) -> Result<Value> {
    let header = read_header(file)?;
    let mut source = files::open(file)?;
    let floats = |name: &str| {
        let Some(tensor) = header.tensor(name) else { return Ok(None) };
        let mut bytes = vec![0; nbytes(tensor.storage, tensor.shape.iter().product())];
        source.seek(SeekFrom::Start(tensor.start))?;
        source.read_exact(&mut bytes)?;
        Ok::<_, Error>(Some(tensor.storage.dequantize(&bytes)))
    };
    let factors = Factors::new(floats)?;
    let config = Architecture::new(&header).and_then(|architecture| architecture.config(factors));
    Ok(Value::Object(config.with_context(|| format!("reading `{}`", file.display()))?))
}

fn read_header(file: &Path) -> Result<Header> {
    Header::read(file).with_context(|| format!("reading `{}`", file.display()))
}

/// Replaces the parameters of `model` that are not empty by those of `file`, and returns the name of a tensor that it does not have.
fn fill(model: &mut Model, file: &Path) -> Result<Option<String>> {
    let header = read_header(file)?;
    let architecture = Architecture::new(&header)?;
    let mut source = files::open(file)?;
    let parameters = model.parameters_mut().into_iter().filter(|(_, array)| array.size() > 0);
    let mut parameters: BTreeMap<String, &mut Array> = parameters.collect();
    let mut unknown = None;
    for tensor in header.tensors() {
        let Some((name, change)) = architecture.translate(&tensor.name)? else { continue };
        let Some(array) = parameters.remove(&name) else {
            unknown = Some(name);
            continue;
        };
        let shape: Vec<usize> = array.shape().iter().map(|&extent| extent as usize).collect();
        if tensor.shape != shape {
            let (file, name, found) = (file.display(), &tensor.name, &tensor.shape);
            return Err(Error::bad_input(format!(
                "`{file}`: `{name}` has shape {found:?}, expected {shape:?}"
            )));
        }
        *array = read(&mut source, tensor, written_change(change, &shape), array.dtype())?;
    }
    match parameters.keys().next() {
        Some(name) => Err(Error::bad_input(format!("`{}` has no tensor for `{name}`", file.display()))),
        None => Ok(unknown),
    }
}

/// Returns the change on the way to GGUF that a change on the way back undoes.
fn written_change(change: gguf::Change, shape: &[usize]) -> Change {
    match change {
        gguf::Change::Nothing => Change::Nothing,
        gguf::Change::SubtractOne => Change::AddOne,
        gguf::Change::Separate(heads) => {
            Change::Interleave { head_rows: shape.first().map_or(1, |rows| rows / heads) }
        }
    }
}

/// Reads the values of a tensor, some rows at a time.
fn read(source: &mut fs_err::File, tensor: &Tensor, change: Change, dtype: Dtype) -> Result<Array> {
    source.seek(SeekFrom::Start(tensor.start))?;
    let width = tensor.shape.get(1).copied().unwrap_or(1);
    let shape: Vec<i32> = tensor.shape.iter().map(|&extent| extent as i32).collect();
    let array = mlx_ext::written_array(&shape, dtype, |mut rest| {
        for rows in parts(&tensor.shape, change) {
            let count =
                if tensor.shape.len() == 2 { rows.len() * width } else { tensor.shape.iter().product() };
            let mut bytes = vec![0; nbytes(tensor.storage, count)];
            source.read_exact(&mut bytes)?;
            let values = restored(tensor.storage.dequantize(&bytes), change, width);
            let part = Array::from_slice(&values, &[count as i32]).as_dtype(dtype);
            let part = part.map_err(models::Error::from)?;
            let (start, others) = rest.split_at_mut(part.nbytes());
            mlx_ext::with_bytes(&part, |bytes| start.copy_from_slice(bytes))?;
            rest = others;
        }
        Ok::<_, Error>(())
    });
    array?
}
