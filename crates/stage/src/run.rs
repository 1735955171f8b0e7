//! One run of a stage: resolve, look up, work, publish.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use artifact::{Artifact, Claim, Draft, Folder, Key, KeyMaterial, Level, Published, Store, Witness};
use serde_json::Value;

use crate::error::{Nondeterministic, hint, usage};
use crate::input::{check_role, unchanged};
use crate::keep::Keep;
use crate::provenance::Recorder;
use crate::scratch::Scratch;
use crate::{CommonArgs, Config, Input, StopFlag, config, output, plan};

/// A run of the stage with settings `C`.
#[derive(Debug)]
pub struct Run<C: Config> {
    common: CommonArgs,
    config: C,
    store: Option<Store>,
    inputs: BTreeMap<String, Input>,
    numerics: BTreeMap<String, String>,
    notes: Vec<String>,
    planned_bytes: u64,
    /// How far a part of a run goes.
    pub(crate) until: Option<String>,
    recorder: Recorder,
}

/// What identifies a run.
pub(crate) struct Identity {
    pub(crate) stage: &'static str,
    pub(crate) key: Key,
    pub(crate) material: KeyMaterial,
    pub(crate) slug: String,
}

impl<C: Config> Run<C> {
    /// Resolves the settings: defaults, then the stage's table of each `--config`, then `--set`.
    ///
    /// # Errors
    ///
    /// Fails on unknown or wrong settings (exit 2).
    pub fn new(common: &CommonArgs) -> anyhow::Result<Self> {
        Self::adjusted(common, |_| {})
    }

    /// As [`Run::new`]; `adjust` puts the stage's own flags on top of all other settings.
    ///
    /// # Errors
    ///
    /// As [`Run::new`].
    pub fn adjusted(common: &CommonArgs, adjust: impl FnOnce(&mut C)) -> anyhow::Result<Self> {
        let mut config = config::resolve::<C>(common)?;
        adjust(&mut config);
        config::check(&config)?;
        let store = match &common.out {
            // Refs are still found where the store is.
            Some(_) => Store::open(&common.store).ok(),
            None => Some(Store::open(&common.store)?),
        };
        Ok(Self {
            common: common.clone(),
            config,
            store,
            inputs: BTreeMap::new(),
            numerics: BTreeMap::new(),
            notes: Vec::new(),
            planned_bytes: 0,
            until: None,
            recorder: Recorder::start(),
        })
    }

    /// Returns the settings.
    pub fn config(&self) -> &C {
        &self.config
    }

    /// Opens an input artifact (a path, or a ref's name) and binds the key to its named output `output`, or to all
    /// of its data if `output` is empty.
    ///
    /// # Errors
    ///
    /// Fails when there is no such artifact or output, or when it is damaged (exit 65).
    pub fn input(&mut self, role: &str, locator: &Path, output: &str) -> anyhow::Result<Input> {
        let input = Input::open(self.store.as_ref(), locator, output);
        self.add(role, input)
    }

    /// Opens a bare folder or file as input and binds the key to its content.
    ///
    /// # Errors
    ///
    /// Fails when it is missing, unreadable or empty (exit 65).
    pub fn input_folder(&mut self, role: &str, path: &Path) -> anyhow::Result<Input> {
        let input = Input::open_bare(self.store(), path);
        self.add(role, input)
    }

    /// Opens `locator` as a bare folder if it holds a file called `marker`, and else as [`Run::input`] does: what another
    /// tool made can stand where a stage's artifact does.
    ///
    /// # Errors
    ///
    /// As [`Run::input`] and [`Run::input_folder`].
    pub fn input_or_folder(
        &mut self,
        role: &str,
        locator: &Path,
        output: &str,
        marker: &str,
    ) -> anyhow::Result<Input> {
        if locator.join(marker).is_file() {
            self.input_folder(role, locator)
        } else {
            self.input(role, locator, output)
        }
    }

    /// Opens an input artifact and binds the key to all that its manifest says, settings and history included.
    ///
    /// # Errors
    ///
    /// As [`Run::input`].
    pub fn input_manifest(&mut self, role: &str, locator: &Path) -> anyhow::Result<Input> {
        let input = Input::open_manifest(self.store.as_ref(), locator);
        self.add(role, input)
    }

    fn add(&mut self, role: &str, opened: anyhow::Result<Input>) -> anyhow::Result<Input> {
        check_role(role)?;
        let input = opened.with_context(|| format!("opening input `{role}`"))?;
        if self.inputs.insert(role.to_owned(), input.clone()).is_some() {
            return Err(usage(format!("input `{role}` is given twice")));
        }
        Ok(input)
    }

    /// Says what besides settings and inputs decides the bytes of a stage that computes with floats: library
    /// version, backend, device class, dtype.
    pub fn numerics(&mut self, numerics: BTreeMap<String, String>) {
        self.numerics = numerics;
    }

