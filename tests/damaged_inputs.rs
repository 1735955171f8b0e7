//! Inputs that are damaged or no regular files, for every stage that takes artifacts: each is refused at once with a message that
//! names it, and a flipped bit is refused unless the stage does not use the file.
//!
//! `ASHLAR_EVERY` is the distance between the files that are tried (default 3); `make soak` tries all.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use artifact::{Artifact, Level, TreeHash};
use testutil::files::{contents, copy, remove};
use testutil::{Program, Ran, Sandbox};

/// Inputs of each stage: its flag with what precedes the path, and the stage that makes it.
const INPUTS: [(&str, &[(&str, &str)]); 7] = [
    ("prepare-data", &[("--tokenizer=", "import-model")]),
    ("train", &[("--model=", "import-model"), ("--dataset=", "prepare-data")]),
    ("validate", &[("--model=", "import-model"), ("--dataset=", "prepare-data"), ("--train=", "train")]),
    ("select-best", &[("--model=", "import-model"), ("--train=", "train"), ("--validate=", "validate")]),
    ("fuse", &[("--model=", "import-model"), ("--adapters=", "select-best"), ("--dataset=", "prepare-data")]),
    (
        "evaluate",
        &[("--model=base=", "import-model"), ("--model=fused=", "fuse"), ("--dataset=", "prepare-data")],
    ),
    (
        "report",
        &[
            ("--import-model=", "import-model"),
            ("--prepare-data=", "prepare-data"),
            ("--train=", "train"),
            ("--validate=", "validate"),
            ("--select-best=", "select-best"),
            ("--fuse=", "fuse"),
            ("--evaluate=", "evaluate"),
        ],
    ),
];
/// Long enough for a stage on a busy machine, and short enough for a test that finds one that waits forever.
const PATIENCE: Duration = Duration::from_mins(1);
/// Exit code for input that is damaged, missing or of a wrong kind.
const BAD_INPUT: i32 = 65;
/// Exit code for a file that cannot be read.
const UNREADABLE: i32 = 74;

type Kind = fn(&Path);

/// What may be in the place of a file or folder.
const KINDS: [(&str, Kind); 6] = [
    ("a pipe", |path| {
        Program::new("mkfifo").arg(path).run().succeeded();
    }),
    ("an endless device", |path| symlink("/dev/zero", path).expect("a link can be made")),
    ("a link to nothing", |path| symlink("/nowhere/at/all", path).expect("a link can be made")),
    ("a link to itself", |path| symlink(path, path).expect("a link can be made")),
    ("an empty file", |path| fs_err::write(path, "").expect("a file can be written")),
    ("an empty folder", |path| fs_err::create_dir(path).expect("a folder can be made")),
];

/// An artifact of every stage, and of what it was made.
struct Chain {
    sandbox: Sandbox,
    paths: BTreeMap<&'static str, PathBuf>,
    trees: BTreeMap<&'static str, TreeHash>,
}

impl Chain {
    fn new(name: &str) -> Result<Self> {
        let sandbox = Sandbox::at(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("damaged_inputs").join(name));
        let model = sandbox.model("data/models/demo");
        let mut chain =
            Self { sandbox, paths: [("import-model", model.into())].into(), trees: BTreeMap::new() };
        for (stage, _) in INPUTS {
            let path = chain.run(stage, None)?.path();
            chain.trees.insert(stage, Artifact::open_with(&path, Level::Hash)?.tree());
            chain.paths.insert(stage, path);
        }
        Ok(chain)
    }

    fn out(&self) -> PathBuf {
        self.sandbox.join("out")
    }

