//! Memory that the head adds to the peak of a step with a vocabulary of 262,144 tokens. The only test of its process,
//! because memory is measured per process.

#![expect(clippy::print_stdout, reason = "shows the measurements, with --nocapture")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mlx_rs::Dtype;
use models::{LoadOptions, Model};
use serde_json::json;
use support::{Row, token_rows};
use tuner::{AdapterSettings, Batch, FineTuneType, OptimizerSettings, Step, Trainer};

const VOCABULARY: i32 = 262_144;
const WIDTH: i32 = 64;
const TARGETS_OF_ROW: usize = 128;

/// Memory that the head may add, in bytes.
const BOUND: usize = 600_000_000;
/// As [`BOUND`], as MLX counts it: buffers of operations that have not begun are included.
const BOUND_OF_MLX: usize = 900_000_000;

/// Layer that is adapted if the head is not; it needs very little memory.
const SMALL_KEY: &str = "self_attn.q_proj";

/// Kind of a test model.
#[derive(Clone, Copy)]
struct Kind {
    /// Whether the head is the token embedding.
    tied: bool,
    /// Whether head and embedding are quantized.
    quantized: bool,
}

const PLAIN: Kind = Kind { tied: false, quantized: false };
const TIED: Kind = Kind { tied: true, quantized: false };
const QUANTIZED: Kind = Kind { tied: false, quantized: true };

/// Writes a minimal decoder with that vocabulary.
fn write_model(folder: &Path, Kind { tied, quantized }: Kind) -> Result<()> {
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

/// Memory that some work added, and its time.
struct Added {
    /// Increase of MLX's peak memory, in bytes.
    peak: usize,
    /// Increase of the highest resident memory, in bytes.
    resident: usize,
    time: Duration,
}

impl std::fmt::Display for Added {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [peak, resident] = [self.peak, self.resident].map(|bytes| bytes / 1_000_000);
        write!(f, "{peak} MB by MLX, {resident} MB resident, {:.1} s", self.time.as_secs_f64())
    }
}

/// Runs `work` and measures it.
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

/// Measures a step over `targets` targets.
fn peak_of(model: Kind, adapter: &AdapterSettings, targets: usize) -> Result<Added> {
    mlx_ext::init(&mlx_ext::Options::default())?;
    let folder = tempfile::tempdir()?;
    write_model(folder.path(), model)?;
    let options = LoadOptions { dtype: Some(Dtype::Float32), unpack: true };
    let mut model = Model::load(folder.path(), &options)?;
    let trainable = tuner::attach(&mut model, adapter, 3)?;
    let mut trainer = Trainer::new(model, trainable, OptimizerSettings::default(), 3)?;
    let rows = rows(targets);
    let batch = [Batch::new(&token_rows(&rows), 8)];
    let (report, added) = added(|| Ok(trainer.step(&batch, Step::new(1, 1e-3))?))?;
    assert_eq!(report.targets, targets);
    // With random weights the loss is that of a uniform guess.
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

fn hold(name: &str, model: Kind, adapter: &AdapterSettings, targets: usize) -> Result<()> {
    let added = peak_of(model, adapter, targets)?;
    println!("{name}, {targets} targets: {added}");
    // A trained table also needs a gradient and moments of its size, old and new.
    let table = (VOCABULARY * WIDTH) as usize * 4;
    let extra = if adapter.fine_tune_type == FineTuneType::Full { 8 * table } else { 0 };
    ensure!(added.peak < BOUND_OF_MLX + extra && added.resident < BOUND + extra, "{name}: {added}");
    Ok(())
}

#[test]
fn a_vocabulary_of_262144_adds_less_than_600_megabytes() -> Result<()> {
    hold("frozen", PLAIN, &adapter(FineTuneType::Lora, false), 512)?;
    hold("with an adapter, packed", QUANTIZED, &adapter(FineTuneType::Lora, true), 512)
}

#[test]
#[ignore = "minutes: `make soak` runs it"]
fn the_head_keeps_its_bound_over_2048_targets_however_it_trains() -> Result<()> {
    let embeddings =
        AdapterSettings { embeddings: true, lm_head: false, ..adapter(FineTuneType::Full, false) };
    for (name, model, adapter) in [
        ("frozen", PLAIN, adapter(FineTuneType::Lora, false)),
        ("frozen, tied", TIED, adapter(FineTuneType::Lora, false)),
        ("frozen, packed", QUANTIZED, adapter(FineTuneType::Lora, false)),
        ("with a LoRA adapter", PLAIN, adapter(FineTuneType::Lora, true)),
        ("with a LoRA adapter, packed", QUANTIZED, adapter(FineTuneType::Lora, true)),
        ("with a DoRA adapter", PLAIN, adapter(FineTuneType::Dora, true)),
        ("trained", PLAIN, adapter(FineTuneType::Full, true)),
        ("trained, tied", TIED, embeddings),
    ] {
        hold(name, model, &adapter, 2048)?;
    }
    Ok(())
}
