//! Runs of the pipeline as calls of make.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use outputs::{Choice, Document as _};
use serde_json::Value as Json;
use toml::Value;

use crate::args::Args;
use crate::error::{Error, Result};
use crate::member::Run;
use crate::spec::{self, Sweep};
use crate::value;

/// Files that are in the root of every checkout.
const CHECKOUT: [&str; 2] = ["Makefile", "pipelines/pipeline.mk"];
/// Variables of a make around this program, which the makes that it starts must not see.
const REMOVED_VARIABLES: [&str; 4] = ["MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL"];
/// Variable with the file to which plans are written.
const PLAN_VARIABLE: &str = "ASHLAR_PLAN";

/// How make is called for the runs of a sweep.
#[derive(Debug, Clone)]
pub(crate) struct Make {
    /// Folder of the sweep.
    pub(crate) folder: PathBuf,
    pub(crate) store: PathBuf,
    pub(crate) pipeline: String,
    pub(crate) model: String,
    /// Settings of the command line, before those of the sweep.
    common: Vec<String>,
    /// Further variables.
    variables: Vec<String>,
}

/// Plan of one stage of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct StagePlan {
    pub(crate) stage: String,
    pub(crate) action: String,
    pub(crate) key: String,
    /// Memory that it needs, in bytes.
    pub(crate) memory: Option<u64>,
    /// Memory that it may use, in bytes.
    pub(crate) memory_limit: Option<u64>,
    /// Settings with their defaults.
    pub(crate) settings: Json,
}

impl Make {
    /// Checks that this folder is a checkout.
    pub(crate) fn new(args: &Args, sweep: &Sweep) -> Result<Self> {
        if let Some(missing) = CHECKOUT.iter().map(Path::new).find(|file| !file.is_file()) {
            return Err(Error::NoCheckout { file: missing.to_owned() });
        }
        // The record names reports, and make gets the folders as variables: both are text.
        for (flag, path) in [("--store", &args.store), ("--build", &args.build)] {
            if path.to_str().is_none() {
                return Err(Error::NotText { flag, path: path.clone() });
            }
        }
        Ok(Self {
            folder: args.build.join("sweeps").join(&sweep.name),
            store: args.store.clone(),
            pipeline: sweep.pipeline.clone(),
            model: sweep.model.clone(),
            common: args.set.clone(),
            variables: args.make.clone(),
        })
    }

    /// Returns the folder of a run, with its log and its pointers.
    pub(crate) fn folder_of(&self, run: &Run) -> PathBuf {
        self.folder.join(&run.name)
    }

    /// Returns the settings of the command line with their values.
    ///
    /// # Errors
    ///
    /// Fails for one that names no stage.
    pub(crate) fn common_settings(&self) -> Result<Vec<(String, Value)>> {
        let parsed = |word: &String| {
            let (setting, value) = word.split_once('=').unwrap_or((word, ""));
            spec::check_stage(setting.trim()).map_err(|problem| problem.at(format!("--set {word}")))?;
            Ok((setting.trim().to_owned(), value::parse(value.trim())))
        };
        self.common.iter().map(parsed).collect()
    }

    /// Returns the value of `SET` for a run.
    pub(crate) fn set(&self, run: &Run) -> Result<String> {
        run.set(&self.common)
    }

    /// Returns the arguments of make for a target of a run, without a shell's quotes.
    pub(crate) fn arguments(&self, run: &Run, target: &str) -> Result<Vec<String>> {
        let mut variables = self.variables.clone();
        variables.extend([
            format!("PIPELINE={}", self.pipeline),
            format!("MODEL={}", self.model),
            format!("STORE={}", self.store.display()),
            format!("BUILD={}", self.folder_of(run).display()),
            format!("SET={}", self.set(run)?),
        ]);
        // Make expands `$`.
        let variables = variables.into_iter().map(|variable| variable.replace('$', "$$"));
        Ok(["--no-print-directory".to_owned(), target.to_owned()].into_iter().chain(variables).collect())
    }

