//! `make pipeline` as a user runs it, on a few real rows and the demo model: which stages run, and which do not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use outputs::{Document, FusionCost, STAGES, Scores};
use testutil::files::{copy, remove};
use testutil::hub::{HubServer, TOKEN};
use testutil::{Program, Ran, SMALL_SETTINGS, built_programs, tolerance, trees, workspace_root};

/// A folder with the files of the repository that `make pipeline` reads; the programs are those of the test build.
struct Checkout {
    folder: PathBuf,
}

impl Checkout {
    /// Empties a folder of this name below `target/tmp`.
    fn new(name: &str) -> Result<Self> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pipeline").join(name);
        remove(&folder);
        fs_err::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    /// Returns a copy of a checkout with a finished pipeline; the first call runs the pipeline.
    fn finished(name: &str) -> Result<Self> {
        static FINISHED: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        let finished = FINISHED.get_or_init(|| {
            let checkout = Self::new("finished").map_err(|error| format!("{error:#}"))?;
            checkout.fill().map_err(|error| format!("{error:#}"))?;
            let ran = checkout.make("pipeline", "");
            let kept = fs_err::write(checkout.folder.join("stdout"), &ran.stdout);
            kept.map_err(|error| error.to_string())?;
            if ran.code == Some(0) { Ok(checkout.folder) } else { Err(ran.stderr) }
        });
        let finished = finished.as_ref().map_err(|error| anyhow::anyhow!("make pipeline: {error}"))?;
        let checkout = Self::new(name)?;
        copy(&finished.join("."), &checkout.folder);
        Ok(checkout)
    }

    fn fill(&self) -> Result<()> {
        fs_err::create_dir_all(self.folder.join("data/models"))?;
        for name in ["Makefile", "pipelines", "data/haw-eng", "data/models/demo"] {
            copy(&workspace_root().join(name), &self.folder.join(name));
        }
        fs_err::copy(workspace_root().join(SMALL_SETTINGS), self.folder.join("pipelines/small.toml"))?;
        Ok(())
    }

    /// Runs make with `SET=set` and `small.toml` as the settings of the pipeline.
    fn make(&self, target: &str, set: &str) -> Ran {
        self.program(target, set).run()
    }

    fn program(&self, target: &str, set: &str) -> Program {
        let mut make = Program::new("make");
        make.current_dir(&self.folder).arg(target).arg(format!("BIN={}", built_programs().display()));
        make.args(["PIPELINE=small", "DATA=data/haw-eng"]).arg(format!("SET={set}"));
        make
    }

    fn store(&self) -> PathBuf {
        self.folder.join("artifacts")
    }

    /// Runs `make pipeline` and returns the stages that published something.
    fn stages_that_run(&self, set: &str) -> Result<BTreeSet<String>> {
        let before = trees(&self.store());
        self.make("pipeline", set).succeeded();
        let after = trees(&self.store());
        ensure!(before.iter().all(|(name, tree)| after.get(name) == Some(tree)), "an artifact changed");
        let new = after.keys().filter(|name| !before.contains_key(*name));
        Ok(new.filter_map(|name| Some(name.split_once('/')?.0.to_owned())).collect())
    }

    /// Returns the modification time of every file of artifacts and pointers.
    fn times(&self) -> Result<BTreeMap<PathBuf, SystemTime>> {
        let mut found = BTreeMap::new();
        for name in ["artifacts", "build"] {
            times(&self.folder.join(name), &mut found)?;
        }
        Ok(found)
    }

    /// Makes the report of `make evaluate-gguf` again: the GGUF file that was imported is an output of `fuse`.
    fn reproduces_the_report_with_gguf(&self) -> Result<()> {
        let mut program = Program::built("artifacts");
        program.current_dir(&self.folder).args(["reproduce", "build/small/demo/report-gguf.path", "--run"]);
        program
            .args(["--files", "data/haw-eng", "--files", "data/models/demo", "--bin"])
            .arg(built_programs());
        let ran = program.run();
        let same = ran.succeeded().lines().filter(|line| line.ends_with(": the same bytes")).count();
        // The stages of the pipeline, and a second import.
        ensure!(same == STAGES.len() + 1, "{}", ran.stdout);
        Ok(())
    }