    /// Runs a stage, with another path for one of its inputs or damage in one of them; then into the folder [`Chain::out`], so
    /// that it does not find its result in the store.
    fn run(&self, stage: &str, tried: Option<(&str, &Path)>) -> Result<Ran> {
        let mut program =
            self.sandbox.stage(stage, &["--set", "train.steps=2", "--set", "evaluate.generated_rows=1"]);
        if stage == "prepare-data" {
            program.args(["--data", "data/haw-eng"]);
        }
        for (flag, producer) in inputs(stage) {
            let path =
                tried.filter(|(other, _)| other == flag).map_or(&*self.paths[producer], |(_, path)| path);
            program.arg(format!("{flag}{}", path.display()));
        }
        if tried.is_some() {
            remove(&self.out());
            program.arg("--out").arg(self.out());
        }
        let mut child = program.spawn();
        let begun = Instant::now();
        // The messages of a small run fit in a pipe.
        while child.try_wait()?.is_none() {
            if begun.elapsed() > PATIENCE {
                child.kill()?;
                anyhow::bail!("`{stage}` does not end");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(Ran::from(child.wait_with_output()?))
    }

    /// Runs a stage that must refuse an input, naming one of `names`.
    fn refused(&self, stage: &str, flag: &str, path: &Path, names: &[&str]) -> Result<()> {
        let ran = self.run(stage, Some((flag, path)))?;
        ensure!(
            matches!(ran.code, Some(BAD_INPUT | UNREADABLE))
                && names.iter().any(|name| ran.stderr.contains(name)),
            "{:?} {}",
            ran.code,
            ran.stderr
        );
        ensure!(ran.stdout.is_empty() && !ran.stderr.contains("panicked"), "{}{}", ran.stdout, ran.stderr);
        ensure!(!self.out().exists(), "the failed stage left `{}`", self.out().display());
        Ok(())
    }

    /// Lists the hashed files of an artifact, from the first of them on by [`every`].
    fn files(&self, producer: &str, first: usize) -> Vec<String> {
        let mut files: Vec<String> = contents(&self.paths[producer]).into_keys().collect();
        files.retain(|file| !file.starts_with("telemetry"));
        files.into_iter().skip(first % every()).step_by(every()).collect()
    }
}

fn every() -> usize {
    std::env::var("ASHLAR_EVERY").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

fn inputs(stage: &str) -> &'static [(&'static str, &'static str)] {
    INPUTS.iter().find(|(name, _)| *name == stage).map_or(&[], |(_, inputs)| inputs)
}

/// Returns every stage with each of its inputs, numbered.
fn all_inputs() -> impl Iterator<Item = (usize, &'static str, &'static str, &'static str)> {
    let pairs = INPUTS.iter().flat_map(|(stage, inputs)| inputs.iter().map(move |input| (*stage, *input)));
    pairs.enumerate().map(|(number, (stage, (flag, producer)))| (number, stage, flag, producer))
}

#[test]
fn what_is_no_artifact_is_refused_by_every_stage() -> Result<()> {
    let chain = Chain::new("no_artifact")?;
    for (_, stage, flag, _) in all_inputs() {
        for (kind, make) in KINDS {
            let odd = chain.sandbox.join("odd-input");
            make(&odd);
            chain
                .refused(stage, flag, &odd, &["odd-input"])
                .with_context(|| format!("{stage} {flag}: {kind}"))?;
            delete(&odd)?;
        }
    }
    Ok(())
}

#[test]
fn an_artifact_in_which_a_file_is_something_else_is_refused_by_every_stage() -> Result<()> {
    let chain = Chain::new("no_file")?;
    let mut kinds = KINDS.iter().cycle();
    for (number, stage, flag, producer) in all_inputs() {
        for file in chain.files(producer, number) {
            let copied = chain.sandbox.join("copied");
            remove(&copied);
            copy(&chain.paths[producer], &copied);
            let odd = copied.join(&file);
            allow_changes(&copied);
            fs_err::remove_file(&odd)?;
            let (kind, make) = kinds.next().context("there are kinds")?;
            make(&odd);
            let name = odd.file_name().unwrap_or_default().to_string_lossy().into_owned();
            chain
                .refused(stage, flag, &copied, &[&name, "copied"])
                .with_context(|| format!("{stage} {flag}: {file} is {kind}"))?;
        }
    }
    Ok(())
}

#[test]
fn a_flipped_bit_is_refused_by_every_stage_that_uses_the_file() -> Result<()> {
    let chain = Chain::new("flipped")?;
    let mut refusals = BTreeMap::<&str, usize>::new();
    for (number, stage, flag, producer) in all_inputs() {
        let folder = chain.paths[producer].clone();
        for file in chain.files(producer, number) {
            let path = folder.join(&file);
            let sound = fs_err::read(&path)?;
            let place = (number * 7919 + file.len() * 104_729) % sound.len();
            let mut flipped = sound.clone();
            flipped[place] ^= 1 << (number % 8);
            overwrite(&path, &flipped)?;
            let ran = chain.run(stage, Some((flag, &folder)))?;
            overwrite(&path, &sound)?;
            let what = format!("{stage} {flag}{file}: bit {} of byte {place}: {}", number % 8, ran.stderr);
            if ran.code == Some(0) {
                let made = Artifact::open_with(&chain.out(), Level::Hash)?.tree();
                ensure!(made == chain.trees[stage], "used without a message: {what}");
            } else {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                ensure!(ran.code == Some(BAD_INPUT) && ran.stderr.contains(&name), "{:?} {what}", ran.code);
                *refusals.entry(stage).or_default() += 1;
            }
        }
    }
    ensure!(refusals.len() == INPUTS.len(), "some stage took every file: {refusals:?}");
    Ok(())
}

/// Replaces the bytes of a read-only file in its place.
fn overwrite(path: &Path, bytes: &[u8]) -> Result<()> {
    let permissions = fs_err::metadata(path)?.permissions();
    fs_err::set_permissions(path, PermissionsExt::from_mode(0o600))?;
    fs_err::write(path, bytes)?;
    fs_err::set_permissions(path, permissions)?;
    Ok(())
}

fn allow_changes(folder: &Path) {
    Program::new("chmod").args(["-R", "u+w"]).arg(folder).run().succeeded();
}

fn delete(path: &Path) -> Result<()> {
    let is_folder = path.symlink_metadata()?.is_dir();
    Ok(if is_folder { fs_err::remove_dir(path) } else { fs_err::remove_file(path) }?)
}
