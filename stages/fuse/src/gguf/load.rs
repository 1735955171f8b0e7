//! Reads a GGUF file back into the model that it was written from.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use failure::{Context as _, Error, Result};
use gguf::{Header, Tensor};
use mlx_rs::{Array, Dtype};
use models::{LoadOptions, Model};

use super::architecture::{Architecture, text_name};
use super::header::nbytes;
use super::{Change, parts, restored};
use crate::json::read_json;

/// Loads the model of which `file` was written from the folder `folder`: its weights are those of the file, in the type of
/// `options`, and nothing but `config.json` and shapes comes from the folder.
///
/// # Errors
///
/// Fails when the file cannot be read, and when it lacks a tensor of the model or has another shape for it.
pub(crate) fn load(folder: &Path, file: &Path, options: &LoadOptions) -> Result<Model> {
    let mut model = Model::outline(folder, options)?;
    fill(&mut model, folder, file)?;
    Ok(model)
}

/// Loads only the head of the model in `file`, as [`load`] does.
pub(crate) fn load_head(folder: &Path, file: &Path, options: &LoadOptions) -> Result<Model> {
    let mut model = Model::outline(folder, options)?;
    model.keep_only_head().map_err(models::Error::from)?;
    fill(&mut model, folder, file)?;
    Ok(model)
}

/// Replaces the parameters of `model` that are not empty by those of `file`.
fn fill(model: &mut Model, folder: &Path, file: &Path) -> Result<()> {
    let config = read_json(&folder.join("config.json"))?;
    let architecture = Architecture::new(&config)?;
    let header = Header::read(file).with_context(|| format!("reading `{}`", file.display()))?;
    let mut source = files::open(file)?;
    let mut parameters = model.parameters_mut();
    parameters.retain(|(_, array)| array.size() > 0);
    for (name, array) in parameters {
        let translated = architecture.translate(text_name(&name));
        let found = translated.and_then(|(name, change)| Some((header.tensor(&name)?, change)));
        let missing = || Error::bad_input(format!("`{}` has no tensor for `{name}`", file.display()));
        let (tensor, change) = found.ok_or_else(missing)?;
        let shape: Vec<usize> = array.shape().iter().map(|&extent| extent as usize).collect();
        if tensor.shape != shape {
            let (file, name, found) = (file.display(), &tensor.name, &tensor.shape);
            return Err(Error::bad_input(format!(
                "`{file}`: `{name}` has shape {found:?}, expected {shape:?}"
            )));
        }
        *array = read(&mut source, tensor, change, array.dtype())?;
    }
    Ok(())
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