    /// Reads a file of the artifact that the pointer of its stage names.
    fn read<D: Document>(&self) -> Result<D> {
        let pointer = self.folder.join("build/small/demo").join(format!("{}.path", D::STAGE));
        let artifact = fs_err::read_to_string(pointer)?;
        Ok(D::read(&self.folder.join(artifact.trim_end()).join("data").join(D::FILE))?)
    }
}

fn times(folder: &Path, found: &mut BTreeMap<PathBuf, SystemTime>) -> Result<()> {
    for entry in fs_err::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            // Locks and remembered hashes may change.
            if !entry.file_name().to_string_lossy().starts_with('.') {
                times(&path, found)?;
            }
        } else {
            found.insert(path, entry.metadata()?.modified()?);
        }
    }
    Ok(())
}

fn set<const N: usize>(stages: [&str; N]) -> BTreeSet<String> {
    stages.map(str::to_owned).into()
}

#[test]
fn the_whole_chain_ends_with_scores_and_the_path_of_the_report() -> Result<()> {
    let checkout = Checkout::finished("whole")?;
    let stdout = fs_err::read_to_string(checkout.folder.join("stdout"))?;
    let last = stdout.lines().last().context("make printed nothing")?;
    let report = last.strip_prefix("report: ").with_context(|| last.to_owned())?;
    let page = fs_err::read_to_string(checkout.folder.join(report))?;
    ensure!(page.starts_with("<!DOCTYPE html>") && page.contains("<svg"), "`{report}` is not the page");
    for part in ["base", "fused", "Perplexity", "chrF"] {
        ensure!(stdout.contains(part), "`{part}` is not in the summary:\n{stdout}");
    }
    let made = trees(&checkout.store());
    for stage in STAGES {
        let prefix = format!("{}/", stage.name);
        ensure!(made.keys().any(|name| name.starts_with(&prefix)), "`{}` made nothing", stage.name);
    }
    Ok(())
}

#[test]
fn the_fused_model_is_clearly_better_and_equals_its_adapter() -> Result<()> {
    let checkout = Checkout::finished("better")?;
    let scores: Scores = checkout.read()?;
    let perplexity = |model: &str| scores.models[model].perplexity.unwrap_or(f64::NAN);
    let (base, fused) = (perplexity("base"), perplexity("fused"));
    ensure!(fused < 0.9 * base, "test perplexity {fused} of the fused model, {base} of the base");
    let off = checkout.read::<FusionCost>()?.max_logit_difference;
    ensure!(off < f64::from(tolerance::LOGITS), "fused logits are off by {off}");
    Ok(())
}

#[test]
fn a_second_run_does_nothing_in_under_a_second() -> Result<()> {
    let checkout = Checkout::finished("again")?;
    let before = checkout.times()?;
    let mut fastest = Duration::MAX;
    // The best of five, since the machine may be busy.
    for _ in 0..5 {
        let begun = Instant::now();
        ensure!(checkout.stages_that_run("")? == set([]), "something ran");
        fastest = fastest.min(begun.elapsed());
    }
    ensure!(checkout.times()? == before, "files were written");
    ensure!(fastest < Duration::from_secs(1), "it took {fastest:?}");
    let plan = checkout.make("plan", "");
    ensure!(!plan.succeeded().contains("would"), "{}", plan.stdout);
    Ok(())
}

#[test]
fn touched_and_rewritten_inputs_run_nothing() -> Result<()> {
    let checkout = Checkout::finished("touched")?;
    let before = checkout.times()?;
    let mut inputs = BTreeMap::new();
    for name in ["pipelines", "data"] {
        times(&checkout.folder.join(name), &mut inputs)?;
    }
    ensure!(inputs.len() > 10, "only {} inputs", inputs.len());
    for input in inputs.keys() {
        // A new file with the same content and another time.
        let bytes = fs_err::read(input)?;
        fs_err::remove_file(input)?;
        fs_err::write(input, bytes)?;
    }
    ensure!(checkout.stages_that_run("")? == set([]), "something ran");
    ensure!(checkout.times()? == before, "files were written");
    Ok(())
}

