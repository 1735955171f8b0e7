//! Times training steps of rows of 128 to 4,096 tokens against their counted FLOPs: a table, and a plot as `lengths.svg`.
//!
//! `cargo run --release -p tuner --example lengths [FOLDER]`: LoRA on the shapes of Gemma 3 270M, with a vocabulary cut to
//! 32,768 so that the head does not drown the blocks, and of a Llama with 110M parameters.

use std::error::Error;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use chart::{Chart, Horizontal, Level, Look, Point, Range, Series, Size};
use dataset::Row;
use models::Model;
use serde_json::{Value, json};
use tuner::{AdapterSettings, Batch, OptimizerSettings, Step, Trainer};

const LENGTHS: [usize; 6] = [128, 256, 512, 1024, 2048, 4096];

/// Steps of a length go on until this much time has passed, at least two.
const SECONDS: f64 = 2.0;

fn shapes() -> [(&'static str, Value); 2] {
    let gemma = json!({
        "model_type": "gemma3_text", "hidden_size": 640, "num_hidden_layers": 18, "intermediate_size": 2048,
        "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 32_768,
        "rms_norm_eps": 1e-6, "sliding_window": 512, "sliding_window_pattern": 6, "query_pre_attn_scalar": 256,
    });
    let llama = json!({
        "model_type": "llama", "hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 2048,
        "num_attention_heads": 12, "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 32_000,
        "rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "tie_word_embeddings": false,
    });
    [("Gemma 3 270M, small vocabulary", gemma), ("Llama 110M", llama)]
}

/// Returns the FLOPs of a LoRA step on one row, all blocks adapted: linear layers and head forward and to their inputs,
/// adapters, and the products of attention, two forward and four for the gradient.
fn flops(config: &Value, tokens: usize, rank: usize) -> f64 {
    let number = |name: &str| config[name].as_u64().map_or(usize::MAX, |number| number as usize);
    let (width, inner, layers) =
        (number("hidden_size"), number("intermediate_size"), number("num_hidden_layers"));
    let queries = number("num_attention_heads") * number("head_dim");
    let keys = number("num_key_value_heads") * number("head_dim");
    let matrices = [
        (width, queries),
        (width, keys),
        (width, keys),
        (queries, width),
        (width, inner),
        (width, inner),
        (inner, width),
    ];
    let linear: usize = matrices.iter().map(|(inputs, outputs)| 4 * inputs * outputs).sum();
    let adapters: usize = matrices.iter().map(|(inputs, outputs)| 6 * rank * (inputs + outputs)).sum();
    let pairs = |window: usize| -> usize { (1..=tokens).map(|seen| seen.min(window)).sum() };
    let attention: usize = (0..layers)
        .map(|layer| {
            let is_local = (layer + 1) % number("sliding_window_pattern") != 0;
            12 * queries * pairs(if is_local { number("sliding_window") } else { usize::MAX })
        })
        .sum();
    let head = 4 * width * number("vocab_size");
    (tokens * (layers * (linear + adapters) + head) + attention) as f64
}

/// Returns the seconds of the fastest step on one row of a length.
fn seconds(trainer: &mut Trainer, tokens: usize, vocabulary: usize) -> Result<f64, Box<dyn Error>> {
    let ids: Vec<u32> = (0..=tokens).map(|token| (token * 7919 % vocabulary) as u32).collect();
    let trained: Vec<u8> = (0..=tokens).map(|token| u8::from(token > 0)).collect();
    let row = Row { tokens: &ids, trained: &trained, weight: 1.0, prompt_length: 0 };
    let batch = [Batch::new(&[row], 1)];
    let (mut best, start, mut steps) = (f64::INFINITY, Instant::now(), 0);
    while steps < 2 || start.elapsed().as_secs_f64() < SECONDS {
        let begin = Instant::now();
        trainer.step(&batch, Step::new(1, 1e-5))?;
        best = best.min(begin.elapsed().as_secs_f64());
        steps += 1;
    }
    Ok(best)
}

/// Times the lengths of one shape and writes its table; returns nanoseconds per million FLOPs, relative to their mean.
fn measure(name: &str, config: &Value, folder: &Path) -> Result<Vec<Point>, Box<dyn Error>> {
    let path = folder.join("config.json");
    fs_err::write(&path, config.to_string())?;
    let mut model = Model::random(&path, 1)?;
    let settings = AdapterSettings::default();
    let trainable = tuner::attach(&mut model, &settings, 1)?;
    let mut trainer = Trainer::new(model, trainable, OptimizerSettings::default(), 1)?;
    let vocabulary = config["vocab_size"].as_u64().unwrap_or(1) as usize;
    seconds(&mut trainer, 64, vocabulary)?;
    let mut found = Vec::new();
    for tokens in LENGTHS {
        let work = flops(config, tokens, settings.rank as usize);
        found.push((tokens, work, seconds(&mut trainer, tokens, vocabulary)?));
    }
    let costs: Vec<f64> = found.iter().map(|(_, work, seconds)| seconds / work).collect();
    let (low, high) =
        costs.iter().fold((f64::INFINITY, 0.0_f64), |(low, high), &cost| (low.min(cost), high.max(cost)));
    let middle = f64::midpoint(low, high);
    let mut out = std::io::stdout();
    writeln!(
        out,
        "| {name}, tokens | GFLOP | seconds | GFLOP/s | time per FLOP, relative |\n| --- | --- | --- | --- | --- |"
    )?;
    for (tokens, work, seconds) in &found {
        let relative = seconds / work / middle;
        writeln!(
            out,
            "| {tokens} | {:.0} | {seconds:.3} | {:.0} | {relative:.2} |",
            work / 1e9,
            work / 1e9 / seconds
        )?;
    }
    writeln!(out, "\nWithin ±{:.0} % of proportional.\n", 100.0 * (high - low) / (high + low))?;
    Ok(found
        .iter()
        .map(|(tokens, work, seconds)| Point { x: *tokens as f64, y: seconds / work / middle })
        .collect())
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "target/bench".to_owned()));
    fs_err::create_dir_all(&folder)?;
    mlx_ext::init(&mlx_ext::Options::default())?;
    writeln!(std::io::stdout(), "GEMM: {:.0} GFLOP/s\n", mlx_ext::matmul_gflops()?)?;
    let mut series = Vec::new();
    for (name, config) in shapes() {
        let points = measure(name, &config, &folder)?;
        series.push(Series { name: name.to_owned(), look: Look::Dots, points });
    }
    let chart = Chart {
        name: "lengths",
        title: "Time per FLOP of a training step by the length of its row".to_owned(),
        description:
            "One dot for each length from 128 to 4,096 tokens; 1 is the middle of the highest and the lowest."
                .to_owned(),
        horizontal: Horizontal::Logarithmic,
        x_label: "tokens".to_owned(),
        y_label: "time per FLOP, relative".to_owned(),
        y_range: Range { low: 0.0, high: 1.5 },
        series,
        level: Some(Level { y: 1.0, label: "proportional".to_owned() }),
        markers: Vec::new(),
    };
    let size = Size { name: "wide", width: 760.0, height: 420.0 };
    fs_err::write(folder.join("lengths.svg"), chart.draw_alone(size).to_string())?;
    Ok(())
}
