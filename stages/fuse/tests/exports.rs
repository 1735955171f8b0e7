//! Exports of the fused model: written, read back, measured and refused.

mod common;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use fuse::gguf::Gguf;
use fuse::{Config, Inputs};
use mlx_rs::Dtype;
use models::{LoadOptions, Model, Quantize, TensorFiles};
use outputs::{Document as _, ExportCost, FusionCost};
use serde_json::Value;
use tempfile::TempDir;
use testutil::{golden, tolerance, workspace_root};

use crate::common::{adapters, backend, tokens};

/// A base model with a dataset and adapters that overfit it.
struct Trained {
    folder: TempDir,
    base: PathBuf,
}

impl Trained {
    fn new(base: impl FnOnce(&Path) -> Result<PathBuf>) -> Result<Self> {
        backend()?;
        let folder = tempfile::tempdir()?;
        let base = base(folder.path())?;
        adapters(&base, &tokens(folder.path())?, folder.path())?;
        Ok(Self { folder, base })
    }

    /// The demo model.
    fn demo() -> Result<Self> {
        Self::new(|_| Ok(workspace_root().join("data/models/demo")))
    }

    /// Fuses with `config` into the folder `out`.
    fn fused(&self, config: &Config, out: &str) -> Result<failure::Result<FusionCost>> {
        let (tokens, adapters) = (self.path("tokens"), self.path("adapters"));
        let inputs = Inputs {
            model: &self.base,
            adapters: &adapters,
            tokens: &tokens,
            origin: None,
            stats: None,
            rows: None,
        };
        Ok(fuse::run(&inputs, config, &backend()?, &self.path(out)))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Writes a random llama whose rows fill the large blocks of GGUF, with the tokenizer of the golden one.
fn wide_model(folder: &Path) -> Result<PathBuf> {
    let folder = folder.join("wide");
    fs_err::create_dir_all(&folder)?;
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs_err::copy(golden("llama").join(name), folder.join(name))?;
    }
    let mut config: Value =
        serde_json::from_str(&fs_err::read_to_string(golden("llama").join("config.json"))?)?;
    for (key, value) in [
        ("hidden_size", 256),
        ("intermediate_size", 512),
        ("num_attention_heads", 4),
        ("num_key_value_heads", 2),
        ("head_dim", 64),
    ] {
        config[key] = value.into();
    }
    fs_err::write(folder.join("config.json"), config.to_string())?;
    let model = Model::random(&folder.join("config.json"), 5)?;
    models::write_safetensors(&folder.join("model.safetensors"), &model.parameters())?;
    Ok(folder)
}

fn quantize(bits: i32, group_size: i32) -> Quantize {
    Quantize { bits, group_size, mode: "affine".to_owned() }
}

fn export<'a>(cost: &'a FusionCost, path: &str) -> Result<&'a ExportCost> {
    cost.exports.iter().find(|export| export.path == path).with_context(|| format!("no `{path}`: {cost:?}"))
}