#[test]
fn a_changed_learning_rate_runs_train_and_all_after_it() -> Result<()> {
    let checkout = Checkout::finished("rate")?;
    let plan = checkout.make("plan", "train.learning_rate=1e-3");
    for line in [
        "import-model: up to date",
        "prepare-data: up to date",
        "train: would run",
        "validate: waits for train",
    ] {
        ensure!(plan.stdout.contains(line), "`{line}` is not in:\n{}", plan.stdout);
    }
    ensure!(plan.stdout.contains("learning_rate"), "the plan does not say why:\n{}", plan.stdout);
    let all = checkout.stages_that_run("train.learning_rate=1e-3")?;
    let mut expected: BTreeSet<String> = STAGES[2..].iter().map(|stage| stage.name.to_owned()).collect();
    expected.insert("validate-checkpoint".to_owned());
    ensure!(all == expected, "these ran: {all:?}");
    ensure!(checkout.stages_that_run("")? == set([]), "the first result was lost");
    Ok(())
}

#[test]
fn a_changed_setting_that_changes_no_byte_runs_only_its_stage() -> Result<()> {
    let checkout = Checkout::finished("cutoff")?;
    // No row is longer than either limit.
    for changed in ["prepare-data.max_tokens=1000", "prepare-data.leak.words=40"] {
        let ran = checkout.stages_that_run(changed)?;
        ensure!(ran == set(["prepare-data"]), "with {changed} these ran: {ran:?}");
    }
    Ok(())
}

#[test]
fn a_longer_run_scores_only_new_checkpoints() -> Result<()> {
    let checkout = Checkout::finished("longer")?;
    let before = trees(&checkout.store());
    checkout.stages_that_run("train.steps=18 train.schedule=constant train.warmup_steps=0")?;
    let after = trees(&checkout.store());
    let units = |trees: &BTreeMap<String, _>| {
        trees.keys().filter(|name| name.starts_with("validate-checkpoint/")).count()
    };
    // The base model is scored once; the three checkpoints are new.
    ensure!((units(&before), units(&after)) == (3, 6), "{} and {} units", units(&before), units(&after));
    Ok(())
}

#[test]
fn a_target_makes_only_what_it_needs() -> Result<()> {
    let checkout = Checkout::new("one")?;
    checkout.fill()?;
    let plan = checkout.make("plan", "");
    ensure!(plan.stdout.contains("import-model: would run"), "{}", plan.stdout);
    ensure!(plan.stdout.contains("report: waits for import-model"), "{}", plan.stdout);
    ensure!(trees(&checkout.store()).is_empty(), "a plan made something");
    checkout.make("prepare-data", "").succeeded();
    let made: Vec<String> = trees(&checkout.store()).into_keys().collect();
    ensure!(made.len() == 2 && made[1].starts_with("prepare-data/"), "{made:?}");
    Ok(())
}

#[test]
fn a_failed_stage_fails_make_and_keeps_its_pointer() -> Result<()> {
    let checkout = Checkout::finished("failed")?;
    let before = checkout.times()?;
    let ran = checkout.make("pipeline", "train.learning_rat=1e-3");
    ensure!(ran.code == Some(2), "make ended with {:?}", ran.code);
    ensure!(ran.stderr.contains("did you mean `learning_rate`?"), "{}", ran.stderr);
    let after = checkout.times()?;
    ensure!(before.iter().all(|(path, time)| after.get(path) == Some(time)), "something was replaced");
    let store = checkout.store();
    let is_new = |path: &&PathBuf| path.starts_with(&store) && !before.contains_key(*path);
    ensure!(after.keys().find(is_new).is_none(), "something was published");
    Ok(())
}

