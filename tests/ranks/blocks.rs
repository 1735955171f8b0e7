//! Ranks that share the blocks of a model: the bytes of one process, and none of the weights of the others.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};
use testutil::{Program, built_programs, trees};

use super::launcher::{Ended, Namespaces, Ranks, has_mpirun, mpirun};
use super::{Fixture, RESUMED, ensure_clean_stop, kills_at_random};

impl Fixture {
    /// Returns a fixture with a model of 6 blocks whose weights are drawn from the seed.
    fn deep() -> Result<Self> {
        Self::deep_with(&json!({}))
    }

    /// As [`Fixture::deep`], with changes of the model's settings.
    fn deep_with(changes: &Value) -> Result<Self> {
        let fixture = Self::new();
        let text = fs_err::read_to_string(testutil::golden("gemma3_text").join("config.json"))?;
        let mut config: Value = serde_json::from_str(&text)?;
        config["num_hidden_layers"] = 6.into();
        for (name, value) in changes.as_object().into_iter().flatten() {
            config[name] = value.clone();
        }
        let folder = fixture.sandbox.join("deep");
        fs_err::create_dir_all(&folder)?;
        fs_err::write(folder.join("config.json"), config.to_string())?;
        Ok(Self { model: folder.to_string_lossy().into_owned(), ..fixture })
    }

    /// Returns a fixture with a quantized model that has a head of its own.
    fn quantized() -> Self {
        let fixture = Self::new();
        let model = fixture.sandbox.model("tests/golden/llama-q4");
        let dataset = fixture.sandbox.dataset(&model);
        Self { model, dataset, ..fixture }
    }

    /// Starts ranks that share the blocks of the model.
    fn shared(&self, size: usize, store: &str, settings: &[&str]) -> Result<Ranks> {
        self.with_flags(size, store, settings, &|_| &["--shard-layers"])
    }

    fn with_flags(
        &self,
        size: usize,
        store: &str,
        settings: &[&str],
        flags: &dyn Fn(usize) -> &'static [&'static str],
    ) -> Result<Ranks> {
        Ranks::ring(&self.sandbox.join("ranks").join(store), size, |rank| {
            let mut program = Program::built("train");
            program.args(self.arguments(store, settings)).args(flags(rank));
            program
        })
    }

    /// Fails unless one process and ranks that share the blocks have the same artifact.
    fn ensure_same_bytes(&self, name: &str, size: usize, settings: &[&str]) -> Result<()> {
        let alone = format!("{name}-alone");
        let path = self.alone(&alone, settings).path();
        let shared = self.shared(size, name, settings)?.wait()?.path()?;
        ensure!(path.file_name() == shared.file_name(), "{name}: `--shard-layers` is in the key");
        ensure!(self.tree(name)? == self.tree(&alone)?, "{name}: other bytes");
        Ok(())
    }
}

#[test]
fn ranks_that_share_the_blocks_of_a_model_have_the_bytes_of_one_process() -> Result<()> {
    let fixture = Fixture::deep()?;
    for (name, size, settings) in [
        ("two", 2, &["dropout=0.1", "accumulation=2"][..]),
        ("four", 4, &["dropout=0.1"][..]),
        // Ranks with frozen blocks only.
        ("six", 6, &["num_layers=2", "gradient_checkpointing=true"][..]),
        ("uneven", 4, &["dtype=bfloat16", "slices=2", "packing=true"][..]),
    ] {
        fixture.ensure_same_bytes(name, size, settings)?;
    }
    Ok(())
}

#[test]
fn ranks_share_the_blocks_of_quantized_models_and_of_heads_with_adapters() -> Result<()> {
    let fixture = Fixture::quantized();
    for (name, size, settings) in [
        ("packed", 2, &["unpack=transient"][..]),
        ("unpacked", 3, &["unpack=resident", "dtype=float16"][..]),
        ("head", 2, &["lm_head=true", "dropout=0.1"][..]),
        ("only-head", 3, &["keys=[\"lm_head\"]"][..]),
    ] {
        fixture.ensure_same_bytes(name, size, settings)?;
    }
    Ok(())
}

