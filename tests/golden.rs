//! Runs every case folder in `GOLDEN_DIR` (default `tests/golden`) against its reference.
//!
//! A folder with `config.json` is a model case: logits, loss, greedy tokens, chats. A folder with
//! `batches.safetensors` is a training case: losses, first gradients, final weights.

#![expect(clippy::print_stdout, reason = "shows the result of each case with --nocapture")]

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use dataset::{Row, TextTokenizer};
use mlx_rs::{Array, Dtype};
use models::{Input, LoadOptions, Model, TensorFiles};
use serde_json::Value;
use testutil::{Sandbox, files, golden, golden_dir, tolerance};
use tuner::{AdapterSettings, Batch, OptimizerSettings, Step, Trainer};

fn cases_with(file: &str) -> Result<Vec<PathBuf>> {
    let mut folders: Vec<PathBuf> =
        fs_err::read_dir(golden_dir())?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    // Another folder than ours may hold only one kind of case.
    folders.retain(|folder| folder.join("expected.json").is_file());
    ensure!(!folders.is_empty(), "`{}` holds no case", golden_dir().display());
    folders.retain(|folder| folder.join(file).is_file());
    folders.sort();
    Ok(folders)
}

fn expected(folder: &Path) -> Result<Value> {
    Ok(serde_json::from_str(&fs_err::read_to_string(folder.join("expected.json"))?)?)
}

fn tokens_of(value: &Value) -> Vec<u32> {
    value.as_array().into_iter().flatten().filter_map(Value::as_u64).map(|token| token as u32).collect()
}

fn worst(a: &Array, b: &Array) -> Result<f32> {
    ensure!(a.shape() == b.shape(), "shapes {:?} and {:?}", a.shape(), b.shape());
    Ok(a.subtract(b)?.abs()?.max(None)?.item_exact())
}