#[test]
fn the_gate_passes_a_good_run_and_fails_one_that_is_worse_elsewhere_or_changed_nothing() -> Result<()> {
    let checkout = Checkout::finished("gate")?;
    let gate = "evaluate.gate.metric=loss evaluate.gate.guard=general-english";
    let passed = checkout.make("gate", &format!("{gate} evaluate.gate.max_loss=0.5"));
    passed.succeeded();
    ensure!(passed.stderr.contains("gate: passed"), "{}", passed.stderr);

    // Training on old stories costs the model some of its general English.
    let forgot = checkout.make("gate", &format!("{gate} evaluate.gate.max_loss=0.001"));
    let said = forgot.failed(2);
    ensure!(said.contains("the loss on `general-english` rises by") && said.contains("Error 20"), "{said}");

    let same = checkout.make(
        "gate",
        &format!("{gate} evaluate.gate.max_loss=0.5 train.steps=1 train.warmup_steps=0 train.checkpoint_every=1 train.learning_rate=1e-12"),
    );
    let said = same.failed(2);
    ensure!(said.contains("training changed nothing") && said.contains("Error 20"), "{said}");
    // The report of a run that fails its gate is written.
    let pointer = checkout.folder.join("build/small/demo/report.path");
    let report = fs_err::read_to_string(pointer)?;
    let page = fs_err::read_to_string(checkout.folder.join(report.trim_end()).join("data/report.html"))?;
    ensure!(page.contains("changed nothing"), "the page does not say it");

    let none = checkout.make("gate", "");
    ensure!(none.failed(2).contains("needs a gate"), "{}", none.stderr);
    Ok(())
}

/// The reader knows only `docs/artifact-format.md`.
#[test]
fn every_artifact_passes_a_reader_written_from_the_format_alone() -> Result<()> {
    let checkout = Checkout::finished("reader")?;
    let reader = workspace_root().join("tests/reader/verify.py");
    let lines = fs_err::read_to_string(&reader)?.lines().count();
    ensure!(lines <= 60, "the reader has {lines} lines");
    let artifacts: Vec<PathBuf> =
        trees(&checkout.store()).keys().map(|name| checkout.store().join(name)).collect();
    ensure!(artifacts.len() > 8, "only {} artifacts", artifacts.len());
    let read = |artifacts: &[PathBuf]| Program::new("python3").arg(&reader).args(artifacts).run();
    ensure!(read(&artifacts).succeeded().lines().count() == artifacts.len(), "not all were read");

    let changed = checkout.folder.join("changed");
    copy(&artifacts[0], &changed);
    let unlocked = Program::new("chmod").args(["-R", "u+w"]).arg(&changed).run();
    unlocked.succeeded();
    let manifest = changed.join("manifest.json");
    let mut bytes = fs_err::read(&manifest)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs_err::write(&manifest, bytes)?;
    ensure!(read(&[changed]).code == Some(1), "a flipped bit went unnoticed");
    Ok(())
}

#[test]
fn make_lists_explains_verifies_and_cleans_the_store() -> Result<()> {
    let checkout = Checkout::finished("store")?;
    for (target, part) in [
        ("ls", "fused_loss"),
        ("status", "free space"),
        ("verify", "verified "),
        ("lineage", "import-model/"),
        ("gc", "would remove 0 items"),
        ("keep", "nothing is kept"),
    ] {
        let ran = checkout.make(target, "");
        ensure!(ran.succeeded().contains(part), "make {target}: {}", ran.stdout);
    }
    let why = checkout.make("why", "train.rank=3");
    ensure!(why.succeeded().contains("config/rank"), "{}", why.stdout);
    let misspelt = checkout.make("why", "train.rnak=3").failed(2);
    ensure!(misspelt.contains("unknown setting `rnak`"), "{misspelt}");
    checkout.make("show", "").failed(2);
    Ok(())
}

