//! Models that are written as GGUF and those that are refused. `make interop-full` checks that llama.cpp reads the files.

use std::path::Path;

use anyhow::{Context as _, Result};
use failure::Kind;
use fuse::gguf::{self, Gguf};
use serde_json::{Value, json};
use tempfile::TempDir;
use testutil::golden;

/// A copy of a golden model with another `file`.
fn changed(name: &str, file: &str, change: impl FnOnce(&mut Value)) -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    for entry in fs_err::read_dir(golden(name))? {
        let entry = entry?;
        fs_err::copy(entry.path(), folder.path().join(entry.file_name()))?;
    }
    let path = folder.path().join(file);
    let mut json: Value = serde_json::from_str(&fs_err::read_to_string(&path)?)?;
    change(&mut json);
    fs_err::write(&path, json.to_string())?;
    Ok(folder)
}

fn refused(folder: &Path, word: &str) {
    let error =
        gguf::check(folder).err().unwrap_or_else(|| panic!("{word}: `{}` was accepted", folder.display()));
    let text = error.report();
    assert!(text.contains(word) && text.contains("cannot be written as GGUF"), "{word}: {text}");
    assert!(text.contains("hint: ") && error.kind() == Kind::BadInput, "{word}: {text}");
}

#[test]
fn supported_models_pass_even_if_they_are_quantized() -> Result<()> {
    for name in ["llama", "llama3-rope", "llama-q4", "mistral", "qwen2", "qwen3", "gemma3", "gemma3_text"] {
        gguf::check(&golden(name)).context(name)?;
    }
    Ok(())
}

#[test]
fn models_that_llama_cpp_would_misread_are_refused_with_a_hint() -> Result<()> {
    for name in ["phi3", "gemma2", "cohere"] {
        refused(&golden(name), name);
    }
    let tokenizer = |change: fn(&mut Value)| changed("llama", "tokenizer.json", change);
    refused(tokenizer(|it| it["model"]["type"] = json!("Unigram"))?.path(), "`Unigram`");
    refused(tokenizer(|it| it["normalizer"] = json!({"type": "Lowercase"}))?.path(), "`Lowercase`");
    let marks = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let both = json!({"type": "Sequence", "normalizers": [marks, {"type": "NFKC"}]});
    let folder = changed("gemma3_text", "tokenizer.json", |it| it["normalizer"] = both)?;
    refused(folder.path(), "`NFKC`");
    let split = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+"}, "behavior": "Isolated"},
        {"type": "ByteLevel", "use_regex": false},
    ]});
    let folder = changed("llama", "tokenizer.json", |it| it["pre_tokenizer"] = split)?;
    refused(folder.path(), "splits words");
    let factors = [1.0; 6];
    let longrope = json!({
        "type": "su", "short_factor": factors, "long_factor": factors, "original_max_position_embeddings": 256,
    });
    let folder = changed("llama", "config.json", |it| it["rope_scaling"] = longrope)?;
    refused(folder.path(), "`su`");
    let kinds = json!(["full_attention", "full_attention", "sliding_attention"]);
    let folder = changed("gemma3_text", "config.json", |it| it["layer_types"] = kinds)?;
    refused(folder.path(), "layer_types");
    Ok(())
}

#[test]
fn a_window_that_llama_cpp_does_not_support_limits_the_context() -> Result<()> {
    let context = |window: Value| -> Result<u32> {
        let folder = changed("mistral", "config.json", |it| it["sliding_window"] = window)?;
        let out = folder.path().join("model.gguf");
        gguf::export(folder.path(), Gguf::Q8_0, &out)?;
        let bytes = fs_err::read(&out)?;
        let key = b"llama.context_length";
        let at =
            bytes.windows(key.len()).position(|part| part == key).context("no such key")? + key.len() + 4;
        Ok(u32::from_le_bytes(bytes[at..at + 4].try_into()?))
    };
    assert_eq!((context(json!(48))?, context(Value::Null)?), (48, 512));
    Ok(())
}
