//! Models on the Hugging Face hub and in the local cache of the hub's tools.
//!
//! The hub lists the files of a commit with their hashes. Those in the local cache are taken from there, the others are
//! downloaded: small ones first, so that an unsupported model is refused before its weights are downloaded. Every file is
//! checked against the list. A branch or tag is looked up on the hub as well. Without the network, or if all files are pinned, the
//! cache is used without a request.

mod cache;
mod download;
mod refusal;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

pub use cache::Cache;
pub use hub::Settings;
use hub::{Client, Entry, Watch, is_hex};
use outputs::{ChatSettings, Document as _};
use tensors::INDEX;

use crate::error::Error;
use crate::found::Found;
use crate::layout::{is_kept, is_plain_name};
use crate::model;
use crate::pins::{self, Hashes};
use crate::space::Space;
use crate::{layout, tokenizer, weights};

/// A hub and its local cache.
pub struct Hub<'a> {
    settings: &'a Settings,
    watch: &'a dyn Watch,
    cache: Option<Cache>,
}

impl<'a> Hub<'a> {
    /// Makes a client without connecting.
    pub fn new(settings: &'a Settings, watch: &'a dyn Watch) -> Self {
        Self { settings, watch, cache: settings.cache.clone().map(Cache::new) }
    }

    /// Returns the commit of `revision`: the revision itself if it is a commit, otherwise from the hub. The local cache may hold an
    /// older one, so it is asked only without the network.
    ///
    /// # Errors
    ///
    /// Fails when the hub does not know the revision, and without the network when the cache does not.
    pub fn resolve(&self, id: &str, revision: &str) -> Result<String, Error> {
        if is_hex(revision, 40) {
            return Ok(revision.into());
        }
        let cached = self.cache.as_ref().and_then(|cache| cache.resolve(id, revision));
        if self.settings.offline
            && let Some(commit) = cached
        {
            tracing::info!("`{revision}` of `{id}` is {commit} in the local hub cache");
            return Ok(commit);
        }
        self.check_online(id, || {
            format!("`{revision}` is not in the local hub cache{}", self.cache_place())
        })?;
        match (hub::resolve(&self.client(), id, revision), cached) {
            (Err(hub::Error::Unreachable { .. }), Some(commit)) => {
                tracing::warn!(
                    "the hub cannot be reached; `{revision}` of `{id}` is {commit} in the local hub cache"
                );
                Ok(commit)
            }
            (resolved, _) => Ok(resolved?),
        }
    }

    /// Finds all files of the model at `commit` in the local cache, or downloads them into `folder` if there is `space` for them.
    ///
    /// Resumes the downloads that an earlier process left in `folder`. With `pins`, takes exactly those files.
    ///
    /// # Errors
    ///
    /// Fails when a file cannot be downloaded or does not have the expected hash. Complete files stay in `folder`.
    pub fn fetch(
        &self,
        id: &str,
        commit: &str,
        pins: Option<&Hashes>,
        folder: &Path,
        space: &Space<'_>,
    ) -> Result<Found, Error> {
        let cached = self.cache.as_ref().map(|cache| cache.files(id, commit)).unwrap_or_default();
        // Pins say which files there are, and are compared with the bytes later.
        if self.settings.offline || pins.is_some() {
            match self.find_in_cache(id, commit, pins, &cached) {
                Ok(found) => return Ok(found),
                Err(error @ (Error::Hash { .. } | Error::GitHash { .. })) => return Err(error),
                Err(_) if cached.is_empty() => self.check_online(id, || {
                    format!("commit {commit} is not in the local hub cache{}", self.cache_place())
                })?,
                Err(error) => {
                    self.check_online(id, || format!("the local hub cache is not complete ({error})"))?;
                }
            }
        }
        match self.download(id, commit, pins, &cached, folder, space) {
            Err(error @ Error::Hub(hub::Error::Unreachable { .. })) if !cached.is_empty() => {
                let found = self.find_in_cache(id, commit, pins, &cached).map_err(|_| error)?;
                tracing::warn!("the hub cannot be reached; using `{id}` from the local hub cache");
                Ok(found)
            }
            result => result,
        }
    }

