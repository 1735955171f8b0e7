//! Quantizing and dequantizing during the import, checked with the models crate.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly, its helpers too")]

use std::path::Path;

use import_model::{Config, Conversion, Error, Quantize, Unwatched, hub};
use mlx_rs::{Array, Dtype};
use models::{LoadOptions, Model, TensorFiles};
use tempfile::TempDir;
use tensors::TensorHeader;
use testutil::{golden_dir, tolerance};

fn import(folder: &Path, change: impl FnOnce(&mut Config)) -> Result<TempDir, Error> {
    let mut config = Config { model_dir: folder.display().to_string(), ..Config::default() };
    change(&mut config);
    let out = tempfile::tempdir().unwrap();
    let settings = hub::Settings::from(|_| None)?;
    mlx_ext::init(&mlx_ext::Options::default()).unwrap();
    import_model::run(&config, &settings, &Unwatched, out.path(), out.path()).map(|_| out)
}

fn logits(folder: &Path) -> Vec<f32> {
    let options = LoadOptions { dtype: Some(Dtype::Float32), unpack: true };
    let model = Model::load(folder, &options).unwrap();
    let tokens = Array::from_slice(&[2, 10, 11, 40], &[1, 4]);
    let logits = model.logits(&model.hidden(models::Input::tokens(&tokens)).unwrap()).unwrap();
    let bytes = mlx_ext::bytes_of(&logits.as_dtype(Dtype::Float32).unwrap()).unwrap();
    bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Returns the bytes that are planned for the converted model.
fn planned_bytes(folder: &Path, conversion: &Conversion) -> u64 {
    let weights = folder.join("model.safetensors");
    models::converted_bytes(&folder.join("config.json"), &[&weights], conversion).unwrap()
}

/// Returns the bytes of the tensors of a model.
fn bytes_of_tensors(folder: &Path) -> u64 {
    let tensors = TensorHeader::read(&folder.join("model.safetensors")).unwrap().into_tensors();
    tensors.iter().map(|(_, info)| (info.data_offsets.1 - info.data_offsets.0) as u64).sum()
}

fn table(mode: &str, bits: i32, group_size: i32) -> Quantize {
    Quantize { mode: mode.to_owned(), bits, group_size }
}

#[test]
fn a_dequantized_model_computes_the_same() {
    // The last is stored and dequantized in bfloat16, whereas the loader dequantizes in float32.
    for (case, tolerance) in [
        ("llama-q4", tolerance::DEQUANTIZED_LOGITS),
        ("gemma3_text-q4", tolerance::DEQUANTIZED_LOGITS),
        ("qwen3-mixed", tolerance::BFLOAT16_LOGITS),
    ] {
        let packed = golden_dir().join(case);
        let plain = import(&packed, |config| config.dequantize = true).unwrap();
        let plain = plain.path().join("model");
        let files = TensorFiles::open(&plain).unwrap();
        assert!(files.names().all(|name| files.dtype(name).unwrap().is_float()), "{case}");
        let text = fs_err::read_to_string(plain.join("config.json")).unwrap();
        assert!(!text.contains("quantization"), "{case}");
        let difference = difference(&logits(&packed), &logits(&plain));
        assert!(difference < tolerance, "{case}: {difference}");
    }
}

#[test]
fn every_mode_is_written_as_the_models_read_it() {
    let plain = import(&golden_dir().join("llama-q4"), |config| config.dequantize = true).unwrap();
    let plain = plain.path().join("model");
    let packed = golden_dir().join("llama-q4");
    assert_eq!(planned_bytes(&packed, &Conversion::Dequantize), bytes_of_tensors(&plain));
    let expected = logits(&plain);
    let modes = [("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)];
    let affine = [2, 3, 4, 5, 6, 8].map(|bits| ("affine", bits, 32));
    let mut worst = Vec::new();
    for (mode, bits, group_size) in affine.into_iter().chain(modes).chain([("affine", 8, 64)]) {
        let packed = import(&plain, |config| config.quantize = Some(table(mode, bits, group_size))).unwrap();
        let folder = packed.path().join("model");
        let files = TensorFiles::open(&folder).unwrap();
        // 96 columns are not a multiple of 64: `down_proj` is not quantized, as in mlx-lm.
        let matrices = if group_size == 64 { 3 * 6 + 2 } else { 3 * 7 + 2 };
        let count = files.names().filter(|name| name.ends_with(".scales")).count();
        assert_eq!(count, matrices, "{mode} {bits} {group_size}");
        let conversion = Conversion::Quantize(table(mode, bits, group_size));
        assert_eq!(
            planned_bytes(&plain, &conversion),
            bytes_of_tensors(&folder),
            "{mode} {bits} {group_size}"
        );
        let difference = difference(&expected, &logits(&folder));
        assert!(difference > 0.0, "{mode} {bits} {group_size}");
        worst.push((mode, bits, difference));
    }
    let difference = |bits| worst.iter().find(|(mode, b, _)| *mode == "affine" && *b == bits).unwrap().2;
    assert!(difference(8) < difference(4) && difference(4) < difference(2), "{worst:?}");
    assert!(difference(8) < 0.1, "{worst:?}");
}

#[test]
fn impossible_conversions_are_refused_before_anything_is_written() {
    let again =
        import(&golden_dir().join("llama-q4"), |config| config.quantize = Some(table("affine", 4, 32)));
    let message = failure::Error::from(again.err().unwrap()).report();
    assert!(message.contains("quantized already\nhint: "), "{message}");
    let nothing = import(&golden_dir().join("llama"), |config| config.dequantize = true);
    let message = failure::Error::from(nothing.err().unwrap()).report();
    assert!(message.contains("the weights are not quantized\nhint: "), "{message}");
}