/// Runs `check` on every case, prints its results, and fails with those of all failed cases.
fn every(folders: &[PathBuf], check: impl Fn(&Path) -> Result<String>) -> Result<()> {
    mlx_ext::init(&mlx_ext::Options::default())?;
    let mut failures = Vec::new();
    for folder in folders {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match check(folder) {
            Ok(found) => println!("{name}: {found}"),
            Err(error) => failures.push(format!("{name}: {error:#}")),
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

fn load(folder: &Path) -> Result<Model> {
    load_as(folder, Dtype::Float32, true)
}

fn load_as(folder: &Path, dtype: Dtype, unpack: bool) -> Result<Model> {
    Model::load(folder, &LoadOptions { dtype: Some(dtype), unpack }).context("loading")
}

/// Returns the logits of rows of tokens, in `f32`.
fn logits(model: &Model, tokens: &Array) -> Result<Array> {
    Ok(model.logits(&model.hidden(Input::tokens(tokens))?)?.as_dtype(Dtype::Float32)?)
}

/// Returns the tokens of a model case, `[B, L]`.
fn tokens_in(folder: &Path) -> Result<Array> {
    Ok(TensorFiles::open_file(&folder.join("expected.safetensors"))?.array("input_ids")?)
}

#[test]
fn logits_are_those_of_the_reference() -> Result<()> {
    every(&cases_with("config.json")?, |folder| {
        let reference = TensorFiles::open_file(&folder.join("expected.safetensors"))?;
        let model = load(folder)?;
        let worst = worst(&logits(&model, &tokens_in(folder)?)?, &reference.array("logits")?)?;
        let quantized = model.config().get("quantization").is_some();
        let allowed = if quantized { tolerance::QUANTIZED_LOGITS } else { tolerance::LOGITS };
        ensure!(worst <= allowed, "logits are off by {worst}, allowed {allowed}");
        Ok(format!("logits within {worst:.1e}"))
    })
}

#[test]
fn losses_are_those_of_the_reference() -> Result<()> {
    every(&cases_with("config.json")?, |folder| {
        let expected = expected(folder)?;
        let tokens = tokens_in(folder)?;
        let model = load(folder)?;
        let logits = logits(&model, &tokens)?;
        let scores = logits.subtract(logits.logsumexp_axis(-1, true)?)?.contiguous()?;
        scores.eval()?;
        let (length, vocabulary) = (tokens.dim(1) as usize, model.vocabulary() as usize);
        // The row continues with its own first token; targets at steps (from 1) `offset` to `end` count.
        let (mut sum, mut counted) = (0.0, 0);
        let rows =
            tokens.as_slice::<i32>().chunks(length).zip(scores.as_slice::<f32>().chunks(length * vocabulary));
        for ((row, scores), (offset, end)) in rows.zip(spans_of(&expected)?) {
            for step in offset.max(1)..=end {
                sum -= f64::from(scores[(step - 1) * vocabulary + row[step % length] as usize]);
                counted += 1;
            }
        }
        ensure!(Some(counted) == expected["loss_tokens"].as_u64(), "{counted} targets count");
        let off = (sum / counted as f64 - expected["loss"].as_f64().context("`loss` is missing")?).abs();
        ensure!(off <= tolerance::LOSS, "the loss is off by {off}");
        Ok(format!("loss within {off:.1e}"))
    })
}

/// Parses the first and last counted target of each row: `[0, 40] and [10, 30]`.
fn spans_of(expected: &Value) -> Result<Vec<(usize, usize)>> {
    let text = expected["loss_batch"].as_str().context("`loss_batch` is missing")?;
    let brackets = text.split('[').skip(1).filter_map(|rest| rest.split_once(']'));
    let pairs = brackets.filter_map(|(pair, _)| pair.split_once(", "));
    pairs.map(|(offset, end)| Ok((offset.parse()?, end.parse()?))).collect()
}

#[test]
fn packed_weights_give_the_logits_of_unpacked_ones() -> Result<()> {
    let mut folders = cases_with("config.json")?;
    folders.retain(|folder| {
        fs_err::read_to_string(folder.join("config.json")).is_ok_and(|text| text.contains("\"quantization\""))
    });
    ensure!(folders.len() >= 4 || std::env::var_os("GOLDEN_DIR").is_some(), "packed cases: {folders:?}");
    every(&folders, |folder| {
        let tokens = tokens_in(folder)?;
        let (plain, packed) = (load(folder)?, load_as(folder, Dtype::Float32, false)?);
        let worst = worst(&logits(&plain, &tokens)?, &logits(&packed, &tokens)?)?;
        ensure!(worst <= tolerance::QUANTIZED_LOGITS, "logits are off by {worst}");
        Ok(format!("packed within {worst:.1e}"))
    })
}

/// Half precision rounds every intermediate value, in transformers too: `half.json` says how far its own logits are from
/// those in 32 bits. Ours may be twice as far on average, and three times at the worst logit.
#[test]
fn half_precision_rounds_no_more_than_the_reference() -> Result<()> {
    every(&cases_with("half.json")?, |folder| {
        let reference = TensorFiles::open_file(&folder.join("expected.safetensors"))?.array("logits")?;
        let size = reference.abs()?.max(None)?.item_exact::<f32>();
        let tokens = tokens_in(folder)?;
        let theirs: Value = serde_json::from_str(&fs_err::read_to_string(folder.join("half.json"))?)?;
        let mut found = Vec::new();
        for (dtype, name) in [(Dtype::Bfloat16, "bfloat16"), (Dtype::Float16, "float16")] {
            let off = logits(&load_as(folder, dtype, true)?, &tokens)?
                .subtract(&reference)?
                .divide(Array::from_f32(size))?;
            let largest = off.abs()?.max(None)?.item_exact::<f32>();
            let mean = off.square()?.mean(None)?.sqrt()?.item_exact::<f32>();
            for (kind, ours, factor) in [
                ("largest", largest, tolerance::HALF_LARGEST),
                ("mean_square_root", mean, tolerance::HALF_MEAN),
            ] {
                let own = theirs[name][kind].as_f64().context("an error of the reference")? as f32;
                ensure!(ours <= factor * own, "{name}: {kind} error {ours}, that of the reference is {own}");
                found.push(format!("{name} {kind} {:.2} of the reference's", ours / own));
            }
        }
        Ok(found.join(", "))
    })
}

/// The reference computes in `f32`; half precision rounds every intermediate value.
#[test]
fn half_precision_stays_near_the_reference() -> Result<()> {
    every(&cases_with("config.json")?, |folder| {
        let reference = TensorFiles::open_file(&folder.join("expected.safetensors"))?.array("logits")?;
        let size = reference.abs()?.max(None)?.item_exact::<f32>();
        let tokens = tokens_in(folder)?;
        let mut found = Vec::new();
        for (dtype, allowed) in
            [(Dtype::Bfloat16, tolerance::BFLOAT16_LOGITS), (Dtype::Float16, tolerance::FLOAT16_LOGITS)]
        {
            let off = worst(&logits(&load_as(folder, dtype, true)?, &tokens)?, &reference)? / size;
            ensure!(off <= allowed, "{dtype:?}: logits are off by {off} of the largest, allowed {allowed}");
            found.push(format!("{dtype:?} within {off:.1e}"));
        }
        Ok(found.join(", "))
    })
}

/// A position sees W tokens per layer with a sliding window of W, so (W − 1) · layers + 1 tokens in all: earlier tokens
/// change nothing, and the earliest of these does.
#[test]
fn a_sliding_window_limits_the_context_exactly() -> Result<()> {
    const WINDOW: usize = 4;
    let cases = ["gemma2", "mistral", "phi3", "qwen2", "qwen3"];
    every(&cases.map(golden), |folder| {
        let sandbox = Sandbox::new();
        files::copy_files(folder, sandbox.path());
        let mut config: Value = serde_json::from_str(&sandbox.read("config.json"))?;
        let layers = config["num_hidden_layers"].as_u64().context("`num_hidden_layers` is missing")? as usize;
        config["sliding_window"] = WINDOW.into();
        let model_type = config["model_type"].as_str().context("`model_type` is missing")?.to_owned();
        if model_type.starts_with("qwen") {
            config["use_sliding_window"] = true.into();
        }
        if model_type != "phi3" {
            config["layer_types"] = vec!["sliding_attention"; layers].into();
        }
        sandbox.write("config.json", config.to_string());
        let (windowed, full) = (load(sandbox.path())?, load(folder)?);

        let context = (WINDOW - 1) * layers + 1;
        let tokens = tokens_in(folder)?;
        let row = &tokens.as_slice::<i32>()[..tokens.dim(1) as usize];
        let cut = &row[row.len() - context..];
        let mut other = cut.to_vec();
        other[0] = cut[1];
        ensure!(row.len() > context && other[0] != cut[0], "the row cannot show it");
        let last = |model: &Model, row: &[i32]| -> Result<Array> {
            let logits = logits(model, &Array::from_slice(row, &[1, row.len() as i32]))?;
            Ok(logits.take_axis(Array::from_int(row.len() as i32 - 1), 1)?)
        };
        let off = worst(&last(&windowed, row)?, &last(&windowed, cut)?)?;
        ensure!(off <= tolerance::LOGITS, "earlier tokens change logits by {off}");
        let without = worst(&last(&full, row)?, &last(&full, cut)?)?;
        ensure!(without > 10.0 * tolerance::LOGITS, "without a window they change them by only {without}");
        let earliest = worst(&last(&windowed, cut)?, &last(&windowed, &other)?)?;
        ensure!(earliest > 10.0 * off, "the earliest token in the window changes logits by only {earliest}");
        Ok(format!("window within {off:.1e}, earliest token {earliest:.1e}, no window {without:.1e}"))
    })
}

#[test]
fn greedy_tokens_are_those_of_the_reference() -> Result<()> {
    every(&cases_with("config.json")?, |folder| {
        let expected = expected(folder)?;
        let prompt = tokens_of(&expected["greedy_prompt"]);
        let wanted = tokens_of(&expected["greedy_tokens"]);
        let model = load(folder)?;
        // In a batch with prompts of other lengths, so that rows are padded.
        let prompts = vec![prompt[3..].to_vec(), prompt.clone(), prompt[..1].to_vec()];
        let options = models::GenerationOptions { max_tokens: wanted.len(), stop: Vec::new(), batch_size: 3 };
        let batched = models::generate(&model, &prompts, &options)?;
        ensure!(batched[1].tokens == wanted, "greedy tokens {:?}, expected {wanted:?}", batched[1].tokens);
        for (prompt, together) in prompts.iter().zip(&batched) {
            let alone = models::generate(&model, std::slice::from_ref(prompt), &options)?;
            ensure!(alone[0] == *together, "a prompt of {} tokens differs in a batch", prompt.len());
        }
        Ok(format!("{} greedy tokens", wanted.len()))
    })
}

/// A training case: mlx-lm's model, initial parameters, batches and settings.
struct Case {
    folder: PathBuf,
    expected: Value,
    names: Vec<String>,
}

impl Case {
    fn open(folder: &Path) -> Result<Self> {
        let expected = expected(folder)?;
        let initial = TensorFiles::open_file(&folder.join("initial.safetensors"))?;
        let names = initial.names().map(str::to_owned).collect();
        Ok(Self { folder: folder.to_owned(), expected, names })
    }

    fn number(&self, name: &str) -> f32 {
        self.expected[name].as_f64().unwrap_or_default() as f32
    }

    /// Returns a trainer with the initial parameters of the case.
    fn trainer(&self) -> Result<Trainer> {
        let name = self.expected["model"].as_str().context("`model` is missing")?;
        let mut model = load(&self.folder.join("..").join(name))?;
        let lora = &self.expected["lora_parameters"];
        let rank = lora["rank"].as_i64().unwrap_or(8) as i32;
        let settings = AdapterSettings {
            fine_tune_type: serde_json::from_value(self.expected["fine_tune_type"].clone())?,
            num_layers: self.expected["num_layers"].as_u64().map(|layers| layers as usize),
            rank,
            alpha: lora["scale"].as_f64().unwrap_or(20.0) as f32 * rank as f32,
            ..AdapterSettings::default()
        };
        let trainable = tuner::attach(&mut model, &settings, 0)?;
        ensure!(trainable.names == self.names, "other parameters train: {:?}", trainable.names);
        let optimizer = OptimizerSettings {
            name: serde_json::from_value(self.expected["optimizer"].clone())?,
            weight_decay: f64::from(self.number("weight_decay")),
            momentum: f64::from(self.number("momentum")),
            bias_correction: false,
            ..OptimizerSettings::default()
        };
        let mut trainer = Trainer::new(model, trainable, optimizer, 0)?;
        let initial = self.arrays("initial.safetensors")?;
        let moments = trainer.optimizer().moments().to_vec();
        trainer.restore(initial, moments, 0)?;
        Ok(trainer)
    }

    fn arrays(&self, file: &str) -> Result<Vec<Array>> {
        let stored = TensorFiles::open_file(&self.folder.join(file))?;
        Ok(self.names.iter().map(|name| stored.array(name)).collect::<models::Result<_>>()?)
    }

    /// Returns mlx-lm's batch `index`, with targets at positions offset..=length of each row.
    fn batch(&self, index: usize) -> Result<Batch> {
        let stored = TensorFiles::open_file(&self.folder.join("batches.safetensors"))?;
        let tokens = stored.array(&format!("tokens.{index}"))?;
        let spans = stored.array(&format!("spans.{index}"))?;
        let rows: Vec<Vec<u32>> = tokens
            .as_slice::<i32>()
            .chunks(tokens.dim(1) as usize)
            .map(|row| row.iter().map(|&token| token as u32).collect())
            .collect();
        let trained: Vec<Vec<u8>> = spans
            .as_slice::<i32>()
            .chunks(2)
            .zip(&rows)
            .map(|(span, row)| {
                (0..row.len() as i32).map(|t| u8::from(t >= 1 && t >= span[0] && t <= span[1])).collect()
            })
            .collect();
        let token_rows: Vec<_> = rows
            .iter()
            .zip(&trained)
            .map(|(tokens, trained)| Row { tokens, trained, weight: 1.0, prompt_length: 0 })
            .collect();
        Ok(Batch::new(&token_rows, 1))
    }
}

#[test]
fn training_takes_the_steps_of_the_reference() -> Result<()> {
    every(&cases_with("batches.safetensors")?, |folder| {
        let case = Case::open(folder)?;
        let mut trainer = case.trainer()?;
        let losses: Vec<f64> =
            case.expected["losses"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        let mut worst_loss = 0.0_f64;
        for (index, wanted) in losses.iter().enumerate() {
            let batch = case.batch(index)?;
            if index == 0 {
                let gradients = trainer.mean_gradients(std::slice::from_ref(&batch))?;
                for ((name, found), wanted) in
                    case.names.iter().zip(&gradients).zip(case.arrays("first_gradient.safetensors")?)
                {
                    let off = worst(found, &wanted)?;
                    ensure!(off <= tolerance::WEIGHTS, "the first gradient of `{name}` is off by {off}");
                }
            }
            let rate = f64::from(case.number("learning_rate"));
            let report = trainer.step(&[batch], Step::new(index + 1, rate))?;
            worst_loss = worst_loss.max((report.mean_loss() - wanted).abs());
        }
        ensure!(worst_loss <= tolerance::LOSS, "a loss is off by {worst_loss}");
        let mut worst_weight = 0.0_f32;
        for (found, wanted) in trainer.parameters().iter().zip(case.arrays("final.safetensors")?) {
            worst_weight = worst_weight.max(worst(found, &wanted)?);
        }
        ensure!(worst_weight <= tolerance::WEIGHTS, "a final weight is off by {worst_weight}");
        Ok(format!("{} losses within {worst_loss:.1e}, weights within {worst_weight:.1e}", losses.len()))
    })
}

#[test]
fn the_chunked_head_agrees_with_the_plain_one() -> Result<()> {
    every(&cases_with("batches.safetensors")?, |folder| {
        let case = Case::open(folder)?;
        let (mut chunked, mut plain) = (case.trainer()?, case.trainer()?);
        chunked.set_head_chunk_rows(7);
        plain.use_reference_head();
        let batches = [case.batch(0)?, case.batch(1)?];
        let mut off = 0.0_f32;
        for (a, b) in chunked.mean_gradients(&batches)?.iter().zip(plain.mean_gradients(&batches)?) {
            let difference = worst(a, &b)?;
            ensure!(difference.is_finite(), "a gradient is not finite");
            off = off.max(difference);
        }
        ensure!(off <= tolerance::HEAD_GRADIENT, "gradients are off by {off}");
        Ok(format!("gradients within {off:.1e}"))
    })
}

#[test]
fn chats_are_the_tokens_of_the_reference() -> Result<()> {
    every(&cases_with("config.json")?, |folder| {
        let tokenizer = TextTokenizer::open(folder)?;
        let expected = expected(folder)?;
        let chats = expected["chats"].as_array().context("`chats` is missing")?;
        for chat in chats {
            let messages = chat["messages"].as_array().context("`messages` is missing")?;
            ensure!(tokenizer.apply(messages, false)? == tokens_of(&chat["ids"]), "ids of {messages:?}");
            let prompt = &messages[..messages.len() - 1];
            ensure!(
                tokenizer.apply(prompt, true)? == tokens_of(&chat["prompt_ids"]),
                "prompt of {messages:?}"
            );
        }
        Ok(format!("{} chats", chats.len()))
    })
}
