//! `make sweep` as a user runs it, on a few real rows and the demo model: killed, run again, shared, halved, and by Slurm.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use artifact::TreeHash;
use outputs::{Document as _, SweepRecord};
use testutil::files::{copy, remove};
use testutil::{Program, Ran, SMALL_SETTINGS, built_programs, trees, workspace_root};

/// Longer than any wait below, even on a busy machine.
const PATIENCE: Duration = Duration::from_mins(10);

/// Twelve members with runs long enough to be killed in their middle.
const TWELVE: &str = r#"
pipeline = "small"

[settings.train]
steps = 80
checkpoint_every = 40
batch_size = 2

[settings.evaluate]
generated_rows = 0

[vary.train]
rank = [1, 2, 4, 8]
learning_rate = ["1e-3", "2e-3", "4e-3"]
"#;

/// The files of the repository that sweeps read, with a store and a build folder.
struct Checkout {
    folder: PathBuf,
}

impl Checkout {
    /// Fills an empty folder below `target/tmp`, with `small.toml` as a pipeline and sweeps by name.
    fn new(name: &str, sweeps: &[(&str, &str)]) -> Result<Self> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sweep").join(name);
        remove(&folder);
        fs_err::create_dir_all(folder.join("data/models"))?;
        for name in ["Makefile", "pipelines", "data/haw-eng", "data/models/demo"] {
            copy(&workspace_root().join(name), &folder.join(name));
        }
        fs_err::copy(workspace_root().join(SMALL_SETTINGS), folder.join("pipelines/small.toml"))?;
        for (name, text) in sweeps {
            fs_err::write(folder.join("pipelines/sweeps").join(format!("{name}.toml")), text)?;
        }
        Ok(Self { folder })
    }

    /// Returns make with the programs of the test build.
    fn make(&self, arguments: &[&str]) -> Program {
        let mut make = Program::new("make");
        make.current_dir(&self.folder).arg(format!("BIN={}", built_programs().display()));
        make.arg("DATA=data/haw-eng").args(arguments);
        make
    }

    /// Runs a sweep.
    fn sweep(&self, name: &str, more: &[&str]) -> Ran {
        self.make(&["sweep", &format!("SWEEP={name}")]).args(more).run()
    }

    /// Starts a sweep with its messages in a file.
    fn start(&self, name: &str, more: &[&str]) -> Result<Child> {
        let messages = fs_err::File::create(self.folder.join("messages"))?.into_parts().0;
        let mut program = Program::built("sweep");
        program.current_dir(&self.folder).arg(name).args(["--make", "DATA=data/haw-eng", "--make"]);
        program.arg(format!("BIN={}", built_programs().display())).args(more);
        program.command().stderr(messages.try_clone()?).stdout(messages);
        Ok(program.spawn())
    }

    fn store(&self) -> PathBuf {
        self.folder.join("artifacts")
    }

    fn record(&self, name: &str) -> Result<SweepRecord> {
        Ok(SweepRecord::read(&self.folder.join("build/sweeps").join(name).join(SweepRecord::FILE))?)
    }

    /// Returns the log of every run of a sweep by its name.
    fn logs(&self, name: &str) -> Result<BTreeMap<String, String>> {
        let mut logs = BTreeMap::new();
        for entry in fs_err::read_dir(self.folder.join("build/sweeps").join(name))? {
            let entry = entry?;
            let log = entry.path().join("log");
            if log.is_file() {
                logs.insert(entry.file_name().to_string_lossy().into_owned(), fs_err::read_to_string(log)?);
            }
        }
        Ok(logs)
    }
}

/// Names of the artifacts of a stage.
fn of_stage<'a>(trees: &'a BTreeMap<String, TreeHash>, stage: &str) -> BTreeSet<&'a str> {
    let prefix = format!("{stage}/");
    trees.keys().filter(|name| name.starts_with(&prefix)).map(String::as_str).collect()
}

