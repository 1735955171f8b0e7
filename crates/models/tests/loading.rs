//! The strict loader: it knows every name and shape, and errors name every problem of a folder.

mod common;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use failure::{Failure, Kind};
use mlx_ext::bytes_of;
use mlx_rs::{Array, Dtype};
use models::{
    Input, LoadOptions, Model, Pass, Section, Start, TensorFiles, supported_model_types, write_safetensors,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use testutil::{golden, hostile};

use common::{FAMILIES, Result, config, load, logits_of, merge, row, some_tokens, write_folder};

/// Mean absolute tolerance for logits in `bfloat16`, which has three digits, against `f32`.
const BFLOAT16_LOGITS: f32 = 0.05;

fn weights_of(folder: &Path) -> Result<BTreeMap<String, Array>> {
    Ok(TensorFiles::open(folder)?.arrays()?)
}

fn write_weights(folder: &Path, weights: &BTreeMap<String, Array>) -> Result {
    Ok(write_safetensors(&folder.join("model.safetensors"), weights)?)
}

/// Returns the report of a failed load, without the path of the folder.
fn refusal(folder: &Path) -> String {
    let report = load(folder).err().map(|error| failure::Error::from(error).report()).unwrap_or_default();
    report.replace(&folder.display().to_string(), "FOLDER")
}

fn logits(folder: &Path) -> Result<Vec<Vec<f32>>> {
    logits_of(&load(folder)?, Input::tokens(&row(&some_tokens(15))))
}

/// Writes a small llama, to be damaged.
fn llama() -> Result<TempDir> {
    write_folder(&config("llama"))
}

fn names_and_shapes(model: &mut Model) -> String {
    let mut lines = String::new();
    for (name, array) in model.parameters_mut() {
        writeln!(lines, "{name} {:?} {:?}", array.shape(), array.dtype()).expect("a string grows");
    }
    lines
}

#[test]
fn every_parameter_is_shown_under_its_checkpoint_name() -> Result {
    for family in FAMILIES.into_iter().chain(["gemma3", "llama-q4", "qwen3-mixed", "cohere-qk-norm"]) {
        let folder = golden(family);
        let mut model = Model::load(&folder, &LoadOptions::default())?;
        let shown = model.parameters().into_keys().collect::<Vec<_>>();
        let stored = weights_of(&folder)?.into_keys().collect::<Vec<_>>();
        assert_eq!(shown, stored, "{family}");
        insta::with_settings!({omit_expression => true}, {
            insta::assert_snapshot!(family, names_and_shapes(&mut model));
        });
    }
    Ok(())
}

#[test]
fn a_typo_in_a_name_is_a_missing_and_an_unknown_tensor_of_one_error() -> Result {
    let folder = llama()?;
    let mut weights = weights_of(folder.path())?;
    let moved = weights.remove("model.layers.1.mlp.up_proj.weight").expect("it is there");
    weights.insert("model.layers.1.mlp.up_porj.weight".to_owned(), moved);
    weights.remove("model.norm.weight");
    write_weights(folder.path(), &weights)?;
    insta::assert_snapshot!(refusal(folder.path()), @r"
    error: `FOLDER` does not hold the weights that its config.json describes:
      missing tensor `model.layers.1.mlp.up_proj.weight`
      missing tensor `model.norm.weight`
      unknown tensor `model.layers.1.mlp.up_porj.weight`
    hint: take config.json and weights from the same model; if tensors were renamed, convert the weights again
    ");
    Ok(())
}

#[test]
fn a_wrong_shape_is_named_with_the_right_one() -> Result {
    let folder = llama()?;
    let mut weights = weights_of(folder.path())?;
    for name in ["model.layers.0.self_attn.k_proj.weight", "model.layers.2.input_layernorm.weight"] {
        weights.insert(name.to_owned(), Array::zeros::<f32>(&[5, 5])?);
    }
    write_weights(folder.path(), &weights)?;
    insta::assert_snapshot!(refusal(folder.path()), @r"
    error: `FOLDER` does not hold the weights that its config.json describes:
      tensor `model.layers.0.self_attn.k_proj.weight` has shape [5, 5], expected [16, 32]
      tensor `model.layers.2.input_layernorm.weight` has shape [5, 5], expected [32]
    hint: take config.json and weights from the same model; if tensors were renamed, convert the weights again
    ");
    Ok(())
}

#[test]
fn packed_tensors_that_do_not_fit_are_named() -> Result {
    let folder = tempfile::tempdir()?;
    for file in ["config.json", "model.safetensors"] {
        fs_err::copy(golden("llama-q4").join(file), folder.path().join(file))?;
    }
    let mut weights = weights_of(folder.path())?;
    weights.insert("model.layers.0.mlp.up_proj.weight".to_owned(), Array::zeros::<u32>(&[96, 9])?);
    weights.insert("model.layers.1.mlp.up_proj.weight".to_owned(), Array::zeros::<u32>(&[95, 8])?);
    weights.remove("model.layers.2.mlp.up_proj.biases");
    write_weights(folder.path(), &weights)?;
    insta::assert_snapshot!(refusal(folder.path()), @r"
    error: `FOLDER` does not hold the weights that its config.json describes:
      missing tensor `model.layers.2.mlp.up_proj.biases`
      tensor `model.layers.0.mlp.up_proj.weight` has shape [96, 9], expected [96, 8]
      tensor `model.layers.1.mlp.up_proj.weight` has shape [95, 8], expected [96, 8]
    hint: take config.json and weights from the same model; if tensors were renamed, convert the weights again
    ");
    Ok(())
}

#[test]
fn a_model_type_that_is_not_supported_lists_those_that_are() -> Result {
    let folder = llama()?;
    fs_err::write(folder.path().join("config.json"), r#"{"model_type": "mamba"}"#)?;
    insta::assert_snapshot!(refusal(folder.path()), @r"
    error: `FOLDER/config.json`: model_type `mamba` is not supported
    hint: supported model types: cohere, gemma2, gemma3, gemma3_text, llama, mistral, phi3, qwen2, qwen3
    ");
    assert!(supported_model_types().is_sorted());
    Ok(())
}

#[test]
fn weights_quantized_by_others_are_refused() -> Result {
    let mut config = config("llama");
    let folder = write_folder(&config)?;
    merge(
        &mut config,
        json!({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}}),
    );
    let plain = logits(folder.path())?;
    fs_err::write(folder.path().join("config.json"), config.to_string())?;
    assert_eq!(logits(folder.path())?, plain, "the settings are a leftover, as all weights are plain floats");
    let mut weights = weights_of(folder.path())?;
    weights.insert("model.layers.0.mlp.up_proj.qweight".to_owned(), Array::zeros::<u32>(&[2, 2])?);
    write_weights(folder.path(), &weights)?;
    insta::assert_snapshot!(refusal(folder.path()), @r#"
    error: `FOLDER/config.json`: weights quantized by "gptq" are not supported
    hint: correct that setting, or take config.json from where the weights came from
    "#);
    Ok(())
}

/// Splits the weights of a folder into two files with an index.
fn shard(folder: &Path) -> Result {
    let weights = weights_of(folder)?;
    fs_err::remove_file(folder.join("model.safetensors"))?;
    let half = weights.len() / 2;
    let mut map = serde_json::Map::new();
    for (number, range) in [(1, 0..half), (2, half..weights.len())] {
        let file = format!("model-0000{number}-of-00002.safetensors");
        let part = weights.iter().skip(range.start).take(range.len());
        let part: BTreeMap<_, _> = part.map(|(name, array)| (name.clone(), array.clone())).collect();
        map.extend(part.keys().map(|name| (name.clone(), Value::from(file.clone()))));
        write_safetensors(&folder.join(file), &part)?;
    }
    let index = json!({"metadata": {"total_size": 0}, "weight_map": map});
    Ok(fs_err::write(folder.join("model.safetensors.index.json"), index.to_string())?)
}

#[test]
fn a_sharded_folder_loads_as_a_single_file() -> Result {
    let folder = llama()?;
    let single = logits(folder.path())?;
    shard(folder.path())?;
    assert_eq!(logits(folder.path())?, single);
    Ok(())
}

#[test]
fn a_shard_that_is_cut_short_or_absent_is_refused() -> Result {
    let folder = llama()?;
    shard(folder.path())?;
    let path = folder.path().join("model-00002-of-00002.safetensors");
    let bytes = fs_err::read(&path)?;
    fs_err::write(&path, &bytes[..bytes.len() - 100])?;
    let cut = refusal(folder.path());
    assert!(cut.contains("model-00002-of-00002.safetensors") && cut.contains("bytes"), "{cut}");
    fs_err::write(&path, &bytes[..5])?;
    assert!(refusal(folder.path()).contains("has 5 bytes"), "{}", refusal(folder.path()));
    fs_err::remove_file(&path)?;
    assert!(refusal(folder.path()).contains("model-00002-of-00002.safetensors"));
    Ok(())
}

#[test]
fn settings_that_are_null_count_as_absent() -> Result {
    let absent = [
        "rope_scaling",
        "rope_parameters",
        "rope_theta",
        "head_dim",
        "layer_types",
        "sliding_window",
        "num_key_value_heads",
        "tie_word_embeddings",
        "attention_bias",
        "quantization",
        "quantization_config",
        "partial_rotary_factor",
        "use_sliding_window",
        "max_window_layers",
        "query_pre_attn_scalar",
        "text_config",
    ];
    for family in FAMILIES {
        let mut config = config(family);
        let table = config.as_object_mut().expect("a table");
        let needed = match family {
            "gemma2" => vec!["num_key_value_heads", "head_dim", "query_pre_attn_scalar"],
            "cohere" => vec!["rope_theta"],
            _ => Vec::new(),
        };
        for name in absent.into_iter().filter(|name| !needed.contains(name)) {
            table.remove(name);
        }
        let folder = write_folder(&config)?;
        let expected = logits(folder.path())?;
        for name in absent.into_iter().filter(|name| !needed.contains(name)) {
            merge(&mut config, json!({name: null}));
        }
        fs_err::write(folder.path().join("config.json"), config.to_string())?;
        assert_eq!(logits(folder.path())?, expected, "{family}");
    }
    Ok(())
}

#[test]
fn the_multimodal_folder_loads_under_the_names_of_transformers_5_and_without_its_vision_part() -> Result {
    let folder = tempfile::tempdir()?;
    fs_err::copy(golden("gemma3/config.json"), folder.path().join("config.json"))?;
    let mut weights: BTreeMap<String, Array> = weights_of(&golden("gemma3"))?
        .into_iter()
        .map(|(name, array)| (name.replace("language_model.model.", "model.language_model."), array))
        .collect();
    weights.insert("model.vision_tower.patch.weight".to_owned(), Array::zeros::<f32>(&[2])?);
    weights.insert("model.multi_modal_projector.weight".to_owned(), Array::zeros::<f32>(&[2])?);
    write_weights(folder.path(), &weights)?;
    assert_eq!(logits(folder.path())?, logits(&golden("gemma3"))?);
    Ok(())
}

#[test]
fn a_tied_model_may_carry_its_head_twice() -> Result {
    let mut config = config("qwen2");
    merge(&mut config, json!({"tie_word_embeddings": true}));
    let folder = write_folder(&config)?;
    let expected = logits(folder.path())?;
    let mut weights = weights_of(folder.path())?;
    let embedding = weights["model.embed_tokens.weight"].clone();
    weights.insert("lm_head.weight".to_owned(), embedding);
    write_weights(folder.path(), &weights)?;
    assert_eq!(logits(folder.path())?, expected);
    Ok(())
}

#[test]
fn weights_keep_their_type_or_take_the_one_asked_for() -> Result {
    let folder = llama()?;
    let weights = weights_of(folder.path())?
        .into_iter()
        .map(|(name, array)| Ok((name, array.as_dtype(Dtype::Bfloat16)?)))
        .collect::<Result<BTreeMap<_, _>>>()?;
    write_weights(folder.path(), &weights)?;
    let input = row(&some_tokens(5));
    for (asked, found) in [
        (None, Dtype::Bfloat16),
        (Some(Dtype::Float16), Dtype::Float16),
        (Some(Dtype::Float32), Dtype::Float32),
    ] {
        let model = Model::load(folder.path(), &LoadOptions { dtype: asked, unpack: true })?;
        let logits = model.logits(&model.hidden(Input::tokens(&input))?)?;
        assert_eq!(logits.dtype(), found, "asked for {asked:?}");
    }
    Ok(())
}

#[test]
fn an_outline_has_the_shapes_types_and_bytes_of_the_loaded_model() -> Result {
    for family in FAMILIES.into_iter().chain(["gemma3", "llama-q4", "qwen3-mixed", "cohere-qk-norm"]) {
        let folder = golden(family);
        for dtype in [None, Some(Dtype::Float16)] {
            for unpack in [false, true] {
                let options = LoadOptions { dtype, unpack };
                let mut loaded = Model::load(&folder, &options)?;
                let mut outline = Model::outline(&folder, &options)?;
                assert_eq!(names_and_shapes(&mut outline), names_and_shapes(&mut loaded), "{family}");
                assert_eq!(outline.bytes(), loaded.bytes(), "{family}, {options:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn sections_read_only_their_own_weights_and_compute_the_whole_model_together() -> Result {
    let tokens = row(&some_tokens(15));
    for family in FAMILIES.into_iter().chain(["gemma3", "llama-q4"]) {
        for dtype in [Dtype::Float32, Dtype::Bfloat16, Dtype::Float16] {
            let (folder, options) = (golden(family), LoadOptions { dtype: Some(dtype), unpack: true });
            let whole = Model::load(&folder, &options)?;
            let mut states = whole.entering(Input::tokens(&tokens), 0)?;
            let expected = bytes_of(&whole.hidden(Input::tokens(&tokens))?)?;
            let mut found = Vec::new();
            for section in [0, 1].map(|index| Section { index, count: 2 }) {
                let part = Model::load_section(&folder, &options, section)?;
                for (name, array) in part.parameters() {
                    let stored = if part.has_in(section, &name) {
                        bytes_of(&whole.parameters()[&name])?
                    } else {
                        vec![0; array.nbytes()]
                    };
                    assert_eq!(bytes_of(&array)?, stored, "{family}: {name}");
                }
                let (input, blocks) = (Input::tokens(&tokens), section.blocks(part.layer_count()));
                // Ranks expect one type everywhere.
                assert_eq!(states.dtype(), dtype, "{family}");
                let pass =
                    Pass { recompute: false, from: Some(Start { block: blocks.start, states: &states }) };
                if section.is_last() {
                    found = bytes_of(&part.hidden_with(input, pass)?)?;
                } else {
                    states = part.through(input, pass, blocks.end)?;
                }
            }
            assert_eq!(found, expected, "{family}, {dtype:?}");
        }
    }
    Ok(())
}

#[test]
fn an_outline_of_a_folder_without_weights_has_the_shapes_of_fresh_weights() -> Result {
    for family in FAMILIES {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("config.json");
        fs_err::write(&path, config(family).to_string())?;
        let mut outline = Model::outline(folder.path(), &LoadOptions::default())?;
        let mut fresh = Model::random(&path, 1)?;
        assert_eq!(names_and_shapes(&mut outline), names_and_shapes(&mut fresh), "{family}");
    }
    Ok(())
}

#[test]
fn packed_weights_compute_in_the_type_of_the_model() -> Result {
    let reference = logits(&golden("qwen3-mixed"))?;
    for unpack in [false, true] {
        let model = Model::load(&golden("qwen3-mixed"), &LoadOptions { dtype: None, unpack })?;
        let hidden = model.hidden(Input::tokens(&row(&some_tokens(15))))?;
        let found = model.logits(&hidden)?;
        assert_eq!(found.dtype(), Dtype::Bfloat16, "unpack {unpack}");
        let found = found.as_dtype(Dtype::Float32)?.contiguous()?;
        found.eval()?;
        let found: Vec<Vec<f32>> =
            found.as_slice::<f32>().chunks(model.vocabulary() as usize).map(<[f32]>::to_vec).collect();
        let pairs = found.iter().flatten().zip(reference.iter().flatten());
        let off: f32 = pairs.map(|(a, b)| (a - b).abs()).sum();
        let mean = off / (found.len() * found[0].len()) as f32;
        assert!(mean < BFLOAT16_LOGITS, "unpack {unpack}: off by {mean} on average");
    }
    Ok(())
}

#[test]
fn hostile_files_are_refused_before_mlx_sees_them() -> Result {
    let folder = llama()?;
    let path = folder.path().join("model.safetensors");
    for case in hostile::all().into_iter().filter(|case| case.name != "no tensors") {
        fs_err::write(&path, &case.bytes)?;
        for opened in [TensorFiles::open(folder.path()), TensorFiles::open_file(&path)] {
            let error = opened.err().unwrap_or_else(|| panic!("{} was opened", case.name));
            let text = error.to_string();
            assert!(
                text.contains(case.mentions) && text.contains("model.safetensors"),
                "{}: {text}",
                case.name
            );
            assert_eq!(error.kind(), Kind::BadInput, "{}: {text}", case.name);
            assert!(error.hint().is_some(), "{}: {text}", case.name);
        }
    }
    fs_err::write(&path, hostile::valid("a"))?;
    assert_eq!(TensorFiles::open_file(&path)?.names().collect::<Vec<_>>(), ["a"]);
    Ok(())
}

#[test]
fn a_dimension_that_mlx_cannot_count_is_refused() -> Result {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("a.safetensors");
    let header = r#"{"a":{"dtype":"U8","shape":[4294967297,0],"data_offsets":[0,0]}}"#;
    fs_err::write(&path, hostile::with_header(header, &[]))?;
    let error = TensorFiles::open_file(&path).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains("tensor `a`") && error.contains("4294967297"), "{error}");
    Ok(())
}
