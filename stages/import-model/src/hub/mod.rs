//! A client of the Hugging Face hub, and of the cache that other tools share with it.
//!
//! Order of things: what the local cache has is used without asking anyone; only then the network. Small files come
//! first, so that an unsupported model is refused before its weights are downloaded.

mod cache;
mod download;
mod refusal;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

pub use cache::Cache;
pub use hub::Settings;
use hub::{Client, Entry, is_hex};

use crate::error::Error;
use crate::layout::{is_kept, is_plain_name};
use crate::model::{self, Found};
use crate::weights::{self, INDEX};
use crate::{Watch, layout, tokens};

/// The hub, as far as importing a model needs it.
pub struct Hub<'a> {
    settings: &'a Settings,
    watch: &'a dyn Watch,
    cache: Option<Cache>,
}

impl<'a> Hub<'a> {
    /// Makes a client; nothing is connected yet.
    pub fn new(settings: &'a Settings, watch: &'a dyn Watch) -> Self {
        Self { settings, watch, cache: settings.cache.clone().map(Cache::new) }
    }

    /// Returns the commit that `revision` stands for: itself if it is one, else what the local cache says, else
    /// what the hub says.
    ///
    /// # Errors
    ///
    /// Fails when neither knows.
    pub fn resolve(&self, id: &str, revision: &str) -> Result<String, Error> {
        if is_hex(revision, 40) {
            return Ok(revision.into());
        }
        if let Some(commit) = self.cache.as_ref().and_then(|cache| cache.resolve(id, revision)) {
            tracing::debug!("`{revision}` of `{id}` is {commit} in the local hub cache");
            return Ok(commit);
        }
        self.check_online(id, || {
            format!("`{revision}` is not in the local hub cache{}", self.cache_place())
        })?;
        Ok(hub::resolve(&self.client(), id, revision)?)
    }

    /// Finds all files of the model at `commit`: in the local cache, else by downloading into `folder`.
    ///
    /// What a killed run left in `folder` is used. With `pins`, exactly those files are taken.
    ///
    /// # Errors
    ///
    /// Fails when a file cannot be had or has other bytes than promised; what arrived stays in `folder`.
    pub fn fetch(
        &self,
        id: &str,
        commit: &str,
        pins: Option<&BTreeMap<String, String>>,
        folder: &Path,
    ) -> Result<Found, Error> {
        let cached = self.cache.as_ref().map(|cache| cache.files(id, commit)).unwrap_or_default();
        match pick(id, &cached, pins) {
            Ok(found) => {
                tracing::info!("using `{id}` from the local hub cache");
                for path in found.files.values() {
                    cache::verify(path)?;
                }
                return Ok(found);
            }
            Err(_) if cached.is_empty() => self.check_online(id, || {
                format!("commit {commit} is not in the local hub cache{}", self.cache_place())
            })?,
            Err(error) => {
                self.check_online(id, || format!("the local hub cache is not complete ({})", error))?
            }
        }
        self.download(id, commit, pins, &cached, folder)
    }