    /// Finds the model in the cache alone and checks every file against its hash; fails if a file may be missing.
    fn find_in_cache(
        &self,
        id: &str,
        commit: &str,
        pins: Option<&Hashes>,
        cached: &BTreeMap<String, PathBuf>,
    ) -> Result<Found, Error> {
        let found = pick(id, cached, pins)?;
        // No other program asks for the settings of chats.
        let optional: Vec<&str> =
            layout::KEPT.into_iter().filter(|&name| name != ChatSettings::FILE).collect();
        let is_known = self.cache.as_ref().is_some_and(|cache| cache.is_complete(id, commit, &optional));
        if pins.is_none() && !is_known {
            // Every repository with a tokenizer of today has it, and it may hold the chat template.
            const TOKENIZER: &str = "tokenizer_config.json";
            if !cached.contains_key(TOKENIZER) {
                return Err(Error::Layout {
                    place: id.to_owned(),
                    reason: format!("`{TOKENIZER}` is missing in the local hub cache"),
                    hint: "allow the network, so that the cache is completed".into(),
                });
            }
            tracing::warn!(
                "cannot tell without the network whether the local hub cache has all files of `{id}`"
            );
        }
        if pins.is_none() {
            found.files.values().try_for_each(|path| cache::verify(path))?;
        }
        tracing::info!("using `{id}` from the local hub cache");
        Ok(found)
    }

    fn download(
        &self,
        id: &str,
        commit: &str,
        pins: Option<&Hashes>,
        cached: &BTreeMap<String, PathBuf>,
        folder: &Path,
        space: &Space<'_>,
    ) -> Result<Found, Error> {
        fs_err::create_dir_all(folder)?;
        let client = self.client();
        let mut entries = hub::tree(&client, id, commit)?;
        // Pickle files and the like stay in the list for the error message of a repository without safetensors.
        entries.retain(|path, _| is_kept(path) || is_plain_name(path));
        if let Some(pins) = pins {
            apply_pins(id, &mut entries, pins)?;
        }
        let place = format!("{}/{id}", self.settings.endpoint);
        let names: BTreeSet<String> = entries.keys().cloned().collect();
        layout::check_no_adapter(&place, &names, serde_json::Value::default)?;
        layout::check_required(&place, &names)?;
        if !names.contains(INDEX) {
            layout::weights(&place, &names, None)?;
        }
        let resumed = Cell::new(false);
        let get = |name: &String, cached: Option<&PathBuf>| -> Result<PathBuf, Error> {
            let entry = &entries[name];
            if let Some(path) = cached {
                return cache::verify_same(path, entry).map(|()| path.clone());
            }
            let url = format!("{id}/resolve/{commit}/{name}");
            let limit = layout::max_bytes(name);
            let file = download::file(&client, &url, entry, limit, &place_for(folder, name)?)?;
            resumed.set(resumed.get() || file.resumed);
            Ok(file.path)
        };
        let mut files = BTreeMap::new();
        let beside = names.iter().filter(|name| layout::is_beside_weights(name));
        let mut sources = sources(&place, beside, &entries, cached)?;
        check_space(space, folder, &entries, &sources, None)?;
        for (&name, &cached) in &sources {
            files.insert(name.clone(), get(name, cached)?);
            if layout::is_foreign_chat(name, &files[name]) {
                files.remove(name);
                continue;
            }
            match name.as_str() {
                "config.json" => {
                    model::check_config(&files[name])?;
                    // Whether settings of another library are a leftover shows only in the weights.
                    model::check_quantization(&files[name], false)?;
                }
                "tokenizer.json" => drop(tokenizer::open(&files[name])?),
                _ => {}
            }
        }
        let index = files.get(INDEX).map(|path| weights::read_index(path)).transpose()?;
        let shards = layout::weights(&place, &names, index.as_ref())?;
        if index.is_some_and(|index| layout::is_stale(&index, &shards)) {
            tracing::warn!(
                "`{INDEX}` names shards that are not there; using the {} weight files",
                shards.len()
            );
            files.remove(INDEX);
        }
        sources.extend(self::sources(&place, shards.iter(), &entries, cached)?);
        check_space(space, folder, &entries, &sources, Some(&files["config.json"]))?;
        for name in &shards {
            let path = get(name, sources[name])?;
            weights::check_file(&path)?;
            files.insert(name.clone(), path);
        }
        let (downloads, resumed) = (Some(folder.into()), resumed.get());
        Ok(Found { place: id.into(), files, downloads, resumed, ..Found::default() })
    }

    fn client(&self) -> Client<'a> {
        Client::new(self.settings, self.watch, refusal::explain)
    }

    fn check_online(&self, id: &str, reason: impl FnOnce() -> String) -> Result<(), Error> {
        if self.settings.offline { Err(Error::Offline { id: id.into(), reason: reason() }) } else { Ok(()) }
    }

    fn cache_place(&self) -> String {
        self.settings.cache.as_ref().map_or_else(String::new, |dir| format!(" `{}`", dir.display()))
    }
}

