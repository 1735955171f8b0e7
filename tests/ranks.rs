//! One training run over several processes: the same losses and bytes as one process, and a clean end when a rank is lost.
//!
//! `ASHLAR_KILLS` is the number of ranks killed at random moments (default 3); `ASHLAR_SEED` repeats the moments of an earlier
//! test run. Parts that need `mpirun` or network namespaces are skipped with a message where there are none.

#![expect(clippy::print_stdout, reason = "parts that are skipped say so")]

#[path = "ranks/blocks.rs"]
mod blocks;
#[path = "ranks/launcher.rs"]
mod launcher;

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use artifact::TreeHash;
use outputs::{Line as _, MetricsLine};
use rustix::process::{Pid, Signal, kill_process};
use testutil::{Program, Ran, Sandbox, built_programs, tolerance, trees};

use launcher::{Ended, Namespaces, Ranks, has_mpirun, mpirun};

/// Logged by a run that resumes.
const RESUMED: &str = "resuming after step";
/// Logged once training is about to start.
const STARTED: &str = "parameters (";
/// Time in which all ranks must have ended after one was lost.
const CLEAN_STOP: Duration = Duration::from_secs(10);
const SETTINGS: &[&str] = &["report_every=2", "validation_every=6"];

/// A model and a dataset.
struct Fixture {
    sandbox: Sandbox,
    model: String,
    dataset: String,
}

impl Fixture {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let model = sandbox.model("tests/golden/gemma3_text");
        let dataset = sandbox.dataset(&model);
        Self { sandbox, model, dataset }
    }

    /// Returns a fixture whose validations take some seconds with `batch_size=2`.
    fn with_long_validations() -> Self {
        let fixture = Self::new();
        for (name, count) in [("train", 32), ("validation", 1500), ("test", 2)] {
            let row = |row: usize| format!("{{\"prompt\":\"word {row}\",\"completion\":\"answer {row}\"}}\n");
            fixture.sandbox.write(&format!("data/{name}.jsonl"), (0..count).map(row).collect::<String>());
        }
        let dataset = fixture
            .sandbox
            .program(built_programs().join("prepare-data"))
            .args(["--tokenizer", &fixture.model, "--data", "data", "--set", "on_leak=allow"])
            .run()
            .path();
        let dataset = fixture.sandbox.path().join(dataset).to_string_lossy().into_owned();
        Self { dataset, ..fixture }
    }

    /// Returns the arguments of `train` with a store of that name.
    fn arguments(&self, store: &str, settings: &[&str]) -> Vec<String> {
        let store = self.store(store).to_string_lossy().into_owned();
        let fixed = ["--config", testutil::SMALL_SETTINGS, "--store", &store, "--model", &self.model];
        let fixed = fixed.into_iter().chain(["--dataset", &self.dataset, "--save-every", "1"]);
        let settings = SETTINGS.iter().chain(settings).flat_map(|setting| ["--set", setting]);
        fixed.chain(settings).map(str::to_owned).collect()
    }

    fn store(&self, name: &str) -> PathBuf {
        self.sandbox.join("stores").join(name)
    }

    fn alone(&self, store: &str, settings: &[&str]) -> Ran {
        Program::built("train").args(self.arguments(store, settings)).run()
    }

    fn ring(&self, size: usize, store: &str, settings: &[&str]) -> Result<Ranks> {
        let folder = self.sandbox.join("ranks").join(store);
        Ranks::ring(&folder, size, |_| {
            let mut program = Program::built("train");
            program.args(self.arguments(store, settings));
            program
        })
    }

    /// Fails unless the last run in a store has the bytes of `unbroken`; returns whether it resumed from a saved state.
    fn ensure_unbroken(&self, store: &str, last: &Ran) -> Result<bool> {
        last.path();
        ensure!(self.tree(store)? == self.tree("unbroken")?, "other bytes\n{}", last.stderr);
        Ok(last.stderr.contains(RESUMED))
    }

    /// Returns the tree hash of the only run in a store.
    fn tree(&self, store: &str) -> Result<TreeHash> {
        let all = trees(&self.store(store));
        ensure!(all.len() == 1, "the store holds {all:?}");
        Ok(*all.values().next().context("the store is empty")?)
    }
}

