//! `export`: an artifact for people and programs that know nothing of the store.

mod attestation;
mod croissant;
mod ro_crate;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use artifact::{Artifact, FileHash, Key, Level, Manifest, atomic};
use serde_json::{Value, json};

use crate::args::{Export, ExportFormat, MODEL_OUTPUTS};
use crate::catalog::Catalog;
use crate::error::{Error, Result, bad_file};
use crate::fits::fits;
use crate::locate::locate;
use crate::signing::SignerKey;
use crate::{places, text};

/// File with the statements about an artifact and everything it was made from.
const PROVENANCE: &str = "provenance.intoto.jsonl";
/// Field of `provenance.json` with the segment that a training run resumed from.
const SEGMENT: &str = "resumed_from";
/// File with the signature of a model.
const MODEL_SIGNATURE: &str = "model.sig";

/// Writes an artifact in another format into a new folder.
pub(crate) fn run(catalog: &Catalog, options: &Export) -> Result<()> {
    let path = locate(catalog, &options.artifact)?;
    places::refuse_the_store(catalog.store.root(), "--to", &options.to)?;
    if options.to.symlink_metadata().is_ok() {
        return Err(occupied(&options.to));
    }
    let artifact = Artifact::open_with(&path, Level::Hash)?;
    let key = options.key.as_deref().map(SignerKey::read).transpose()?;
    let wanted = options.output.as_deref();
    let format = options.format.unwrap_or_else(|| default_format(artifact.manifest(), wanted));
    if wanted.is_some() && format != ExportFormat::Model {
        return Err(Error::Usage("`--output` chooses what the format `model` copies".to_owned()));
    }
    let output = model_output(artifact.manifest(), wanted);
    if key.is_some() && matches!(format, ExportFormat::RoCrate | ExportFormat::Croissant) {
        return Err(Error::Usage("`--key` signs the formats `model` and `in-toto`".to_owned()));
    }
    let chain = match format {
        ExportFormat::Croissant => Vec::new(),
        ExportFormat::RoCrate => lineage(catalog, &artifact, "it is missing in the crate")?,
        ExportFormat::Model | ExportFormat::InToto => {
            lineage(catalog, &artifact, "its statement is missing")?
        }
    };
    let bytes = copied_bytes(artifact.manifest(), format, output);
    if bytes > 0 {
        artifact::check_space(&options.to, bytes)?;
    }
    let written: Option<()> = atomic::write_new_folder(&options.to, |to| match format {
        ExportFormat::Model => {
            let output = output.ok_or_else(|| no_output(&artifact, wanted))?;
            model(&artifact, output, &chain, key.as_ref(), to)
        }
        ExportFormat::InToto => write(&to.join(PROVENANCE), &attestation::lines(&chain, key.as_ref())?),
        ExportFormat::RoCrate => ro_crate::write(&artifact, &chain, to),
        ExportFormat::Croissant => croissant::write(&artifact, to),
    })?;
    // Another program may have made the folder meanwhile.
    written.ok_or_else(|| occupied(&options.to))?;
    Ok(text::print_path(&options.to)?)
}

fn occupied(to: &Path) -> Error {
    let reason = "exists; choose another folder for `--to`, or delete this one first".to_owned();
    artifact::Error::Occupied { path: to.to_owned(), reason }.into()
}

/// Returns the number of data bytes that an export copies.
fn copied_bytes(manifest: &Manifest, format: ExportFormat, model: Option<&str>) -> u64 {
    let bytes = |name: &str| manifest.outputs.get(name).map_or(0, |output| output.bytes);
    match format {
        ExportFormat::Model => model.map_or(0, bytes),
        ExportFormat::InToto => 0,
        ExportFormat::RoCrate => {
            manifest.outputs.values().map(|output| output.bytes).fold(0, u64::saturating_add)
        }
        ExportFormat::Croissant => bytes(outputs::ROWS),
    }
}