    fn download(
        &self,
        id: &str,
        commit: &str,
        pins: Option<&BTreeMap<String, String>>,
        cached: &BTreeMap<String, PathBuf>,
        folder: &Path,
    ) -> Result<Found, Error> {
        fs_err::create_dir_all(folder)?;
        let client = self.client();
        let mut entries = hub::tree(&client, id, commit)?;
        // Pickles and the like stay in the list, so that a folder without safetensors can be explained.
        entries.retain(|path, _| is_kept(path) || is_plain_name(path));
        if let Some(pins) = pins {
            apply_pins(id, &mut entries, pins)?;
        }
        let place = format!("{}/{id}", self.settings.endpoint);
        let names: BTreeSet<String> = entries.keys().cloned().collect();
        layout::check_required(&place, &names)?;
        if !names.contains(INDEX) {
            layout::weights(&place, &names, None)?;
        }
        let get = |name: &String| -> Result<PathBuf, Error> {
            let entry = &entries[name];
            match cached.get(name).filter(|path| cache::is_same(path, entry)) {
                Some(path) => cache::verify(path).map(|()| path.clone()),
                None => download::file(
                    &client,
                    &format!("{id}/resolve/{commit}/{name}"),
                    entry,
                    &folder.join(name),
                ),
            }
        };
        let mut files = BTreeMap::new();
        for name in layout::KEPT.map(String::from).iter().filter(|name| names.contains(*name)) {
            files.insert(name.clone(), get(name)?);
            match name.as_str() {
                "config.json" => model::check_config(&files[name])?,
                "tokenizer.json" => drop(tokens::open(&files[name])?),
                _ => {}
            }
        }
        let index = files.get(INDEX).map(|path| weights::read_index(path)).transpose()?;
        let shards = layout::weights(&place, &names, index.as_ref())?;
        check_space(folder, &entries, &shards)?;
        for name in shards {
            let path = get(&name)?;
            weights::check_file(&path)?;
            files.insert(name, path);
        }
        Ok(Found { place: id.into(), files, ours: Some(folder.into()), ..Found::default() })
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

/// Picks the model from the cache alone; fails if something is missing.
fn pick(
    id: &str,
    cached: &BTreeMap<String, PathBuf>,
    pins: Option<&BTreeMap<String, String>>,
) -> Result<Found, Error> {
    let mut names: BTreeSet<String> = cached.keys().cloned().collect();
    if let Some(pins) = pins {
        names.retain(|name| pins.contains_key(name));
        if let Some(missing) = pins.keys().find(|name| !names.contains(*name)) {
            let reason = format!("`{missing}` is missing");
            return Err(Error::Layout { place: id.into(), reason, hint: model::UNPIN.into() });
        }
    }
    let kept = model::select(id, &names, |name| cached[name].clone())?;
    let files = kept.into_iter().map(|name| (name.clone(), cached[&name].clone())).collect();
    Ok(Found { place: id.into(), files, ..Found::default() })
}

/// Reduces the listing to the pinned files, each with its pinned hash.
fn apply_pins(
    id: &str,
    entries: &mut BTreeMap<String, Entry>,
    pins: &BTreeMap<String, String>,
) -> Result<(), Error> {
    entries.retain(|name, _| pins.contains_key(name));
    for (name, pinned) in pins {
        let Some(entry) = entries.get_mut(name) else {
            let reason = format!("`{name}` is pinned in the settings, but the repository does not have it");
            return Err(Error::Layout { place: id.into(), reason, hint: model::UNPIN.into() });
        };
        if let Some(listed) = entry.sha256.replace(pinned.clone()).filter(|listed| listed != pinned) {
            return Err(Error::Hash {
                place: format!("{id}: {name}"),
                expected: pinned.clone(),
                actual: listed,
                promised_by: "pinned in the settings",
                hint: model::UNPIN.into(),
            });
        }
        entry.promised_by = "pinned in the settings";
    }
    Ok(())
}

/// Fails before the download when the weights cannot fit.
fn check_space(
    folder: &Path,
    entries: &BTreeMap<String, Entry>,
    shards: &BTreeSet<String>,
) -> Result<(), Error> {
    let have = |name: &str| {
        let part = fs_err::metadata(folder.join(format!("{name}.part"))).map_or(0, |meta| meta.len());
        part + fs_err::metadata(folder.join(name)).map_or(0, |meta| meta.len())
    };
    let sizes = shards.iter().map(|name| entries[name].bytes.unwrap_or(0).saturating_sub(have(name)));
    let need = sizes.sum::<u64>() + (64 << 20);
    let space = rustix::fs::statvfs(folder).map_err(std::io::Error::from)?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    if free < need {
        return Err(Error::NoSpace { folder: folder.into(), needed_bytes: need, free_bytes: free });
    }
    Ok(())
}