/// Returns training and validation losses of a run, in the order of the steps.
fn losses(artifact: &Path) -> Result<Vec<f64>> {
    MetricsLine::read(&artifact.join("data").join(MetricsLine::FILE))?
        .map(|line| {
            Ok(match line? {
                MetricsLine::Train(line) => line.train_loss,
                MetricsLine::Validation(line) => line.validation_loss,
            })
        })
        .collect()
}

/// Returns the trained numbers of the last checkpoint.
fn weights(artifact: &Path) -> Result<Vec<f32>> {
    let path = artifact.join("data/checkpoints/0000012/adapters/adapters.safetensors");
    let file = models::TensorFiles::open_file(&path)?;
    let mut numbers = Vec::new();
    for name in file.names() {
        let array = file.array(name)?;
        array.eval()?;
        numbers.extend_from_slice(array.as_slice::<f32>());
    }
    Ok(numbers)
}

/// Returns the largest difference of trained numbers.
fn distance(a: &Path, b: &Path) -> Result<f32> {
    let (a, b) = (weights(a)?, weights(b)?);
    ensure!(a.len() == b.len(), "{} and {} numbers", a.len(), b.len());
    Ok(a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max))
}

fn ensure_same_losses(one: &Path, other: &Path) -> Result<()> {
    let (one, other) = (losses(one)?, losses(other)?);
    ensure!(one.len() == other.len() && one.len() >= 8, "{one:?} and {other:?}");
    for (one, other) in one.iter().zip(&other) {
        ensure!((one - other).abs() < tolerance::SUMMED_LOSS, "{one} and {other}");
    }
    Ok(())
}

/// Returns how many ranks to kill, and a function that returns a random number below its argument.
fn kills_at_random() -> Result<(usize, impl FnMut(u64) -> u64)> {
    let kills = std::env::var("ASHLAR_KILLS").map_or(Ok(3), |count| count.parse())?;
    let mut random = match std::env::var("ASHLAR_SEED") {
        Ok(seed) => seed.parse()?,
        Err(_) => RandomState::new().build_hasher().finish(),
    };
    println!("ASHLAR_SEED={random}");
    let below = move |limit: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % limit
    };
    Ok((kills, below))
}

/// Returns whether a process runs; one that has ended and that nobody has waited for does not.
fn runs_still(process: Pid) -> bool {
    let id = process.as_raw_nonzero().to_string();
    let state = Program::new("ps").args(["-o", "stat=", "-p", &id]).run().stdout;
    !state.trim().is_empty() && !state.starts_with('Z')
}

/// Fails unless ranks ended in time, all with an error that names `lost`.
fn ensure_clean_stop(ended: &Ended, lost: usize) -> Result<()> {
    ensure!(ended.took < CLEAN_STOP, "the ranks went on for {:?}", ended.took);
    for ran in ended.ran.iter().filter(|ran| ran.signal.is_none()) {
        ensure!(ran.code == Some(1), "{ran:?}");
        ensure!(ran.stderr.contains(&format!("rank {lost} of")), "{}", ran.stderr);
        ensure!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    }
    Ok(())
}