/// Returns the output that is exported as a model: the wanted one, or the first that there is.
fn model_output(manifest: &Manifest, wanted: Option<&str>) -> Option<&'static str> {
    let is_meant = |name: &&str| wanted.is_none_or(|wanted| wanted == *name);
    MODEL_OUTPUTS.into_iter().filter(is_meant).find(|name| manifest.outputs.contains_key(*name))
}

fn no_output(artifact: &Artifact, wanted: Option<&str>) -> Error {
    let names: Vec<String> = match wanted {
        Some(name) => vec![format!("`{name}`")],
        None => MODEL_OUTPUTS.iter().map(|name| format!("`{name}`")).collect(),
    };
    bad_file(artifact.path(), format!("has no output {}", names.join(" or ")))
}

fn default_format(manifest: &Manifest, wanted: Option<&str>) -> ExportFormat {
    if wanted.is_some() || model_output(manifest, None).is_some() {
        ExportFormat::Model
    } else if manifest.outputs.contains_key(outputs::ROWS) {
        ExportFormat::Croissant
    } else if manifest.outputs.contains_key(outputs::REPORT) {
        ExportFormat::RoCrate
    } else {
        ExportFormat::InToto
    }
}

/// Opens an artifact and everything it was made from, those first that others were made from. Warns once of each that is not in
/// the store, with `consequence`.
fn lineage(catalog: &Catalog, artifact: &Artifact, consequence: &str) -> Result<Vec<Artifact>> {
    let mut lineage = Lineage { catalog, consequence, seen: BTreeSet::new(), chain: Vec::new() };
    lineage.collect(artifact)?;
    Ok(lineage.chain)
}

/// The artifacts that one was made from, as they are collected.
struct Lineage<'a> {
    catalog: &'a Catalog,
    /// What follows if an artifact is missing, as the end of a sentence.
    consequence: &'a str,
    /// Keys of the artifacts that were looked for.
    seen: BTreeSet<Key>,
    chain: Vec<Artifact>,
}

impl Lineage<'_> {
    fn collect(&mut self, artifact: &Artifact) -> Result<()> {
        if !self.seen.insert(artifact.manifest().key) {
            return Ok(());
        }
        crate::signal::check()?;
        for Origin { role, stage, key } in origins(artifact)? {
            if let Some(input) = self.catalog.store.lookup_with(&stage, &key, "", Level::Size)? {
                check_origin(artifact, &role, &input)?;
                self.collect(&input)?;
            } else if self.seen.insert(key) {
                tracing::warn!("{stage}/{} is not in the store; {}", key.short(), self.consequence);
            }
        }
        self.chain.push(artifact.clone());
        Ok(())
    }
}

/// An artifact that another one was made from.
struct Origin {
    role: String,
    stage: String,
    key: Key,
}

/// Returns the artifacts that `artifact` was made from: its inputs, and the segment that a training run resumed from.
fn origins(artifact: &Artifact) -> Result<Vec<Origin>> {
    let inputs = artifact.manifest().inputs.iter().filter_map(|(role, record)| {
        Some(Origin { role: role.clone(), stage: record.stage.clone()?, key: record.key? })
    });
    let segment = &artifact.provenance()?[SEGMENT];
    let segment = segment["stage"].as_str().zip(segment["key"].as_str()).and_then(|(stage, key)| {
        Some(Origin { role: SEGMENT.to_owned(), stage: stage.to_owned(), key: key.parse().ok()? })
    });
    Ok(inputs.chain(segment).collect())
}

/// Fails if `artifact` was made from something else than `input`: nobody may sign that it was.
fn check_origin(artifact: &Artifact, role: &str, input: &Artifact) -> Result<()> {
    let is_segment =
        role == SEGMENT && artifact.provenance()?[SEGMENT]["tree"] == json!(input.manifest().tree);
    if is_segment || fits(artifact.manifest(), role, input.manifest(), input.manifest_hash()) {
        return Ok(());
    }
    Err(Error::Contradiction {
        consumer: artifact.path().display().to_string(),
        origin: input.path().display().to_string(),
        role: role.to_owned(),
    })
}

