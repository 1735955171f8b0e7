//! Hints about a model's files, each in the situation that prints it; the same folder imports once the advice is followed.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly, its helpers too")]

mod common;

use std::path::Path;

use import_model::{Config, Error, Unwatched, hub};
use serde_json::{Value, json};
use tensors::{Dtype, TensorLayout};
use testutil::files::{copy_files, golden_dir};

use common::{ONE, Stored, TWO, read, shard};

fn import(folder: &Path) -> Result<(), Error> {
    let config = Config { model_dir: folder.display().to_string(), ..Config::default() };
    let out = tempfile::tempdir().unwrap();
    let settings = hub::Settings::from(|_| None)?;
    import_model::run(&config, &settings, &Unwatched, out.path(), out.path()).map(drop)
}

/// Writes a file of a folder anew.
fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    fs_err::write(folder.join(name), bytes).unwrap();
}

/// Sets a key of a JSON file of a folder.
fn set(folder: &Path, file: &str, key: &str, value: Value) {
    let mut json: Value = serde_json::from_slice(&fs_err::read(folder.join(file)).unwrap()).unwrap();
    json[key] = value;
    write(folder, file, json.to_string());
}

fn remove(folder: &Path, name: &str) {
    fs_err::remove_file(folder.join(name)).unwrap();
}

/// Breaks a copy of a golden model, imports it, and imports it again after `remedy` has followed the hint.
#[track_caller]
fn check(hint: &str, breaks: fn(&Path), remedy: fn(&Path)) {
    let folder = tempfile::tempdir().unwrap();
    copy_files(&golden_dir().join("llama"), folder.path());
    breaks(folder.path());
    let error = import(folder.path()).expect_err("the folder is broken");
    let report = failure::Error::from(error).report();
    let hints: Vec<&str> = report.lines().filter(|line| line.starts_with("hint: ")).collect();
    assert!(hints.len() == 1 && hints[0].contains(hint), "`{hint}` is not the hint of {report}");
    remedy(folder.path());
    if let Err(error) = import(folder.path()) {
        panic!("`{hint}`: {}", failure::Error::from(error).report());
    }
}

/// Takes a file of the golden model once more.
fn again(folder: &Path, name: &str) {
    fs_err::copy(golden_dir().join("llama").join(name), folder.join(name)).unwrap();
}

#[test]
fn hints_about_weights() {
    let weights = |folder: &Path| again(folder, "model.safetensors");
    check(
        "the file is damaged or was not written as safetensors; download or copy it again",
        |folder| {
            let bytes = fs_err::read(folder.join("model.safetensors")).unwrap();
            write(folder, "model.safetensors", &bytes[..bytes.len() - 5]);
        },
        weights,
    );
    check(
        "the weights are damaged, or overflowed when they were made",
        |folder| {
            let mut bytes = fs_err::read(folder.join("model.safetensors")).unwrap();
            let end = bytes.len();
            bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
            write(folder, "model.safetensors", bytes);
        },
        weights,
    );
    check(
        "wide floats can be stored as float32: `model.float().save_pretrained(folder)`",
        |folder| {
            let tensors: Vec<Stored> = read(&folder.join("model.safetensors"))
                .into_iter()
                .map(|(layout, bytes)| {
                    let wide = bytes.chunks_exact(4).flat_map(|four| {
                        let number = f32::from_le_bytes(four.try_into().unwrap());
                        f64::from(number).to_le_bytes()
                    });
                    (TensorLayout { dtype: Dtype::F64, ..layout }, wide.collect())
                })
                .collect();
            common::write(&folder.join("model.safetensors"), &tensors);
        },
        weights,
    );
    check(
        "convert the model on a machine where you trust it",
        |folder| {
            remove(folder, "model.safetensors");
            write(folder, "pytorch_model.bin", "pickle");
        },
        weights,
    );
    check("give a folder in the Hugging Face layout", |folder| remove(folder, "model.safetensors"), weights);
}

#[test]
fn hints_about_shards() {
    check(
        "get the missing files from the source of the other files",
        |folder| {
            shard(folder);
            fs_err::rename(folder.join(TWO), folder.join("two")).unwrap();
        },
        |folder| fs_err::rename(folder.join("two"), folder.join(TWO)).unwrap(),
    );
    check(
        "get the missing files and `model.safetensors.index.json`",
        |folder| {
            shard(folder);
            fs_err::rename(folder.join(TWO), folder.join("two")).unwrap();
            remove(folder, "model.safetensors.index.json");
        },
        |folder| fs_err::rename(folder.join("two"), folder.join(TWO)).unwrap(),
    );
    check(
        "index and shards come from different versions of the model; get the whole folder again",
        |folder| {
            shard(folder);
            set(
                folder,
                "model.safetensors.index.json",
                "weight_map",
                json!({"lm_head.weight": ONE, "x": TWO}),
            );
        },
        |folder| {
            for name in [ONE, TWO, "model.safetensors.index.json"] {
                remove(folder, name);
            }
            again(folder, "model.safetensors");
        },
    );
    check(
        "the file is damaged; download or copy it again",
        |folder| {
            shard(folder);
            set(folder, "model.safetensors.index.json", "weight_map", json!({}));
        },
        // Complete shards need no index.
        |folder| remove(folder, "model.safetensors.index.json"),
    );
}