#[test]
fn a_ring_has_the_losses_of_one_process_and_the_bytes_of_one_with_as_many_slices() -> Result<()> {
    let fixture = Fixture::new();
    // Dropout, because masks must not depend on the ranks either.
    let settings = ["dropout=0.1"];
    let plain = fixture.alone("plain", &settings).path();
    let mut spread: f32 = 0.0;
    for slices in ["slices=2", "slices=3", "slices=4"] {
        let sliced = fixture.alone(slices, &[&settings[..], &[slices]].concat()).path();
        ensure_same_losses(&plain, &sliced)?;
        spread = spread.max(distance(&plain, &sliced)?);
    }
    println!("slices change trained numbers by up to {spread:e}");
    for size in [2, 4] {
        let store = format!("ring-{size}");
        let ended = fixture.ring(size, &store, &settings)?.wait()?;
        let trained = ended.path()?;
        ensure_same_losses(&plain, &trained)?;
        ensure!(distance(&plain, &trained)? <= spread, "beyond the spread of one process");
        let sliced = fixture.tree(&format!("slices={size}"))?;
        ensure!(fixture.tree(&store)? == sliced, "{size} ranks have other bytes than {size} slices");
        // Nothing is left to do, on any number of ranks with these slices.
        let again = fixture.ring(size, &store, &settings)?.wait()?;
        ensure!(again.path()? == trained, "it trained again");
        again.ran[0].says(&["up to date"]);
        let alone = fixture.alone(&store, &[&settings[..], &[&format!("slices={size}")]].concat());
        ensure!(alone.path() == trained, "the number of ranks is in the key");
    }
    Ok(())
}

#[test]
fn ranks_that_share_micro_batches_have_the_bytes_of_one_process() -> Result<()> {
    let fixture = Fixture::new();
    // More micro-batches than ranks, and a last step with fewer; and fewer parts than ranks.
    for (name, size, settings) in [
        ("many", 2, &["accumulation=5", "batch_size=3", "steps=6", "dropout=0.2"][..]),
        ("uneven", 3, &["accumulation=4", "batch_size=2", "steps=7", "packing=true"][..]),
        ("few", 2, &["batch_size=1", "steps=5"][..]),
    ] {
        let alone = fixture.alone(&format!("{name}-alone"), settings);
        alone.path();
        let ended = fixture.ring(size, name, settings)?.wait()?;
        ended.path()?;
        ensure!(fixture.tree(name)? == fixture.tree(&format!("{name}-alone"))?, "{name}: other bytes");
        ensure!(
            ended.ran[0].stderr.contains("some do nothing") == (name == "few"),
            "{}",
            ended.ran[0].stderr
        );
    }
    Ok(())
}

#[test]
fn a_plan_and_a_mistake_end_all_ranks_with_the_same_code() -> Result<()> {
    let fixture = Fixture::new();
    let folder = fixture.sandbox.join("ranks");
    let with = |store: &str, more: &[&str]| {
        let mut program = Program::built("train");
        program.args(fixture.arguments(store, &[])).args(more);
        program
    };
    let planned = Ranks::ring(&folder.join("plan"), 2, |_| with("plan", &["--plan"]))?.wait()?;
    ensure!(planned.ran.iter().all(|ran| ran.code == Some(10)), "{:?}", planned.ran);
    // Rank 1 has other settings.
    let other: [&[&str]; 2] = [&[], &["--set", "seed=7"]];
    let differs = Ranks::ring(&folder.join("differs"), 2, |rank| with("differs", other[rank]))?.wait()?;
    ensure!(differs.ran.iter().all(|ran| ran.code == Some(1)), "{:?}", differs.ran);
    differs.ran[0].says(&["rank 1 has another key"]);
    ensure!(trees(&fixture.store("differs")).is_empty(), "an artifact is published");
    // Rank 1 does not find its dataset.
    let missing: [&[&str]; 2] = [&[], &["--losses", "nowhere.jsonl"]];
    let fails = Ranks::ring(&folder.join("fails"), 2, |rank| with("fails", missing[rank]))?.wait()?;
    ensure!(fails.ran.iter().all(|ran| ran.code == Some(2)), "{:?}", fails.ran);
    fails.ran[0].says(&["rank 1 failed"]);
    fails.ran[1].says(&["rank 1: error: `--losses` needs"]);
    Ok(())
}