#[test]
fn an_artifact_is_reproduced_from_its_plain_inputs() -> Result<()> {
    let checkout = Checkout::finished("reproduce")?;
    let reproduce = |artifact: &str| {
        let mut program = Program::built("artifacts");
        program.current_dir(&checkout.folder).args(["reproduce", artifact, "--bin"]).arg(built_programs());
        program.args(["--files", "data/haw-eng", "--files", "data/models/demo"]);
        program
    };
    let script = reproduce("report").run();
    for stage in STAGES {
        let line = format!("{}.toml <<'END'", stage.name);
        ensure!(script.succeeded().contains(&line), "`{}` is not run:\n{}", stage.name, script.stdout);
    }
    let ran = reproduce("validate").arg("--run").run();
    let same = ran.succeeded().lines().filter(|line| line.ends_with(": the same bytes")).count();
    ensure!(same == 4, "{}", ran.stdout);
    // Every run makes everything again, in a folder of its own.
    reproduce("import-model").arg("--run").run().succeeded();
    let into = checkout.folder.join("build/reproduce");
    let made = |run: &str| trees(&into.join(run).join("artifacts")).len();
    ensure!(made("run-1") >= 4 && made("run-2") == 1, "{} and {}", made("run-1"), made("run-2"));
    // The script does the same.
    fs_err::write(checkout.folder.join("script.sh"), &reproduce("train").run().stdout)?;
    Program::new("sh").current_dir(&checkout.folder).args(["-eu", "script.sh"]).run().succeeded();
    let again = trees(&into.join("artifacts"));
    let before = trees(&checkout.store());
    ensure!(again.len() == 3 && again.iter().all(|(name, tree)| before.get(name) == Some(tree)), "{again:?}");
    Ok(())
}

#[test]
fn segments_failed_gates_and_many_models_are_reproduced() -> Result<()> {
    let checkout = Checkout::finished("flags")?;
    let pointer = |stage: &str| -> Result<String> {
        let path = checkout.folder.join("build/small/demo").join(format!("{stage}.path"));
        Ok(fs_err::read_to_string(path)?.trim_end().to_owned())
    };
    let (model, dataset) = (pointer("import-model")?, pointer("prepare-data")?);
    let make = |stage: &str, arguments: &[&str]| {
        let mut program = Program::built(stage);
        program.current_dir(&checkout.folder).args(["--config", "pipelines/small.toml"]).args(arguments);
        program.args(["--dataset", &dataset]).run().path_text()
    };
    let segment = make("train", &["--model", &model, "--stop-at", "3"]);
    // More than ten models, of which the last changes nothing, so that it does not pass the gate.
    let models: Vec<String> = (0..12).map(|number| format!("m{}={model}", 20 - number)).collect();
    let mut arguments = vec!["--set", "generated_rows=1", "--set", "gate.metric=loss", "--gate", "note"];
    arguments.extend(models.iter().flat_map(|model| ["--model", model.as_str()]));
    let scores = make("evaluate", &arguments);
    for (run, artifact) in [(1, &segment), (2, &scores)] {
        let mut program = Program::built("artifacts");
        program.current_dir(&checkout.folder).args(["reproduce", artifact, "--only", "--run", "--bin"]);
        let ran = program.arg(built_programs()).run();
        ensure!(ran.succeeded().ends_with(": the same bytes\n"), "{artifact}: {}", ran.stdout);
        // The key has the step at which a segment stops, and the order of the models.
        let again = checkout.folder.join(format!("build/reproduce/run-{run}")).join(artifact);
        ensure!(again.is_dir(), "`{}` has another key", again.display());
    }
    Ok(())
}

