//! Every fast path to a gradient against its reference: the chunked head, untraced blocks, recomputed blocks.

mod support;

use anyhow::{Context, Result, ensure};
use mlx_rs::{Array, Dtype};
use models::{LoadOptions, Model};
use support::{MODELS, clipped, ragged_rows, same_gradients, same_loss, token_rows, trainer};
use testutil::{golden, tolerance};
use tuner::{AdapterSettings, Batch, BatchOrder, FineTuneType, OptimizerSettings, Step, Trainer};

fn adapter(fine_tune_type: FineTuneType) -> AdapterSettings {
    AdapterSettings { fine_tune_type, ..AdapterSettings::default() }
}

/// Makes a batch with enough rows to fill several chunks of the head.
fn large_batch() -> [Batch; 1] {
    let mut rows = ragged_rows(40);
    rows[3].2 = 0.25;
    rows[7].2 = 2.5;
    [Batch::new(&token_rows(&rows), 8)]
}

/// Checks the trainer's gradients against those that MLX derives from all logits at one time.
fn same_as_derived(mut trainer: Trainer, name: &str) -> Result<()> {
    let batch = large_batch();
    trainer.set_head_chunk_rows(48);
    let chunked = trainer.mean_gradients(&batch)?;
    let reported = |trainer: &mut Trainer| -> Result<f64> {
        let (before, moments) = (trainer.parameters().to_vec(), trainer.optimizer().moments().to_vec());
        let report = trainer.step(&batch, Step::new(1, 1e-3))?;
        trainer.restore(before, moments, 0)?;
        Ok(report.mean_loss())
    };
    let loss = reported(&mut trainer)?;
    trainer.use_reference_head();
    same_gradients(&trainer.mean_gradients(&batch)?, &chunked).with_context(|| name.to_owned())?;
    same_loss(reported(&mut trainer)?, loss)
}

#[test]
fn the_chunked_head_has_the_gradient_of_the_reference() -> Result<()> {
    // Plain, scaled (cohere), capped (gemma2), tied (gemma3_text, cohere, gemma2), quantized.
    for name in ["llama", "gemma3_text", "gemma2", "cohere", "llama-q4", "gemma3_text-q4"] {
        same_as_derived(trainer(name, &AdapterSettings::default(), OptimizerSettings::default())?, name)?;
    }
    Ok(())
}

#[test]
fn a_trained_head_has_the_gradient_of_the_reference() -> Result<()> {
    let lora = AdapterSettings { lm_head: true, num_layers: Some(1), ..adapter(FineTuneType::Lora) };
    let dora = AdapterSettings { fine_tune_type: FineTuneType::Dora, ..lora.clone() };
    let full = AdapterSettings { fine_tune_type: FineTuneType::Full, ..lora.clone() };
    let tied = AdapterSettings { embeddings: true, num_layers: Some(1), ..adapter(FineTuneType::Full) };
    for (name, adapter) in [
        ("llama", &lora),
        ("llama-q4", &lora),
        ("phi3", &lora),
        ("llama", &dora),
        ("llama-q4", &dora),
        ("llama", &full),
        ("llama", &tied),
        ("gemma3_text", &tied),
        ("gemma2", &tied),
        ("cohere", &tied),
    ] {
        let case = format!("{name}, {:?}", adapter.fine_tune_type);
        same_as_derived(trainer(name, adapter, OptimizerSettings::default())?, &case)?;
    }
    Ok(())
}

#[test]
fn dropout_before_the_head_does_not_depend_on_its_chunks() -> Result<()> {
    let adapter = AdapterSettings { lm_head: true, num_layers: Some(1), ..adapter(FineTuneType::Lora) };
    let mut trainer = trainer("llama", &adapter, OptimizerSettings::default())?;
    trainer.set_dropout(0.3);
    let batch = large_batch();
    let whole = trainer.mean_gradients(&batch)?;
    trainer.set_head_chunk_rows(32);
    same_gradients(&whole, &trainer.mean_gradients(&batch)?)?;
    trainer.use_reference_head();
    same_gradients(&whole, &trainer.mean_gradients(&batch)?)
}

/// Returns settings that freeze all blocks but the last.
fn with_frozen_blocks() -> Vec<AdapterSettings> {
    let last = |fine_tune_type| AdapterSettings { num_layers: Some(1), ..adapter(fine_tune_type) };
    vec![last(FineTuneType::Lora), last(FineTuneType::Dora), last(FineTuneType::Full)]
}

#[test]
fn untraced_frozen_blocks_do_not_change_a_bit() -> Result<()> {
    let rows = ragged_rows(9);
    let folder = tempfile::tempdir()?;
    let split = support::split(folder.path(), "train", &rows)?;
    let mut plan = BatchOrder::packed(support::lengths(&split), 4, 64, 5)?;
    let batches = [Batch::new(&token_rows(&rows), 8), Batch::of_micro_batch(&split, &plan.at(0), 8, None)];
    for name in
        MODELS.into_iter().chain(["gemma2", "cohere", "phi3", "qwen2", "qwen3", "mistral-layers", "llama-q4"])
    {
        for adapter in with_frozen_blocks() {
            if name.ends_with("q4") && adapter.fine_tune_type == FineTuneType::Full {
                continue;
            }
            for checkpointing in [false, true] {
                let mut trainer = trainer(name, &adapter, OptimizerSettings::default())?;
                ensure!(trainer.layer_count() > 1, "{name} has one block");
                trainer.set_dropout(if adapter.fine_tune_type == FineTuneType::Full { 0.0 } else { 0.1 });
                trainer.set_gradient_checkpointing(checkpointing);
                let apart = trainer.mean_gradients(&batches)?;
                trainer.trace_all_blocks();
                let traced = trainer.mean_gradients(&batches)?;
                for (a, b) in apart.iter().zip(&traced) {
                    ensure!(
                        mlx_ext::bytes_of(a)? == mlx_ext::bytes_of(b)?,
                        "{name}, {adapter:?}: other gradients"
                    );
                }
            }
        }
    }
    Ok(())
}