#[test]
fn hints_about_settings_and_tokenizers() {
    let config = |folder: &Path| again(folder, "config.json");
    check(
        "the file is damaged; download or copy it again",
        |folder| write(folder, "config.json", "{\"model_type\": "),
        config,
    );
    check(
        "give the folder of a model; this is another `config.json`",
        |folder| write(folder, "config.json", "{\"pipeline\": 1}"),
        config,
    );
    check(
        "write the number that `tokenizer.json` gives the token, or remove the key",
        |folder| write(folder, "generation_config.json", "{\"eos_token_id\": [\"<eos>\"]}"),
        |folder| write(folder, "generation_config.json", "{\"eos_token_id\": [1]}"),
    );
    check("supported types are `", |folder| set(folder, "config.json", "model_type", json!("mamba")), config);
    check(
        "if these do not, remove them from a copy of config.json",
        |folder| set(folder, "config.json", "next_idea", json!(2)),
        config,
    );
    check(
        "take config.json and weights from the same model",
        |folder| set(folder, "config.json", "num_hidden_layers", json!(9)),
        config,
    );
    check(
        "the file is damaged, or its format is newer than this program; download or copy it again",
        |folder| set(folder, "tokenizer.json", "model", json!({"type": "Next"})),
        |folder| again(folder, "tokenizer.json"),
    );
    check(
        "make a fast tokenizer from `tokenizer.model`",
        |folder| {
            remove(folder, "tokenizer.json");
            write(folder, "tokenizer.model", "sentencepiece");
        },
        |folder| again(folder, "tokenizer.json"),
    );
    check(
        "`AutoTokenizer.from_pretrained(folder).save_pretrained(folder)` in transformers",
        |folder| write(folder, "added_tokens.json", "{\"<tool>\": 384}"),
        |folder| write(folder, "added_tokens.json", "{}"),
    );
    for name in
        ["tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "added_tokens.json"]
    {
        let folder = tempfile::tempdir().unwrap();
        copy_files(&golden_dir().join("llama"), folder.path());
        write(folder.path(), name, "[]");
        let error = import(folder.path()).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("expected a map"), "{error}");
    }
}

#[test]
fn hints_about_places() {
    let missing = Path::new("/nowhere/at/all");
    let report = failure::Error::from(import(missing).unwrap_err()).report();
    assert!(report.contains("hint: give the folder with `config.json`, `tokenizer.json` and"), "{report}");
    for inside in ["checkpoint-500", "snapshots/0123abc"] {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join(inside);
        copy_files(&golden_dir().join("llama"), &model);
        fs_err::create_dir_all(folder.path().join("checkpoint-60")).unwrap();
        write(folder.path(), "trainer_state.json", "{}");
        let report = failure::Error::from(import(folder.path()).unwrap_err()).report();
        let hint = format!("hint: a folder in it has a model: give `{}`", model.display());
        assert!(report.contains(&hint), "{report}");
        import(&model).unwrap();
    }
    check(
        "pass this folder to other stages with `--adapters`",
        |folder| {
            remove(folder, "model.safetensors");
            write(folder, "adapter_model.safetensors", "");
            write(folder, "adapter_config.json", "{\"peft_type\": \"LORA\"}");
        },
        |folder| again(folder, "model.safetensors"),
    );
}

#[test]
fn hints_about_gguf_files() {
    let folder = tempfile::tempdir().unwrap();
    let report = || failure::Error::from(import(folder.path()).unwrap_err()).report();
    let put = |name: &str| {
        fs_err::copy(golden_dir().join("gguf/qwen2.gguf"), folder.path().join(name)).unwrap();
    };
    let names = ["tiny-00001-of-00002.gguf", "tiny-00002-of-00002.gguf"];
    for name in names {
        put(name);
    }
    let said = report();
    assert!(said.contains("the GGUF files are parts of a model: `tiny-00001-of-00002.gguf`, "), "{said}");
    let merge = "hint: merge the parts, and use the merged file: `llama-gguf-split --merge 'tiny-00001-of-00002.gguf' 'tiny.gguf'`";
    assert!(said.contains(merge), "{said}");
    // A part is not a model.
    put("tiny.gguf");
    let said = report();
    assert!(
        said.contains("hint: name one of them: `--model-dir '") && said.contains("/tiny.gguf'`"),
        "{said}"
    );
    for name in names {
        remove(folder.path(), name);
    }
    import(folder.path()).unwrap();
    put("other.gguf");
    assert!(report().contains("there are several GGUF files: `other.gguf`, `tiny.gguf`"));
}
