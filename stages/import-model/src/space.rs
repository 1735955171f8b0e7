//! The space that an import needs on each disk, checked before the large files are written.
//!
//! An import writes to two folders, which may be on different disks: downloads and files made from a GGUF file go to the work folder,
//! the model goes to the artifact. Files of the work folder are linked into an artifact on the same disk, and take no more space.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use models::{Conversion, Quantize};
use serde_json::Value;

use crate::error::Error;
use crate::files::read_json;
use crate::found::Found;
use crate::{layout, tokenizer, weights};

/// Bits of a float in most models on the hub.
const USUAL_BITS: u64 = 16;
/// Bits of the floats that are made from the blocks of a GGUF file.
const GGUF_BITS: u64 = 32;
/// Bits per quantized weight if `config.json` does not say.
const USUAL_QUANTIZED_BITS: u64 = 4;

/// The folders that an import writes to, and what becomes of its weights.
#[derive(Debug, Clone, Copy)]
pub struct Space<'a> {
    work: &'a Path,
    out: &'a Path,
    conversion: Option<&'a Conversion>,
    is_one_disk: bool,
}

impl<'a> Space<'a> {
    /// Describes an import that works in `work` and writes to `out`, which both exist.
    ///
    /// # Errors
    ///
    /// Fails when one of the folders cannot be read.
    pub fn new(work: &'a Path, out: &'a Path, conversion: Option<&'a Conversion>) -> Result<Self, Error> {
        let is_one_disk = fs_err::metadata(work)?.dev() == fs_err::metadata(out)?.dev();
        Ok(Self { work, out, conversion, is_one_disk })
    }

    /// Fails unless this many further bytes fit into each folder.
    pub(crate) fn check(&self, work_bytes: u64, out_bytes: u64) -> Result<(), Error> {
        let needed = if self.is_one_disk {
            [(self.work, 0), (self.out, work_bytes.saturating_add(out_bytes))]
        } else {
            [(self.work, work_bytes), (self.out, out_bytes)]
        };
        for (folder, bytes) in needed.into_iter().filter(|(_, bytes)| *bytes > 0) {
            artifact::check_space(folder, bytes).map_err(Error::NoSpace)?;
        }
        Ok(())
    }

    /// Fails unless the artifact of `found` fits.
    pub(crate) fn check_found(&self, found: &Found) -> Result<(), Error> {
        let mut bytes = self.conversion.map_or(0, |conversion| converted_bytes(found, conversion));
        let user = rustix::process::geteuid().as_raw();
        for (name, path) in &found.files {
            let file = fs_err::metadata(path)?;
            let is_ours = found.downloads.as_ref().is_some_and(|folder| path.starts_with(folder));
            bytes =
                bytes.saturating_add(self.artifact_bytes(name, file.len(), is_ours && file.uid() == user));
        }
        self.check(0, bytes).or_else(|no_space| {
            // Damaged weights may have any length.
            let weights = found.files.iter().filter(|(name, _)| layout::is_weights(name));
            weights.map(|(_, path)| path).try_for_each(|path| weights::check_file(path).map(drop))?;
            Err(no_space)
        })
    }

    /// Fails unless a member of a wheel fits. What is made from it is checked when it can be read.
    pub(crate) fn check_member(&self, bytes: u64) -> Result<(), Error> {
        let is_copied = self.conversion.is_none() && !self.is_one_disk;
        self.check(bytes, if is_copied { bytes } else { 0 })
    }

    /// Fails unless weights that are made from a GGUF file fit, and the artifact after them.
    pub(crate) fn check_gguf(&self, bytes: u64) -> Result<(), Error> {
        let out_bytes = match self.conversion {
            Some(Conversion::Quantize(settings)) => quantized_bytes(bytes, GGUF_BITS, settings),
            _ if self.is_one_disk => 0,
            _ => bytes,
        };
        self.check(bytes, out_bytes)
    }

    /// Returns how many bytes a file of the model takes in the artifact, unless it is made by the conversion.
    pub(crate) fn artifact_bytes(&self, name: &str, bytes: u64, is_ours: bool) -> u64 {
        let is_made = self.conversion.is_some() && layout::is_converted(name);
        let in_model = if is_made || (is_ours && self.is_one_disk) { 0 } else { bytes };
        in_model.saturating_add(if tokenizer::is_part(name) { bytes } else { 0 })
    }

    /// Estimates how many bytes the conversion makes from `weights` bytes that are not downloaded yet.
    pub(crate) fn estimate_converted(&self, weights: u64, config: &Path) -> Result<u64, Error> {
        Ok(match self.conversion {
            None => 0,
            Some(Conversion::Quantize(settings)) => quantized_bytes(weights, USUAL_BITS, settings),
            Some(Conversion::Dequantize) => times(weights, USUAL_BITS, fewest_bits(&read_json(config)?)),
        })
    }
}

/// Returns how many bytes of weights a conversion makes.
fn converted_bytes(found: &Found, conversion: &Conversion) -> u64 {
    let shards = found.files.iter().filter(|(name, _)| layout::is_weights(name));
    let shards: Vec<&Path> = shards.map(|(_, path)| path.as_path()).collect();
    // What cannot be converted is refused by the checks of the model, which say more.
    models::converted_bytes(&found.files["config.json"], &shards, conversion).unwrap_or(0)
}

/// Returns how many bytes quantized weights take; each group has at most a scale and a bias of the old type.
fn quantized_bytes(weights: u64, float_bits: u64, settings: &Quantize) -> u64 {
    let [bits, group] = [settings.bits, settings.group_size].map(|number| u64::from(number.unsigned_abs()));
    times(weights, bits * group + 2 * float_bits, group * float_bits)
}

fn times(bytes: u64, numerator: u64, denominator: u64) -> u64 {
    bytes.div_ceil(denominator.max(1)).saturating_mul(numerator)
}

/// Returns the fewest bits per weight in the quantization settings of a `config.json`.
fn fewest_bits(config: &Value) -> u64 {
    let tables =
        ["quantization", "quantization_config"].into_iter().filter_map(|name| config[name].as_object());
    let of_layers = tables.clone().flat_map(|table| table.values()).map(|layer| &layer["bits"]);
    let bits = tables.filter_map(|table| table.get("bits")).chain(of_layers).filter_map(Value::as_u64);
    bits.filter(|&bits| bits > 0).min().unwrap_or(USUAL_QUANTIZED_BITS)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_layer_with_the_fewest_bits_bounds_the_growth() {
        assert_eq!(fewest_bits(&json!({})), 4);
        assert_eq!(fewest_bits(&json!({"quantization": {"bits": 8, "group_size": 64}})), 8);
        assert_eq!(fewest_bits(&json!({"quantization": {"bits": 8, "a.b": {"bits": 2}, "c": false}})), 2);
        assert_eq!(times(1000, 16, 2), 8000);
        assert_eq!(times(u64::MAX, 16, 2), u64::MAX);
    }
}