#[test]
fn fewer_bits_are_smaller_and_farther_from_the_fused_model() -> Result<()> {
    let trained = Trained::demo()?;
    let mut measured = Vec::new();
    for bits in [8, 4, 2] {
        let config = Config {
            quantize: Some(quantize(bits, 32)),
            max_loss_increase: Some(100.0),
            ..Config::default()
        };
        let cost = trained.fused(&config, &bits.to_string())??;
        let out = trained.path(&bits.to_string());
        assert_eq!(FusionCost::read(&out.join(FusionCost::FILE))?, cost);
        let found = export(&cost, "quantized")?.clone();
        assert!(
            found.bytes < cost.model_bytes && found.format.contains(&format!("{bits} bits")),
            "{found:?}"
        );
        assert!(TensorFiles::open(&out.join("quantized"))?.names().any(|name| name.ends_with(".scales")));
        assert!(!TensorFiles::open(&out.join("model"))?.names().any(|name| name.ends_with(".scales")));
        for name in ["tokenizer.json", "tokenizer_config.json", "README.md"] {
            assert!(out.join("quantized").join(name).is_file(), "{name}");
        }
        // The loss is that of the folder as anyone reads it.
        let options = LoadOptions { dtype: Some(Dtype::Float32), unpack: true };
        let model = Model::load(&out.join("quantized"), &options)?;
        let split = dataset::Split::open(&trained.path("tokens/validation.safetensors"))?;
        let loss = tuner::score(&model, &split, "validation", 16)?.mean_loss();
        assert!((loss - found.loss).abs() < tolerance::FUSED_LOSS, "{loss}, {found:?}");
        measured.push(found);
    }
    let [eight, four, two] = &measured[..] else { unreachable!("three runs") };
    assert!(eight.bytes > four.bytes && four.bytes > two.bytes, "{measured:?}");
    assert!(
        eight.kl_divergence < four.kl_divergence && four.kl_divergence < two.kl_divergence,
        "{measured:?}"
    );
    assert!(eight.kl_divergence > 0.0 && eight.kl_divergence < 0.01, "{measured:?}");
    assert!(eight.same_top_token > two.same_top_token && eight.same_top_token > 0.9, "{measured:?}");
    Ok(())
}

#[test]
fn a_gguf_file_is_measured_as_it_was_written() -> Result<()> {
    let trained = Trained::new(wide_model)?;
    for (kind, name, most) in [
        (Gguf::F16, "f16", 1e-4),
        (Gguf::Q8_0, "q8_0", 0.01),
        (Gguf::Q6K, "q6_k", 0.02),
        (Gguf::Q4KM, "q4_k_m", 0.2),
        (Gguf::Q4_1, "q4_1", 0.3),
        (Gguf::Q4_0, "q4_0", 0.5),
    ] {
        let config = Config { gguf: kind, max_loss_increase: Some(100.0), ..Config::default() };
        let cost = trained.fused(&config, name)??;
        let path = format!("gguf/model-{name}.gguf");
        let found = export(&cost, &path)?;
        assert_eq!(found.format, name);
        assert_eq!(found.bytes, fs_err::metadata(trained.path(name).join(&path))?.len());
        assert!(found.kl_divergence < most, "{found:?}");
        assert!((found.loss - cost.fused_loss).abs() < 4.0 * most + 1e-3, "{found:?}, {cost:?}");
        let card = fs_err::read_to_string(trained.path(name).join("gguf/README.md"))?;
        assert!(card.contains("library_name: gguf") && card.contains(&path), "{card}");
    }
    Ok(())
}

#[test]
fn an_export_that_loses_too_much_is_refused_with_a_remedy() -> Result<()> {
    let trained = Trained::demo()?;
    let refusal = |config: Config| -> Result<String> {
        let out = tempfile::tempdir_in(trained.folder.path())?;
        let name = out.path().file_name().and_then(|name| name.to_str()).context("no name")?;
        let error = trained.fused(&config, name)?.expect_err("it loses more than the limit");
        Ok(error.report())
    };
    // The default limit.
    let report = refusal(Config { quantize: Some(quantize(2, 32)), ..Config::default() })?;
    assert!(report.contains("validation loss of `quantized` (affine, 2 bits in groups of 32)"), "{report}");
    assert!(report.contains("the limit is 0.1"), "{report}");
    assert!(report.contains("hint: use more bits or smaller groups in `fuse.quantize`"), "{report}");
    let limit = Some(1e-3);
    let report = refusal(Config { gguf: Gguf::Q4_0, max_loss_increase: limit, ..Config::default() })?;
    assert!(
        report.contains("`gguf/model-q4_0.gguf` (q4_0)") && report.contains("limit is 0.001"),
        "{report}"
    );
    assert!(
        report.contains("more bits, such as `q8_0`") && report.contains("fuse.max_loss_increase"),
        "{report}"
    );
    Ok(())
}
