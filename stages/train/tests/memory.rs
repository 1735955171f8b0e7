//! The estimate of a run's memory against what runs of ten shapes need, saving included.
//!
//! Every shape runs in a process of its own, because the peak of resident memory is that of a process.

#![expect(clippy::print_stdout, reason = "shows estimate and measurement with --nocapture")]
#![cfg(target_os = "linux")]

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use dataset::SplitWriter;
use mlx_rs::Dtype;
use models::{LoadOptions, Model};
use serde_json::{Value, json};
use tensors::{TensorLayout, TensorWriter};
use train::{Config, Estimate, Inputs, Saving};
use tuner::{FineTuneType, Observer, OptimizerName};

/// Largest difference of estimate and measurement, relative to the measurement.
const ALLOWED: f64 = 0.15;

/// Set in the process of one shape: its index.
const SHAPE: &str = "ASHLAR_TEST_SHAPE";
/// Set in the process of one shape: the folder with its model and data.
const FOLDER: &str = "ASHLAR_TEST_FOLDER";

/// A run whose memory is estimated and measured.
struct Shape {
    name: &'static str,
    /// Width, width inside the MLP, blocks, vocabulary.
    model: [usize; 4],
    /// Tokens of every row.
    length: usize,
    config: Config,
}

fn shapes() -> Vec<Shape> {
    let config = |batch_size, change: &dyn Fn(&mut Config)| {
        let mut config = Config { batch_size, steps: 2, pad_to: 8, ..Config::default() };
        change(&mut config);
        config
    };
    let full = |config: &mut Config| config.fine_tune_type = FineTuneType::Full;
    let shape = |name, model, length, config| Shape { name, model, length, config };
    vec![
        shape("LoRA", [512, 1536, 6, 16_384], 256, config(4, &|_| {})),
        shape("LoRA of two blocks", [512, 1536, 6, 16_384], 256, config(4, &|c| c.num_layers = 2)),
        shape(
            "gradient checkpointing",
            [512, 1536, 6, 16_384],
            256,
            config(4, &|c| c.gradient_checkpointing = true),
        ),
        shape("DoRA", [512, 1536, 6, 16_384], 256, config(4, &|c| c.fine_tune_type = FineTuneType::Dora)),
        shape("long rows", [384, 1024, 4, 16_384], 1024, config(1, &|_| {})),
        shape("a large vocabulary", [256, 768, 2, 131_072], 128, config(2, &|_| {})),
        shape("full", [512, 1536, 6, 16_384], 128, config(2, &full)),
        shape(
            "full, two blocks",
            [512, 1536, 6, 16_384],
            128,
            config(4, &|c| {
                full(c);
                c.num_layers = 2;
            }),
        ),
        shape(
            "full with embeddings",
            [384, 1024, 3, 65_536],
            64,
            config(2, &|c| {
                full(c);
                c.embeddings = true;
            }),
        ),
        shape(
            "full with Adafactor",
            [512, 1536, 6, 16_384],
            128,
            config(2, &|c| {
                full(c);
                c.optimizer = OptimizerName::Adafactor;
            }),
        ),
    ]
}

/// Writes a model of the shape with arbitrary weights, and a dataset.
fn write(shape: &Shape, folder: &Path) -> Result<()> {
    let [width, inner, layers, vocabulary] = shape.model;
    let config: Value = json!({
        "model_type": "llama", "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": width / 64, "num_key_value_heads": width / 128, "vocab_size": vocabulary,
        "rms_norm_eps": 1e-5, "rope_theta": 1e4, "tie_word_embeddings": true,
    });
    let model = folder.join("model");
    fs_err::create_dir_all(&model)?;
    fs_err::write(model.join("config.json"), config.to_string())?;
    let outline = Model::outline(&model, &LoadOptions { dtype: Some(Dtype::Float32), unpack: true })?;
    let parameters = outline.parameters();
    let layouts: Vec<TensorLayout> =
        parameters.iter().map(|(name, array)| models::layout_of(name, array)).collect();
    let mut file = TensorWriter::create(&model.join("model.safetensors"), &layouts)?;
    let mut state = 1_u32;
    for layout in &layouts {
        let is_matrix = layout.shape.len() > 1;
        let bytes: Vec<u8> = (0..layout.bytes() / 4)
            .flat_map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let number = state as f32 / u32::MAX as f32 - 0.5;
                if is_matrix { 0.06 * number } else { 1.0 }.to_le_bytes()
            })
            .collect();
        file.write(&bytes)?;
    }
    file.finish()?;
    fs_err::create_dir_all(folder.join("tokens"))?;
    for split in ["train", "validation"] {
        let mut writer = SplitWriter::create(&folder.join(format!("tokens/{split}.safetensors")))?;
        for row in 0..8_usize {
            let tokens: Vec<u32> =
                (0..shape.length).map(|t| ((row * 131 + t * 37) % vocabulary) as u32).collect();
            writer.push(&tokens, &vec![1; shape.length], 1.0, 1)?;
        }
        writer.finish()?;
    }
    Ok(())
}

struct Silent;

impl Observer for Silent {}

/// Runs one shape and prints the estimate and the measured memory in bytes.
fn measure(shape: &Shape, folder: &Path) -> Result<()> {
    let backend = mlx_ext::init(&mlx_ext::Options::default())?;
    let (model, tokens, work, out) =
        (folder.join("model"), folder.join("tokens"), folder.join("work"), folder.join("out"));
    let inputs =
        Inputs { model: &model, tokens: &tokens, rows: None, losses: None, shorter: &[], segment: None };
    let estimate = Estimate::new(&inputs, &shape.config, &backend)?;
    let before = mlx_ext::resident_memory().context("Linux reports it")?;
    let saving = Saving { save_every: 1, keep_last: 1, stop_at: None, prefetch: 0, work: &work, out: &out };
    train::run(&inputs, &shape.config, &backend, saving, &mut Silent)?;
    let measured = mlx_ext::peak_resident_memory().context("Linux reports it")? - before;
    println!("\nmeasured {} {measured} {estimate:?}", estimate.total());
    Ok(())
}

#[test]
fn the_estimate_is_close_to_the_memory_of_runs() -> Result<()> {
    let shapes = shapes();
    if let (Ok(index), Some(folder)) = (std::env::var(SHAPE), std::env::var_os(FOLDER)) {
        return measure(&shapes[index.parse::<usize>()?], Path::new(&folder));
    }
    mlx_ext::init(&mlx_ext::Options::default())?;
    let mut wrong = Vec::new();
    for (index, shape) in shapes.iter().enumerate() {
        let folder = tempfile::tempdir()?;
        write(shape, folder.path())?;
        let output = Command::new(std::env::current_exe()?)
            .args(["--exact", "the_estimate_is_close_to_the_memory_of_runs", "--nocapture"])
            .env(SHAPE, index.to_string())
            .env(FOLDER, folder.path())
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("measured "))
            .with_context(|| format!("{}: {text}{}", shape.name, String::from_utf8_lossy(&output.stderr)))?;
        let numbers: Vec<f64> = line.split(' ').take(2).map(str::parse).collect::<Result<_, _>>()?;
        let off = numbers[0] / numbers[1] - 1.0;
        println!(
            "{:24} measured {:.0} MB, off by {:+.0} %: {line}",
            shape.name,
            numbers[1] / 1e6,
            100.0 * off
        );
        if off.abs() > ALLOWED {
            wrong.push(format!("{} by {:+.0} %", shape.name, 100.0 * off));
        }
    }
    ensure!(wrong.is_empty(), "the estimate is off: {}", wrong.join(", "));
    Ok(())
}
