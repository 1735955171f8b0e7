//! Training that is killed or interrupted at any moment produces, after a rerun, the bytes of an unbroken run.
//!
//! `ASHLAR_KILLS` is the number of kills (default 20); `ASHLAR_SEED` repeats the moments of an earlier test run.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use artifact::TreeHash;
use rustix::process::{Pid, Signal, kill_process};
use testutil::{Ran, Sandbox, trees};

/// Longer than any wait below, even on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);
/// Logged by a run that resumes.
const RESUMED: &str = "resuming after step";
/// Logged once training is about to start.
const STARTED: &str = "parameters (";

/// A model, a dataset, and the result of an undisturbed run on them.
struct Fixture {
    sandbox: Sandbox,
    model: String,
    dataset: String,
    unbroken: TreeHash,
    duration: Duration,
}

impl Fixture {
    fn new() -> Result<Self> {
        let sandbox = Sandbox::new();
        let model = sandbox.model("tests/golden/gemma3_text");
        let dataset = sandbox.dataset(&model);
        let store = sandbox.join("unbroken");
        let arguments = ["--model", &model, "--dataset", &dataset, "--save-every", "1"];
        let begun = Instant::now();
        sandbox.stage_in(&store, "train", &arguments).run().path();
        let (duration, unbroken) = (begun.elapsed(), only(&store)?);
        Ok(Self { sandbox, model, dataset, unbroken, duration })
    }

    fn store(&self, name: &str) -> PathBuf {
        self.sandbox.join("stores").join(name)
    }

    /// Starts training with its stderr in a file.
    fn start(&self, store: &Path, more: &[&str]) -> Result<(Child, PathBuf)> {
        let messages = store.with_extension("stderr");
        fs_err::create_dir_all(store)?;
        let inputs = ["--model", &self.model, "--dataset", &self.dataset];
        let mut train = self.sandbox.stage_in(store, "train", &[&inputs, more].concat());
        train.command().stderr(fs_err::File::create(&messages)?.into_parts().0);
        Ok((train.spawn(), messages))
    }

    /// Interrupts a run between its steps. A run that was faster than the signal is repeated with an earlier one.
    fn interrupted(&self, number: Signal) -> Result<(PathBuf, Ran)> {
        for share in [4, 8, 16, 32, 64] {
            let store = self.store(&format!("{number:?}-{share}"));
            // Only the signal saves a state: no step is a multiple of 100.
            let (child, messages) = self.start(&store, &["--save-every", "100"])?;
            wait_until(|| Ok(fs_err::read_to_string(&messages)?.contains(STARTED)))?;
            sleep(self.duration / share);
            signal(&child, number)?;
            let mut ran = Ran::from(child.wait_with_output()?);
            if ran.code != Some(0) {
                ran.stderr = fs_err::read_to_string(&messages)?;
                return Ok((store, ran));
            }
        }
        bail!("every run was faster than its signal")
    }

    /// Trains to the end while reading the store, and compares the result.
    fn finish(&self, store: &Path, more: &[&str]) -> Result<Ran> {
        let (mut child, messages) = self.start(store, more)?;
        wait_until(|| {
            trees(store);
            Ok(child.try_wait()?.is_some())
        })?;
        let mut ran = Ran::from(child.wait_with_output()?);
        ran.stderr = fs_err::read_to_string(messages)?;
        ran.path();
        let tree = only(store)?;
        ensure!(tree == self.unbroken, "tree {tree} instead of {}:\n{}", self.unbroken, ran.stderr);
        Ok(ran)
    }
}

/// Returns the tree hash of the only artifact in a store.
fn only(store: &Path) -> Result<TreeHash> {
    let all = trees(store);
    ensure!(all.len() == 1, "the store holds {all:?}");
    Ok(*all.values().next().context("the store is empty")?)
}

