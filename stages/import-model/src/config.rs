//! The settings of an import, and where it takes the model from.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::conversion::{Conversion, Quantize};
use crate::error::Error;
use crate::layout::is_plain_name;
use hub::is_hex;

/// The settings of an import: the table `[import-model]` of a model preset.
///
/// Only `id`, `commit` and what changes the weights are hashed into the key: a folder is hashed by its content, and where a folder is, what
/// a commit was called, or that hashes were pinned changes no byte of the result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Repository on the hub, `ORG/NAME`; empty for a folder.
    pub id: String,
    /// The commit that `revision` stands for, 40 hex digits; found out before the key is made.
    pub commit: String,
    /// Branch, tag or commit on the hub; empty means `main`.
    #[serde(skip_serializing)]
    pub revision: String,
    /// Folder to take the model from; goes before `id`.
    #[serde(skip_serializing)]
    pub model_dir: String,
    /// SHA-256 of every file, by name: what is imported must be exactly this.
    #[serde(skip_serializing)]
    pub files: BTreeMap<String, String>,
    /// The licence of the model, as the hub calls it; of a folder, else what its card names.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub license: String,
    /// Pack the weights; what is not in the table is the default of its mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantize: Option<Quantize>,
    /// Unpack quantized weights.
    #[serde(skip_serializing_if = "is_false")]
    pub dequantize: bool,
}

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A folder on this machine.
    Folder(PathBuf),
    /// A repository on the hub.
    Hub {
        /// `ORG/NAME`.
        id: String,
        /// Branch, tag or commit.
        revision: String,
    },
}

impl stage::Config for Config {
    const STAGE: &'static str = "import-model";
    const VERSION: u32 = 1;

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.model_dir.is_empty() && !self.id.is_empty() && !is_repository(&self.id) {
            problems.push(format!("`id` is `{}`, expected `ORG/NAME`", self.id));
        }
        if !self.revision.is_empty() && !is_revision(&self.revision) {
            problems.push(format!("`revision` is `{}`, expected a branch, a tag or a commit", self.revision));
        }
        if !self.commit.is_empty() && !is_hex(&self.commit, 40) {
            problems.push(format!("`commit` is `{}`, expected 40 hex digits", self.commit));
        }
        for (name, hash) in &self.files {
            if !is_plain_name(name) {
                problems.push(format!("`files` names `{name}`, expected a file name"));
            }
            if !is_hex(hash, 64) {
                problems
                    .push(format!("`files` has `{hash}` for `{name}`, expected 64 lower-case hex digits"));
            }
        }
        if !self.license.is_empty() && !models::is_license(&self.license) {
            problems.push(format!("`license` is `{}`, expected a word such as `apache-2.0`", self.license));
        }
        problems.extend(self.quantize.iter().flat_map(Quantize::problems));
        if self.quantize.is_some() && self.dequantize {
            problems.push("`quantize` and `dequantize` exclude each other".into());
        }
        problems
    }

    fn slug(&self) -> String {
        let name = self.id.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
        let safe = name.bytes().map(|byte| match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' => char::from(byte),
            _ => '-',
        });
        let slug: String = safe.take(40).collect();
        let slug = slug.trim_matches(['.', '-']);
        if slug.is_empty() || !self.model_dir.is_empty() { "folder".into() } else { slug.into() }
    }
}

impl Config {
    /// Returns where the model comes from.
    ///
    /// # Errors
    ///
    /// Fails when the settings name neither a folder nor a repository.
    pub fn source(&self) -> Result<Source, Error> {
        if !self.model_dir.is_empty() {
            return Ok(Source::Folder(PathBuf::from(&self.model_dir)));
        }
        if self.id.is_empty() {
            return Err(Error::Settings {
                reason: "no model is named".into(),
                hint: "give `--model-dir DIR`, `--id ORG/NAME`, or `--config` with a file of `pipelines/models/`".into(),
            });
        }
        let revision = if self.revision.is_empty() { "main" } else { &self.revision };
        Ok(Source::Hub { id: self.id.clone(), revision: revision.into() })
    }

    /// Returns what is done to the weights besides copying them.
    pub fn conversion(&self) -> Option<Conversion> {
        let quantize = self.quantize.clone().map(Conversion::Quantize);
        quantize.or_else(|| self.dequantize.then_some(Conversion::Dequantize))
    }

    /// Returns the pinned hashes, if there are any.
    pub fn pins(&self) -> Option<&BTreeMap<String, String>> {
        (!self.files.is_empty()).then_some(&self.files)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// Returns whether `id` can be a repository: `NAME` or `ORG/NAME`.
fn is_repository(id: &str) -> bool {
    let parts: Vec<&str> = id.split('/').collect();
    parts.len() <= 2
        && parts.iter().all(|part| is_plain_name(part) && !part.contains("..") && !part.contains("--"))
}

/// Returns whether `revision` can be one: no empty or dotted components, nothing that needs quoting.
fn is_revision(revision: &str) -> bool {
    let component = |part: &str| is_plain_name(part) && !part.contains("..");
    revision.len() <= 200 && revision.split('/').all(component)
}
