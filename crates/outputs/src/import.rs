//! `import.json`: where a model came from, and what was kept of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::files::Document;
use crate::stages;

/// The record of an import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// Source of the model.
    pub source: ImportSource,
    /// Licence of the model, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// Names of the files that were kept.
    pub kept: Vec<String>,
    /// Quantization of the weights, if they were quantized.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantized: Option<Quantization>,
    /// Whether the weights were dequantized.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dequantized: bool,
    /// Conversion of the tensors, if the model came from a GGUF file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gguf: Option<GgufImport>,
    /// Files that were left out, each with the reason.
    pub dropped: BTreeMap<String, String>,
}

/// Source of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ImportSource {
    /// A folder on the machine that imported it.
    Folder,
    /// A repository on the hub.
    Hub {
        /// `ORG/NAME`.
        id: String,
        /// The commit, 40 hex digits.
        commit: String,
    },
    /// A file or folder in a wheel of the Python package index.
    Wheel {
        /// Name of the package.
        name: String,
        /// Its version.
        version: String,
        /// SHA-256 of the wheel.
        sha256: String,
        /// Path of the model in the wheel.
        member: String,
    },
}

/// Conversion of the tensors of a GGUF file.
///
/// Names are those of the imported model, grouped by the type that the file stores them in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GgufImport {
    /// Name of the file.
    pub file: String,
    /// Tensors that stayed packed, with exactly the values of the file.
    pub packed: BTreeMap<String, Vec<String>>,
    /// Tensors that were dequantized to 32-bit floats.
    pub dequantized: BTreeMap<String, Vec<String>>,
    /// Tensors that are floats in the file.
    pub floats: BTreeMap<String, Vec<String>>,
}

/// A quantization format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quantization {
    /// Bits per weight.
    pub bits: i32,
    /// Number of weights that share a scale.
    pub group_size: i32,
    /// `affine`, `mxfp4`, `mxfp8` or `nvfp4`.
    pub mode: String,
}

impl Document for Import {
    const FILE: &'static str = stages::IMPORT;
    const STAGE: &'static str = "import-model";
}