    /// Returns make for a target of a run, as a member of its own process group that ends with this program.
    pub(crate) fn supervised(&self, run: &Run, target: &str) -> Result<Command> {
        let mut command = clean(Command::new("sh"));
        command.arg("pipelines/member.sh").arg("make").args(self.arguments(run, target)?);
        Ok(command)
    }

    /// Runs make for a target that changes nothing; the stages append their plans to the file `plan`.
    fn look(&self, run: &Run, target: &str, plan: Option<&Path>) -> Result<()> {
        let mut command = clean(Command::new("make"));
        command.args(self.arguments(run, target)?).stdin(Stdio::null());
        if let Some(plan) = plan {
            command.env(PLAN_VARIABLE, plan);
        }
        let output = command.output().map_err(|source| Error::Start { program: "make", source })?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
        Err(Error::Plan { run: run.name.clone(), said })
    }

    /// Checks the settings of all stages of a run.
    pub(crate) fn check_settings(&self, run: &Run) -> Result<()> {
        self.look(run, "check-settings", None)
    }

    /// Plans a run: what each of its stages would do, up to the first that would run.
    pub(crate) fn plan(&self, run: &Run) -> Result<Vec<StagePlan>> {
        let file = tempfile::NamedTempFile::new()?;
        self.look(run, "plan", Some(file.path()))?;
        let text = fs_err::read_to_string(file.path())?;
        Ok(text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .map(|plan: Json| stage_plan(&plan))
            .collect())
    }

    /// Returns the artifact that a stage made in the last run of a member, if there is one.
    pub(crate) fn artifact(&self, run: &Run, stage: &str) -> Option<PathBuf> {
        let pointers = self.folder_of(run).join(&self.pipeline).join(&self.model);
        let text = fs_err::read_to_string(pointers.join(format!("{stage}.path"))).ok()?;
        Some(text.trim_end().into())
    }

    /// Returns what select-best chose.
    pub(crate) fn choice(&self, run: &Run) -> Result<Option<Choice>> {
        let Some(artifact) = self.artifact(run, Choice::STAGE) else { return Ok(None) };
        Ok(Choice::read_if_present(&artifact.join("data"))?)
    }

    /// Returns how many steps a run trained itself: without those of a shorter run from which it resumed.
    pub(crate) fn trained_steps(&self, run: &Run) -> Result<Option<TrainedSteps>> {
        let Some(artifact) = self.artifact(run, outputs::Summary::STAGE) else { return Ok(None) };
        let Some(summary) = outputs::Summary::read_if_present(&artifact.join("data"))? else {
            return Ok(None);
        };
        let provenance = fs_err::read(artifact.join("provenance.json")).ok();
        let provenance: Json =
            provenance.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let taken_over = provenance["resumed_from"]["steps"].as_u64().unwrap_or(0);
        Ok(Some(TrainedSteps { all: summary.steps, taken_over }))
    }
}

/// Steps of a training run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TrainedSteps {
    pub(crate) all: u64,
    /// Those of a shorter run from which it resumed.
    pub(crate) taken_over: u64,
}

fn clean(mut command: Command) -> Command {
    for name in REMOVED_VARIABLES {
        command.env_remove(name);
    }
    command
}

fn stage_plan(plan: &Json) -> StagePlan {
    let text = |name: &str| plan[name].as_str().unwrap_or_default().to_owned();
    StagePlan {
        stage: text("stage"),
        action: text("action"),
        key: text("key"),
        memory: plan["memory"]["needed_bytes"].as_u64(),
        memory_limit: plan["memory"]["limit_bytes"].as_u64(),
        settings: plan["key_material"]["config"].clone(),
    }
}

impl StagePlan {
    /// Returns whether the store has the artifact.
    pub(crate) fn is_up_to_date(&self) -> bool {
        self.action == "hit"
    }
}