#[test]
fn ranks_of_mpi_that_share_the_blocks_of_a_model_have_the_bytes_of_one_process() -> Result<()> {
    if !has_mpirun() {
        println!("skipped: there is no mpirun");
        return Ok(());
    }
    let fixture = Fixture::deep()?;
    fixture.alone("plain", &[]).path();
    for size in [2, 4] {
        let store = format!("mpi-{size}");
        let folder = fixture.sandbox.join("ranks").join(&store);
        let arguments = [fixture.arguments(&store, &[]), vec!["--shard-layers".to_owned()]].concat();
        let ran = mpirun(&folder, size, &built_programs().join("train"), &arguments)?;
        ran.path();
        ensure!(fixture.tree(&store)? == fixture.tree("plain")?, "other bytes\n{}", ran.stderr);
    }
    Ok(())
}

#[test]
fn ranks_in_network_namespaces_that_share_blocks_have_the_bytes_of_one_process() -> Result<()> {
    let fixture = Fixture::deep()?;
    fixture.alone("plain", &[]).path();
    for size in [2, 4] {
        let namespaces = match Namespaces::new(size) {
            Ok(namespaces) => namespaces,
            Err(reason) => {
                println!("skipped: no network namespaces: {reason}");
                return Ok(());
            }
        };
        let store = format!("net-{size}");
        let folder = fixture.sandbox.join("ranks").join(&store);
        let ended = Ranks::ring_at(&folder, &namespaces.addresses(), |rank| {
            let mut program = namespaces.program(rank, &built_programs().join("train"));
            program.args(fixture.arguments(&store, &[])).arg("--shard-layers");
            program
        })?
        .wait()?;
        ended.path()?;
        ensure!(fixture.tree(&store)? == fixture.tree("plain")?, "other bytes");
    }
    Ok(())
}

#[test]
#[cfg(target_os = "linux")]
fn ranks_that_share_blocks_need_memory_for_their_own_only() -> Result<()> {
    // 151 MB of weights.
    let fixture = Fixture::deep_with(&json!({"hidden_size": 256, "intermediate_size": 8192}))?;
    let settings = ["batch_size=1", "steps=2000", "validation_every=0", "rank=1"];
    let peaks = |size: usize, flags: &'static [&'static str]| -> Result<Vec<u64>> {
        let mut ranks = fixture.with_flags(size, &format!("peak-{size}"), &settings, &|_| flags)?;
        ranks.wait_for(0, "2/2000")?;
        (0..size).map(|rank| ranks.peak_memory(rank)).collect()
    };
    // A ring of one is a process on its own.
    let alone = peaks(1, &[])?[0];
    let shared = peaks(3, &["--shard-layers"])?;
    println!("{alone} bytes on one process, {shared:?} on ranks");
    // Two thirds of the weights are 101 MB.
    ensure!(shared.iter().all(|peak| peak + 90_000_000 < alone), "{shared:?} of {alone}");
    Ok(())
}