#[test]
fn wrong_variables_are_explained() {
    let fixture = Fixture::new();
    let mut train = Program::built("train");
    train.args(fixture.arguments("wrong", &[])).env("MLX_HOSTFILE", "nowhere.json").env("MLX_RANK", "0");
    let said = train.run();
    said.failed(2);
    said.says(&["nowhere.json", "hint: list the addresses of each rank"]);
}

#[test]
fn a_signal_to_one_rank_saves_a_state_and_another_number_of_ranks_resumes() -> Result<()> {
    let fixture = Fixture::new();
    let settings = ["steps=40", "checkpoint_every=20"];
    fixture.alone("unbroken", &[&settings[..], &["slices=2"]].concat()).path();
    let mut ranks = fixture.ring(2, "signal", &settings)?;
    ranks.wait_for(0, "6/40")?;
    ranks.signal(1, Signal::TERM)?;
    let ended = ranks.wait()?;
    for ran in &ended.ran {
        ensure!(ran.code == Some(143), "{:?}", ended.ran);
    }
    ended.ran[0].says(&["saved a resume state after step"]);
    ensure!(trees(&fixture.store("signal")).is_empty(), "an unfinished run is published");
    // Four ranks take it a little further, and one finishes it.
    let mut ranks = fixture.ring(4, "signal", &settings)?;
    ranks.wait_for(0, "16/40")?;
    ranks.signal(0, Signal::INT)?;
    let ended = ranks.wait()?;
    ensure!(ended.ran.iter().all(|ran| ran.code == Some(130)), "{:?}", ended.ran);
    ended.ran[0].says(&["slices = 2", RESUMED]);
    let last = fixture.alone("signal", &settings);
    last.says(&["slices = 2", RESUMED]);
    last.path();
    ensure!(fixture.tree("signal")? == fixture.tree("unbroken")?, "other bytes than an unbroken run");
    Ok(())
}

#[test]
fn a_signal_to_one_rank_interrupts_a_validation_on_all_and_it_comes_first_in_the_resumed_run() -> Result<()> {
    let fixture = Fixture::with_long_validations();
    let settings = ["steps=12", "batch_size=2"];
    fixture.alone("unbroken", &[&settings[..], &["slices=2"]].concat()).path();
    for (said, rank) in [("6/12", 1), (RESUMED, 0)] {
        let mut ranks = fixture.ring(2, "cut", &settings)?;
        ranks.wait_for(0, said)?;
        sleep(Duration::from_millis(300));
        ranks.signal(rank, Signal::TERM)?;
        let ended = ranks.wait()?;
        ensure!(ended.ran.iter().all(|ran| ran.code == Some(143)), "{:?}", ended.ran);
        ensure!(ended.took < CLEAN_STOP, "the ranks went on for {:?}", ended.took);
        ended.ran[0].says(&["saved a resume state after step 6"]);
        ensure!(!ended.ran[0].stderr.contains("validation loss"), "{}", ended.ran[0].stderr);
    }
    let last = fixture.alone("cut", &settings);
    last.says(&["slices = 2", RESUMED]);
    last.path();
    ensure!(fixture.tree("cut")? == fixture.tree("unbroken")?, "other bytes than an unbroken run");
    Ok(())
}