fn wait_until(mut reached: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !reached()? {
        ensure!(begun.elapsed() < PATIENCE, "nothing happened for {PATIENCE:?}");
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Returns whether some training has reported in its resume folder, but is not published.
fn is_training(store: &Path) -> bool {
    let works = fs_err::read_dir(store.join(".work/train")).into_iter().flatten().flatten();
    works.into_iter().any(|work| {
        fs_err::read_to_string(work.path().join("ckpt").join(outputs::METRICS))
            .is_ok_and(|text| !text.is_empty())
    })
}

#[test]
fn a_killed_sweep_repeats_no_finished_member_and_a_shared_store_runs_nothing() -> Result<()> {
    let checkout = Checkout::new("killed", &[("twelve", TWELVE)])?;
    let mut sweep = checkout.start("twelve", &["--jobs", "2"])?;
    let reports = |store: &Path| fs_err::read_dir(store.join("report")).map_or(0, Iterator::count);
    wait_until(|| {
        ensure!(sweep.try_wait()?.is_none(), "{}", fs_err::read_to_string(checkout.folder.join("messages"))?);
        Ok(reports(&checkout.store()) >= 3 && is_training(&checkout.store()))
    })?;
    sweep.kill()?;
    sweep.wait()?;
    // The runs end with the program.
    wait_until(|| Ok(!is_busy(&checkout.folder)))?;
    let before = trees(&checkout.store());
    let finished = of_stage(&before, "report").len();
    ensure!((3..12).contains(&finished), "{finished} members had finished");

    let ran = checkout.sweep("twelve", &["JOBS=2"]);
    ran.succeeded();
    let after = trees(&checkout.store());
    ensure!(before.iter().all(|(name, tree)| after.get(name) == Some(tree)), "an artifact changed");
    for (stage, count) in [("import-model", 1), ("prepare-data", 1), ("train", 12), ("report", 12)] {
        ensure!(of_stage(&after, stage).len() == count, "{stage}: {:?}", of_stage(&after, stage));
    }
    let logs = checkout.logs("twelve")?;
    ensure!(logs.len() == 12, "{:?}", logs.keys());
    let resumed = logs.values().filter(|log| log.contains("resuming after step")).count();
    ensure!((1..=2).contains(&resumed), "{resumed} members resumed");
    for (name, log) in &logs {
        let published =
            log.lines().filter(|line| line.starts_with("report: ") && line.contains("wrote")).count();
        ensure!(published <= 1, "{name} was made {published} times:\n{log}");
    }
    let record = checkout.record("twelve")?;
    ensure!(record.members.len() == 12 && record.trained_steps == 12 * 80, "{record:?}");
    let page = fs_err::read_to_string(checkout.folder.join("build/sweeps/twelve/sweep.html"))?;
    for part in ["Differences beyond noise", "Learning curves", "Best settings", "p corrected", "Cost"] {
        ensure!(page.contains(part), "`{part}` is not on the page");
    }

    checkout.sweep("twelve", &[]).succeeded();
    ensure!(trees(&checkout.store()) == after, "a second run made something");
    let plan = checkout.sweep("twelve", &["PLAN=1"]);
    ensure!(plan.succeeded().contains("time: nothing would run"), "{}", plan.stdout);

    let remote = format!("REMOTE={}", checkout.folder.join("remote").display());
    checkout.make(&["push", &remote]).run().succeeded();
    fs_err::rename(checkout.store(), checkout.folder.join("first-store"))?;
    checkout.make(&["pull", &remote]).run().succeeded();
    let pulled = trees(&checkout.store());
    ensure!(of_stage(&pulled, "report").len() == 12, "{:?}", pulled.keys());
    checkout.sweep("twelve", &["-j2"]).succeeded();
    ensure!(trees(&checkout.store()) == pulled, "something ran in the pulled store");
    Ok(())
}

/// Returns whether a process works in a folder.
fn is_busy(folder: &Path) -> bool {
    let folder = fs_err::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let processes = fs_err::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .into_iter()
        .any(|process| fs_err::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == folder))
}

const SETTINGS: &str = r#"
pipeline = "small"

[settings.train]
schedule = "constant"
warmup_steps = 0
report_every = 4
checkpoint_every = 4
batch_size = 2

[settings.evaluate]
generated_rows = 0

[vary.train]
rank = [1, 4]
learning_rate = { low = "1e-5", high = "1e-2", scale = "log", points = 6 }
"#;

#[test]
fn halving_trains_less_than_half_of_the_grid_and_is_near_its_best() -> Result<()> {
    let halving = format!("search = \"halving\"\nrungs = [4, 8, 20]\n{SETTINGS}");
    let grid = SETTINGS.replace("warmup_steps = 0", "warmup_steps = 0\nsteps = 20");
    let checkout = Checkout::new("halving", &[("halving", &halving), ("grid", &grid)])?;
    let plan = checkout.sweep("halving", &["PLAN=1"]);
    ensure!(plan.succeeded().contains("88 steps instead of 240"), "{}", plan.stdout);
    let ran = checkout.sweep("halving", &["JOBS=2"]);
    ran.succeeded();
    ensure!(!ran.stderr.contains("from the start"), "{}", ran.stderr);
    let halved = checkout.record("halving")?;
    // 12 × 4, 4 × 4, 2 × 12.
    ensure!((halved.trained_steps, halved.full_steps) == (88, Some(240)), "{halved:?}");
    ensure!(halved.members.iter().filter(|member| member.steps() == Some(20)).count() == 2);
    let steps = of_stage(&trees(&checkout.store()), "train").len();
    ensure!(steps == 12 + 4 + 2, "{steps} runs");

    checkout.sweep("grid", &["JOBS=2"]).succeeded();
    let grid = checkout.record("grid")?;
    // The two finalists were trained to the end before.
    ensure!(grid.trained_steps < 240 && grid.members.len() == 12, "{grid:?}");
    let loss =
        |record: &SweepRecord| record.best().and_then(outputs::SweepMember::loss).context("no best member");
    let (found, best) = (loss(&halved)?, loss(&grid)?);
    println!("halving found {found:.4}, the best of the grid is {best:.4}: {:.4} off", found - best);
    ensure!(found >= best && found - best < 0.05, "halving found {found}, the grid {best}");
    Ok(())
}

#[test]
fn members_are_compared_by_the_metric_that_chose_their_checkpoints() -> Result<()> {
    let sweep = "pipeline = \"small\"\n[settings]\ntrain.steps = 4\ntrain.checkpoint_every = 2\nevaluate.generated_rows = 1\n\
                 validate.answered_rows = 3\nvalidate.max_tokens = 8\nselect-best.metric = \"chrf\"\n\
                 [vary]\ntrain.learning_rate = [\"1e-5\", \"5e-3\", \"2e-2\"]";
    let checkout = Checkout::new("metric", &[("metric", sweep)])?;
    let ran = checkout.sweep("metric", &[]);
    ran.succeeded();
    ran.says(&["validation chrf", "with a validation chrf of"]);
    let record = checkout.record("metric")?;
    ensure!(record.metric() == Some(("chrf", true)), "{record:?}");
    let scores: Vec<f64> = record.members.iter().filter_map(|member| record.result(member)).collect();
    let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    ensure!(scores.len() == 3 && scores.iter().any(|score| *score < highest), "all have {scores:?}");
    let best = record.best().context("no best member")?;
    ensure!(record.result(best) == Some(highest), "{best:?} of {scores:?}");
    let folder = checkout.folder.join("build/sweeps/metric");
    let page = fs_err::read_to_string(folder.join("sweep.html"))?;
    ensure!(page.contains("Validation chrF") && page.contains("with a chrF of"), "the page compares losses");
    let preset = fs_err::read_to_string(folder.join("best.toml"))?;
    ensure!(preset.contains("with a validation chrf of"), "{preset}");
    Ok(())
}

#[test]
fn a_failed_member_is_retried_and_does_not_stop_the_others() -> Result<()> {
    let sweep = "pipeline = \"small\"\nseeds = [1, 2]\n[settings.train]\nsteps = 2\n[settings.evaluate]\ngenerated_rows = 0\n[vary]\ntrain.rank = [0, 2]";
    let checkout = Checkout::new("failing", &[("failing", sweep)])?;
    let ran = checkout.sweep("failing", &[]);
    ensure!(ran.code == Some(2), "make ended with {:?}", ran.code);
    ran.says(&[
        "rank-0_seed-1 failed (attempt 2 of 2)",
        "`rank` must be at least 1",
        "2 of 4 runs failed",
        "finished runs are not repeated",
    ]);
    let record = checkout.record("failing")?;
    let failed: Vec<bool> =
        record.members.iter().flat_map(|member| &member.runs).map(|run| run.failed).collect();
    ensure!(failed == [true, true, false, false], "{record:?}");
    let page = fs_err::read_to_string(checkout.folder.join("build/sweeps/failing/sweep.html"))?;
    ensure!(page.contains("2 of 2 failed") && page.contains("Spread over seeds"), "the page misses a part");
    let best = fs_err::read_to_string(checkout.folder.join("build/sweeps/failing/best.toml"))?;
    ensure!(best.contains("rank = 2") && best.contains("model_dir"), "{best}");
    Ok(())
}

#[test]
fn a_misspelled_setting_of_any_stage_is_found_before_anything_runs() -> Result<()> {
    let train = "pipeline = \"small\"\n[vary]\ntrain.lerning_rate = [\"1e-3\", \"2e-3\"]";
    let evaluate =
        "pipeline = \"small\"\n[settings]\nevaluate.generated_rows = \"many\"\n[vary]\ntrain.rank = [1, 2]";
    let checkout = Checkout::new("misspelled", &[("train", train), ("evaluate", evaluate)])?;
    let name = ["unknown setting `lerning_rate` (stage `train`)", "learning_rate"];
    checkout.sweep("train", &["PLAN=1"]).says(&name);
    let kind = ["generated_rows", "many"];
    for (sweep, said) in [("train", name), ("evaluate", kind)] {
        let ran = checkout.sweep(sweep, &[]);
        ensure!(ran.code == Some(2), "make ended with {:?}", ran.code);
        ran.says(&said);
    }
    let asked = ["pipeline", "PIPELINE=small"];
    let ran = checkout.make(&asked).arg("SET=evaluate.generated_rowz=5").run();
    ensure!(ran.code == Some(2), "make ended with {:?}", ran.code);
    ran.says(&["unknown setting `generated_rowz` (stage `evaluate`)", "generated_rows"]);
    ensure!(!checkout.store().exists(), "something ran");
    Ok(())
}

#[test]
fn a_slurm_script_makes_what_the_sweep_makes() -> Result<()> {
    let sweep = "pipeline = \"small\"\n[settings]\ntrain.steps = 2\nevaluate.generated_rows = 0\n[vary]\ntrain.rank = [1, 2]\nprepare-data.prompt = [\"Say it's {haw} for $5:\"]";
    let checkout = Checkout::new("slurm", &[("two", sweep)])?;
    checkout.sweep("two", &["SLURM=two.sh", "JOBS=2"]).succeeded();
    let script = fs_err::read_to_string(checkout.folder.join("two.sh"))?;
    ensure!(script.contains("#SBATCH --array=0-1%2\n"), "{script}");
    if Program::new("sh").args(["-c", "command -v shellcheck"]).run().code == Some(0) {
        let checked = Program::new("shellcheck").arg(checkout.folder.join("two.sh")).run();
        ensure!(checked.code == Some(0), "{}", checked.stdout);
    } else {
        println!("skipped shellcheck: it is not installed");
    }
    let task = |index: &str| {
        let mut task = Program::new("sh");
        task.current_dir(&checkout.folder).arg("two.sh").env("SLURM_ARRAY_TASK_ID", index).run()
    };
    ensure!(task("7").code == Some(2), "an unknown task is refused");
    for index in ["0", "1"] {
        task(index).succeeded();
    }
    let made = trees(&checkout.store());
    ensure!(of_stage(&made, "train").len() == 2, "{:?}", made.keys());
    checkout.sweep("two", &[]).succeeded();
    ensure!(trees(&checkout.store()) == made, "the sweep made something else");
    let lines = Program::built("sweep").current_dir(&checkout.folder).args(["two", "--members"]).run();
    let expected = "rank-1\ttrain.rank=1";
    ensure!(lines.succeeded().lines().count() == 2 && !lines.stdout.contains(expected), "{}", lines.stdout);
    Ok(())
}

#[test]
fn a_folder_that_is_not_named_in_utf8_is_refused() -> Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    let checkout = Checkout::new("bytes", &[("ranks", "pipeline = \"small\"\n[vary]\ntrain.rank = [1, 2]")])?;
    for flag in ["--store", "--build"] {
        let mut sweep = Program::built("sweep");
        sweep.current_dir(&checkout.folder).args(["ranks", flag]).arg(std::ffi::OsStr::from_bytes(b"g\xff"));
        let ran = sweep.run();
        ran.failed(2);
        ran.says(&[&format!("`g\u{fffd}` (`{flag}`) is not UTF-8"), "hint: use a folder"]);
    }
    Ok(())
}
