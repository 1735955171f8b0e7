//! One run of a stage: resolve settings, look up the key, work, publish.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use artifact::{Artifact, Claim, Draft, Folder, Key, KeyLock, Level, Published, Store, Witness, Workspace};
use failure::{Context, Error, Kind, Result};
use serde_json::Value;

use crate::args::CommonArgs;
use crate::below::last_folder_in;
use crate::config::{self, Config};
use crate::identity::Identity;
use crate::input::{Input, check_role, unchanged};
use crate::job::Job;
use crate::lookup::find_or_quarantine;
use crate::plan::{Memory, Notes};
use crate::provenance::Recorder;
use crate::scratch_folder::ScratchFolder;
use crate::signals::StopFlag;
use crate::{ending, folders, lineage, output, plan};

/// Run of the stage with settings `C`, while its inputs are collected.
///
/// The order of the calls does not matter: the key is computed by [`Run::with_key`] or [`Run::execute`].
#[derive(Debug)]
pub struct Run<C: Config> {
    pub(crate) common: CommonArgs,
    pub(crate) config: C,
    store: Option<Store>,
    pub(crate) inputs: BTreeMap<String, Input>,
    pub(crate) numerics: BTreeMap<String, String>,
    claims_nothing: bool,
    notes: Notes,
    expected_bytes: u64,
    expected_state_bytes: u64,
    /// Where a segment stops.
    pub(crate) stop_at: Option<String>,
    recorder: Recorder,
}

/// Run whose inputs are complete, so that its key is known.
#[derive(Debug)]
pub struct KeyedRun<C: Config> {
    run: Run<C>,
    id: Identity,
}

impl<C: Config> Run<C> {
    /// Resolves the settings: defaults, then the stage's table of each `--config`, then `--set`.
    ///
    /// # Errors
    ///
    /// Fails on unknown or wrong settings (exit 2).
    pub fn new(common: &CommonArgs) -> Result<Self> {
        Self::adjusted(common, |_| {})
    }

    /// As [`Run::new`]; `adjust` applies the stage's own flags after all other settings.
    ///
    /// # Errors
    ///
    /// As [`Run::new`].
    pub fn adjusted(common: &CommonArgs, adjust: impl FnOnce(&mut C)) -> Result<Self> {
        let mut config = config::resolve::<C>(common)?;
        adjust(&mut config);
        config::check(&mut config)?;
        check_folders(common)?;
        let store = match &common.out {
            // Refs are still found where the store is.
            Some(_) => Store::open(&common.store).ok(),
            None => Some(Store::open(&common.store)?),
        };
        if let (Some(label), Some(store)) = (&common.label, &store) {
            store.check_ref(label)?;
        }
        let memo = store.as_ref().filter(|_| common.out.is_none()).map(Store::memo).unwrap_or_default();
        Ok(Self {
            common: common.clone(),
            config,
            store,
            inputs: BTreeMap::new(),
            numerics: BTreeMap::new(),
            claims_nothing: false,
            notes: Notes::default(),
            expected_bytes: 0,
            expected_state_bytes: 0,
            stop_at: None,
            recorder: Recorder::start(memo),
        })
    }

    /// Returns the settings.
    pub fn config(&self) -> &C {
        &self.config
    }

    /// Opens an input artifact (a path, or a ref's name) and binds the key to its output `output`, or to all
    /// of its data if `output` is empty.
    ///
    /// # Errors
    ///
    /// Fails if there is no such artifact or output, or if it is damaged (exit 65).
    pub fn input(&mut self, role: &str, locator: &Path, output: &str) -> Result<Input> {
        let input = Input::open(self.store.as_ref(), locator, output);
        self.add(role, input)
    }

    /// Opens a plain folder or file as input and binds the key to its content.
    ///
    /// # Errors
    ///
    /// Fails if it is missing, unreadable or empty (exit 65).
    pub fn input_folder(&mut self, role: &str, path: &Path) -> Result<Input> {
        let input = Input::open_bare(self.store(), path);
        self.add(role, input)
    }

    /// Opens `locator` as a plain folder if it contains a file of `markers`, and otherwise as [`Run::input`] does, so that
    /// the result of another tool can replace an artifact.
    ///
    /// # Errors
    ///
    /// As [`Run::input`] and [`Run::input_folder`].
    pub fn input_or_folder(
        &mut self,
        role: &str,
        locator: &Path,
        output: &str,
        markers: &[&str],
    ) -> Result<Input> {
        if markers.iter().any(|marker| locator.join(marker).is_file()) {
            self.input_folder(role, locator)
        } else {
            self.input(role, locator, output).map_err(|error| {
                let holds = |folder: &Path| markers.iter().any(|marker| folder.join(marker).is_file());
                match last_folder_in(locator, holds) {
                    Some(inside) => {
                        error.hinted(format!("a folder in it has one: give `{}`", inside.display()))
                    }
                    None => error,
                }
            })
        }
    }