#[test]
fn a_gguf_file_is_scored_beside_the_fused_model() -> Result<()> {
    let checkout = Checkout::finished("gguf")?;
    let said = checkout.make("evaluate-gguf", "").failed(2);
    ensure!(said.contains("fuse wrote no GGUF file") && said.contains("hint: "), "{said}");

    let set = "fuse.gguf=q8_0 evaluate.generated_rows=8";
    let ran = checkout.make("evaluate-gguf", set);
    let shown = ran.succeeded();
    ensure!(shown.lines().any(|line| line.contains("base  fused  fused_gguf")), "{shown}");
    let row = |name: &str| -> Result<Vec<String>> {
        let line = shown.lines().find(|line| line.starts_with(&format!("| {name} |")));
        let line = line.with_context(|| format!("no row `{name}` in:\n{shown}"))?;
        Ok(line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
    };
    // File, format, size, validation loss, change, KL divergence, same top token, test chrF.
    let (fused, gguf) = (row("model")?, row("gguf/model-q8_0.gguf")?);
    let chrf = |cells: &[String]| Ok::<f64, anyhow::Error>(cells.last().context("no cell")?.parse()?);
    let pointer = fs_err::read_to_string(checkout.folder.join("build/small/demo/evaluate-gguf.path"))?;
    let scores = Scores::read(&checkout.folder.join(pointer.trim_end()).join("data").join(Scores::FILE))?;
    for (cells, name) in [(&fused, "fused"), (&gguf, "fused_gguf")] {
        let expected = scores.models[name].text["chrf"];
        ensure!((chrf(cells)? - expected).abs() <= 0.051, "{name}: {cells:?}, not {expected}");
    }
    let losses = ["fused", "fused_gguf"].map(|name| scores.models[name].loss.unwrap_or(f64::NAN));
    let change = (losses[0] - losses[1]).abs();
    ensure!(change > 0.0 && change < 0.05, "{losses:?}");
    // The results of the pipeline are still those of the models alone.
    let alone: Scores = checkout.read()?;
    ensure!(!alone.models.contains_key("fused_gguf"));
    let before = checkout.times()?;
    checkout.make("evaluate-gguf", set).succeeded();
    ensure!(checkout.times()? == before, "a second run wrote files");
    checkout.reproduces_the_report_with_gguf()
}

#[test]
fn make_uploads_adapters_and_gguf_and_makes_only_what_they_need() -> Result<()> {
    let checkout = Checkout::finished("upload")?;
    let hub = HubServer::start(vec![]);
    let upload = |more: &[&str], set: &str| {
        let mut make = checkout.program("upload", set);
        make.env("HF_ENDPOINT", hub.endpoint())
            .env("HF_TOKEN", TOKEN)
            .env("HF_HOME", checkout.folder.join("home"));
        make.args(more).run()
    };
    let said = upload(&[], "").failed(2);
    ensure!(said.contains("set ID to a repository"), "{said}");
    let evaluated = |checkout: &Checkout| {
        trees(&checkout.store()).keys().filter(|name| name.starts_with("evaluate/")).count()
    };
    let before = evaluated(&checkout);
    for (output, set, file) in [
        ("adapters", "", "adapters.safetensors"),
        ("gguf", "fuse.gguf=q4_0 fuse.max_loss_increase=1", "model-q4_0.gguf"),
        ("peft", "fuse.peft=true", "adapter_model.safetensors"),
        ("model", "", "model.safetensors"),
    ] {
        let id = format!("jane/{output}");
        let arguments = [format!("ID={id}"), format!("OUTPUT={output}"), "PRIVATE=1".to_owned()];
        let ran = upload(&arguments.each_ref().map(String::as_str), set);
        let address = ran.succeeded().lines().last().context("no address")?.to_owned();
        let repo = hub.repo(&id).with_context(|| format!("no repository `{id}`"))?;
        ensure!(address == format!("{}/{id}/tree/{}", hub.endpoint(), repo.commit()), "{address}");
        let files = repo.contents("main");
        let (card, _) = files.get("README.md").context("no card")?;
        let card = std::str::from_utf8(card)?;
        ensure!(files.contains_key(file) && card.starts_with("---\n"), "{output}: {:?}", files.keys());
        let is_scored = output == "model" || output == "peft";
        ensure!(card.contains("\nmodel-index:\n") == is_scored, "{output}:\n{card}");
        if output == "gguf" {
            ensure!(files.contains_key("Modelfile"), "{:?}", files.keys());
            ensure!(evaluated(&checkout) == before, "an upload of GGUF evaluated something");
        }
    }
    // Nothing to upload: fuse wrote no GGUF file.
    let said = upload(&["ID=jane/none", "OUTPUT=gguf"], "").failed(2);
    ensure!(said.contains("gguf") && said.contains("hint: ") && hub.repo("jane/none").is_none(), "{said}");
    let said = upload(&["ID=jane/none", "OUTPUT=gguff"], "").failed(2);
    ensure!(said.contains("gguff") && hub.repo("jane/none").is_none(), "{said}");
    Ok(())
}