#[test]
fn a_killed_rank_that_shares_blocks_ends_all_and_any_number_of_ranks_resumes() -> Result<()> {
    let (kills, mut below) = kills_at_random()?;
    let fixture = Fixture::deep()?;
    let settings = ["steps=40", "checkpoint_every=20"];
    fixture.alone("unbroken", &settings).path();
    let (mut done, mut runs, mut resumed) = (0, 0, 0);
    while done < kills {
        runs += 1;
        let store = format!("killed-{runs}");
        let mut ranks = fixture.shared(3, &store, &settings)?;
        // After a step between 2 and 36, and up to 50 ms later.
        ranks.wait_for(0, &format!("{}/40", 2 + 2 * below(18)))?;
        std::thread::sleep(Duration::from_micros(below(50_000)));
        let victim = below(3) as usize;
        let was_running = ranks.signal(victim, Signal::KILL).is_ok() && !ranks.has_ended()?;
        let ended = ranks.wait()?;
        if was_running && ended.ran[victim].signal == Some(9) && ended.ran[0].code != Some(0) {
            done += 1;
            ensure_clean_stop(&ended, victim).with_context(|| format!("kill {done}"))?;
        }
        trees(&fixture.store(&store));
        // On fewer ranks, on ranks that share rows instead, and on one process.
        let ran = match runs % 3 {
            0 => fixture.shared(2, &store, &settings)?.wait()?.ran.swap_remove(0),
            1 => {
                fixture.ring(2, &store, &[&settings[..], &["slices=1"]].concat())?.wait()?.ran.swap_remove(0)
            }
            _ => fixture.alone(&store, &settings),
        };
        let has_resumed = fixture.ensure_unbroken(&store, &ran).with_context(|| format!("run {runs}"))?;
        resumed += usize::from(has_resumed);
    }
    println!("{done} kills in {runs} runs, {resumed} of which resumed from a saved state");
    Ok(())
}

#[test]
fn a_signal_to_one_rank_that_shares_blocks_saves_a_state() -> Result<()> {
    let fixture = Fixture::deep()?;
    let settings = ["steps=40", "checkpoint_every=20"];
    fixture.alone("unbroken", &settings).path();
    let mut ranks = fixture.shared(4, "signal", &settings)?;
    ranks.wait_for(0, "6/40")?;
    ranks.signal(2, Signal::TERM)?;
    let ended = ranks.wait()?;
    ensure!(ended.ran.iter().all(|ran| ran.code == Some(143)), "{:?}", ended.ran);
    ended.ran[0].says(&["saved a resume state after step"]);
    let last = fixture.alone("signal", &settings);
    last.says(&[RESUMED]);
    last.path();
    ensure!(fixture.tree("signal")? == fixture.tree("unbroken")?, "other bytes than an unbroken run");
    Ok(())
}

#[test]
fn what_ranks_cannot_share_is_refused() -> Result<()> {
    let fixture = Fixture::new();
    let alone = Program::built("train").args(fixture.arguments("alone", &[])).arg("--shard-layers").run();
    alone.failed(2);
    alone.says(&["there is only this process", "hint: start it with `mpirun -n 2`"]);
    let refused = |ended: &Ended, code: i32, said: &[&str]| -> Result<()> {
        ensure!(ended.ran.iter().all(|ran| ran.code == Some(code)), "{:?}", ended.ran);
        ended.ran[0].says(said);
        Ok(())
    };
    for (kind, name) in [("full", "input_layernorm.weight"), ("dora", "mlp.down_proj.m")] {
        let ended = fixture.shared(2, kind, &[&format!("fine_tune_type={kind}")])?.wait()?;
        refused(&ended, 2, &["only LoRA adapters", name, "set fine_tune_type = \"lora\""])?;
    }
    let many = fixture.shared(4, "many", &[])?.wait()?;
    refused(&many, 2, &["4 ranks cannot share the 3 blocks", "start at most 3 ranks"])?;
    let flags: [&[&str]; 2] = [&["--shard-layers"], &[]];
    let differs = fixture.with_flags(2, "differs", &[], &|rank| flags[rank])?.wait()?;
    refused(&differs, 1, &["rank 1 has another `--shard-layers` than rank 0"])?;
    let finder: &[&str] = &["--shard-layers", "--find-learning-rate"];
    refused(&fixture.with_flags(2, "finder", &[], &|_| finder)?.wait()?, 2, &["runs in one process"])?;
    let plan: &[&str] = &["--shard-layers", "--plan"];
    refused(&fixture.with_flags(2, "plan", &[], &|_| plan)?.wait()?, 10, &["on rank 0"])
}