    /// Opens an input artifact and binds the key to its whole manifest, settings and history included.
    ///
    /// # Errors
    ///
    /// As [`Run::input`].
    pub fn input_manifest(&mut self, role: &str, locator: &Path) -> Result<Input> {
        let input = Input::open_manifest(self.store.as_ref(), locator);
        self.add(role, input)
    }

    fn add(&mut self, role: &str, opened: Result<Input>) -> Result<Input> {
        check_role(role)?;
        let input = opened.with_context(|| format!("opening input `{role}`"))?;
        if self.inputs.insert(role.to_owned(), input.clone()).is_some() {
            return Err(Error::usage(format!("input `{role}` is given twice")));
        }
        Ok(input)
    }

    /// Sets what else decides the bytes of a stage that computes with floats: library version, backend, device class,
    /// dtype.
    pub fn numerics(&mut self, numerics: BTreeMap<String, String>) {
        self.numerics = numerics;
    }

    /// Claims nothing about the bytes of another run, for a stage whose result depends on more than its key, such as the answers of
    /// a server.
    pub fn claim_nothing(&mut self) {
        self.claims_nothing = true;
    }

    /// Adds a line for people to `--plan`, such as an estimate of memory.
    pub fn note(&mut self, note: String) {
        self.notes.lines.push(note);
    }

    /// Sets how many bytes the stage will write, so that missing space is noticed before the work.
    pub fn expect_bytes(&mut self, bytes: u64) {
        self.expected_bytes = bytes;
    }

    /// Sets how many of these bytes the stage will also write to the folder for its resume state, which may be on another file system.
    pub fn expect_state_bytes(&mut self, bytes: u64) {
        self.expected_state_bytes = bytes;
    }

    /// Makes this run a segment that stops at `stop_at`. Its body fills the output [`SEGMENT_OUTPUT`](crate::SEGMENT_OUTPUT).
    pub fn stop_at(&mut self, stop_at: &str) {
        self.stop_at = Some(stop_at.to_owned());
    }

    /// Returns the store, or `None` with `--out`.
    pub fn store(&self) -> Option<&Store> {
        if self.common.out.is_some() { None } else { self.store.as_ref() }
    }

    /// Computes the key; no input can be added afterwards.
    ///
    /// # Errors
    ///
    /// Fails if a setting cannot be part of a key (exit 2), and if inputs were not made from each other (exit 65).
    pub fn with_key(self) -> Result<KeyedRun<C>> {
        lineage::check(C::STAGE, &self.inputs)?;
        let id = Identity::new(&self.config, &self.inputs, &self.numerics, self.stop_at.as_deref())?;
        Ok(KeyedRun { run: self, id })
    }

    /// As [`KeyedRun::execute`].
    ///
    /// # Errors
    ///
    /// As [`KeyedRun::execute`].
    pub fn execute(self, body: impl FnOnce(&mut Job, &C) -> Result<()>) -> Result<()> {
        self.with_key()?.execute(body)
    }
}

impl<C: Config> KeyedRun<C> {
    /// Returns the key.
    pub fn key(&self) -> &Key {
        &self.id.key
    }

    /// Returns the settings.
    pub fn config(&self) -> &C {
        &self.run.config
    }

    /// Returns the store, or `None` with `--out`.
    pub fn store(&self) -> Option<&Store> {
        self.run.store()
    }

    /// As [`Run::note`].
    pub fn note(&mut self, note: String) {
        self.run.note(note);
    }

    /// Sets how much memory the stage will need and may use, in bytes, for programs that read `--plan --json`.
    pub fn expect_memory(&mut self, needed_bytes: u64, limit_bytes: u64) {
        self.run.notes.memory = Some(Memory { needed_bytes, limit_bytes });
    }

    /// As [`Run::expect_bytes`].
    pub fn expect_bytes(&mut self, bytes: u64) {
        self.run.expect_bytes(bytes);
    }

    /// As [`Run::expect_state_bytes`].
    pub fn expect_state_bytes(&mut self, bytes: u64) {
        self.run.expect_state_bytes(bytes);
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.id
    }

    /// Returns the store in which refs are looked up.
    pub(crate) fn shared_store(&self) -> Option<&Store> {
        self.run.store.as_ref()
    }

