//! What the head adds to the peak of a step with a vocabulary of 262,144 tokens. Alone in its process: memory is
//! counted for the whole of it.

#![expect(clippy::print_stdout, reason = "tells what was measured, with --nocapture")]

mod support;

use anyhow::{Result, ensure};
use mlx_rs::Dtype;
use models::{LoadOptions, Model};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::Row;
use tuner::{AdapterSettings, Batch, FineTuneType, OptimizerSettings, Step, Trainer};

const VOCABULARY: i32 = 262_144;
const WIDTH: i32 = 64;
const TARGETS_OF_ROW: usize = 128;

/// What the head may add, in bytes.
const BOUND: usize = 600_000_000;

/// The layer that is adapted where the head is not: next to nothing.
const SMALL_KEY: &str = "self_attn.q_proj";

/// Writes the smallest decoder with that vocabulary; `quantized` packs its head and embedding.
fn write_model(folder: &Path, (tied, quantized): (bool, bool)) -> Result<()> {
    let mut config = json!({
        "model_type": "llama", "hidden_size": WIDTH, "num_hidden_layers": 1, "intermediate_size": 64,
        "num_attention_heads": 1, "num_key_value_heads": 1, "vocab_size": VOCABULARY, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": tied,
    });
    let path = folder.join("config.json");
    fs_err::write(&path, config.to_string())?;
    let mut tensors: BTreeMap<String, _> = Model::random(&path, 1)?.parameters();
    if quantized {
        config["quantization"] = json!({"bits": 4, "group_size": 64});
        fs_err::write(&path, config.to_string())?;
        let how = mlx_ext::Quantization { bits: 4, group_size: 64, mode: mlx_ext::QuantizationMode::Affine };
        for part in ["model.embed_tokens", "lm_head"] {
            let Some(weight) = tensors.remove(&format!("{part}.weight")) else { continue };
            let packed = mlx_ext::quantize(&weight, how)?;
            for (name, array) in ["weight", "scales", "biases"].into_iter().zip(packed) {
                tensors.insert(format!("{part}.{name}"), array);
            }
        }
    }
    models::write_safetensors(&folder.join("model.safetensors"), &tensors)?;
    Ok(())
}

fn rows(targets: usize) -> Vec<Row> {
    (0..targets / TARGETS_OF_ROW)
        .map(|row| {
            let token = |t: usize| ((row * 7919 + t * 104_729) % VOCABULARY as usize) as u32;
            ((0..=TARGETS_OF_ROW).map(token).collect(), vec![1; TARGETS_OF_ROW + 1], 1.0)
        })
        .collect()
}

/// What some work added to what was there before it.
struct Added {
    /// MLX's peak, in bytes.
    peak: usize,
    /// Resident memory at its highest, in bytes.
    resident: usize,
    time: Duration,
}

impl std::fmt::Display for Added {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [peak, resident] = [self.peak, self.resident].map(|bytes| bytes / 1_000_000);
        write!(f, "{peak} MB by MLX, {resident} MB resident, {:.1} s", self.time.as_secs_f64())
    }
}

/// Runs `work` and returns what it added.
fn added<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Added)> {
    let resident = || mlx_ext::resident_memory().unwrap_or(0);
    let (done, highest) = (AtomicBool::new(false), AtomicUsize::new(resident()));
    let before = (mlx_rs::memory::active_memory()?, resident());
    mlx_rs::memory::reset_peak_memory()?;
    let begun = Instant::now();
    let value = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                highest.fetch_max(resident(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let value = work();
        done.store(true, Ordering::Relaxed);
        value
    })?;
    let added = Added {
        peak: mlx_rs::memory::peak_memory()?.saturating_sub(before.0),
        resident: highest.load(Ordering::Relaxed).saturating_sub(before.1),
        time: begun.elapsed(),
    };
    Ok((value, added))
}

/// What a step over `targets` targets adds to MLX's peak and to the resident memory.
fn peak_of(model: (bool, bool), adapter: &AdapterSettings, targets: usize) -> Result<Added> {
    mlx_ext::init(&mlx_ext::Options::default())?;
    let folder = tempfile::tempdir()?;
    write_model(folder.path(), model)?;
    let options = LoadOptions { dtype: Some(Dtype::Float32), unpack: true };
    let mut model = Model::load(folder.path(), &options)?;
    let trainable = tuner::attach(&mut model, adapter, 3)?;
    let mut trainer = Trainer::new(model, trainable, OptimizerSettings::default(), 3)?;
    let rows = rows(targets);
    let batch = [Batch::new(&support::token_rows(&rows), 8)];
    let (report, added) = added(|| Ok(trainer.step(&batch, Step::new(1, 1e-3))?))?;
    assert_eq!(report.targets, targets);
    // Random weights know nothing: the loss is that of a guess.
    ensure!((report.mean_loss() - f64::from(VOCABULARY).ln()).abs() < 0.1, "{}", report.mean_loss());
    Ok(added)
}

fn adapter(fine_tune_type: FineTuneType, lm_head: bool) -> AdapterSettings {
    let keys = match fine_tune_type {
        FineTuneType::Full => Vec::new(),
        _ => vec![SMALL_KEY.to_owned()],
    };
    AdapterSettings { fine_tune_type, keys, lm_head, ..AdapterSettings::default() }
}

fn hold(name: &str, model: (bool, bool), adapter: &AdapterSettings, targets: usize) -> Result<()> {
    let added = peak_of(model, adapter, targets)?;
    println!("{name}, {targets} targets: {added}");
    // Whoever trains the table itself has gradient and moments of its size too, old and new.
    let table = (VOCABULARY * WIDTH) as usize * 4;
    let extra = if adapter.fine_tune_type == FineTuneType::Full { 8 * table } else { 0 };
    ensure!(added.peak < BOUND + extra && added.resident < BOUND + extra, "{name}: {added}");
    Ok(())
}

#[test]
fn a_vocabulary_of_262144_adds_less_than_600_megabytes() -> Result<()> {
    hold("frozen", (false, false), &adapter(FineTuneType::Lora, false), 512)?;
    hold("with an adapter, packed", (false, true), &adapter(FineTuneType::Lora, true), 512)
}

#[test]
#[ignore = "minutes: `make soak` runs it"]
fn the_head_keeps_its_bound_over_2048_targets_however_it_trains() -> Result<()> {
    let embeddings =
        AdapterSettings { embeddings: true, lm_head: false, ..adapter(FineTuneType::Full, false) };
    for (name, model, adapter) in [
        ("frozen", (false, false), adapter(FineTuneType::Lora, false)),
        ("frozen, tied", (true, false), adapter(FineTuneType::Lora, false)),
        ("frozen, packed", (false, true), adapter(FineTuneType::Lora, false)),
        ("with a LoRA adapter", (false, false), adapter(FineTuneType::Lora, true)),
        ("with a LoRA adapter, packed", (false, true), adapter(FineTuneType::Lora, true)),
        ("with a DoRA adapter", (false, false), adapter(FineTuneType::Dora, true)),
        ("trained", (false, false), adapter(FineTuneType::Full, true)),
        ("trained, tied", (true, false), embeddings),
    ] {
        hold(name, model, &adapter, 2048)?;
    }
    Ok(())
}