    /// Adds a line for people to `--plan` and `-v`, such as an estimate of memory.
    pub fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// Says how many bytes will be written, so that too little space is noticed before the work.
    pub fn expect_bytes(&mut self, bytes: u64) {
        self.planned_bytes = bytes;
    }

    /// Returns the store, unless the run writes to a folder of its own.
    pub fn store(&self) -> Option<&Store> {
        if self.common.out.is_some() { None } else { self.store.as_ref() }
    }

    /// Returns the store that refs are found in.
    pub(crate) fn shared_store(&self) -> Option<&Store> {
        self.store.as_ref()
    }

    /// Does what the flags ask for: plan, print the artifact that exists, or run `body` and publish what it wrote.
    ///
    /// # Errors
    ///
    /// Returns what `body` returns, and all that can go wrong with publishing; then nothing is published.
    pub fn execute(self, body: impl FnOnce(&mut Scratch, &C) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let id = self.identity()?;
        match (&self.common.out, &self.store) {
            (Some(out), _) if self.common.plan => plan::for_folder(&self.common, &id, out, &self.notes),
            (Some(out), _) => self.run_to_folder(&id, out, body),
            (None, Some(store)) if self.common.plan => {
                plan::for_store(&self.common, store, &id, &self.inputs, &self.notes)
            }
            (None, Some(store)) => self.run_to_store(&id, &store.clone(), body),
            (None, None) => unreachable!("a run without --out has a store"),
        }
    }

    /// Returns the key of the run, given the inputs and numerics that are known by now.
    ///
    /// # Errors
    ///
    /// Fails when a setting cannot be part of a key (exit 2).
    pub fn key(&self) -> anyhow::Result<Key> {
        Ok(self.identity()?.key)
    }

    pub(crate) fn identity(&self) -> anyhow::Result<Identity> {
        let mut material = KeyMaterial::new(C::STAGE, C::VERSION, config::to_material(&self.config)?);
        material.inputs = self.inputs.iter().map(|(role, input)| (role.clone(), input.content)).collect();
        material.numerics = self.numerics.clone();
        material.segment = self.until.clone();
        let key = material.key().map_err(|error| usage(error.to_string()))?;
        Ok(Identity { stage: C::STAGE, key, material, slug: clean_slug(&self.config.slug()) })
    }

    fn run_to_store(
        &self,
        id: &Identity,
        store: &Store,
        body: impl FnOnce(&mut Scratch, &C) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let again = self.common.force || self.common.check;
        let mut existing = find(store, id)?;
        if let (Some(artifact), false) = (&existing, again) {
            tracing::debug!("{} {}: nothing to do", id.stage, id.key.short());
            return self.finish(store, artifact);
        }
        let witnesses = self.verify_inputs()?;
        store.check_space(self.planned_bytes)?;
        let stop = StopFlag::new();
        let mut waiting = |what: &str| tracing::info!("waiting for another process: {what}");
        let lock = store
            .lock(id.stage, &id.key, self.common.lock_wait, &mut waiting, &|| stop.requested().is_some())
            .map_err(|error| match (error, stop.requested()) {
                (artifact::Error::Stopped, Some(signal)) => crate::Interrupted { signal }.into(),
                (error, _) => anyhow::Error::from(error),
            })?;
        if existing.is_none() {
            existing = find(store, id)?;
            if let (Some(artifact), false) = (&existing, again) {
                tracing::debug!("{} {}: another process has done it", id.stage, id.key.short());
                return self.finish(store, artifact);
            }
        }
        let artifact = self.work(id, store, existing, &witnesses, body)?;
        drop(lock);
        self.finish(store, &artifact)
    }

    /// Runs the body and publishes; the lock is held.
    fn work(
        &self,
        id: &Identity,
        store: &Store,
        existing: Option<Artifact>,
        witnesses: &BTreeMap<String, Witness>,
        body: impl FnOnce(&mut Scratch, &C) -> anyhow::Result<()>,
    ) -> anyhow::Result<Artifact> {
        let workspace = store.workspace(id.stage, &id.key)?;
        let staging = store.stage_new(id.stage)?;
        let comparing = self.common.check && existing.is_some();
        let fresh = comparing.then(tempfile::tempdir).transpose().context("creating a folder for --check")?;
        let resume_dir = if let Some(dir) = &fresh {
            dir.path().to_owned()
        } else {
            workspace.prepare(store)?;
            workspace.state_dir()
        };
        let units = (!comparing).then(|| store.clone());
        let mut scratch =
            Scratch::new(staging.data(), staging.telemetry(), &resume_dir, units, &self.numerics);
        scratch.lock_wait = self.common.lock_wait;
        self.recorder.note_resumed(!comparing && workspace.has_state());
        body(&mut scratch, &self.config)?;

        let mut draft = self.draft(id, scratch.into_metrics());
        draft.provenance = self.recorder.finish();
        let mut check =
            || check_inputs(witnesses).map_err(|error| artifact::Error::Precondition(error.into()));
        let published = match (staging.publish(&draft, &mut check), existing) {
            (Err(artifact::Error::Precondition(error)), _) => return Err(anyhow::Error::from_boxed(error)),
            (result, _) => result.context("publishing the artifact")?,
        };
        if fresh.is_none() {
            workspace.remove()?;
        }
        self.judge(published)
    }