    /// Opens the artifact of this run if it exists: in the store, or the folder of `--out`.
    ///
    /// # Errors
    ///
    /// Fails if the store cannot be read, or if the artifact is damaged.
    pub fn existing(&self) -> Result<Option<Artifact>> {
        let Some(out) = &self.run.common.out else {
            let Some(store) = self.store() else { return Ok(None) };
            return Ok(store.lookup_with(self.id.stage, &self.id.key, &self.id.slug, Level::Auto)?);
        };
        let found = match Artifact::open(out) {
            Err(error) if Folder::is_committed(out) => return Err(explain_damage(out, error)),
            found => found.ok(),
        };
        Ok(found
            .filter(|found| found.manifest().key == self.id.key && found.manifest().stage == self.id.stage))
    }

    /// Returns whether the store has an artifact of this key, sound or not, that the run would not make again.
    ///
    /// # Errors
    ///
    /// Fails if the store cannot be listed.
    pub fn may_exist(&self) -> Result<bool> {
        let common = &self.run.common;
        let Some(store) = self.store().filter(|_| !common.force && !common.check) else { return Ok(false) };
        Ok(store.find(self.id.stage, &self.id.key, &self.id.slug)?.is_some())
    }

    /// Returns the folder of the resume state, if an earlier process left something there; nothing is created or locked.
    ///
    /// # Errors
    ///
    /// Fails on a bad stage name.
    pub fn resume_dir(&self) -> Result<Option<PathBuf>> {
        let Some(store) = self.store() else { return Ok(ScratchFolder::left(&self.run.common, &self.id)) };
        let workspace = store.workspace(self.id.stage, &self.id.key)?;
        Ok(workspace.has_state().then(|| workspace.state_dir()))
    }

    /// Does what the flags ask for: plans, prints the path of the existing artifact, or runs `body` and publishes its
    /// result.
    ///
    /// Ends with one line on stderr that says what happened and how long it took.
    ///
    /// # Errors
    ///
    /// Returns the error of `body` or of publishing; then nothing is published.
    pub fn execute(&self, body: impl FnOnce(&mut Job, &C) -> Result<()>) -> Result<()> {
        let common = &self.run.common;
        let resumes = || Ok::<_, Error>(self.resume_dir()?.is_some_and(|folder| C::has_state(&folder)));
        match (&common.out, &self.run.store) {
            (Some(out), _) if common.plan => {
                let exists = self.existing()?.is_some();
                plan::for_folder(common, &self.id, out, exists, resumes()?, &self.run.notes)
            }
            (Some(out), _) => self.run_to_folder(out, body),
            (None, Some(store)) if common.plan => {
                plan::for_store(common, store, &self.id, &self.run.inputs, resumes()?, &self.run.notes)
            }
            (None, Some(store)) => self.run_to_store(store, body),
            (None, None) => unreachable!("a run without --out has a store"),
        }
    }

    fn run_to_store(&self, store: &Store, body: impl FnOnce(&mut Job, &C) -> Result<()>) -> Result<()> {
        let (id, common) = (&self.id, &self.run.common);
        let again = common.force || common.check;
        // A damaged artifact is replaced later, under the lock: another process may be doing so.
        let looked = store.lookup_with(id.stage, &id.key, &id.slug, Level::Auto);
        if let (Ok(Some(artifact)), false) = (&looked, again) {
            return self.finish(store, artifact, None);
        }
        looked.or_else(|error| if error.is_damage() { Ok(None) } else { Err(error) })?;
        store.check_space(self.run.expected_bytes)?;
        let witnesses = self.verify_inputs()?;
        let stop = StopFlag::new();
        let mut waiting = |what: &str| tracing::info!("waiting for another process: {what}");
        let lock =
            store.lock(id.stage, &id.key, common.lock_wait, &mut waiting, &|| stop.requested().is_some());
        stop.check()?;
        let lock = lock?;
        let existing = find_or_quarantine(store, id.stage, &id.key, &id.slug)?;
        if let (Some(artifact), false) = (&existing, again) {
            tracing::debug!("{} {}: another process has made it", id.stage, id.key.short());
            return self.finish(store, artifact, None);
        }
        let comparing = common.check && existing.is_some();
        let workspace = if comparing { None } else { self.workspace(store, &lock)? };
        let worked = self.work(store, workspace.as_ref(), &witnesses, body);
        if let (Err(_), Some(workspace)) = (&worked, &workspace)
            && let Err(error) = workspace.release()
        {
            tracing::warn!("the next run may start from the beginning: {}", failure::describe(&error));
        }
        let (artifact, summary) = worked?;
        drop(lock);
        self.finish(store, &artifact, Some(summary))
    }