#[test]
fn a_rank_that_is_killed_ends_all_and_the_run_resumes_to_the_same_bytes() -> Result<()> {
    let (kills, mut below) = kills_at_random()?;
    let fixture = Fixture::new();
    let settings = ["steps=40", "checkpoint_every=20"];
    let begun = Instant::now();
    fixture.ring(2, "unbroken", &settings)?.wait()?.path()?;
    let duration = begun.elapsed();
    let (mut done, mut runs, mut resumed) = (0, 0, 0);
    while done < kills {
        runs += 1;
        let store = format!("killed-{runs}");
        loop {
            let size = 2 + below(2) as usize;
            let size = if below(2) == 0 { 2 } else { size };
            // The first start decides the slices.
            let size = if fixture.store(&store).exists() { size } else { 2 };
            let mut ranks = fixture.ring(size, &store, &settings)?;
            let moment = Duration::from_micros(below(duration.as_micros() as u64));
            let victim = below(size as u64) as usize;
            if below(4) > 0 {
                // Most kills hit training, which is short beside starting.
                ranks.wait_for(0, STARTED)?;
                sleep(moment / 4);
            } else {
                sleep(moment);
            }
            if ranks.signal(victim, Signal::KILL).is_err() || ranks.has_ended()? {
                ranks.wait()?;
                break;
            }
            let ended = ranks.wait()?;
            if ended.ran[victim].signal != Some(9) || ended.ran.iter().any(|ran| ran.code == Some(0)) {
                break; // it had finished
            }
            done += 1;
            let was_joined = ended.ran.iter().any(|ran| ran.stderr.contains("rank 0 of"));
            if was_joined {
                ensure_clean_stop(&ended, victim).with_context(|| format!("kill {done}"))?;
            }
            trees(&fixture.store(&store));
            if done == kills || below(2) == 0 {
                break;
            }
        }
        let size = 1 + below(3) as usize;
        let all = [&settings[..], &["slices=2"]].concat();
        let ran = if size == 1 {
            fixture.alone(&store, &all)
        } else {
            let mut ended = fixture.ring(size, &store, &all)?.wait()?;
            ended.path()?;
            ended.ran.swap_remove(0)
        };
        let has_resumed = fixture.ensure_unbroken(&store, &ran).with_context(|| format!("run {runs}"))?;
        resumed += usize::from(has_resumed);
    }
    println!("{done} kills in {runs} runs, {resumed} of which resumed from a saved state");
    Ok(())
}

#[test]
fn a_rank_that_stalls_ends_the_others_which_name_it() -> Result<()> {
    let fixture = Fixture::new();
    for victim in [1, 0] {
        let mut ranks = fixture.ring(3, &format!("stall-{victim}"), &["steps=4000"])?;
        ranks.wait_for(0, "12/4000")?;
        ranks.signal(victim, Signal::STOP)?;
        let ended = ranks.wait_without(&[victim])?;
        ensure_clean_stop(&ended, victim)?;
        ensure!(ended.ran.iter().all(|ran| ran.stderr.contains("no sign of life")), "{:?}", ended.ran);
        ranks.signal(victim, Signal::CONT)?;
        let ended = ranks.wait()?;
        ensure!(ended.ran.iter().all(|ran| ran.code == Some(1)), "{:?}", ended.ran);
    }
    Ok(())
}

#[test]
fn mpi_has_the_bytes_of_one_process() -> Result<()> {
    if !has_mpirun() {
        println!("skipped: there is no mpirun");
        return Ok(());
    }
    let fixture = Fixture::new();
    let plain = fixture.alone("plain", &[]).path();
    for size in [2, 4] {
        let slices = format!("slices={size}");
        fixture.alone(&slices, &[&slices]).path();
        let store = format!("mpi-{size}");
        let folder = fixture.sandbox.join("ranks").join(&store);
        let train = built_programs().join("train");
        let ran = mpirun(&folder, size, &train, &fixture.arguments(&store, &[]))?;
        ensure_same_losses(&plain, &ran.path())?;
        ensure!(fixture.tree(&store)? == fixture.tree(&slices)?, "other bytes\n{}", ran.stderr);
        let again = mpirun(&folder, size, &train, &fixture.arguments(&store, &[]))?;
        ensure!(again.path() == ran.path(), "it trained again");
    }
    Ok(())
}

