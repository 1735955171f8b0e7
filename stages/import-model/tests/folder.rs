//! Imports from a folder: kept files, refused models, error messages.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly, its helpers too")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use failure::{Failure as _, Kind};
use import_model::{Config, Error, Unwatched, hub, layout, weights};
use insta::assert_snapshot;
use tempfile::TempDir;
use testutil::files::{contents, copy_files, golden_dir, sha256_hex};
use testutil::hostile;

use common::{ONE, TWO};

fn temp() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Copies the golden model `llama`.
fn llama() -> TempDir {
    let folder = temp();
    copy_files(&golden_dir().join("llama"), folder.path());
    folder
}

fn import(folder: &Path, out: &Path) -> Result<(), Error> {
    import_pinned(folder, out, BTreeMap::new())
}

fn import_pinned(folder: &Path, out: &Path, files: BTreeMap<String, String>) -> Result<(), Error> {
    let config = Config { model_dir: folder.display().to_string(), files, ..Config::default() };
    let settings = hub::Settings::from(|_| None)?;
    import_model::run(&config, &settings, &Unwatched, out, out).map(drop)
}

/// Imports a model that must be refused, and returns the report of the error.
fn refusal(folder: &Path) -> String {
    let out = temp();
    let error = import(folder, out.path()).expect_err("this model must be refused");
    assert_eq!(error.kind(), Kind::BadInput, "{error}");
    assert!(contents(out.path()).is_empty(), "something was written: {error}");
    let message = testutil::filtered(&failure::Error::from(error).report());
    assert!(message.contains("\nhint: "), "no hint in: {message}");
    message
}

#[test]
fn every_golden_model_is_imported_unchanged() {
    let mut count = 0;
    for case in fs_err::read_dir(golden_dir()).expect("golden cases").flatten() {
        if !case.path().join("config.json").exists() {
            continue;
        }
        let out = temp();
        import(&case.path(), out.path()).unwrap_or_else(|error| panic!("{}: {error}", case.path().display()));
        let (source, model) = (contents(&case.path()), contents(&out.path().join("model")));
        assert!(model.iter().all(|(name, hash)| source.get(name) == Some(hash)));
        assert!(model.contains_key("model.safetensors") && !model.contains_key("expected.json"));
        let tokenizer = contents(&out.path().join("tokenizer"));
        for name in ["tokenizer.json", "tokenizer_config.json"] {
            assert_eq!(tokenizer.get(name), source.get(name), "{name}");
        }
        assert!(tokenizer.contains_key("ids.json"));
        count += 1;
    }
    assert!(count >= 10, "only {count} golden models");
}

#[test]
fn only_files_of_the_model_are_kept_and_the_rest_is_recorded() {
    let folder = llama();
    let original = folder.path().join("original");
    fs_err::create_dir(&original).unwrap();
    for name in [
        ".gitattributes",
        "README.md",
        "picture.png",
        "modeling_x.py",
        "pytorch_model.bin",
        "consolidated.safetensors",
        "original/params.json",
    ] {
        fs_err::write(folder.path().join(name), "x").unwrap();
    }
    let out = temp();
    import(folder.path(), out.path()).unwrap();
    let kept: Vec<_> = contents(&out.path().join("model")).into_keys().collect();
    assert_eq!(kept, ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]);
    let record: serde_json::Value =
        serde_json::from_str(&fs_err::read_to_string(out.path().join("import.json")).unwrap()).unwrap();
    assert_eq!(record["source"]["type"], "folder");
    assert_eq!(record["kept"].as_array().unwrap().len(), 4);
    let dropped = record["dropped"].as_object().unwrap();
    assert!(!dropped.contains_key(".gitattributes"), "hidden files are not part of the folder's hash either");
    for name in [
        "README.md",
        "picture.png",
        "modeling_x.py",
        "pytorch_model.bin",
        "consolidated.safetensors",
        "original/",
    ] {
        assert!(dropped.contains_key(name), "{name} in {dropped:?}");
    }
    assert!(
        !record.to_string().contains(&folder.path().display().to_string()),
        "a path of this machine is recorded"
    );
}