    /// Returns the workspace, prepared; `None` if another process may be working in it, because locks do nothing here or may exclude
    /// only the processes of this machine.
    fn workspace(&self, store: &Store, lock: &KeyLock) -> Result<Option<Workspace>> {
        let workspace = store.workspace(self.id.stage, &self.id.key)?;
        if lock.excludes() {
            workspace.prepare(store)?;
        } else if !workspace.claim(store)? {
            tracing::warn!(
                "another process may be making the same artifact, so this run cannot be resumed; if there is none, \
                 remove `{}`",
                workspace.claim_path().display()
            );
            return Ok(None);
        }
        Ok(Some(workspace))
    }

    /// Runs the body and publishes its result, while the lock is held. Returns the artifact and the body's summary.
    ///
    /// Without a workspace, the body gets a temporary folder for its resume state, and makes its units itself.
    fn work(
        &self,
        store: &Store,
        workspace: Option<&Workspace>,
        witnesses: &BTreeMap<String, Witness>,
        body: impl FnOnce(&mut Job, &C) -> Result<()>,
    ) -> Result<(Artifact, String)> {
        let run = &self.run;
        let staging = store.stage_new(self.id.stage)?;
        let temporary = workspace.is_none().then(ScratchFolder::temporary).transpose()?;
        let resume_dir = match (workspace, &temporary) {
            (Some(workspace), _) => workspace.state_dir(),
            (None, Some(temporary)) => {
                temporary.check_space(run.expected_state_bytes)?;
                temporary.path().to_owned()
            }
            (None, None) => unreachable!("there is a temporary folder where there is no workspace"),
        };
        let units = workspace.is_some().then(|| store.clone());
        let mut job = Job::new(staging.data(), staging.telemetry(), &resume_dir, units, &run.numerics);
        job.lock_wait = run.common.lock_wait;
        job.is_resumable = workspace.is_some();
        body(&mut job, &run.config)?;

        job.record_resuming(&run.recorder);
        let (metrics, summary) = job.into_results();
        let mut draft = self.draft(metrics);
        draft.provenance = run.recorder.finish();
        let published = staging.publish(&draft, &mut || check_inputs(witnesses));
        let published = refused(published).context("publishing the artifact")?;
        if let Some(workspace) = workspace {
            workspace.remove()?;
        }
        Ok((self.judge(published)?, summary))
    }

    fn judge(&self, published: Published) -> Result<Artifact> {
        let common = &self.run.common;
        match published {
            Published::New(artifact) => {
                if common.check {
                    tracing::warn!("no artifact to compare with; published; run `--check` again");
                }
                Ok(artifact)
            }
            Published::Same(artifact) => {
                if common.check || common.force {
                    tracing::info!("ran again and got identical bytes");
                }
                Ok(artifact)
            }
            Published::Different { artifact, quarantined, tree } => {
                let message = format!(
                    "the stage is not deterministic: running again gave {} instead of {} ({}); the new bytes are in `{}`",
                    tree.short(),
                    artifact.tree().short(),
                    output::differing_files(&artifact, &quarantined),
                    quarantined.display()
                );
                if common.check {
                    return Err(Error::new(Kind::Nondeterministic, message));
                }
                tracing::warn!("{message}; the first artifact is kept");
                Ok(artifact)
            }
        }
    }

    fn run_to_folder(&self, out: &Path, body: impl FnOnce(&mut Job, &C) -> Result<()>) -> Result<()> {
        let (id, run) = (&self.id, &self.run);
        if run.common.check {
            return Err(Error::usage("`--check` needs a store; it cannot be used with `--out`"));
        }
        if !run.common.force && self.existing()?.is_some() {
            ending::up_to_date(id.stage, out, run.recorder.elapsed());
            return output::print_path(out);
        }
        artifact::check_space(out, run.expected_bytes)?;
        let witnesses = self.verify_inputs()?;
        let stop = StopFlag::new();
        let mut waiting = |what: &str| tracing::info!("waiting for another process: {what}");
        let begun =
            Folder::begin_with(out, run.common.lock_wait, &mut waiting, &|| stop.requested().is_some());
        stop.check()?;
        // Also with `--force`: a damaged artifact is named.
        if matches!(begun, Err(artifact::Error::Occupied { .. }))
            && self.existing()?.is_some()
            && !run.common.force
        {
            tracing::debug!("{}: another process has made it", id.stage);
            ending::up_to_date(id.stage, out, run.recorder.elapsed());
            return output::print_path(out);
        }
        let folder = explained(begun, "give `--out` a new or empty folder")?;
        let scratch = ScratchFolder::new(&run.common, id)?;
        if !C::has_state(scratch.path()) {
            scratch.check_space(run.expected_state_bytes)?;
        }
        let mut job = Job::new(folder.data(), folder.telemetry(), scratch.path(), None, &run.numerics);
        job.is_resumable = scratch.is_kept();
        body(&mut job, &run.config)?;
        job.record_resuming(&run.recorder);
        let (metrics, summary) = job.into_results();
        let mut draft = self.draft(metrics);
        draft.provenance = run.recorder.finish();
        if Recorder::is_reproducible() {
            folder.drop_telemetry()?;
        }
        let sealed = folder.seal(&draft, &mut || check_inputs(&witnesses));
        explained(sealed, "move it out of the folder, then run the same command again")
            .context("writing the artifact")?;
        scratch.remove()?;
        ending::finished(id.stage, &summary, out, run.recorder.elapsed());
        output::print_path(out)
    }

