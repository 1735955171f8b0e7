//! The work of a training step on a small model: multiplications in matrix products, and bytes at its peak. Unlike
//! seconds, both are the same on every machine, so a regression fails here.
//!
//! The only test of its process, because the counters are those of the process.

#![cfg(target_os = "linux")]

mod support;

use anyhow::{Context, Result, ensure};
use models::Model;
use serde_json::json;
use support::{Row, token_rows};
use tuner::{AdapterSettings, Batch, FineTuneType, OptimizerSettings, Step, Trainer};

const WIDTH: u64 = 256;
const INNER: u64 = 768;
const BLOCKS: u64 = 4;
const VOCABULARY: u64 = 4096;
/// Rows are short, so that products in attention are about one percent of all.
const LENGTH: u64 = 24;
const ROWS: u64 = 16;
/// Targets of a row.
const TARGETS: u64 = 6;

/// Operations that may be taken beyond those of the formula, relative: attention and adapters.
const BEYOND: f64 = 0.06;

/// A step, with the work it may take: bytes are about a tenth more than were measured.
struct Case {
    name: &'static str,
    adapter: AdapterSettings,
    recompute: bool,
    /// Multiplications and additions by the weights of the blocks and of the head.
    operations: u64,
    /// Bytes beyond model and state at the peak.
    bytes: usize,
}

/// Operations of a pass through `blocks` blocks for all tokens, without attention.
fn through(blocks: u64) -> u64 {
    let weights = 2 * WIDTH * WIDTH + 2 * WIDTH * (WIDTH / 2) + 3 * WIDTH * INNER;
    2 * ROWS * LENGTH * weights * blocks
}

fn cases() -> Vec<Case> {
    let lora = AdapterSettings { rank: 4, ..AdapterSettings::default() };
    let last = AdapterSettings { num_layers: Some(2), ..lora.clone() };
    let full = AdapterSettings { fine_tune_type: FineTuneType::Full, ..last.clone() };
    let dora = AdapterSettings { fine_tune_type: FineTuneType::Dora, ..last.clone() };
    // Logits, and the gradient of their inputs.
    let head = 2 * 2 * ROWS * TARGETS * WIDTH * VOCABULARY;
    // Activations have no gradient in frozen blocks.
    let partly = through(BLOCKS) + through(2) + head;
    vec![
        Case {
            name: "LoRA",
            adapter: lora.clone(),
            recompute: false,
            operations: 2 * through(BLOCKS) + head,
            bytes: 28 << 20,
        },
        Case {
            name: "LoRA of two blocks",
            adapter: last,
            recompute: false,
            operations: partly,
            bytes: 19 << 20,
        },
        Case {
            name: "recomputed",
            adapter: lora,
            recompute: true,
            operations: 3 * through(BLOCKS) + head,
            bytes: 16 << 20,
        },
        Case {
            name: "DoRA of two blocks",
            adapter: dora,
            recompute: false,
            operations: partly,
            bytes: 43 << 20,
        },
        Case {
            name: "full, two blocks",
            adapter: full,
            recompute: false,
            operations: partly + through(2),
            bytes: 24 << 20,
        },
    ]
}

fn model() -> Result<Model> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("config.json");
    let config = json!({
        "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": BLOCKS,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": VOCABULARY, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": true,
    });
    fs_err::write(&path, config.to_string())?;
    Ok(Model::random(&path, 1)?)
}

fn batch() -> Batch {
    let rows: Vec<Row> = (0..ROWS)
        .map(|row| {
            let tokens = (0..LENGTH).map(|t| ((row * 131 + t * 37) % VOCABULARY) as u32).collect();
            let trained = (0..LENGTH).map(|t| u8::from(t >= LENGTH - TARGETS)).collect();
            (tokens, trained, 1.0)
        })
        .collect();
    Batch::new(&token_rows(&rows), 8)
}

#[test]
fn a_step_takes_no_more_work_than_its_formula_says() -> Result<()> {
    mlx_ext::init(&mlx_ext::Options::default())?;
    let operations = || mlx_ext::product_operations().context("products are ours on Linux");
    if mlx_ext::runs_on_gpu() {
        return Ok(());
    }
    let mut wrong = Vec::new();
    for case in cases() {
        let mut model = model()?;
        let trainable = tuner::attach(&mut model, &case.adapter, 5)?;
        let mut trainer = Trainer::new(model, trainable, OptimizerSettings::default(), 5)?;
        trainer.set_gradient_checkpointing(case.recompute);
        let batch = [batch()];
        trainer.step(&batch, Step::new(1, 1e-3))?;
        mlx_rs::memory::clear_cache()?;
        let (active, before) = (mlx_rs::memory::active_memory()?, operations()?);
        mlx_rs::memory::reset_peak_memory()?;
        trainer.step(&batch, Step::new(2, 1e-3))?;
        let taken = operations()? - before;
        let bytes = mlx_rs::memory::peak_memory()? - active;
        let share = taken as f64 / case.operations as f64;
        println!(
            "{:20} {taken} operations, {share:.3} of the formula; {bytes} bytes of {}",
            case.name, case.bytes
        );
        if !(1.0 - BEYOND..1.0 + BEYOND).contains(&share) {
            wrong.push(format!("{}: {share:.3} of the operations of the formula", case.name));
        }
        if bytes > case.bytes {
            wrong.push(format!("{}: {bytes} bytes instead of {}", case.name, case.bytes));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}
