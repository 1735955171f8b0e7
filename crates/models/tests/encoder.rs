//! Sentence encoders against the vectors of transformers.

use std::path::{Path, PathBuf};

use models::{Encoder, Error, LoadOptions};
use serde::Deserialize;

/// Difference of a number of a vector: `f32` sums in another order.
const TOLERANCE: f32 = 1e-5;

#[derive(Deserialize)]
struct Expected {
    rows: Vec<Vec<u32>>,
    vectors: Vec<Vec<f32>>,
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/encoders").join(name)
}

fn load(name: &str) -> (Encoder, Expected) {
    mlx_ext::init(&mlx_ext::Options::default()).expect("MLX starts");
    let text = fs_err::read_to_string(folder(name).join("expected.json")).expect("vectors");
    let encoder = Encoder::load(&folder(name), &LoadOptions::default()).expect("an encoder");
    (encoder, serde_json::from_str(&text).expect("vectors"))
}

#[test]
fn vectors_equal_those_of_transformers() {
    for name in ["bert", "nomic-bert", "xlm-roberta"] {
        let (encoder, expected) = load(name);
        let vectors = encoder.encode(&expected.rows, 4).expect("vectors");
        for (row, (ours, theirs)) in vectors.iter().zip(&expected.vectors).enumerate() {
            let off = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(ours.len() == theirs.len() && off <= TOLERANCE, "{name}, row {row}: {off}");
        }
    }
}

#[test]
fn vectors_do_not_depend_on_the_rows_beside_them() {
    let (encoder, expected) = load("bert");
    let rows: Vec<Vec<u32>> = expected.rows.iter().cycle().take(40).cloned().collect();
    let alone = encoder.encode(&rows, 1).expect("vectors");
    for batch_size in [2, 7, 64] {
        assert_eq!(encoder.encode(&rows, batch_size).expect("vectors"), alone, "{batch_size} rows together");
    }
    let mut turned: Vec<_> = rows.clone();
    turned.reverse();
    let mut vectors = encoder.encode(&turned, 7).expect("vectors");
    vectors.reverse();
    assert_eq!(vectors, alone);
}

#[test]
fn long_rows_keep_their_end_and_empty_ones_have_zeros() {
    let (encoder, _) = load("bert");
    let long: Vec<u32> = (4..40).collect();
    let cut = encoder.truncated(long.clone());
    assert_eq!((cut.len(), cut[10], cut[11]), (12, 14, 39));
    assert_eq!(encoder.truncated(vec![1, 2]), [1, 2]);
    let vectors = encoder.encode(&[cut, Vec::new()], 8).expect("vectors");
    assert!(vectors[1].len() == 24 && vectors[1].iter().all(|&value| value == 0.0));
}

/// Copies an encoder and changes one of its files.
fn changed(name: &str, file: &str, change: impl FnOnce(String) -> String) -> Result<Encoder, Error> {
    mlx_ext::init(&mlx_ext::Options::default()).expect("MLX starts");
    let copy = tempfile::tempdir().expect("a folder");
    fs_err::create_dir(copy.path().join("1_Pooling")).expect("a folder");
    for file in [
        "config.json",
        "model.safetensors",
        "modules.json",
        "sentence_bert_config.json",
        "1_Pooling/config.json",
    ] {
        fs_err::copy(folder(name).join(file), copy.path().join(file)).expect("a copy");
    }
    let path = copy.path().join(file);
    let text = fs_err::read_to_string(&path).expect("a file");
    fs_err::write(&path, change(text)).expect("a file");
    Encoder::load(copy.path(), &LoadOptions::default())
}

/// The keys of the first published `config.json` of Nomic's encoder.
const OLD_KEYS: &str = r#"{"model_type": "nomic_bert", "n_embd": 24, "n_head": 3, "n_inner": 40, "n_layer": 2, "n_positions": 16,
    "vocab_size": 48, "type_vocab_size": 2, "layer_norm_epsilon": 1e-12, "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": false, "rotary_scaling_factor": null, "activation_function": "swiglu", "prenorm": false,
    "qkv_proj_bias": false, "mlp_fc1_bias": false, "mlp_fc2_bias": false, "causal": false, "use_rms_norm": false}"#;

#[test]
fn old_keys_describe_the_same_encoder() {
    let (_, expected) = load("nomic-bert");
    let old = changed("nomic-bert", "config.json", |_| OLD_KEYS.to_owned()).expect("an encoder");
    let vectors = old.encode(&expected.rows, 4).expect("vectors");
    let off = vectors.iter().flatten().zip(expected.vectors.iter().flatten()).map(|(a, b)| (a - b).abs());
    assert!(off.fold(0.0, f32::max) <= TOLERANCE);
    let causal =
        changed("nomic-bert", "config.json", |_| OLD_KEYS.replace("\"causal\": false", "\"causal\": true"));
    assert!(causal.err().expect("a refusal").to_string().contains("`causal`"));
}

#[test]
fn settings_that_would_change_the_vectors_are_refused() {
    let refused = |file: &str, from: &str, to: &str| {
        let result = changed("bert", file, |text| {
            assert!(text.contains(from), "{file} has no {from}");
            text.replace(from, to)
        });
        result.err().unwrap_or_else(|| panic!("{to} was accepted")).to_string()
    };
    let other =
        refused("config.json", "\"is_decoder\": false", "\"position_embedding_type\": \"relative_key\"");
    assert!(other.contains("position_embedding_type"), "{other}");
    assert!(
        refused("config.json", "\"is_decoder\": false", "\"is_decoder\": true").contains("both directions")
    );
    assert!(refused("config.json", "\"is_decoder\": false", "\"sparse\": true").contains("`sparse`"));
    assert!(refused("config.json", "\"bert\"", "\"t5\"").contains("`t5`"));
    assert!(
        refused("config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3")
            .contains("missing tensor")
    );
    let positions =
        refused("config.json", "\"max_position_embeddings\": 16", "\"max_position_embeddings\": 0");
    assert!(positions.contains("`max_position_embeddings` is 0"), "{positions}");
    assert!(refused("modules.json", "Normalize", "Dense").contains("`Dense`"));
    assert!(refused("modules.json", "Pooling\"", "Transformer\"").contains("no pooling"));
    let pooling = refused("1_Pooling/config.json", "mean_tokens\": true", "max_tokens\": true");
    assert!(pooling.contains("pooling_mode_max_tokens"), "{pooling}");
}

#[test]
fn a_token_without_an_embedding_is_refused() {
    let vocabulary = 48;
    for name in ["bert", "nomic-bert", "xlm-roberta"] {
        let (encoder, _) = load(name);
        assert_eq!(Encoder::check(&folder(name)).expect("an encoder"), vocabulary);
        assert!(encoder.encode(&[vec![2, vocabulary - 1]], 1).is_ok(), "{name}");
        let error = encoder.encode(&[vec![2], vec![2, vocabulary]], 1).expect_err("a refusal");
        assert!(matches!(error, Error::UnknownToken { token, .. } if token == vocabulary), "{name}: {error}");
    }
}

#[test]
fn padding_behind_the_last_position_is_refused() {
    for pad in [17, 100, i32::MAX] {
        let refused = changed("xlm-roberta", "config.json", |text| {
            assert!(text.contains("\"pad_token_id\": 1,"));
            text.replace("\"pad_token_id\": 1", &format!("\"pad_token_id\": {pad}"))
        });
        let reason = refused.err().expect("a refusal").to_string();
        assert!(reason.contains("the first position is"), "{reason}");
    }
}