    fn judge(&self, published: Published) -> anyhow::Result<Artifact> {
        match published {
            Published::New(artifact) => {
                if self.common.check {
                    tracing::warn!("there was nothing to compare with; published; run `--check` once more");
                }
                Ok(artifact)
            }
            Published::Same(artifact) => {
                if self.common.check || self.common.force {
                    tracing::info!("ran again: the same bytes");
                }
                Ok(artifact)
            }
            Published::Different { artifact, quarantined, tree } => {
                let message = format!(
                    "running again gave {} instead of {} ({}); the new bytes are in `{}`",
                    tree.short(),
                    artifact.tree().short(),
                    output::differing_files(&artifact, &quarantined),
                    quarantined.display()
                );
                if self.common.check {
                    return Err(Nondeterministic(message).into());
                }
                tracing::warn!("the stage is not deterministic: {message}; the first artifact stays");
                Ok(artifact)
            }
        }
    }

    fn run_to_folder(
        &self,
        id: &Identity,
        out: &Path,
        body: impl FnOnce(&mut Scratch, &C) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        if self.common.check {
            return Err(usage("`--check` needs a store; it cannot be used with `--out`"));
        }
        if let (Ok(artifact), false) = (Artifact::open(out), self.common.force)
            && (artifact.manifest().key, artifact.manifest().stage.as_str()) == (id.key, id.stage)
        {
            return output::print_path(out);
        }
        let witnesses = self.verify_inputs()?;
        artifact::check_space(out, self.planned_bytes)?;
        let folder = Folder::begin(out)
            .map_err(|error| hint(error, "choose another folder for `--out`, or delete this one first"))?;
        let keep = Keep::of(&self.common, id)?;
        let mut scratch = Scratch::new(folder.data(), folder.telemetry(), keep.path(), None, &self.numerics);
        body(&mut scratch, &self.config)?;
        let mut draft = self.draft(id, scratch.into_metrics());
        draft.provenance = self.recorder.finish();
        if Recorder::is_reproducible() {
            folder.drop_telemetry()?;
        }
        let mut check =
            || check_inputs(&witnesses).map_err(|error| artifact::Error::Precondition(error.into()));
        match folder.seal(&draft, &mut check) {
            Err(artifact::Error::Precondition(error)) => return Err(anyhow::Error::from_boxed(error)),
            result => result.context("writing the artifact")?,
        };
        keep.done()?;
        output::print_path(out)
    }

    fn verify_inputs(&self) -> anyhow::Result<BTreeMap<String, Witness>> {
        let verify = |(role, input): (&String, &Input)| {
            let witness = input.verify().with_context(|| format!("verifying input `{role}`"))?;
            Ok((role.clone(), witness))
        };
        self.inputs.iter().map(verify).collect()
    }

    fn draft(&self, id: &Identity, metrics: BTreeMap<String, f64>) -> Draft {
        Draft {
            slug: id.slug.clone(),
            key_material: id.material.clone(),
            inputs: self.inputs.iter().map(|(role, input)| (role.clone(), input.record.clone())).collect(),
            metrics,
            claim: if self.numerics.is_empty() { Claim::BitExact } else { Claim::Backend },
            provenance: Value::Null,
            config_defaults: crate::config::to_material(&C::default()).unwrap_or_default(),
        }
    }

    fn finish(&self, store: &Store, artifact: &Artifact) -> anyhow::Result<()> {
        if let Some(label) = &self.common.label {
            store.set_ref(label, artifact)?;
        }
        output::print_path(artifact.path())
    }
}

/// Looks up a key; a damaged artifact is moved out of the way and counts as missing.
fn find(store: &Store, id: &Identity) -> anyhow::Result<Option<Artifact>> {
    match store.lookup_with(id.stage, &id.key, &id.slug, Level::Auto) {
        Ok(found) => Ok(found),
        Err(error @ (artifact::Error::Damaged { .. } | artifact::Error::NotAnArtifact { .. })) => {
            if let Some(path) = store.find(id.stage, &id.key, &id.slug)? {
                let moved = store.quarantine(&path, id.stage, &id.key, "damaged")?;
                tracing::warn!("{error}; moved to `{}`, running again", moved.display());
            }
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn check_inputs(witnesses: &BTreeMap<String, Witness>) -> anyhow::Result<()> {
    witnesses.iter().try_for_each(|(role, witness)| unchanged(role, witness))
}

/// Makes a slug out of whatever a stage returned.
pub(crate) fn clean_slug(text: &str) -> String {
    let clean = |c: char| {
        let c = c.to_ascii_lowercase();
        if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' { c } else { '-' }
    };
    let slug: String = text.chars().map(clean).take(40).collect();
    if slug.is_empty() { "default".to_owned() } else { slug }
}