#[test]
fn training_only_the_head_traces_no_block() -> Result<()> {
    let adapter = AdapterSettings { keys: vec!["lm_head".to_owned()], ..adapter(FineTuneType::Lora) };
    let mut trainer = trainer("llama", &adapter, OptimizerSettings::default())?;
    let batch = large_batch();
    let apart = trainer.mean_gradients(&batch)?;
    assert_eq!(apart.len(), 2);
    trainer.trace_all_blocks();
    same_gradients(&trainer.mean_gradients(&batch)?, &apart)
}

/// Compares with a central difference along the gradient, in `f32`.
#[test]
fn gradients_equal_the_difference_quotients_of_the_loss() -> Result<()> {
    let batch = large_batch();
    for adapter in
        [AdapterSettings { lm_head: true, ..adapter(FineTuneType::Lora) }, adapter(FineTuneType::Full)]
    {
        let mut trainer = trainer("llama", &adapter, OptimizerSettings::default())?;
        let gradients = trainer.mean_gradients(&batch)?;
        let norm: f32 = gradients
            .iter()
            .map(|g| g.square()?.sum(None).map(|s| s.item_exact::<f32>()))
            .sum::<Result<f32, _>>()?;
        let (start, moments) = (trainer.parameters().to_vec(), trainer.optimizer().moments().to_vec());
        let mut loss_at = |step: f32| -> Result<f64> {
            let moved = start.iter().zip(&gradients);
            let moved = moved.map(|(p, g)| Ok(p.add(g.multiply(Array::from_f32(step / norm.sqrt()))?)?));
            trainer.restore(moved.collect::<Result<_>>()?, moments.clone(), 0)?;
            Ok(trainer.step(&batch, Step::new(1, 0.0))?.mean_loss())
        };
        let slope = (loss_at(1e-2)? - loss_at(-1e-2)?) / 2e-2;
        let off = (slope - f64::from(norm.sqrt())).abs() / f64::from(norm.sqrt());
        ensure!(off < tolerance::SLOPE, "slope {slope}, gradient {}", norm.sqrt());
    }
    Ok(())
}

#[test]
fn group_norms_add_up_to_the_global_norm() -> Result<()> {
    let adapter =
        AdapterSettings { lm_head: true, embeddings: true, norms: true, ..adapter(FineTuneType::Full) };
    let mut trainer = trainer("llama", &adapter, OptimizerSettings::default())?;
    let batch = large_batch();
    assert!(trainer.step(&batch, Step::new(1, 0.0))?.group_norms.is_empty());
    trainer.set_group_norms(true);
    let report = trainer.step(&batch, clipped(1, 0.0, 0.01))?;
    let mut names: Vec<String> = (0..trainer.layer_count()).map(|layer| format!("layers.{layer}")).collect();
    names.extend(["embed_tokens", "lm_head", "norm"].map(str::to_owned));
    names.sort();
    assert_eq!(report.group_norms.keys().cloned().collect::<Vec<_>>(), names);
    let all = report.group_norms.values().map(|&norm| f64::from(norm).powi(2)).sum::<f64>().sqrt();
    same_loss(all, f64::from(report.gradient_norm))
}

#[test]
fn half_precision_gradients_are_close_to_those_in_f32() -> Result<()> {
    let options = LoadOptions { dtype: Some(Dtype::Bfloat16), unpack: true };
    let adapter = AdapterSettings { lm_head: true, num_layers: Some(1), ..adapter(FineTuneType::Lora) };
    let exact = trainer("llama", &adapter, OptimizerSettings::default())?;
    let mut half = Model::load(&golden("llama"), &options)?;
    let trainable = tuner::attach(&mut half, &adapter, 7)?;
    let mut half = Trainer::new(half, trainable, OptimizerSettings::default(), 7)?;
    half.restore(exact.parameters().to_vec(), exact.optimizer().moments().to_vec(), 0)?;
    let batch = large_batch();
    for (a, b) in exact.mean_gradients(&batch)?.iter().zip(half.mean_gradients(&batch)?) {
        assert_eq!(b.dtype(), Dtype::Float32);
        let off = a.subtract(&b)?.abs()?.max(None)?.item_exact::<f32>();
        let size = a.abs()?.max(None)?.item_exact::<f32>();
        ensure!(off <= tolerance::BFLOAT16 * size, "{off} of {size}");
        let squares = |x: &Array| x.square().and_then(|x| x.sum(None)).map(|sum| sum.item_exact::<f32>());
        let (error, norm) = (squares(&a.subtract(&b)?)?.sqrt(), squares(a)?.sqrt());
        ensure!(
            error <= tolerance::BFLOAT16_NORM * norm,
            "an error of norm {error} in a gradient of norm {norm}"
        );
    }
    Ok(())
}