fn wait_until(mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !done()? {
        ensure!(begun.elapsed() < PATIENCE, "nothing happened");
        sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn signal(child: &Child, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(child.id().cast_signed()).context("a child has an id")?;
    Ok(kill_process(pid, signal)?)
}

/// Returns whether an unfinished run saved its resume state of `step`.
fn has_state(store: &Path, step: usize) -> bool {
    let Ok(keys) = fs_err::read_dir(store.join(".work/train")) else { return false };
    keys.flatten().any(|key| key.path().join(format!("ckpt/state/{step:07}")).is_dir())
}

/// Pseudo-random numbers from a seed (`SplitMix64`).
struct Random(u64);

impl Random {
    /// Starts with `ASHLAR_SEED`, or with a random seed.
    fn start() -> Result<Self> {
        let seed = match std::env::var("ASHLAR_SEED") {
            Ok(seed) => seed.parse().with_context(|| format!("ASHLAR_SEED={seed}"))?,
            Err(_) => RandomState::new().build_hasher().finish(),
        };
        Ok(Self(seed))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

#[test]
fn killed_at_any_moment_a_rerun_produces_the_same_bytes() -> Result<()> {
    let wanted: usize = std::env::var("ASHLAR_KILLS").map_or(Ok(20), |count| count.parse())?;
    let mut random = Random::start()?;
    println!("ASHLAR_SEED={}", random.0);
    let fixture = Fixture::new()?;
    let (mut kills, mut runs, mut resumed) = (0, 0, 0);
    while kills < wanted {
        runs += 1;
        let store = fixture.store(&format!("run-{runs}"));
        loop {
            let every = (1 + random.below(3)).to_string();
            let moment = Duration::from_micros(random.below(fixture.duration.as_micros() as u64));
            let (mut child, _) = fixture.start(&store, &["--save-every", &every])?;
            let begun = Instant::now();
            while begun.elapsed() < moment && child.try_wait()?.is_none() {
                trees(&store);
                sleep(moment.saturating_sub(begun.elapsed()).min(Duration::from_millis(5)));
            }
            child.kill()?;
            let ran = Ran::from(child.wait_with_output()?);
            trees(&store);
            if ran.signal != Some(9) {
                break; // it had finished
            }
            kills += 1;
            if kills == wanted || random.below(2) == 0 {
                break;
            }
        }
        let every = (1 + random.below(3)).to_string();
        let ran = fixture.finish(&store, &["--save-every", &every]).with_context(|| format!("run {runs}"))?;
        resumed += usize::from(ran.stderr.contains(RESUMED));
    }
    println!("{kills} kills in {runs} runs, {resumed} of which resumed from a saved state");
    ensure!(resumed * 4 >= runs, "only {resumed} of {runs} runs resumed from a saved state");
    Ok(())
}

/// `ASHLAR_EVERY=1` tries every operation; by default, a sample.
#[test]
fn disturbed_at_any_operation_of_saving_a_rerun_produces_the_same_bytes() -> Result<()> {
    let every = testutil::strace::every(23);
    let fixture = Fixture::new()?;
    let disturbed = |fault: &str, turn: usize| -> Result<(PathBuf, Ran)> {
        let store = fixture.store(&format!("{fault}-{turn}"));
        fs_err::create_dir_all(&store)?;
        let arguments = ["--model", &fixture.model, "--dataset", &fixture.dataset, "--save-every", "1"];
        let mut train = fixture.sandbox.stage_in(&store, "train", &arguments);
        let ran = train.env("ASHLAR_FAULT", format!("{fault}@{turn}")).run();
        // Verifies every byte of what is visible.
        trees(&store);
        Ok((store, ran))
    };
    let mut operations = 0;
    for turn in (1..).step_by(every) {
        let (store, ran) = disturbed("kill", turn)?;
        ensure!(ran.signal == Some(9) || ran.code == Some(0), "kill@{turn}: {:?} {}", ran.code, ran.stderr);
        fixture.finish(&store, &["--save-every", "1"]).with_context(|| format!("kill@{turn}"))?;
        if ran.code == Some(0) {
            operations = turn;
            break;
        }
    }
    ensure!(operations > 100, "only {operations} operations");
    for (offset, (fault, code)) in
        [("enospc", 74), ("eio", 74), ("edquot", 74), ("erofs", 74), ("emfile", 1)].into_iter().enumerate()
    {
        for turn in (1 + offset * every / 3..operations).step_by(3 * every) {
            let (store, ran) = disturbed(fault, turn)?;
            let what = format!("{fault}@{turn}: {:?} {}", ran.code, ran.stderr);
            ensure!(ran.code == Some(code) || ran.code == Some(0), "{what}");
            ensure!(ran.code == Some(0) || ran.stderr.contains('`'), "names no file: {what}");
            fixture.finish(&store, &["--save-every", "1"]).context(what)?;
        }
    }
    Ok(())
}

#[test]
fn interrupted_training_says_how_to_resume_and_resumes() -> Result<()> {
    let fixture = Fixture::new()?;
    for (number, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let (store, ran) = fixture.interrupted(number)?;
        ran.failed(code);
        ran.says(&[
            "stopping at the next safe point",
            "saved a resume state after step",
            "run the same command again",
        ]);
        ensure!(trees(&store).is_empty(), "an unfinished run is published");
        fixture.finish(&store, &[])?.says(&[RESUMED]);
    }
    Ok(())
}

#[test]
fn a_second_interrupt_ends_the_process_immediately_and_loses_no_saved_step() -> Result<()> {
    let fixture = Fixture::new()?;
    let store = fixture.store("twice");
    // First some steps with a saved state, then one that takes minutes.
    let (mut child, _) = fixture.start(&store, &["--save-every", "1"])?;
    wait_until(|| Ok(has_state(&store, 2) || child.try_wait()?.is_some()))?;
    child.kill()?;
    child.wait()?;
    let long = fixture.store("long");
    let (mut child, messages) =
        fixture.start(&long, &["--set", "accumulation=2000", "--set", "pad_to=4096"])?;
    wait_until(|| Ok(fs_err::read_to_string(&messages)?.contains(STARTED)))?;
    sleep(Duration::from_millis(300));
    signal(&child, Signal::INT)?;
    wait_until(|| Ok(fs_err::read_to_string(&messages)?.contains("stopping at the next safe point")))?;
    sleep(Duration::from_millis(300));
    ensure!(child.try_wait()?.is_none(), "the first signal waits for the step to end");
    let begun = Instant::now();
    signal(&child, Signal::INT)?;
    let code = child.wait()?.code();
    ensure!(code == Some(130), "ended with {code:?}");
    ensure!(begun.elapsed() < Duration::from_secs(2), "it took {:?}", begun.elapsed());
    ensure!(trees(&long).is_empty(), "an unfinished run is published");
    fixture.finish(&store, &[])?.says(&[RESUMED]);
    Ok(())
}

/// Returns whether the provenance of an artifact says that its run resumed.
fn says_resumed(folder: &Path) -> Result<bool> {
    Ok(artifact::Artifact::open(folder)?.provenance()?["resumed"] == true)
}

#[test]
fn a_run_says_that_it_resumes_only_if_it_does() -> Result<()> {
    let fixture = Fixture::new()?;
    let more = ["--save-every", "100"];
    let plan = |store: &Path| {
        let inputs = ["--model", &fixture.model, "--dataset", &fixture.dataset, "--plan"];
        fixture.sandbox.stage_in(store, "train", &[&inputs[..], &more].concat()).run().code
    };
    let (store, ran) = fixture.interrupted(Signal::TERM)?;
    ensure!(plan(&store) == Some(11), "{}", ran.stderr);
    let key = fs_err::read_dir(store.join(".work/train"))?.next().context("there is a workspace")??.path();
    let state = key.join("ckpt/state");
    let kept = fixture.sandbox.join("kept");
    testutil::files::copy(&key, &kept);
    let resumed = fixture.finish(&store, &more)?;
    ensure!(says_resumed(&resumed.path())?, "{}", resumed.stderr);

    // As a kill before the first resume state leaves it.
    let restore = || {
        testutil::files::remove(&store.join("train"));
        testutil::files::copy(&kept, &key);
    };
    restore();
    fs_err::remove_dir_all(&state)?;
    ensure!(plan(&store) == Some(10), "nothing is there to resume from");
    let begun = fixture.finish(&store, &more)?;
    ensure!(!says_resumed(&begun.path())?, "{}", begun.stderr);

    // Every resume state is damaged.
    restore();
    for entry in fs_err::read_dir(&state)? {
        fs_err::write(entry?.path().join("weights.safetensors"), "x")?;
    }
    let damaged = fixture.finish(&store, &more)?;
    ensure!(damaged.stderr.contains("resume state is damaged"), "{}", damaged.stderr);
    ensure!(!says_resumed(&damaged.path())?, "{}", damaged.stderr);
    Ok(())
}