/// Copies the model with the statements about it, and signs all of that.
fn model(
    artifact: &Artifact,
    output: &str,
    chain: &[Artifact],
    key: Option<&SignerKey>,
    to: &Path,
) -> Result<()> {
    copy_output(artifact, output, to)?;
    write(&to.join(PROVENANCE), &attestation::lines(chain, key)?)?;
    let Some(key) = key else { return Ok(()) };
    let statement = model_statement(to, &chain_name(artifact))?;
    write(&to.join(MODEL_SIGNATURE), &format!("{}\n", key.bundle(&statement)))
}

/// Returns the statement about all files of a folder that `OpenSSF` model signing checks.
fn model_statement(folder: &Path, name: &str) -> Result<Value> {
    let mut resources = Vec::new();
    let mut digests = Vec::new();
    for file in files_below(folder, "")? {
        crate::signal::check()?;
        let hash = FileHash::of_reader(&mut fs_err::File::open(folder.join(&file))?)?;
        digests.extend_from_slice(hash.as_bytes());
        resources.push(json!({"name": file, "algorithm": "sha256", "digest": hash}));
    }
    Ok(json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": FileHash::of(&digests)}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {
                "method": "files", "hash_type": "sha256", "allow_symlinks": false, "ignore_paths": [MODEL_SIGNATURE],
            },
            "resources": resources,
        },
    }))
}

/// Lists the files below a folder in byte order of their paths.
fn files_below(folder: &Path, prefix: &str) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for name in crate::catalog::names(&folder.join(prefix))? {
        let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        if folder.join(&path).is_dir() {
            files.extend(files_below(folder, &path)?);
        } else {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Copies an output of an artifact.
fn copy_output(artifact: &Artifact, output: &str, to: &Path) -> Result<()> {
    for file in artifact.manifest().files.iter().filter(|file| file.role == output) {
        let below = file.path.strip_prefix(output).unwrap_or(&file.path).trim_start_matches('/');
        let target = to.join(if below.is_empty() { output } else { below });
        copy(&artifact.data_dir().join(&file.path), &target)?;
    }
    Ok(())
}

/// Copies a file into a folder that need not exist; the copy can be written to.
fn copy(from: &Path, to: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    crate::signal::check()?;
    fs_err::create_dir_all(to.parent().unwrap_or(to))?;
    reflink_copy::reflink_or_copy(from, to).map_err(|source| {
        let message = format!("failed to copy `{}` to `{}`: {source}", from.display(), to.display());
        std::io::Error::new(source.kind(), crate::error::Named { message, source })
    })?;
    Ok(fs_err::set_permissions(to, std::fs::Permissions::from_mode(0o644))?)
}

fn write(path: &Path, text: &str) -> Result<()> {
    Ok(fs_err::write(path, text)?)
}

/// Returns `STAGE/KEY16-SLUG`, by which statements and crates name an artifact.
fn chain_name(artifact: &Artifact) -> String {
    let manifest = artifact.manifest();
    let folder = artifact.path().file_name().unwrap_or_default().to_string_lossy();
    let slug = folder.split_once('-').filter(|(key, _)| *key == manifest.key.short()).map(|(_, slug)| slug);
    match slug {
        Some(slug) => format!("{}/{}-{slug}", manifest.stage, manifest.key.short()),
        None => format!("{}/{}", manifest.stage, manifest.key.short()),
    }
}

/// Returns the files that describe an artifact, with their paths.
fn descriptions(artifact: &Artifact) -> [(&'static str, PathBuf); 4] {
    ["COMMIT", "SHA256SUMS", "manifest.json", "provenance.json"]
        .map(|name| (name, artifact.path().join(name)))
}