#[test]
fn a_rank_of_mpi_that_is_killed_ends_all_and_any_number_of_ranks_resumes() -> Result<()> {
    if !has_mpirun() {
        println!("skipped: there is no mpirun");
        return Ok(());
    }
    let (kills, mut below) = kills_at_random()?;
    let fixture = Fixture::new();
    let train = built_programs().join("train");
    let settings = ["steps=40", "checkpoint_every=20", "slices=4"];
    fixture.alone("unbroken", &settings).path();
    let (mut done, mut runs, mut resumed) = (0, 0, 0);
    while done < kills {
        runs += 1;
        let store = format!("mpi-killed-{runs}");
        let folder = fixture.sandbox.join("ranks").join(&store);
        let size = [2, 4][below(2) as usize];
        let mut ranks = Ranks::mpi(&folder, size, &train, &fixture.arguments(&store, &settings))?;
        // After a step between 2 and 36, and up to 50 ms later.
        ranks.wait_for(0, &format!("{}/40", 2 + 2 * below(18)))?;
        sleep(Duration::from_micros(below(50_000)));
        let processes = ranks.started_by_mpi()?;
        let victim = processes.get(below(size as u64) as usize);
        let was_killed = victim.is_some_and(|victim| kill_process(*victim, Signal::KILL).is_ok());
        let ended = ranks.wait()?;
        if was_killed && ended.ran[0].code != Some(0) {
            done += 1;
            ensure!(ended.took < CLEAN_STOP, "the ranks went on for {:?}", ended.took);
            ensure!(ended.ran[0].stderr.contains("rank"), "{}", ended.ran[0].stderr);
            // `mpirun` may end a moment before the ranks that it stops.
            let begun = Instant::now();
            while processes.iter().any(|process| runs_still(*process)) {
                ensure!(begun.elapsed() < CLEAN_STOP, "a rank still runs");
                sleep(Duration::from_millis(20));
            }
        }
        trees(&fixture.store(&store));
        let ran = match runs % 2 {
            0 => fixture.alone(&store, &settings),
            _ => mpirun(&folder, 6 - size, &train, &fixture.arguments(&store, &settings))?,
        };
        let has_resumed = fixture.ensure_unbroken(&store, &ran).with_context(|| format!("run {runs}"))?;
        resumed += usize::from(has_resumed);
    }
    println!("{done} kills in {runs} runs, {resumed} of which resumed from a saved state");
    Ok(())
}

#[test]
fn ranks_in_network_namespaces_have_the_bytes_of_one_process() -> Result<()> {
    let fixture = Fixture::new();
    let train = built_programs().join("train");
    for size in [2, 4] {
        let namespaces = match Namespaces::new(size) {
            Ok(namespaces) => namespaces,
            Err(reason) => {
                println!("skipped: no network namespaces: {reason}");
                return Ok(());
            }
        };
        let slices = format!("slices={size}");
        fixture.alone(&slices, &[&slices]).path();
        let start = |store: &str, settings: &[&str]| {
            Ranks::ring_at(&fixture.sandbox.join("ranks").join(store), &namespaces.addresses(), |rank| {
                let mut program = namespaces.program(rank, &train);
                program.args(fixture.arguments(store, settings));
                program
            })
        };
        let store = format!("net-{size}");
        start(&store, &[])?.wait()?.path()?;
        ensure!(fixture.tree(&store)? == fixture.tree(&slices)?, "other bytes");
        // A cable that is pulled out.
        let mut ranks = start(&format!("cut-{size}"), &["steps=4000"])?;
        ranks.wait_for(0, "4/4000")?;
        namespaces.cut(1).map_err(anyhow::Error::msg)?;
        let ended = ranks.wait()?;
        ensure!(ended.took < CLEAN_STOP, "{:?}", ended.took);
        ensure!(ended.ran.iter().all(|ran| ran.code == Some(1)), "{:?}", ended.ran);
        ended.ran[0].says(&["rank 1 of"]);
    }
    Ok(())
}