/// Returns the path of a download, and makes its folder.
fn place_for(folder: &Path, name: &str) -> Result<PathBuf, Error> {
    let path = folder.join(name);
    fs_err::create_dir_all(path.parent().unwrap_or(folder))?;
    Ok(path)
}

/// Finds the model in the cache alone; fails when a file is missing.
fn pick(id: &str, cached: &BTreeMap<String, PathBuf>, pins: Option<&Hashes>) -> Result<Found, Error> {
    let mut names: BTreeSet<String> = cached.keys().cloned().collect();
    if let Some(pins) = pins {
        names.retain(|name| pins.contains_key(name));
        if let Some(missing) = pins.keys().find(|name| !names.contains(*name)) {
            return Err(pins::mismatch(id, format!("`{missing}` is missing")));
        }
    }
    let kept = model::select(id, &names, |name| cached[name].clone())?;
    let files = kept.into_iter().map(|name| (name.clone(), cached[&name].clone())).collect();
    Ok(Found { place: id.into(), files, ..Found::default() })
}

/// Removes all files that are not pinned, and sets the expected hash of the others to the pin.
fn apply_pins(id: &str, entries: &mut BTreeMap<String, Entry>, pins: &Hashes) -> Result<(), Error> {
    entries.retain(|name, _| pins.contains_key(name));
    for (name, pinned) in pins {
        let Some(entry) = entries.get_mut(name) else {
            let reason = format!("`{name}` is pinned in the settings, but the repository does not have it");
            return Err(pins::mismatch(id, reason));
        };
        if let Some(listed) = entry.sha256.replace(pinned.clone()).filter(|listed| listed != pinned) {
            return Err(pins::differs(format!("{id}: {name}"), pinned, &listed));
        }
        entry.promised_by = pins::PINNED;
    }
    Ok(())
}

/// Fails when the hub lists a size for a file other than weights that no such file has.
fn check_listed_size(place: &str, name: &str, entry: &Entry) -> Result<(), Error> {
    let bytes = entry.bytes.unwrap_or(0);
    if name.ends_with(".safetensors") || bytes <= layout::max_bytes(name) {
        return Ok(());
    }
    let limit = layout::max_bytes(name) >> 20;
    Err(Error::Layout {
        place: place.into(),
        reason: format!("the hub lists {bytes} bytes for `{name}`, more than the {limit} MiB of such files"),
        hint: "use another repository or revision".into(),
    })
}

/// Files by name, with their path in the local cache if they need no download.
type Sources<'a> = BTreeMap<&'a String, Option<&'a PathBuf>>;

/// Finds out which files are in the local cache.
fn sources<'a>(
    place: &str,
    names: impl Iterator<Item = &'a String>,
    entries: &BTreeMap<String, Entry>,
    cached: &'a BTreeMap<String, PathBuf>,
) -> Result<Sources<'a>, Error> {
    names
        .map(|name| {
            let entry = &entries[name];
            check_listed_size(place, name, entry)?;
            Ok((name, cached.get(name).filter(|path| cache::is_same(path, entry))))
        })
        .collect()
}

/// Fails before the download when the files do not fit; `config` is needed to know what becomes of the weights.
fn check_space(
    space: &Space<'_>,
    folder: &Path,
    entries: &BTreeMap<String, Entry>,
    sources: &Sources<'_>,
    config: Option<&Path>,
) -> Result<(), Error> {
    let size = |name: &str| fs_err::metadata(folder.join(name)).map_or(0, |metadata| metadata.len());
    let (mut work, mut out, mut weights) = (0_u64, 0_u64, 0_u64);
    for (&name, cached) in sources {
        let bytes = entries[name].bytes.unwrap_or_else(|| download::unlisted_bytes(layout::max_bytes(name)));
        if cached.is_none() {
            let present = size(name).saturating_add(size(&format!("{name}.part")));
            work = work.saturating_add(bytes.saturating_sub(present));
        }
        if layout::is_weights(name) {
            weights = weights.saturating_add(bytes);
        }
        out = out.saturating_add(space.artifact_bytes(name, bytes, cached.is_none()));
    }
    let converted = config.map_or(Ok(0), |config| space.estimate_converted(weights, config))?;
    space.check(work, out.saturating_add(converted))
}