    /// Runs `body` between two looks at the inputs, and publishes nothing.
    pub(crate) fn with_verified_inputs(&self, body: impl FnOnce(&C) -> Result<()>) -> Result<()> {
        let witnesses = self.verify_inputs()?;
        body(&self.run.config)?;
        refused(check_inputs(&witnesses))
    }

    fn verify_inputs(&self) -> Result<BTreeMap<String, Witness>> {
        let verify = |(role, input): (&String, &Input)| {
            let witness = input.verify().with_context(|| format!("verifying input `{role}`"))?;
            Ok((role.clone(), witness))
        };
        self.run.inputs.iter().map(verify).collect()
    }

    fn draft(&self, metrics: BTreeMap<String, f64>) -> Draft {
        let run = &self.run;
        Draft {
            slug: self.id.slug.clone(),
            key_material: self.id.material.clone(),
            inputs: run.inputs.iter().map(|(role, input)| (role.clone(), input.record.clone())).collect(),
            metrics,
            claim: match (run.claims_nothing, run.numerics.is_empty()) {
                (true, _) => Claim::None,
                (false, true) => Claim::BitExact,
                (false, false) => Claim::Backend,
            },
            provenance: Value::Null,
            check_file: tensors::refusal,
            config_defaults: config::to_material(&C::default()).unwrap_or_default(),
        }
    }

    /// Sets the label, and prints the ending line and the path. `summary` is that of the body, if it ran.
    fn finish(&self, store: &Store, artifact: &Artifact, summary: Option<String>) -> Result<()> {
        artifact.mark_used();
        if let Some(label) = &self.run.common.label {
            store.set_ref(label, artifact)?;
        }
        let (stage, elapsed) = (self.id.stage, self.run.recorder.elapsed());
        match summary {
            Some(summary) => ending::finished(stage, &summary, artifact.path(), elapsed),
            None => ending::up_to_date(stage, artifact.path(), elapsed),
        }
        output::print_path(artifact.path())
    }
}

/// Fails if a flag that takes a folder names something else.
fn check_folders(common: &CommonArgs) -> Result<()> {
    match &common.out {
        Some(out) => folders::check("--out", out)?,
        None => folders::check("--store", &common.store)?,
    }
    common.resume_dir.as_ref().map_or(Ok(()), |dir| folders::check("--resume-dir", dir))
}

/// Adds a remedy to an error about a damaged artifact in the folder `out` of `--out`.
fn explain_damage(out: &Path, error: artifact::Error) -> Error {
    let hint = match Folder::foreign_name(out) {
        _ if !error.is_damage() => return error.into(),
        Some(name) => format!("move `{name}` out of the folder, then run the same command again"),
        None => "delete the folder, then run the same command again".to_owned(),
    };
    Error::from(error).hinted(hint)
}

/// Adds `hint` to an error about a foreign file in the folder of `--out`.
fn explained<T>(result: artifact::Result<T>, hint: &str) -> Result<T> {
    let is_occupied = matches!(result, Err(artifact::Error::Occupied { .. }));
    let result = refused(result);
    if is_occupied { result.hint(hint) } else { result }
}

fn check_inputs(witnesses: &BTreeMap<String, Witness>) -> artifact::Result<()> {
    let checked = witnesses.iter().try_for_each(|(role, witness)| unchanged(role, witness));
    checked.map_err(artifact::Error::Precondition)
}

/// Takes the error of [`check_inputs`] out of the error of publishing.
fn refused<T>(published: artifact::Result<T>) -> Result<T> {
    published.map_err(|error| match error {
        artifact::Error::Precondition(error) => error,
        error => error.into(),
    })
}