#[cfg(unix)]
#[test]
fn a_farm_of_links_is_imported_as_files() {
    let (real, farm, out) = (llama(), temp(), temp());
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::os::unix::fs::symlink(real.path().join(name), farm.path().join(name)).unwrap();
    }
    import(farm.path(), out.path()).unwrap();
    let copied = out.path().join("model/model.safetensors");
    assert!(fs_err::symlink_metadata(&copied).unwrap().is_file());
    fs_err::write(&copied, "changed").unwrap();
    let source = contents(real.path());
    assert_ne!(source["model.safetensors"], sha256_hex(b"changed"), "the user's file was linked, not copied");
}

#[test]
fn special_tokens_come_from_all_three_files() {
    let ids = |files: &[(&str, &str)]| -> serde_json::Value {
        let (folder, out) = (llama(), temp());
        let mut config: serde_json::Value =
            serde_json::from_str(&fs_err::read_to_string(folder.path().join("config.json")).unwrap())
                .unwrap();
        for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
            config.as_object_mut().unwrap().remove(key);
        }
        config["eos_token_id"] = 5.into();
        fs_err::write(folder.path().join("config.json"), config.to_string()).unwrap();
        for (name, text) in files {
            fs_err::write(folder.path().join(name), text).unwrap();
        }
        import(folder.path(), out.path()).unwrap();
        serde_json::from_str(&fs_err::read_to_string(out.path().join("tokenizer/ids.json")).unwrap()).unwrap()
    };
    let tokenizer: serde_json::Value =
        serde_json::from_str(&fs_err::read_to_string(golden_dir().join("llama/tokenizer.json")).unwrap())
            .unwrap();
    let first = &tokenizer["added_tokens"][0];
    let (text, id) = (first["content"].as_str().unwrap(), first["id"].clone());
    let by_text = format!(r#"{{"eos_token":{{"content":"{text}"}},"bos_token":null}}"#);
    let got = ids(&[
        ("tokenizer_config.json", &by_text),
        ("generation_config.json", r#"{"eos_token_id":[7,5],"bos_token_id":9,"pad_token_id":3}"#),
    ]);
    assert_eq!(got, serde_json::json!({ "bos": null, "eos": [id, 7, 5], "pad": 3 }));
    let got = ids(&[("tokenizer_config.json", "{}"), ("generation_config.json", r#"{"bos_token_id":9}"#)]);
    assert_eq!(got, serde_json::json!({ "bos": 9, "eos": [5], "pad": null }));
    let got = ids(&[("tokenizer_config.json", r#"{"eos_token":"not a token"}"#)]);
    assert_eq!(got["eos"], serde_json::json!([5]));
}

#[test]
fn a_template_kept_for_processors_reaches_the_tokenizer() {
    let (folder, out) = (llama(), temp());
    fs_err::write(folder.path().join("tokenizer_config.json"), "{}").unwrap();
    fs_err::write(folder.path().join("chat_template.json"), r#"{"chat_template":"{{ messages }}"}"#).unwrap();
    import(folder.path(), out.path()).unwrap();
    assert_eq!(
        fs_err::read_to_string(out.path().join("tokenizer/chat_template.jinja")).unwrap(),
        "{{ messages }}"
    );
}

#[test]
fn a_template_that_does_not_parse_is_refused_by_name_and_line() {
    let folder = llama();
    fs_err::write(folder.path().join("chat_template.jinja"), "{{ messages }}\n{% if %}").unwrap();
    let said = refusal(folder.path());
    assert!(said.contains("chat template `chat_template.jinja` line 2: syntax error"), "{said}");

    let folder = llama();
    fs_err::write(folder.path().join("tokenizer_config.json"), "{}").unwrap();
    let broken = r#"{"chat_template":"{{ messages }}\n{% if %}"}"#;
    fs_err::write(folder.path().join("chat_template.json"), broken).unwrap();
    let said = refusal(folder.path());
    assert!(said.contains("chat template `chat_template.json` line 2: syntax error"), "{said}");
}

#[test]
fn hostile_weights_are_refused_by_name_and_place() {
    for case in hostile::all() {
        let folder = llama();
        fs_err::write(folder.path().join("model.safetensors"), &case.bytes).unwrap();
        let message = refusal(folder.path());
        assert!(message.contains("model.safetensors"), "{}: {message}", case.name);
        assert!(message.contains(case.mentions), "{}: {message}", case.name);
    }
    let valid = temp();
    fs_err::write(valid.path().join("a.safetensors"), hostile::valid("a")).unwrap();
    assert_eq!(weights::check_file(&valid.path().join("a.safetensors")).unwrap().len(), 1);
}

#[test]
fn weights_that_are_not_finite_are_refused_by_file_and_tensor() {
    for (name, bits) in [("NaN", 0x7fc0_0000_u32), ("infinity", 0xff80_0000)] {
        let folder = llama();
        let path = folder.path().join("model.safetensors");
        let tensor = {
            let header = tensors::TensorHeader::read(&path).unwrap();
            let (name, info) = header.tensors().last().unwrap().clone();
            assert_eq!(info.dtype, tensors::Dtype::F32);
            let mut bytes = fs_err::read(&path).unwrap();
            let at = usize::try_from(header.data_start()).unwrap() + info.data_offsets.1 - 4;
            bytes[at..at + 4].copy_from_slice(&bits.to_le_bytes());
            fs_err::write(&path, bytes).unwrap();
            name
        };
        let message = refusal(folder.path());
        for part in ["model.safetensors`", &format!("`{tensor}`"), "NaN or infinity"] {
            assert!(message.contains(part), "{name}: no {part} in {message}");
        }
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let whole = fs_err::read(golden_dir().join("llama/model.safetensors")).unwrap();
    let folder = temp();
    let path = folder.path().join("cut.safetensors");
    let header = usize::try_from(u64::from_le_bytes(whole[..8].try_into().unwrap())).unwrap();
    let cuts = (0..header + 20).step_by(7).chain([whole.len() / 2, whole.len() - 1]);
    for cut in cuts {
        fs_err::write(&path, &whole[..cut]).unwrap();
        assert!(weights::check_file(&path).is_err(), "cut at {cut}");
    }
    fs_err::write(&path, &whole).unwrap();
    assert!(weights::check_file(&path).is_ok());
}

#[test]
fn oversized_headers_are_refused_quickly() {
    let folder = temp();
    let path = folder.path().join("model.safetensors");
    let refused = |says: &str| {
        let start = Instant::now();
        let message = weights::check_file(&path).expect_err("the header is too large").to_string();
        assert!(start.elapsed().as_secs_f32() < 1.0, "took {:?}", start.elapsed());
        assert!(message.contains(says), "{message}");
        let grown = memory_of_checking(&path);
        assert!(grown < 64 << 20, "{grown} bytes");
    };
    hostile::write_large_header(&path, 100_000_000);
    refused("header claims");
    hostile::write_many_tensors(&path, 1_000_000);
    refused("header claims");
    // Just below the limit on bytes, the limit on tensors applies.
    hostile::write_many_tensors(&path, 120_000);
    refused("100000 tensors");
}

const CHECK_THIS: &str = "IMPORT_MODEL_TEST_CHECKS";

/// Checks `path` in a separate process and returns by how many bytes that process grew.
fn memory_of_checking(path: &Path) -> u64 {
    let mut child = std::process::Command::new(std::env::current_exe().expect("a test knows its program"));
    child.args(["--exact", "memory_is_measured_in_a_separate_process", "--nocapture"]).env(CHECK_THIS, path);
    let output = child.output().expect("a test can run itself");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let grown = text.lines().find_map(|line| line.split_once("grown by ")?.1.parse().ok());
    grown.unwrap_or_else(|| panic!("no answer in: {text}"))
}

#[test]
fn memory_is_measured_in_a_separate_process() {
    let Some(path) = std::env::var_os(CHECK_THIS) else { return };
    let before = peak_memory_bytes();
    drop(weights::check_file(Path::new(&path)));
    println!("\ngrown by {}", peak_memory_bytes() - before);
}

/// Returns the peak memory of this process; 0 where the system does not report it.
fn peak_memory_bytes() -> u64 {
    let status = fs_err::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) << 10
}

/// Makes a model of shards `(name, tensor)` with an index of `listed`.
fn sharded(shards: &[(&str, &str)], listed: &[(&str, &str)]) -> TempDir {
    let folder = llama();
    fs_err::remove_file(folder.path().join("model.safetensors")).unwrap();
    for (name, tensor) in shards {
        fs_err::write(folder.path().join(name), hostile::valid(tensor)).unwrap();
    }
    let map: BTreeMap<_, _> = listed.iter().copied().collect();
    let index = serde_json::json!({ "metadata": { "total_size": 32 }, "weight_map": map });
    fs_err::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    folder
}

#[test]
fn shards_that_agree_with_their_index_are_imported() {
    let (folder, out) = (llama(), temp());
    common::shard(folder.path());
    fs_err::write(folder.path().join("model.safetensors"), "not in the index, so not read").unwrap();
    import(folder.path(), out.path()).unwrap();
    let kept = contents(&out.path().join("model"));
    assert!(
        kept.contains_key(ONE) && kept.contains_key(TWO) && kept.contains_key("model.safetensors.index.json")
    );
    assert!(!kept.contains_key("model.safetensors"));
}

#[test]
fn shards_that_disagree_with_their_index_are_refused() {
    let cases = [
        (sharded(&[(ONE, "a")], &[("a", ONE), ("b", TWO)]), "1 of 2 shards", TWO),
        (sharded(&[(ONE, "a"), (TWO, "b")], &[("a", TWO), ("b", TWO)]), "is listed in", "`a`"),
        (sharded(&[(ONE, "a"), (TWO, "b")], &[("a", ONE), ("b", TWO), ("c", TWO)]), "is not there", "`c`"),
        (sharded(&[(ONE, "a"), (TWO, "a")], &[("a", ONE), ("b", TWO)]), "is also in", "`a`"),
        (
            sharded(&[(ONE, "a")], &[("a", "../model-00001-of-00002.safetensors")]),
            "not the name of a safetensors file",
            "../",
        ),
        (sharded(&[(ONE, "a")], &[]), "`weight_map` is empty", "index.json"),
    ];
    for (folder, says, names) in cases {
        let message = refusal(folder.path());
        assert!(message.contains(says) && message.contains(names), "{message}");
    }
    let unlisted = sharded(&[(ONE, "a"), (TWO, "b")], &[("a", ONE)]);
    fs_err::write(unlisted.path().join(ONE), two_tensors()).unwrap();
    assert!(refusal(unlisted.path()).contains("tensor `b` of"), "an unlisted tensor");
    let no_index = sharded(&[(ONE, "a")], &[("a", ONE)]);
    fs_err::remove_file(no_index.path().join("model.safetensors.index.json")).unwrap();
    assert!(refusal(no_index.path()).contains("1 of 2 shards"));
}

fn two_tensors() -> Vec<u8> {
    let entry = |name: &str, start: u32| {
        format!(r#""{name}":{{"dtype":"U8","shape":[4],"data_offsets":[{start},{}]}}"#, start + 4)
    };
    hostile::with_header(&format!("{{{},{}}}", entry("a", 0), entry("b", 4)), &[0; 8])
}

#[test]
fn folders_without_a_model_are_explained() {
    let without = |name: &str| {
        let folder = llama();
        fs_err::remove_file(folder.path().join(name)).unwrap();
        folder
    };
    for (name, says) in [
        ("config.json", "`config.json` is missing"),
        ("tokenizer.json", "`tokenizer.json` is missing"),
        ("model.safetensors", "no weights"),
    ] {
        let message = refusal(without(name).path());
        assert!(message.contains(says), "{message}");
    }
    let pickled = without("model.safetensors");
    fs_err::write(pickled.path().join("pytorch_model.bin"), "x").unwrap();
    assert_snapshot!(refusal(pickled.path()), @r"
    error: `[SANDBOX]`: no safetensors weights, only pickle files, which can run code when they are read: `pytorch_model.bin`
    hint: use a repository or revision with safetensors, or convert the model on a machine where you trust it: `model.save_pretrained(folder, safe_serialization=True)` in transformers
    ");
    let sentencepiece = without("tokenizer.json");
    fs_err::write(sentencepiece.path().join("tokenizer.model"), "x").unwrap();
    assert_snapshot!(refusal(sentencepiece.path()), @r"
    error: `[SANDBOX]`: `tokenizer.json` is missing
    hint: make a fast tokenizer from `tokenizer.model`: `AutoTokenizer.from_pretrained(folder).save_pretrained(folder)` in transformers
    ");
    assert_snapshot!(refusal(Path::new("/no/such/folder")), @r"
    error: `/no/such/folder`: no such folder
    hint: give the folder with `config.json`, `tokenizer.json` and `model*.safetensors`
    ");
    let file = llama();
    assert!(refusal(&file.path().join("config.json")).contains("not a folder"));
}

#[test]
fn unsupported_models_are_refused() {
    let with_config = |text: &str| {
        let folder = llama();
        fs_err::write(folder.path().join("config.json"), text).unwrap();
        refusal(folder.path())
    };
    assert_snapshot!(with_config(r#"{"model_type":"mamba"}"#), @r"
    error: `[SANDBOX]/config.json`: `model_type` is `mamba`, which is not supported
    hint: supported types are `cohere`, `gemma2`, `gemma3`, `gemma3_text`, `llama`, `mistral`, `phi3`, `qwen2`, `qwen3`
    ");
    assert!(with_config("{\n  \"model_type\": \n").contains("line 3"));
    assert!(with_config("{}").contains("`model_type` is missing"));
    let quantized = llama();
    let packed = hostile::valid("model.layers.0.mlp.up_proj.qweight");
    fs_err::write(quantized.path().join("model.safetensors"), packed).unwrap();
    let path = quantized.path().join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs_err::read(&path).unwrap()).unwrap();
    config["quantization_config"] = serde_json::json!({"quant_method": "gptq", "bits": 4});
    fs_err::write(path, config.to_string()).unwrap();
    assert_snapshot!(refusal(quantized.path()), @r"
    error: `[SANDBOX]/config.json`: the weights are quantized with `gptq`, which MLX does not support
    hint: use the original model, or one quantized for MLX, such as those of `mlx-community`
    ");
}

#[test]
fn broken_tokenizers_are_refused() {
    let folder = llama();
    for text in ["{", "{}", r#"{"model":{"type":"Mystery"}}"#] {
        fs_err::write(folder.path().join("tokenizer.json"), text).unwrap();
        let message = refusal(folder.path());
        assert!(
            message.contains("tokenizer.json") && message.contains("not a usable tokenizer"),
            "{message}"
        );
    }
    let folder = llama();
    fs_err::write(folder.path().join("tokenizer_config.json"), "{\"a\":1").unwrap();
    assert!(refusal(folder.path()).contains("tokenizer_config.json"));
}

#[test]
fn files_too_large_for_later_stages_are_refused() {
    let padding = " ".repeat(16 << 20);
    for name in [
        "config.json",
        "generation_config.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
    ] {
        let folder = llama();
        let path = folder.path().join(name);
        let text = fs_err::read_to_string(&path).unwrap_or_else(|_| "{}".to_owned());
        fs_err::write(&path, text + &padding).unwrap();
        let message = refusal(folder.path());
        assert!(message.contains(name) && message.contains("more than the limit of"), "{message}");
    }
}

#[cfg(unix)]
#[test]
fn special_files_are_refused_without_blocking() {
    let folder = llama();
    let path = folder.path().join("generation_config.json");
    let status = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(status.success());
    assert!(refusal(folder.path()).contains("not a regular file"));
    fs_err::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("generation_config.json", &path).unwrap();
    let out = temp();
    let error = import(folder.path(), out.path()).expect_err("a link to itself");
    assert!(error.to_string().contains("generation_config.json"), "{error}");
}

#[test]
fn pinned_hashes_must_match_exactly() {
    let folder = llama();
    let all: BTreeMap<_, _> =
        contents(folder.path()).into_iter().filter(|(name, _)| layout::is_kept(name)).collect();
    let out = temp();
    import_pinned(folder.path(), out.path(), all.clone()).unwrap();
    let fails = |pins: BTreeMap<String, String>| {
        let out = temp();
        let error = import_pinned(folder.path(), out.path(), pins).expect_err("pins do not match");
        assert!(contents(out.path()).is_empty());
        error.to_string()
    };
    let mut wrong = all.clone();
    wrong.insert("config.json".into(), sha256_hex(b"another"));
    let message = fails(wrong);
    assert!(message.contains("config.json") && message.contains(&sha256_hex(b"another")), "{message}");
    let mut more = all.clone();
    more.insert("generation_config.json".into(), sha256_hex(b""));
    assert!(fails(more).contains("`generation_config.json` is pinned"));
    let mut fewer = all;
    fewer.remove("tokenizer_config.json");
    assert!(fails(fewer).contains("`tokenizer_config.json` is part of the model but is not pinned"));
}
