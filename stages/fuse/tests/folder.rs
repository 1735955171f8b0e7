//! Fusing the golden models: changes in the folder, and the cost.

mod common;

use anyhow::Result;
use fuse::{Config, Inputs, Quantized};
use mlx_rs::Dtype;
use models::TensorFiles;
use testutil::{golden, tolerance};

use crate::common::{adapters, backend, tokens};

#[test]
fn tensors_without_an_adapter_keep_their_bytes_and_the_loss_stays() -> Result<()> {
    let (backend, temporary) = (backend()?, tempfile::tempdir()?);
    let base = golden("llama");
    let tokens = tokens(temporary.path())?;
    let adapters = adapters(&base, &tokens, temporary.path())?;
    let inputs =
        Inputs { model: &base, adapters: &adapters, tokens: &tokens, origin: None, stats: None, rows: None };
    let cost = fuse::run(&inputs, &Config::default(), &backend, temporary.path())?;
    assert!((cost.adapter_loss - cost.fused_loss).abs() < tolerance::FUSED_LOSS, "{cost:?}");
    assert!(cost.max_logit_difference < f64::from(tolerance::LOGITS), "{cost:?}");

    let (before, after) = (TensorFiles::open(&base)?, TensorFiles::open(&temporary.path().join("model"))?);
    assert!(before.names().eq(after.names()));
    let changed: Vec<&str> = before
        .names()
        .filter(|name| before.bytes(name).expect("read") != after.bytes(name).expect("read"))
        .collect();
    assert_eq!(changed.len(), 14, "7 maps in each of 2 blocks: {changed:?}");
    assert!(changed.iter().all(|name| name.contains("layers.1.") || name.contains("layers.2.")));
    assert!(temporary.path().join("model/tokenizer.json").is_file());
    Ok(())
}

#[test]
fn weights_keep_the_type_of_the_base() -> Result<()> {
    let (backend, temporary) = (backend()?, tempfile::tempdir()?);
    let base = temporary.path().join("base");
    fs_err::create_dir_all(&base)?;
    fs_err::copy(golden("llama").join("config.json"), base.join("config.json"))?;
    let mut half = TensorFiles::open(&golden("llama"))?.arrays()?;
    for array in half.values_mut() {
        *array = array.as_dtype(Dtype::Bfloat16)?;
    }
    models::write_safetensors(&base.join("model.safetensors"), &half)?;
    let tokens = tokens(temporary.path())?;
    let adapters = adapters(&base, &tokens, temporary.path())?;
    let inputs =
        Inputs { model: &base, adapters: &adapters, tokens: &tokens, origin: None, stats: None, rows: None };
    fuse::run(
        &inputs,
        &Config { max_loss_increase: Some(10.0), ..Config::default() },
        &backend,
        temporary.path(),
    )?;
    let fused = TensorFiles::open(&temporary.path().join("model"))?;
    assert!(fused.names().all(|name| fused.dtype(name) == Some(Dtype::Bfloat16)));
    Ok(())
}

#[test]
fn a_quantized_base_is_dequantized_without_loss() -> Result<()> {
    let (backend, temporary) = (backend()?, tempfile::tempdir()?);
    for name in ["llama-q4", "qwen3-q8", "gemma3_text-q4"] {
        let (base, work) = (golden(name), temporary.path().join(name));
        let tokens = tokens(&work)?;
        let adapters = adapters(&base, &tokens, &work)?;
        let inputs = Inputs {
            model: &base,
            adapters: &adapters,
            tokens: &tokens,
            origin: None,
            stats: None,
            rows: None,
        };
        let cost = fuse::run(&inputs, &Config::default(), &backend, &work)?;
        assert!((cost.adapter_loss - cost.fused_loss).abs() < tolerance::FUSED_LOSS, "{name}: {cost:?}");
        let fused = TensorFiles::open(&work.join("model"))?;
        assert!(!fused.names().any(|name| name.ends_with(".scales")));
        let config = fs_err::read_to_string(work.join("model/config.json"))?;
        assert!(!config.contains("quantization"));
    }
    Ok(())
}

#[test]
fn requantizing_is_measured_and_refused_when_the_loss_increases_too_much() -> Result<()> {
    let (backend, temporary) = (backend()?, tempfile::tempdir()?);
    let base = golden("llama-q4");
    let tokens = tokens(temporary.path())?;
    let adapters = adapters(&base, &tokens, temporary.path())?;
    let inputs =
        Inputs { model: &base, adapters: &adapters, tokens: &tokens, origin: None, stats: None, rows: None };
    let config = |max_loss_increase| Config {
        quantized: Quantized::Requantize,
        max_loss_increase: Some(max_loss_increase),
        ..Config::default()
    };
    let cost = fuse::run(&inputs, &config(10.0), &backend, &temporary.path().join("fine"))?;
    assert!(
        cost.fused_loss > cost.adapter_loss + tolerance::FUSED_LOSS,
        "overfitted, then rounded: {cost:?}"
    );
    let packed = TensorFiles::open(&temporary.path().join("fine/model"))?;
    assert!(packed.names().any(|name| name.ends_with(".scales")));

    let refused = fuse::run(&inputs, &config(0.0), &backend, &temporary.path().join("refused"));
    let message = refused.expect_err("requantizing increases the loss").report();
    assert!(message.contains("hint: set `fuse.quantized` to `dequantize`"), "{message}");
    Ok(())
}
